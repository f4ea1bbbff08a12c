"""A trained network with its backbone as one module: run by torch, or written as one ONNX graph."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dumenet import engine
from dumenet.checkpoint import Trained, load_backbone, load_checkpoint
from dumenet.config import to_dict
from dumenet.errors import DumenetError
from dumenet.features import Backbone
from dumenet.metrics import pool
from dumenet.score import evaluated, lengths, scores_of_normal, upsample

OUTPUTS = ("maps", "scores", "categories")  # names of what a graph gives


class Graph(nn.Module):
    """Backbone, reconstruction, anomaly map and image score as one module."""

    def __init__(self, trained: Trained, backbone: Backbone):
        super().__init__()
        self.backbone, self.model, self.spread, self.trained = backbone, trained.model, trained.spread, trained

    def forward(self, images: Tensor, category: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 images (B, S, S, 3) and the numbers of their categories (B,), negative where they are to be found, to
        anomaly maps (B, S, S), image scores (B,) and categories (B,)."""
        config = self.trained.config
        grids, found = lengths(self.trained, self.model(self.backbone(images)), category)
        maps = upsample(grids, config.features.shape, config.features.align)
        return maps, pool(maps, config.evaluation.pooling), category if found is None else found


def export(checkpoint: Path, out: Path, error: str | None = None) -> Path:
    """Write a checkpoint and its backbone as one ONNX graph.

    From uint8 `images` (B, S, S, 3), B as many as wanted, and int64 `category` (B,), numbers in the metadata's
    "categories" or -1 where it is to be found, to `maps` (B, S, S), `scores` (B,) and `categories` (B,). Thresholds,
    categories, scores of normal images and configuration are in the metadata.

    Args:
        error: "norm" or "mahalanobis" instead of the checkpoint's own `evaluation.error`.

    Raises:
        DumenetError: no checkpoint, packages of the extra `fast` are missing, or `out` cannot be written, or is not
            named .onnx.
    """
    trained = evaluated(load_checkpoint(checkpoint, "cpu"), {"evaluation.error": error} if error else {})
    if Path(out).suffix.lower() != engine.SUFFIX:
        raise DumenetError(
            f"A graph's file is named {engine.SUFFIX}, by which it is told from a checkpoint: not {out}."
        )
    metadata = {
        "config": to_dict(trained.config),
        "thresholds": trained.thresholds,
        "categories": list(trained.spread.categories) if trained.spread else [],
        "normal": scores_of_normal(trained.normal, trained.config.evaluation) if trained.normal else {},
    }
    shape = trained.config.features.shape
    example = {"images": torch.zeros(2, *shape, 3, dtype=torch.uint8), "category": torch.full((2,), -1)}
    engine.export(Graph(trained, load_backbone(trained)), example, OUTPUTS, metadata, Path(out))
    return Path(out)


@torch.no_grad()
def eager(graph: Graph, images: np.ndarray, category: np.ndarray) -> tuple[np.ndarray, ...]:
    """The graph's outputs, by torch."""
    device = graph.backbone.mean.device
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # as the features that thresholds come from
        found = graph(torch.tensor(images).to(device), torch.tensor(category).to(device))
    return tuple(part.cpu().numpy() for part in found)
