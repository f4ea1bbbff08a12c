"""dumenet: a notebook-first, executable reproduction of DuMeNet. `Detector` and `load` are its five lines of Python."""

import os
from importlib import import_module
from importlib.metadata import version
from typing import Any

__version__ = version("dumenet")
__all__ = ["Detector", "load"]

# Torch's threads spin while they wait for each other. Beside another busy process (a browser) they wait for one that
# is not running, and a step takes nearly twenty times as long. Spinning for less time makes that three times, and costs
# a few percent alone (benchmarks/beside.py). GNU OpenMP reads this once, when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def __getattr__(name: str) -> Any:
    """`Detector` and `load`, imported when first asked for: torch takes seconds, and `dumenet --help` does without."""
    if name in __all__:
        return getattr(import_module("dumenet.detector"), name)
    raise AttributeError(f"module 'dumenet' has no attribute {name!r}")
