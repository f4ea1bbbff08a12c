"""ELPV: photographs of solar cells by their own light, from the package `elpv-dataset`; labels of images, no masks.

Buerhop-Lutz et al. 2018 (doi:10.4229/35thEUPVSEC20182018-5CV.3.15), Deitsch et al. 2019
(doi:10.1016/j.solener.2019.02.067): 2,624 grey images of 300 x 300, each with the probability that the cell is
defective. The images are licensed CC BY-NC-SA 4.0: not for commercial use.
"""

import importlib.util
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from dumenet.data.folders import choose
from dumenet.data.samples import Dataset, Sample
from dumenet.errors import DumenetError

LABELS = {"0.0": "good", "1.0": "defective"}  # by probability; the cells at 1/3 and 2/3 are left out
TEST_EVERY = 4  # the fourth, eighth, ... normal image of a category is for testing


def read_elpv(categories: str | Iterable[str] = "all") -> Dataset:
    """Solar cells of two categories, "mono" and "poly" (mono- and polycrystalline); all defective ones are test images.

    Three quarters of the normal images are for training: all but every fourth one in the file's order. The labels do
    not say which module a cell is from, so one module may have cells in both parts.

    Raises:
        DumenetError: the package is not installed, or an unknown category.
    """
    package = importlib.util.find_spec("elpv_dataset")
    if package is None:
        raise DumenetError("The data set elpv is in a package that is not installed: pip install elpv-dataset.")
    root = Path(package.submodule_search_locations[0]) / "data"
    rows = [line.split() for line in (root / "labels.csv").read_text(encoding="utf-8").splitlines()]
    chosen, seen, samples = choose({kind for _, _, kind in rows}, categories), Counter(), {"train": [], "test": []}
    for file, probability, kind in rows:
        if kind in chosen and (defect := LABELS.get(probability)):
            seen[kind] += defect == "good"
            part = "train" if defect == "good" and seen[kind] % TEST_EVERY else "test"
            samples[part].append(Sample(f"{kind}/{part}/{defect}/{Path(file).name}", kind, defect, root / file))
    return Dataset("elpv", **samples)
