"""What every method of the tables does, and the few things that several of them need."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from dumenet.checkpoint import pick_device
from dumenet.config import PLACE, FeatureConfig, Settings
from dumenet.data import Sample, load_image
from dumenet.errors import DumenetError
from dumenet.features import Backbone, Features, extract
from dumenet.score import Scores

__all__ = ["Common", "Method", "Scores", "begin", "descend", "features_of", "images_of", "smooth", "with_features"]


@dataclass(frozen=True, kw_only=True)
class Common(Settings):
    """Settings that every method has; a method's own dataclass adds its own."""

    features: FeatureConfig = field(default_factory=FeatureConfig)  # a method picks stages and grid
    seed: int = 0
    device: str = field(default="cpu", metadata=PLACE)
    cache: Path = field(default=Path("build/cache"), metadata=PLACE)  # of frozen features
    progress: bool = field(default=False, metadata=PLACE)
    state: Path | None = field(default=None, metadata=PLACE)  # what an interrupted `fit` goes on from


Own = TypeVar("Own", bound=Common)


class Method(Protocol):
    """A method is made from its settings, sees normal images once, and scores any images.

    `Network`, which keeps checkpoints, has `save(path)` and `load(path, train)` too.
    """

    def fit(self, train: Sequence[Sample]) -> None:
        """Learn from normal images; every other image in `train` counts as normal too."""

    def score(self, test: Sequence[Sample]) -> Scores:
        """Image scores (n,) and anomaly maps (n, S, S) at the images' size; larger is more anomalous."""


def with_features(settings: Own, **changes: Any) -> Own:
    """The settings with other `features`: the stages, and perhaps the grid, that the method itself asks for."""
    return replace(settings, features=replace(settings.features, **changes))


def begin(train: Sequence[Sample], settings: Common) -> torch.device:
    """What every training begins with: torch seeded, and the device it runs on.

    Raises:
        DumenetError: no images.
    """
    if not len(train):
        raise DumenetError("No images to learn from: the data set, or its part asked for, is empty.")
    torch.manual_seed(settings.seed)
    return pick_device(settings.device)


def descend(loss: Tensor, optimizer: torch.optim.Optimizer, schedule: Any = None, clip: float | None = None) -> None:
    """One step of a training: gradients, no longer than `clip` together, then the optimizer and the schedule.

    Raises:
        DumenetError: the loss is not finite.
    """
    if not loss.isfinite():
        raise DumenetError(f"The loss became {loss.item()}: lower the learning rate.")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if clip is not None:
        torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
    optimizer.step()
    if schedule:
        schedule.step()


def features_of(samples: Sequence[Sample], settings: Common) -> tuple[Features, tuple[int, ...]]:
    """Cached, aligned features of `settings.features`, and the channels of its stages."""
    backbone = Backbone(settings.features).to(pick_device(settings.device))
    return extract(samples, backbone, settings.cache, settings.progress), backbone.stage_channels


def images_of(samples: Sequence[Sample], size: int, batch: int = 16) -> Iterator[Tensor]:
    """Images in order as (B, 3, size, size) float in 0..1, batch by batch: memory does not grow with the data set."""
    for start in range(0, len(samples), batch):
        stack = np.stack([load_image(s, size) for s in samples[start : start + batch]])
        yield torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 255


def smooth(maps: np.ndarray, sigma: float) -> np.ndarray:
    """Anomaly maps (n, S, S) after a Gaussian filter of `sigma` pixels, each map for itself."""
    return np.stack([ndimage.gaussian_filter(m, sigma) for m in maps]).astype(np.float32) if sigma else maps
