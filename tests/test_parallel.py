"""Several processes train one model: as one process would have, and not one of them is left hanging."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import TINY, photos

from dumenet import parallel
from dumenet.cli import main
from dumenet.config import make_config, to_dict
from dumenet.data import open_dataset
from dumenet.errors import DumenetError
from dumenet.score import score
from dumenet.experiment import Folders, run, run_name
from dumenet.models import build_model
from dumenet.paper import jobs, tables
from dumenet.checkpoint import load_checkpoint, save_checkpoint
from dumenet.train import train

EPOCHS = 40  # of the run that is killed
LIMIT = 150  # seconds that no run here may take, on a busy machine
cuda = torch.device("cuda")


class Place(parallel.Alone):
    """One of several processes, without the others."""

    def __init__(self, rank, world):
        super().__init__(torch.device("cpu"))
        self.global_rank, self.world_size = rank, world


@pytest.fixture
def started(monkeypatch):
    """The processes that `share` starts; they are killed after LIMIT seconds, so that no test waits for ever."""
    workers, real = [], subprocess.Popen
    timers = []

    def popen(command, *args, **kwargs):
        if "LOCAL_RANK" not in (kwargs.get("env") or ()):  # git, for a record
            return real(command, *args, **kwargs)
        workers.append(real(command, *args, **kwargs))
        timers.append(threading.Timer(LIMIT, workers[-1].kill))
        timers[-1].start()
        return workers[-1]

    monkeypatch.setattr(parallel.subprocess, "Popen", popen)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    yield workers
    for timer in timers:
        timer.cancel()


def maps(trained, features):
    with torch.no_grad():
        return torch.cat([trained.model(batch).anomaly_map for batch in features.batches(8)])


# --- who takes what


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [1, 2, 7, 8])
def test_every_image_is_taken_once_and_counts_the_same(world, size):
    losses = np.random.default_rng(0).random(size)
    taken = [parallel.part(Place(rank, world), size) for rank in range(world)]
    rows = [losses[part] for part, weight in taken if weight]
    assert np.array_equal(np.concatenate(rows), losses)
    mean = sum(losses[part].mean() * weight for part, weight in taken) / world
    assert mean == pytest.approx(losses.mean())
    assert all(len(losses[part]) for part, _ in taken)  # nobody is left without work: all must call the others


def test_one_process_does_what_it_did_before_there_could_be_several():
    assert parallel.part(Place(0, 1), 7) == (slice(0, 7), 1.0)
    assert isinstance(parallel.begin(make_config().train, torch.device("cpu")), parallel.Alone)


@pytest.mark.parametrize("name", ["dumenet", "uniad"])
@pytest.mark.parametrize("sizes", [(5, 2), (1, 2), (4, 3)])
def test_processes_share_the_noise_of_one(tiny, name, sizes):
    """If jitter and every dropout can be cut into rows, so can the result."""
    size, world = sizes
    torch.manual_seed(0)
    model = build_model(tiny(model__name=name, model__dropout=0.5).model, (3, 5), 4).train()
    batch = torch.randn(size, 8, 4, 4)

    def reconstruct(rank, world):
        place = Place(rank, world)
        rows, _ = parallel.part(place, size)
        parallel.reseed(place, 3)
        with parallel.noise(place, rows, size):
            return rows, model(batch[rows]).features

    _, whole = reconstruct(0, 1)
    _, other = reconstruct(0, 1)
    assert torch.equal(whole, other)
    for rank in range(world):
        rows, features = reconstruct(rank, world)
        assert torch.allclose(features, whole[rows], atol=1e-5)


# --- names


def test_the_number_of_processes_is_no_part_of_a_results_name(tiny, tree):
    dataset = open_dataset(str(tree))
    names = {run_name(tiny(train__devices=d, train__nodes=n), dataset) for d, n in ((1, 1), (2, 1), (1, 3))}
    assert len(names) == 1
    assert to_dict(make_config())["train"]["devices"] == 1


@pytest.mark.parametrize(("settings", "says"), [
    ({"train__devices": 0}, "devices must lie between 1 and"), ({"train__nodes": 0}, "nodes must lie between 1 and"),
    ({"train__devices": 2, "model__spatial_layout": "released"}, "reads across the images of a batch"),
    ({"train__devices": 2, "train__compile": True}, "train.compile does not go with several"),
    ({"train__nodes": 2}, "set NODE_RANK, MASTER_ADDR, MASTER_PORT before"),
])  # fmt: skip
def test_what_several_processes_cannot_do_is_said_before_one_starts(
    tiny, make_features, started, monkeypatch, settings, says
):
    for name in parallel.PLACE:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(DumenetError, match=f"^[^\n]*{says}[^\n]*$"):
        train(tiny(**settings), make_features(), (3, 5), progress=False)
    with pytest.raises(DumenetError, match="set at most that many"):
        parallel.check(tiny(train__devices=999), cuda)
    with pytest.raises(DumenetError, match="Nobody can look on"):
        train(tiny(train__devices=2), make_features(), (3, 5), on_epoch=print, progress=False)
    assert not started


def test_torchrun_is_refused_in_one_sentence(tree, tmp_path, capfd):
    """Each of its processes would train everything."""
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    words = ["-m", "dumenet.cli", "train", "--config", "tiny.yaml", "--data", str(tree)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    assert subprocess.run([*launcher, *words], cwd=tmp_path, timeout=LIMIT).returncode
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("dumenet: ")]
    assert said and all("torchrun has started this process" in line and "train.devices=N" in line for line in said)
    assert not (tmp_path / "build").exists()


def test_torchrun_is_refused_in_a_program_too(tiny, make_features, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    with pytest.raises(DumenetError, match="leave torchrun out"):
        train(tiny(), make_features(), (3, 5), progress=False)


@pytest.mark.parametrize(
    ("tasks", "nodes", "fine"),
    [("2", 1, False), ("4", 2, False), ("1", 2, False), ("2", 2, True), ("1", 1, True), ("", 1, True)],
)
def test_slurm_starts_one_task_a_machine(monkeypatch, tasks, nodes, fine):
    monkeypatch.delenv("NODE_RANK", raising=False)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", tasks)
    if fine:
        parallel.check_start(nodes)
    else:
        with pytest.raises(DumenetError, match="--ntasks-per-node=1"):
            parallel.check_start(nodes)


def test_a_gaussian_needs_no_company(tiny, make_features, started):
    one, two = (train(tiny(model__name="gaussian", train__devices=d), make_features(), (3, 5)) for d in (1, 2))
    assert torch.equal(one.model.mean, two.model.mean) and not started


# --- start, watch, end


WORKER = """
import os, sys, time
from pathlib import Path
from dumenet import parallel
from dumenet.paper import jobs, tables
from dumenet.errors import DumenetError
def work(folder):
    {}
parallel.work(work, Path(sys.argv[1]))
"""
QUICK = """
import json, os, sys, time
from pathlib import Path
rank, folder = int(os.environ["LOCAL_RANK"]), Path(sys.argv[1])
def fail(text):  # as `parallel.work` does, which takes a second to import
    (folder / f"error-{{rank}}.json").write_text(json.dumps({{"sentence": "", "traceback": text}}))
    os._exit(2)
{}
"""
ENDS = {
    "well": (QUICK, "pass", None, ""),
    "says why": (WORKER, "raise DumenetError('A clear sentence.')", DumenetError, "^A clear sentence.$"),
    "unforeseen": (QUICK, "fail('Traceback\\nIndexError: list index') if rank else time.sleep(99)", RuntimeError, "IndexError: list index"),
    "killed": (
        QUICK, "os.kill(os.getpid(), 9) if rank else time.sleep(99)", DumenetError,
        "^Training process 2 of 2 was ended by SIGKILL, perhaps for want of memory, and the others with it: run the same command",
    ),
    "killed, and missed": (
        QUICK, "os.kill(os.getpid(), 15) if rank else fail('RuntimeError: Connection closed by peer')", DumenetError,
        "^Training process 2 of 2 was ended by SIGTERM, and the others",
    ),
    "leaves": (QUICK, "time.sleep(99) if rank else os._exit(3)", DumenetError, "without a word"),
    "other machine": (QUICK, "fail('RuntimeError: Connection closed by peer')", DumenetError, "on another machine was lost"),
}  # fmt: skip


@pytest.mark.parametrize("how", ENDS)
def test_all_end_and_one_sentence_says_why(how, started, tmp_path, capfd, monkeypatch):
    code, work, error, says = ENDS[how]
    monkeypatch.setattr(parallel, "GRACE", 0.5)
    ask = lambda: parallel.share(code.format(work), tmp_path, make_config(train__devices=2).train)  # noqa: E731
    if error is None:
        ask()
    else:
        with pytest.raises(error, match=says):
            ask()
    assert len(started) == 2 and all(worker.returncode is not None for worker in started)
    assert capfd.readouterr().err == ""


def test_processes_end_with_the_one_that_started_them(tmp_path):
    work = "(Path(sys.argv[1]) / str(os.getpid())).touch(); time.sleep(600)"
    parent = (
        "from pathlib import Path; from dumenet import parallel; from dumenet.config import make_config; "
        f"parallel.share({WORKER.format(work)!r}, Path({str(tmp_path)!r}), make_config(train__devices=2).train)"
    )
    process, end = subprocess.Popen([sys.executable, "-c", parent]), time.monotonic() + LIMIT
    while len(found := list(tmp_path.iterdir())) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    process.kill()
    process.wait()
    for pid in [int(path.name) for path in found]:
        with pytest.raises(ProcessLookupError):
            while time.monotonic() < end:
                os.kill(pid, 0)
                time.sleep(0.05)
    assert len(found) == 2


# --- the whole of it


def test_two_processes_give_the_result_of_one(tiny, make_features, started):
    """With jitter and dropout, and a last batch of one image, of which one process gets nothing."""
    features, test = make_features(13), make_features(6, seed=5)
    one, two = (train(tiny(train__devices=d, train__epochs=3), features, (3, 5), progress=False) for d in (1, 2))
    assert len(started) == 2 and two.config.train.devices == 2 and not two.model.training
    assert two.history["loss"] == pytest.approx(one.history["loss"], rel=1e-5)
    assert two.history["lr"] == one.history["lr"]
    assert "lightning_fabric" not in sys.modules  # the processes that need it import it
    expected = maps(one, test)
    assert ((maps(two, test) - expected).abs() / expected.max()).max() < 1e-5
    found = two.model.state_dict()
    for name, value in one.model.state_dict().items():
        if not name.endswith(
            "key.bias"
        ):  # softmax takes no notice of it: its gradient is rounding, and AdamW blows that up
            assert (found[name] - value).abs().max() < 1e-5, name


def test_a_killed_process_ends_the_job_and_the_same_command_goes_on(tree, tmp_path, started, monkeypatch, capfd):
    values = {**TINY, "train": {**TINY["train"], "epochs": EPOCHS, "devices": 2}, "data": {"source": str(tree)}}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "build" / "runs"

    def kill():
        while not list(home.rglob("state.pt")) and not any(w.poll() for w in started):
            time.sleep(0.01)
        started[1].send_signal(signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    assert main(["train", "--config", "two.yaml"]) == 2
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("dumenet: ") or "Traceback" in line]
    assert len(said) == 1 and said[0].startswith("dumenet: Training process 2 of 2 was ended by SIGKILL")
    assert all(worker.returncode is not None for worker in started)
    (state,) = home.rglob("state.pt")
    done = torch.load(state, weights_only=True)
    assert 1 <= done["epoch"] < EPOCHS and not list(home.rglob("checkpoint.pt"))

    assert main(["train", "--config", "two.yaml"]) == 0
    (checkpoint,) = home.rglob("checkpoint.pt")
    resumed = load_checkpoint(checkpoint, "cpu")
    assert not state.exists() and len(started) == 4
    assert resumed.history["loss"][: done["epoch"]] == done["history"]["loss"]  # not trained again
    values["train"]["devices"] = 1
    alone = run(
        make_config(**{f"{s}__{k}": v for s, group in values.items() for k, v in group.items()}),
        Folders(tmp_path / "one"),
    )
    assert resumed.history["loss"] == pytest.approx(alone.trained.history["loss"], rel=1e-3)


def test_two_machines_and_one_is_lost(tree, tmp_path, started, monkeypatch, capfd):
    """Each runs the same command, told its number and where the first one is; here both are this machine."""
    values = {**TINY, "train": {**TINY["train"], "epochs": 3000, "nodes": 2}, "data": {"source": str(tree)}}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.chdir(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": ""}
    for name, value in (place | {"NODE_RANK": "0"}).items():
        monkeypatch.setenv(name, value)
    if Path("/sys/class/net/lo").exists():
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    command = [sys.executable, "-m", "dumenet.cli", "train", "--config", "two.yaml"]
    other = subprocess.Popen(command, env=os.environ | {"NODE_RANK": "1"}, stderr=subprocess.DEVNULL)

    def kill():
        end = time.monotonic() + LIMIT
        while not list((tmp_path / "build").rglob("state.pt")) and time.monotonic() < end:
            time.sleep(0.05)
        other.kill()

    threading.Thread(target=kill, daemon=True).start()
    assert main(["train", "--config", "two.yaml"]) == 2
    other.wait(LIMIT)
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("dumenet: ") or "Traceback" in line]
    assert len(said) == 1 and "on another machine was lost" in said[0], said
    (state,) = (tmp_path / "build").rglob("state.pt")
    assert 1 <= torch.load(state, weights_only=True)["epoch"] < 3000


# --- threads, batches, devices: the bounds of docs/ARCHITECTURE.md


@pytest.mark.parametrize("name", ["dumenet", "uniad"])
def test_threads_change_rounding_alone(tiny, make_features, name):
    """A batch of 32 and hidden size 128: less is done by one thread whatever their number."""
    found, test = [], make_features(40, seed=5)
    wide = dict(model__name=name, model__hidden_dim=128, model__ffn_dim=256, train__batch_size=32, train__epochs=3)
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            trained = train(tiny(**wide), make_features(64), (3, 5), progress=False)
            found.append((np.array(trained.history["loss"]), score(trained, test).maps))
    finally:
        torch.set_num_threads(1)
    (loss, one), (other_loss, two) = found
    assert np.abs(other_loss / loss - 1).max() < 1e-5
    assert np.abs(two - one).max() / one.max() < 1e-4


@pytest.mark.parametrize("name", ["dumenet", "uniad", "gaussian"])
def test_the_batch_of_an_evaluation_changes_rounding_alone(tiny, make_features, name):
    trained, test = train(tiny(model__name=name), make_features(13), (3, 5), progress=False), make_features(40, seed=5)
    maps = {}
    for size in (1, 7, 32):
        config = replace(trained.config, evaluation=replace(trained.config.evaluation, batch_size=size))
        maps[size] = score(replace(trained, config=config), test).maps
    for size in (1, 7):
        assert np.abs(maps[size] - maps[32]).max() / maps[32].max() < 1e-5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_scores_as_a_processor_does(tiny, make_features, tmp_path):
    trained, test = train(tiny(), make_features(13), (3, 5), progress=False), make_features(40, seed=5)
    save_checkpoint(trained, tmp_path / "checkpoint.pt")
    here, there = (score(load_checkpoint(tmp_path / "checkpoint.pt", device), test).maps for device in ("cpu", "cuda"))
    assert np.abs(there - here).max() / here.max() < 1e-3


# --- many jobs


def test_a_table_is_the_same_file_by_1_2_and_4_workers(tmp_path, monkeypatch):
    """Records too, but for what a run measures of itself; and each job is done once."""
    found = {}
    for workers in (1, 2, 4):
        home = tmp_path / str(workers)
        photos(home)
        monkeypatch.chdir(home)
        chosen = {f"all.features.{k}": v for k, v in TINY["features"].items() if k != "stages"} | {"all.device": "cpu"}
        wanted = jobs.plan("mvtec", "photos", methods=("Gaussian",), seeds=range(6), overrides=chosen)
        assert jobs.run_jobs(wanted, progress=False, workers=workers) == []
        records = {j.path.name: json.loads(j.path.read_text()) for j in wanted}
        measured = ("seconds", "machine", "peak_memory_mb")
        records = {name: {k: v for k, v in record.items() if k not in measured} for name, record in records.items()}
        written = {
            p.name: p.read_bytes()
            for p in tables.write(wanted, Path("."), Path("figures"))
            if p.suffix in (".csv", ".md")
        }
        assert len(records) == 6 and written
        found[workers] = records, written
    assert found[1] == found[2] == found[4]
