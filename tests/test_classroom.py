"""Copies for a class, the tables of the lessons, and the form that every lesson keeps."""

import ast
import json
import re
import sys
from pathlib import Path
from unittest.mock import patch

import nbformat
import pandas as pd
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from dumenet.cli import main
from dumenet.course import check, classroom, folded
from dumenet.course.classroom import tags_of

ROOT = Path(__file__).resolve().parents[1]
LESSONS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
each_lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)

OPENING = """# 07 · Made up

**You will be able to** add, and subtract.

**You need** lesson 06.

**It takes** about TIME on two CPU cores (GPU: not measured).

**It reads** nothing. **It writes** nothing."""
PREDICT = """**Predict first.** How much?

<details><summary>Why?</summary>
Secret
one.
</details>

## 1 · Next

See [this](../data/README.md)."""
QUIZ = "## Quiz\n\n1. What?\n\n   <details><summary>Answer</summary>\n   Secret two.\n   </details>\n\n2. Which?\n"
SOLUTION = '''# Hint: one "plus" one.
# Hint 2: math.floor of
# the sum of a and b.
import math


def two(a,
        b=1):
    """A number and a number; returns a number.

    Nothing else.
    """
    total = a + b
    return math.floor(total)
'''


def code(source, *tags):
    return new_code_cell(source, metadata={"tags": list(tags)} if tags else {})


def put(home, name, *cells):
    path = home / "notebooks" / f"{name}.ipynb"
    path.parent.mkdir(exist_ok=True)
    nbformat.write(new_notebook(cells=[new_markdown_cell(OPENING.replace("07", name[:2])), *cells]), path)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A place with two made-up lessons and a README; the current folder."""
    parameters = code('profile = "quick"\nhome = ".."  # up', "parameters")
    drawing = (
        'for k in "ab":\n    plots.show(fig, "alt", name=f"07_{k}_x", folder=home)\nplots.show(fig, alt, "07_y", home)'
    )
    put(
        tmp_path, "07_made_up", parameters, new_markdown_cell(PREDICT), code(SOLUTION, "solution"),
        code("check.exercise_07_1(two)", "check"), code(drawing), new_markdown_cell(QUIZ),
        code('check.quiz_07(q1="b", q2="a", q3="c")', "quiz"),
    )  # fmt: skip
    put(tmp_path, "08_other", parameters)
    blocks = (
        "<!-- lessons -->\nold\n<!-- end -->\nbetween\n<!-- sessions -->\n<!-- end -->\n[data](../data/README.md)\n"
    )
    (tmp_path / "notebooks" / "README.md").write_text(blocks)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sources(path):
    return [cell.source for cell in nbformat.read(path, 4).cells]


def tagged(notebook, tag):
    """Position and source of the cells with this tag."""
    return [(i, cell.source) for i, cell in enumerate(notebook.cells) if tag in tags_of(cell)]


# --- made-up lessons


def test_copies_for_student_and_instructor(home, capsys):
    assert main(["classroom"]) == 0
    assert "work in a copy" in capsys.readouterr().out
    folder, theirs = home / "build" / "classroom" / "student", home / "build" / "classroom" / "instructor"
    assert sorted(p.name for p in folder.iterdir()) == ["07_made_up.ipynb", "08_other.ipynb", "INDEX.md"]
    opening, parameters, hints, predict, stub, check, drawing, quiz, letters = sources(folder / "07_made_up.ipynb")
    assert opening == OPENING and check == "check.exercise_07_1(two)" and drawing.startswith("for k")
    assert parameters == 'profile = "quick"\nhome = "../../.."  # up'
    assert (folder / "../../..").resolve() == home.resolve()
    assert "Secret" not in predict + quiz and "details" not in predict + quiz
    assert re.search(r"How much\?\n\n\*Your answer:\*\n\n## 1", predict)
    assert re.search(r"1\. What\?\n\n2\. Which", quiz)  # answered in the cell below
    assert "(../../../data/README.md)" in predict and "(../../../data/README.md)" in (folder / "INDEX.md").read_text()
    assert stub.startswith("import math\n\n\ndef two(a,\n        b=1):\n") and "total" not in stub
    assert stub.endswith(f'    Nothing else.\n    """\n    {classroom.TODO}\n    raise check.NotDone("07.1")')
    assert "Hint" not in stub
    given = {}
    exec(hints.replace("check.HINTS.update", "given.update"), {"given": given})
    assert given == {"07.1": ['one "plus" one.', "math.floor of the sum of a and b."]}
    assert nbformat.read(folder / "07_made_up.ipynb", 4).cells[2].metadata.jupyter.source_hidden
    assert letters == "check.quiz_07(q1=None, q2=None, q3=None)"
    assert [i for i, _ in tagged(nbformat.read(folder / "07_made_up.ipynb", 4), "raises-exception")] == [5]

    alone = sources(home / "build" / "classroom" / "selfstudy" / "07_made_up.ipynb")
    assert [alone[k] for k in (0, 1, 2, 4, 5, 7, 9)] == [opening, parameters, hints, stub, check, drawing, letters]
    assert "<details><summary>Why?</summary>\nSecret" in alone[3] and "Secret two" in alone[8]
    assert alone[6].startswith("<details><summary>Solution of exercise 07.1</summary>\n\n```python\nimport math\n")
    assert "total = a + b\n    return math.floor(total)\n```\n\n</details>" in alone[6] and "Hint" not in alone[6]

    _, _, predict, solution, *_, quiz, letters = sources(theirs / "07_made_up.ipynb")
    assert solution == SOLUTION and "<details open><summary>Why?</summary>\nSecret" in predict
    assert letters == 'check.quiz_07(q1="b", q2="a", q3="c")' and "<details open>" in quiz and "Your answer" not in quiz

    (home / "notebooks" / "08_other.ipynb").unlink()
    classroom.classroom(home)
    assert not list((home / "build" / "classroom").glob("*/08*"))  # of a lesson that is gone


@pytest.mark.parametrize(
    "solution",
    [
        "def f(x):\n    '''Doc.'''\n    return x",
        "# Hint:   \ndef f(x):\n    '''Doc.'''\n    return x",
        "# Hint: think.\ndef f(x):\n    return x",
        "# Hint: think.\nx = 1",
        "# Hint: think.\ndef f(x):\n    '''Doc.'''\n\n\ndef g(x):\n    '''Doc.'''",
        "# Hint: think.\ndef f(x:\n    return x",
        "# Hint: think.\ndef f(x):\n    '''Doc.'''\n    return x",
    ],
)
def test_a_solution_without_its_parts_is_named(home, capsys, solution):
    put(home, "09_bad", code(solution, "solution"))
    assert main(["classroom"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(
        r"dumenet: 09_bad\.ipynb, cell 2: (a solution holds a line `# Hint|the solution is not Python|no cell checks)",
        line,
    )


def test_bad_states_are_sentences(home, capsys):
    lesson, readme = home / "notebooks" / "07_made_up.ipynb", home / "notebooks" / "README.md"
    whole = lesson.read_text()
    for path, content, complaint in (
        (lesson, "{", "07_made_up.ipynb is not a whole notebook"),
        (lesson, '{"cells": []}', "07_made_up.ipynb is not a whole notebook"),
        (lesson, whole.replace("**You need**", "Needs"), "07_made_up.ipynb: its first cell does not say the needs"),
        (readme, "# No blocks", "no block from <!-- lessons -->"),
    ):
        path.write_text(content)
        assert main(["classroom", "--readme"]) == 2 and complaint in capsys.readouterr().err
        lesson.write_text(whole)


def test_measured_times_reach_the_opening_cells_and_the_table(home, capsys):
    results, build = home / "data" / "results" / "lessons-quick.json", home / "build" / "lessons-quick.json"
    build.parent.mkdir()
    build.write_text(json.dumps({"lessons": {"07_made_up": 96.0}}))  # what `dumenet reproduce` measured
    assert main(["classroom", "--readme"]) == 0
    assert capsys.readouterr().out == "Changed: 07_made_up.ipynb, README.md.\n"
    assert results.read_text() == build.read_text()
    assert "**It takes** about 1.5 minutes on two CPU cores (GPU" in sources(home / "notebooks" / "07_made_up.ipynb")[0]
    assert "about TIME on two" in sources(home / "notebooks" / "08_other.ipynb")[0]
    readme = (home / "notebooks" / "README.md").read_text()
    row, other = [line for line in readme.splitlines() if line.startswith("| [")]
    shown = [cell.strip() for cell in row.split("|")[1:-1]]
    assert shown[0] == "[07 · Made up](07_made_up.ipynb)" and shown[1:3] == ["add", "lesson 06"]
    assert shown[4:] == ["1.5 minutes", "8", "1", "`07_*_x` `07_y`"]
    assert "| not measured |" in other and "\nbetween\n" in readme and "old" not in readme
    assert main(["classroom", "--readme"]) == 0 and capsys.readouterr().out == "Changed: nothing.\n"
    build.write_text(json.dumps({"lessons": {"07_made_up": 44.1}}))
    assert classroom.refresh(home) == ["07_made_up.ipynb", "README.md"]  # over the earlier time
    assert "about 45 s on two" in sources(home / "notebooks" / "07_made_up.ipynb")[0]


def test_a_long_table_is_folded():
    with patch("IPython.display.display") as display:
        folded(pd.DataFrame({"a": [1, 2]}), "all <two> rows")
        folded("| a |\n| --- |\n| 1 |\n", "one row")
    html, markdown = (call.args[0] for call in display.call_args_list)
    assert html.data.startswith("<details><summary>all &lt;two&gt; rows</summary>") and html.data.endswith("</details>")
    assert "<td>2</td>" in html.data and type(html).__name__ == "HTML" and type(markdown).__name__ == "Markdown"
    assert markdown.data == "<details><summary>one row</summary>\n\n| a |\n| --- |\n| 1 |\n\n</details>"


def test_readable_times():
    said = {1: "5 s", 44: "45 s", 86: "85 s", 88: "1.5 minutes", 125: "2 minutes", 1400: "23.5 minutes"}
    assert {seconds: classroom.readable(seconds) for seconds in said} == said


# --- the real ones


def test_readmes_table_is_made_from_the_notebooks_and_its_sessions_hold_them_all():
    readme = (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
    assert classroom.with_table(readme, ROOT) == readme, "run `dumenet classroom --readme`"
    rows = [row.split(" | ") for row in re.findall(r"^\| (\d \| .*) \|$", readme, re.MULTILINE)]
    assert ", ".join(row[1] for row in rows) == ", ".join(path.stem[:2] for path in LESSONS)
    assert all(sum(int(cell.removesuffix(" min")) for cell in row[3:]) == 90 for row in rows) and len(rows) == 6


def test_glossary_has_the_words_of_the_lessons():
    readme = (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
    terms = re.findall(r"^- \*\*(.+?)\*\*", readme, re.MULTILINE)
    assert terms == sorted(terms, key=str.lower)
    words = (
        "anomaly map, image score, memory slot, read, neighbour mask, AUROC, AP, unified setting, separate setting, "
    )
    words += "continuous query, identical shortcut, F1-max, PRO, jitter, contamination, hold-out, perplexity of weights"
    assert not set(words.split(", ")) - set(terms)


@each_lesson
def test_a_lesson_keeps_the_form(path):
    """Opening cell, exercises with solution and check, folded answers of predictions and quiz, figures by number."""
    number, whole, notebook = path.stem[:2], sources(path), classroom.read(path)
    parts = [f"**{part}**" for part in ("You will be able to", "You need", "It takes", "It reads", "It writes")]
    places = [whole[0].find(part) for part in (f"# {number} · ", *parts)]
    assert -1 not in places and places == sorted(places)
    assert re.search(r"about (TIME|[\d.]+ (s|minutes?))\s+on two CPU cores \(GPU: not\s+measured", whole[0])
    assert "took" in whole[-1], "the last cell prints how long it took"

    solutions, checks = tagged(notebook, "solution"), tagged(notebook, "check")
    named = re.findall(r"^\*\*Exercise (\d\d)\.(\d)", "\n".join(whole), re.MULTILINE)
    assert named == [(number, str(k + 1)) for k in range(len(solutions))] and len(solutions) >= 2
    assert [i for i, _ in checks] == [i + 1 for i, _ in solutions]
    for k, ((_, solution), (_, call)) in enumerate(zip(solutions, checks), 1):
        assert call.strip() == f"check.exercise_{number}_{k}({classroom.solution_parts(solution, 'here')[0]})"

    markdown = "\n\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    lesson, quiz = markdown.split("\n## Quiz\n")
    asked, questions = lesson.split("**Predict first")[1:], quiz.split("\n## ")[0]
    assert 2 <= len(asked) <= 4
    assert all(part.count("<details><summary>") == 1 == part.count("</details>") for part in asked)
    assert questions.count("<details><summary>Answer</summary>") == questions.count("</details>") == 3
    assert len(re.findall(r"^(?:\d\. |\s*<li>)", questions, re.MULTILINE)) == 3

    program = "\n".join(c.source for c in notebook.cells if c.cell_type == "code")
    assert re.search(r"import .*\bproject\b", program), "it runs from the project's folder, too"
    assert "project(home, profile)" in program
    assert "plots.show(" in program and classroom.read_lesson(path).figures
    assert not re.search(r"plots\.save|plt\.show|fig\.show", program), "plots.show draws, with a text"


@each_lesson
def test_a_lesson_ends_with_a_quiz_that_answers_and_three_lines_to_remember(path):
    number, notebook = path.stem[:2], classroom.read(path)
    assert {len(exercise.hints) for exercise in classroom.exercises_of(notebook, path.name)} == {2}

    questions = yaml.safe_load((check.QUIZZES / f"{number}.yaml").read_text(encoding="utf-8"))
    text = "\n\n".join(c.source for c in notebook.cells if c.cell_type == "markdown").split("\n## Quiz\n")[1]
    asked = re.split(r"(?m)^\d\. ", text.split("\n## ")[0])[1:]
    for part, question in zip(asked, questions.values(), strict=True):
        options, answer = part.split("<details>")
        assert re.findall(r"(?m)^ *[-*] \W*([abc])\b", options) == ["a", "b", "c"], options
        if named := re.match(r"<summary>Answer</summary>\s*\W?([abc])\W", answer):
            assert named[1] == question["right"]
    (place, _), heading = *tagged(notebook, "quiz"), next(i for i, s in enumerate(sources(path)) if "## Quiz\n" in s)
    assert place > heading and all(c.cell_type == "markdown" for c in notebook.cells[heading:place])

    whole = "\n\n".join(sources(path))
    remember = whole.split("\n## Takeaway\n")[1].split("\n## ")[0].strip()
    assert re.findall(r"(?m)^\S+", remember) in (["-"] * 3, ["1.", "2.", "3."]), "a list of three items"
    assert whole.index("## Takeaway\n") < whole.index("## Read next\n")
    long = [line for cell in notebook.cells if cell.cell_type == "code" for line in cell.source.splitlines()]
    assert not [line for line in long if len(line) > 100]


@each_lesson
def test_students_copy_says_hints_and_waits_quietly(path, capsys):
    """Its stubs and checks run here; what else names a stub is tagged, and no cell needs what that would have made."""
    notebook = classroom.student(classroom.read(path), path.name)
    assert "<details" not in (text := nbformat.writes(notebook)) and 'home = \\"..\\"' not in text
    stubs, checks = tagged(notebook, "exercise"), tagged(notebook, "check")
    assert len(stubs) == len(tagged(classroom.read(path), "solution")) >= 2
    names = {"check": check}
    exec(next(cell.source for cell in notebook.cells if cell.source.startswith("# Hints")), names)
    for k, ((_, stub), (_, call)) in enumerate(zip(stubs, checks, strict=True), 1):
        exec(stub, names)
        exec(call, names)
        begins = f"Exercise {path.stem[:2]}.{k} is not done yet. Hint: {check.HINTS[f'{path.stem[:2]}.{k}'][0]}"
        assert capsys.readouterr().out.startswith(begins)

    lost, known = {}, set(dir(sys.modules["builtins"]))
    for i, cell in enumerate(notebook.cells, 1):
        if cell.cell_type == "code":
            tree = ast.parse(cell.source)
            made = used(tree, ast.Store) | {n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
            if "raises-exception" in tags_of(cell):
                lost |= {name: i for name in made - known}
            else:
                needed = used(tree, ast.Load) & set(lost) - made
                assert not needed, f"cell {i} needs {needed}, which a cell makes that waits for an exercise"
                known |= made


def used(tree, context):
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, context)}
