"""The ten-class protocol of CIFAR-10, unified: five classes are normal, the other five are the anomalies."""

import io
import os
import tarfile
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.request import Request, urlopen

import numpy as np
from filelock import FileLock
from tqdm.auto import tqdm

from dumenet.data.images import IMAGE_SUFFIXES, content_key, open_image, to_rgb
from dumenet.data.samples import Dataset, Sample
from dumenet.errors import DISK_FIXES, DumenetError, refused, unknown

SPLITS = ("01234", "56789", "02468", "13579")
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = "cifar-10-batches-py"  # the folder inside the official archive
# Its address, SHA-256 and bytes. The sum is the one that Keras and many scripts of others state; torchvision's is an MD5.
ARCHIVE = (
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    170_498_071,
)
# What an archive may unpack to, in memory: CIFAR-10 is 60,000 images of 1 KB to 3 KB. The rest is a mistake, or a bomb.
MEMBERS, MEMBER_BYTES, ALL_BYTES, SIDE = 200_000, 1 << 20, 1 << 30, 256


def read_cifar10(
    source: str | Path | list[Path], normals: str = "01234", per_class_train: int | None = None,
    per_class_test: int | None = None, seed: int = 0, download: bool = False,
) -> Dataset:  # fmt: skip
    """CIFAR-10 with the classes `normals` as normal; images are held in memory as (32, 32, 3) uint8.

    Args:
        source: a folder with `cifar-10-batches-py`, a folder of train/<class>/ and test/<class>/ images, the same in
            tar files (a folder of them, one, or a list), read in memory.
        normals: five digits; class 0 is airplane, 9 is truck (alphabetical order).
        per_class_train, per_class_test: that many images of each class, drawn with `seed`; None takes all.
        download: fetch the official archive into `source` first, unless it is there; see `fetch`.

    Raises:
        DumenetError: an unknown split, nothing to read, a broken file, one that unpacks to more than CIFAR-10 can be,
            or a download that fails.
    """
    digits = parse_normals(normals)
    images = _read_batches(source, download) if download or _has_batches(source) else _read_files(source)
    parts: dict[str, list[Sample]] = {}
    for part, limit in _limits(per_class_train, per_class_test):
        parts[part] = []
        for k, name in enumerate(CLASSES):
            if part == "train" and str(k) not in digits:
                continue
            found = sorted(images.get((part, name), {}).items())
            if not found:
                raise DumenetError(f"{source} has no images of {part}/{name}: expected {{train,test}}/<class>/*.png.")
            rng = np.random.default_rng([seed, k, part == "test"])
            for i in sorted(rng.permutation(len(found))[:limit]):
                file = f"{part}/{name}/{found[i][0]}"
                parts[part].append(_sample(file, digits, str(k), name, _decode(found[i][1], file)))
    return Dataset("cifar10", parts["train"], parts["test"], has_masks=False)


def read_digits(
    normals: str = "01234", per_class_train: int | None = None, per_class_test: int | None = None, seed: int = 0
) -> Dataset:
    """scikit-learn's 1,797 handwritten digits (8 x 8): half of each digit to train on, half to test on.

    Args: as `read_cifar10`; where there are fewer images of a digit than asked for, all.
    """
    from sklearn.datasets import load_digits

    digits = parse_normals(normals)
    bunch = load_digits()
    images = np.repeat((bunch.images * 255 / 16).round().astype(np.uint8)[..., None], 3, axis=3)  # (1797, 8, 8, 3)
    train, test = [], []
    (_, most_train), (_, most_test) = _limits(per_class_train, per_class_test)
    for digit in range(10):
        order = np.random.default_rng([seed, digit]).permutation(np.flatnonzero(bunch.target == digit))
        half = len(order) // 2
        for part, rows, samples in (
            ("train", order[:half][:most_train], train),
            ("test", order[half:][:most_test], test),
        ):
            if part == "test" or str(digit) in digits:
                samples += [
                    _sample(f"{part}/{digit}/{i:04d}", digits, str(digit), str(digit), images[i]) for i in sorted(rows)
                ]
    return Dataset("digits", train, test, has_masks=False)


def _limits(per_class_train: int | None, per_class_test: int | None) -> list[tuple[str, int | None]]:
    """Each part with the most images of a class that it takes."""
    limits = [("train", per_class_train), ("test", per_class_test)]
    for part, limit in limits:
        if limit is not None and limit < 1:
            raise DumenetError(f"per_class_{part} is {limit}: give a positive number, or none for all images.")
    return limits


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
    opened = open_image(image if isinstance(image, Path) else io.BytesIO(image), name)
    if max(opened.size) > SIDE:
        raise DumenetError(
            f"{name} is {opened.width} x {opened.height} pixels: CIFAR-10's are 32 x 32, and {SIDE} the most."
        )
    return np.asarray(to_rgb(opened))


def _has_batches(source: str | Path | list[Path]) -> bool:
    return not isinstance(source, list) and (Path(source) / BATCHES).is_dir()


def _read_batches(root: str | Path, download: bool) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """(split, class) -> file name -> image, from the official archive; torchvision compares the MD5 sum of each file in it."""
    from torchvision.datasets import CIFAR10

    images = {}
    for part in ("train", "test"):
        try:
            try:
                data = CIFAR10(str(root), train=part == "train")
            except RuntimeError:  # what there is does not have the right sums
                if not download:
                    raise
                fetch(ARCHIVE[0], Path(root) / Path(ARCHIVE[0]).name, *ARCHIVE[1:])
                data = CIFAR10(str(root), train=part == "train", download=True)  # it finds the archive, and unpacks it
        except DumenetError:
            raise
        except Exception as error:  # disk and archive errors of several libraries
            raise DumenetError(
                f"CIFAR-10's archive in {root} is incomplete or damaged ({type(error).__name__}): unpack "
                f"cifar-10-python.tar.gz there again, so that {BATCHES} is whole, or use download=True."
            ) from None
        for i, (image, k) in enumerate(zip(data.data, data.targets)):
            images.setdefault((part, CLASSES[k]), {})[f"{i:05d}.png"] = image
    return images


def fetch(url: str, path: Path, sha256: str, size: int) -> Path:
    """The file behind `url` as `path`, whole and with that SHA-256 (hex) and `size` (bytes); a `path` that has them stays.

    It comes as `path`.part first. What an interrupted download left is gone on with, where the server can do so.

    Raises:
        DumenetError: no way to the server, a connection that breaks off, a disk that refuses (what has come is kept);
            other bytes than expected (they are deleted).
    """
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f"{path.name}.lock")):
            if path.is_file() and _sha256(path) == sha256:
                return path
            with part.open("ab") as file:
                try:
                    _go_on(url, file, size)
                finally:
                    have = file.seek(0, os.SEEK_END)
                    os.fsync(file.fileno())
            if have >= size and _sha256(part) != sha256:
                part.unlink()
                raise DumenetError(
                    f"What came from {url} is not the file that was expected (its SHA-256 differs), and was deleted: run the "
                    f"same command again; if it differs again, put the file from a source that you trust at {path}."
                )
            if have >= size:
                os.replace(part, path)
                return path
            error = "the connection broke off"
    except (OSError, HTTPException) as caught:  # urllib's errors are OSErrors
        if isinstance(caught, OSError) and caught.errno in DISK_FIXES:
            raise refused(f"download to {part}", caught, "what has come is kept") from None
        error = " ".join(str(caught).split()) or type(caught).__name__
    have = part.stat().st_size if part.is_file() else 0
    raise DumenetError(
        f"{url} could not be downloaded ({error}; {have:,} of {size:,} bytes are here): run the same command again, "
        f"which goes on from there, or fetch the file by hand and put it at {path}."
    ) from None


def _go_on(url: str, file: BinaryIO, size: int) -> None:
    """Append to `file` what it lacks of `url`; a server that sends the whole file begins it anew. One MiB too many at most."""
    if file.tell() >= size:
        return
    with urlopen(Request(url, headers={"Range": f"bytes={file.tell()}-"}), timeout=60) as answer:
        if answer.status != 206 or not answer.headers.get("Content-Range", "").startswith(f"bytes {file.tell()}-"):
            if answer.status == 206:
                raise HTTPException("the server sends another part than was asked for")
            file.truncate(0)
        with tqdm(initial=file.tell(), total=size, desc=Path(file.name).stem, unit="B", unit_scale=True) as bar:
            while file.tell() <= size and (block := answer.read(1 << 20)):
                bar.update(file.write(block))


def _sha256(path: Path) -> str:
    return content_key(Sample(path.name, "", "good", path))


def _tars(source: Path) -> list[Path]:
    files = [source] if source.is_file() else source.iterdir() if source.is_dir() else []
    return sorted(f for f in files if f.name.endswith((".tar", ".tar.gz", ".tgz")))


class _Member(tarfile.TarInfo):
    """A member no larger than an image, its headers too: this is made before anything is unpacked for it."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> "_Member":
        """The member of a header."""
        member = super().frombuf(buf, encoding, errors)
        if member.size > MEMBER_BYTES:
            raise _TooLargeError
        return member


class _TooLargeError(Exception):
    """An archive unpacks to more than CIFAR-10 can be."""


def _tar_images(tar: Path) -> Iterator[tuple[Path, bytes]]:
    """Name and content of each image three levels deep. Nothing is written, so no name can lead out of a folder."""
    try:
        with tarfile.open(tar, tarinfo=_Member) as archive:
            size = 0
            for count, member in enumerate(archive, 1):
                path = Path(member.name)
                size += member.size
                if (
                    member.size > MEMBER_BYTES or size > ALL_BYTES or count > MEMBERS
                ):  # a sparse one is larger than its header
                    raise _TooLargeError
                if member.isreg() and path.suffix.lower() in IMAGE_SUFFIXES and len(path.parts) >= 3:
                    yield path, archive.extractfile(member).read()
            for _ in range(ALL_BYTES >> 20):  # at the very end gzip's checksum tells whether all of it was right
                if not archive.fileobj.read(1 << 20):
                    break
    except _TooLargeError:
        raise DumenetError(
            f"{tar} unpacks to more than CIFAR-10 can be (at most {MEMBERS:,} files, each up to {MEMBER_BYTES >> 20} MiB, "
            f"together {ALL_BYTES >> 30} GiB): give CIFAR-10's own archive."
        ) from None
    except Exception as error:  # tarfile's, zlib's, lzma's, EOFError, OSError, RecursionError, ...
        raise DumenetError(
            f"{tar} is not a whole tar archive ({type(error).__name__}): copy or download it again."
        ) from None


def _read_files(source: str | Path | list[Path]) -> dict[tuple[str, str], dict[str, bytes | Path]]:
    """(split, class) -> file name -> encoded image, from class folders or tar files of them."""
    images = {}
    sources = [Path(s) for s in source] if isinstance(source, list) else [Path(source)]
    for tar in [t for s in sources for t in _tars(s)]:
        for path, content in _tar_images(tar):
            images.setdefault(path.parts[-3:-1], {})[path.name] = content
    for path in [p for s in sources for p in s.glob("t*/*/*") if p.suffix.lower() in IMAGE_SUFFIXES]:
        images.setdefault((path.parts[-3], path.parts[-2]), {})[path.name] = path
    if not images:
        raise DumenetError(f"{source} holds no CIFAR-10: expected {BATCHES}, or {{train,test}}/<class>/*.png.")
    return images
