"""Many jobs, by one process or two, and many steps: every result comes, memory stays flat, no process is left.

`make test` runs 40 jobs by two processes and 300 steps, `make faults` 1,000 jobs by one and by two, and 10,000 steps
(FAULTS is set).
"""

import gc
import json
import os
import threading

import numpy as np
import psutil
import pytest
from conftest import photos
from test_kill import TABLE

from dumenet.cli import main
from dumenet.train import train

JOBS, STEPS = (1000, 10_000) if "FAULTS" in os.environ else (40, 300)
LEAK = 40 if "FAULTS" in os.environ else 200  # kB that each job may add: over a few jobs a process still warms up
COMMAND = f"{TABLE} --method Gaussian"


def memory(process):
    """MB that a process holds; None if it has ended."""
    try:
        return process.memory_info().rss / 1e6
    except psutil.Error:
        return None


def children():
    """Processes that this one has started, and theirs; without Python's own resource tracker, which lives as long."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        try:
            found |= set() if "resource_tracker" in " ".join(process.cmdline()) else {process}
        except psutil.Error:
            continue  # ended meanwhile
    return found


def growth(seen):
    """kB a job: median memory in the second half of the jobs against the first, whose first quarter is warming up.

    Args:
        seen: (jobs done, MB) of one process.
    """
    done, mb = np.array(seen).T
    late = done > done[-1] / 2
    early = ~late & (done > done[-1] / 8)
    return 1000 * (np.median(mb[late]) - np.median(mb[early])) / (np.median(done[late]) - np.median(done[early]))


def test_a_leak_is_seen():
    noise = np.random.default_rng(0).normal(0, 1, 400)
    flat = [(i, 900 + noise[i] - 50 * (i < 20)) for i in range(400)]
    assert abs(growth(flat)) < 5
    assert growth([(i, mb + 0.05 * i) for i, mb in flat]) == pytest.approx(50, abs=5)


@pytest.mark.parametrize("workers", [0, 2] if "FAULTS" in os.environ else [2])
def test_many_small_jobs(tmp_path, monkeypatch, workers):
    photos(tmp_path)
    monkeypatch.chdir(tmp_path)
    before, seen, over = children(), {}, threading.Event()

    def watch():
        while not over.wait(0.2):
            done = len(list(tmp_path.glob("data/results/*.json"))) / max(workers, 1)
            for process in children() - before if workers else [psutil.Process()]:
                if mb := memory(process):
                    seen.setdefault(process.pid, []).append((done, mb))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        assert main([*COMMAND.split(), "--workers", str(workers), "--seed", *map(str, range(JOBS))]) == 0
    finally:
        over.set()
        watcher.join()
    records = [json.loads(path.read_text()) for path in tmp_path.glob("data/results/*.json")]
    assert sorted(record["seed"] for record in records) == list(range(JOBS))
    longest = max(map(len, seen.values()))
    grown = [growth(values) for values in seen.values() if len(values) > longest / 2]  # not git, which ends at once
    assert len(grown) == max(workers, 1) and max(grown) < LEAK, f"grown by {grown} kB a job"
    _, alive = psutil.wait_procs(children() - before, timeout=5)
    assert not alive


def test_many_short_steps_in_flat_memory(tiny, make_features, tmp_path, monkeypatch):
    monkeypatch.setattr("dumenet.train.STATES", 10)  # written to the disk, which takes longer than the steps
    seen = []

    def look(epoch, model):
        if (epoch + 1) % (STEPS // 30) == 0:
            gc.collect()
            seen.append(memory(psutil.Process()))

    config = tiny(train__epochs=STEPS // 3)
    trained = train(config, make_features(), (3, 5), tmp_path / "state.pt", look, progress=False)
    assert len(trained.history["loss"]) == STEPS // 3 and max(seen[-3:]) < max(seen[:3]) + 20, seen
