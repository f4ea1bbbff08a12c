"""The plug is pulled: work killed with SIGKILL at a random moment, started again, ends as if nothing had happened.

`make test` kills each work once, `make faults` twenty times (FAULTS=20).
"""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import nbformat
import pytest
import torch

DRIVE = Path(__file__).with_name("drive.py")
TIMES = int(os.environ.get("FAULTS", 1))
VOLATILE = {"seconds", "machine", "peak_memory_mb"}  # of a record: what may differ between two runs of one thing
EPOCHS, BATCH = 6, 2  # of drive.py


def start(work, home):
    command = [sys.executable, str(DRIVE), work, str(home)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def finish(work, home):
    process = start(work, home)
    said = process.communicate(timeout=300)[1].decode()
    assert process.returncode == 0, said[-2000:]


def log(home):
    return (home / "log").read_text().splitlines() if (home / "log").exists() else []


def kill(work, home, seconds):
    """Start the work and kill it so long after its imports; it may have been quicker."""
    process, known = start(work, home), len(log(home))
    while process.poll() is None and "start" not in log(home)[known:]:
        time.sleep(0.01)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def content(home):
    """Everything that the work leaves, without what may differ."""
    found = {}
    for path in sorted(p for p in home.rglob("*") if p.is_file()):
        name = path.relative_to(home).as_posix()
        if path.suffix == ".json" and "results" in name:
            record = json.loads(path.read_text())
            found[name] = {k: v for k, v in record.items() if k not in VOLATILE}
        elif path.name == "checkpoint.pt":
            state = torch.load(path, weights_only=True)
            state["origin"].pop("seconds"), state.pop("earlier")
            weights = {k: hashlib.sha256(v.numpy().tobytes()).hexdigest() for k, v in state.pop("model").items()}
            found[name] = weights | {"rest": repr(state)}
        elif path.name == "index.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = {line["key"]: line["crc"] for line in lines}
            assert len(found[name]) == len(lines)
        elif name.startswith("data/factory"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def lesson(path, number):
    """A notebook that takes its time and writes a results file."""
    cells = [
        nbformat.v4.new_code_cell('profile = "quick"', metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(
            f"import time\nfrom pathlib import Path\nfrom dumenet.results import write_result\ntime.sleep({number})"
        ),
        nbformat.v4.new_code_cell(
            f'write_result(Path("../data/results/{number}.json"), {{"profile": profile, "lesson": {number}}})'
        ),
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.parent.mkdir(exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)


@pytest.fixture(scope="module", params=["data", "run", "table", "lessons"])
def work(request, tmp_path_factory):
    """A work, a function that makes a fresh home for it, what it leaves undisturbed, and its seconds after the imports."""
    from conftest import photos

    def home():
        folder = tmp_path_factory.mktemp(request.param)
        photos(folder)
        for number in range(2 if request.param == "lessons" else 0):
            lesson(folder / "notebooks" / f"0{number}_lesson.ipynb", number)
        return folder

    undisturbed = home()
    begun = time.time()
    finish(request.param, undisturbed)
    seconds = time.time() - max(begun, (undisturbed / "started").stat().st_mtime)
    yield request.param, home, content(undisturbed), seconds
    shutil.rmtree(undisturbed)


@pytest.mark.parametrize("moment", range(TIMES))
def test_a_killed_work_ends_as_if_undisturbed(work, moment):
    name, home, expected, seconds = work
    assert expected
    folder, chance = home(), random.Random(f"{name} {moment}")
    kill(name, folder, chance.uniform(0, seconds))
    finish(name, folder)
    assert content(folder) == expected
    done = Counter(log(folder))
    again = sum(n - 1 for line, n in done.items() if line.startswith("epoch"))
    assert again <= 1  # at most one checkpoint interval was done twice
    if name == "run":
        assert {f"epoch {e}" for e in range(EPOCHS)} <= set(done)
        images = sum(int(line.split()[1]) * n for line, n in done.items() if line.startswith("features"))
        assert images <= 28 + BATCH  # 16 to train on, 12 to test on; one batch of features at most was done twice
    shutil.rmtree(folder)


@pytest.mark.skipif("FAULTS" not in os.environ, reason="for `make faults`")
def test_killed_again_and_again(work):
    """Each start gets a little further, or at least loses nothing."""
    name, home, expected, seconds = work
    folder, chance = home(), random.Random(name)
    for _ in range(TIMES + 1):
        kill(name, folder, chance.uniform(0, seconds / 2))
    finish(name, folder)
    assert content(folder) == expected
    shutil.rmtree(folder)
