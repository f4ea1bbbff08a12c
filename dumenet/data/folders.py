"""Folders in MVTec-AD's layout, their JSON-lines index, and a check of everything at once."""

import json
import unicodedata
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from dumenet.data.images import FORMATS, content_key, is_image, mask_array, open_image
from dumenet.data.samples import Dataset, Sample
from dumenet.errors import DumenetError, refused, shown, unknown

IMAGES = "mvtec_anomaly_detection"  # the archive's own top folder; an index lies beside it
LAYOUT = "<category>/train/good, <category>/test/good, <category>/test/<defect>, <category>/ground_truth/<defect>"
SPLITS = ("ground_truth", "test", "train", "validation")
UNREADABLE = frozenset({".avif", ".dng", ".heic", ".heif", ".jp2"})  # photographs that Pillow alone cannot read


def read_folder(root: str | Path, categories: str | Iterable[str] = "all", use_index: bool = True) -> Dataset:
    """Data set of a folder in MVTec-AD's layout: <category>/{train/good,test/<defect>,ground_truth/<defect>}.

    Args:
        root: the folder of categories, a folder that holds `mvtec_anomaly_detection` (or `MVTec-AD/` around it), or
            one category's own folder.
        categories: one name, several, or "all".
        use_index: where `train.json` lies in the root, read it (and `test.json`) instead of the folders.

    A mask is named NNN_mask or NNN, with any image suffix. `has_masks` is False where some category has no
    ground truth; `test` is empty where there are only normal photographs to train on.

    Raises:
        DumenetError: no such folder or category, no images, or a defect without a mask beside others that have one.
    """
    images, index_folder = _locate(Path(root))
    if use_index and (index_folder / "train.json").is_file():
        listed = read_index(index_folder / "train.json", index_folder / "test.json", images)
        chosen = _choose(listed.categories, categories)
        return _dataset(images, *([s for s in part if s.category in chosen] for part in (listed.train, listed.test)))
    folders = {name: folder for name, folder in _categories(images).items() if _is_category(folder)}
    if not folders:
        raise DumenetError(f"{root} holds no category: expected {LAYOUT}.")
    train, test = [], []
    for category in _choose(folders, categories):
        folder, masks = folders[category], _masks(folders[category])
        for kind in (folder / "train" / "good", *_subfolders(folder / "test")):
            for file in _image_files(kind):
                mask = masks.get((kind.name, file.stem)) if kind.name != "good" else None
                if masks and mask is None and kind.name != "good":
                    raise DumenetError(
                        f"{file} has no mask: add ground_truth/{kind.name}/{file.stem}_mask.png, "
                        "or remove ground_truth to do without masks."
                    )
                part = train if kind.parent.name == "train" else test
                part.append(Sample(file.relative_to(images).as_posix(), category, kind.name, file, mask))
        if not any(s.category == category for s in train + test):
            raise DumenetError(f"Category {folder} holds no images: expected {LAYOUT}.")
    return _dataset(images, train, test)


def read_index(train_json: str | Path, test_json: str | Path, image_dir: str | Path) -> Dataset:
    """Data set of two JSON-lines files, as UniAD and DuMeNet read them.

    A line holds filename, label (0 or 1), label_name, clsname and, for defects, maskname; file names are
    relative to `image_dir`. Where label_name says only "defective", the folder's name is the defect kind.

    Raises:
        DumenetError: a line that cannot be read, a file that is not there or listed twice, or a defect among the
            training images.
    """
    train, test, problems = _read_lines(Path(train_json), Path(test_json), Path(image_dir))
    if problems:
        raise DumenetError(problems[0])
    if not train + test:
        raise DumenetError(f"{train_json} lists no images: delete it to have the folder itself read.")
    return _dataset(Path(image_dir), train, test)


def write_index(dataset: Dataset, root: str | Path, out_dir: str | Path) -> None:
    """Write `train.json` and `test.json` of a data set that was read from `root` into `out_dir`."""
    images, _ = _locate(Path(root))
    try:
        Path(out_dir).mkdir(parents=True, exist_ok=True)
        for part, samples in (("train", dataset.train), ("test", dataset.test)):
            lines = []
            for s in samples:
                row = {"filename": s.name, "label": s.label, "label_name": s.defect, "clsname": s.category}
                mask = {"maskname": s.mask.relative_to(images).as_posix()} if s.mask else {}
                lines.append(json.dumps(row | mask) + "\n")
            (Path(out_dir) / f"{part}.json").write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise refused(f"write the index into {out_dir}", error) from None


def check_folder(root: str | Path) -> list[str]:
    """Every problem of a folder, one line each; an empty list where it is clean. Decodes every file.

    Beside what cannot be read at all it reports what can be, and is likely wrong: an image of one colour or of several
    frames, a mask that looks inverted, a test image that is trained on or has two labels.

    Raises:
        DumenetError: there is no such folder.
    """
    images, index_folder = _locate(Path(root))
    unprintable = [p for top in images.iterdir() for p in (top, *top.rglob("*")) if _is_unprintable(p.name)]
    if unprintable:  # nothing else can be read before
        return [
            f"{ascii(str(p))}: name with a control character or not in UTF-8; rename it" for p in sorted(unprintable)
        ]
    problems = _index_problems(images, index_folder)
    categories = _categories(images)
    if not categories:
        problems.append(f"{root}: no category; expected {LAYOUT}")
    for folder in categories.values():
        problems += [*_layout_problems(folder), *_image_problems(folder)]
    return problems


def _index_problems(images: Path, index_folder: Path) -> list[str]:
    """Lines of an index that cannot be used, and images that it forgets."""
    train, test, problems = _read_lines(index_folder / "train.json", index_folder / "test.json", images)
    if problems or not (index_folder / "train.json").is_file():
        return problems  # a line that cannot be read may name what seems forgotten
    kinds = [k for c in _categories(images).values() for part in ("train", "test") for k in _subfolders(c / part)]
    listed = {s.source for s in train + test}
    forgotten = [f for kind in kinds for f in _image_files(kind) if f not in listed]
    return [f"{f}: neither in train.json nor in test.json, so never read" for f in forgotten]


def _layout_problems(folder: Path) -> Iterator[str]:
    """What lies at the wrong place in one category, or is missing there."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and not path.exists() and not is_image(path):
            yield f"{path}: link to nothing"
    for path in _subfolders(folder):
        if path.name not in SPLITS:
            yield f"{path}: stray folder; expected train, test or ground_truth"
    for path in _subfolders(folder / "train"):
        if path.name != "good":
            yield f"{path}: stray folder; train holds good only"
    for path in _image_files(folder / "train"):
        yield f"{path}: stray image; belongs in train/good"
    good = len(_image_files(folder / "train" / "good"))
    if good < 2:
        few = "one image; no other is left for the verdict's threshold" if good else "empty category; no images"
        yield f"{folder}: {few} in train/good"


def _image_problems(folder: Path) -> Iterator[str]:
    """What is wrong with the images and masks of one category."""
    masks, used = _masks(folder), set()
    first_file: dict[str, Path] = {}  # of each content
    for kind in [k for split in ("train", "validation", "test") for k in _subfolders(folder / split)]:
        yield from (f"{p}: stray folder; images lie directly in {kind.name}" for p in _subfolders(kind))
        for file in sorted(p for p in kind.iterdir() if p.is_file() and not p.name.startswith(".")):
            if not is_image(file) and _is_picture(file):
                yield f"{file}: not read; save it as PNG, JPEG, BMP or TIFF, named so"
        for file in _image_files(kind):
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


def _locate(root: Path) -> tuple[Path, Path]:
    """The folder of categories, and the folder in which its index would lie."""
    if not root.is_dir():
        raise DumenetError(f"There is no folder {root}: expected one that holds {LAYOUT}.")
    for index_folder in (root, root / "MVTec-AD"):
        if (index_folder / IMAGES).is_dir():
            return index_folder / IMAGES, index_folder
    return root, root


def _dataset(images: Path, train: list[Sample], test: list[Sample]) -> Dataset:
    name, masks = images.absolute().name, [s.mask for s in test if s.label]
    return Dataset("mvtec" if name == IMAGES else name, train, test, bool(masks) and None not in masks)


def _is_category(folder: Path) -> bool:
    return (folder / "train").is_dir() or (folder / "test").is_dir()


def _categories(images: Path) -> dict[str, Path]:
    """Subfolders by name; or the folder itself where it is one category."""
    if _is_category(images):
        return {images.absolute().name: images}
    return {folder.name: folder for folder in _subfolders(images)}


def _choose(known: Iterable[str], categories: str | Iterable[str]) -> list[str]:
    known = sorted(known)
    wanted = [categories] if isinstance(categories, str) else list(categories)
    if "all" in wanted:
        return known
    for name in wanted:
        if name not in known:
            raise unknown("category", name, known)
    if not wanted:
        raise DumenetError(f'No category is chosen: name some of {", ".join(known)}, or "all".')
    return sorted(set(wanted))


def _subfolders(folder: Path) -> list[Path]:
    return [p for p in _entries(folder) if p.is_dir()]


def _image_files(folder: Path) -> list[Path]:
    """Image files directly in a folder, sorted; among them links to nothing, so that each is reported."""
    return [p for p in _entries(folder) if is_image(p) and (p.is_file() or not p.exists())]


def _entries(folder: Path) -> list[Path]:
    """What lies directly in a folder, sorted, without what is hidden; nothing where there is no folder.

    Raises:
        DumenetError: a name that results files could not hold.
    """
    found = sorted(p for p in folder.iterdir() if not p.name.startswith(".")) if folder.is_dir() else []
    for path in found:
        if _is_unprintable(path.name):
            raise DumenetError(f"The name of {ascii(str(path))} holds a control character or is not UTF-8: rename it.")
    return found


def _is_unprintable(name: str) -> bool:
    return any(unicodedata.category(c) in ("Cc", "Cs") for c in name)  # Cs: a byte that is not UTF-8


def _masks(category: Path) -> dict[tuple[str, str], Path]:
    """Mask file of each (defect, image stem)."""
    kinds = _subfolders(category / "ground_truth")
    return {(kind.name, file.stem.removesuffix("_mask")): file for kind in kinds for file in _image_files(kind)}


def _read_lines(train_json: Path, test_json: Path, images: Path) -> tuple[list[Sample], list[Sample], list[str]]:
    """Training samples, test samples, and a sentence for each line that cannot be used; a missing file has no lines."""
    train, test, problems = [], [], []
    for part, path in ((train, train_json), (test, test_json)):
        text = path.read_bytes().decode("utf-8-sig", errors="replace") if path.is_file() else ""
        for number, line in enumerate(text.splitlines(), 1):
            try:
                if line.strip():
                    part.append(_from_line(line, images, f"{path} line {number}"))
            except DumenetError as error:
                problems.append(str(error))
    for defect in (s.name for s in train if s.label):
        problems.append(f"{train_json} lists the defect {defect}: training images must have label 0.")
    for name, count in Counter(s.name for s in train + test).items():
        if count > 1:
            problems.append(f"{train_json} and {test_json.name} list {name} {count} times: delete all lines but one.")
    return train, test, problems


def _from_line(line: str, images: Path, where: str) -> Sample:
    """The sample of an index's line; `where` names the line in errors."""
    try:
        row = json.loads(line)
        name, label = Path(row["filename"]), ("0", "1").index(str(row["label"]))
        kind, category = row["label_name"], row.get("clsname") or name.parts[0]
        mask = Path(row["maskname"]) if label and row.get("maskname") else None
        if not (isinstance(kind, str) and isinstance(category, str)):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise DumenetError(
            f"{where} is not a JSON object with filename, label, label_name and clsname: "
            "fix it, or delete the file to have the folder itself read."
        ) from None
    for word in (category, kind):  # both become part of file names
        if word in (".", "..") or "/" in word or "\\" in word or _is_unprintable(word):
            raise DumenetError(f"{where} holds the name {shown(word)}: give a plain name, such as a folder has.")
    for file in filter(None, (name, mask)):
        if _is_unprintable(str(file)):
            raise DumenetError(f"{where} names {ascii(str(file))}, which is not UTF-8 or not printable: rename it.")
        if file.is_absolute() or ".." in file.parts:
            raise DumenetError(f"{where} names {file}: give file names below {images} only.")
        if not (images / file).is_file():
            raise DumenetError(f"{where} names {images / file}, which is not there: restore it or delete the line.")
    if not label:
        kind = "good"
    elif kind in ("good", "defective"):
        kind = name.parent.name if name.parent.name not in ("good", "") else "defective"
    return Sample(name.as_posix(), category, kind, images / name, mask and images / mask)
