"""The copies run: an instructor's without an error, a student's with no error but the hints of its exercises.

Minutes for each lesson, so not a part of `pytest tests`: name this file. Checkpoints in `build/runs` make it quicker.
"""

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from dumenet.course.classroom import classroom

ROOT = Path(__file__).resolve().parents[2]
each_lesson = pytest.mark.parametrize("name", [path.name for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))])


@pytest.fixture(scope="module")
def copies():
    return classroom(ROOT)


def run(path, monkeypatch):
    """The executed notebook; an error is an output of its cell."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TQDM_DISABLE", "1")
    notebook = nbformat.read(path, 4)
    where = {"metadata": {"path": str(path.parent)}}
    return NotebookClient(notebook, timeout=600, kernel_name="python3", allow_errors=True, resources=where).execute()


def errors(cell):
    return [out for out in cell.get("outputs", ()) if out.output_type == "error"]


def described(cell, error):
    return f"{error.ename}: {error.evalue}\nin the cell\n{cell.source}"


@each_lesson
def test_instructors_copy_runs(copies, name, monkeypatch):
    notebook = run(copies / "instructor" / name, monkeypatch)
    for cell in notebook.cells:
        for error in errors(cell):
            pytest.fail(described(cell, error))
        for out in cell.get("outputs", ()):
            assert "image/png" not in out.get("data", {}), f"a figure without a text, in the cell\n{cell.source}"
            for alt in re.findall(r'<img alt="([^"]*)"', out.get("data", {}).get("text/html", "")):
                assert len(alt) >= 30, f"{alt!r} says little, in the cell\n{cell.source}"


@each_lesson
def test_students_copy_runs_up_to_its_hints(copies, name, monkeypatch):
    notebook = run(copies / "student" / name, monkeypatch)
    hints = {hint_of(cell.source): 0 for cell in notebook.cells if "exercise" in cell.metadata.get("tags", [])}
    assert len(hints) >= 2
    for cell in notebook.cells:
        for error in errors(cell):
            assert error.ename == "NotImplementedError" and error.evalue in hints, described(cell, error)
            hints[error.evalue] += 1
        if "check" in cell.metadata.get("tags", []):
            assert errors(cell), f"passes without a solution: {cell.source}"
    assert all(hints.values()), f"never seen: {[hint for hint, count in hints.items() if not count]}"


def hint_of(stub):
    """The text that a stub raises: its last line is `raise NotImplementedError("text")`."""
    return json.loads(stub.rpartition("NotImplementedError(")[2].rstrip()[:-1])
