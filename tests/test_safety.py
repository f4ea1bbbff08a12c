"""Nothing that is read can run code: no pickle, plain YAML, no program started by an image; the explorer is local."""

import ast
import os
import pickle
import struct
from pathlib import Path

import pytest
import torch
from PIL import Image

from dumenet.cli import main
from dumenet.data import read_cifar10
from dumenet.data.images import open_image
from dumenet.errors import DumenetError
from dumenet.features import load_tensors
from dumenet.models import build_model
from dumenet.sweep import sweep
from dumenet.train import train

PACKAGE = Path(__file__).resolve().parents[1] / "dumenet"
RUNS_CODE = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}


class Runs:
    """A pickle that would make a folder when it is loaded."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def owned(tmp_path):
    """The folder that appears if something has run."""
    yield tmp_path / "owned"
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.stem)
def test_no_reader_of_the_package_can_run_code(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert not {a.name.split(".")[0] for a in node.names} & RUNS_CODE
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in RUNS_CODE
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        words = {k.arg: ast.unparse(k.value) for k in node.keywords}
        assert name not in ("eval", "exec", "os.system", "os.popen", "yaml.unsafe_load", "yaml.full_load"), name
        assert words.get("shell", "False") == "False"
        assert words.get("allow_pickle", "False") == "False"
        assert name != "torch.load" or words.get("weights_only") == "True"
        assert name != "yaml.load" or ast.unparse(node.args[1]) == "_PlainLoader"
        assert not name.endswith("extractall")  # an archive could write elsewhere


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_in_a_file_of_weights_is_refused(owned, tmp_path):
    for content in (Runs(owned), {"config": Runs(owned)}, [torch.zeros(2), Runs(owned)]):
        torch.save(content, tmp_path / "a.pt")
        with pytest.raises(pickle.UnpicklingError):
            load_tensors(tmp_path / "a.pt")
    for protocol in range(5):  # no file of torch's at all
        (tmp_path / "a.pt").write_bytes(pickle.dumps(Runs(owned), protocol))
        with pytest.raises(Exception, match="(?i)weights|unsupported|invalid|magic"):
            load_tensors(tmp_path / "a.pt")


def test_a_pickle_in_the_place_of_a_state_costs_its_epochs_only(owned, tiny, make_features, tmp_path):
    config, features = tiny(train__epochs=1), make_features()
    expected = train(config, features, (3, 5), progress=False)
    torch.save(Runs(owned), tmp_path / "state.pt")
    trained = train(config, features, (3, 5), tmp_path / "state.pt", progress=False)
    assert trained.history == expected.history
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    state["history"] = {"loss": [9.0], "lr": [9.0]}
    for part, wrong in (("optimizer", {}), ("model", {}), ("history", {"loss": [9.0]}), ("epoch", 2)):
        torch.save(state | {part: wrong}, tmp_path / "state.pt")  # half a state leaves nothing of itself behind
        trained = train(config, features, (3, 5), tmp_path / "state.pt", progress=False)
        assert trained.history == expected.history
        for a, b in zip(trained.model.state_dict().values(), expected.model.state_dict().values(), strict=True):
            assert torch.equal(a, b)


def test_the_pickles_of_cifars_archive_are_opened_only_with_the_right_checksum(owned, tmp_path):
    """They are pickles; torchvision compares their MD5 sums before it loads one."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in ("batches.meta", "test_batch", *(f"data_batch_{i}" for i in range(1, 6))):
        (folder / name).write_bytes(pickle.dumps(Runs(owned)))
    with pytest.raises(DumenetError, match="incomplete or damaged"):
        read_cifar10(tmp_path)


def test_no_image_starts_a_program(owned, tmp_path, monkeypatch):
    """Pillow hands EPS to Ghostscript, whatever the file's name."""
    ghostscript = tmp_path / "bin" / "gs"
    ghostscript.parent.mkdir()
    ghostscript.write_text(f"#!/bin/sh\nmkdir {owned}\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", str(ghostscript.parent), prepend=os.pathsep)
    Image.new("RGB", (9, 9)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(DumenetError, match="not an image"):
        open_image(tmp_path / "a.png")


def test_a_header_that_promises_too_much_is_refused_unread(tmp_path):
    header = (
        b"BM"
        + struct.pack("<IHHI", 0, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, 30_000, 30_000, 1, 24, 0, 0, 0, 0, 0, 0)
    )
    (tmp_path / "a.bmp").write_bytes(header)
    with pytest.raises(DumenetError, match="pixels: scale it down"):
        open_image(tmp_path / "a.bmp")


def test_the_explorer_makes_a_token_of_its_own_each_time(tmp_path, monkeypatch, capsys):
    """And listens on this machine alone; tests/test_cli.py looks at the rest of its command."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "12_explorer.ipynb").write_text("{}")
    monkeypatch.delenv("JUPYTER_TOKEN", raising=False)
    calls = []
    monkeypatch.setattr("os.execve", lambda *call: calls.append(call))
    for _ in range(2):
        assert main(["explore", "--no-browser"]) == 0
    tokens = [environment["JUPYTER_TOKEN"] for _, _, environment in calls]
    assert len(set(tokens)) == 2 and min(map(len, tokens)) >= 32
    for _, command, _ in calls:
        assert "--ServerApp.ip=127.0.0.1" in command
        assert not [
            word for word in command if any(t in word for t in tokens) or "token=''" in word or "disable" in word
        ]


def test_jobs_on_several_processes_listen_on_this_machine_alone(monkeypatch):
    """Dask's scheduler and workers do so by themselves; its dashboard would not."""
    asked = {}

    def start(**options):
        asked.update(options)
        raise OSError("enough")

    monkeypatch.setattr("distributed.LocalCluster", start)
    with pytest.raises(DumenetError):
        sweep(print, {"a": ()}, workers=1)
    assert asked["dashboard_address"] == "127.0.0.1:0" and asked.get("host", "127.0.0.1") == "127.0.0.1"


def test_a_model_is_made_of_known_parts_only(tiny):
    """A name in a configuration chooses among what is written here; it is never looked up as code."""
    with pytest.raises(DumenetError, match="Unknown value for config.model.name"):
        build_model(tiny(model__name="os.system").model, (3, 5), 4)
