"""Data sets on disk: trees of folders, CSV files and JSON-lines indexes, each read into rows, and rows into samples."""

import contextlib
import csv
import io
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from dumenet.data.images import is_image
from dumenet.data.samples import Dataset, Sample, few_normal
from dumenet.errors import DumenetError, refused, shown, unknown

IMAGES = "mvtec_anomaly_detection"  # the archive's own top folder; an index lies beside it
VISA = "split_csv"  # the folder of VisA's tables, whose paths start from the folder above it
LAYOUT = "<category>/train/good, <category>/test/good, <category>/test/<defect>, <category>/ground_truth/<defect>"
LAYOUTS = f"{LAYOUT}, {VISA}/1cls.csv, or another layout of data/README.md"
NO_CATEGORY = f"put normal photographs into NAME/train/good, or make it {LAYOUTS}"
TREES = {  # data set -> what only its categories hold, and where images and masks lie
    "MVTec 3D-AD": ("t*/*/rgb", "<category>/train/good/rgb, test/<defect>/rgb, test/<defect>/gt; only RGB is read"),
    "MVTec LOCO": ("ground_truth/*/*/*", f"{LAYOUT}/<image>/*"),
    "BTAD": ("train/ok", "<category>/train/ok, test/ok, test/ko, ground_truth/ko"),
    "MVTec-AD": ("", LAYOUT),
}
NORMAL = ("good", "ok", "normal")  # names of folders of normal images, in capitals too
COLUMNS = {"object": "category", "image": "path"}  # VisA's words for ours


class Row(NamedTuple):
    """One image, as its layout tells of it."""

    file: Path
    category: str
    split: str  # "train" or "test"
    defect: str  # "good" where normal
    mask: Path | None  # a file or a folder of files; of a normal image too, where there is one


def read_folder(
    root: str | Path,
    categories: str | Iterable[str] = "all",
    use_index: bool = True,
    normal_names: Iterable[str] = (),
) -> Dataset:
    """Data set of a folder, or of a CSV; the layout is found from what is there (data/README.md shows each).

    Args:
        root: a folder in the layout of MVTec-AD (also MPDD), MVTec LOCO, MVTec 3D-AD, BTAD or VisA; one that holds
            `mvtec_anomaly_detection` (or `MVTec-AD/` around it); one category's own folder; or a CSV with the columns
            path, label, split and, if wanted, mask and category, its paths relative to its own folder.
        categories: one name, several, or "all".
        use_index: where `train.json` lies in the root, read it (and `test.json`) instead of the folders. A line holds
            filename, label (0 or 1), label_name, clsname and, for defects, maskname, as UniAD and DuMeNet use them;
            where label_name says only "defective", the folder's name is the defect kind.
        normal_names: folders, or labels of a CSV, of normal images beside `NORMAL`.

    The mask of NNN.png is named NNN or NNN_mask, with any image suffix, or it is a folder NNN of masks (MVTec LOCO);
    it lies in ground_truth/<defect> or in ground_truth itself. `test` is empty where there are only normal photographs
    to train on.

    Raises:
        DumenetError: no such folder, layout or category, no images, a line or column of a table that cannot be used, a
            defect without a mask beside others of its category that have one, or two with the same mask.
    """
    images, table = locate(Path(root), use_index)
    folders = {} if table else {k: v for k, v in categories_of(images).items() if is_category(v)}
    rows, problems = table_rows(table, images, normal_names) if table else ([], [])
    known = {row.category for row in rows} | set(folders)
    if not known and not problems:
        nothing = "lists no images: delete it, or add some" if table else f"holds no category: {NO_CATEGORY}"
        problems = [f"{table or root} {nothing}."]
    chosen = [] if problems else choose(known, categories)
    folders = {name: folder for name, folder in folders.items() if name in chosen}
    rows = [row for row in rows if row.category in chosen] + list(tree_rows(folders, normal_names))
    problems += mask_problems(rows, folders)
    for name in sorted(set(chosen) - {row.category for row in rows}):
        problems.append(f"Category {folders[name]} holds no images: expected {LAYOUT}.")
    if problems:
        raise DumenetError(problems[0])
    parts: dict[str, list[Sample]] = {"train": [], "test": []}
    for file, category, split, defect, mask in rows:
        name, mask = file.relative_to(images).as_posix(), None if defect == "good" else mask
        parts[split].append(Sample(name, category, defect, file, mask))
    name = images.absolute().name if Path(root).is_dir() else Path(root).stem
    return Dataset("mvtec" if name == IMAGES else name, **parts)


def describe(root: str | Path, normal_names: Iterable[str] = ()) -> list[str]:
    """Sentences on a data set on disk that are no problems: its layout and size, and whether it is small."""
    images, table = locate(Path(root))
    visa = "VisA, " if table and table.parent.name == VISA else ""
    what, few = f"{visa}read by the table {table}" if table else "a tree of folders", ""
    with contextlib.suppress(DumenetError):  # its problems are told by the check
        folders = [folder for folder in categories_of(images).values() if is_category(folder)]
        if folders and not table:
            name = next(k for k, (own, _) in TREES.items() if not own or any(any(f.glob(own)) for f in folders))
            what = f"in the layout of {name} ({TREES[name][1]})"
        found = read_folder(root, normal_names=normal_names)
        what += f", categories: {len(found.categories)}, training images: {len(found.train)}, test images: "
        what += f"{len(found.test)}, defective: {sum(s.label for s in found.test)}, with masks: "
        what, few = f"{what}{sum(s.mask is not None for s in found.test)}", few_normal(found)
    return [f"{root} is {what}.", *([few] if few else [])]


def locate(root: Path, use_index: bool = True) -> tuple[Path, Path | None]:
    """The folder that names of images start from, and the table that lists them, None where folders tell all.

    Raises:
        DumenetError: there is neither folder nor table.
    """
    if root.suffix.lower() == ".csv" and root.is_file():
        return root.parent.parent if root.parent.name == VISA else root.parent, root
    if not root.is_dir():
        raise DumenetError(f"There is no folder {root}: expected one that holds {LAYOUTS}.")
    around = next((folder for folder in (root, root / "MVTec-AD") if (folder / IMAGES).is_dir()), None)
    images, index = around / IMAGES if around else root, (around or root) / "train.json"
    tables = [index, root / VISA / "1cls.csv"] if use_index else [root / VISA / "1cls.csv"]
    return images, next((table for table in tables if table.is_file()), None)


def tree_rows(folders: Mapping[str, Path], normal_names: Iterable[str] = ()) -> Iterator[Row]:
    """Rows of categories' folders."""
    for category, folder in folders.items():
        masks = masks_of(folder)
        for kind in (*subfolders(folder / "train"), *subfolders(folder / "test")):
            split, defect = kind.parent.name, "good" if is_normal(kind.name, normal_names) else kind.name
            rgb = kind / "rgb"  # MVTec 3D-AD
            for file in image_files(rgb if rgb.is_dir() else kind) if defect == "good" or split == "test" else ():
                keys = [(place, file.stem + end) for place in (kind.name, "") for end in ("", "_mask")]
                yield Row(file, category, split, defect, next((masks[key] for key in keys if key in masks), None))


def mask_problems(rows: Iterable[Row], folders: Mapping[str, Path]) -> list[str]:
    """A sentence for each mask of two defects, and for each kind of defect without masks which others have."""
    masked = {row.category for row in rows if row.mask} | {name for name in folders if masks_of(folders[name])}
    first: dict[Path, Path] = {}
    bare: dict[tuple[str, str], list[Path]] = {}
    problems = []
    for file, category, _, defect, mask in rows:
        if defect == "good":
            continue
        if mask and (other := first.setdefault(mask, file)) != file:
            problems.append(f"{other} and {file} have the same mask {mask}: rename one, and give it its own.")
        elif not mask and category in masked:
            bare.setdefault((category, defect), []).append(file)
    for (category, kind), files in bare.items():
        more = f" and {len(files) - 1} more ({', '.join(file.name for file in files[1:10])})" if files[1:] else ""
        problems.append(
            f"{files[0]}{more} has no mask, but others of {category} have one: add it (ground_truth/{kind}/"
            f"{files[0].stem}_mask.png, or the column mask), remove all masks, or, if {kind} holds normal images, name "
            "it in data.normal_names."
        )
    return problems


def is_normal(name: str, normal_names: Iterable[str]) -> bool:
    """Whether a folder or a label of this name is that of normal images."""
    return name.lower() in {*NORMAL, *(name.lower() for name in normal_names)}


def masks_of(category: Path) -> dict[tuple[str, str], Path]:
    """Masks, files or folders of files, by the kind they lie under ("": none) and their name without suffix."""
    truth, found = category / "ground_truth", {}
    kinds = [("", truth), *((kind.name, kind) for kind in subfolders(truth))]
    kinds += [(kind.name, kind / "gt") for kind in subfolders(category / "test")]  # MVTec 3D-AD
    for kind, place in kinds:
        found |= {(kind, folder.name): folder for folder in subfolders(place) if kind and image_files(folder)}
        found |= {(kind, file.stem): file for file in image_files(place)}
    return found


def write_index(dataset: Dataset, root: str | Path, out_dir: str | Path) -> None:
    """Write `train.json` and `test.json` of a data set that was read from `root` into `out_dir`."""
    images, _ = locate(Path(root))
    try:
        Path(out_dir).mkdir(parents=True, exist_ok=True)
        for part, samples in (("train", dataset.train), ("test", dataset.test)):
            masks = [{"maskname": s.mask.relative_to(images).as_posix()} if s.mask else {} for s in samples]
            rows = (
                {"filename": s.name, "label": s.label, "label_name": s.defect, "clsname": s.category} for s in samples
            )
            lines = [json.dumps(row | mask) + "\n" for row, mask in zip(rows, masks)]
            (Path(out_dir) / f"{part}.json").write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise refused(f"write the index into {out_dir}", error) from None


def is_category(folder: Path) -> bool:
    return (folder / "train").is_dir() or (folder / "test").is_dir()


def categories_of(images: Path) -> dict[str, Path]:
    """Subfolders by name; or the folder itself where it is one category."""
    if is_category(images):
        return {images.absolute().name: images}
    return {folder.name: folder for folder in subfolders(images)}


def choose(known: Iterable[str], categories: str | Iterable[str]) -> list[str]:
    """Names among the known ones, sorted; "all" stands for each."""
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


def table_rows(table: Path, images: Path, normal_names: Iterable[str] = ()) -> tuple[list[Row], list[str]]:
    """Rows of a CSV or an index, and a sentence for each line that cannot be used."""
    lines = list(_json_lines(table, images) if table.suffix == ".json" else _csv_lines(table, images, normal_names))
    rows, problems = [x for x in lines if isinstance(x, Row)], [x for x in lines if isinstance(x, str)]
    for row in rows:
        if row.split == "train" and row.defect != "good":
            problems.append(f"{table} lists the defect {row.file}: training images must have label 0.")
    for file, count in Counter(row.file for row in rows).items():
        if count > 1:
            problems.append(f"{table} lists {file} {count} times: delete all lines but one.")
    return rows, problems


def _text(file: Path) -> str:
    return file.read_bytes().decode("utf-8-sig", errors="replace") if file.is_file() else ""


def _json_lines(table: Path, images: Path) -> Iterator[Row | str]:
    for file in (table, table.with_name("test.json")):
        for number, line in enumerate(_text(file).splitlines(), 1):
            if line.strip():
                yield _from_json(line, file.stem, images, f"{file} line {number}")


def _from_json(line: str, split: str, images: Path, where: str) -> Row | str:
    try:
        row = json.loads(line)
        name, label = Path(row["filename"]), ("0", "1").index(str(row["label"]))
        kind, category = row["label_name"], row.get("clsname") or name.parts[0]
        mask = Path(row["maskname"]) if label and row.get("maskname") else None
        if not (isinstance(kind, str) and isinstance(category, str)):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return (
            f"{where} is not a JSON object with filename, label, label_name and clsname: fix it, or delete the file to "
            "have the folder itself read."
        )
    if label and kind in ("good", "defective"):
        kind = name.parent.name if name.parent.name not in ("good", "") else "defective"
    return _listed(Row(name, category, split, kind if label else "good", mask), images, where)


def _csv_lines(table: Path, images: Path, normal_names: Iterable[str]) -> Iterator[Row | str]:
    reader = csv.reader(io.StringIO(_text(table), newline=""), skipinitialspace=True)
    try:
        names = [COLUMNS.get(name, name) for name in (word.strip().lower() for word in next(reader, []))]
        for lacking in [name for name in ("path", "label", "split") if name not in names][:1]:
            yield (
                f"{table} has no column {lacking}: its first line must name path, label and split, and may name mask "
                f"and category; it names {shown(', '.join(names))}."
            )
            return
        for line in filter(any, reader):
            row = dict(zip(names, (word.strip() for word in line)))
            path, label, split = row.get("path"), row.get("label"), row.get("split", "").lower()
            where, mask = f"{table} line {reader.line_num}", row.get("mask")
            if not path or not label:
                yield f"{where} lacks its path or its label: give both."
            elif split in ("train", "test"):
                kind = {"0": "good", "1": "defective"}.get(label, label)
                kind = "good" if is_normal(kind, normal_names) else kind
                row = Row(Path(path), row.get("category") or table.stem, split, kind, Path(mask) if mask else None)
                yield _listed(row, images, where)
            elif split not in ("val", "validation"):  # left alone, as in trees
                yield f"{where} has the split {shown(split)}: train, test and validation are known."
    except csv.Error as error:
        yield f"{table} line {reader.line_num} is not CSV ({error}): save it as CSV in UTF-8 again."


def _listed(row: Row, images: Path, where: str) -> Row | str:
    """The row of a line with whole paths, once it is known to be harmless and its files to be there."""
    for word in (row.category, row.defect):  # both become part of file names
        if word in (".", "..") or "/" in word or "\\" in word or is_unprintable(word):
            return f"{where} holds the name {shown(word)}: give a plain name, such as a folder has."
    for file in filter(None, (row.file, row.mask)):
        if is_unprintable(str(file)):
            return f"{where} names {ascii(str(file))}, which is not UTF-8 or not printable: rename it."
        if file.is_absolute() or ".." in file.parts:
            return f"{where} names {file}: give file names below {images} only."
        if not (images / file).is_file() and not (file == row.mask and (images / file).is_dir()):
            return f"{where} names {images / file}, which is not there: restore it or delete the line."
    return row._replace(file=images / row.file, mask=row.mask and images / row.mask)
