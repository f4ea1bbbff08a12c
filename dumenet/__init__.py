"""dumenet: a notebook-first, executable reproduction of DuMeNet. `Detector` and `load` are its five lines of Python."""

from importlib import import_module
from importlib.metadata import version
from typing import Any

__version__ = version("dumenet")
__all__ = ["Detector", "load"]


def __getattr__(name: str) -> Any:
    """`Detector` and `load`, imported when first asked for: torch takes seconds, and `dumenet --help` does without."""
    if name in __all__:
        return getattr(import_module("dumenet.detector"), name)
    raise AttributeError(f"module 'dumenet' has no attribute {name!r}")
