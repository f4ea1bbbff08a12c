"""Work that is killed with SIGKILL at a random moment and started again ends as if nothing had happened.

`make test` kills a run and a table once, `make faults` each work twenty times (FAULTS=20).
"""

import hashlib
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
import yaml
from conftest import TINY, photos

from dumenet.cli import main
from dumenet.data import make_factory
from dumenet.features import Backbone
from dumenet.methods import network

TIMES = int(os.environ.get("FAULTS", 1))
VOLATILE = {"cost", "seconds", "machine", "peak_memory_mb"}  # of a record: what differs between two runs of one thing
EPOCHS, BATCH, IMAGES = 20, 2, 28
TABLE = "reproduce --table mvtec --data photos --set features.backbone=mobilenetv3_small_050 features.weights=random"
TABLE += " features.image_size=64 features.grid=4"
WORKS = {
    "data": "factory",
    "run": f"train --config tiny.yaml --data photos --set train.epochs={EPOCHS} features.batch_size={BATCH}",
    "table": f"{TABLE} DuMeNet.model.hidden_dim=32 DuMeNet.train.epochs=4 device=cpu --method PaDiM DuMeNet"
    f" --seed {'0 1' if 'FAULTS' in os.environ else '0'}",
    "lessons": "reproduce",
}
CHOSEN = list(WORKS) if "FAULTS" in os.environ else ["run", "table"]
PROCESSES = multiprocessing.get_context("forkserver")  # forks of a process that has done nothing but these imports
PROCESSES.set_forkserver_preload(["dumenet.course.reproduce", "dumenet.paper.tables", "nbformat", "pytest"])


def lesson(path, seconds):
    """A notebook that takes its time and writes a results file."""
    path.parent.mkdir(exist_ok=True)
    code = f"import time\nfrom pathlib import Path\nfrom dumenet.results import write_result\ntime.sleep({seconds})\n"
    code += f'write_result(Path("../data/results/{path.stem}.json"), {{"profile": profile}})'
    cells = [
        nbformat.v4.new_code_cell('profile = "quick"', metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(code),
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)


def content(home):
    """What a work leaves, file by file, without what may differ between two runs."""
    found = {}
    for path in sorted(p for p in home.rglob("*") if p.is_file() and not p.name.endswith(".tmp")):
        name = path.relative_to(home).as_posix()
        if name.startswith("data/results") and path.suffix == ".json":
            found[name] = {k: v for k, v in json.loads(path.read_text()).items() if k not in VOLATILE}
        elif path.name == "checkpoint.pt":
            state = torch.load(path, weights_only=True)
            weights = b"".join(tensor.numpy().tobytes() for tensor in state["model"].values())
            found[name] = hashlib.sha256(weights).hexdigest(), state["thresholds"]
        elif path.suffix == ".npz":
            found[name] = np.load(path)["features"].tobytes()
        elif name.startswith(("data/", "figures/", "out/", "photos/")):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def note(text):
    """A line in the log of the work: at its start, for each batch of images that the backbone sees, for each epoch."""
    with open("log", "a") as log:
        log.write(f"{text}\n")
        log.flush()
        os.fsync(log.fileno())


def drive(home, command):
    """The work, in a process of its own; "factory" makes a small data set."""
    os.setsid()  # what it starts is killed with it
    os.environ.update(TQDM_DISABLE="1", CUDA_VISIBLE_DEVICES="")
    torch.set_num_threads(1)
    os.chdir(home)
    forward, train = Backbone.forward, network.train
    Backbone.forward = lambda self, images: (forward(self, images), note(f"images {len(images)}"))[0]
    network.train = lambda *given: train(*given[:4], lambda epoch, model: note(f"epoch {epoch}"), *given[5:])
    note("start")
    if command == "factory":
        make_factory(Path("data/factory"), seed=1, train=10, test_good=5, per_defect=1, size=64)
    else:
        sys.exit(main(command.split()))


def log(home):
    return (home / "log").read_text().splitlines() if (home / "log").exists() else []


def started(home, command):
    """The process, at the start of its work."""
    known, process = len(log(home)), PROCESSES.Process(target=drive, args=(home, command))
    process.start()
    while process.is_alive() and len(log(home)) == known:
        time.sleep(0.01)
    return process


def finish(home, command):
    """Seconds that the work takes."""
    process, begun = started(home, command), time.monotonic()
    process.join(300)
    assert process.exitcode == 0
    return time.monotonic() - begun


def kill(home, command, seconds):
    """Start the work and kill it so long after; it may have ended before."""
    process = started(home, command)
    process.join(seconds)
    if process.is_alive():
        os.killpg(process.pid, signal.SIGKILL)
    process.join()


@pytest.fixture(scope="module", params=CHOSEN)
def work(request, tmp_path_factory):
    """A work's name, a function that makes a fresh home for it, what it leaves undisturbed, and its seconds."""

    def make_home():
        home = tmp_path_factory.mktemp(request.param)
        photos(home)
        (home / "tiny.yaml").write_text(yaml.safe_dump(TINY))
        for number in range(2 if request.param == "lessons" else 0):
            lesson(home / "notebooks" / f"0{number}_lesson.ipynb", number)
        return home

    home = make_home()
    seconds = finish(home, WORKS[request.param])
    return request.param, make_home, content(home), seconds


@pytest.mark.parametrize("case", range(TIMES))
def test_a_killed_work_ends_as_if_undisturbed(work, case):
    """The first case of `make faults` is killed again and again: each start gets further, or at least loses nothing."""
    name, make_home, expected, seconds = work
    home, chance, kills = make_home(), random.Random(f"{name} {case}"), 1 if case else TIMES
    for _ in range(kills):
        kill(home, WORKS[name], chance.uniform(0, seconds / (1 if kills == 1 else 2)))
    finish(home, WORKS[name])
    assert len(expected) > 28 and content(home) == expected
    if name == "run":
        done = Counter(log(home))
        assert {f"epoch {e}" for e in range(EPOCHS)} <= done.keys()
        epochs = sum(n for line, n in done.items() if line.startswith("epoch"))
        images = sum(int(line.split()[1]) * n for line, n in done.items() if line.startswith("images"))
        assert epochs <= EPOCHS + kills and images <= IMAGES + kills * BATCH  # a kill costs an epoch or a batch at most
