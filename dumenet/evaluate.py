"""From features to image scores, anomaly maps and a verdict."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dumenet.features import Features
from dumenet.metrics import image_score
from dumenet.train import Trained


@dataclass(frozen=True, eq=False)
class Scores:
    """One row for each sample, larger is more anomalous."""

    image: np.ndarray  # (n,) image scores
    maps: np.ndarray | None  # (n, S, S) float32 anomaly maps at image size, where they were kept


def upsample(maps: Tensor, size: int) -> Tensor:
    """Anomaly maps (B, H, W) to (B, size, size), bilinear with aligned corners (UniAD's UpsamplingBilinear2d)."""
    return F.interpolate(maps[:, None], (size, size), mode="bilinear", align_corners=True)[:, 0]


@torch.no_grad()
def score(trained: Trained, features: Features, keep_maps: bool = True) -> Scores:
    """Score every sample; the model never learns which are anomalous.

    Args:
        keep_maps: False keeps the image scores alone, so memory does not grow with images x pixels.
    """
    config, device = trained.config, next(trained.model.buffers()).device
    size, n = config.features.image_size, len(features)
    scores, kept, done = np.empty(n), np.empty((n, size, size), np.float32) if keep_maps else None, 0
    for batch in features.batches(config.evaluation.batch_size):
        maps = upsample(trained.model(batch.to(device)).anomaly_map, size).cpu().numpy()
        rows = slice(done, done := done + len(maps))
        scores[rows] = image_score(maps, config.evaluation.pooling)
        if keep_maps:
            kept[rows] = maps
    return Scores(scores, kept)


def set_thresholds(trained: Trained, holdout: Features | None) -> None:
    """Store, for each category and for "all", the quantile of held-out normal scores above which a verdict is given.

    With n held-out images the quantile cannot lie beyond their largest score: about 1 in n + 1 normal images
    will exceed it, however high the quantile.
    """
    if holdout is None:
        return
    scores = score(trained, holdout, keep_maps=False).image
    categories = [s.category for s in holdout.samples]
    quantile = trained.config.evaluation.quantile
    for name in sorted(set(categories)):  # plain str, not numpy's: `weights_only` would refuse the checkpoint
        trained.thresholds[name] = float(np.quantile(scores[np.array(categories) == name], quantile))
    trained.thresholds["all"] = float(np.quantile(scores, quantile))


class HasThresholds(Protocol):
    """`Trained`, or what else knows them."""

    thresholds: dict[str, float]


def verdicts(trained: HasThresholds, scores: Sequence[float], category: str = "all") -> list[str]:
    """ "anomalous", "normal", or "no threshold" where the checkpoint holds none."""
    threshold = trained.thresholds.get(category, trained.thresholds.get("all"))
    if threshold is None:
        return ["no threshold"] * len(scores)
    return ["anomalous" if s > threshold else "normal" for s in scores]
