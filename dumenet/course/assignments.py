"""The lessons as a course of nbgrader: `build/classroom/nbgrader`, one assignment a lesson, one point an exercise.

An exercise is a solution cell and a locked cell with its check; the hidden part takes the point where the exercise is
not done, of which the check alone only says so. The quiz is for the student, and gives no points.
"""

import importlib.util
import logging
import os
import re
import sys
from pathlib import Path

from nbformat import NotebookNode

from dumenet.course import lessons
from dumenet.course.classroom import Exercise, dump, exercises_of, read, student, tags_of
from dumenet.errors import DumenetError
from dumenet.files import write_atomic

UP = "/".join([".."] * 5)  # from source/lesson_NN/ to the project; a lesson finds it from autograded/, which is deeper
CONFIG = '''"""The settings of this course; `nbgrader --help-all` lists them."""

c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "dumenet"
c.ClearSolutions.code_stub = {"python": "# Your code takes the place of the next line.\\nraise check.NotDone"}
c.Execute.timeout = 1800  # seconds for one cell
'''


def assignments(home: Path = Path(".")) -> str:
    """Write the course; returns a sentence that says what of it was written.

    `source/` is written anew. `release/`, what students get, is nbgrader's work, if it is installed; submissions and
    grades stay.
    """
    course, made = Path(home) / "build" / "classroom" / "nbgrader", {}
    for path in lessons(Path(home)):
        made[f"lesson_{path.stem[:2]}/{path.name}"] = dump(assignment(read(path), path.name))
    for old in course.glob("source/*/*.ipynb"):
        if f"{old.parent.name}/{old.name}" not in made:  # of a lesson that is no longer there
            old.unlink()
    for file, content in made.items():
        write_atomic(course / "source" / file, content)
    write_atomic(course / "nbgrader_config.py", CONFIG.encode())
    if not importlib.util.find_spec("nbgrader"):
        return f"{course}/source; nbgrader is not installed, so its release version was not made."
    nbgrader = grader(course)
    for name in dict.fromkeys(file.split("/")[0] for file in made):
        done = nbgrader.generate_assignment(name)
        if not done["success"]:
            said = done.get("error") or done["log"]
            why = re.findall(r"(?m)^\s*([\w.]*(?:Error|Exception)\b.*)", said) or said.strip().splitlines()
            raise DumenetError(f"nbgrader cannot make the assignment {name}: {why[-1][:300]}")
    return f"{course}/source and {course}/release, for nbgrader."


def assignment(notebook: NotebookNode, name: str) -> NotebookNode:
    """A `notebook`, which it changes, as nbgrader's source: solutions and hidden tests between its marks."""
    exercises = {exercise.check: exercise for exercise in exercises_of(notebook, name)}
    todo = iter(exercises.values())
    for number, cell in enumerate(student(notebook, name).cells):
        cell.source = cell.source.replace("../../..", UP)
        tags = set(tags_of(cell))
        if "exercise" in tags:
            exercise = next(todo)
            marks = "    ### BEGIN SOLUTION", "    ### END SOLUTION"
            cell.source = "\n".join([exercise.head, marks[0], exercise.body, marks[1]])
            cell.metadata.nbgrader = _role("solution", exercise, solution=True, locked=False)
        elif "check" in tags and (exercise := exercises.get(cell.source.strip())):
            strict = exercise.check[:-1] + ", strict=True)"
            cell.source = f"{exercise.check}\n### BEGIN HIDDEN TESTS\n{strict}\n### END HIDDEN TESTS"
            cell.metadata.nbgrader = _role("check", exercise, grade=True, points=1)
        elif cell.cell_type == "code" and tags & {"parameters", "hide-input"}:  # what the checks need
            cell.metadata.nbgrader = _role(f"given_{number}")
    return notebook


def _role(name: str, exercise: Exercise | None = None, **role: bool | int) -> dict[str, bool | int | str]:
    """What nbgrader is told of a cell; it is locked unless `role` says otherwise."""
    grade_id = f"{name}_{exercise.number.replace('.', '_')}" if exercise else name
    return {
        "schema_version": 3,
        "grade_id": grade_id,
        "grade": False,
        "solution": False,
        "locked": True,
        "task": False,
    } | role


def grader(course: Path):
    """nbgrader's own interface to the course in this folder."""
    from nbgrader.apps import NbGraderAPI
    from traitlets.config import Config, PyFileConfigLoader

    here = str(Path(sys.executable).parent)  # where the database tool is that nbgrader starts by its name
    os.environ["PATH"] = os.pathsep.join([here, os.environ.get("PATH", "")])
    settings = Config(PyFileConfigLoader("nbgrader_config.py", str(course)).load_config())
    settings.CourseDirectory.root = str(course.resolve())
    logging.getLogger("traitlets").setLevel(logging.ERROR)
    return NbGraderAPI(config=settings)
