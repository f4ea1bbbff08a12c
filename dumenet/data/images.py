"""Reading one image or one mask, and the key under which its features are cached."""

import hashlib
import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from dumenet.data.samples import Sample
from dumenet.errors import DumenetError

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff"})


def open_image(file: Path | io.BytesIO, name: str | None = None) -> Image.Image:
    """The decoded image, turned as its EXIF orientation says; `name` is what an error calls it.

    Raises:
        DumenetError: missing, empty, broken or of more than 89 million pixels (Pillow's limit against bombs).
    """
    name = name or str(file)
    if isinstance(file, Path) and not file.is_file():
        raise DumenetError(f"There is no image file {name}: restore it or remove it from the data set.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                return ImageOps.exif_transpose(image)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise DumenetError(f"{name} has more than {Image.MAX_IMAGE_PIXELS:,} pixels: scale it down first.") from None
    except PermissionError:
        raise DumenetError(f"{name} may not be read: change its permissions.") from None
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise DumenetError(
            f"{name} is empty, cut short or not an image ({type(error).__name__}): replace or remove it."
        ) from None


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB of any mode: 16-bit grey is divided by 257, an alpha channel is dropped."""
    if image.mode.startswith("I"):  # "I", "I;16", "I;16B"
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
    elif image.mode == "F":
        values = np.nan_to_num(np.asarray(image))
        image = Image.fromarray((values * (255 if values.max() <= 1 else 1)).clip(0, 255).astype(np.uint8))
    elif image.mode == "P":  # by way of RGBA, or Pillow warns of a transparent palette
        image = image.convert("RGBA")
    return image.convert("RGB")


def load_image(sample: Sample, size: int) -> np.ndarray:
    """(size, size, 3) uint8 RGB, resized straight (no crop), bilinear.

    Raises:
        DumenetError: a file that cannot be read.
    """
    if isinstance(sample.source, np.ndarray):
        image = Image.fromarray(sample.source)
    else:
        image = open_image(Path(sample.source))
    return np.asarray(to_rgb(image).resize((size, size), Image.Resampling.BILINEAR))


def mask_array(image: Image.Image) -> np.ndarray:
    """(H, W) bool of an opened mask: anything above 0 is defect."""
    if image.mode in ("1", "L") or image.mode.startswith("I"):
        return np.asarray(image) > 0
    return np.asarray(to_rgb(image)).max(axis=2) > 0


def load_mask(sample: Sample, size: int) -> np.ndarray:
    """(size, size) bool, nearest neighbour; all False for a normal image.

    Raises:
        DumenetError: no mask for a defect, an unreadable one, or one of another size than its image.
    """
    if not sample.label:
        return np.zeros((size, size), dtype=bool)
    if sample.mask is None:
        raise DumenetError(f"{sample.name} has no mask: add one to ground_truth, or ask for image metrics only.")
    mask = mask_array(open_image(Path(sample.mask)))
    if isinstance(sample.source, np.ndarray):
        height, width = sample.source.shape[:2]
    else:
        width, height = open_image(Path(sample.source)).size
    if mask.shape != (height, width):
        raise DumenetError(
            f"Mask {sample.mask} is {mask.shape[1]} x {mask.shape[0]} pixels, but its image {sample.name} "
            f"is {width} x {height}: export the mask at the image's size."
        )
    return np.asarray(Image.fromarray(mask).resize((size, size), Image.Resampling.NEAREST))


def content_key(sample: Sample) -> str:
    """SHA-256 (hex) of the file's bytes, or of an array's shape and bytes."""
    if isinstance(sample.source, np.ndarray):
        return hashlib.sha256(str(sample.source.shape).encode() + sample.source.tobytes()).hexdigest()
    try:
        return hashlib.sha256(Path(sample.source).read_bytes()).hexdigest()
    except OSError as error:
        raise DumenetError(f"Cannot read {sample.source} ({error.strerror}): restore it or remove it.") from None
