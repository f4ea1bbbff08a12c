"""A full or closed disk, a vanished file, a wrong date: one sentence; then the same command goes on.

A disk is filled in two ways: a small tmpfs, where this process may mount one, and everywhere a limit on the length of a
file, which the system refuses with an error of its own (EFBIG).
"""

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

import pytest
import yaml
from conftest import TINY, photos
from test_kill import PROCESSES, TABLE, content, lesson

import dumenet
from dumenet import features, run
from dumenet.cli import main
from dumenet.data import factory as scenes
from dumenet.data import make_factory
from dumenet.errors import DumenetError
from dumenet.files import write_atomic
from dumenet.methods import network

TRAIN, JOB = "train --config tiny.yaml --data photos", f"{TABLE} --method Gaussian"
EVERY = "FAULTS" in os.environ  # `make faults` tries every fault on every work
SHARES = (0.05, 0.3, 0.5, 0.7, 0.95) if EVERY else (0.5,)  # how much of what is written fits


def factory():
    make_factory("data/factory", seed=1, categories="cap", train=3, test_good=1, per_defect=1, size=64)


WORKS = {  # what it writes -> a command or a function
    "data set": factory,
    "index": "data index photos",
    "features, states, checkpoint, results": TRAIN,
    "heatmaps and verdicts": "predict checkpoint.pt photos/bolt/test --out out",
    "job, table and figure": JOB,
    "executed lesson": "reproduce",
}


def do(work):
    return main(work.split()) if isinstance(work, str) else work() or 0


@contextmanager
def within(folder):
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def prepare(home, work=TRAIN):
    """Photographs, and what the work needs."""
    photos(home)
    (home / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    with within(home):
        if work == "reproduce":
            lesson(home / "notebooks" / "00_lesson.ipynb", 0)
        elif str(work).startswith("predict"):
            assert do(TRAIN) == 0
            shutil.copy(next(home.glob("build/runs/*/checkpoint.pt")), "checkpoint.pt")


def left(home):
    """What the work leaves; no temporary file among it."""
    assert not [p for p in home.rglob(".*") if p.suffix in (".tmp", ".part")]
    return content(home)


def goes_on(work, home, expected):
    with within(home):
        assert do(work) == 0
    assert left(home) == expected


# --- what the disk refuses


@contextmanager
def full(home, written, share):
    space = os.statvfs(home)
    fits = int(share * sum(-(-size // 4096) for size in written)) * 4096
    with open(home / "filler", "wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, space.f_bavail * space.f_frsize - fits)
    yield
    (home / "filler").unlink()


@contextmanager
def limited(home, written, share):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * max(written)), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def closed(home, *_):
    """Root may write everywhere, so root becomes nobody for a while."""
    folders = [home, *(p for p in home.rglob("*") if p.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    if os.geteuid() == 0:
        os.seteuid(65534)
    try:
        if not os.access(Path(dumenet.__file__), os.R_OK, effective_ids=True):
            pytest.skip("nobody but root may read this checkout")
        yield
    finally:
        os.seteuid(os.getuid())
        for folder in folders:
            folder.chmod(0o755)


FAULTS = {  # -> what the sentence says
    full: ("No space left on device", "free some space"),
    limited: ("File too large", "free some space"),
    closed: ("Permission denied", "writable"),
}


QUICK = {limited: [*WORKS.values()], full: [TRAIN, JOB], closed: [*WORKS.values()][:-1]}  # what `make test` tries


@pytest.fixture(scope="module", params=WORKS)
def work(request):
    """A work, what it leaves undisturbed, and the sizes of the files that it writes."""
    do_, sizes = WORKS[request.param], lambda: {p: p.stat().st_size for p in home.rglob("*") if p.is_file()}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        prepare(home, do_)
        before = sizes()
        with within(home):
            assert do(do_) == 0
        yield do_, left(home), [size for path, size in sizes().items() if path not in before]


@pytest.fixture
def place():
    """A folder that anybody may enter, outside of pytest's."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)
        subprocess.run(["umount", "-l", folder], capture_output=True)


@pytest.mark.parametrize(
    ("fault", "share"), [(f, s) for f in FAULTS for s in (SHARES if f in (full, limited) else SHARES[:1])]
)
def test_what_the_disk_refuses_is_one_sentence(work, place, fault, share, capfd):
    work, expected, written = work
    if not EVERY and work not in QUICK[fault]:
        pytest.skip("left to `make faults`")
    if fault is full:
        mount = ["mount", "-t", "tmpfs", "-o", "size=64m,mode=755", "tmpfs", place]
        if subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("mounting a tmpfs is not allowed here; the other faults are tested")
    prepare(place, work)
    capfd.readouterr()
    with fault(place, written, share), within(place):
        try:
            assert do(work) != 0
            output = "\n".join(capfd.readouterr()).replace("\r", "\n")
            assert "Traceback" not in output
            (said,) = {line for line in output.splitlines() if "Cannot " in line or "DumenetError" in line}
        except DumenetError as error:
            said = str(error)
    assert all(words in said for words in (*FAULTS[fault], "run the same command again")), said
    goes_on(work, place, expected)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has it")
def test_an_output_that_cannot_be_written():
    with open("/dev/full", "w") as out:
        command = [sys.executable, "-m", "dumenet.cli", "doctor", "--freeze"]
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "Cannot use the output (No space left on device): free some space" in done.stderr


# --- files that vanish


@pytest.fixture
def home(tmp_path, monkeypatch):
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_image_vanishes_between_listing_and_reading(home, capfd):
    for room, step, victim in (
        (features, "content_key", "photos/felt/train/good/005.png"),  # before it is hashed
        (features, "load_image", "photos/felt/train/good/005.png"),  # between hash and decoder
        (run, "load_mask", "photos/bolt/ground_truth/hole/012_mask.png"),
    ):
        victim, read = Path(victim), getattr(room, step)
        kept = victim.read_bytes()

        def late(*arguments, victim=victim, read=read):
            victim.unlink(missing_ok=True)
            return read(*arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(room, step, late)
            assert do(TRAIN) == 2 and victim.name in capfd.readouterr().err
        victim.write_bytes(kept)
    assert do(TRAIN) == 0


def test_states_caches_and_checkpoints_may_be_deleted(home, monkeypatch, capfd):
    """After training, and while it runs, which then ends with a sentence."""
    assert do(TRAIN) == 0
    expected, train = left(home), network.train
    next(home.glob("build/runs/*/checkpoint.pt")).unlink()
    goes_on(TRAIN, home, expected)
    shutil.rmtree("build")
    monkeypatch.setattr("dumenet.features.KEPT", 0)  # every epoch reads the cache
    clean = lambda *_: shutil.rmtree("build", ignore_errors=True)  # noqa: E731
    monkeypatch.setattr(network, "train", lambda *a: train(*a[:4], clean, *a[5:]))
    assert do(TRAIN) == 2 and "cache was damaged while it was read" in capfd.readouterr().err
    monkeypatch.setattr(network, "train", train)
    assert do(TRAIN) == 0 and left(home) == expected


def test_an_image_that_changes_under_its_old_date_is_seen(home):
    assert do(TRAIN) == 0
    expected, image = left(home), home / "photos/felt/test/good/008.png"
    when = image.stat().st_mtime_ns
    shutil.copy(home / "photos/felt/test/good/009.png", image)
    os.utime(image, ns=(when, when))
    assert do(TRAIN) == 0 and left(home) != expected


# --- two writers at once


def test_writers_of_one_file_do_not_disturb_each_other(tmp_path):
    contents = [bytes([i]) * 50_000 for i in range(8)]

    def write(data):
        for _ in range(25):
            write_atomic(tmp_path / "a", data)
            assert (tmp_path / "a").read_bytes() in contents

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, contents))
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def draw(folder, drawing):
    """Slowly, and `drawing` is set once it has begun."""
    render = scenes.render
    scenes.render = lambda *given: (drawing.set(), time.sleep(0.2), render(*given))[2]
    make_factory(folder, categories="cap", train=2, test_good=1, per_defect=1, size=64)


def test_a_data_set_whose_maker_is_killed_is_made_by_the_one_that_waits(tmp_path):
    drawing = [PROCESSES.Event(), PROCESSES.Event()]
    first, second = (PROCESSES.Process(target=draw, args=(tmp_path / "f", event), daemon=True) for event in drawing)
    first.start()
    assert drawing[0].wait(60)
    second.start()
    assert not drawing[1].wait(0.5) and {p.name for p in tmp_path.iterdir()} == {".f.lock", ".f.part"}
    first.kill()
    second.join(120)
    assert second.exitcode == 0 and {p.name for p in tmp_path.iterdir()} == {".f.lock", "f"}
    assert len(list((tmp_path / "f").rglob("*.png"))) == 2 + 1 + 5 + 5
