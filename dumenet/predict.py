"""Verdicts for images without labels: a score table and heatmap overlays."""

import csv
import hashlib
import io
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from dumenet.data import IMAGE_SUFFIXES, Sample, load_image
from dumenet.errors import DumenetError, unknown
from dumenet.evaluate import upsample, verdicts
from dumenet.features import progress_bar
from dumenet.metrics import image_score
from dumenet.plots import heatmap
from dumenet.results import write_atomic
from dumenet.train import load_backbone, load_checkpoint

COLUMNS = ("image", "score", "threshold", "verdict", "problem")
HEATMAP = ".heatmap.png"  # never read as an image, so that `out` may lie inside the folder of images
NAME_BYTES = 255  # of a file name, on every usual disk


def predict(
    checkpoint: Path, images: Path, out: Path, category: str = "all", device: str = "auto"
) -> list[dict[str, object]]:
    """Score an image or every image below a folder; writes `scores.csv` and one overlay for each image.

    An unreadable image becomes a row with the verdict "unreadable" and its problem; the others are scored.
    An overlay is named after its image; where that name would be too long, after its beginning and its SHA-256.
    In an overlay the middle of the colour scale is the verdict's threshold, so colours compare across images.

    Raises:
        DumenetError: no checkpoint, no images, or a category that the checkpoint does not know.
    """
    trained = load_checkpoint(checkpoint, device)
    if trained.thresholds and category not in trained.thresholds:
        raise unknown("category of this checkpoint", category, trained.thresholds)
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
    backbone = load_backbone(trained)
    threshold = trained.thresholds.get(category)
    size, rows = trained.config.features.image_size, []
    for file in progress_bar(files, "predicting", unit="image"):
        name = file.relative_to(images).as_posix() if images.is_dir() else file.name
        name = name.encode("utf-8", "backslashreplace").decode()  # a byte of the name that is not UTF-8
        row: dict[str, object] = dict.fromkeys(COLUMNS, "") | {"image": name}
        rows.append(row)
        try:
            image = load_image(Sample(name, category, "good", file), size)  # (S, S, 3)
        except DumenetError as error:
            row |= {"verdict": "unreadable", "problem": str(error)}
            continue
        with torch.no_grad():
            features = backbone(torch.tensor(image)[None].to(backbone.mean.device))  # (1, C, H, W)
            anomaly_map = upsample(trained.model(features).anomaly_map, size)[0].cpu().numpy()  # (S, S)
        value = float(image_score(anomaly_map[None], trained.config.evaluation.pooling)[0])
        row |= {"score": f"{value:.6g}", "verdict": verdicts(trained, [value], category)[0]}
        if threshold is not None:
            row["threshold"] = f"{threshold:.6g}"
        overlay = _overlay(image, anomaly_map, threshold, f"{name}: {row['verdict']}")
        write_atomic(_beside(out / name), overlay)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(out / "scores.csv", text.getvalue().encode())
    return rows


def _beside(image: Path) -> Path:
    """Where the overlay of an image goes."""
    if len(f"{image.name}{HEATMAP}".encode()) > NAME_BYTES:
        image = image.with_name(f"{image.name[:40]}~{hashlib.sha256(image.name.encode()).hexdigest()[:16]}")
    return image.with_name(f"{image.name}{HEATMAP}")


def _overlay(image: np.ndarray, anomaly_map: np.ndarray, threshold: float | None, title: str) -> bytes:
    """PNG of the image beside its heatmap."""
    top = 2 * threshold if threshold else float(anomaly_map.max())
    figure, axes = plt.subplots(1, 2, figsize=(6, 3.3), layout="constrained")
    axes[0].imshow(image)
    axes[0].set_axis_off()
    heatmap(axes[1], image, anomaly_map, 0, top)
    figure.suptitle(title if len(title) < 90 else f"{title[:40]}...{title[-40:]}", fontsize=9, parse_math=False)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a character of the name that the font lacks
        figure.savefig(buffer, dpi=120)
    plt.close(figure)
    return buffer.getvalue()
