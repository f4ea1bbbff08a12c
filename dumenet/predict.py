"""Verdicts for images without labels: a score table and heatmap overlays; and all of the network as one ONNX graph."""

import csv
import hashlib
import io
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from dumenet import engine
from dumenet.config import Config, config_from_dict, to_dict
from dumenet.data import IMAGE_SUFFIXES, Sample, load_image
from dumenet.errors import DumenetError, unknown
from dumenet.evaluate import upsample, verdicts
from dumenet.features import READERS, Backbone, progress_bar
from dumenet.metrics import WINDOW, image_score
from dumenet.plots import overlay
from dumenet.results import write_atomic
from dumenet.train import Trained, load_backbone, load_checkpoint

COLUMNS = ("image", "score", "threshold", "verdict", "problem")
HEATMAP = ".heatmap.png"  # never read as an image, so that `out` may lie inside the folder of images
NAME_BYTES = 255  # of a file name, on every usual disk
GRAPHS = Path("build/export")  # graphs of checkpoints, made when first asked for: safe to delete
OUTPUTS, INSIDE = ("maps", "scores"), (engine.CUT,)  # names of what a graph gives, and of what it keeps
TOGETHER = 8  # images that an engine gets at once
PANEL, TITLE, GAP = 336, 26, 8  # pixels of an overlay: side of image and heatmap at least, height of the title, margins


class Graph(nn.Module):
    """Backbone, reconstruction, anomaly map and image score as one module."""

    def __init__(self, trained: Trained, backbone: Backbone):
        super().__init__()
        self.backbone, self.model, self.pooling = backbone, trained.model, trained.config.evaluation.pooling
        size, grid = trained.config.features.image_size, trained.config.features.grid
        rows = F.interpolate(torch.eye(grid)[None], size, mode="linear", align_corners=True)[0].T  # (S, H)
        self.register_buffer("rows", rows.contiguous())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 images (B, S, S, 3) to anomaly maps (B, S, S), image scores (B,) and features (B, C, H, W)."""
        features = self.backbone(images)
        maps = self.rows @ self.model(features).anomaly_map @ self.rows.T  # `upsample` as matrix products: faster
        return maps, pooled(maps, self.pooling), features


def pooled(maps: Tensor, pooling: str) -> Tensor:
    """`metrics.image_score` in torch's operations: maps (B, S, S) to (B,)."""
    if pooling == "mean":
        return maps.mean((1, 2))
    if pooling == "std":
        return maps.std((1, 2), correction=0)
    if pooling == "top1":
        return maps.flatten(1).topk(math.ceil(maps[0].numel() / 100)).values.mean(1)
    for step in (1, 2, 4, 8):  # sums over 2, 4, 8, 16 rows and columns, in a fraction of the time of an average pool
        maps = maps[:, :-step] + maps[:, step:]
        maps = maps[:, :, :-step] + maps[:, :, step:]
    return maps.amax((1, 2)) / WINDOW**2  # maps: (B, S - 15, S - 15)


def export(checkpoint: Path, out: Path, int8: bool = False) -> Path:
    """Write a checkpoint and its backbone as one ONNX graph, from uint8 images (B, S, S, 3), B as many as wanted, to
    `maps` (B, S, S) and `scores` (B,); thresholds, categories, pooling and configuration are in its metadata.

    Args:
        int8: see `engine.export`; the file is less than half as large, and maps move by a few thousandths of their range.

    Raises:
        DumenetError: no checkpoint, packages of the extra `fast` are missing, or `out` cannot be written.
    """
    trained = load_checkpoint(checkpoint, "cpu")
    metadata = {
        "config": to_dict(trained.config), "thresholds": trained.thresholds, "pooling": trained.config.evaluation.pooling,
        "categories": sorted(set(trained.thresholds) - {"all"}) or list(trained.config.data.categories),
        "backbone": trained.origin.get("backbone"), "int8": int8,
    }  # fmt: skip
    size = trained.config.features.image_size
    engine.export(Graph(trained, load_backbone(trained)), size, OUTPUTS, metadata, Path(out), int8, INSIDE)
    return Path(out)


@dataclass(frozen=True, eq=False)
class Detector:
    """A trained network, whatever runs it."""

    config: Config
    thresholds: dict[str, float]
    run: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # images (B, S, S, 3): maps (B, S, S), image scores (B,)
    together: int = 1  # images that are best given to it at once


def load_detector(path: Path, runtime: str | None = None, device: str = "auto") -> Detector:
    """The network of a checkpoint, or of a file that `export` wrote.

    Args:
        runtime: "torch" (default for a checkpoint), "onnx" (default for an exported file), "openvino", or "openvino-bf16":
            what follows the features in bfloat16, which moves maps by a few thousandths of their range (that of the
            others: 1e-3 at most). For an engine a checkpoint is exported into build/export, unless that was done before.
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
            raise DumenetError(f"{path} is for the runtimes {', '.join(engine.PACKAGES)}; torch runs a checkpoint.")
        trained = load_checkpoint(path, device)
        return Detector(trained.config, trained.thresholds, _eager(trained, load_backbone(trained)))
    content, metadata = engine.read(path if path.suffix == ".onnx" else _exported(path))
    try:
        config = config_from_dict(metadata["config"])
        thresholds = {str(k): float(v) for k, v in metadata["thresholds"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DumenetError(f"{path} holds features and no detector: write one with `dumenet export`.") from None
    session = engine.Engine(content, runtime)
    return Detector(config, thresholds, lambda images: tuple(session(images)), TOGETHER)


def _eager(trained: Trained, backbone: Backbone) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    size, pooling = trained.config.features.image_size, trained.config.evaluation.pooling

    @torch.no_grad()
    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        features = backbone(torch.tensor(images).to(backbone.mean.device))  # (B, C, H, W)
        maps = upsample(trained.model(features).anomaly_map, size).cpu().numpy()  # (B, S, S)
        return maps, image_score(maps, pooling)

    return run


def _exported(checkpoint: Path) -> Path:
    """The graph of a checkpoint, made now if there is no whole one."""
    engine.package("onnx")
    try:
        digest = hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest()
    except OSError:
        digest = ""  # `export` has a sentence for it
    path = GRAPHS / f"{digest[:16]}-{engine.CUT}.onnx"  # not an older one, which does not name them
    try:
        engine.read(path)
    except DumenetError:
        export(checkpoint, path)
    return path


def predict(
    checkpoint: Path, images: Path, out: Path, category: str = "all", device: str = "auto", runtime: str | None = None
) -> list[dict[str, object]]:
    """Score an image or every image below a folder; writes `scores.csv` and one overlay for each image.

    Images are decoded by threads while others are computed; their overlays are drawn by the same threads.
    An unreadable image becomes a row with the verdict "unreadable" and its problem; the others are scored. An interrupted
    call leaves the rows that it had.
    An overlay is named after its image; where that name would be too long, after its beginning and its SHA-256.
    In an overlay the middle of the colour scale is the verdict's threshold, so colours compare across images.

    Args:
        checkpoint, device, runtime: see `load_detector`.

    Raises:
        DumenetError: no checkpoint, no images, or a category that the checkpoint does not know.
    """
    images, out = Path(images), Path(out)
    if not images.exists():
        raise DumenetError(f"There is nothing at {images}: give an image or a folder of images.")
    files = [images] if images.is_file() else sorted(
        p for p in images.rglob("*")
        if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".") and not p.name.endswith(HEATMAP)
        and not p.is_dir()
    )  # fmt: skip
    if not files:
        raise DumenetError(f"No images in {images}: expected files ending in {', '.join(sorted(IMAGE_SUFFIXES))}.")
    detector = load_detector(checkpoint, runtime, device)
    if detector.thresholds and category not in detector.thresholds:
        raise unknown("category of this checkpoint", category, detector.thresholds)
    threshold = detector.thresholds.get(category)
    rows: list[dict[str, object]] = []

    def draw(row: dict[str, object], image: np.ndarray, anomaly_map: np.ndarray) -> None:
        page = _overlay(image, anomaly_map, threshold, f"{row['image']}: {row['verdict']}")
        write_atomic(_beside(out / str(row["image"])), page)

    try:
        with (
            ThreadPoolExecutor(READERS, "reader") as pool,
            progress_bar(total=len(files), desc="predicting", unit="image") as bar,
        ):
            for part in _read_ahead(files, detector.config.features.image_size, detector.together, pool):
                read = []  # rows of images, and of nothing that could not be read
                for file, image in part:
                    name = file.relative_to(images).as_posix() if images.is_dir() else file.name
                    name = name.encode("utf-8", "backslashreplace").decode()  # a byte of the name that is not UTF-8
                    rows.append(dict.fromkeys(COLUMNS, "") | {"image": name})
                    if isinstance(image, DumenetError):
                        rows[-1] |= {"verdict": "unreadable", "problem": str(image)}
                    else:
                        read.append((rows[-1], image))
                if read:
                    maps, scores = detector.run(np.stack([image for _, image in read]))  # (B, S, S), (B,)
                    for (row, _), value, verdict in zip(read, scores, verdicts(detector, scores, category)):
                        row |= {"score": f"{value:.6g}", "verdict": verdict}
                        if threshold is not None:
                            row["threshold"] = f"{threshold:.6g}"
                    list(pool.map(draw, *zip(*read), maps))  # raises what they raised
                bar.update(len(part))
    finally:  # an interruption or a full disk costs no score that is there
        text, done = io.StringIO(), [row for row in rows if row["verdict"]]
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(done)
        if done:
            write_atomic(out / "scores.csv", text.getvalue().encode())
    return rows


def _read_ahead(
    files: list[Path], size: int, together: int, pool: ThreadPoolExecutor
) -> Iterator[list[tuple[Path, np.ndarray | DumenetError]]]:
    """So many files at a time, each with its image (S, S, 3) or why there is none, while the pool decodes the next ones."""

    def read(file: Path) -> np.ndarray | DumenetError:
        try:
            return load_image(Sample(file.name, "", "good", file), size)
        except DumenetError as error:
            return error

    parts = [files[i : i + together] for i in range(0, len(files), together)]
    decode = lambda part: [pool.submit(read, file) for file in part]  # noqa: E731
    coming = decode(parts[0])
    for part, following in zip(parts, [*parts[1:], []]):
        images = [image.result() for image in coming]
        coming = decode(following)
        yield list(zip(part, images))


def _beside(image: Path) -> Path:
    """Where the overlay of an image goes."""
    if len(f"{image.name}{HEATMAP}".encode()) > NAME_BYTES:
        image = image.with_name(f"{image.name[:40]}~{hashlib.sha256(image.name.encode()).hexdigest()[:16]}")
    return image.with_name(f"{image.name}{HEATMAP}")


def _overlay(image: np.ndarray, anomaly_map: np.ndarray, threshold: float | None, title: str) -> bytes:
    """PNG of the image (S, S, 3) beside its `overlay`; a figure of matplotlib would take many times as long."""
    top = 2 * threshold if threshold else float(anomaly_map.max())
    side = math.ceil(PANEL / len(image)) * len(image)
    page = Image.new("RGB", (2 * side + 3 * GAP, TITLE + side + GAP), "white")
    for i, panel in enumerate((image, overlay(image, anomaly_map, top))):
        panel = Image.fromarray(panel).resize((side, side), Image.Resampling.NEAREST)
        page.paste(panel, (GAP + i * (side + GAP), TITLE))
    title = " ".join(title.split())  # one line
    title = title if len(title) < 90 else f"{title[:40]}...{title[-40:]}"
    font = ImageFont.truetype(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), 13)
    ImageDraw.Draw(page).text((page.width / 2, TITLE / 2), title, "black", font, anchor="mm")
    buffer = io.BytesIO()
    page.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
