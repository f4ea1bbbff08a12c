"""The explorer of lesson 12 as an app: the lesson's cells tagged `app`, without the lesson around them."""

from pathlib import Path
from typing import Any

from nbformat import v4

from dumenet.course.classroom import dump, read, tags_of
from dumenet.errors import DumenetError
from dumenet.files import write_atomic

LESSON, APP = "notebooks/12_explorer.ipynb", "build/explorer.ipynb"  # each one folder below the project's
TITLE = "# Heatmap explorer\n\nWhat the numbers mean, and six tasks to try: lesson 12, `notebooks/12_explorer.ipynb`."


def write_app(parameters: dict[str, Any], home: Path = Path(".")) -> str:
    """Write the app's notebook; returns its path inside `home`.

    Args:
        parameters: values for the lesson's parameters, for example ``data``.

    Raises:
        DumenetError: no lesson 12 in `home`.
    """
    if not (home / LESSON).is_file():
        raise DumenetError(f"There is no {LESSON} here: run this in a clone of the project.")
    notebook = read(home / LESSON)
    notebook.cells = [cell for cell in notebook.cells if {"parameters", "app"} & set(tags_of(cell))]
    given = "".join(f"{name} = {value!r}\n" for name, value in parameters.items())
    notebook.cells.insert(1, v4.new_code_cell(given, id="given"))
    notebook.cells.insert(0, v4.new_markdown_cell(TITLE, id="title"))
    write_atomic(home / APP, dump(notebook))
    return APP
