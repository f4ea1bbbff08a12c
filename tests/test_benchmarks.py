"""Every benchmark still runs: its `--quick` try prints its table and leaves results alone. Nothing is timed."""

import importlib
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from dumenet.results import write_result

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks"
NEEDS = {"features": "onnxruntime", "inference": "onnxruntime", "explorer": "anywidget", "metrics": "skimage"}
SCRIPTS = sorted(p.stem for p in FOLDER.glob("*.py") if p.stem != "report")


@pytest.fixture
def report(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("report")


def written():
    pages = [FOLDER / "RESULTS.md", ROOT / "docs" / "NOTES.md"]
    return {p: p.stat().st_mtime_ns for p in [*pages, *(ROOT / "data" / "results").glob("bench-*.json")]}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_quick_try_prints_its_table_and_writes_nothing(name, report, monkeypatch, capsys):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason=f"{NEEDS[name]} is an extra: pip install -e '.[notebooks,test,fast]'")
    before, command = written(), [str(FOLDER / f"{name}.py"), "--quick"]
    if name == "growth":  # it forks processes, and must be fresh
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        out = done.stdout
    else:
        monkeypatch.setattr(sys, "argv", command)
        runpy.run_path(command[0], run_name="__main__")
        out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if line.startswith("| ")]
    assert len(rows) >= 4 and "nan" not in " ".join(rows), out
    assert written() == before


def test_the_page_is_made_from_the_records(report):
    assert report.PAGE.read_text() == report.make_page(report.RESULTS)


def test_a_line_says_whether_its_aim_was_met_or_that_nobody_measured_it(report, tmp_path):
    assert report.make_page(tmp_path).count("not measured") == len(report.LINES)
    page = {"one": {"ours": 20.0, "baseline": 100.0}, "many": {"ours": 40.0, "baseline": 100.0}}
    speed = {"fast": {"ours": 100.0, "baseline": 10.0}}
    for script, numbers in (("inference", page), ("features", speed), ("explorer", {"slowest": page["one"]})):
        record = {"name": f"bench-{script}", "command": "make", "machine": report.machine("cpu"), "rows": [{"a": 1}]}
        write_result(tmp_path / f"bench-{script}.json", record | {"page": numbers, "raw": None})
    made = report.make_page(tmp_path)
    for cells in (
        "20 ms | 100 ms | 5.00 | ratio 3: met", "40 ms | 100 ms | 2.50 | ratio 4: missed",
        "100 images/s | 10 images/s | 10.00 | ratio 5: met", "20 ms | 100 ms | 5.00 | 200 ms at most: met",
    ):  # fmt: skip
        assert f" | `make` | {cells} |" in made
