"""Every benchmark still runs: its `--quick` try prints its table and leaves results alone. Nothing is timed."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks"
NEEDS = {
    "features": ("onnxruntime", "openvino"),
    "inference": ("onnxruntime",),
    "explorer": ("anywidget",),
    "metrics": ("skimage",),
}
SCRIPTS = sorted(p.stem for p in FOLDER.glob("*.py") if p.stem != "report")


def written():
    return {p: p.stat().st_mtime_ns for p in [FOLDER / "RESULTS.md", *(ROOT / "data" / "results").glob("bench-*.json")]}


def quick_try(name, monkeypatch, capsys):
    """What the script prints. `growth` measures processes forked from a fresh one; the others run in this one."""
    command = [str(FOLDER / f"{name}.py"), "--quick"]
    if name == "growth":
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.syspath_prepend(FOLDER)
    runpy.run_path(command[0], run_name="__main__")
    return capsys.readouterr().out


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_quick_try_prints_its_table_and_writes_nothing(name, monkeypatch, capsys):
    for package in NEEDS.get(name, ()):
        pytest.importorskip(package, reason=f"{package} is an extra: pip install -e '.[notebooks,test,fast,openvino]'")
    before = written()
    out = quick_try(name, monkeypatch, capsys)
    rows = [line for line in out.splitlines() if line.startswith("| ")]
    assert len(rows) >= 3 and "nan" not in " ".join(rows), out
    assert written() == before
