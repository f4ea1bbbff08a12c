"""Folders in MVTec-AD's layout, their JSON-lines index, and a check of everything at once."""

import json
from collections.abc import Iterable
from pathlib import Path

from dumenet.data.images import IMAGE_SUFFIXES, mask_array, open_image
from dumenet.data.samples import Dataset, Sample
from dumenet.errors import DumenetError, unknown

IMAGES = "mvtec_anomaly_detection"  # the archive's own top folder; an index lies beside it
LAYOUT = "<category>/train/good, <category>/test/good, <category>/test/<defect>, <category>/ground_truth/<defect>"
SPLITS = ("ground_truth", "test", "train", "validation")


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
        DumenetError: a line that cannot be read, a file that is not there, or a defect among the training images.
    """
    image_dir = Path(image_dir)
    train = [_from_line(line, image_dir, where) for where, line in _lines(Path(train_json))]
    test = [_from_line(line, image_dir, where) for where, line in _lines(Path(test_json))]
    wrong = next((s for s in train if s.label), None)
    if wrong:
        raise DumenetError(f"{train_json} lists the defect {wrong.name}: training images must have label 0.")
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
            raise DumenetError(f"Cannot write the index into {out_dir} ({error.strerror}): choose another.") from None


def check_folder(root: str | Path) -> list[str]:
    """Every problem of a folder, one line each; an empty list where it is clean. Decodes every file.

    Raises:
        DumenetError: there is no such folder.
    """
    images, beside = _locate(Path(root))
    problems = []
    for where, line in _lines(beside / "train.json") + _lines(beside / "test.json"):
        try:
            _from_line(line, images, where)
        except DumenetError as error:
            problems.append(str(error))
    categories = _categories(images)
    if not categories:
        problems.append(f"{root}: no category; expected {LAYOUT}")
    for folder in categories.values():
        strays = [p for p in _subfolders(folder) if p.name not in SPLITS]
        problems += [f"{p}: stray folder; expected train, test or ground_truth" for p in strays]
        strays = [p for p in _subfolders(folder / "train") if p.name != "good"]
        problems += [f"{p}: stray folder; train holds good only" for p in strays]
        problems += [f"{p}: stray image; belongs in train/good" for p in _files(folder / "train")]
        if not _files(folder / "train" / "good"):
            problems.append(f"{folder}: empty category; no images in train/good")
        masks = _masks(folder)
        used = set()
        for kind in _subfolders(folder / "train") + _subfolders(folder / "validation") + _subfolders(folder / "test"):
            defect = kind.parent.name == "test" and kind.name != "good"
            for file in _files(kind):
                size = _decoded(file, problems)
                mask = masks.get((kind.name, file.stem)) if defect else None
                if defect and masks and mask is None:
                    problems.append(f"{file}: image without mask")
                if mask is None:
                    continue
                used.add(mask)
                mask_size = _decoded(mask, problems)
                if size and mask_size and size != mask_size:
                    problems.append(f"{mask}: mask is {mask_size[0]} x {mask_size[1]}, its image {size[0]} x {size[1]}")
                if mask_size and not mask_array(open_image(mask)).any():
                    problems.append(f"{mask}: empty mask")
        problems += [f"{m}: mask without image" for m in sorted(set(masks.values()) - used)]
    return problems


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
        raise DumenetError(f"No category is chosen: name some of {', '.join(known)}, or \"all\".")
    return sorted(set(wanted))


def _subfolders(folder: Path) -> list[Path]:
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(p for p in found if p.is_dir() and not p.name.startswith("."))


def _files(folder: Path) -> list[Path]:
    """Image files directly in a folder, sorted."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(
        p for p in found if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".") and p.is_file()
    )


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
        name, label = Path(row["filename"]), int(row["label"])
        kind, category = str(row["label_name"]), str(row.get("clsname") or name.parts[0])
        mask = images / row["maskname"] if label and row.get("maskname") else None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise DumenetError(
            f"{where} is not a JSON object with filename, label, label_name and clsname: "
            "mend it, or delete the file to have the folder itself read."
        ) from None
    for file in filter(None, (images / name, mask)):
        if not file.is_file():
            raise DumenetError(f"{where} names {file}, which is not there: restore it or delete the line.")
    if not label:
        kind = "good"
    elif kind in ("good", "defective"):
        kind = name.parent.name if name.parent.name not in ("good", "") else "defective"
    return Sample(name.as_posix(), category, kind, images / name, mask)


def _decoded(file: Path, problems: list[str]) -> tuple[int, int] | None:
    """(width, height), or None and one more problem."""
    try:
        return open_image(file).size
    except DumenetError as error:
        problems.append(f"{file}: unreadable; {error}")
        return None
