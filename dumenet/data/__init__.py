"""Data sets: folders in MVTec-AD's layout and others like it, CIFAR-10's ten-class protocol, and data in packages."""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from dumenet.data.check import check_folder
from dumenet.data.cifar import SPLITS, is_cifar10, parse_normals, read_cifar10, read_digits
from dumenet.data.elpv import read_elpv
from dumenet.data.factory import make_factory
from dumenet.data.folders import describe, locate, read_folder, write_index
from dumenet.data.images import (
    IMAGE_SUFFIXES,
    OUTPUTS,
    READERS,
    check_masks,
    check_range,
    content_key,
    find_images,
    load_image,
    load_mask,
    photograph,
    read_ahead,
)
from dumenet.data.samples import Dataset, Sample, as_classes, contaminate, cut, few_normal, hold_out_class, joined
from dumenet.errors import DumenetError, shown


def open_dataset(
    source: str | Path,
    categories: str | Iterable[str] = "all",
    normals: str = "01234",
    home: Path = Path("data"),
    per_class_train: int | None = None,
    per_class_test: int | None = None,
    seed: int = 0,
    normal_names: Iterable[str] = (),
    pixel_range: tuple[float, float] | None = None,
) -> Dataset:
    """The data set that `source` names.

    Args:
        source: "factory" (made when it is missing in `home`/factory, always with seed 0), "digits", "elpv"
            (see `read_elpv`), or a path: what `read_folder` takes, or CIFAR-10.
        categories: one name, several, or "all"; ten classes have one, their split.
        normals, per_class_train, per_class_test, seed: for the ten-class protocols, see `read_cifar10`.
        normal_names: see `read_folder`.
        pixel_range: of its images, see `to_rgb`.

    Raises:
        DumenetError: no such data, categories of ten classes, images whose range must be stated, a mask of another size
            than its image, or a package that is missing.
    """
    if source == "factory":
        return read_folder(make_factory(Path(home) / "factory"), categories)
    if source == "elpv":
        return read_elpv(categories)
    if source != "digits" and not is_cifar10(source):
        found = read_folder(source, categories, normal_names=normal_names)
        train, test = ([replace(s, pixel_range=pixel_range) for s in part] for part in (found.train, found.test))
        check_range(train)
        check_masks(test)
        return replace(found, train=train, test=test)
    split = parse_normals(normals)
    for name in [categories] if isinstance(categories, str) else categories:
        if name not in ("all", normals, split, f"{{{split}}}"):
            raise DumenetError(
                f"{source} has no category {shown(name)}, only the split {{{split}}}: splits are chosen by "
                "data.normals, e.g. `--set data.normals=56789`."
            )
    if source == "digits":
        return read_digits(normals, per_class_train, per_class_test, seed)
    return read_cifar10(source, normals, per_class_train, per_class_test, seed)


def fingerprint(dataset: Dataset) -> str:
    """16 hex digits that change with any image's name, category, label or content; results files record it."""
    several = len(dataset.categories) > 1
    more = lambda s: f" {s.category}" if several and not s.name.startswith(f"{s.category}/") else ""  # noqa: E731
    lines = sorted(f"{s.name} {s.label} {content_key(s)}{more(s)}" for s in dataset.train + dataset.test)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
