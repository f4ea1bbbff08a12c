"""The ten-class protocol of CIFAR-10, unified: five classes are normal, the other five are the anomalies."""

import gzip
import io
import itertools
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dumenet.data.images import is_image, open_image, to_rgb
from dumenet.data.samples import Dataset, Sample
from dumenet.errors import DumenetError, unknown

SPLITS = ("01234", "56789", "02468", "13579")
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = "cifar-10-batches-py"  # the folder inside the official archive
# The most that an archive may unpack to, and an image's side. CIFAR-10 is 60,000 images of 3 KB; more is a mistake, or
# a bomb.
MAX_BYTES, MAX_SIDE = 1 << 29, 256

Images = dict[tuple[str, str], dict[str, np.ndarray | bytes | Path]]  # (part, class) -> file name -> image


def read_cifar10(
    source: str | Path,
    normals: str = "01234",
    per_class_train: int | None = None,
    per_class_test: int | None = None,
    seed: int = 0,
) -> Dataset:
    """CIFAR-10 with the classes `normals` as normal; images are held in memory as (32, 32, 3) uint8.

    Args:
        source: a folder with `cifar-10-batches-py`; a folder of train/<class>/ and test/<class>/ images; a tar file of
            such folders, or a folder of tar files (they are not unpacked to disk).
        normals: five digits; class 0 is airplane, 9 is truck (alphabetical order).
        per_class_train, per_class_test: that many images of each class, drawn with `seed`; None takes all.

    Raises:
        DumenetError: an unknown split, nothing to read, a broken file, or one that unpacks to more than CIFAR-10 is.
    """
    digits, limits = parse_normals(normals), {"train": per_class_train, "test": per_class_test}
    images = (_read_batches if _has_batches(source) else _read_files)(Path(source))
    samples: dict[str, list[Sample]] = {"train": [], "test": []}
    for part, limit in limits.items():
        for k, name in enumerate(CLASSES):
            if part == "train" and str(k) not in digits:
                continue
            found = sorted(images.get((part, name), {}).items())
            if not found:
                raise DumenetError(f"{source} has no images of {part}/{name}: expected {{train,test}}/<class>/*.png.")
            rng = np.random.default_rng([seed, k, part == "test"])
            for i in sorted(rng.permutation(len(found))[:limit]):
                file = f"{part}/{name}/{found[i][0]}"
                samples[part].append(_sample(file, digits, str(k), name, _decode(found[i][1], file)))
    return Dataset("cifar10", **samples)


def read_digits(
    normals: str = "01234", per_class_train: int | None = None, per_class_test: int | None = None, seed: int = 0
) -> Dataset:
    """scikit-learn's 1,797 handwritten digits (8 x 8): half of each digit to train on, half to test on.

    Args: as `read_cifar10`; where a digit has fewer images than wanted, all of them.
    """
    from sklearn.datasets import load_digits

    digits, limits = parse_normals(normals), {"train": per_class_train, "test": per_class_test}
    loaded = load_digits()
    images = np.repeat((loaded.images * 255 / 16).round().astype(np.uint8)[..., None], 3, axis=3)  # (1797, 8, 8, 3)
    samples: dict[str, list[Sample]] = {"train": [], "test": []}
    for digit in "0123456789":
        rows = np.random.default_rng([seed, int(digit)]).permutation(np.flatnonzero(loaded.target == int(digit)))
        halves = {"train": rows[: len(rows) // 2], "test": rows[len(rows) // 2 :]}
        for part, limit in limits.items():
            if part == "test" or digit in digits:
                chosen = sorted(halves[part][:limit])
                samples[part] += [_sample(f"{part}/{digit}/{i:04d}", digits, digit, digit, images[i]) for i in chosen]
    return Dataset("digits", **samples)


def parse_normals(normals: str) -> str:
    """ "01234" or "{01234}" to "01234": five different digits, sorted."""
    digits = "".join(sorted(str(normals).strip("{} ")))
    if len(digits) != 5 or len(set(digits)) != 5 or not set(digits) <= set("0123456789"):
        raise unknown("split", normals, SPLITS)
    return digits


def is_cifar10(source: str | Path) -> bool:
    """Whether a path looks like CIFAR-10 in one of the forms that `read_cifar10` takes."""
    source = Path(source)
    only_tars = bool(_tars(source)) and not (source.is_dir() and any(p.is_dir() for p in source.iterdir()))
    return _has_batches(source) or only_tars or any((source / "train" / c).is_dir() for c in CLASSES)


def _sample(name: str, digits: str, digit: str, class_name: str, image: np.ndarray) -> Sample:
    return Sample(name, f"{{{digits}}}", "good" if digit in digits else class_name, image)


def _decode(image: np.ndarray | bytes | Path, name: str) -> np.ndarray:
    if isinstance(image, np.ndarray):
        return image
    opened = open_image(io.BytesIO(image) if isinstance(image, bytes) else image, name)
    if max(opened.size) > MAX_SIDE:
        size = f"{opened.width} x {opened.height}"
        raise DumenetError(f"{name} is {size} pixels: CIFAR-10's are 32 x 32, and {MAX_SIDE} the most.")
    return np.asarray(to_rgb(opened))


def _has_batches(source: str | Path) -> bool:
    return (Path(source) / BATCHES).is_dir()


def _read_batches(root: Path) -> Images:
    """The images of the official archive. Its files are pickles: torchvision loads none whose MD5 sum is wrong."""
    from torchvision.datasets import CIFAR10

    try:
        parts = {"train": CIFAR10(str(root), train=True), "test": CIFAR10(str(root), train=False)}
    except Exception as error:  # missing files, wrong sums, disk and archive errors of several libraries
        raise DumenetError(
            f"CIFAR-10's archive in {root} is incomplete or damaged ({type(error).__name__}): unpack "
            f"cifar-10-python.tar.gz there again, so that {BATCHES} is whole."
        ) from None
    images: Images = {}
    for part, data in parts.items():
        for i, (image, k) in enumerate(zip(data.data, data.targets)):
            images.setdefault((part, CLASSES[k]), {})[f"{i:05d}.png"] = image
    return images


def _tars(source: Path) -> list[Path]:
    files = [source] if source.is_file() else source.iterdir() if source.is_dir() else []
    return sorted(f for f in files if f.name.endswith((".tar", ".tar.gz", ".tgz")))


def _tar_images(tar: Path) -> Iterator[tuple[Path, bytes]]:
    """Name and content of each image three levels deep. Nothing is written, so no name can lead out of a folder."""
    try:
        with (open if tar.suffix == ".tar" else gzip.open)(tar, "rb") as file:
            content = file.read(MAX_BYTES + 1)  # to the end, where gzip's checksum tells whether all of it is right
        if len(content) > MAX_BYTES:
            raise DumenetError(
                f"{tar} unpacks to more than CIFAR-10 can be ({MAX_BYTES >> 20} MiB): give CIFAR-10's own archive."
            )
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            for member in archive:
                path = Path(member.name)
                # A sparse file may be larger than its archive.
                if member.isreg() and not member.issparse() and is_image(path) and len(path.parts) >= 3:
                    yield path, archive.extractfile(member).read()
    except DumenetError:
        raise
    except Exception as error:  # tarfile's, zlib's, EOFError, OSError, RecursionError, ...
        raise DumenetError(
            f"{tar} is not a whole tar archive ({type(error).__name__}): copy or download it again."
        ) from None


def _read_files(source: Path) -> Images:
    """The encoded images of class folders, or of tar files of them."""
    images: Images = {}
    in_folders = ((path, path) for path in source.glob("t*/*/*") if is_image(path))
    for path, content in itertools.chain(in_folders, *map(_tar_images, _tars(source))):
        images.setdefault(path.parts[-3:-1], {})[path.name] = content
    if not images:
        raise DumenetError(f"{source} holds no CIFAR-10: expected {BATCHES}, or {{train,test}}/<class>/*.png.")
    return images
