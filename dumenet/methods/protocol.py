"""What the methods of the tables share: settings, one way to score, and the steps that several of them take."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from dumenet.checkpoint import pick_device
from dumenet.config import PLACE, FeatureConfig, Settings
from dumenet.data import Sample, load_image
from dumenet.errors import DumenetError
from dumenet.features import Backbone, Features, extract, runner
from dumenet.score import Scores, upsample

Own = TypeVar("Own", bound="Common")

OWN_FEATURES = {"stages": "stages", "stage": "stages", "grid": "grid"}  # of a method's settings -> what they replace


@dataclass(frozen=True, kw_only=True)
class Common(Settings):
    """Settings that every method has; a method's own dataclass adds its own."""

    features: FeatureConfig = field(default_factory=FeatureConfig)  # a method picks stages and grid
    seed: int = 0
    device: str = field(default="cpu", metadata=PLACE)
    cache: Path = field(default=Path("build/cache"), metadata=PLACE)  # of frozen features
    progress: bool = field(default=False, metadata=PLACE)
    state: Path | None = field(default=None, metadata=PLACE)  # what an interrupted `fit` goes on from

    square = True  # whether the method takes square images alone

    def __post_init__(self) -> None:
        if self.square and not isinstance(self.features.image_size, int):
            raise DumenetError(
                f"features.image_size {list(self.features.image_size)} is for DuMeNet, UniAD, Gaussian, PaDiM and "
                "PatchCore: set one number for this method, which takes square images."
            )
        for name, key in OWN_FEATURES.items():
            own = getattr(self, name, None)
            own, given = (own,) if name == "stage" else own, getattr(self.features, key)
            if hasattr(self, name) and given not in (own, getattr(FeatureConfig(), key)):
                raise DumenetError(
                    f"features.{key} says nothing to this method, which has its own: set {name} instead."
                )

    def with_features(self: Own, **changes: Any) -> Own:
        """The same with other `features`: the stages, and perhaps the grid, that the method itself asks for."""
        return replace(self, features=replace(self.features, **changes))


class Method:
    """A method is made from its settings, sees normal images once, and scores any images.

    `score` hands images to `judge`, `at_once` of them. `Network`, which keeps checkpoints, has a `score` of its own,
    `save(path)` and `load(path, train)`.
    """

    settings: Common
    device = torch.device("cpu")
    at_once = 16

    def fit(self, train: Sequence[Sample]) -> None:
        """Learn from normal images; every other image in `train` counts as normal too."""
        raise NotImplementedError

    def judge(self, batch: Tensor) -> tuple[Any, Any]:
        """Image scores (B,) and anomaly maps (B, S, S) of one batch, tensors or arrays."""
        raise NotImplementedError

    def score(self, test: Sequence[Sample]) -> Scores:
        """Image scores (n,) and anomaly maps (n, S, S) at the images' size; larger is more anomalous."""
        return Scores(*map(np.concatenate, zip(*map(self._judged, self._batches(test)))))

    def score_arrays(self, images: np.ndarray) -> Scores:
        """As `score`, of one batch of images (B, S, S, 3) uint8 of the settings' size; nothing is kept of them."""
        return Scores(*self._judged(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255))

    @torch.no_grad()
    def _judged(self, batch: Tensor) -> list[np.ndarray]:
        return [torch.as_tensor(x).cpu().numpy() for x in self.judge(batch.to(self.device))]

    def _batches(self, samples: Sequence[Sample]) -> Iterator[Tensor]:
        return images_of(samples, self.settings.features.image_size, self.at_once)

    def _maps(self, grid: Tensor, align: str | None = None) -> np.ndarray:
        """Anomaly maps (B, S, S) of grid (B, h, w): enlarged by `align` or `features.align`, smoothed by `sigma`."""
        features = self.settings.features
        return smooth(upsample(grid, features.shape, align or features.align), self.settings.sigma)

    def _begin(self, train: Sequence[Sample]) -> None:
        """What every training begins with: torch seeded, and `device`, which it runs on.

        Raises:
            DumenetError: no images.
        """
        if not len(train):
            raise DumenetError("No images to learn from: the data set, or its part asked for, is empty.")
        torch.manual_seed(self.settings.seed)
        self.device = pick_device(self.settings.device)


class FeatureMethod(Method):
    """A method whose `judge` gets aligned features (B, C, H, W) from the cache instead of images."""

    @cached_property
    def backbone(self) -> Backbone:
        """The frozen features' network."""
        return Backbone(self.settings.features).to(pick_device(self.settings.device))

    def features(self, samples: Sequence[Sample]) -> Features:
        """Of images, from the cache."""
        return extract(samples, self.backbone, self.settings.cache, self.settings.progress)

    @cached_property
    def _run(self) -> Callable[[np.ndarray], np.ndarray]:
        return runner(self.backbone, Path(self.settings.cache, self.backbone.key))

    def score_arrays(self, images: np.ndarray) -> Scores:
        """See `Method`; by the engine if `fit` made the features by it."""
        return Scores(*self._judged(torch.from_numpy(self._run(images))))

    def _batches(self, samples: Sequence[Sample]) -> Iterator[Tensor]:
        return self.features(samples).batches(self.at_once)


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


def images_of(samples: Sequence[Sample], size: int, batch: int = 16) -> Iterator[Tensor]:
    """Images in order as (B, 3, size, size) float in 0..1, batch by batch: memory does not grow with the data set."""
    for start in range(0, len(samples), batch):
        stack = np.stack([load_image(s, size) for s in samples[start : start + batch]])
        yield torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 255


def picked(samples: Sequence[Sample], index: Tensor, size: int) -> Tensor:
    """The images with the numbers `index` (B,), as (B, 3, size, size) float in 0..1."""
    return next(images_of([samples[i] for i in index.tolist()], size, len(index)))


def shuffled(count: int, batch: int, generator: torch.Generator | None = None) -> Iterator[Tensor]:
    """Numbers below `count` in random order, `batch` at a time and fewer at an epoch's start, without end."""
    while True:
        yield from reversed(torch.randperm(count, generator=generator).split(batch))


def positions(grid: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Of each image's positions in grid (B, D, h, w) a random `most`, or all: (n, D)."""
    rows = grid.flatten(2).transpose(1, 2)  # (B, N, D)
    return torch.cat([r[torch.randperm(len(r), generator=generator)[:most].to(r.device)] for r in rows])


def mahalanobis(x: Tensor, mean: Tensor, inverse: Tensor) -> Tensor:
    """Distance (..., n) of x (..., n, D) from Gaussians with `mean` (..., D) and inverse covariance (..., D, D)."""
    centred = x - mean.unsqueeze(-2)
    return ((centred @ inverse) * centred).sum(-1).clamp_min(0).sqrt()


def smooth(maps: Tensor, sigma: float) -> np.ndarray:
    """Anomaly maps (B, S, S) after a Gaussian filter of `sigma` pixels, each map for itself."""
    return ndimage.gaussian_filter(maps.cpu().numpy().astype(np.float32), (0, sigma, sigma))
