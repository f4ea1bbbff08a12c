"""Every benchmark still runs: its `--quick` try prints its table and leaves results and RESULTS.md alone. Nothing is timed."""

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
