"""The course as a static site: executed lessons, README, tables, audit, notes. Opened from a file, without a network.

`book` collects the sources into `build/book-source`, in the folders that they have in the project, so that their links
hold, and Sphinx writes `build/book` from them. Sphinx loads this module too, as an extension (`setup`): formulas are
written as MathML, which every browser draws by itself; MathJax would come from a network.
"""

import re
import shutil
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nbformat import NotebookNode, v4

from dumenet.course import lessons
from dumenet.course.classroom import dump, read, tags_of
from dumenet.errors import DumenetError
from dumenet.files import write_atomic

PARTS = {  # what the navigation shows, and in which order; the README is the first page
    "The course": ["notebooks/README.md", "notebooks/[0-9]*.ipynb"],
    "Results": ["docs/TABLES.md", "docs/AUDIT.md", "benchmarks/RESULTS.md"],
    "The project": ["docs/ARCHITECTURE.md", "docs/*.md", "data/README.md", "figures/README.md", "CONTRIBUTING.md"],
}
CONFIG = {
    "project": "dumenet", "author": "the dumenet authors",
    "extensions": ["myst_nb", __name__], "exclude_patterns": ["notebooks/run/*"],
    "html_theme": "sphinx_book_theme", "html_title": "dumenet", "html_static_path": ["_static"],
    "html_css_files": ["book.css"], "html_copy_source": False, "html_math_renderer": "mathml",
    "html_show_search_summary": False,  # a page opened from a file may not fetch another
    "html_theme_options": {"use_download_button": False, "home_page_in_toc": True, "show_toc_level": 2},
    "nb_execution_mode": "off", "nb_ipywidgets_js": {}, "nb_output_stderr": "remove",
    "nb_render_markdown_format": "myst",  # an output may be a table
    "nb_code_prompt_show": "Show the code", "nb_code_prompt_hide": "Hide the code",
    "myst_enable_extensions": ["dollarmath", "amsmath"], "myst_heading_anchors": 4,
    "myst_url_schemes": ["http", "https", "mailto"],
}  # fmt: skip
STYLE = """
.cell_output, .cell_output .output, div.math, .bd-article table { max-width: 100%; overflow-x: auto; }
.bd-article { overflow-wrap: break-word; }
.bd-article code .pre { white-space: normal; }
.bd-article details { margin: 0 0 1rem; }
.bd-article details > summary { cursor: pointer; color: var(--pst-color-link); }
math { font-size: 1.1em; }
"""
FOLDED = re.compile(r"(?ms)^( *)(<details[^>]*>) *(<summary>.*?</summary>)\s*?\n(.*?)\n? *</details>")
LINK = re.compile(r"(\]\()([^)\s:#]+)((?:#[^)]*)?\))")
CONTROL = "*Controls stand here while the lesson runs; the figure below shows the same without them.*"


def book(home: Path = Path("."), build: Path | None = None) -> Path:
    """Write `book` in `build` (default: the project's), a site to be opened at `index.html`; returns that file.

    Raises:
        DumenetError: no clone of the project, Sphinx not installed, or a link that leads nowhere.
    """
    if missing := [name for name in ("sphinx", "myst_nb", "sphinx_book_theme") if not find_spec(name)]:
        raise DumenetError(f"The book needs {', '.join(missing)}: pip install -e '.[book]'.")
    build = build or home / "build"
    source, out = build / "book-source", build / "book"
    for folder in (source, out):  # both are made anew
        shutil.rmtree(folder, ignore_errors=True)
    collect(home, source)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    command += ["-d", str(source / ".doctrees"), str(source), str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        first = next((line for line in done.stderr.splitlines() if "WARNING" in line or "rror" in line), done.stderr)
        raise DumenetError(f"The book could not be built: {first.strip().replace(str(source.resolve()) + '/', '')}")
    return out / "index.html"


def collect(home: Path, source: Path) -> list[str]:
    """Write Sphinx's source of the book of the project `home` into the folder `source`; returns its pages."""
    names: dict[str, list[str]] = {}
    for title, patterns in PARTS.items():
        found = [p.relative_to(home).as_posix() for pattern in patterns for p in sorted(home.glob(pattern))]
        names[title] = [name for name in dict.fromkeys(found) if not any(name in other for other in names.values())]
    for path in lessons(home):
        write_atomic(source / "notebooks" / "run" / path.name, path.read_bytes())
        write_atomic(source / "notebooks" / path.name, dump(page(home, path)))
    for name in ["README.md", *(name for found in names.values() for name in found if name.endswith(".md"))]:
        text = (home / name).read_text(encoding="utf-8")
        if name == "README.md":
            name = "index.md"
            text += "".join(_contents(title, found) for title, found in names.items() if found)
        write_atomic(source / name, _linked(text).encode())
    pages = ["index.md", *(name for found in names.values() for name in found)]
    for name in pages:
        _copy_linked(home, source, name)
    write_atomic(source / "_static" / "book.css", STYLE.encode())
    write_atomic(source / "conf.py", "".join(f"{name} = {value!r}\n" for name, value in CONFIG.items()).encode())
    return pages


def page(home: Path, path: Path) -> NotebookNode:
    """The lesson at `path` as a page: as it was executed, if it was; solutions folded, widgets left to their twins."""
    lesson, executed, profile = read(path), home / "build" / "notebooks" / path.name, None
    if executed.exists():
        ran = read(executed)
        cells = [cell for cell in ran.cells if "injected-parameters" not in tags_of(cell)]
        if [c.source for c in cells] == [c.source for c in lesson.cells]:
            given = "".join(c.source for c in ran.cells if "injected-parameters" in tags_of(c))
            profile = (re.search(r'profile = "(\w+)"', given) or ["", "quick"])[1]
            lesson.cells = cells
    lesson.metadata.pop("widgets", None)
    for cell in lesson.cells:
        if cell.cell_type == "markdown":
            cell.source = _linked(FOLDED.sub(r"\1\2\3\n\n\4\n\n\1</details>", cell.source))
            continue
        cell.outputs = [_still(output) for output in cell.outputs]
        if answers := {"solution", "quiz"} & set(tags_of(cell)):
            cell.metadata.tags = [*tags_of(cell), "hide-cell" if "quiz" in answers else "hide-input"]
            cell.metadata["mystnb"] = {"code_prompt_show": "Show the answer", "code_prompt_hide": "Hide the answer"}
    title, _, rest = lesson.cells[0].source.partition("\n")
    lesson.cells[0].source = f"{title}\n\n{_note(path, profile)}\n{rest}"
    return lesson


def _note(path: Path, profile: str | None) -> str:
    """What stands below the title: whether the lesson was executed, and how to run it oneself."""
    said = f"Executed with the profile `{profile}`." if profile else (
        "Not executed here, or changed since: a page without outputs. "
        f"`dumenet reproduce --only {path.stem[:2]}`, then `make book`, adds them."
    )  # fmt: skip
    return (
        f"```{{admonition}} Run this lesson\n{said} To run it in your own Jupyter: "
        f"`.venv/bin/jupyter lab` in a clone of the project, then open `notebooks/{path.name}` "
        f"({{download}}`the notebook alone <run/{path.name}>`).\n```\n"
    )


def _still(output: NotebookNode) -> NotebookNode:
    """An output without a widget's view, which would need a running kernel."""
    if "application/vnd.jupyter.widget-view+json" in output.get("data", {}):
        return v4.new_output("display_data", {"text/markdown": CONTROL})
    return output


def _linked(text: str) -> str:
    """Links to the README lead to the first page."""
    return re.sub(r"(\]\((?:\.\./)?)README\.md(?=[#)])", r"\1index.md", text)


def _copy_linked(home: Path, source: Path, name: str) -> None:
    """Copy the files that a page links and that are no pages: pictures, results, sources."""
    content = (source / name).read_text(encoding="utf-8")
    if name.endswith(".ipynb"):
        content = "\n".join(c.source for c in read(source / name).cells if c.cell_type == "markdown")
    for _, link, _ in LINK.findall(content):
        target = (source / name).parent / link
        original = (home / name).parent / link
        if not target.exists() and original.is_file() and home.resolve() in original.resolve().parents:
            target = source / original.resolve().relative_to(home.resolve())
            write_atomic(target, original.read_bytes())


def _contents(title: str, names: list[str]) -> str:
    """A hidden table of contents: the navigation at the side."""
    return f"\n\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n" + "\n".join(names) + "\n```\n"


# --- the extension


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    inline, block = ((partial(_formula, block=block), None) for block in (False, True))
    app.add_html_math_renderer("mathml", inline, block)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _formula(visitor: Any, node: Any, block: bool) -> None:
    """A formula as MathML; what docutils cannot read is a warning, and so ends the build."""
    from docutils.nodes import SkipNode
    from docutils.utils.math import MathError, latex2mathml
    from sphinx.util.logging import getLogger

    text = node.astext()
    for before in (r"\\[dt]?frac", r"\\[dt]?frac\{[^{}]*\}"):  # TeX reads \frac12 as \frac{1}{2}, docutils does not
        text = re.sub(rf"({before}) *(\w)", r"\1{\2}", text)
    try:
        formula = latex2mathml.tex2mathml(text, as_block=block)
    except MathError as error:
        getLogger(__name__).warning("formula %s: %s", text, error, location=node)
        formula = visitor.encode(text)
    visitor.body.append(f'<div class="math">{formula}</div>' if block else formula)
    raise SkipNode
