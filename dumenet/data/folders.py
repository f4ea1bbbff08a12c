"""Folders in MVTec-AD's layout, and their JSON-lines index."""

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from dumenet.data.images import is_image
from dumenet.data.samples import Dataset, Sample
from dumenet.errors import DumenetError, refused, shown, unknown

IMAGES = "mvtec_anomaly_detection"  # the archive's own top folder; an index lies beside it
LAYOUT = "<category>/train/good, <category>/test/good, <category>/test/<defect>, <category>/ground_truth/<defect>"
NORMAL = ("good", "ok", "normal")  # names of folders of normal images, in capitals too


def read_folder(
    root: str | Path,
    categories: str | Iterable[str] = "all",
    use_index: bool = True,
    normal_names: Iterable[str] = (),
) -> Dataset:
    """Data set of a folder in MVTec-AD's layout: <category>/{train/good,test/<defect>,ground_truth/<defect>}.

    Args:
        root: the folder of categories, a folder that holds `mvtec_anomaly_detection` (or `MVTec-AD/` around it), or
            one category's own folder.
        categories: one name, several, or "all".
        use_index: where `train.json` lies in the root, read it (and `test.json`) instead of the folders. A line holds
            filename, label (0 or 1), label_name, clsname and, for defects, maskname, as UniAD and DuMeNet use them;
            where label_name says only "defective", the folder's name is the defect kind.
        normal_names: folders of normal images beside `NORMAL`.

    The mask of NNN.png is named NNN or NNN_mask, with any image suffix, or it is a folder NNN of masks (MVTec LOCO);
    it lies in ground_truth/<defect> or in ground_truth itself. `test` is empty where there are only normal photographs
    to train on.

    Raises:
        DumenetError: no such folder or category, no images, a line of the index that cannot be used, a defect without
            a mask beside others of its category that have one, or two with the same mask.
    """
    images, index_folder = locate(Path(root))
    index = index_folder / "train.json"
    if use_index and index.is_file():
        train, test, problems = read_index(index_folder, images)
        if problems:
            raise DumenetError(problems[0])
        if not train + test:
            raise DumenetError(f"{index} lists no images: delete it to have the folder itself read.")
        chosen = _choose({s.category for s in train + test}, categories)
        train, test = ([s for s in part if s.category in chosen] for part in (train, test))
    else:
        folders = {name: folder for name, folder in categories_of(images).items() if _is_category(folder)}
        if not folders:
            raise DumenetError(f"{root} holds no category: expected {LAYOUT}.")
        chosen = _choose(folders, categories)
        found = [_read_category(name, folders[name], images, normal_names) for name in chosen]
        train, test = (sum(parts, []) for parts in zip(*found))
    name = images.absolute().name
    return Dataset("mvtec" if name == IMAGES else name, train, test)


def _read_category(
    category: str, folder: Path, images: Path, normal_names: Iterable[str]
) -> tuple[list[Sample], list[Sample]]:
    """Training and test samples of one category's folder."""
    masks, marked = masks_of(folder), {}  # marked: the image of each mask
    samples: dict[str, list[Sample]] = {"train": [], "test": []}
    for kind in (*subfolders(folder / "train"), *subfolders(folder / "test")):
        split, normal = kind.parent.name, is_normal(kind, normal_names)
        for file in image_files(kind) if normal or split == "test" else ():
            mask = None if normal else mask_of(file, masks)
            if masks and not (mask or normal):
                raise DumenetError(
                    f"{file} has no mask: add ground_truth/{kind.name}/{file.stem}_mask.png, remove ground_truth to do "
                    f"without masks, or, if {kind.name} holds normal images, name it in data.normal_names."
                )
            if mask and marked.setdefault(mask, file) != file:
                raise DumenetError(
                    f"{marked[mask]} and {file} have the same mask {mask}: rename one, and give it its own."
                )
            name = file.relative_to(images).as_posix()
            samples[split].append(Sample(name, category, "good" if normal else kind.name, file, mask))
    if not samples["train"] + samples["test"]:
        raise DumenetError(f"Category {folder} holds no images: expected {LAYOUT}.")
    return samples["train"], samples["test"]


def is_normal(folder: Path, normal_names: Iterable[str]) -> bool:
    """Whether a folder holds normal images, by its name."""
    return folder.name.lower() in {*NORMAL, *(name.lower() for name in normal_names)}


def masks_of(category: Path) -> dict[tuple[str, str], Path]:
    """Masks, files or folders of files, by their folder in ground_truth ("": none) and their name without suffix."""
    truth = category / "ground_truth"
    found = {("", file.stem): file for file in image_files(truth)}
    for kind in subfolders(truth):
        found |= {(kind.name, folder.name): folder for folder in subfolders(kind) if image_files(folder)}
        found |= {(kind.name, file.stem): file for file in image_files(kind)}
    return found


def mask_of(image: Path, masks: dict[tuple[str, str], Path]) -> Path | None:
    """The mask among `masks_of` that is named after an image."""
    keys = [(kind, image.stem + end) for kind in (image.parent.name, "") for end in ("", "_mask")]
    return next((masks[key] for key in keys if key in masks), None)


def write_index(dataset: Dataset, root: str | Path, out_dir: str | Path) -> None:
    """Write `train.json` and `test.json` of a data set that was read from `root` into `out_dir`."""
    images, _ = locate(Path(root))
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


def locate(root: Path) -> tuple[Path, Path]:
    """The folder of categories, and the folder in which its index would lie."""
    if not root.is_dir():
        raise DumenetError(f"There is no folder {root}: expected one that holds {LAYOUT}.")
    for index_folder in (root, root / "MVTec-AD"):
        if (index_folder / IMAGES).is_dir():
            return index_folder / IMAGES, index_folder
    return root, root


def _is_category(folder: Path) -> bool:
    return (folder / "train").is_dir() or (folder / "test").is_dir()


def categories_of(images: Path) -> dict[str, Path]:
    """Subfolders by name; or the folder itself where it is one category."""
    if _is_category(images):
        return {images.absolute().name: images}
    return {folder.name: folder for folder in subfolders(images)}


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


def subfolders(folder: Path) -> list[Path]:
    return [p for p in _entries(folder) if p.is_dir()]


def image_files(folder: Path) -> list[Path]:
    """Image files directly in a folder, sorted; among them links to nothing, so that each is reported."""
    return [p for p in _entries(folder) if is_image(p) and (p.is_file() or not p.exists())]


def _entries(folder: Path) -> list[Path]:
    """What lies directly in a folder, sorted, without what is hidden; nothing where there is no folder.

    Raises:
        DumenetError: a name that results files could not hold.
    """
    found = sorted(p for p in folder.iterdir() if not p.name.startswith(".")) if folder.is_dir() else []
    for path in found:
        if is_unprintable(path.name):
            raise DumenetError(f"The name of {ascii(str(path))} holds a control character or is not UTF-8: rename it.")
    return found


def is_unprintable(name: str) -> bool:
    return any(unicodedata.category(c) in ("Cc", "Cs") for c in name)  # Cs: a byte that is not UTF-8


def read_index(folder: Path, images: Path) -> tuple[list[Sample], list[Sample], list[str]]:
    """Training samples and test samples of an index, and a sentence for each line that cannot be used."""
    train, test, problems = [], [], []
    for part, path in ((train, folder / "train.json"), (test, folder / "test.json")):
        text = path.read_bytes().decode("utf-8-sig", errors="replace") if path.is_file() else ""
        for number, line in enumerate(text.splitlines(), 1):
            try:
                if line.strip():
                    part.append(_from_line(line, images, f"{path} line {number}"))
            except DumenetError as error:
                problems.append(str(error))
    where = folder / "train.json"
    for defect in (s.name for s in train if s.label):
        problems.append(f"{where} lists the defect {defect}: training images must have label 0.")
    for name, count in Counter(s.name for s in train + test).items():
        if count > 1:
            problems.append(f"{where} and test.json list {name} {count} times: delete all lines but one.")
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
        if word in (".", "..") or "/" in word or "\\" in word or is_unprintable(word):
            raise DumenetError(f"{where} holds the name {shown(word)}: give a plain name, such as a folder has.")
    for file in filter(None, (name, mask)):
        if is_unprintable(str(file)):
            raise DumenetError(f"{where} names {ascii(str(file))}, which is not UTF-8 or not printable: rename it.")
        if file.is_absolute() or ".." in file.parts:
            raise DumenetError(f"{where} names {file}: give file names below {images} only.")
        if not (images / file).is_file() and not (file == mask and (images / file).is_dir()):
            raise DumenetError(f"{where} names {images / file}, which is not there: restore it or delete the line.")
    if not label:
        kind = "good"
    elif kind in ("good", "defective"):
        kind = name.parent.name if name.parent.name not in ("good", "") else "defective"
    return Sample(name.as_posix(), category, kind, images / name, mask and images / mask)
