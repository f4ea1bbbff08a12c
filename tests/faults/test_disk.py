"""The disk is full, read-only or closed, a file vanishes, the clock jumps: one sentence; afterwards the same command goes on.

A full disk is made in two ways: a small tmpfs, where this process may mount one, and everywhere a limit on the length of
a file, which the system refuses with an error of its own (EFBIG).
"""

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import yaml
from conftest import TINY, photos
from test_kill import content, lesson

import dumenet
from dumenet import experiment, features, plots
from dumenet.cli import main
from dumenet.config import make_config
from dumenet.data import make_factory
from dumenet.errors import DumenetError
from dumenet.features import Backbone, extract
from dumenet.results import write_atomic

TABLE = "reproduce --table mvtec --data photos --method Gaussian --set all.features.image_size=64 all.features.weights=random"
FULL = "FAULTS" in os.environ
MOMENTS = (0.05, 0.3, 0.5, 0.7, 0.95) if FULL else (0.5,)  # how much of what is written fits


def command(line):
    return lambda: main(line.split())


def factory():
    make_factory("data/factory", seed=1, categories="cap", train=3, test_good=1, per_defect=1, size=64)
    return 0


def figure():
    figure, axes = plt.subplots()
    axes.plot([0, 1], [1, 0])
    try:
        plots.save(figure, "line", Path("figures"))
    finally:
        plt.close(figure)
    return 0


WORKS = {  # what it writes: the work, what has to be there before
    "data set": (factory, None), "index": (command("data index photos"), None),
    "features, states, checkpoint, results": (command("train --config tiny.yaml --data photos"), None),
    "heatmaps and verdicts": (command("predict checkpoint.pt photos/bolt/test --out out"), "train --config tiny.yaml --data photos"),
    "figure": (figure, None), "job of a table": (command(TABLE), None), "executed lesson": (command("reproduce"), "lesson"),
}  # fmt: skip


def prepare(home, before):
    """A folder with photographs, and what the work needs."""
    photos(home)
    (home / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    with within(home):
        if before == "lesson":
            lesson(home / "notebooks" / "00_lesson.ipynb", 0)
        elif before:
            assert main(before.split()) == 0
            shutil.copy(next(home.glob("build/runs/*/checkpoint.pt")), "checkpoint.pt")


@contextmanager
def within(folder):
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def left(home):
    """What the work leaves, without what may differ between two runs; and no temporary file."""
    assert not [p for p in home.rglob(".*") if p.suffix in (".tmp", ".part")]
    found = content(home)
    for path in [p for name in ("out", "figures", "photos") for p in (home / name).rglob("*") if p.is_file()]:
        found[path.relative_to(home).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def written(home):
    return {p: p.stat().st_size for p in home.rglob("*") if p.is_file()}


@pytest.fixture(scope="module", params=WORKS)
def work(request):
    """A work, what is to be there before, what it leaves undisturbed; bytes written in all, and in its largest file."""
    do, before = WORKS[request.param]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        prepare(home, before)
        known = written(home)
        with within(home):
            assert do() == 0
        made = [size for path, size in written(home).items() if path not in known]
        yield do, before, left(home), sum(-(-size // 4096) * 4096 for size in made), max(made)


@pytest.fixture
def disk():
    """A small disk of its own."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64m,mode=755", "tmpfs", folder], capture_output=True
        ).returncode:
            pytest.skip("mounting a tmpfs is not allowed here; the other way of a full disk is tested")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "-l", folder], check=True)


def sentence(do, capfd):
    """The one sentence with which the work ends."""
    capfd.readouterr()
    try:
        assert do() != 0
    except DumenetError as error:
        return str(error)
    out, error = capfd.readouterr()
    assert "Traceback" not in out + error
    (line,) = {
        x for x in (out + "\n" + error).replace("\r", "\n").splitlines() if "Cannot " in x or "DumenetError" in x
    }
    return line


def goes_on(do, home, expected):
    with within(home):
        assert do() == 0
    assert left(home) == expected


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_full_disk(work, disk, moment, capfd):
    do, before, expected, needed, _ = work
    prepare(disk, before)
    space = os.statvfs(disk)
    free = space.f_bavail * space.f_frsize - int(moment * needed) // 4096 * 4096
    with open(disk / "filler", "wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, free)
    with within(disk):
        said = sentence(do, capfd)
    assert "No space left on device" in said and "free some space" in said and "same command" in said, said
    (disk / "filler").unlink()
    goes_on(do, disk, expected)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_file_that_may_not_grow(work, tmp_path, moment, capfd):
    do, before, expected, _, largest = work
    prepare(tmp_path, before)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(moment * largest), hard))
    try:
        with within(tmp_path):
            said = sentence(do, capfd)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "File too large" in said and "free some space" in said, said
    goes_on(do, tmp_path, expected)


def test_a_read_only_disk(work, disk, capfd):
    do, before, expected, *_ = work
    prepare(disk, before)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with within(disk):
        said = sentence(do, capfd)
    assert "Read-only file system" in said and "writable" in said, said
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    goes_on(do, disk, expected)


def test_a_folder_without_permission(work, capfd):
    """Root is let in everywhere, so root becomes nobody for a while."""
    do, before, expected, *_ = work
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        prepare(home, before)
        folders = [home, *(p for p in home.rglob("*") if p.is_dir())]
        for one in folders:
            one.chmod(0o555)
        with within(home):
            if os.geteuid() == 0:
                os.seteuid(65534)
            try:
                if not os.access(Path(dumenet.__file__), os.R_OK, effective_ids=True):
                    pytest.skip("the checkout lies where nobody but root may read")
                said = sentence(do, capfd)
            finally:
                os.seteuid(os.getuid())
        assert "Permission denied" in said and "writable" in said, said
        for one in folders:
            one.chmod(0o755)
        goes_on(do, home, expected)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has it")
def test_an_output_that_cannot_be_written():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "dumenet.cli", "--help"], stdout=full, stderr=subprocess.PIPE, text=True
        )
        assert "Traceback" not in done.stderr
        called = (
            "from dumenet import cli; cli._doctor = lambda args: print('x'); raise SystemExit(cli.main(['doctor']))"
        )
        done = subprocess.run([sys.executable, "-c", called], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "Cannot use the output (No space left on device): free some space" in done.stderr


# --- files that vanish


@pytest.fixture
def home(tmp_path, monkeypatch):
    prepare(tmp_path, None)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tiny(**overrides):
    return make_config(**{f"{s}__{k}": v for s, group in TINY.items() for k, v in group.items()} | overrides)


TRAIN = "train --config tiny.yaml --data photos"


@pytest.mark.parametrize("step", ["content_key", "_read_ahead", "load_mask"])
def test_an_image_vanishes_between_listing_and_reading(home, monkeypatch, capfd, step):
    """Before it is hashed, before it is decoded; its mask before it is compared."""
    victim = home / (
        "photos/bolt/ground_truth/hole/012_mask.png" if step == "load_mask" else "photos/felt/train/good/005.png"
    )
    kept, room = victim.read_bytes(), experiment if step == "load_mask" else features
    read = getattr(room, step)

    def late(*arguments):
        victim.unlink(missing_ok=True)
        return read(*arguments)

    monkeypatch.setattr(room, step, late)
    assert main(TRAIN.split()) == 2
    assert victim.name in capfd.readouterr().err
    monkeypatch.setattr(room, step, read)
    victim.write_bytes(kept)
    assert main(TRAIN.split()) == 0


def test_an_image_vanishes_before_its_verdict(home, monkeypatch):
    from dumenet import predict

    assert main(TRAIN.split()) == 0
    checkpoint, read = next(home.glob("build/runs/*/checkpoint.pt")), predict.load_image

    def late(sample, size):
        if sample.name == "009.png":
            sample.source.unlink()
        return read(sample, size)

    monkeypatch.setattr(predict, "load_image", late)
    rows = predict.predict(checkpoint, home / "photos/felt/test/good", home / "out")
    assert [row["verdict"] == "unreadable" for row in rows] == [False, True, False]


@pytest.mark.parametrize("fault", ["deleted", "cut short"])
def test_a_cache_file_in_use(home, fault):
    backbone = Backbone(tiny().features)
    samples = experiment.load_data(tiny(data__source="photos")).train
    used = extract(samples, backbone, "cache", progress=False)
    expected = used.batch(np.arange(len(used)))
    file = next(Path("cache").glob("*/features.f16"))
    if fault == "deleted":  # what is mapped stays
        file.unlink()
        assert used.batch(np.arange(len(used))).equal(expected)
    else:
        os.truncate(file, 100)
        with pytest.raises(DumenetError, match="cut short while it was read: run the same command again"):
            used.batch(np.arange(len(used)))
    again = extract(samples, backbone, "cache", progress=False)
    assert again.batch(np.arange(len(again))).equal(expected)


@pytest.mark.parametrize("what", ["build/runs/*", "build/runs/*/state.pt", "build/cache"])
def test_states_and_caches_vanish_while_training(home, monkeypatch, what):
    assert main(TRAIN.split()) == 0
    expected = left(home)
    shutil.rmtree("build")
    train = experiment.train

    def gone(epoch, model):
        for path in home.glob(what):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    monkeypatch.setattr(experiment, "train", lambda *a, **k: train(*a, **k, on_epoch=gone))
    assert main(TRAIN.split()) == 0
    found = left(home)
    index = {k: v for k, v in expected.items() if k.endswith("index.jsonl")}
    assert {k: v for k, v in found.items() if k not in index} == {k: v for k, v in expected.items() if k not in index}


def test_a_finished_checkpoint_vanishes(home):
    assert main(TRAIN.split()) == 0
    expected = left(home)
    next(home.glob("build/runs/*/checkpoint.pt")).unlink()
    goes_on(command(TRAIN), home, expected)


# --- clocks


@pytest.mark.parametrize("year", [1970, 2100])
def test_times_of_files_decide_nothing(home, year, monkeypatch, capfd):
    """What is done is found again whatever its date; an image that changes under its old date and length is seen."""
    lesson(home / "notebooks" / "00_lesson.ipynb", 0)
    assert main(TRAIN.split()) == 0 and main(["reproduce"]) == 0
    expected = left(home)
    when = (year - 1970) * 365.25 * 86400
    for path in home.rglob("*"):
        os.utime(path, (when, when))
    monkeypatch.setattr(features, "_compute", lambda *_: pytest.fail("computed again"))
    capfd.readouterr()
    goes_on(command(TRAIN), home, expected)
    goes_on(command("reproduce"), home, expected)
    assert "unchanged, kept" in "".join(capfd.readouterr())
    monkeypatch.undo()
    with within(home):
        image = home / "photos/felt/test/good/008.png"
        shutil.copy(home / "photos/felt/test/good/009.png", image)
        os.utime(image, (when, when))
        assert main(TRAIN.split()) == 0
    assert left(home) != expected


def test_a_clock_that_jumps(home, monkeypatch):
    """Back by a year each time it is asked."""
    assert main(TRAIN.split()) == 0
    expected, now = left(home), [time.time()]
    shutil.rmtree("build")
    lesson(home / "notebooks" / "00_lesson.ipynb", 0)

    def clock():
        now[0] -= 3e7
        return now[0]

    monkeypatch.setattr(time, "time", clock)
    assert main(TRAIN.split()) == 0
    assert left(home) == expected
    monkeypatch.undo()
    (record,) = [json.loads(p.read_text()) for p in (home / "data" / "results").glob("photos*.json")]
    assert all(0 <= s < 600 for s in record["seconds"].values())


# --- what killed writers leave


def test_the_next_writer_takes_what_a_killed_one_left(tmp_path):
    dies = "import os, sys; from pathlib import Path; from dumenet import results\n"
    dies += "results.os.fsync = lambda fd: os.kill(os.getpid(), 9)\nresults.write_atomic(Path(sys.argv[1]), b'half')"
    for _ in range(2):
        subprocess.run([sys.executable, "-c", dies, tmp_path / "a.json"])
        assert len(list(tmp_path.iterdir())) == 1  # however often
    write_atomic(tmp_path / "a.json", b"whole")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"] and (tmp_path / "a.json").read_bytes() == b"whole"


def test_writers_of_one_file_do_not_disturb_each_other(tmp_path):
    contents = [bytes([i]) * 50_000 for i in range(8)]

    def write(data):
        for _ in range(25):
            write_atomic(tmp_path / "a", data)
            assert (tmp_path / "a").read_bytes() in contents

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, contents))
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_data_set_whose_maker_is_killed_is_made_by_the_one_that_waits(tmp_path):
    code = "import sys, time, dumenet.data.factory as factory; render = factory.render\n"
    code += "factory.render = lambda *given: (print(flush=True), time.sleep(0.2), render(*given))[2]\n"
    code += "factory.make_factory(sys.argv[1], categories='cap', train=2, test_good=1, per_defect=1, size=64)"
    workers = []
    try:
        for _ in range(2):
            workers.append(subprocess.Popen([sys.executable, "-c", code, tmp_path / "f"], stdout=subprocess.PIPE))
            workers[0].stdout.readline()  # the first one is drawing
        assert {p.name for p in tmp_path.iterdir()} == {".f.lock", ".f.part"}
        workers[0].kill()
        workers[1].communicate(timeout=120)
        assert workers[1].returncode == 0
        assert {p.name for p in tmp_path.iterdir()} == {".f.lock", "f"}
        assert len(list((tmp_path / "f").rglob("*.png"))) == 2 + 1 + 5 + 5
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
