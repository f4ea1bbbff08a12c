"""Reading one image or one mask, and the key under which its features are cached."""

import hashlib
import io
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps

from dumenet.config import sides
from dumenet.data.samples import Sample
from dumenet.errors import DumenetError

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
OUTPUTS = {  # what `dumenet predict` writes beside an image -> end of the file's name; no image to read
    "heatmap": ".heatmap.png", "map": ".map.tiff", "mask": ".mask.png", "overlay": ".overlay.png",
}  # fmt: skip
# What a file may hold, whatever its name says. No others: for some of them Pillow would start a program (Ghostscript).
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
COLOUR_16 = "16-bit colour"  # in `info` of an image of which Pillow reads the upper 8 bits alone
READERS = min(4, os.cpu_count() or 1)  # threads that decode images; each holds one at its full size
LOSSY = ("JPEG", "MPO", "WEBP")  # MPO: a JPEG of some phones, which Pillow opens as one
# For good and not around each reading: threads share the filters. What is too large is refused below, in a sentence.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", module=r"PIL\.")  # on damaged metadata, which no pixel depends on


def open_image(file: Path | io.BytesIO, name: str | None = None) -> Image.Image:
    """The decoded image, turned as its EXIF orientation says; of several frames or pages the first one.

    Args:
        file: a path, or the bytes of a file.
        name: what an error calls it; None takes the path.

    Raises:
        DumenetError: missing, empty, broken, with pixels that are not numbers, or of more than 89 million pixels
            (Pillow's limit against decompression bombs).
    """
    name = name or str(file)
    if isinstance(file, Path) and not file.is_file():
        raise DumenetError(f"There is no image file {name}: restore it or remove it from the data set.")
    try:
        with Image.open(file, formats=FORMATS) as image:  # reads the header only
            if image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise Image.DecompressionBombError
            colour_16 = is_deep(image) and image.mode.startswith("RGB")
            turned = ImageOps.exif_transpose(image)
            turned.format, turned.info[COLOUR_16] = image.format, colour_16  # a copy forgets its format
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise DumenetError(f"{name} has more than {Image.MAX_IMAGE_PIXELS:,} pixels: scale it down first.") from None
    except PermissionError:
        raise DumenetError(f"{name} may not be read: change its permissions.") from None
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise DumenetError(
            f"{name} is empty, cut short or not an image, or a TIFF of a kind that is not read "
            f"({type(error).__name__}): save it with 8 or 16 bits, replace or remove it."
        ) from None
    if turned.mode == "F" and not np.isfinite(np.asarray(turned)).all():
        raise DumenetError(f"{name} holds pixels that are NaN or infinite: export it again.")
    return turned


def is_deep(image: Image.Image) -> bool:
    """Whether an image has more than 8 bits a channel; known before it is decoded."""
    return image.mode[0] in "IF" or (image.format in ("PNG", "TIFF") and ";16" in str(image.tile))


def to_rgb(image: Image.Image, name: str = "", pixel_range: tuple[float, float] | None = None) -> Image.Image:
    """8-bit RGB of any mode; an alpha channel is dropped.

    Args:
        name: what an error calls it.
        pixel_range: in an image of more than 8 bits, the values that become 0 and 255; what lies outside is clipped.
            None: 0 and 65535.

    Raises:
        DumenetError: floats, or values outside 0 to 65535, without a range; 16-bit colour with one.
    """
    if image.mode[0] in "IF":  # "I", "I;16", "I;16B"
        values, (low, high) = np.asarray(image).astype(np.float64), pixel_range or (0, 65535)
        if pixel_range is None and (image.mode == "F" or values.min() < low or values.max() > high):
            raise DumenetError(
                f"{name} holds values from {values.min():g} to {values.max():g}, and nothing says which are black and "
                "white: set data.pixel_range in training, e.g. `--set data.pixel_range=[0,1]`, or save it with 8 bits."
            )
        image = Image.fromarray((((values - low) / (high - low)).clip(0, 1) * 255).round().astype(np.uint8))
    elif pixel_range and image.info.get(COLOUR_16):
        raise DumenetError(
            f"{name} is 16-bit colour, of which 8 bits are read: scale it to 0..65535, or save it as 8-bit, and leave "
            "data.pixel_range out."
        )
    elif image.mode == "P":  # by way of RGBA, or Pillow warns of a transparent palette
        image = image.convert("RGBA")
    return image.convert("RGB")


def photograph(sample: Sample) -> np.ndarray:
    """(H, W, 3) uint8 RGB at the image's own shape.

    Raises:
        DumenetError: a file that cannot be read.
    """
    return np.asarray(_rgb(sample))


def load_image(sample: Sample, size: int | tuple[int, int]) -> np.ndarray:
    """(size, size, 3), or of another height and width, uint8 RGB, resized straight (no crop), bilinear; raises as
    `photograph`.
    """
    return np.asarray(_rgb(sample).resize(sides(size)[::-1], Image.Resampling.BILINEAR))


def find_images(folder: Path) -> tuple[list[Path], list[Path]]:
    """Images below a folder, and other files that it holds, without hidden ones and our own `OUTPUTS`."""
    ends = tuple(OUTPUTS.values())
    shown = (p for p in folder.rglob("*") if not any(part.startswith(".") for part in p.relative_to(folder).parts))
    files = sorted(p for p in shown if not p.is_dir())
    return [p for p in files if is_image(p)], [p for p in files if not is_image(p) and not p.name.endswith(ends)]


def is_image(path: Path) -> bool:
    """Whether a file's name is that of an image which every reader here reads."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.endswith(tuple(OUTPUTS.values()))


def mask_files(mask: Path) -> list[Path]:
    """The files of a sample's mask, whose union marks the defect: one, or those of a folder."""
    return find_images(mask)[0] if mask.is_dir() else [mask]


def mask_array(image: Image.Image) -> np.ndarray:
    """(H, W) bool of an opened mask: whatever is not black and not transparent is defect.

    In a lossy format it is what is above half: its noise is above 0 everywhere.
    """
    if image.format in LOSSY:
        return np.asarray(to_rgb(image)).max(axis=2) > 127
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        values = np.asarray(image.convert("RGBA"))
        return (values[..., :3].max(axis=2) > 0) & (values[..., 3] > 0)
    if image.mode in ("1", "L", "F") or image.mode.startswith("I"):
        return np.asarray(image) > 0
    return np.asarray(to_rgb(image)).max(axis=2) > 0


def load_mask(sample: Sample, size: int | tuple[int, int]) -> np.ndarray:
    """(size, size) bool, or of another height and width, nearest neighbour; all False for a normal image.

    Raises:
        DumenetError: no mask for a defect, an unreadable or empty one, or one of another size than its image.
    """
    if not sample.label:
        return np.zeros(sides(size), dtype=bool)
    if sample.mask is None:
        raise DumenetError(f"{sample.name} has no mask: add one to ground_truth, or ask for image metrics only.")
    width, height = _opened(sample).size
    mask = np.zeros((height, width), dtype=bool)
    for file in mask_files(sample.mask):
        marked = mask_array(open_image(file))
        if marked.shape != mask.shape:
            raise DumenetError(
                f"Mask {file} is {marked.shape[1]} x {marked.shape[0]} pixels, but its image {sample.name} "
                f"is {width} x {height}: export the mask at the image's size."
            )
        mask |= marked
    if not mask.any():
        raise DumenetError(f"Mask {sample.mask} is empty, but its image {sample.name} shows a defect: mark it there.")
    return np.asarray(Image.fromarray(mask).resize(sides(size)[::-1], Image.Resampling.NEAREST))


def content_key(sample: Sample) -> str:
    """SHA-256 (hex) of the file's bytes and its range, or of an array's shape and bytes; and of the tile."""
    if isinstance(sample.source, np.ndarray):
        digest = hashlib.sha256(str(sample.source.shape).encode() + sample.source.tobytes())
    else:
        try:
            digest = hashlib.sha256(sample.source.read_bytes())
        except OSError as error:
            raise DumenetError(f"Cannot read {sample.source} ({error.strerror}): restore it or remove it.") from None
        if sample.pixel_range:
            digest.update(repr(sample.pixel_range).encode())
    if sample.tile:
        digest.update(f"tile {sample.tile}".encode())
    return digest.hexdigest()


def check_range(samples: Iterable[Sample]) -> None:
    """Whether the range of training images is known.

    Raises:
        DumenetError: `data.pixel_range` must be stated: floats, or 16-bit images none of which uses more than 12 bits.
    """
    dark = None
    for sample in samples:
        if sample.pixel_range is None and header(sample.source)[1]:
            if photograph(sample).max() > 16:
                return
            dark = sample.source
    if dark:
        raise DumenetError(
            f"{dark} and the other 16-bit training images stay below 4,352 of 65,535, almost black: set "
            "data.pixel_range, e.g. `--set data.pixel_range=[0,4095]` for 12 bits."
        )


def check_masks(samples: Iterable[Sample]) -> None:
    """Whether masks have the sizes of their images, by the headers of both; raises as `load_mask`."""
    for sample in samples:
        if sample.label and sample.mask:
            sizes = {header(file)[0] for file in (sample.source, *mask_files(sample.mask))}
            if len(sizes) > 1 or None in sizes:
                load_mask(sample, 1)


def header(file: Path | io.BytesIO | np.ndarray) -> tuple[tuple[int, int] | None, bool]:
    """Width and height of an image that is not decoded, and whether it `is_deep`; None where it cannot be read."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            told = "exif" in image.info and image.format != "TIFF"  # of which Pillow turns the size by itself
            turned = told and image.getexif().get(ExifTags.Base.Orientation, 1) > 4
            return image.size[::-1] if turned else image.size, is_deep(image)
    except Exception:  # whoever reads it has a sentence for it
        return None, False


def _rgb(sample: Sample) -> Image.Image:
    whole = _opened(sample)
    if sample.tile:
        row, rows, column, columns = sample.tile
        lines = [round(whole.height * r / rows) for r in (row, row + 1)]
        left, right = (round(whole.width * c / columns) for c in (column, column + 1))
        if left == right or lines[0] == lines[1]:
            raise DumenetError(
                f"{sample.name}: a photograph of {whole.width} x {whole.height} pixels cannot be cut into {rows} x "
                f"{columns} tiles: set features.tiles lower."
            )
        whole = whole.crop((left, lines[0], right, lines[1]))
    return to_rgb(whole, str(sample.source), sample.pixel_range)


def _opened(sample: Sample) -> Image.Image:
    array = isinstance(sample.source, np.ndarray)
    return Image.fromarray(sample.source) if array else open_image(Path(sample.source))


def read_ahead(read: Callable[[Any], Any], items: Sequence[Any], size: int) -> Iterator[tuple[Sequence[Any], list]]:
    """Items, `size` at a time, with what `read` gives for each; threads read ahead while the caller computes."""
    parts = [items[i : i + size] for i in range(0, len(items), size)]
    pool = ThreadPoolExecutor(READERS, "reader")
    try:
        coming = [pool.submit(read, item) for item in parts[0]] if parts else []
        for part, following in zip(parts, [*parts[1:], []]):
            found = [future.result() for future in coming]
            coming = [pool.submit(read, item) for item in following]
            yield part, found
    finally:
        pool.shutdown(cancel_futures=True)
