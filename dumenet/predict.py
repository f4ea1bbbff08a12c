"""Verdicts for images without labels: a score table and heatmap overlays; and all of the network as one ONNX graph."""

import csv
import hashlib
import io
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from dumenet import engine
from dumenet.checkpoint import Trained, load_backbone, load_checkpoint
from dumenet.config import Config, config_from_dict, to_dict
from dumenet.data import IMAGE_SUFFIXES, Sample, load_image
from dumenet.errors import DumenetError, unknown
from dumenet.features import READERS, Backbone, progress_bar, read_ahead
from dumenet.metrics import pool
from dumenet.plots import overlay
from dumenet.results import write_atomic
from dumenet.score import evaluated, lengths, upsample, verdicts

COLUMNS = ("image", "score", "threshold", "verdict", "category", "problem")
HEATMAP = ".heatmap.png"  # never read as an image, so that `out` may lie inside the folder of images
NAME_BYTES = 255  # of a file name, on every usual disk
GRAPHS = Path("build/export")  # graphs of checkpoints, made when first asked for: safe to delete
OUTPUTS = ("maps", "scores", "categories")  # names of what a graph gives
BATCH = 8  # images that an engine gets at once
PANEL, TITLE, GAP = 336, 26, 8  # pixels of an overlay: side of image and heatmap at least, height of the title, margins


class Graph(nn.Module):
    """Backbone, reconstruction, anomaly map and image score as one module."""

    def __init__(self, trained: Trained, backbone: Backbone):
        super().__init__()
        self.backbone, self.model, self.spread, self.trained = backbone, trained.model, trained.spread, trained

    def forward(self, images: Tensor, category: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 images (B, S, S, 3) and the numbers of their categories (B,), negative where they are to be found, to
        anomaly
        maps (B, S, S), image scores (B,) and categories (B,)."""
        config = self.trained.config
        grids, found = lengths(self.trained, self.model(self.backbone(images)), category)
        maps = upsample(grids, config.features.image_size, config.features.align)
        return maps, pool(maps, config.evaluation.pooling), category if found is None else found


def export(checkpoint: Path, out: Path, error: str | None = None) -> Path:
    """Write a checkpoint and its backbone as one ONNX graph.

    From uint8 `images` (B, S, S, 3), B as many as wanted, and int64 `category` (B,), numbers in the metadata's
    "categories" or -1 where it is to be found, to `maps` (B, S, S), `scores` (B,) and `categories` (B,). Thresholds,
    categories, and configuration are in the metadata.

    Args:
        error: "norm" or "mahalanobis" instead of the checkpoint's own `evaluation.error`.

    Raises:
        DumenetError: no checkpoint, packages of the extra `fast` are missing, or `out` cannot be written.
    """
    trained = evaluated(load_checkpoint(checkpoint, "cpu"), {"evaluation.error": error} if error else {})
    metadata = {
        "config": to_dict(trained.config), "thresholds": trained.thresholds, "backbone": trained.origin.get("backbone"),
        "categories": list(trained.spread.categories) if trained.spread else [],
    }  # fmt: skip
    size = trained.config.features.image_size
    example = {"images": torch.zeros(2, size, size, 3, dtype=torch.uint8), "category": torch.full((2,), -1)}
    engine.export(Graph(trained, load_backbone(trained)), example, OUTPUTS, metadata, Path(out))
    return Path(out)


@dataclass(frozen=True, eq=False)
class Detector:
    """A trained network, whatever runs it.

    `run` takes images (B, S, S, 3) uint8 and category numbers (B,) or -1, and gives maps (B, S, S), image scores
    (B,), categories (B,).
    """

    config: Config
    thresholds: dict[str, float]
    categories: list[str]
    run: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
    batch: int = 1  # images that are best given to it at once


def load_detector(path: Path, runtime: str | None = None, device: str = "auto") -> Detector:
    """The network of a checkpoint, or of a file that `export` wrote.

    Args:
        runtime: "torch" (default for a checkpoint), "onnx" (default for an exported file) or "openvino"; maps are
            equal to 1e-3. For an engine a checkpoint is exported into build/export, unless that was done before.
        device: of torch; engines run on the CPU.

    Raises:
        DumenetError: the file is missing, damaged or foreign, or the runtime's package is not installed.
    """
    path = Path(path)
    runtime = runtime or ("onnx" if path.suffix == ".onnx" else "torch")
    if runtime not in engine.RUNTIMES:
        raise unknown("runtime", runtime, engine.RUNTIMES)
    if runtime == "torch":
        if path.suffix == ".onnx":
            raise DumenetError(f"{path} is for the runtimes {', '.join(engine.ENGINES)}; torch runs a checkpoint.")
        trained = load_checkpoint(path, device)
        categories = list(trained.spread.categories) if trained.spread else []
        return Detector(trained.config, trained.thresholds, categories, _eager(Graph(trained, load_backbone(trained))))
    content, metadata = engine.read(path if path.suffix == ".onnx" else _exported(path))
    try:
        config, categories = config_from_dict(metadata["config"]), [str(name) for name in metadata["categories"]]
        thresholds = {str(k): float(v) for k, v in metadata["thresholds"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DumenetError(f"{path} holds features and no detector: write one with `dumenet export`.") from None
    session = engine.Engine(content, runtime)
    run = lambda images, category: tuple(session(images=images, category=category))  # noqa: E731
    return Detector(config, thresholds, categories, run, BATCH)


def _eager(graph: Graph) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, ...]]:
    device = graph.backbone.mean.device

    @torch.no_grad()
    def run(images: np.ndarray, category: np.ndarray) -> tuple[np.ndarray, ...]:
        found = graph(torch.tensor(images).to(device), torch.tensor(category).to(device))
        return tuple(part.cpu().numpy() for part in found)

    return run


def _exported(checkpoint: Path) -> Path:
    """The graph of a checkpoint, made now if there is no whole one."""
    engine.package("onnx")
    try:
        digest = hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest()
    except OSError:
        digest = ""  # `export` has a sentence for it
    path = GRAPHS / f"{digest[:16]}.onnx"
    try:
        engine.read(path)
    except DumenetError:
        export(checkpoint, path)
    return path


def list_images(images: Path) -> list[Path]:
    """An image, or every image below a folder.

    Raises:
        DumenetError: there is none.
    """
    if not images.exists():
        raise DumenetError(f"There is nothing at {images}: give an image or a folder of images.")
    found = [p for p in images.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and not p.is_dir()]
    hidden = lambda p: p.name.startswith(".") or p.name.endswith(HEATMAP)  # noqa: E731
    files = [images] if images.is_file() else sorted(p for p in found if not hidden(p))
    if not files:
        raise DumenetError(f"No images in {images}: expected files ending in {', '.join(sorted(IMAGE_SUFFIXES))}.")
    return files


def predict(
    checkpoint: Path, images: Path, out: Path, category: str = "all", device: str = "auto", runtime: str | None = None
) -> list[dict[str, object]]:
    """Score an image or every image below a folder; writes `scores.csv` and one overlay for each image.

    Images are decoded by threads while others are computed; their overlays are drawn by the same threads.
    An unreadable image becomes a row with the verdict "unreadable" and its problem; the others are scored. An
    interrupted call leaves the rows that it had. An overlay is named after its image; where that name would be too
    long, after its beginning and its SHA-256. In an overlay the middle of the colour scale is the verdict's
    threshold, so colours compare across images.

    Args:
        checkpoint, device, runtime: see `load_detector`.
        category: of the images; "all" finds the category of each.

    Raises:
        DumenetError: no checkpoint, no images, or a category that the checkpoint does not know.
    """
    images, out = Path(images), Path(out)
    files, detector = list_images(images), load_detector(checkpoint, runtime, device)
    known = ["all", *detector.categories]
    if category not in known and (detector.categories or detector.thresholds):
        raise unknown("category of this checkpoint", category, known)
    number = known.index(category) - 1 if category in known else -1
    rows: list[dict[str, object]] = []

    def read(file: Path) -> np.ndarray | DumenetError:
        try:
            return load_image(Sample(file.name, "", "good", file), detector.config.features.image_size)
        except DumenetError as error:
            return error

    def draw(row: dict[str, object], image: np.ndarray, anomaly_map: np.ndarray) -> None:
        write_atomic(_beside(out / str(row["image"])), _overlay(row, image, anomaly_map))

    try:
        with (
            ThreadPoolExecutor(READERS, "drawer") as drawers,
            progress_bar(total=len(files), desc="predicting", unit="image") as bar,
        ):
            for part, decoded in read_ahead(read, files, detector.batch):
                new = [_row(file.relative_to(images) if images.is_dir() else Path(file.name)) for file in part]
                rows += new
                good = [pair for pair in zip(new, decoded) if isinstance(pair[1], np.ndarray)]
                for row, problem in zip(new, decoded):
                    if isinstance(problem, DumenetError):
                        row |= {"verdict": "unreadable", "problem": str(problem)}
                if good:
                    batch = np.stack([image for _, image in good])
                    maps, scores, found = detector.run(batch, np.full(len(batch), number))
                    if not np.isfinite(scores).all():
                        raise DumenetError(f"{checkpoint} gives scores that are NaN or infinite: train it again.")
                    for (row, _), value, k in zip(good, scores, found):
                        _judge(row, float(value), detector, int(k))
                    list(drawers.map(draw, *zip(*good), maps))  # raises what they raised
                bar.update(len(part))
    finally:  # an interruption or a full disk costs no score that is there
        _write_scores(rows, out / "scores.csv")
    return rows


def _row(file: Path) -> dict[str, object]:
    """An empty row for an image; a byte of its name that is not UTF-8 is escaped."""
    return dict.fromkeys(COLUMNS, "") | {"image": file.as_posix().encode("utf-8", "backslashreplace").decode()}


def _write_scores(rows: list[dict[str, object]], path: Path) -> None:
    """The rows that have a verdict, if there are any."""
    text, done = io.StringIO(), [row for row in rows if row["verdict"]]
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(done)
    if done:
        write_atomic(path, text.getvalue().encode())


def _judge(row: dict[str, object], score: float, detector: Detector, category: int) -> None:
    """Write score, category, threshold and verdict into `row`."""
    name = detector.categories[category] if category >= 0 else "all"
    threshold = detector.thresholds.get(name, detector.thresholds.get("all"))
    row |= {"score": f"{score:.6g}", "category": name, "verdict": verdicts(detector, [score], name)[0]}
    row["threshold"] = "" if threshold is None else f"{threshold:.6g}"


def _beside(image: Path) -> Path:
    """Where the overlay of an image goes."""
    if len(f"{image.name}{HEATMAP}".encode()) > NAME_BYTES:
        image = image.with_name(f"{image.name[:40]}~{hashlib.sha256(image.name.encode()).hexdigest()[:16]}")
    return image.with_name(f"{image.name}{HEATMAP}")


def _overlay(row: dict[str, object], image: np.ndarray, anomaly_map: np.ndarray) -> bytes:
    """PNG of the image (S, S, 3) beside its `overlay`; a figure of matplotlib would take many times as long."""
    top = 2 * float(row["threshold"]) if row["threshold"] else float(anomaly_map.max())
    side = math.ceil(PANEL / len(image)) * len(image)
    page = Image.new("RGB", (2 * side + 3 * GAP, TITLE + side + GAP), "white")
    for i, panel in enumerate((image, overlay(image, anomaly_map, top))):
        panel = Image.fromarray(panel).resize((side, side), Image.Resampling.NEAREST)
        page.paste(panel, (GAP + i * (side + GAP), TITLE))
    title = " ".join(f"{row['image']}: {row['verdict']}".split())  # one line
    title = title if len(title) < 90 else f"{title[:40]}...{title[-40:]}"
    font = ImageFont.truetype(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), 13)
    ImageDraw.Draw(page).text((page.width / 2, TITLE / 2), title, "black", font, anchor="mm")
    buffer = io.BytesIO()
    page.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
