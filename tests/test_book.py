"""The book: what the pages hold, that no link is dead, and that it needs no network."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from nbformat import v4

from dumenet.course import book as module
from dumenet.course.book import book, page
from dumenet.errors import DumenetError

ROOT = Path(__file__).resolve().parents[1]
EXTRA = "an extra: pip install -e '.[book]'"


class Page(HTMLParser):
    """Links, names, pictures and outside resources of one page."""

    def __init__(self, path):
        super().__init__()
        self.links, self.names, self.pictures, self.outside = [], set(), [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.names |= {attrs[k] for k in ("id", "name") if attrs.get(k)}
        if tag == "img":
            self.pictures.append(attrs)
        for link in filter(None, (attrs.get("href"), attrs.get("src"))):
            if link.startswith("data:"):
                continue
            outside = urlsplit(link).scheme or link.startswith("//")
            (self.links if not outside else self.outside if tag != "a" else []).append(link)


def check_links(out):
    """Every relative link of every page leads to a file and to a name in it, and nothing is loaded from outside."""
    pages = {p.resolve(): Page(p) for p in out.rglob("*.html") if "_static" not in p.parts}
    assert len(pages) > 3
    for path, found in pages.items():
        assert not found.outside, f"{path.name} needs a network: {found.outside}"
        assert all(len(picture.get("alt") or "") > 3 for picture in found.pictures), path.name
        for link in found.links:
            where = urlsplit(link)
            target = (path.parent / unquote(where.path)).resolve() if where.path else path
            assert target.exists(), f"{path.name}: {link}"
            if where.fragment and target in pages:
                assert unquote(where.fragment) in pages[target].names, f"{path.name}: {link}"


def lesson(path, cells):
    """A notebook at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    notebook = v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
    path.write_text(json.dumps(notebook))


@pytest.fixture
def small(tmp_path):
    """A project of two lessons, the first of them executed, and three documents."""
    text = (
        "# 00 · First\n\nSee [the next](01_second.ipynb), [the start](../README.md) and $W = \\frac12$.\n\n"
        "1. Why?\n\n   <details><summary>Answer</summary>\n   Because $a^2$, **so**.\n   </details>\n"
    )
    cells = [
        v4.new_markdown_cell(text), v4.new_code_cell("slider"), v4.new_code_cell("1 + 1"),
        v4.new_code_cell("# Hint: two.\ndef f():\n    return 2", metadata={"tags": ["solution"]}),
    ]  # fmt: skip
    lesson(tmp_path / "notebooks" / "00_first.ipynb", cells)
    lesson(tmp_path / "notebooks" / "01_second.ipynb", [v4.new_markdown_cell("# 01 · Second"), v4.new_code_cell("'x'")])
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "0"}, "text/plain": "FloatSlider(value=0.2)"}
    picture = {"text/html": '<img alt="two curves that cross" src="data:image/png;base64,AAAA">'}
    cells[1].outputs = [v4.new_output("display_data", view), v4.new_output("display_data", picture)]
    table = {"text/markdown": "| of | the sum |\n| --- | --- |\n| $a$ | 5 |"}
    cells[2].outputs = [
        v4.new_output("execute_result", {"text/plain": "the sum is 2"}, execution_count=2),
        v4.new_output("display_data", table),
    ]
    given = v4.new_code_cell('# Parameters\nprofile = "laptop"\n', metadata={"tags": ["injected-parameters"]})
    lesson(tmp_path / "build" / "notebooks" / "00_first.ipynb", [cells[0], given, *cells[1:]])
    pages = {
        "README.md": "# start\n\n[first](notebooks/00_first.ipynb), [audit](docs/AUDIT.md#a-claim), [code](code.py)\n",
        "docs/AUDIT.md": "# Audit\n\n## A claim\n\n[evidence](../data/results/a.json)\n",
        "data/results/a.json": "{}", "code.py": "x = 1\n",
    }  # fmt: skip
    for name, content in pages.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


def test_a_small_book(small):
    pytest.importorskip("myst_nb", reason=EXTRA)
    pytest.importorskip("sphinx_book_theme", reason=EXTRA)
    out = book(small).parent
    assert out == small / "build" / "book"
    check_links(out)
    first, second = ((out / "notebooks" / f"{name}.html").read_text() for name in ("00_first", "01_second"))
    assert "the sum is 2" in first and "profile <code" in first and "laptop" in first and "two curves" in first
    assert "Not executed here" in second and "Not executed" not in first and "injected" not in first
    assert "FloatSlider" not in first and "widget-view" not in first and "Controls stand here" in first
    assert "<mfrac>" in first and "<strong>so</strong>" in first and "<summary>Answer</summary>" in first
    assert "<th" in first and "the sum</p></th>" in first.replace("\n", "")  # a table among the outputs
    assert "Show the answer" in first and "notebooks/01_second.ipynb" in second
    assert (out / "searchindex.js").exists() and "mathjax" not in first.replace("mathjax_ignore", "").lower()


def test_outputs_of_an_older_lesson_are_not_shown(small):
    path = small / "notebooks" / "00_first.ipynb"
    path.write_text(path.read_text().replace("1 + 1", "1 + 2"))
    cells = page(small, path).cells
    assert "Not executed here, or changed since" in cells[0].source and not any(c.get("outputs") for c in cells)


@pytest.mark.parametrize(
    ("text", "message"),
    [("[gone](gone.md)", "README|index.*gone"), ("$\\frac{1}$", "frac"), ("[x](docs/AUDIT.md#no-claim)", "no-claim")],
)
def test_a_dead_link_or_a_wrong_formula_ends_the_build(small, text, message):
    pytest.importorskip("myst_nb", reason=EXTRA)
    pytest.importorskip("sphinx_book_theme", reason=EXTRA)
    (small / "README.md").write_text(f"# start\n\n{text}\n")
    with pytest.raises(DumenetError, match="could not be built") as caught:
        book(small)
    assert re.search(message, str(caught.value)) and "\n" not in str(caught.value)


def test_without_the_extra_there_is_a_sentence(small, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(DumenetError, match=r"needs sphinx, myst_nb, sphinx_book_theme: pip install -e '.\[book\]'"):
        book(small)


def test_the_book_of_this_project(tmp_path):
    pytest.importorskip("myst_nb", reason=EXTRA)
    pytest.importorskip("sphinx_book_theme", reason=EXTRA)
    out = book(ROOT, tmp_path).parent
    check_links(out)
    assert len(list((out / "notebooks").glob("[0-9]*.html"))) == len(list((ROOT / "notebooks").glob("[0-9]*.ipynb")))
