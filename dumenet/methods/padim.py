"""PaDiM: a Gaussian with full covariance for each position of the feature grid (Defard et al. 2021).

Features of three stages are aligned and concatenated, a random subset of channels is kept. At each position their
mean and covariance over the training images make a Gaussian; the anomaly score is the Mahalanobis distance

    M(x) = sqrt((x - mean)^T covariance^-1 (x - mean)),   covariance + 0.01 I    (section III, eq. 2)

| setting | original | ours | why |
|---|---|---|---|
| backbone | ResNet-18 or WideResNet-50-2, layers 1 to 3 | EfficientNet-Lite0, strides 4, 8, 16 | |
| channels kept | 100 of 448 (ResNet-18), 550 of 1792 | 100 of 176 | as for ResNet-18 |
| grid | 56 x 56 | 28 x 28 | a quarter of the memory, same order of scores |
| crop | 224 px from the middle of 256 | none | as for every method here |
| alignment | nearest | mean over each cell (`features.align`) | the package's own |
| smoothing | sigma 4 | sigma 4 | |
| image score | maximum of the map | maximum of the map | |

The ridge of 0.01 was set for ResNet's features. The embedded backbone's are larger (their variance at one position is
about 18 on bottle and tire), so that the same number hardly regularises: where normal images are all alike, as in a
dark background, the map marks a trifle. The table `mvtec` has a column with ridge 1 beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dumenet.methods.protocol import Common, FeatureMethod, Sample, mahalanobis


@dataclass(frozen=True, kw_only=True)
class PaDiMSettings(Common):
    """See the table above."""

    square = False

    stages: tuple[int, ...] = (1, 2, 3)
    grid: int = 28
    channels: int = 100  # kept at random; all where there are fewer
    ridge: float = 0.01  # added to the covariance's diagonal
    sigma: float = 4.0  # pixels


class PaDiM(FeatureMethod):
    """See the module. Memory: one channels x channels matrix for each position."""

    def __init__(self, settings: PaDiMSettings = PaDiMSettings()):
        self.settings = settings.with_features(stages=settings.stages, grid=settings.grid)

    def fit(self, train: Sequence[Sample]) -> None:
        """Mean and inverse covariance at each position, summed batch by batch."""
        features, total = self.features(train), sum(self.backbone.stage_channels)
        generator = torch.Generator().manual_seed(self.settings.seed)
        self.kept = torch.randperm(total, generator=generator)[: self.settings.channels].sort().values
        sums, products = 0.0, 0.0
        for batch in features.batches(16):
            x = self._rows(batch).double()  # (N, B, K)
            sums = sums + x.sum(1)
            products = products + x.transpose(1, 2) @ x
        self.mean, self.inverse = gaussians(len(features), sums, products, self.settings.ridge)

    def judge(self, batch: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Mahalanobis distance at each position, upsampled and smoothed, and its maximum."""
        distance = mahalanobis(self._rows(batch), self.mean, self.inverse)  # (N, B)
        maps = self._maps(distance.T.unflatten(1, batch.shape[2:]))
        return maps.max((1, 2)), maps

    def _rows(self, batch: Tensor) -> Tensor:
        """Features (B, C, H, W) to the kept channels, (N, B, K), position first."""
        return batch[:, self.kept].flatten(2).permute(2, 0, 1)


def gaussians(count: int, sums: Tensor, products: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Mean (N, K) and inverse covariance (N, K, K) from sums (N, K) and sums of outer products (N, K, K)."""
    mean = sums / count
    covariance = (products - count * mean.unsqueeze(2) * mean.unsqueeze(1)) / max(count - 1, 1)
    covariance = covariance + ridge * torch.eye(mean.shape[1], dtype=mean.dtype)
    return mean.float(), torch.linalg.inv(covariance).float()
