"""`dumenet data check`: what is wrong in a folder of MVTec-AD's layout, everything at once."""

from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from dumenet.data.folders import (
    LAYOUT,
    categories_of,
    image_files,
    is_normal,
    is_unprintable,
    locate,
    mask_of,
    masks_of,
    read_index,
    subfolders,
)
from dumenet.data.images import FORMATS, content_key, find_images, is_image, mask_array, mask_files, open_image, to_rgb
from dumenet.data.samples import Sample
from dumenet.errors import DumenetError

SPLITS = ("ground_truth", "test", "train", "validation")
UNREADABLE = frozenset({".avif", ".dng", ".heic", ".heif", ".jp2"})  # photographs that Pillow alone cannot read
Sizes = dict[Path, tuple[int, int]]  # of images that can be read: width and height


def check_folder(
    root: str | Path, normal_names: Iterable[str] = (), pixel_range: tuple[float, float] | None = None
) -> list[str]:
    """Every problem of a folder, one line each; an empty list where it is clean. Decodes every file.

    Beside what cannot be read at all it reports what can be, and is likely wrong: an image of one colour or of several
    frames, one that does not fill its range, a mask that looks inverted, a test image that is trained on or has two
    labels.

    Args:
        root, normal_names: see `read_folder`.
        pixel_range: see `to_rgb`.

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
        normal = {p for split in ("train", "test") for p in subfolders(folder / split) if is_normal(p, normal_names)}
        problems += _layout_problems(folder, normal)
        sizes: Sizes = {}
        problems += _image_problems(folder, normal, sizes, pixel_range)
        problems += _truth_problems(folder, normal, sizes)
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


def _layout_problems(folder: Path, normal: set[Path]) -> Iterator[str]:
    """What lies at the wrong place in one category, or is missing there; `normal` folders hold normal images."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and not path.exists() and not is_image(path):
            yield f"{path}: link to nothing"
    for path in subfolders(folder):
        if path.name not in SPLITS:
            yield f"{path}: stray folder; expected train, test or ground_truth"
    for path in subfolders(folder / "train"):
        if path not in normal:
            yield f"{path}: stray folder; train holds good only (or ok, normal, or a name in data.normal_names)"
    for path in image_files(folder / "train"):
        yield f"{path}: stray image; belongs in train/good"
    good = sum(len(image_files(path)) for path in normal if path.parent.name == "train")
    if good < 2:
        few = "one image; no other is left for the verdict's threshold" if good else "empty category; no images"
        yield f"{folder}: {few} in train/good"
    if subfolders(folder / "test") and not any(path.parent.name == "test" for path in normal):
        yield f"{folder / 'test'}: no normal images; expected good (or ok, normal, or a name in data.normal_names)"


def _image_problems(
    folder: Path, normal: set[Path], sizes: Sizes, pixel_range: tuple[float, float] | None
) -> Iterator[str]:
    """What is wrong with the images of one category; fills `sizes`."""
    first_file: dict[str, Path] = {}  # of each content
    doubtful: dict[str, list[Path]] = {}  # files by what is wrong with their range
    for kind in [k for split in ("train", "validation", "test") for k in subfolders(folder / split)]:
        yield from (f"{p}: stray folder; images lie directly in {kind.name}" for p in subfolders(kind))
        for file in find_images(kind)[1]:
            if file.is_file() and _is_picture(file):
                yield f"{file}: not read; save it as PNG, JPEG, BMP or TIFF, named so"
        for file in image_files(kind):
            image = yield from _decoded(file)
            if image is None:
                continue
            sizes[file] = image.size
            yield from _doubts(file, image)
            if doubt := _range_doubt(image, pixel_range):
                doubtful.setdefault(doubt, []).append(file)
            twin = first_file.setdefault(content_key(Sample(file.name, folder.name, kind.name, file)), file)
            split, other = kind.parent.name, twin.parent.parent.name
            if split == "test" and other == "train":
                yield f"{file}: the same image as {twin}, which is trained on"
            elif split == other == "test" and (kind in normal) != (twin.parent in normal):
                yield f"{file}: the same image as {twin}, which has another label"
    for doubt, files in doubtful.items():
        yield f"{files[0]}{f' and {len(files) - 1} more' if files[1:] else ''}: {doubt}"


def _truth_problems(folder: Path, normal: set[Path], sizes: Sizes) -> Iterator[str]:
    """What is wrong with the masks of one category."""
    truth, masks = folder / "ground_truth", masks_of(folder)
    owners: dict[Path, list[Path]] = {mask: [] for mask in masks.values()}  # the images of each mask
    lacking = []
    for kind in subfolders(folder / "test"):
        bare = [file for file in image_files(kind) if mask_of(file, masks) is None]
        for file in image_files(kind):
            if file not in bare:
                owners[mask_of(file, masks)].append(file)
        if kind in normal or not bare:
            continue
        lacking += bare
        if masks and len(bare) == len(image_files(kind)):
            yield f"{kind}: no image has a mask, others have; if they are normal, name {kind.name} in data.normal_names"
        elif masks:
            yield from (f"{file}: image without mask" for file in bare)
    found, others = find_images(truth)
    if lacking and others:
        yield (
            f"{truth}: {len(others)} files are not read, {others[0].name} for one; a mask is an image, "
            "ground_truth/<defect>/<image>_mask.png"
        )
    known = {file for mask in masks.values() for file in mask_files(mask)}
    yield from (f"{file}: mask without image" for file in found if file not in known)
    for mask, files in owners.items():
        defective = [file for file in files if file.parent not in normal]
        if not files:
            yield f"{mask}: mask without image"
        elif len(defective) > 1:
            yield f"{mask}: the mask of {defective[0]} and of {defective[1]}; rename one, and give it its own"
        else:
            yield from _mask_problems(mask, sizes.get((defective or files)[0]), bool(defective))


def _mask_problems(mask: Path, size: tuple[int, int] | None, defective: bool) -> Iterator[str]:
    """What is wrong with the mask of an image of this size, None if that cannot be read."""
    marked = np.zeros(1, bool)  # becomes (H, W)
    for file in mask_files(mask):
        image = yield from _decoded(file)
        if image is None:
            return
        size = size or image.size
        if image.size != size:
            yield f"{file}: mask is {image.width} x {image.height}, its image {size[0]} x {size[1]}"
            return
        marked = marked | mask_array(image)
    if defective and not marked.any():
        yield f"{mask}: empty mask"
    elif marked.any() and not defective:
        yield f"{mask}: marks a defect, but its image lies among the normal ones"
    elif marked.mean() > 0.5 and marked[[0, 0, -1, -1], [0, -1, 0, -1]].all():
        yield f"{mask}: mask marks {marked.mean():.0%}, all corners too; black and white exchanged?"


def _decoded(file: Path) -> Generator[str, None, Image.Image | None]:
    """The image, as the value of `yield from`; where it cannot be read, None after a problem."""
    try:
        return open_image(file)
    except DumenetError as error:
        yield f"{file}: unreadable; {error}"


def _doubts(file: Path, image: Image.Image) -> Iterator[str]:
    """What may be wrong with an image that can be read."""
    with Image.open(file, formats=FORMATS) as opened:
        frames = getattr(opened, "n_frames", 1) if opened.format != "MPO" else 1  # a phone's: one photograph, twice
    if frames > 1:
        yield f"{file}: holds {frames} frames or pages; only the first is read"
    pixels = np.asarray(image)
    if (pixels == pixels[0, 0]).all():
        yield f"{file}: every pixel has the same colour"


def _range_doubt(image: Image.Image, pixel_range: tuple[float, float] | None) -> str | None:
    """Whether the values of an image do not fill the range that they are read from."""
    try:
        seen = np.asarray(to_rgb(image, pixel_range=pixel_range))
    except DumenetError:
        grey = "nothing says which values are black and white; set data.pixel_range"
        return grey if image.mode[0] in "IF" else "16-bit colour is read from 0..65535 only; leave out data.pixel_range"
    values, (low, high) = np.asarray(image), pixel_range or (0, 65535)
    if image.mode[0] in "IF" and ((values < low) | (values > high)).mean() > 0.01:
        return "more than 1 % of the values lie outside data.pixel_range"
    if seen.max() <= 16 and seen.min() < seen.max():
        return "all but black, darker than a sixteenth of its range; is that data.pixel_range?"
    return None


def _is_picture(file: Path) -> bool:
    """Whether a file holds a picture, whatever its name."""
    if file.suffix.lower() in UNREADABLE:
        return True
    try:
        Image.open(file, formats=FORMATS).close()  # reads the header only
    except Exception:  # as many kinds as Pillow has decoders
        return False
    return True
