"""Copies for a class, the table of the lessons, and the form that every lesson keeps."""

import ast
import importlib
import json
import re
from pathlib import Path

import pytest

from dumenet.cli import main
from dumenet.course import classroom
from dumenet.errors import DumenetError

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
    metadata = {"tags": list(tags)} if tags else {}
    return {"cell_type": "code", "metadata": metadata, "source": source.splitlines(keepends=True), "outputs": []}


def text(source):
    return {"cell_type": "markdown", "metadata": {}, "source": source.splitlines(keepends=True)}


def put(home, name, *cells):
    path = home / "notebooks" / f"{name}.ipynb"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return path


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A place with two made-up lessons, their checks and a README; the current folder."""
    parameters = code('profile = "quick"\nhome = ".."  # up', "parameters")
    first = [
        text(OPENING),
        parameters,
        text(PREDICT),
        code(SOLUTION, "solution"),
        code("check.exercise_07_1(two)", "check"),
    ]
    drawing = 'plots.show(fig, "alt")\nfor k in "ab":\n    plots.show(fig, "alt", name=f"07_{k}_x", folder=home)'
    drawing += '\nplots.show(fig, alt, "07_y", home)'
    put(tmp_path, "07_made_up", *first, code(drawing), text(QUIZ))
    put(tmp_path, "08_other", text(OPENING.replace("07", "08")), parameters)
    (tmp_path / "notebooks" / "check.py").write_text("exercise_07_1 = print\n")
    blocks = (
        "<!-- lessons -->\nold\n<!-- end -->\nbetween\n<!-- sessions -->\n<!-- end -->\n[data](../data/README.md)\n"
    )
    (tmp_path / "notebooks" / "README.md").write_text(blocks)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sources(path):
    return ["".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]


def tagged(path, tag):
    """Position and source of the cells with this tag."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [(i, "".join(c["source"])) for i, c in enumerate(cells) if tag in c["metadata"].get("tags", [])]


# --- made-up lessons


def test_students_copy_has_hints_and_no_answers(home, capsys):
    assert main(["classroom"]) == 0
    assert "work in a copy" in capsys.readouterr().out
    folder = home / "build" / "classroom" / "student"
    assert sorted(p.name for p in folder.iterdir()) == ["07_made_up.ipynb", "08_other.ipynb", "INDEX.md", "check.py"]
    opening, parameters, predict, stub, check, _, quiz = sources(folder / "07_made_up.ipynb")
    assert opening == OPENING and check == "check.exercise_07_1(two)"
    assert parameters == 'profile = "quick"\nhome = "../../.."  # up'
    assert "Secret" not in predict + quiz and "details" not in predict + quiz
    assert re.search(r"How much\?\n\n\*Your answer:\*\n\n## 1", predict)
    assert re.search(r"1\. What\?\n\n   \*Your answer:\*\n\n2\. Which", quiz)
    assert "(../../../data/README.md)" in predict and "(../../../data/README.md)" in (folder / "INDEX.md").read_text()
    assert stub.endswith('    Nothing else.\n    """\n    raise NotImplementedError("one \\"plus\\" one.")')
    assert stub.startswith("import math\n\n\ndef two(a,\n        b=1):\n") and "total" not in stub
    names = {}
    exec(stub, names)
    with pytest.raises(NotImplementedError, match='one "plus" one'):
        names["two"](1)


def test_instructors_copy_has_everything(home):
    classroom.classroom(home)
    path = home / "build" / "classroom" / "instructor" / "07_made_up.ipynb"
    assert [s for _, s in tagged(path, "solution")] == [SOLUTION]
    assert "<details open><summary>Why?</summary>\nSecret" in sources(path)[2]
    assert "<details open>" in sources(path)[-1] and "Your answer" not in sources(path)[-1]


def test_a_lesson_that_is_gone_leaves_no_copy(home):
    classroom.classroom(home)
    (home / "notebooks" / "08_other.ipynb").unlink()
    classroom.classroom(home)
    assert not list((home / "build" / "classroom").glob("*/08*"))


@pytest.mark.parametrize(
    ("solution", "complaint"),
    [
        ("def f(x):\n    '''Doc.'''\n    return x", "a solution begins with its hint"),
        ("# Hint:   \ndef f(x):\n    '''Doc.'''\n    return x", "a solution begins with its hint"),
        ("# Hint: think.\ndef f(x):\n    return x", "f has no docstring"),
        ("# Hint: think.\nx = 1", "exactly one function"),
        (
            "# Hint: think.\ndef f(x):\n    '''Doc.'''\n\n\ndef g(x):\n    '''Doc.'''",
            "exactly one function, not 2 and 0 other",
        ),
        ("# Hint: think.\ndef f(x):\n    '''Doc.'''\n    return x\n\n\nf(1)", "imports and exactly one function"),
        ("# Hint: think.\ndef f(x:\n    return x", "is not Python"),
    ],
)
def test_a_solution_without_its_parts_is_named(home, capsys, solution, complaint):
    put(home, "09_bad", text(OPENING), code(solution, "solution"))
    assert main(["classroom"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dumenet: 09_bad.ipynb, cell 2: ") and complaint in line


def test_bad_states_are_sentences(home, capsys):
    cases = [
        (home / "notebooks" / "07_made_up.ipynb", "{", "07_made_up.ipynb is not a whole notebook"),
        (home / "notebooks" / "07_made_up.ipynb", '{"cells": []}', "07_made_up.ipynb is not a whole notebook"),
        (home / "notebooks" / "README.md", "# No blocks", "no block from <!-- lessons -->"),
        (home / "data" / "results" / "lessons-quick.json", "[1", "not a measurement of the lessons"),
        (home / "data" / "results" / "lessons-quick.json", '{"seconds": 3}', "not a measurement of the lessons"),
        (home / "data" / "results" / "lessons-quick.json", '{"lessons": [3]}', "not a measurement of the lessons"),
        (
            home / "data" / "results" / "lessons-quick.json",
            '{"lessons": {"07": null}}',
            "not a measurement of the lessons",
        ),
    ]
    for path, content, complaint in cases:
        old = path.read_text() if path.exists() else None
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        assert main(["classroom", "--readme"]) == 2
        assert complaint in capsys.readouterr().err
        path.write_text(old) if old else path.unlink()
    (home / "notebooks" / "README.md").unlink()
    assert main(["classroom"]) == 2 and "README.md" in capsys.readouterr().err
    with pytest.raises(DumenetError, match="No lessons"):
        classroom.classroom(home / "data")


def test_measured_times_reach_the_opening_cells_and_the_table(home, capsys):
    results = home / "data" / "results"
    results.mkdir(parents=True)
    measured = {"profile": "quick", "lessons": {"07_made_up": 96.0}, "machine": {}}
    (results / "lessons-quick.json").write_text(json.dumps(measured))
    assert main(["classroom", "--readme"]) == 0
    assert capsys.readouterr().out == "Changed: 07_made_up.ipynb, README.md.\n"
    assert "**It takes** about 1.5 minutes on two CPU cores (GPU" in sources(home / "notebooks" / "07_made_up.ipynb")[0]
    assert "about TIME on two" in sources(home / "notebooks" / "08_other.ipynb")[0]
    readme = (home / "notebooks" / "README.md").read_text()
    row, other = [line for line in readme.splitlines() if line.startswith("| [")]
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[0] == "[07 · Made up](07_made_up.ipynb)" and cells[1:3] == ["add", "lesson 06"]
    assert cells[4:] == ["1.5 minutes", "7", "1", "`07_*_x` `07_y`"]
    assert "| not measured |" in other and "\nbetween\n" in readme and "old" not in readme
    assert main(["classroom", "--readme"]) == 0 and capsys.readouterr().out == "Changed: nothing.\n"
    (results / "lessons-quick.json").write_text(json.dumps({"lessons": {"07_made_up": 44.1}}))
    assert classroom.refresh(home) == ["07_made_up.ipynb", "README.md"]  # over the earlier time
    assert "about 45 s on two" in sources(home / "notebooks" / "07_made_up.ipynb")[0]


def test_an_opening_cell_without_its_parts_is_named(home, capsys):
    put(home, "08_other", text(OPENING.replace("**You need**", "Needs")))
    assert main(["classroom", "--readme"]) == 2
    assert "08_other.ipynb: its first cell does not say the needs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(1, "5 s"), (44, "45 s"), (86, "85 s"), (88, "1.5 minutes"), (125, "2 minutes"), (1400, "23.5 minutes")],
)
def test_readable_times(seconds, said):
    assert classroom.readable(seconds) == said


def test_a_session_lasts_90_minutes_and_drops_what_asks_nothing():
    sections = {"opening": (2.0, 0), "1 · A": (30.0, 1), "2 · B": (30.0, 0), "3 · C": (20.0, 1), "Quiz": (9.0, 0)}
    lesson = classroom.Lesson("01_x.ipynb", "01 · X", "goal", "needs", 60.0, 5, 2, [], sections)
    rows = [row.split(" | ") for row in classroom.schedule([lesson]).splitlines()[2:]]
    assert rows == [["| 1", "01", "01: 2", "52 min", "4 min", "20 min", "14 min", "60 s |"]]
    many = [lesson._replace(title=f"{k:02} · X") for k in range(13)]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in classroom.schedule(many).splitlines()[2:]]
    assert len(rows) == 6 and ", ".join(row[1] for row in rows) == ", ".join(f"{k:02}" for k in range(13))


# --- the real ones


def test_make_classroom_installs_and_calls_the_command():
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^classroom: install\n\t@\$\(BIN\)/dumenet classroom$", makefile, re.MULTILINE)


def test_all_lessons_are_here():
    assert [path.stem[:2] for path in LESSONS] == [f"{k:02}" for k in range(13)]


def test_readmes_blocks_are_made_from_the_notebooks():
    readme = (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
    lessons = [classroom.read_lesson(path) for path in LESSONS]
    assert classroom.with_blocks(readme, lessons) == readme, "run `dumenet classroom --readme`"


def test_sessions_last_90_minutes_together():
    rows = classroom.schedule([classroom.read_lesson(path) for path in LESSONS]).splitlines()[2:]
    for row in rows:
        minutes = [int(m) for m in re.findall(r"(-?\d+) min ", row)]
        assert sum(minutes) == 90 and min(minutes) > 0, row


def test_glossary_has_the_words_of_the_lessons():
    readme = (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
    terms = re.findall(r"^- \*\*(.+?)\*\*", readme, re.MULTILINE)
    assert terms == sorted(terms, key=str.lower)
    for term in (
        "anomaly map", "image score", "memory slot", "read", "perplexity of weights", "neighbour mask", "unified setting",
        "separate setting", "continuous query", "identical shortcut", "AUROC", "AP", "F1-max", "PRO", "contamination", "jitter",
        "hold-out",
    ):  # fmt: skip
        assert term in terms


@each_lesson
def test_copies_of_a_lesson(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    ours, theirs = classroom.student(notebook, path.name), classroom.instructor(notebook)
    for before, after in zip(notebook["cells"], theirs["cells"], strict=True):
        source, copied = "".join(before["source"]), "".join(after["source"])
        if before["cell_type"] == "code":
            assert copied.replace('home = "../../.."', 'home = ".."') == source
    assert "<details" not in json.dumps(ours) and "<details>" not in json.dumps(theirs)
    for kind in (ours, theirs):
        assert 'home = ".."' not in "".join("".join(c["source"]) for c in kind["cells"])
        assert [c["id"] for c in kind["cells"]] == [c["id"] for c in notebook["cells"]]
    stubs = ["".join(c["source"]) for c in ours["cells"] if "exercise" in c["metadata"].get("tags", [])]
    assert len(stubs) == len(tagged(path, "solution"))
    assert all("raise NotImplementedError(" in stub for stub in stubs)


@each_lesson
def test_opening_cell(path):
    opening = sources(path)[0]
    parts = [f"**{part}**" for part in ("You will be able to", "You need", "It takes", "It reads", "It writes")]
    parts.insert(0, f"# {path.stem[:2]} · ")
    places = [opening.find(part) for part in parts]
    assert -1 not in places and places == sorted(places)
    assert re.search(
        r"\*\*It takes\*\* about (TIME|[\d.]+ (s|minutes?))\s+on two CPU cores \(GPU: not\s+measured", opening
    )
    assert "took" in sources(path)[-1], "the last cell prints how long it took"


@each_lesson
def test_exercises_have_solution_and_check(path, monkeypatch):
    monkeypatch.syspath_prepend(str(path.parent))
    check, number, all_cells = importlib.import_module("check"), path.stem[:2], sources(path)
    named = re.findall(r"^\*\*Exercise (\d\d)\.(\d)", "\n".join(all_cells), re.MULTILINE)
    solutions = tagged(path, "solution")
    assert named == [(number, str(k + 1)) for k in range(len(solutions))] and len(solutions) >= 2
    checks = tagged(path, "check")
    assert [i for i, _ in checks] == [i + 1 for i, _ in solutions]
    for k, ((_, solution), (_, call)) in enumerate(zip(solutions, checks), 1):
        (function,) = [node.name for node in ast.parse(solution).body if isinstance(node, ast.FunctionDef)]
        assert call.strip() == f"check.exercise_{number}_{k}({function})"
        assert hasattr(check, f"exercise_{number}_{k}")


@each_lesson
def test_predictions_and_quiz_have_folded_answers(path):
    whole = "\n\n".join(
        "".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "markdown"
    )
    lesson, quiz = whole.split("\n## Quiz\n")
    asked = lesson.split("**Predict first")[1:]
    assert 2 <= len(asked) <= 4
    assert all(part.count("<details><summary>") == 1 == part.count("</details>") for part in asked)
    questions = quiz.split("\n## ")[0]
    assert questions.count("<details><summary>Answer</summary>") == questions.count("</details>") == 3
    assert len(re.findall(r"^(?:\d\. |\s*<li>)", questions, re.MULTILINE)) == 3


@each_lesson
def test_figures_have_a_text(path):
    """At least 30 characters, as far as the code shows them; the executed copies are asked again."""
    code_cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    trees = [ast.parse("".join(c["source"])) for c in code_cells]
    assigned = [n for t in trees for n in ast.walk(t) if isinstance(n, ast.Assign)]
    names = {n.targets[0].id: n.value for n in assigned if isinstance(n.targets[0], ast.Name)}
    calls = [n for t in trees for n in ast.walk(t) if isinstance(n, ast.Call)]
    assert not [c for c in calls if ast.unparse(c.func) in ("plots.save", "plt.show", "fig.show")], "plots.show does it"
    shown = [c for c in calls if ast.unparse(c.func) == "plots.show"]
    assert shown
    for call in shown:
        alt = next((k.value for k in call.keywords if k.arg == "alt"), call.args[1] if len(call.args) > 1 else None)
        assert alt is not None, ast.unparse(call)
        alt = names.get(alt.id, alt) if isinstance(alt, ast.Name) else alt
        words = [n.value for n in ast.walk(alt) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
        assert isinstance(alt, (ast.Name, ast.Call)) or sum(map(len, words)) >= 30, ast.unparse(call)
    figures = classroom.read_lesson(path).figures
    assert all(name.startswith(f"{path.stem[:2]}_") for name in figures)


@each_lesson
def test_nothing_needs_what_an_exercise_would_have_made(path):
    """A cell that stops at a stub defines nothing; a later cell must not fail for want of it, but for a stub only."""
    notebook = classroom.student(json.loads(path.read_text(encoding="utf-8")), path.name)
    stubs, known, lost = set(), set(), {}
    for number, cell in enumerate(notebook["cells"], 1):
        if cell["cell_type"] != "code":
            continue
        tree = ast.parse("".join(cell["source"]))
        functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
        if "exercise" in cell["metadata"].get("tags", []):
            stubs |= {function.name for function in functions}
            continue
        stubs |= {function.name for function in functions if names(function, ast.Load) & stubs}
        run = ast.Module([node for node in tree.body if node not in functions], [])
        needed, made = names(run, ast.Load), names(run, ast.Store)
        if needed & stubs:
            lost |= {name: number for name in made - known}
        else:
            assert not (missing := needed & set(lost) - made), f"cell {number} needs {missing}"
            known |= made | {function.name for function in functions}


def names(tree, context):
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, context)}
