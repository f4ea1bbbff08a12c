"""The lessons as a course of nbgrader: what students get, and the points that nbgrader gives for it."""

import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from dumenet.cli import main
from dumenet.course import assignments, classroom
from dumenet.errors import DumenetError

ROOT = Path(__file__).resolve().parents[1]
LESSONS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))

SOLUTION = '''# Hint: flip value by value.
# Hint 2: np.maximum(a, 1 - a), and then
# the mean.
import numpy as np


def honest(aurocs):
    """Numbers 0..1; returns two."""
    a = np.asarray(aurocs)
    return a.mean(), np.maximum(a, 1 - a).mean()
'''
RIGHT = "    a = np.asarray(aurocs)\n    return a.mean(), np.maximum(a, 1 - a).mean()"
CELLS = [
    ("parameters", 'profile = "quick"\nhome = ".."'),
    ("hide-input", "from dumenet.course import check, project\n\nhome = project(home, profile)"),
    (None, 'print("found" if (home / "notebooks" / "README.md").is_file() else "lost")'),
    ("solution", SOLUTION),
    ("check", "check.exercise_09_2(honest)"),
    (None, "honest([0.5])"),
    ("quiz", 'check.quiz_09(q1="b", q2="a", q3="c")'),
]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A place with one made-up lesson; the current folder."""
    cells = [new_code_cell(source, metadata={"tags": [tag] if tag else []}) for tag, source in CELLS]
    quiz = new_markdown_cell("## Quiz\n\n1. Why?\n\n<details><summary>Answer</summary>\nSecret.\n</details>")
    cells = [new_markdown_cell("# 09 · Made up\n\n[data](../data/README.md)"), *cells[:-1], quiz, cells[-1]]
    kernel = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "README.md").write_text("")
    nbformat.write(new_notebook(cells=cells, metadata=kernel), tmp_path / "notebooks" / "09_made_up.ipynb")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def outputs(path):
    """The text that each cell shows."""
    shown = [cell.get("outputs", ()) for cell in nbformat.read(path, 4).cells]
    return ["".join(o.get("text", "") + "".join(o.get("traceback", ())) for o in cell) for cell in shown]


def test_nbgrader_makes_the_students_version_and_grades_it(home, capsys, monkeypatch):
    Gradebook = pytest.importorskip("nbgrader.api").Gradebook
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # as in a shell that has not activated the environment
    assert main(["classroom"]) == 0 and "release, for nbgrader" in capsys.readouterr().out
    course = home / "build" / "classroom" / "nbgrader"
    release = course / "release" / "lesson_09" / "09_made_up.ipynb"
    notebook = nbformat.read(release, 4)
    text = "\n".join(cell.source for cell in notebook.cells)
    assert "maximum(a, 1 - a).mean" not in text and "strict" not in text and "Secret" not in text
    assert '"np.maximum(a, 1 - a), and then the mean."' in text  # the second hint, in a folded cell
    assert "q1=None, q2=None" in text and 'home = "../../../../.."' in text and "../../../../../data/README" in text
    stub = next(cell for cell in notebook.cells if "def honest" in cell.source)
    assert stub.source.endswith(f'returns two."""\n    {classroom.TODO}\n    raise check.NotDone')

    answers = {"right": RIGHT, "wrong": RIGHT.replace("maximum", "minimum"), "empty": None}
    for student, answer in answers.items():
        theirs = nbformat.from_dict(notebook)
        cell = next(cell for cell in theirs.cells if "def honest" in cell.source)
        if answer:
            cell.source = cell.source.split("    # Your")[0] + answer
        folder = course / "submitted" / student / "lesson_09"
        folder.mkdir(parents=True)
        nbformat.write(theirs, folder / release.name)
        done = assignments.grader(course).autograde("lesson_09", student)
        assert done["success"], done
    with Gradebook(f"sqlite:///{course}/gradebook.db") as book:
        graded = {s: book.find_submission("lesson_09", s) for s in answers}
        points = {s: (each.score, each.max_score, each.needs_manual_grade) for s, each in graded.items()}
    assert points == {"right": (1, 1, False), "wrong": (0, 1, False), "empty": (0, 1, False)}
    shown = outputs(course / "autograded" / "empty" / "lesson_09" / release.name)
    assert "found\n" in shown and "This cell waits for an exercise." in shown
    assert any(text.startswith("Exercise 09.2 is not done yet. Hint: flip value by value.") for text in shown)


def test_without_nbgrader_there_is_its_source(home, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "nbgrader is not installed" in assignments.assignments(home)
    course = home / "build" / "classroom" / "nbgrader"
    assert sorted(path.name for path in course.iterdir()) == ["nbgrader_config.py", "source"]
    assert re.search(r"BEGIN SOLUTION\n    a = np.*\n.*\n    ### END SOLUTION", (sources(course)["exercise"]))
    assert sources(course)["check"].splitlines() == [
        "check.exercise_09_2(honest)", "### BEGIN HIDDEN TESTS", "check.exercise_09_2(honest, strict=True)",
        "### END HIDDEN TESTS",
    ]  # fmt: skip
    (home / "notebooks" / "09_made_up.ipynb").rename(home / "notebooks" / "10_made_up.ipynb")
    assignments.assignments(home)
    assert [path.name for path in course.glob("source/*/*")] == ["10_made_up.ipynb"]


def sources(course):
    (path,) = course.glob("source/*/*.ipynb")
    return {tag: cell.source for cell in nbformat.read(path, 4).cells for tag in cell.metadata.get("tags", ())}


def test_what_nbgrader_refuses_is_one_sentence(home):
    pytest.importorskip("nbgrader")
    course = home / "build" / "classroom" / "nbgrader"
    (course / "gradebook.db").mkdir(parents=True)
    with pytest.raises(
        DumenetError, match="nbgrader cannot make the assignment lesson_09: .*nbgrader database"
    ) as told:
        assignments.assignments(home)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_no_solution_is_left_in_a_lesson_of_nbgrader(path):
    preprocessors = pytest.importorskip("nbgrader.preprocessors")
    solutions = [exercise.body for exercise in classroom.exercises_of(classroom.read(path), path.name)]
    notebook = assignments.assignment(classroom.read(path), path.name)
    ids = [cell.metadata.nbgrader["grade_id"] for cell in notebook.cells if "nbgrader" in cell.metadata]
    assert len(set(ids)) == len(ids) and sum(i.startswith("check_") for i in ids) == len(solutions) >= 2
    for step in (preprocessors.ClearSolutions(), preprocessors.ClearHiddenTests(), preprocessors.CheckCellMetadata()):
        notebook, _ = step.preprocess(notebook, {"nbgrader": {}})
    left = nbformat.writes(notebook)
    assert "strict=True" not in left and "SOLUTION" not in left and "<details" not in left
    for body in solutions:
        longest = max(body.splitlines(), key=len).strip()
        assert longest not in "\n".join(cell.source for cell in notebook.cells)
