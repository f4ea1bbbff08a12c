"""Every benchmark still runs: its `--quick` try prints its table and leaves results and RESULTS.md alone. Nothing is timed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks"
NEEDS = {
    "features": ("onnxruntime", "openvino"),
    "inference": ("onnxruntime", "openvino"),
    "explorer": ("anywidget",),
    "metrics": ("skimage",),
}
SCRIPTS = sorted(p.stem for p in FOLDER.glob("*.py") if p.stem != "report")


def written():
    return {p: p.stat().st_mtime_ns for p in [FOLDER / "RESULTS.md", *(ROOT / "data" / "results").glob("bench-*.json")]}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_quick_try_prints_its_table_and_writes_nothing(name):
    for package in NEEDS.get(name, ()):
        pytest.importorskip(package, reason=f"{package} is an extra: pip install -e '.[notebooks,test,fast,openvino]'")
    before = written()
    done = subprocess.run([sys.executable, FOLDER / f"{name}.py", "--quick"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) >= 3 and "nan" not in " ".join(rows), done.stdout
    assert written() == before


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="train.compile asks for a C++ compiler")
@pytest.mark.parametrize("command", ["features.py", "inference.py", "step.py --compile"])
def test_a_quick_try_as_on_a_gpu(command):
    """ "cpu:0" is no "cpu", so it goes the way of a GPU: torch alone, in halves, "compiled" (which is switched off here)."""
    before, (name, *options) = written(), command.split()
    done = subprocess.run(
        [sys.executable, FOLDER / name, "--quick", "--device", "cpu:0", *options], capture_output=True, text=True,
        env=os.environ | {"TORCH_COMPILE_DISABLE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "compiled" in done.stdout and "OpenVINO" not in done.stdout and written() == before


BELOW = """
import quality

def end(seconds, image):
    return {"features": 1.0, "seen": [{"epoch": 8, "seconds": seconds, "image_auroc": image, "pixel_auroc": 0.9}]}

def last_cells(fast, paper):
    runs = {"laptop/0": end(50, 0.6), "fast/0": end(100, fast), "paper/0": end(1000, paper)}
    lines = quality.told({"runs": runs}, [0], None)[2:]
    return {line.split(" | ")[0].strip("| "): line.rsplit("|", 2)[1].strip() for line in lines}

assert last_cells(0.5, 0.55) == {"paper": "1", "fast": "– (1 of 1 below the level)", "laptop": "more than 20.0"}
assert last_cells(0.6, 0.6) == {"paper": "1", "fast": "10.0", "laptop": "20.0"}
"""


def test_a_recipe_below_the_level_is_not_called_faster():
    done = subprocess.run([sys.executable, "-c", BELOW], cwd=FOLDER, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
