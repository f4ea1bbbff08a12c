"""Copies of the lessons for a class, and the table of `notebooks/README.md`, all from `notebooks/*.ipynb`.

A lesson is written once, with its solutions: cells tagged `solution`, with the lines `# Hint: ...` and `# Hint 2: ...`.
The student's copy keeps signature and docstring of a solution; a folded cell brings the hints, and the folded answers
are gone. The self-study copy keeps these, and folds each solution below its check. The instructor's copy keeps the
solutions and unfolds the answers. nbgrader's course is in `assignments`.
"""

import ast
import json
import re
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

from dumenet.course import lessons
from dumenet.errors import DumenetError
from dumenet.files import write_atomic
from dumenet.results import markdown

WORDS, LINES = 200, 20  # read in a minute: words of text, lines of code
TODO = "# Your code takes the place of the next line."
HINT = re.compile(
    r"^ *# Hint(?: 2)?: *(.*(?:\n *# (?!Hint).*)*)\n", re.MULTILINE
)  # a long one goes on in a next comment
ANSWER = re.compile(r"\n*([ \t]*)<details[^>]*>.*?</details>[ \t]*\n*", re.DOTALL)
OPENING = {  # what a lesson's first cell says
    "title": r"# (\d\d · [^\n]+)", "goal": r"\*\*You will be able to\*\*\s+(.+?)(?:[,.]\s|[.]?\n\n|[.]?\Z)",
    "needs": r"\*\*You need\*\*\s+(.+?)[.]?(?:\n\n|\Z)", "time": r"\*\*It takes\*\* about (.*?)\s+on two CPU cores",
}  # fmt: skip


def classroom(home: Path = Path(".")) -> Path:
    """Write `build/classroom/{student,selfstudy,instructor}/`; returns that folder. Files there are written anew."""
    out, index = Path(home) / "build" / "classroom", Path(home) / "notebooks" / "README.md"
    for convert in (student, selfstudy, instructor):
        files = {path.name: dump(convert(read(path), path.name)) for path in lessons(Path(home))}
        files["INDEX.md"] = _deeper(index.read_text(encoding="utf-8")).encode()
        for old in (out / convert.__name__).glob("[!.]*"):
            if old.name not in files:  # of a lesson that is no longer there
                old.unlink()
        for file, content in files.items():
            write_atomic(out / convert.__name__ / file, content)
    return out


def student(notebook: NotebookNode, name: str, answers: bool = False) -> NotebookNode:
    """The student's copy of a `notebook`, which it changes; `name` is for errors. `answers`: folded ones stay.

    A cell that names the function of an exercise is tagged `raises-exception`: "Run All" goes on after it.
    """
    exercises = {exercise.function: exercise for exercise in exercises_of(notebook, name)}
    todo, asked = iter(exercises.values()), False
    quiz = any("quiz" in tags_of(cell) for cell in notebook.cells)
    for cell in _adapt(notebook).cells:
        tags = tags_of(cell)
        if cell.cell_type == "markdown" and not answers:
            asked = asked or (quiz and re.search(r"(?m)^## Quiz$", cell.source))  # answered in its own cell
            cell.source = ANSWER.sub(r"\n\n" if asked else r"\n\n\1*Your answer:*\n\n", cell.source).rstrip()
        elif "solution" in tags:
            cell.source = next(todo).stub
            cell.metadata.tags = ["exercise" if tag == "solution" else tag for tag in tags]
        elif "quiz" in tags:
            cell.source = re.sub(r"(q\d=)[^,)\n]+", r"\1None", cell.source)
        elif cell.cell_type == "code" and exercises.keys() & set(re.findall(r"\w+", cell.source)):
            cell.metadata.tags = [*tags, "raises-exception"]
    if exercises:
        start = next((i for i, cell in enumerate(notebook.cells, 1) if "parameters" in tags_of(cell)), 1)
        notebook.cells.insert(start, _hints(list(exercises.values())))
    return notebook


def selfstudy(notebook: NotebookNode, name: str) -> NotebookNode:
    """The copy to learn from alone: the student's, with all answers folded, those of the exercises, too."""
    exercises = exercises_of(notebook, name)
    for exercise in exercises:
        text = f"<summary>Solution of exercise {exercise.number}</summary>\n\n```python\n{exercise.solution}\n```"
        text = f"<details>{text}\n\n</details>"
        code = [(i, cell.source) for i, cell in enumerate(notebook.cells, 1) if cell.cell_type == "code"]
        below = next(i for i, source in code if exercise.check in source)
        notebook.cells.insert(below, new_markdown_cell(text, id=f"solution-{exercise.number.replace('.', '-')}"))
    return student(notebook, name, answers=True)


def instructor(notebook: NotebookNode, name: str = "") -> NotebookNode:
    """The instructor's copy of a `notebook`, which it changes: answers unfolded."""
    for cell in _adapt(notebook).cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"<details\s*>", "<details open>", cell.source)
    return notebook


class Exercise(NamedTuple):
    """One exercise of a lesson, from its solution cell and the cell that checks it."""

    number: str  # "03.1"
    function: str
    head: str  # imports, signature and docstring
    body: str  # what a student writes
    hints: list[str]

    @property
    def check(self) -> str:
        """The code that checks the function."""
        return f"check.exercise_{self.number.replace('.', '_')}({self.function})"

    @property
    def solution(self) -> str:
        """The solution without its hints."""
        return f"{self.head}\n{self.body}"

    @property
    def stub(self) -> str:
        """The solution with a note in the place of its body."""
        return f'{self.head}\n    {TODO}\n    raise check.NotDone("{self.number}")'


def exercises_of(notebook: NotebookNode, name: str) -> list[Exercise]:
    """The exercises of a lesson, from its cells tagged `solution`; DumenetError where one lacks a part."""
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    found = []
    for number, cell in enumerate(notebook.cells, 1):
        if "solution" in tags_of(cell):
            where = f"{name}, cell {number}"
            function, *parts = solution_parts(cell.source, where)
            if not (called := re.search(rf"check\.exercise_(\d\d)_(\d)\({function}\)", code)):
                raise DumenetError(f"{where}: no cell checks it with check.exercise_NN_K({function}).")
            found.append(Exercise(f"{called[1]}.{called[2]}", function, *parts))
    return found


def solution_parts(source: str, where: str) -> tuple[str, str, str, list[str]]:
    """Of a solution cell: the function's name; imports, signature and docstring; its body; the hints."""
    try:
        body = ast.parse(source).body
    except SyntaxError as error:
        raise DumenetError(f"{where}: the solution is not Python: {error.msg}, line {error.lineno}.") from None
    hints = [" ".join(re.sub(r"\n *# ", " ", text).split()) for text in HINT.findall(source)]
    rest = [node for node in body if not isinstance(node, (ast.Import, ast.ImportFrom))]
    whole = len(rest) == 1 and isinstance(rest[0], ast.FunctionDef) and ast.get_docstring(rest[0])
    if not whole or not hints or not hints[0]:
        raise DumenetError(
            f"{where}: a solution holds a line `# Hint: one sentence.`, imports, and exactly one function, with a "
            "docstring that says what goes in and what comes out."
        )
    begins = rest[0].body[0].end_lineno  # the docstring's last line
    lines = source.splitlines()
    head, body = (HINT.sub("", "\n".join(part) + "\n").rstrip("\n") for part in (lines[:begins], lines[begins:]))
    return rest[0].name, head.lstrip("\n"), body.lstrip("\n"), hints


def _hints(exercises: list[Exercise]) -> NotebookNode:
    """A folded cell that brings the hints of a lesson."""
    hints = json.dumps({exercise.number: exercise.hints for exercise in exercises}, indent=4, ensure_ascii=False)
    folded = {"jupyter": {"source_hidden": True}, "tags": ["hide-input"]}
    note = "# Hints: an exercise's check gives the first one, and the second when you run it again."
    source = f"{note}\nfrom dumenet.course import check\n\ncheck.HINTS.update({hints})"
    return new_code_cell(source, metadata=folded, id="hints")


def _adapt(notebook: NotebookNode) -> NotebookNode:
    """Links and `home` go up from three folders below the project."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _deeper(cell.source)
        elif "parameters" in tags_of(cell):
            cell.source = re.sub(r'(?m)^home = "\.\."', 'home = "../../.."', cell.source)
    return notebook


def _deeper(text: str) -> str:
    return text.replace("](../", "](../../../")


# --- the table of notebooks/README.md


class Lesson(NamedTuple):
    """What the table says of one lesson; times are not rounded."""

    name: str  # file name
    title: str  # "03 · The channel memory"
    goal: str
    needs: str
    seconds: float | None  # of a run, as its opening cell says; None: not measured
    minutes: float  # of reading
    cells: int
    exercises: int
    figures: list[str]


def read_lesson(path: Path) -> Lesson:
    """What the table needs of the notebook at `path`; DumenetError where its opening cell lacks a part."""
    cells, said = read(path).cells, {}
    for part, pattern in OPENING.items():
        if not (match := re.search(pattern, cells[0].source, re.DOTALL)):
            raise DumenetError(f"{path.name}: its first cell does not say the {part} of the lesson in the usual form.")
        said[part] = " ".join(match[1].split())
    time = re.fullmatch(r"([\d.]+) (s|minutes?)", said.pop("time"))  # or TIME
    seconds = float(time[1]) * (1 if time[2] == "s" else 60) if time else None
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    minutes = len(text.split()) / WORDS + sum(map(bool, map(str.strip, code.splitlines()))) / LINES
    figures = [re.sub(r"\{.*?\}", "*", name) for name in re.findall(rf'"({path.stem[:2]}_[^".]*)"', code)]
    exercises, figures = sum("solution" in tags_of(cell) for cell in cells), list(dict.fromkeys(figures))
    return Lesson(path.name, *said.values(), seconds, minutes, len(cells), exercises, figures)


def lesson_table(lessons: list[Lesson]) -> str:
    """The lessons as a Markdown table."""
    rows = [["lesson", "you learn to", "you need", "reading", "run", "cells", "exercises", "figures"]]
    for x in lessons:
        run = "not measured" if x.seconds is None else readable(x.seconds)
        figures = " ".join(f"`{figure}`" for figure in x.figures) or "none"
        counts = [f"{x.minutes:.0f} min", run, str(x.cells), str(x.exercises), figures]
        rows.append([f"[{x.title}]({x.name})", x.goal, x.needs, *counts])
    sums = [sum(numbers) for numbers in zip(*((x.cells, x.exercises, len(x.figures)) for x in lessons))]
    times = [f"{sum(x.minutes for x in lessons) / 60:.1f} h", readable(sum(x.seconds or 0 for x in lessons))]
    return markdown([*rows, ["**all**", "", "", *times, *map(str, sums)]])


def readable(seconds: float) -> str:
    """Rounded for a reader: to 5 s below 90 s, else to half a minute."""
    return f"{max(5, 5 * round(seconds / 5))} s" if seconds < 87.5 else f"{round(seconds / 30) / 2:g} minutes"


def refresh(home: Path = Path(".")) -> list[str]:
    """Bring the measured times into the lessons' opening cells, and the table of lessons into `notebooks/README.md`.

    Times come from `data/results/lessons-quick.json`, after what `dumenet reproduce` measured here has been copied to
    it; a lesson that is not in it keeps what it says. Returns the names of the files that changed.
    """
    home, changed = Path(home), []
    measured, fresh = home / "data" / "results" / "lessons-quick.json", home / "build" / "lessons-quick.json"
    if fresh.exists():
        write_atomic(measured, fresh.read_bytes())
    seconds = json.loads(measured.read_text())["lessons"] if measured.exists() else {}
    for path in lessons(home):
        notebook = read(path)
        opening = notebook.cells[0].source
        if path.stem in seconds and (match := re.search(OPENING["time"], opening, re.DOTALL)):
            now = readable(seconds[path.stem])
            notebook.cells[0].source = opening[: match.start(1)] + now + opening[match.end(1) :]
            changed += _write(path, dump(notebook))
    readme = home / "notebooks" / "README.md"
    return changed + _write(readme, with_table(readme.read_text(encoding="utf-8"), home).encode())


def _write(path: Path, content: bytes) -> list[str]:
    """The file's name if its content is new, and then is written."""
    if content == path.read_bytes():
        return []
    write_atomic(path, content)
    return [path.name]


def with_table(readme: str, home: Path) -> str:
    """The text of the README with the table of the lessons in `home` made anew between its markers."""
    before, marker, rest = readme.partition("<!-- lessons -->\n")
    _, end, after = rest.partition("<!-- end -->")
    if not end:
        raise DumenetError("notebooks/README.md has no block from <!-- lessons --> to <!-- end -->.")
    table = lesson_table([read_lesson(path) for path in lessons(home)])
    return f"{before}{marker}{table}\n{end}{after}"


def read(path: Path) -> NotebookNode:
    """The notebook at `path`; DumenetError where it is not one."""
    try:
        notebook = nbformat.read(path, 4)
        nbformat.validate(notebook)
        notebook.cells[0]  # every lesson opens with one
    except Exception as error:  # no JSON, or no notebook
        raise DumenetError(f"{path.name} is not a whole notebook.") from error
    return notebook


def tags_of(cell: NotebookNode) -> list[str]:
    """The tags of a cell."""
    return cell.metadata.get("tags", [])


def dump(notebook: NotebookNode) -> bytes:
    """The content of a notebook's file."""
    return f"{nbformat.writes(notebook)}\n".encode()
