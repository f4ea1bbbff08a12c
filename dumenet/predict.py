"""Verdicts for images without labels: a score table and heatmap overlays."""

import csv
import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from dumenet.data import IMAGE_SUFFIXES, Sample, load_image
from dumenet.errors import DumenetError, unknown
from dumenet.evaluate import upsample, verdicts
from dumenet.features import Backbone, progress_bar
from dumenet.metrics import image_score
from dumenet.plots import heatmap
from dumenet.results import write_atomic
from dumenet.train import load_checkpoint

COLUMNS = ("image", "score", "threshold", "verdict", "problem")
HEATMAP = ".heatmap.png"  # never read as an image, so that `out` may lie inside the folder of images


def predict(
    checkpoint: Path, images: Path, out: Path, category: str = "all", device: str = "auto"
) -> list[dict[str, object]]:
    """Score an image or every image below a folder; writes `scores.csv` and one overlay for each image.

    An unreadable image becomes a row with the verdict "unreadable" and its problem; the others are scored.
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
    )  # fmt: skip
    if not files:
        raise DumenetError(f"No images in {images}: expected files ending in {', '.join(sorted(IMAGE_SUFFIXES))}.")
    backbone = Backbone(trained.config.features).to(next(trained.model.buffers()).device)
    threshold = trained.thresholds.get(category)
    size, rows = trained.config.features.image_size, []
    for file in progress_bar(files, "predicting", unit="image"):
        name = file.relative_to(images).as_posix() if images.is_dir() else file.name
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
        write_atomic(out / f"{name}{HEATMAP}", _overlay(image, anomaly_map, threshold, f"{name}: {row['verdict']}"))
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(out / "scores.csv", text.getvalue().encode())
    return rows


def _overlay(image: np.ndarray, anomaly_map: np.ndarray, threshold: float | None, title: str) -> bytes:
    """PNG of the image beside its heatmap."""
    top = 2 * threshold if threshold else float(anomaly_map.max())
    figure, axes = plt.subplots(1, 2, figsize=(6, 3.3), layout="constrained")
    axes[0].imshow(image)
    axes[0].set_axis_off()
    heatmap(axes[1], image, anomaly_map, 0, top)
    figure.suptitle(title, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120)
    plt.close(figure)
    return buffer.getvalue()
