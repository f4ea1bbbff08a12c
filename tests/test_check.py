"""The checks of the exercises: a right answer is right, a wrong one gets the right reason.

One that is not begun gets its hint: tests/test_classroom.py.

`tests/wrong_answers/NN.py` holds plausible wrong answers of lesson NN with words of the sentence that each gets:
`WRONG = {"NN_1": [("words", function), ...], ...}`. The words `is right, not` stand for numbers without a reason.
"""

import ast
import json
import re
import runpy
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from dumenet.course import check

ROOT = Path(__file__).resolve().parents[1]
LESSONS = {path.stem[:2]: path for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))}
EXERCISES = sorted(name.removeprefix("exercise_") for name in vars(check) if name.startswith("exercise_"))
WRONG = {}
for path in sorted((ROOT / "tests" / "wrong_answers").glob("*.py")):
    WRONG |= runpy.run_path(str(path))["WRONG"]
each_exercise = pytest.mark.parametrize("name", EXERCISES)


def sentence(name, answer):
    """What a wrong answer is told."""
    with pytest.raises(check.NotYet) as told:
        getattr(check, f"exercise_{name}")(answer)
    assert 20 < len(text := str(told.value)) < 450 and "\n" not in text and text.endswith(".")
    return text


@cache
def code(number):
    """The import statements of a lesson, and its solutions."""
    cells = [c for c in json.loads(LESSONS[number].read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    nodes = [node for cell in cells for node in ast.parse("".join(cell["source"])).body]
    imports = [ast.unparse(node) for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom))]
    return "\n".join(imports), ["".join(c["source"]) for c in cells if "solution" in c["metadata"].get("tags", [])]


@cache
def answer_of_lesson(name):
    """The solution, run with the lesson's imports and none of its variables."""
    imports, solutions = code(name[:2])
    names, solution = {}, solutions[int(name[-1]) - 1]
    exec(imports, names)
    exec(solution, names)
    return names[ast.parse(solution).body[-1].name]


def test_each_exercise_has_a_check_and_wrong_answers():
    called = {f"{number}_{k + 1}" for number in LESSONS for k in range(len(code(number)[1]))}
    assert sorted(called) == EXERCISES
    assert sorted(WRONG) == EXERCISES and all(WRONG.values())


@pytest.mark.parametrize(("name", "words", "answer"), [(n, *pair) for n, group in WRONG.items() for pair in group])
def test_a_wrong_answer_gets_its_reason(name, words, answer, capsys):
    assert words in (text := sentence(name, answer))
    if words == "is right, not":
        assert re.match(r"[-\d\[({]|None|at \[|result \d", text), "a reason that is not the one"
    assert not capsys.readouterr().out


@each_exercise
def test_the_lessons_own_answer_is_right_and_no_slip_of_it_is(name, capsys):
    right, call = answer_of_lesson(name), getattr(check, f"exercise_{name}")
    state = torch.random.get_rng_state(), str(np.random.get_state())
    call(right)
    assert capsys.readouterr().out == f"Exercise {name.replace('_', '.')}: right.\n"
    assert state[0].equal(torch.random.get_rng_state()) and state[1] == str(np.random.get_state())  # the lesson's own

    def clumsy(*args, **kwargs):
        raise TypeError("unsupported\noperand.")

    reasons = {
        "not a number (NaN)": lambda *given: check.scaled(right(*given), float("nan")),
        "100 times too large": lambda *given: check.scaled(right(*given), 100),
        "the sign is the other way round": lambda *given: check.scaled(right(*given), -1),
        "does it end with `return`": lambda *given: None,
        "wanted, not a str": lambda *given: "text",
        "wanted, not a tuple of 0": lambda *given: (),
        "wanted, not a set": lambda *given: {1},
        "your function raised TypeError: unsupported operand (for ": clumsy,
        "your function raised TypeError: ": lambda: 1,
        "give the function itself": 3,
    }
    if name in ("00_2", "12_1"):  # judged by what a threshold does: another one is told that
        reasons["is possible" if name == "12_1" else "must be one of the scores"] = reasons.pop("100 times too large")
        del reasons["the sign is the other way round"]
    for reason, answer in reasons.items():
        assert reason in sentence(name, answer)


@each_exercise
def test_numpy_for_torch_is_named(name):
    right = answer_of_lesson(name)

    def numpy(*given):
        got = right(*given)
        return tuple(map(check.plain, got)) if isinstance(got, tuple) else check.plain(got)

    try:
        getattr(check, f"exercise_{name}")(numpy)
    except check.NotYet as told:
        assert re.match(r"a torch tensor of shape .* is wanted, not a numpy array of shape", str(told))
        assert name in ("01_1", "02_3", "03_1", "03_2", "05_1", "07_2")
    else:
        assert name not in ("01_1", "02_3", "03_1", "03_2", "05_1", "07_2")


@each_exercise
def test_what_goes_in_stays(name):
    """An answer that changes an array or a list in place is told so."""

    def spoils(*given):
        for value in given:
            if isinstance(value, list):
                value.append(value[0])
            elif isinstance(value, (np.ndarray, torch.Tensor)) and str(value.dtype)[:2] != "<U":
                value[...] = 1 - value if value.dtype != bool else ~value
        return None

    if name not in ("04_2", "11_1", "11_2"):  # only numbers go in; or dictionaries
        assert "was changed in place" in sentence(name, spoils)


def test_a_notebook_shows_the_sentence_alone():
    assert check.NotYet("nearly.")._render_traceback_() == ["Not yet: nearly."]
    assert check.NotDone("03.1")._render_traceback_() == ["This cell waits for exercise 03.1."]
    assert check.NotDone()._render_traceback_() == ["This cell waits for an exercise."]  # nbgrader's stub


def test_hints_come_one_at_a_time(monkeypatch, capsys):
    def stub(labels, scores):
        raise check.NotDone("00.1")

    monkeypatch.setattr(check, "HINTS", {"00.1": ["Think.", "Think again."]})
    monkeypatch.setattr(check, "given_hints", Counter())
    for _ in range(3):
        check.exercise_00_1(stub)
    first, *others = capsys.readouterr().out.splitlines()
    assert first == "Exercise 00.1 is not done yet. Hint: Think. (Run this again for a second hint.)"
    assert others == ["Exercise 00.1 is not done yet. Hint 2: Think again."] * 2
    with pytest.raises(check.NotDone):
        check.exercise_00_1(stub, strict=True)
    check.hint("00.1")
    check.hint("77.1")
    assert capsys.readouterr().out == (
        "Hint 2: Think again.\nThere is no hint for '77.1'; some exercises with hints: 00.1.\n"
    )
    monkeypatch.setattr(check, "HINTS", {})
    check.exercise_00_1(stub)
    assert capsys.readouterr().out == "Exercise 00.1 is not done yet.\n"


def test_a_warning_of_the_answers_numpy_is_not_shown(recwarn):
    def divides(labels, scores):
        np.zeros(1) / np.zeros(1)
        return answer_of_lesson("00_1")(labels, scores)

    check.exercise_00_1(divides)  # nbgrader takes the points of a cell that writes to stderr
    assert not recwarn


def test_an_error_of_the_check_itself_is_not_the_answers_fault():
    def broken(x):
        raise KeyError("ours")

    with pytest.raises(KeyError):
        check.exercise((1,))(broken)(lambda x: 1)


# --- the quizzes

QUESTIONS = {1: {"right": "b", "a": "No one.", "b": "Two.", "c": "No three."}}
QUESTIONS |= {2: QUESTIONS[1] | {"right": "c"}, 3: QUESTIONS[1] | {"right": "a"}}


def test_a_quiz_answers_each_question_and_never_raises(tmp_path, monkeypatch, capsys):
    (tmp_path / "77.yaml").write_text(yaml.safe_dump(QUESTIONS))
    monkeypatch.setattr(check, "QUIZZES", tmp_path)
    check.quiz_77(q1="b", q2=" A ", q3=None)
    said = ["Question 1: right. Two.", "Question 2: not yet. No one.", "Question 3: no answer yet."]
    assert capsys.readouterr().out.splitlines() == said
    check.quiz_77(q1="d", q2=3, q3="right")
    said = capsys.readouterr().out.splitlines()
    assert all(
        line.endswith("is none of the options; answer with one of the letters a, b, c, in quotes.") for line in said
    )
    assert not hasattr(check, "quiz_78") and not hasattr(check, "quiz") and not hasattr(check, "77")


@pytest.mark.parametrize("path", sorted(check.QUIZZES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_option_has_its_reason_and_the_lessons_answers_are_right(path, capsys):
    questions = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert list(questions) == [1, 2, 3]
    for question in questions.values():
        assert set(question) == {"right", "a", "b", "c"} and question["right"] in "abc"
        reasons = [question[letter] for letter in "abc"]
        assert len(set(reasons)) == 3 and all(20 < len(r) < 400 and r[-1] in ".?!" and "\n" not in r for r in reasons)
    cells = json.loads(LESSONS[path.stem].read_text(encoding="utf-8"))["cells"]
    (quiz,) = ["".join(cell["source"]) for cell in cells if "quiz" in cell["metadata"].get("tags", [])]
    exec(quiz, {"check": check})
    assert re.findall(r"Question (\d): right\.", capsys.readouterr().out) == ["1", "2", "3"]
