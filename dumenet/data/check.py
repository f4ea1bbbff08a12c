"""`dumenet data check`: what is wrong in a data set on disk, everything at once."""

from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from dumenet.data.folders import (
    NO_CATEGORY,
    Row,
    categories_of,
    image_files,
    is_category,
    is_normal,
    is_unprintable,
    locate,
    mask_problems,
    masks_of,
    subfolders,
    table_rows,
    tree_rows,
)
from dumenet.data.images import (
    FORMATS,
    content_key,
    find_images,
    header,
    is_image,
    mask_array,
    mask_files,
    open_image,
    to_rgb,
)
from dumenet.data.samples import Sample
from dumenet.errors import DumenetError

SPLITS = ("calibration", "ground_truth", "test", "train", "validation")
UNREADABLE = frozenset({".avif", ".dng", ".heic", ".heif", ".jp2"})  # photographs that Pillow alone cannot read
Sizes = dict[Path, tuple[int, int]]  # of images that can be read: width and height


def check_folder(
    root: str | Path, normal_names: Iterable[str] = (), pixel_range: tuple[float, float] | None = None
) -> list[str]:
    """Every problem of a folder or a CSV, one line each; an empty list where it is clean. Decodes every file.

    Beside what cannot be read at all it reports what can be, and is likely wrong: an image of one colour or of several
    frames, one that does not fill its range, a mask that looks inverted, a test image that is trained on or has two
    labels.

    Args:
        root, normal_names: see `read_folder`.
        pixel_range: see `to_rgb`.

    Raises:
        DumenetError: there is no such folder.
    """
    root, problems = Path(root), []
    images, table = locate(root)
    tops = images.iterdir() if root.is_dir() else ()
    unprintable = sorted(p for top in tops for p in (top, *top.rglob("*")) if is_unprintable(p.name))
    if unprintable:  # nothing else can be read before
        return [f"{ascii(str(p))}: name with a control character or not in UTF-8; rename it" for p in unprintable]
    rows, lines = table_rows(table, images, normal_names) if table else ([], [])
    folders: Mapping[str, Path] = {}
    if not table or table.suffix == ".json":  # an index repeats what the folders say
        listed, found = {row.file for row in rows}, categories_of(images)
        folders = found if any(map(is_category, found.values())) else {}
        rows = list(tree_rows(folders, normal_names))
        if table and not lines:  # a line that cannot be read may name what seems forgotten
            forgotten = (row.file for row in rows if row.file not in listed)
            problems = [f"{file}: neither in train.json nor in test.json, so never read" for file in forgotten]
    problems += lines
    categories = sorted({row.category for row in rows} | set(folders))
    if not categories and not lines:
        problems.append(f"{root}: no category; {NO_CATEGORY}")
    for category in categories:
        own = sorted((row for row in rows if row.category == category), key=lambda row: row.split == "test")
        problems += _split_problems(folders.get(category, f"{table}, {category}"), own)
        if category in folders:
            problems += _tree_problems(folders[category], own, normal_names)
        sizes: Sizes = {}
        problems += _image_problems(own, sizes, pixel_range)
        owners = {row.mask: row for row in sorted(own, key=lambda row: row.defect != "good") if row.mask}
        for mask, row in owners.items():
            problems += _mask_doubts(mask, sizes.get(row.file), row.defect != "good")
    return problems + mask_problems(rows, folders)


def _split_problems(place: str | Path, rows: list[Row]) -> Iterator[str]:
    """What is missing in one category."""
    train, test = (sum(row.split == split for row in rows) for split in ("train", "test"))
    if train < 2:
        few = "one image; no other is left for the verdict's threshold" if train else "empty category; no images"
        yield f"{place}: {few} in train/good"
    if test and not any(row.split == "test" and row.defect == "good" for row in rows):
        yield f"{place}: no normal test images; expected test/good (or ok, normal, or a name in data.normal_names)"


def _tree_problems(folder: Path, rows: list[Row], normal_names: Iterable[str]) -> Iterator[str]:
    """What lies at the wrong place in one category's folder."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and not path.exists() and not is_image(path):
            yield f"{path}: link to nothing"
    for path in subfolders(folder):
        if path.name not in SPLITS:
            yield f"{path}: stray folder; expected train, test or ground_truth"
    for path in subfolders(folder / "train"):
        if not is_normal(path.name, normal_names):
            yield f"{path}: stray folder; train holds good only (or ok, normal, or a name in data.normal_names)"
    for path in image_files(folder / "train"):
        yield f"{path}: stray image; belongs in train/good"
    for kind in [k for split in ("train", "validation", "test") for k in subfolders(folder / split)]:
        for path in subfolders(kind):
            if path.name not in ("rgb", "gt", "xyz"):  # of MVTec 3D-AD
                yield f"{path}: stray folder; images lie directly in {kind.name}"
        for file in find_images(kind)[1]:
            if file.is_file() and (file.suffix.lower() in UNREADABLE or header(file)[0]):
                yield f"{file}: not read; save it as PNG, JPEG, BMP or TIFF, named so"
    masks, (images, others) = set(masks_of(folder).values()), find_images(folder / "ground_truth")
    if others and any(row.defect != "good" and not row.mask for row in rows):
        yield (
            f"{folder / 'ground_truth'}: {len(others)} files are not read, {others[0].name} for one; a mask is an "
            "image, ground_truth/<defect>/<image>_mask.png"
        )
    unknown = set(images) - {file for mask in masks for file in mask_files(mask)}
    yield from (f"{file}: mask without image" for file in sorted(unknown | masks - {row.mask for row in rows}))


def _image_problems(rows: list[Row], sizes: Sizes, pixel_range: tuple[float, float] | None) -> Iterator[str]:
    """What is wrong with the images of one category, those to train on first; fills `sizes`."""
    first: dict[str, Row] = {}  # of each content
    doubtful: dict[str, list[Path]] = {}  # files by what is wrong with their range
    for row in rows:
        image = yield from _decoded(row.file)
        if image is None:
            continue
        sizes[row.file] = image.size
        yield from _doubts(row.file, image)
        if doubt := _range_doubt(image, pixel_range):
            doubtful.setdefault(doubt, []).append(row.file)
        twin = first.setdefault(content_key(Sample("", row.category, row.defect, row.file)), row)
        if row.split != twin.split:
            yield f"{row.file}: the same image as {twin.file}, which is trained on"
        elif (row.defect == "good") != (twin.defect == "good"):
            yield f"{row.file}: the same image as {twin.file}, which has another label"
    for doubt, files in doubtful.items():
        yield f"{files[0]}{f' and {len(files) - 1} more' if files[1:] else ''}: {doubt}"


def _mask_doubts(mask: Path, size: tuple[int, int] | None, defective: bool) -> Iterator[str]:
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
