"""No file that is read can run code: no pickle, plain YAML, no program for an image; processes listen locally."""

import ast
import os
import pickle
from pathlib import Path

import pytest
import torch
from PIL import Image

from dumenet.data import read_cifar10
from dumenet.data.images import open_image
from dumenet.errors import DumenetError
from dumenet.features import load_tensors
from dumenet.sweep import sweep
from dumenet.train import train

PACKAGE = Path(__file__).resolve().parents[1] / "dumenet"
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
UNSAFE_CALLS = {"eval", "exec", "os.system", "os.popen", "yaml.unsafe_load", "yaml.full_load"}


class Runs:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def owned(tmp_path):
    """The folder that appears if a file has run code."""
    yield tmp_path / "owned"
    assert not (tmp_path / "owned").exists()


def test_no_reader_of_the_package_can_run_code():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            where = f"{path.name}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = {getattr(node, "module", None) or "", *(a.name for a in node.names)}
                assert not {name.split(".")[0] for name in names} & UNSAFE_MODULES, where
            if isinstance(node, ast.Call):
                name, words = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert name not in UNSAFE_CALLS, where
                assert not name.endswith("extractall"), where  # which could write elsewhere
                assert words.get("shell", "False") == words.get("allow_pickle", "False") == "False", where
                assert name != "torch.load" or words.get("weights_only") == "True", where
                assert name != "yaml.load" or "PlainLoader" in ast.unparse(node.args[1]), where


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_among_weights_or_in_cifars_archive_is_refused(owned, tmp_path):
    file = tmp_path / "a.pt"
    for content in (Runs(owned), {"config": Runs(owned)}, [torch.zeros(2), Runs(owned)]):
        torch.save(content, file)
        with pytest.raises(pickle.UnpicklingError):
            load_tensors(file)
    file.write_bytes(pickle.dumps(Runs(owned)))  # not written by torch at all
    with pytest.raises(Exception, match="(?i)weights|unsupported|invalid|magic"):
        load_tensors(file)
    folder = tmp_path / "cifar-10-batches-py"  # whose own pickles are compared with their MD5 sums first
    folder.mkdir()
    for name in ("batches.meta", "test_batch", *(f"data_batch_{i}" for i in range(1, 6))):
        (folder / name).write_bytes(pickle.dumps(Runs(owned)))
    with pytest.raises(DumenetError, match="incomplete or damaged"):
        read_cifar10(tmp_path)


def test_a_pickle_or_half_a_state_in_place_of_a_state_costs_its_epochs_only(owned, tiny, make_features, tmp_path):
    config, features, path = tiny(train__epochs=1), make_features(), tmp_path / "state.pt"
    expected = train(config, features, (3, 5), progress=False)
    torch.save(Runs(owned), path)
    assert train(config, features, (3, 5), path, progress=False).history == expected.history
    state = torch.load(path, weights_only=True)
    state["history"] = {"loss": [9.0], "lr": [9.0]}
    for part, wrong in (("optimizer", {}), ("model", {}), ("history", {"loss": [9.0]}), ("epoch", 2)):
        torch.save(state | {part: wrong}, path)
        trained = train(config, features, (3, 5), path, progress=False)
        assert trained.history == expected.history
        for a, b in zip(trained.model.state_dict().values(), expected.model.state_dict().values(), strict=True):
            assert torch.equal(a, b)


def test_no_image_starts_a_program(owned, tmp_path, monkeypatch):
    """Pillow hands EPS to Ghostscript, whatever the file's name. Huge images: tests/test_bad_input.py."""
    ghostscript = tmp_path / "bin" / "gs"
    ghostscript.parent.mkdir()
    ghostscript.write_text(f"#!/bin/sh\nmkdir {owned}\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", str(ghostscript.parent), prepend=os.pathsep)
    Image.new("RGB", (9, 9)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(DumenetError, match="not an image"):
        open_image(tmp_path / "a.png")


def test_jobs_on_several_processes_listen_on_this_machine_alone(monkeypatch):
    """Dask's scheduler and workers do so by themselves; its dashboard would not."""
    given = {}

    def start(**options):
        given.update(options)
        raise OSError("enough")

    monkeypatch.setattr("distributed.LocalCluster", start)
    with pytest.raises(DumenetError):
        sweep(print, {"a": ()}, workers=1)
    assert given["dashboard_address"] == "127.0.0.1:0" and given.get("host", "127.0.0.1") == "127.0.0.1"
