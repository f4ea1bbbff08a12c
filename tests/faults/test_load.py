"""Many jobs, by one process or two, and many steps: every result comes, memory stays flat, no process is left.

`make test` runs 6 jobs, `make faults` 1,000, and 10,000 steps (FAULTS is set).
"""

import gc
import os
import threading

import numpy as np
import psutil
import pytest
from conftest import photos
from test_kill import TABLE, content

from dumenet.cli import main
from dumenet.train import train

EVERY = "FAULTS" in os.environ
JOBS, STEPS = 1000 if EVERY else 6, 10_000
LEAK = 40  # kB that each job may add: over a few jobs a process still warms up
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


def test_many_small_jobs(tmp_path, monkeypatch):
    """By this process and by two others, which leave the same records, tables and figures."""
    left = {}
    for workers in (0, 2):
        home = tmp_path / str(workers)
        photos(home)
        monkeypatch.chdir(home)
        before, seen, over = children(), {}, threading.Event()

        def watch(home=home, workers=workers, before=before, seen=seen, over=over):
            while not over.wait(0.2):
                done = len(list(home.glob("data/results/*.json"))) / max(workers, 1)
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
        left[workers] = content(home)
        if EVERY:
            longest = max(map(len, seen.values()))
            grown = [growth(values) for values in seen.values() if len(values) > longest / 2]  # not git, which ends
            assert len(grown) == max(workers, 1) and max(grown) < LEAK, f"grown by {grown} kB a job"
        assert not psutil.wait_procs(children() - before, timeout=5)[1]
    assert left[0] == left[2] and any(name.startswith("figures") for name in left[0])
    assert sorted(v["seed"] for name, v in left[0].items() if name.endswith(".json") and "results" in name) == list(
        range(JOBS)
    )


@pytest.mark.skipif(not EVERY, reason="left to `make faults`")
def test_many_short_steps_in_flat_memory(tiny, make_features, tmp_path):
    seen = []

    def look(epoch, model):
        if (epoch + 1) % (STEPS // 30) == 0:
            gc.collect()
            seen.append(memory(psutil.Process()))

    config = tiny(train__epochs=STEPS // 3)
    trained = train(config, make_features(), (3, 5), tmp_path / "state.pt", look, progress=False)
    assert len(trained.history["loss"]) == STEPS // 3 and max(seen[-3:]) < max(seen[:3]) + 20, seen
