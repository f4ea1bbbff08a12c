"""What the rest of the package knows of a data set: samples, and two lists of them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dumenet.errors import DumenetError, unknown

FEW = 20  # normal images of a category, the fewest for which false alarms were measured


@dataclass(frozen=True, eq=False)
class Sample:
    """One image of a data set; its file is read only when it is needed."""

    name: str  # unique inside its data set, e.g. "bottle/test/broken_large/000.png"
    category: str  # "bottle"; for the ten-class protocols the split's name, "{01234}"
    defect: str  # "good" for a normal image, else the defect kind (or the foreign class)
    source: Path | np.ndarray  # a file, or (H, W, 3) uint8
    mask: Path | None = None  # the file that marks the defect, or a folder of such files; None where there is none
    pixel_range: tuple[float, float] | None = None  # black and white in a file of more than 8 bits, see `to_rgb`
    tile: tuple[int, int, int, int] | None = None  # row, rows, column, columns: the part of the photograph that it is

    @property
    def label(self) -> int:
        """0 normal, 1 anomalous."""
        return int(self.defect != "good")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Normal images to train on and images to test on."""

    name: str
    train: list[Sample]
    test: list[Sample]

    @property
    def masked(self) -> set[str]:
        """Categories that pixel metrics are over: those where no defective test image lacks a mask, if any has one."""
        lacking = {s.category for s in self.test if s.label and s.mask is None}
        return {s.category for s in self.test} - lacking if any(s.mask for s in self.test) else set()

    @property
    def has_masks(self) -> bool:
        """Whether each defective test image has a mask; False where there are none."""
        return bool(self.test) and self.masked == {s.category for s in self.test}

    @property
    def categories(self) -> list[str]:
        """Names of the categories, sorted."""
        return sorted({s.category for s in self.train + self.test})


def cut(samples: Sequence[Sample], tiles: tuple[int, int]) -> list[Sample]:
    """Each photograph as its `tiles`, rows x columns of them, row by row."""
    rows, columns = tiles
    if rows * columns == 1:
        return list(samples)
    places = [(r, rows, c, columns) for r in range(rows) for c in range(columns)]
    return [replace(s, name=f"{s.name}[{p[0]},{p[2]}]", tile=p) for s in samples for p in places]


def joined(tiled: np.ndarray, tiles: tuple[int, int]) -> np.ndarray:
    """Maps or pictures of tiles (n * rows * columns, h, w, ...) as those of the photographs, (n, rows * h, columns * w,
    ...).
    """
    (rows, columns), (h, w, *rest) = tiles, tiled.shape[1:]
    return tiled.reshape(-1, rows, columns, h, w, *rest).swapaxes(2, 3).reshape(-1, rows * h, columns * w, *rest)


def few_normal(dataset: Dataset) -> str:
    """What to expect of verdicts where a category has under `FEW` training images, or one; "" where none has."""
    counts = Counter(s.category for s in dataset.train)
    few = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()) if 1 < count < FEW)
    alone = ", ".join(sorted(name for name, count in counts.items() if count == 1))
    sentences = {
        f"One normal image, of {alone}, leaves none for a threshold: expect scores and no verdicts.": alone,
        f"Thresholds rest on under {FEW} normal images (of {few}): expect three times the false alarms that are "
        f"promised, or more; with {FEW} images, 15 % were measured for 5 % (README, Your own images).": few,
    }
    return " ".join(sentence for sentence, names in sentences.items() if names)


def contaminate(dataset: Dataset, share: float, reserve: float = 0.0, seed: int = 0) -> Dataset:
    """`dataset` with defective test images among its training images, as if nobody had noticed them.

    In each category the defective test images are put into an order drawn by `seed`, and the first k join the training
    set, k / (normal + k) being as near to `share` as it gets. They keep their labels, which training never reads. The
    test set loses them and also those that a share of `reserve` would take: with one reserve and one seed, all shares
    up to it have the same test set, and each training set holds those of the smaller shares.

    Raises:
        DumenetError: a category has too few defective test images; one at least must be left to test on.
    """
    larger = max(share, reserve)
    if not larger:
        return dataset
    added, removed, rng = [], set(), np.random.default_rng(seed)
    for category in dataset.categories:
        normal = sum(s.category == category for s in dataset.train)
        defective = [s for s in dataset.test if s.category == category and s.label]
        add, remove = (round(normal * p / (1 - p)) for p in (share, larger))
        if remove >= max(len(defective), 1):
            raise DumenetError(
                f"{category} has {len(defective)} defective test images: a contamination of {larger:g} would take "
                f"{remove} of them and must leave one to test on."
            )
        order = [defective[i] for i in rng.permutation(len(defective))]
        added += order[:add]
        removed.update(order[:remove])
    return replace(dataset, train=dataset.train + added, test=[s for s in dataset.test if s not in removed])


def hold_out_class(dataset: Dataset, name: str, share: float = 0.2, seed: int = 0) -> Dataset:
    """A data set to choose settings on, made of training images alone: the class `name` plays the anomaly.

    Its images leave the training set and become the anomalies of a new test set; of each other class a random `share`
    follows as normal test images. No test image of `dataset` is used. For ten-class protocols, whose sample names are
    train/<class>/<image>; the name "last" means the last of the classes.

    Raises:
        DumenetError: no such class among the training images, or no other one.
    """
    classes = np.array([s.name.split("/")[1] for s in dataset.train])
    name = max(classes) if name == "last" else name
    if name not in classes or (classes == name).all():
        raise unknown("training class", name, sorted(set(classes)))
    rng, tested = np.random.default_rng(seed), set()
    for other in sorted(set(classes) - {name}):
        rows = np.flatnonzero(classes == other)
        tested.update(rng.choice(rows, max(1, round(share * len(rows))), replace=False).tolist())
    train = [s for i, s in enumerate(dataset.train) if classes[i] != name and i not in tested]
    normal = [dataset.train[i] for i in sorted(tested)]
    anomalous = [replace(s, defect=name) for i, s in enumerate(dataset.train) if classes[i] == name]
    return replace(dataset, train=train, test=normal + anomalous)


def as_classes(dataset: Dataset, normals: str) -> Dataset:
    """The ten-class question asked of any data set: its categories are the classes, its defective images are left out.

    `normals` are digits, places in the sorted list of the first ten categories: those are normal, and the normal test
    images of the others are the anomalies. The new data set has one category, its split's name.

    Raises:
        DumenetError: no normal class, or no foreign one.
    """
    classes, split, parts = dataset.categories[:10], f"{{{normals}}}", []
    own = {name for k, name in enumerate(classes) if str(k) in normals}
    if not own or own == set(classes):
        raise DumenetError(f"Of the classes {', '.join(classes)} some must be normal and some foreign, not {split}.")
    for samples, taken in ((dataset.train, own), (dataset.test, classes)):
        chosen = [s for s in samples if s.category in taken and not s.label]
        parts.append([replace(s, category=split, defect="good" if s.category in own else s.category) for s in chosen])
    return Dataset(dataset.name, *parts)
