"""`dumenet data check`: what is wrong in a folder of MVTec-AD's layout, everything at once."""

from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from dumenet.data.folders import (
    LAYOUT,
    categories_of,
    image_files,
    is_unprintable,
    locate,
    masks_of,
    read_index,
    subfolders,
)
from dumenet.data.images import FORMATS, content_key, is_image, mask_array, open_image
from dumenet.data.samples import Sample
from dumenet.errors import DumenetError

SPLITS = ("ground_truth", "test", "train", "validation")
UNREADABLE = frozenset({".avif", ".dng", ".heic", ".heif", ".jp2"})  # photographs that Pillow alone cannot read


def check_folder(root: str | Path) -> list[str]:
    """Every problem of a folder, one line each; an empty list where it is clean. Decodes every file.

    Beside what cannot be read at all it reports what can be, and is likely wrong: an image of one colour or of several
    frames, a mask that looks inverted, a test image that is trained on or has two labels.

    Raises:
        DumenetError: there is no such folder.
    """
    images, index_folder = locate(Path(root))
    unprintable = [p for top in images.iterdir() for p in (top, *top.rglob("*")) if is_unprintable(p.name)]
    if unprintable:  # nothing else can be read before
        return [
            f"{ascii(str(p))}: name with a control character or not in UTF-8; rename it" for p in sorted(unprintable)
        ]
    problems = _index_problems(images, index_folder)
    categories = categories_of(images)
    if not categories:
        problems.append(f"{root}: no category; expected {LAYOUT}")
    for folder in categories.values():
        problems += [*_layout_problems(folder), *_image_problems(folder)]
    return problems


def _index_problems(images: Path, index_folder: Path) -> list[str]:
    """Lines of an index that cannot be used, and images that it forgets."""
    train, test, problems = read_index(index_folder, images)
    if problems or not (index_folder / "train.json").is_file():
        return problems  # a line that cannot be read may name what seems forgotten
    kinds = [k for c in categories_of(images).values() for part in ("train", "test") for k in subfolders(c / part)]
    listed = {s.source for s in train + test}
    forgotten = [f for kind in kinds for f in image_files(kind) if f not in listed]
    return [f"{f}: neither in train.json nor in test.json, so never read" for f in forgotten]


def _layout_problems(folder: Path) -> Iterator[str]:
    """What lies at the wrong place in one category, or is missing there."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and not path.exists() and not is_image(path):
            yield f"{path}: link to nothing"
    for path in subfolders(folder):
        if path.name not in SPLITS:
            yield f"{path}: stray folder; expected train, test or ground_truth"
    for path in subfolders(folder / "train"):
        if path.name != "good":
            yield f"{path}: stray folder; train holds good only"
    for path in image_files(folder / "train"):
        yield f"{path}: stray image; belongs in train/good"
    good = len(image_files(folder / "train" / "good"))
    if good < 2:
        few = "one image; no other is left for the verdict's threshold" if good else "empty category; no images"
        yield f"{folder}: {few} in train/good"


def _image_problems(folder: Path) -> Iterator[str]:
    """What is wrong with the images and masks of one category."""
    masks, used = masks_of(folder), set()
    first_file: dict[str, Path] = {}  # of each content
    for kind in [k for split in ("train", "validation", "test") for k in subfolders(folder / split)]:
        yield from (f"{p}: stray folder; images lie directly in {kind.name}" for p in subfolders(kind))
        for file in sorted(p for p in kind.iterdir() if p.is_file() and not p.name.startswith(".")):
            if not is_image(file) and _is_picture(file):
                yield f"{file}: not read; save it as PNG, JPEG, BMP or TIFF, named so"
        for file in image_files(kind):
            image = yield from _decoded(file)
            if image is not None:
                key = content_key(Sample(file.name, folder.name, kind.name, file))
                yield from _doubts(file, image, first_file.setdefault(key, file))
            if kind.parent.name != "test" or kind.name == "good" or not masks:
                continue
            mask = masks.get((kind.name, file.stem))
            if mask is None:
                yield f"{file}: image without mask"
            else:
                used.add(mask)
                yield from _mask_problems(mask, image)
    yield from (f"{m}: mask without image" for m in sorted(set(masks.values()) - used))


def _mask_problems(file: Path, image: Image.Image | None) -> Iterator[str]:
    mask = yield from _decoded(file)
    if mask is None:
        return
    marked = mask_array(mask)  # (H, W)
    if image is not None and image.size != mask.size:
        yield f"{file}: mask is {mask.width} x {mask.height}, its image {image.width} x {image.height}"
    elif not marked.any():
        yield f"{file}: empty mask"
    elif marked.mean() > 0.5 and marked[[0, 0, -1, -1], [0, -1, 0, -1]].all():
        yield f"{file}: mask marks {marked.mean():.0%}, all corners too; black and white exchanged?"


def _decoded(file: Path) -> Generator[str, None, Image.Image | None]:
    """The image, as the value of `yield from`; where it cannot be read, None after a problem."""
    try:
        return open_image(file)
    except DumenetError as error:
        yield f"{file}: unreadable; {error}"


def _doubts(file: Path, image: Image.Image, twin: Path) -> Iterator[str]:
    """What may be wrong with an image that can be read; `twin` is the first file with the same bytes."""
    with Image.open(file, formats=FORMATS) as opened:
        frames = getattr(opened, "n_frames", 1) if opened.format != "MPO" else 1  # a phone's: one photograph, twice
    if frames > 1:
        yield f"{file}: holds {frames} frames or pages; only the first is read"
    pixels = np.asarray(image)
    if (pixels == pixels[0, 0]).all():
        yield f"{file}: every pixel has the same colour"
    (split, kind), (other_split, other_kind) = file.parts[-3:-1], twin.parts[-3:-1]
    if split == "test" and other_split == "train":
        yield f"{file}: the same image as {twin}, which is trained on"
    elif split == other_split == "test" and (kind == "good") != (other_kind == "good"):
        yield f"{file}: the same image as {twin}, which has another label"


def _is_picture(file: Path) -> bool:
    """Whether a file holds a picture, whatever its name."""
    if file.suffix.lower() in UNREADABLE:
        return True
    try:
        Image.open(file, formats=FORMATS).close()  # reads the header only
    except Exception:  # as many kinds as Pillow has decoders
        return False
    return True
