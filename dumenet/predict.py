"""`dumenet predict`: scores, verdicts and pictures of images without labels, as files."""

import collections
import csv
import hashlib
import io
import json
import math
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont
from tqdm.auto import tqdm

from dumenet.data import IMAGE_SUFFIXES, OUTPUTS, READERS, find_images
from dumenet.detector import Result, load
from dumenet.errors import DumenetError
from dumenet.files import write_atomic
from dumenet.overlay import overlay

COLUMNS = ("image", "score", "rank", "threshold", "verdict", "category", "problem")
NAME_BYTES = 255  # of a file name, on every usual disk
PANEL, TITLE, GAP = 336, 26, 8  # pixels of a page: side of image and heatmap at least, height of the title, margins


def predict(
    checkpoint: Path,
    images: Path,
    out: Path,
    category: str = "all",
    device: str = "auto",
    threshold: float | None = None,
    save: Sequence[str] = (),
    form: str = "csv",
) -> list[Result]:
    """Judge an image or every image below a folder; writes `scores.csv` and one heatmap for each image.

    An unreadable image becomes a row with the verdict "unreadable" and its problem; the others are judged. An
    interrupted call leaves the rows that it had. A heatmap is named after its image; where that name would be too long,
    after its beginning and its SHA-256. The middle of its colours is the threshold, so colours compare across images.

    Args:
        checkpoint, device: see `dumenet.load`.
        category: of the images; "all" finds the category of each.
        threshold: of the score, instead of the checkpoint's own.
        save: what else to write for each image, at its own shape: "map" (32-bit float TIFF, in units of the score),
            "mask" (PNG; of an anomalous image white where the map is above the threshold), "overlay".
        form: "csv", or "json" for scores.json.

    Raises:
        DumenetError: no checkpoint, no images, a threshold that no score can have, or a category that the checkpoint
            does not know.
    """
    images, out = Path(images), Path(out)
    files, detector = list_images(images), load(checkpoint, device)
    if threshold is not None:
        if not 0 < threshold < math.inf:
            raise DumenetError(f"A threshold is a positive number, as scores are, not {threshold}.")
        detector.thresholds = dict.fromkeys(["all", *detector.categories], threshold)
    root, rows, pending = images if images.is_dir() else images.parent, [], collections.deque()
    try:
        with (
            ThreadPoolExecutor(READERS, "drawer") as drawers,
            tqdm(total=len(files), desc="predicting", unit="image") as bar,
        ):
            for result in detector.stream(files, category):
                name = Path(result.name).relative_to(root).as_posix()  # a byte of it that is not UTF-8 is escaped
                rows.append(replace(result, name=name.encode("utf-8", "backslashreplace").decode()))
                if not result.problem:
                    pending.append(drawers.submit(_draw, rows[-1], out / rows[-1].name, save))
                if len(pending) > 4 * READERS:
                    pending.popleft().result()  # raises what it raised
                rows[-1] = replace(rows[-1], seen=None, grid=None)
                bar.update()
            for drawing in pending:
                drawing.result()
    finally:  # an interruption or a full disk costs no score that is there
        if rows:
            write_atomic(out / f"scores.{form}", (_as_csv(rows) if form == "csv" else _as_json(rows)).encode())
    return rows


def list_images(images: Path) -> list[Path]:
    """An image, or every image below a folder.

    Raises:
        DumenetError: there is none.
    """
    if not images.exists():
        raise DumenetError(f"There is nothing at {images}: give an image or a folder of images.")
    files, others = ([images], []) if images.is_file() else find_images(images)
    others = [p for p in others if p.name not in ("scores.csv", "scores.json")]
    if others:
        names = ", ".join(p.name for p in others[:3]) + (", ..." if len(others) > 3 else "")
        print(f"Not read as images in {images}: {len(others)} ({names}).", file=sys.stderr)
    if not files:
        raise DumenetError(f"No images in {images}: expected files ending in {', '.join(sorted(IMAGE_SUFFIXES))}.")
    return files


def _values(result: Result) -> dict[str, object]:
    """The columns of one image; None where there is nothing."""
    numbers = {k: getattr(result, k) for k in ("score", "rank", "threshold", "category")}
    said = {"image": result.name, "verdict": result.verdict, "problem": result.problem}
    return dict.fromkeys(COLUMNS) | (said if result.problem else said | numbers)


def _as_json(rows: Sequence[Result]) -> str:
    return json.dumps([_values(r) for r in rows], indent=1, ensure_ascii=False) + "\n"


def _as_csv(rows: Sequence[Result]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        values = _values(row).values()
        writer.writerow([f"{v:.6g}" if isinstance(v, float) else "" if v is None else v for v in values])
    return text.getvalue()


def _draw(result: Result, image: Path, save: Sequence[str]) -> None:
    """The heatmap of an image, and what else is to be saved."""
    write_atomic(_beside(image, OUTPUTS["heatmap"]), _page(result))
    made = {
        "map": lambda: Image.fromarray(result.map),
        "mask": lambda: Image.fromarray(result.map > (result.threshold if result.anomalous else math.inf)),
        "overlay": lambda: Image.fromarray(result.overlay()),
    }
    for name in save:
        write_atomic(_beside(image, OUTPUTS[name]), _encoded(made[name](), "TIFF" if name == "map" else "PNG"))


def _beside(image: Path, end: str) -> Path:
    """Where a picture made of an image goes."""
    if len(f"{image.name}{end}".encode()) > NAME_BYTES:
        image = image.with_name(f"{image.name[:40]}~{hashlib.sha256(image.name.encode()).hexdigest()[:16]}")
    return image.with_name(f"{image.name}{end}")


def _page(result: Result) -> bytes:
    """PNG of what the network saw beside its `overlay`; a figure of matplotlib would take many times as long."""
    top = 2 * result.threshold if result.threshold else float(result.grid.max())
    times = math.ceil(PANEL / min(result.grid.shape))
    height, width = (times * side for side in result.grid.shape)
    page = Image.new("RGB", (2 * width + 3 * GAP, TITLE + height + GAP), "white")
    for i, panel in enumerate((result.seen, overlay(result.seen, result.grid, top))):
        panel = Image.fromarray(panel).resize((width, height), Image.Resampling.NEAREST)
        page.paste(panel, (GAP + i * (width + GAP), TITLE))
    title = " ".join(f"{result.name}: {result.verdict}".split())  # one line
    title = title if len(title) < 90 else f"{title[:40]}...{title[-40:]}"
    font = ImageFont.truetype(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), 13)
    ImageDraw.Draw(page).text((page.width / 2, TITLE / 2), title, "black", font, anchor="mm")
    return _encoded(page, "PNG")


def _encoded(image: Image.Image, form: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **({"compress_level": 1} if form == "PNG" else {}))
    return buffer.getvalue()
