"""Copies of the lessons for a class, and the table and schedule of `notebooks/README.md`, all from `notebooks/*.ipynb`.

A lesson is written once, with its solutions: cells tagged `solution`, whose first line is `# Hint: ...`. The student's
copy keeps signature and docstring of a solution and raises the hint; its folded answers are gone. The instructor's
copy keeps the solutions and unfolds the answers.
"""

import ast
import copy
import json
import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from dumenet.errors import DumenetError
from dumenet.results import write_atomic

WORDS, LINES = 200, 20  # read in a minute: words of text, lines of code
SESSIONS, LENGTH = 6, 90  # of 90 minutes
GUESS, EXERCISE, QUIZ = 2, (5, 10), 5  # minutes: a prediction, an exercise (least, most), the quiz (least)
ANSWER = re.compile(r"\n*([ \t]*)<details[^>]*>.*?</details>[ \t]*\n*", re.DOTALL)
TAKES = re.compile(r"(\*\*It takes\*\* about )(.*?)(\s+on two CPU cores)", re.DOTALL)
NOT_TEXT = ("Exercises", "Quiz", "Read next")  # sections that a session does not read together


class Lesson(NamedTuple):
    """What table and schedule say of one lesson; minutes are not rounded."""

    name: str  # file name
    title: str  # "03 · The channel memory"
    goal: str
    needs: str
    seconds: float | None  # as its opening cell says; None: not measured
    cells: int
    exercises: int
    figures: list[str]
    sections: dict[str, tuple[float, int]]  # title -> minutes of reading, "Predict first" questions


def classroom(home: Path = Path(".")) -> Path:
    """Write `build/classroom/{student,instructor}/`; returns that folder. Files there are written anew."""
    home = Path(home)
    out, paths = home / "build" / "classroom", _paths(home)
    readme = _text(home / "notebooks" / "README.md")
    for name, convert in (("student", student), ("instructor", instructor)):
        copies = {path.name: _dump(convert(_notebook(path), path.name)) for path in paths}
        copies |= {path.name: _text(path) for path in sorted((home / "notebooks").glob("check*.py"))}
        copies["INDEX.md"] = _deeper(readme)
        for old in set((out / name).glob("*.ipynb")) | set((out / name).glob("check*.py")):
            if old.name not in copies:  # of a lesson that is no longer there
                old.unlink()
        for file, text in copies.items():
            write_atomic(out / name / file, text.encode())
    return out


def student(notebook: dict, name: str) -> dict:
    """The student's copy of a `notebook`; `name` is for errors. Cells after the first stub may fail (`raises-exception`)."""
    notebook = _copied(notebook, lambda text: ANSWER.sub(r"\n\n\1*Your answer:*\n\n", text).rstrip())
    begun = False  # the exercises
    for number, cell in enumerate(notebook["cells"], 1):
        tags = cell["metadata"].get("tags", [])
        if "solution" in tags:
            cell["source"] = _lines(stub("".join(cell["source"]), f"{name}, cell {number}"))
            cell["metadata"]["tags"] = ["exercise" if tag == "solution" else tag for tag in tags]
            begun = True
        elif begun and cell["cell_type"] == "code":  # so that "Run All" goes on after a stub
            cell["metadata"]["tags"] = [*tags, "raises-exception"]
    return notebook


def instructor(notebook: dict, name: str = "") -> dict:
    """The instructor's copy: answers unfolded, code as it is but for the parameter `home`."""
    return _copied(notebook, lambda text: re.sub(r"<details\s*>", "<details open>", text))


def stub(source: str, where: str) -> str:
    """A solution cell without its solution: imports, signature and docstring, then an error that says the hint."""
    try:
        body = ast.parse(source).body
    except SyntaxError as error:
        raise DumenetError(f"{where}: the solution is not Python: {error.msg}, line {error.lineno}.") from None
    hint = re.search(r"^ *# Hint: (.*\S) *\n", source, re.MULTILINE)
    functions = [node for node in body if isinstance(node, ast.FunctionDef)]
    others = [node for node in body if not isinstance(node, (ast.FunctionDef, ast.Import, ast.ImportFrom))]
    if len(functions) != 1 or others:
        raise DumenetError(
            f"{where}: a solution holds imports and exactly one function, not {len(functions)} and {len(others)} other parts."
        )
    (function,) = functions
    if not hint:
        raise DumenetError(f"{where}: a solution begins with its hint, a line `# Hint: one sentence.`")
    if not ast.get_docstring(function):
        raise DumenetError(f"{where}: {function.name} has no docstring that says what goes in and what comes out.")
    kept = source.splitlines()[: function.body[0].end_lineno]
    kept = [line for line in kept if line.strip() != hint[0].strip()]
    return "\n".join([*kept, f"    raise NotImplementedError({json.dumps(hint[1], ensure_ascii=False)})"])


def read_lesson(path: Path) -> Lesson:
    """What table and schedule need of the notebook at `path`; DumenetError where its opening cell lacks a part."""
    notebook = _notebook(path)
    code = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    opening = "".join(notebook["cells"][0]["source"])
    parts = {"title": r"# (\d\d · [^\n]+)", "goal": r"\*\*You will be able to\*\*\s+(.+?)(?:[,.]\s|[.]?\n\n|[.]?\Z)"}
    parts |= {"needs": r"\*\*You need\*\*\s+(.+?)[.]?(?:\n\n|\Z)", "time": TAKES.pattern}
    found = {part: re.search(pattern, opening, re.DOTALL) for part, pattern in parts.items()}
    for part, match in found.items():
        if not match:
            raise DumenetError(f"{path.name}: its first cell does not say the {part} of the lesson in the usual form.")
    said = {part: " ".join(match[1].split()) for part, match in found.items()}
    solutions = [c for c in notebook["cells"] if "solution" in c["metadata"].get("tags", [])]
    figures = list(dict.fromkeys(figure for source in code for figure in _figures(source)))
    seconds = _seconds(found["time"][2])
    return Lesson(
        path.name, said["title"], said["goal"], said["needs"], seconds, len(notebook["cells"]), len(solutions), figures,
        _sections(notebook),
    )  # fmt: skip


def _sections(notebook: dict) -> dict[str, tuple[float, int]]:
    sections, here = {"opening": [0.0, 0]}, "opening"
    for cell in notebook["cells"]:
        for line in "".join(cell["source"]).splitlines():
            if cell["cell_type"] == "markdown":
                if line.startswith("## "):
                    here = line[3:].strip()
                    sections[here] = [0.0, 0]
                sections[here][0] += len(line.split()) / WORDS
                sections[here][1] += "**Predict first" in line
            elif line.strip():
                sections[here][0] += 1 / LINES
    return {title: tuple(section) for title, section in sections.items()}


def _figures(source: str) -> list[str]:
    """Names of the figures that a code cell saves: the third argument, `name`, of `plots.show`."""
    source = "\n".join("" if line.startswith(("%", "!")) else line for line in source.splitlines())
    calls = sorted((n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call)), key=lambda call: call.lineno)
    calls = [call for call in calls if ast.unparse(call.func) == "plots.show"]
    shown = [name for call in calls for name in [*call.args[2:3], *(k.value for k in call.keywords if k.arg == "name")]]
    return [re.sub(r"\{.*?\}", "*", ast.unparse(name).lstrip("f").strip("'\"")) for name in shown]  # also of f-strings


def lesson_table(lessons: list[Lesson]) -> str:
    """The lessons as a Markdown table."""
    rows = [["lesson", "you learn to", "you need", "reading", "run", "cells", "exercises", "figures"]]
    for lesson in lessons:
        reading = sum(minutes for minutes, _ in lesson.sections.values())
        run = "not measured" if lesson.seconds is None else readable(lesson.seconds)
        figures = " ".join(f"`{figure}`" for figure in lesson.figures) or "none"
        counts = [str(lesson.cells), str(lesson.exercises)]
        rows.append(
            [f"[{lesson.title}]({lesson.name})", lesson.goal, lesson.needs, f"{reading:.0f} min", run, *counts, figures]
        )
    reading = sum(minutes for lesson in lessons for minutes, _ in lesson.sections.values())
    counts = [str(sum(getattr(lesson, part) for lesson in lessons)) for part in ("cells", "exercises")]
    figures = str(sum(len(lesson.figures) for lesson in lessons))
    rows.append(["**all**", "", "", f"{reading / 60:.1f} h", _together(lessons), *counts, figures])
    return _table(rows)


def _together(lessons: list[Lesson]) -> str:
    """Run time of several lessons."""
    seconds = [lesson.seconds for lesson in lessons]
    return "not measured" if None in seconds else readable(sum(seconds))


def schedule(lessons: list[Lesson]) -> str:
    """Six sessions of 90 minutes: neighbouring lessons, such that the longest session's reading is shortest."""
    reading = [sum(m for title, (m, _) in lesson.sections.items() if title not in NOT_TEXT) for lesson in lessons]
    count, n = min(SESSIONS, len(lessons)), len(lessons)
    splits = ([0, *cut, n] for cut in combinations(range(1, n), count - 1))
    split = min(splits, key=lambda s: sorted((sum(reading[a:b]) for a, b in zip(s, s[1:])), reverse=True))
    titles = [
        "session",
        "together",
        "sections alone, afterwards",
        "lecture",
        "predict",
        "exercises",
        "quiz, questions",
        "computing",
    ]
    rows = [titles]
    for number, (a, b) in enumerate(zip(split, split[1:]), 1):
        rows.append([str(number), *_session(lessons[a:b])])
    return _table(rows)


def _table(rows: list[list[str]]) -> str:
    rows = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def _session(lessons: list[Lesson]) -> list[str]:
    """One row. Sections without a question are left to read alone, the last first, until the rest fits into the session."""
    sections = [(l.title[:2], t, *s) for l in lessons for t, s in l.sections.items() if t not in NOT_TEXT]
    exercises, alone = sum(lesson.exercises for lesson in lessons), []
    predict = GUESS * sum(questions for *_, questions in sections)
    room = LENGTH - QUIZ - predict - EXERCISE[0] * exercises  # minutes for the lecture
    lecture = sum(minutes for _, _, minutes, _ in sections)
    for lesson, title, minutes, questions in reversed(sections):
        if lecture > room and not questions and title != "opening":
            alone.insert(0, (lesson, title.split(" · ")[0]))
            lecture -= minutes
    solving = max(min(EXERCISE[1] * exercises, LENGTH - QUIZ - predict - round(lecture)), 0)
    minutes = [round(lecture), predict, solving, LENGTH - round(lecture) - predict - solving]
    left = {n: ", ".join(title for m, title in alone if m == n) for n in dict(alone)}
    return [
        ", ".join(lesson.title[:2] for lesson in lessons),
        "; ".join(f"{n}: {titles}" for n, titles in left.items()) or "nothing",
        *(f"{m} min" for m in minutes),
        _together(lessons),
    ]


def refresh(home: Path = Path(".")) -> list[str]:
    """Bring the measured times into the lessons' opening cells, and table and schedule into `notebooks/README.md`.

    Times come from `data/results/lessons-quick.json`, after what `dumenet reproduce` measured here has been copied to it;
    a lesson that is not in it keeps what it says. Returns the names of the files that changed.
    """
    home, changed = Path(home), []
    measured, fresh = home / "data" / "results" / "lessons-quick.json", home / "build" / "lessons-quick.json"
    if fresh.exists():  # what `dumenet reproduce` measured here
        write_atomic(measured, fresh.read_bytes())
    try:
        lessons = json.loads(_text(measured))["lessons"] if measured.exists() else {}
        seconds = {stem: float(value) for stem, value in lessons.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DumenetError(
            f"{measured} is not a measurement of the lessons: delete it, or run `dumenet reproduce`."
        ) from None
    for path in _paths(home):
        if path.stem in seconds and fill_time(path, seconds[path.stem]):
            changed.append(path.name)
    readme = home / "notebooks" / "README.md"
    old = _text(readme)
    new = with_blocks(old, [read_lesson(path) for path in _paths(home)])
    if new != old:
        write_atomic(readme, new.encode())
        changed.append(readme.name)
    return changed


def with_blocks(readme: str, lessons: list[Lesson]) -> str:
    """The text of the README with table and schedule made anew between their markers."""
    for name, text in (("lessons", lesson_table(lessons)), ("sessions", schedule(lessons))):
        block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not block.search(readme):
            raise DumenetError(f"notebooks/README.md has no block from <!-- {name} --> to <!-- end -->.")
        readme = block.sub(lambda match: f"{match[1]}{text}\n{match[2]}", readme, count=1)  # noqa: B023
    return readme


def fill_time(path: Path, seconds: float) -> bool:
    """Write the measured time into a lesson's opening cell, over TIME or an earlier time; True if it changed."""
    notebook = _notebook(path)
    opening = notebook["cells"][0]
    old = "".join(opening["source"])
    new, count = TAKES.subn(lambda match: f"{match[1]}{readable(seconds)}{match[3]}", old)
    if count != 1:
        raise DumenetError(f"{path.name}: its first cell does not say `**It takes** about TIME on two CPU cores`.")
    if new == old:
        return False
    opening["source"] = _lines(new)
    write_atomic(path, _dump(notebook).encode())
    return True


def readable(seconds: float) -> str:
    """Rounded for a reader: to 5 s below 90 s, else to half a minute."""
    if seconds < 87.5:
        return f"{max(5, 5 * round(seconds / 5))} s"
    return f"{round(seconds / 30) / 2:g} minutes"


def _seconds(text: str) -> float | None:
    """What `readable` said; None if the text is something else, such as TIME."""
    match = re.fullmatch(r"([\d.]+) (s|minutes?)", " ".join(text.split()))
    return float(match[1]) * (1 if match[2] == "s" else 60) if match else None


def _copied(notebook: dict, text: Callable[[str], str]) -> dict:
    """A copy three folders below the project: links and `home` go up as far; `text` changes the Markdown."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            cell["source"] = _lines(_deeper(text(source)))
        elif "parameters" in cell["metadata"].get("tags", []):
            cell["source"] = _lines(re.sub(r'(?m)^home = "\.\."', 'home = "../../.."', source))
    return notebook


def _deeper(text: str) -> str:
    return text.replace("](../", "](../../../")


def _lines(text: str) -> list[str]:
    """Text as a notebook keeps it."""
    return text.splitlines(keepends=True)


def _dump(notebook: dict) -> str:
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"  # as nbformat writes it


def _paths(home: Path) -> list[Path]:
    paths = sorted((home / "notebooks").glob("[0-9]*.ipynb"))
    if not paths:
        raise DumenetError(f"No lessons in {home / 'notebooks'}: run this in a clone of the project.")
    return paths


def _notebook(path: Path) -> dict:
    try:
        notebook = json.loads(_text(path))
        whole = all({"cell_type", "metadata", "source"} <= set(cell) for cell in notebook["cells"])
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole or not notebook["cells"]:
        raise DumenetError(f"{path.name} is not a whole notebook.")
    return notebook


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DumenetError(f"Cannot read {path}: {error.strerror}.") from None
