"""What the rest of the package knows of a data set: samples, and two lists of them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True, eq=False)
class Sample:
    """One image of a data set, read only when asked.

    `source` is a file or an (H, W, 3) uint8 array; `mask` a file, or None where there is none.
    """

    name: str  # unique inside its data set, e.g. "bottle/test/broken_large/000.png"
    category: str  # "bottle"; for the ten-class protocols the split's name, "{01234}"
    defect: str  # "good" for a normal image, else the defect kind (or the foreign class)
    source: Path | np.ndarray
    mask: Path | None = None

    @property
    def label(self) -> int:
        """0 normal, 1 anomalous."""
        return int(self.defect != "good")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Normal images to train on and images to test on.

    Where `has_masks` is True every sample has a truth mask (all False on a normal image).
    """

    name: str
    train: list[Sample]
    test: list[Sample]
    has_masks: bool

    @property
    def categories(self) -> list[str]:
        """Names of the categories, sorted."""
        return sorted({s.category for s in self.train + self.test})
