"""The checks of the exercises: a right answer is right, a wrong one is told wrong in a sentence.

`tests/wrong_answers/NN.py` holds plausible wrong answers of lesson NN: `WRONG = {"NN_1": [functions], ...}`.
"""

import ast
import importlib
import json
import re
import runpy
import sys
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "notebooks"))  # check.py lies beside the lessons
check = importlib.import_module("check")
LESSONS = {path.stem[:2]: path for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))}
EXERCISES = sorted(name.removeprefix("exercise_") for name in vars(check) if name.startswith("exercise_"))
WRONG = {}
for path in sorted((ROOT / "tests" / "wrong_answers").glob("*.py")):
    WRONG |= runpy.run_path(str(path))["WRONG"]


def test_each_exercise_has_a_check_and_wrong_answers():
    cells = [c for path in LESSONS.values() for c in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    called = re.findall(r"check\.exercise_(\d\d_\d)\(", "\n".join("".join(c["source"]) for c in cells))
    assert sorted(called) == EXERCISES
    assert sorted(WRONG) == EXERCISES and all(WRONG.values())


@pytest.mark.parametrize(
    ("name", "answer"),
    [pytest.param(n, a, id=f"{n}-{getattr(a, '__name__', 'answer')}") for n, group in WRONG.items() for a in group],
)
def test_a_wrong_answer_is_told_wrong_in_a_sentence(name, answer, capsys):
    with pytest.raises(check.NotYet) as told:
        getattr(check, f"exercise_{name}")(answer)
    assert 20 < len(str(told.value)) < 400 and "\n" not in str(told.value)
    assert not capsys.readouterr().out


@pytest.mark.parametrize("name", EXERCISES)
def test_the_lessons_own_answer_is_right(name, capsys):
    getattr(check, f"exercise_{name}")(answer_of_lesson(name))
    assert capsys.readouterr().out == f"Exercise {name.replace('_', '.')}: right.\n"


def answer_of_lesson(name):
    """The solution, run with the lesson's imports and its earlier functions and classes but none of its variables."""
    cells = json.loads(LESSONS[name[:2]].read_text(encoding="utf-8"))["cells"]
    names, solutions = {}, 0
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        kept = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
        body = [node for node in ast.parse("".join(cell["source"])).body if isinstance(node, kept)]
        with suppress(NameError):  # a default that is a variable of the lesson
            exec(compile(ast.Module(body, []), name, "exec"), names)
        solutions += "solution" in cell["metadata"].get("tags", [])
        if solutions == int(name[-1]):
            (function,) = [node.name for node in body if isinstance(node, ast.FunctionDef)]
            return names[function]
    raise AssertionError(f"lesson {name[:2]} has no solution {name[-1]}")


# --- every check is kind


@pytest.mark.parametrize("name", EXERCISES)
def test_an_exercise_not_begun_says_its_hint(name):
    def begun(*args, **kwargs):
        raise NotImplementedError("think")

    with pytest.raises(NotImplementedError, match="think"):
        getattr(check, f"exercise_{name}")(begun)


@pytest.mark.parametrize("name", EXERCISES)
def test_an_error_in_the_answer_is_told(name):
    def clumsy(*args, **kwargs):
        raise TypeError("unsupported\noperand.")

    with pytest.raises(check.NotYet, match=r"^your function raised TypeError: unsupported operand\.$"):
        getattr(check, f"exercise_{name}")(clumsy)
    with pytest.raises(check.NotYet):  # wrong arguments: a TypeError, or what it returns is wrong
        getattr(check, f"exercise_{name}")(lambda: 1)


@pytest.mark.parametrize("name", EXERCISES)
@pytest.mark.parametrize("nothing", [None, "text", ()], ids=repr)
def test_a_return_value_of_the_wrong_kind_is_told(name, nothing):
    with pytest.raises(check.NotYet):
        getattr(check, f"exercise_{name}")(lambda *args, **kwargs: nothing)


def test_what_is_no_function_is_told():
    with pytest.raises(check.NotYet, match="the function itself"):
        check.kindly(print)(3)


def test_an_error_of_the_check_itself_is_no_answers_fault():
    def broken(answer):
        raise KeyError("ours")

    with pytest.raises(KeyError):
        check.kindly(broken)(lambda: 1)


def test_a_notebook_shows_the_sentence_alone():
    assert check.NotYet("nearly.")._render_traceback_() == ["Not yet: nearly."]
