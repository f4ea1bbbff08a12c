"""Folders in MVTec-AD's layout, their JSON-lines index, and a check of everything at once."""

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from dumenet.data.images import FORMATS, IMAGE_SUFFIXES, content_key, mask_array, open_image
from dumenet.data.samples import Dataset, Sample
from dumenet.errors import DumenetError, refused, shown, unknown

IMAGES = "mvtec_anomaly_detection"  # the archive's own top folder; an index lies beside it
LAYOUT = "<category>/train/good, <category>/test/good, <category>/test/<defect>, <category>/ground_truth/<defect>"
SPLITS = ("ground_truth", "test", "train", "validation")
FOREIGN = frozenset({".avif", ".dng", ".heic", ".heif", ".jp2"})  # photographs that Pillow cannot tell by themselves


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
    root = Path(root)
    images, beside = _locate(root)
    if use_index and (beside / "train.json").is_file():
        dataset = read_index(beside / "train.json", beside / "test.json", images)
        chosen = set(_choose(dataset.categories, categories))
        train, test = ([s for s in part if s.category in chosen] for part in (dataset.train, dataset.test))
        return Dataset(dataset.name, train, test, _has_masks(test))
    folders = {name: folder for name, folder in _categories(images).items() if _is_category(folder)}
    if not folders:
        raise DumenetError(f"{root} holds no category: expected {LAYOUT}.")
    train, test = [], []
    for category in _choose(folders, categories):
        folder = folders[category]
        good = _files(folder / "train" / "good")
        train += [_sample(images, file, category, "good") for file in good]
        masks = _masks(folder)
        for kind in _subfolders(folder / "test"):
            for file in _files(kind):
                mask = None if kind.name == "good" else masks.get((kind.name, file.stem))
                if mask is None and kind.name != "good" and masks:
                    raise DumenetError(
                        f"{file} has no mask: add ground_truth/{kind.name}/{file.stem}_mask.png, "
                        "or remove ground_truth to do without masks."
                    )
                test.append(_sample(images, file, category, kind.name, mask))
        if not good and not any(s.category == category for s in test):
            raise DumenetError(f"Category {folder} holds no images: expected {LAYOUT}.")
    return Dataset(_name(images), train, test, _has_masks(test))


def read_index(train_json: str | Path, test_json: str | Path, image_dir: str | Path) -> Dataset:
    """Data set of two JSON-lines files, as UniAD and DuMeNet read them.

    A line holds filename, label (0 or 1), label_name, clsname and, for defects, maskname; file names are
    relative to `image_dir`. Where label_name says only "defective", the folder's name is the defect kind.

    Raises:
        DumenetError: a line that cannot be read, a file that is not there or listed twice, or a defect among the
            training images.
    """
    image_dir = Path(image_dir)
    train = [_from_line(line, image_dir, where) for where, line in _lines(Path(train_json))]
    test = [_from_line(line, image_dir, where) for where, line in _lines(Path(test_json))]
    wrong = next((s for s in train if s.label), None)
    if wrong:
        raise DumenetError(f"{train_json} lists the defect {wrong.name}: training images must have label 0.")
    twice = next((name for name, n in Counter(s.name for s in train + test).items() if n > 1), None)
    if twice:
        raise DumenetError(f"{train_json} and {Path(test_json).name} list {twice} twice: delete one of the lines.")
    if not train and not test:
        raise DumenetError(f"{train_json} lists no images: delete it to have the folder itself read.")
    return Dataset(_name(image_dir), train, test, _has_masks(test))


def write_index(dataset: Dataset, root: str | Path, out_dir: str | Path) -> None:
    """Write `train.json` and `test.json` of a data set that was read from `root` into `out_dir`."""
    images, _ = _locate(Path(root))
    out_dir = Path(out_dir)
    for part in ("train", "test"):
        rows = []
        for s in getattr(dataset, part):
            row = {"filename": s.name, "label": s.label, "label_name": s.defect, "clsname": s.category}
            rows.append(row | ({"maskname": s.mask.relative_to(images).as_posix()} if s.mask else {}))
        text = "".join(json.dumps(row) + "\n" for row in rows)
        try:
            out_dir.mkdir(parents=True, exist_ok=True)
            (out_dir / f"{part}.json").write_text(text, encoding="utf-8")
        except OSError as error:
            raise refused(f"write the index into {out_dir}", error) from None


def check_folder(root: str | Path) -> list[str]:
    """Every problem of a folder, one line each; an empty list where it is clean. Decodes every file.

    Beside what cannot be read at all it tells what can be, and is likely wrong: a picture of one colour or of several
    frames, a mask that looks inverted, a test image that is trained on or bears two labels.

    Raises:
        DumenetError: there is no such folder.
    """
    images, beside = _locate(Path(root))
    nameless = [p for top in images.iterdir() for p in (top, *top.rglob("*")) if _is_no_text(p.name)]
    if nameless:  # nothing else can be read before
        return [f"{ascii(str(p))}: name with a control character or not in UTF-8; rename it" for p in sorted(nameless)]
    problems = _index_problems(images, beside)
    categories = _categories(images)
    if not categories:
        problems.append(f"{root}: no category; expected {LAYOUT}")
    for folder in categories.values():
        links = [p for p in sorted(folder.rglob("*")) if p.is_symlink() and not p.exists()]
        problems += [f"{p}: link to nothing" for p in links if p.suffix.lower() not in IMAGE_SUFFIXES]
        strays = [p for p in _subfolders(folder) if p.name not in SPLITS]
        problems += [f"{p}: stray folder; expected train, test or ground_truth" for p in strays]
        strays = [p for p in _subfolders(folder / "train") if p.name != "good"]
        problems += [f"{p}: stray folder; train holds good only" for p in strays]
        problems += [f"{p}: stray image; belongs in train/good" for p in _files(folder / "train")]
        good = _files(folder / "train" / "good")
        if len(good) < 2:
            few = "empty category; no images" if not good else "one image; no other is left for the verdict's threshold"
            problems.append(f"{folder}: {few} in train/good")
        problems += _image_problems(folder)
    return problems


def _index_problems(images: Path, beside: Path) -> list[str]:
    """Lines of an index that cannot be used, and images that it forgets."""
    problems, listed = [], Counter()
    for part in ("train", "test"):
        for where, line in _lines(beside / f"{part}.json"):
            try:
                sample = _from_line(line, images, where)
            except DumenetError as error:
                problems.append(str(error))
                continue
            listed[sample.source] += 1
            if part == "train" and sample.label:
                problems.append(f"{where} lists the defect {sample.name}: training images must have label 0.")
    problems += [f"{file}: listed {n} times in train.json and test.json" for file, n in listed.items() if n > 1]
    if (beside / "train.json").is_file() and not problems:  # a line that cannot be read may name what seems forgotten
        for folder in _categories(images).values():
            kinds = _subfolders(folder / "train") + _subfolders(folder / "test")
            forgotten = [f for kind in kinds for f in _files(kind) if f not in listed]
            problems += [f"{f}: neither in train.json nor in test.json, so never read" for f in forgotten]
    return problems


def _image_problems(folder: Path) -> list[str]:
    """What is wrong with the images and masks of one category."""
    problems, masks, used = [], _masks(folder), set()
    first: dict[str, Path] = {}  # of each content the first file
    for kind in _subfolders(folder / "train") + _subfolders(folder / "validation") + _subfolders(folder / "test"):
        problems += [f"{p}: stray folder; images lie directly in {kind.name}" for p in _subfolders(kind)]
        problems += [f"{p}: not read; save it as PNG, JPEG, BMP or TIFF, named so" for p in _overlooked(kind)]
        defect = kind.parent.name == "test" and kind.name != "good"
        for file in _files(kind):
            image = _decoded(file, problems)
            if image is not None:
                twin = first.setdefault(content_key(_sample(folder, file, folder.name, kind.name)), file)
                problems += _doubts(file, image) + _doubts_about_twins(file, twin)
            mask = masks.get((kind.name, file.stem)) if defect else None
            if defect and masks and mask is None:
                problems.append(f"{file}: image without mask")
            if mask is None:
                continue
            used.add(mask)
            drawn = _decoded(mask, problems)
            if drawn is None:
                continue
            marked = mask_array(drawn)  # (H, W)
            if image is not None and image.size != drawn.size:
                size = f"{drawn.width} x {drawn.height}, its image {image.width} x {image.height}"
                problems.append(f"{mask}: mask is {size}")
            elif not marked.any():
                problems.append(f"{mask}: empty mask")
            elif marked.mean() > 0.5 and marked[[0, 0, -1, -1], [0, -1, 0, -1]].all():
                problems.append(f"{mask}: mask marks {marked.mean():.0%}, all corners too; black and white exchanged?")
    return problems + [f"{m}: mask without image" for m in sorted(set(masks.values()) - used)]


def _doubts(file: Path, image: Image.Image) -> list[str]:
    """What may be wrong with an image that can be read."""
    with Image.open(file, formats=FORMATS) as opened:
        frames = getattr(opened, "n_frames", 1) if opened.format != "MPO" else 1  # a phone's: one photo, twice
    doubts = [f"{file}: holds {frames} frames or pages; only the first is read"] if frames > 1 else []
    pixels = np.asarray(image)
    if (pixels == pixels[0, 0]).all():
        doubts.append(f"{file}: every pixel has the same colour")
    return doubts


def _doubts_about_twins(file: Path, twin: Path) -> list[str]:
    """What is wrong with two files of the same bytes, if anything is."""
    (split, kind), (other_split, other_kind) = file.parts[-3:-1], twin.parts[-3:-1]
    if split == "test" and other_split == "train":
        return [f"{file}: the same image as {twin}, which is trained on"]
    if split == other_split == "test" and (kind == "good") != (other_kind == "good"):
        return [f"{file}: the same image as {twin}, which has another label"]
    return []


def _overlooked(kind: Path) -> list[Path]:
    """Files that hold a picture, but do not bear the name of one that is read."""
    return [p for p in sorted(kind.iterdir()) if p.is_file() and not p.name.startswith(".") and _is_overlooked(p)]


def _is_overlooked(file: Path) -> bool:
    if file.suffix.lower() in IMAGE_SUFFIXES | FOREIGN:
        return file.suffix.lower() in FOREIGN
    try:
        Image.open(file, formats=FORMATS).close()  # reads the header only
    except Exception:  # as many kinds as Pillow has decoders
        return False
    return True


def _locate(root: Path) -> tuple[Path, Path]:
    """The folder of categories, and the folder in which its index would lie."""
    if not root.is_dir():
        raise DumenetError(f"There is no folder {root}: expected one that holds {LAYOUT}.")
    for beside in (root, root / "MVTec-AD"):
        if (beside / IMAGES).is_dir():
            return beside / IMAGES, beside
    return root, root


def _name(images: Path) -> str:
    name = images.absolute().name
    return "mvtec" if name == IMAGES else name


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


def _files(folder: Path) -> list[Path]:
    """Image files directly in a folder, sorted; among them links to nothing, so that none is lost in silence."""
    return [p for p in _entries(folder) if p.suffix.lower() in IMAGE_SUFFIXES and (p.is_file() or not p.exists())]


def _entries(folder: Path) -> list[Path]:
    """What lies directly in a folder, sorted, without what is hidden; nothing where there is no folder.

    Raises:
        DumenetError: a name that is no text, which results files could not hold.
    """
    found = sorted(p for p in folder.iterdir() if not p.name.startswith(".")) if folder.is_dir() else []
    for path in found:
        if _is_no_text(path.name):
            raise DumenetError(f"The name of {ascii(str(path))} holds a control character or is not UTF-8: rename it.")
    return found


def _is_no_text(name: str) -> bool:
    return any(unicodedata.category(c) in ("Cc", "Cs") for c in name)  # Cs: a byte that is not UTF-8


def _masks(category: Path) -> dict[tuple[str, str], Path]:
    """Mask file of each (defect, image stem)."""
    kinds = _subfolders(category / "ground_truth")
    return {(kind.name, file.stem.removesuffix("_mask")): file for kind in kinds for file in _files(kind)}


def _sample(images: Path, file: Path, category: str, defect: str, mask: Path | None = None) -> Sample:
    return Sample(file.relative_to(images).as_posix(), category, defect, file, mask)


def _has_masks(test: list[Sample]) -> bool:
    defects = [s for s in test if s.label]
    return bool(defects) and all(s.mask is not None for s in defects)


def _lines(path: Path) -> list[tuple[str, str]]:
    """(where, text) of each line that is not blank; none where there is no such file."""
    if not path.is_file():
        return []
    text = path.read_bytes().decode("utf-8-sig", errors="replace")
    return [(f"{path} line {n}", line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]


def _from_line(line: str, images: Path, where: str) -> Sample:
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
        if word in (".", "..") or "/" in word or "\\" in word or _is_no_text(word):
            raise DumenetError(
                f"{where} holds the name {shown(word)}: a category or kind is a plain name, such as a folder has."
            )
    for file in filter(None, (name, mask)):
        if _is_no_text(str(file)):
            raise DumenetError(
                f"{where} names {ascii(str(file))}, which holds a control character or is not UTF-8: rename it."
            )
        if file.is_absolute() or ".." in file.parts:
            raise DumenetError(f"{where} names {file}: give file names below {images} only.")
        if not (images / file).is_file():
            raise DumenetError(f"{where} names {images / file}, which is not there: restore it or delete the line.")
    if not label:
        kind = "good"
    elif kind in ("good", "defective"):
        kind = name.parent.name if name.parent.name not in ("good", "") else "defective"
    return Sample(name.as_posix(), category, kind, images / name, mask and images / mask)


def _decoded(file: Path, problems: list[str]) -> Image.Image | None:
    """The image, or None and one more problem."""
    try:
        return open_image(file)
    except DumenetError as error:
        problems.append(f"{file}: unreadable; {error}")
        return None
