"""What only the lessons need."""

import html
from pathlib import Path
from typing import TYPE_CHECKING

from dumenet.errors import DumenetError, unknown

if TYPE_CHECKING:
    from pandas import DataFrame

PROFILES = ("quick", "laptop", "paper")  # how long lessons train


def project(home: str | Path, profile: str) -> Path:
    """The project's folder, where a lesson finds data/, figures/ and build/; DumenetError for an unknown `profile`.

    `home` leads there from the lesson's own folder. Papermill runs a lesson where papermill is started: in the
    project's folder itself, a `home` that only goes up would lead too far; from where nbgrader runs a submission, not
    far enough: then the next folder above that holds `notebooks/` is taken.
    """
    if profile not in PROFILES:
        raise unknown("profile", profile, PROFILES)
    if set(Path(home).parts) != {".."}:
        return Path(home)
    above = (Path(*[".."] * k) for k in range(1, len(Path.cwd().parts)))
    return next((path for path in (Path(), Path(home), *above) if (path / "notebooks").is_dir()), Path(home))


def lessons(home: Path) -> list[Path]:
    """The lessons of a clone of the project, in order; DumenetError where there are none."""
    paths = sorted((home / "notebooks").glob("[0-9]*.ipynb"))
    if not paths:
        raise DumenetError(f"No lessons in {home / 'notebooks'}: run this in a clone of the project.")
    return paths


def folded(table: "DataFrame | str", summary: str) -> None:
    """Show a long `table`, a DataFrame or Markdown (or HTML) text, in a notebook: folded, under the line `summary`."""
    from IPython.display import HTML, Markdown, display

    kind, text = (Markdown, table) if isinstance(table, str) else (HTML, table.to_html(border=0))
    lines = [f"<details><summary>{html.escape(summary)}</summary>", text.strip(), "</details>"]
    display(kind("\n\n".join(lines)))  # between empty lines Markdown stays Markdown
