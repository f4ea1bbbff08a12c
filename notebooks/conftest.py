"""For `make test`, which executes the lessons: every figure that a cell shows has a text."""

import re

import pytest


def texts(output):
    """The text alternative of each picture in one output of a cell."""
    data = output.get("data", {})
    if "image/png" in data:
        yield output.get("metadata", {}).get("image/png", {}).get("alt", "")
    for picture in re.findall(r"<img[^>]*>", "".join(data.get("text/html", ""))):
        yield (re.search(r'\balt="([^"]*)"', picture) or ["", ""])[1]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    result = yield
    for output in getattr(item, "test_outputs", None) or ():
        for text in texts(output):
            assert len(text) >= 30, (
                f"a figure whose text is too short to say what it shows: {text!r}"
            )
    return result
