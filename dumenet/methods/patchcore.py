"""PatchCore: the distance to the nearest of a few remembered normal patches (Roth et al. 2022).

Each position's feature is averaged over its 3 x 3 neighbours (the patch). All patches of the training images make a
memory bank, of which greedy coreset selection keeps those that cover the others best. A patch scores its distance to
the nearest remembered one; an image scores its most distant patch, weighted by how lonely the nearest neighbour is
(eq. 7).

| setting | original | ours | why |
|---|---|---|---|
| backbone | WideResNet-50-2, layers 2 and 3 | EfficientNet-Lite0, strides 8 and 16 | |
| grid | 28 x 28 | 14 x 14 | a quarter of the patches; the course's grid |
| neighbours averaged | 3 x 3 in each layer's own grid, then aligned (released code) | aligned, then 3 x 3: a patch of
  stride 8 covers twice the width | one alignment |
| crop | 224 px from the middle of 256 | none | as for every method here |
| numbers of a patch | 1,024, averaged from its channels and neighbours (released code) | all 152 channels | |
| patch at the border | zeros beyond it count (released code) | fewer neighbours | |
| coreset | 1 to 25 % | 10 %, 25,000 at most | a bound on time and memory |
| coreset search | in 128 random dimensions, the first patch far from ten random ones (released code) | the
  same, the first at random | |
| neighbours in eq. 7 | no number found; the released code has no eq. 7; anomalib has 9 | 3 | |
| smoothing | sigma 4 | sigma 4 | |
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dumenet.methods.protocol import Common, FeatureMethod, Sample


@dataclass(frozen=True, kw_only=True)
class PatchCoreSettings(Common):
    """See the table above."""

    square = False

    stages: tuple[int, ...] = (2, 3)
    grid: int = 14
    share: float = 0.1  # of the patches that the coreset keeps
    most: int = 25_000  # patches that it keeps at most
    projected: int = 128  # dimensions in which it is searched
    neighbours: int = 3  # for the weight of the image score
    sigma: float = 4.0  # pixels


class PatchCore(FeatureMethod):
    """See the module. Memory: the coreset, `most` x C numbers at most."""

    at_once = 8

    def __init__(self, settings: PatchCoreSettings = PatchCoreSettings()):
        self.settings = settings.with_features(stages=settings.stages, grid=settings.grid)

    def fit(self, train: Sequence[Sample]) -> None:
        """Patches of all training images, then the coreset of them."""
        patches = torch.cat([patches_of(batch) for batch in self._batches(train)])  # (n N, C)
        generator = torch.Generator().manual_seed(self.settings.seed)
        keep = min(max(round(self.settings.share * len(patches)), 1), self.settings.most)
        size = min(self.settings.projected, patches.shape[1])
        projection = torch.randn(patches.shape[1], size, generator=generator) / size**0.5
        first = int(torch.randint(len(patches), (1,), generator=generator))
        self.bank = patches[coreset(patches @ projection, keep, first)]  # (M, C)

    def judge(self, batch: Tensor) -> tuple[Tensor, np.ndarray]:
        """Distances to the nearest remembered patch, and the weighted one of the worst patch."""
        patches, k = patches_of(batch), self.settings.neighbours  # (B N, C)
        distance, nearest = (x.view(len(batch), -1) for x in torch.cdist(patches, self.bank).min(1))  # (B, N)
        vectors, worst = patches.unflatten(0, distance.shape), distance.argmax(1).tolist()
        scores = [image_score(vectors[b, i], self.bank, int(nearest[b, i]), k) for b, i in enumerate(worst)]
        return torch.tensor(scores, dtype=torch.float64), self._maps(distance.unflatten(1, batch.shape[2:]))


def patches_of(batch: Tensor) -> Tensor:
    """Features (B, C, H, W) averaged over 3 x 3 neighbours (fewer at the border), as rows (B N, C)."""
    averaged = F.avg_pool2d(batch, 3, 1, 1, count_include_pad=False)
    return averaged.permute(0, 2, 3, 1).flatten(0, 2)


def coreset(points: Tensor, keep: int, first: int) -> Tensor:
    """Greedy k-centre: from `first` on, always the point (n, d) that is farthest from those chosen; (keep,) indices."""
    half = points.square().sum(1) / 2  # |x - y|^2 / 2 = |x|^2 / 2 - x y + |y|^2 / 2
    chosen, distance = [first], torch.full((len(points),), torch.inf)
    while len(chosen) < keep:
        last = chosen[-1]
        distance = torch.minimum(distance, half - points @ points[last] + half[last])
        chosen.append(int(distance.argmax()))
    return torch.tensor(chosen)


def image_score(patch: Tensor, bank: Tensor, nearest: int, neighbours: int) -> float:
    """Distance of the worst patch (C,) times 1 - its share in a softmax of distances to the neighbours of `nearest`.

    Where the nearest remembered patch is close and its neighbours are far, the share is small and the weight near 1.
    """
    distance = (patch - bank[nearest]).norm()
    around = torch.cdist(bank[nearest][None], bank)[0].topk(min(neighbours, len(bank)), largest=False).indices
    to_neighbours = (patch - bank[around]).norm(dim=1)
    share = torch.softmax(torch.cat([distance[None], to_neighbours[around != nearest]]), 0)[0]
    return float((1 - share) * distance)
