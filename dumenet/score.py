"""From a reconstruction's error to anomaly maps, image scores and verdicts: one way for evaluation, prediction,
export and explorer.

The error at a grid position is the vector target minus reconstruction. Its length is measured in one of two ways
(`evaluation.error`): ``norm``, its L2 norm over channels, the paper's (UniAD, eq. 6); ``mahalanobis``, in units of
the spread that errors have on normal images, see `dumenet.models.spread`.

Shapes: B images, C channels, H x W grid positions, S image size.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import stdtrit
from torch import Tensor

from dumenet.checkpoint import Normal, Trained
from dumenet.config import EvalConfig, config_from_dict, merge, sides, to_dict
from dumenet.data import Sample, joined
from dumenet.errors import DumenetError
from dumenet.features import Features
from dumenet.metrics import POOLINGS, WINDOW, image_score, pool
from dumenet.models import Reconstruction, fit_spread


@dataclass(frozen=True, eq=False)
class Scores:
    """One row for each sample, larger is more anomalous."""

    image: np.ndarray  # (n,) image scores
    maps: np.ndarray | None  # (n, S, S) float32 anomaly maps at image size, where they were kept
    found: list[str] | None = None  # (n,) category that was found, in a model for several

    def found_right(self, samples: Sequence[Sample]) -> float | None:
        """Share of the samples whose category was found; None where none had to be."""
        return self.found and float(np.mean([name == s.category for name, s in zip(self.found, samples)]))


def of_photographs(scores: Scores, tiles: tuple[int, int]) -> Scores:
    """Scores of the tiles of photographs, see `dumenet.data.cut`, as those of the photographs: the largest score, the
    most frequent category, the maps joined.
    """
    count = math.prod(tiles)
    if count == 1:
        return scores
    parts = zip(*[iter(scores.found or ())] * count)
    found = [max(part, key=part.count) for part in parts] or None
    maps = None if scores.maps is None else joined(scores.maps, tiles)
    return Scores(scores.image.reshape(-1, count).max(1), maps, found)


def upsample(maps: Tensor, size: int | tuple[int, int], align: str) -> Tensor:
    """Anomaly maps (B, H, W) to (B, size, size), or to another height and width, bilinear.

    `align` is `features.align`: of "bilinear" the grid's corners are the image's corners (UniAD's
    UpsamplingBilinear2d), of "area" a grid value belongs to the middle of its cell.

    >>> grid = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])
    >>> upsample(grid, 4, "bilinear")[0, 0], upsample(grid, 4, "area")[0, 0]
    (tensor([0.0000, 0.3333, 0.6667, 1.0000]), tensor([0.0000, 0.2500, 0.7500, 1.0000]))
    """
    return F.interpolate(maps[:, None], sides(size), mode="bilinear", align_corners=align == "bilinear")[:, 0]


def thresholds(normal: Normal, config: EvalConfig, tiles: tuple[int, int] = (1, 1)) -> dict[str, float]:
    """For each category, and for "all" images together, the score that a normal image stays under with chance
    `config.quantile`; of several `tiles` each may exceed it with its part of what is left (Bonferroni).
    """
    quantile = 1 - (1 - config.quantile) / math.prod(tiles)
    _, names, held = _known(normal, config)
    return {
        name: _bound(np.log(np.maximum(scores, 1e-12)), held if name == "all" else held[names == name], quantile)
        for name, scores in scores_of_normal(normal, config).items()
        if len(scores) > 1
    }


def scores_of_normal(normal: Normal, config: EvalConfig) -> dict[str, list[float]]:
    """Image scores of the normal training images by category, and of "all" together.

    Raises:
        DumenetError: pooling "max" of images smaller than its window.
    """
    scores, names, _ = _known(normal, config)
    return {name: scores[names == name].tolist() for name in sorted(set(names.tolist()))} | {"all": scores.tolist()}


def _known(normal: Normal, config: EvalConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, categories and whether they were held out, of the images that have a score: under the spread of the
    others a category's only image has none.
    """
    rule = f"{config.error} {config.pooling}"
    if rule not in normal.scores:
        raise DumenetError(
            f"evaluation.pooling=max needs images of {WINDOW} x {WINDOW} pixels or more: choose another pooling."
        )
    scores, names, held = np.array(normal.scores[rule]), np.array(normal.categories), np.array(normal.held)
    count = Counter(normal.categories)
    several = np.array([config.error == "norm" or count[name] > 1 for name in normal.categories], bool)
    return scores[several], names[several], held[several]


def _bound(logs: np.ndarray, held: np.ndarray, quantile: float) -> float:
    """The score under which the next normal image stays with chance `quantile`, from the logarithms of several.

    Logarithms of scores are taken as normally distributed, so this is a one-sided prediction bound with Student's t.
    What the network was trained on scores lower than what it was not: the difference of the means, from the held-out
    images, is added to those.
    """
    n, m = len(logs), int(held.sum())
    mixed = 0 < m < n
    shift = max(0.0, logs[held].mean() - logs[~held].mean()) if mixed else 0.0
    logs = np.where(held, logs, logs + shift)
    width = logs.std(ddof=1) * math.sqrt(1 + 1 / n + (1 / m if mixed else 0))
    return float(np.exp(logs.mean() + stdtrit(n - 1, quantile) * width))


@torch.no_grad()
def calibrate(trained: Trained, kept: Features, held: Features | None) -> None:
    """Give `trained` the spread of all normal images, their scores, and thresholds. No test image is used.

    Args:
        kept, held: features that it was trained on, and those of a hold-out (see `train.split_holdout`).

    Raises:
        DumenetError: errors that are not finite.
    """
    device, size, how = _where(trained)
    poolings = [p for p in POOLINGS if p != "max" or min(size) >= WINDOW]
    parts = [kept] + ([held] if held else [])
    errors, targets, norms = [], [], []
    for features in parts:
        for batch in features.batches(trained.config.evaluation.batch_size):
            result = trained.model(batch.to(device))
            errors.append(result.error.half().cpu())
            targets.append(result.target.mean((2, 3)).cpu())
            norms.append(result.error.norm(dim=1).cpu())
    samples = [s for features in parts for s in features.samples]
    names = [s.category for s in samples]
    spread, lengths = fit_spread(torch.cat(errors), torch.cat(targets), names)
    scores = {}
    for error, grids in (("norm", torch.cat(norms)), ("mahalanobis", lengths)):
        maps = (upsample(part, size, how) for part in grids.split(64))
        by_pooling = zip(*([pool(m, pooling) for pooling in poolings] for m in maps))
        scores |= {f"{error} {pooling}": torch.cat(s).tolist() for pooling, s in zip(poolings, by_pooling)}
    trained.spread = spread.to(device)
    trained.normal = Normal(names, [False] * len(kept) + [True] * (len(samples) - len(kept)), scores)
    trained.thresholds = thresholds(trained.normal, trained.config.evaluation, trained.config.features.tiles)


def _where(trained: Trained) -> tuple[torch.device, tuple[int, int], str]:
    """Device, height and width of an image, and alignment."""
    features = trained.config.features
    return next(trained.model.buffers()).device, features.shape, features.align


def lengths(trained: Trained, result: Reconstruction, category: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """The error's length at each grid position, (B, H, W), as `evaluation.error` says, and the category (B,) it was
    measured in.

    Args:
        category: numbers (B,) in `trained.spread.categories`; None, or a negative number: the nearest one is found.

    Raises:
        DumenetError: the checkpoint holds no spread.
    """
    if trained.spread is None:
        if trained.config.evaluation.error == "norm":
            return result.anomaly_map, None
        raise DumenetError(
            "This checkpoint holds no spread of normal errors: train again, or use evaluation.error=norm."
        )
    found = trained.spread.find(result.target)
    category = found if category is None else torch.where(category < 0, found, category)
    if trained.config.evaluation.error == "norm":
        return result.anomaly_map, category
    return trained.spread(result.error, category), category


@torch.no_grad()
def score(trained: Trained, features: Features, keep_maps: bool = True) -> Scores:
    """Score every sample; the model never learns which are anomalous, nor, in a model for several categories, which
    is which.

    Args:
        keep_maps: False keeps the image scores alone, so memory does not grow with images x pixels.
    """
    config, (device, size, how) = trained.config, _where(trained)
    n, done, names = len(features), 0, trained.spread.categories if trained.spread else ()
    scores, kept, found = np.empty(n), np.empty((n, *size), np.float32) if keep_maps else None, []
    for batch in features.batches(config.evaluation.batch_size):
        grids, category = lengths(trained, trained.model(batch.to(device)))
        maps = upsample(grids, size, how).cpu().numpy()
        rows = slice(done, done := done + len(maps))
        scores[rows] = image_score(maps, config.evaluation.pooling)
        found += [names[k] for k in category.tolist()] if len(names) > 1 else []
        if keep_maps:
            kept[rows] = maps
    return Scores(scores, kept, found or None)


def evaluated(trained: Trained, overrides: dict[str, Any]) -> Trained:
    """`trained` with other settings of evaluation (or data), and the thresholds that go with them."""
    config = config_from_dict(merge(to_dict(trained.config), overrides))
    found = thresholds(trained.normal, config.evaluation, config.features.tiles) if trained.normal else {}
    return replace(trained, config=config, thresholds=found)
