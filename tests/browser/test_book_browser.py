"""The book as a reader meets it: opened from a file, searched, on a telephone too."""

import time
from pathlib import Path

import pytest

from dumenet.course.book import book

ROOT = Path(__file__).resolve().parents[2]
for needed in ("myst_nb", "sphinx_book_theme"):
    pytest.importorskip(needed, reason="an extra: pip install -e '.[book]'")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The folder of the book of this project."""
    return book(ROOT, tmp_path_factory.mktemp("build")).parent


def test_the_search_works_from_a_file(pages, browser):
    browser.get(f"{(pages / 'search.html').as_uri()}?q=memory")
    found, end = [], time.monotonic() + 30
    while not found and time.monotonic() < end:
        found = browser.find_elements("css selector", "#search-results li a")
        time.sleep(0.2)
    assert "03 · The channel memory" in [e.text for e in found]


WIDE = """
const width = document.documentElement.clientWidth, scrolls = (e) => {
  for (let p = e.parentElement; p && p !== document.body; p = p.parentElement)
    if (["auto", "scroll", "hidden"].includes(getComputedStyle(p).overflowX)) return true;
  return false;
};
return [document.documentElement.scrollWidth - width, ...[...document.querySelectorAll(".bd-article *")]
  .filter((e) => e.getBoundingClientRect().right > width + 1 && !scrolls(e)).map((e) => e.outerHTML.slice(0, 200))];
"""


def test_nothing_is_wider_than_a_telephone_but_what_scrolls_in_itself(pages, browser):
    telephone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", telephone)
    try:
        for page in sorted(
            p for folder in (".", "notebooks", "docs", "benchmarks") for p in (pages / folder).glob("*.html")
        ):
            browser.get(page.as_uri())
            assert browser.execute_script(WIDE) == [0], page.name
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
