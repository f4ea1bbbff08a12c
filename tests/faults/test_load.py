"""Many jobs and many steps: every result comes, memory stays flat, no process is left.

`make test` runs 40 jobs and 600 steps, `make faults` 1,000 and 10,000 (FAULTS is set).
"""

import gc
import json
import os
import threading
import time
from pathlib import Path

import pytest
from conftest import photos

from dumenet import jobs
from dumenet.data import Dataset
from dumenet.train import train

FULL = "FAULTS" in os.environ
JOBS, STEPS = (1000, 10_000) if FULL else (40, 600)
CHOSEN = {"all.features.image_size": 64, "all.features.backbone": "mobilenetv3_small_050", "all.features.weights": "random"}

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory and children are read in /proc")


def resident():
    """MB that this process holds."""
    gc.collect()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1000


def below(pid):
    """Processes that this one has started, and theirs."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # ended meanwhile
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return {p for p in found - {pid} if not keeps_count(p)}


def keeps_count(pid):
    """Python's own resource tracker: one for each process, as long as that lives."""
    try:
        return b"resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def memory(pid):
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1000 for line in lines if line.startswith("VmRSS:")), 0.0)


def test_a_sweep_of_many_small_jobs(tmp_path, monkeypatch):
    photos(tmp_path)
    monkeypatch.chdir(tmp_path)
    wanted = jobs.plan("mvtec", "photos", methods=("Gaussian",), seeds=range(JOBS), overrides=CHOSEN)
    before, seen, over = below(os.getpid()), [], threading.Event()

    def watch():
        while not over.wait(0.5):
            seen.append((len(list(tmp_path.glob("data/results/*.json"))), max(map(memory, below(os.getpid())), default=0)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        assert jobs.run_jobs(wanted, progress=False, workers=2) == []
    finally:
        over.set()
        watcher.join()
    records = [json.loads(path.read_text()) for path in tmp_path.glob("data/results/*.json")]
    assert sorted(record["seed"] for record in records) == list(range(JOBS))
    early = max((mb for done, mb in seen if JOBS / 8 < done < JOBS / 2), default=0)
    late = max((mb for done, mb in seen if done >= JOBS / 2), default=0)
    assert late < early + 100, f"a worker grew from {early:.0f} to {late:.0f} MB"
    for _ in range(50):
        if below(os.getpid()) <= before:
            return
        time.sleep(0.1)
    said = [Path(f"/proc/{pid}/cmdline").read_bytes()[:200] for pid in below(os.getpid()) - before]
    pytest.fail(f"processes are left: {said}")


def test_many_short_steps_in_flat_memory(tiny, make_features, tmp_path):
    config, features = tiny(train__epochs=STEPS // 3), make_features()
    seen = {}

    def look(epoch, model):
        if (epoch + 1) % (STEPS // 30) == 0:
            seen[epoch + 1] = resident()

    trained = train(config, features, (3, 5), tmp_path / "state.pt", look, progress=False)
    assert len(trained.history["loss"]) == STEPS // 3
    values = list(seen.values())
    assert max(values[-3:]) < max(values[:3]) + 20, values


def test_a_data_set_is_let_go_of_after_its_job():
    for _ in range(5):
        jobs._fingerprint(Dataset("a", [], [], False))
    gc.collect()
    assert not [d for d in jobs._FINGERPRINTS if d.name == "a"]
