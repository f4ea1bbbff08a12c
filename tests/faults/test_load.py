"""Many jobs and many steps: every result comes, memory stays flat, no process is left.

`make test` runs 40 jobs and 600 steps, `make faults` 1,000 and 10,000 (FAULTS is set).
"""

import gc
import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import photos

from dumenet.data import Dataset
from dumenet.experiment import Folders
from dumenet.paper import jobs
from dumenet.train import train

FULL = "FAULTS" in os.environ
JOBS, STEPS = (1000, 10_000) if FULL else (40, 600)
WORKERS = 2
LEAK = 40 if FULL else 200  # kB a job that a worker may grow by: over a few jobs a worker still warms up
LEAK_HERE = 20  # the same without Dask, whose logs grow until they are full
CHOSEN = {
    "all.features.image_size": 64,
    "all.features.backbone": "mobilenetv3_small_050",
    "all.features.weights": "random",
}

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
    """MB that a process holds; None if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1000 for line in lines if line.startswith("VmRSS:")), None)


def growth(seen):
    """kB a job: median memory in the second half of the jobs against the first, of which the first quarter is warming up.

    Args:
        seen: (jobs done, MB) of one process.
    """
    jobs = seen[-1][0]
    early = [(done, mb) for done, mb in seen if jobs / 8 < done <= jobs / 2]
    late = [(done, mb) for done, mb in seen if done > jobs / 2]
    (jobs_early, before), (jobs_late, after) = np.median(early, axis=0), np.median(late, axis=0)
    return 1000 * (after - before) / (jobs_late - jobs_early)


def test_a_leak_is_seen():
    noise = np.random.default_rng(0).normal(0, 1, 400)
    flat = [(i, 900 + noise[i] - 50 * (i < 20)) for i in range(400)]
    assert abs(growth(flat)) < 5
    assert growth([(i, mb + 0.05 * i) for i, mb in flat]) == pytest.approx(50, abs=5)


def test_a_job_leaves_nothing_in_its_process(tmp_path, monkeypatch):
    photos(tmp_path)
    monkeypatch.chdir(tmp_path)
    seen = []
    for i, job in enumerate(jobs.plan("mvtec", "photos", methods=("Gaussian",), seeds=range(64), overrides=CHOSEN), 1):
        assert jobs._requested(job.request(), Folders()) is None
        seen += [(i, resident())] if i % 4 == 0 else []  # to collect garbage takes as long as a job
    assert growth(seen) < LEAK_HERE, seen


def test_a_sweep_of_many_small_jobs(tmp_path, monkeypatch):
    photos(tmp_path)
    monkeypatch.chdir(tmp_path)
    wanted = jobs.plan("mvtec", "photos", methods=("Gaussian",), seeds=range(JOBS), overrides=CHOSEN)
    before, seen, over = below(os.getpid()), {}, threading.Event()

    def watch():
        while not over.wait(0.5):
            done = len(list(tmp_path.glob("data/results/*.json")))
            for pid in below(os.getpid()) - before:
                if mb := memory(pid):
                    seen.setdefault(pid, []).append((done / WORKERS, mb))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        assert jobs.run_jobs(wanted, progress=False, workers=WORKERS) == []
    finally:
        over.set()
        watcher.join()
    records = [json.loads(path.read_text()) for path in tmp_path.glob("data/results/*.json")]
    assert sorted(record["seed"] for record in records) == list(range(JOBS))
    longest = max(map(len, seen.values()))
    grown = [
        growth(values) for values in seen.values() if len(values) > longest / 2
    ]  # not git, which a worker asks for its commit
    assert len(grown) == WORKERS and max(grown) < LEAK, f"grown by {grown} kB a job"
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
        jobs._digests(Dataset("a", [], [], False))
    gc.collect()
    assert not [d for d in jobs._DIGESTS if d.name == "a"]
