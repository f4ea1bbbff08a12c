"""dumenet: a notebook-first, executable reproduction of DuMeNet."""

from importlib.metadata import version

__version__ = version("dumenet")
