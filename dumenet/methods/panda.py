"""PANDA: pretrained features pulled to their centre, then nearest neighbours (Reiss et al. 2021).

The last layers of a pretrained network f are trained on normal images so that their pooled features come closer to the
centre c, which is the mean of the features before any training:

    L = mean |f(x) - c|^2 / C    + EWC:  lambda / 2 * sum_i F_i (w_i - w0_i)^2

Trained for long, all features collapse into c, and anomalies with them. Two cures: stop early, after a fixed number of
small steps, or EWC, which holds each weight near its pretrained value w0 by its Fisher information F_i. An image scores
the mean of |f(y) - f(x)|^2 over the k nearest training images x. `steps` 0 is DN2 (Bergman et al. 2020).

| setting | original | ours | why |
|---|---|---|---|
| backbone | ResNet-152; layers 3 and 4 trained, norm layers in eval mode | EfficientNet-Lite0; all between the first
  and last of `stages` trained, likewise | |
| pooled feature | last layer, 2,048 | last stage, 320 | as above |
| optimiser | SGD, momentum 0.9, lr 0.01, gradient norm clipped to 0.001 | lr 0.05, clipped to 0.01 | where the norm
  is clipped, a step of lr x norm = 5e-4 goes as far as 50 of 1e-5 |
| stopping | 15 epochs of batches of 32 (released code; 2,355 steps for a CIFAR-10 class) | 50 steps of 32 | |
| sample-wise stopping | PANDA-SES: largest normalised score over checkpoints (as reported in the paper, not checked)
  | none | one scoring pass for each checkpoint |
| EWC | off in the released code unless asked, then for 50 epochs; Fisher of ImageNet classification, lambda 10,000 |
  off; a proxy, `fisher` | ImageNet's images are not here |
| neighbours | 2; sum of squared distances (released code) | 2; their mean | the same order |
| anomaly map | none of adapted features; its segmentation is SPADE on frozen ones | SPADE's (Cohen and Hoshen
  2020): the nearest position, wherever it lies, of the nearest images | the protocol needs one |
| images for the map | SPADE: the 50 nearest of all | the 20 nearest of 200 drawn at random | a bound on memory |
| smoothing | SPADE: sigma 4 | sigma 4 | |
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dumenet.errors import DumenetError
from dumenet.features import Backbone, progress_bar
from dumenet.methods.protocol import Common, Method, Sample, descend, images_of, picked, shuffled


@dataclass(frozen=True, kw_only=True)
class PANDASettings(Common):
    """See the table above."""

    stages: tuple[int, ...] = (2, 3, 4)  # the map reads all, the image score the last; up to the first all is frozen
    grid: int = 14  # of the map
    steps: int = 50  # 0: DN2
    batch: int = 32
    lr: float = 0.05
    clip: float = 0.01  # largest norm of the gradient
    ewc: float = 0.0  # lambda; felt from about 100 on, 10,000 holds back firmly. 0: early stopping alone
    fisher_images: int = 32
    neighbours: int = 2
    gallery: int = 200  # training images, drawn at random, whose positions the map is compared with
    gallery_neighbours: int = 20  # of them, for each test image
    sigma: float = 4.0  # pixels


class PANDA(Method):
    """See the module. Memory: a feature for each training image, and the dense features of `gallery` images."""

    def __init__(self, settings: PANDASettings = PANDASettings()):
        self.settings = settings.with_features(stages=settings.stages, grid=settings.grid)

    def fit(self, train: Sequence[Sample]) -> None:
        """Adapt the network, then remember what it makes of the training images."""
        self._begin(train)
        s, generator = self.settings, torch.Generator().manual_seed(self.settings.seed)
        self.backbone = Backbone(s.features).to(self.device)
        if s.steps:
            self._adapt(train, self._pooled(train).mean(0), generator)
        self.bank = self._pooled(train)  # (n, C of the last stage)
        drawn = torch.randperm(len(train), generator=generator)[: s.gallery].tolist()
        dense = [self._dense(self._stages(images)) for images in self._batches([train[i] for i in drawn])]
        self.gallery, self.gallery_pooled = torch.cat(dense), self.bank[drawn]  # (K, N, C), (K, C of the last stage)

    def judge(self, batch: Tensor) -> tuple[Tensor, np.ndarray]:
        """Distance to the nearest training images, of the whole image and of each position."""
        s, stages = self.settings, self._stages(batch)
        pooled = stages[-1].mean((2, 3))
        near = torch.cdist(pooled, self.gallery_pooled)
        near = near.topk(min(s.gallery_neighbours, len(self.gallery)), largest=False).indices  # (B, K)
        positions = zip(self._dense(stages), near)  # (N, C), (K,)
        grid = torch.stack([torch.cdist(x, self.gallery[k].flatten(0, 1)).min(1).values for x, k in positions])
        return knn_distance(pooled, self.bank, s.neighbours), self._maps(grid.unflatten(1, (s.grid, s.grid)))

    def _stages(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, S, S) in 0..1 to the stages' maps, (B, C, H, W) each."""
        return self.backbone.stages(images.to(self.device))

    @torch.no_grad()
    def _pooled(self, samples: Sequence[Sample]) -> Tensor:
        """The last stage's means of all images, (n, C), by the network as it is now."""
        return torch.cat([self._stages(images)[-1].mean((2, 3)) for images in self._batches(samples)])

    def _dense(self, stages: list[Tensor]) -> Tensor:
        """Stages to the features of each position of the grid, (B, N, C)."""
        size = (self.settings.grid, self.settings.grid)
        dense = [F.interpolate(x, size, mode="bilinear", align_corners=True) for x in stages]
        return torch.cat(dense, 1).flatten(2).transpose(1, 2)

    def _adapt(self, train: Sequence[Sample], centre: Tensor, generator: torch.Generator) -> None:
        """Pull the pooled features towards the centre (C,)."""
        s, size = self.settings, self.settings.features.image_size
        parameters = later_parameters(self.backbone.net, self._stages, next(images_of(train[:1], size)))
        optimizer = torch.optim.SGD(parameters, s.lr, momentum=0.9, weight_decay=5e-5)
        start = [p.detach().clone() for p in parameters]
        pooled = lambda images: self._stages(images)[-1].mean((2, 3))  # noqa: E731
        if s.ewc:
            some = [train[i] for i in torch.randperm(len(train), generator=generator)[: s.fisher_images].tolist()]
            information = fisher(pooled, parameters, images_of(some, size, 1), generator)
        steps = progress_bar(range(s.steps), "PANDA", show=s.progress)
        for _, index in zip(steps, shuffled(len(train), s.batch, generator)):
            loss = (pooled(picked(train, index, size)) - centre).square().mean()
            if s.ewc:
                moved = zip(information, parameters, start)
                loss = loss + s.ewc / 2 * sum((f * (p - p0).square()).sum() for f, p, p0 in moved)
            descend(loss, optimizer, clip=s.clip)
        self.backbone.requires_grad_(False)


def knn_distance(queries: Tensor, bank: Tensor, neighbours: int) -> Tensor:
    """Mean squared distance of queries (B, C) to their nearest rows of `bank` (n, C): (B,)."""
    distance = torch.cdist(queries, bank, compute_mode="donot_use_mm_for_euclid_dist").square()
    return distance.topk(min(neighbours, len(bank)), largest=False).values.mean(1)


def later_parameters(net: nn.Module, stages_of: Callable[[Tensor], list[Tensor]], images: Tensor) -> list[nn.Parameter]:
    """The parameters that the last stage depends on and the first does not, left trainable; all others are frozen.

    `stages_of(images)` gives the maps of `net`. Works for any network: the dependence is read from the gradients.
    """
    net.requires_grad_(True)
    everything, stages = list(net.parameters()), stages_of(images)
    first = torch.autograd.grad(stages[0].sum(), everything, retain_graph=True, allow_unused=True)
    last = torch.autograd.grad(stages[-1].sum(), everything, allow_unused=True)
    net.requires_grad_(False)
    later = [p.requires_grad_(True) for p, a, b in zip(everything, first, last) if a is None and b is not None]
    if not later:
        raise DumenetError("PANDA trains what lies between the first and the last of its stages: give it two or more.")
    return later


def fisher(
    features_of: Callable[[Tensor], Tensor], parameters: list[nn.Parameter], images: Iterable[Tensor],
    generator: torch.Generator,
) -> list[Tensor]:  # fmt: skip
    """Diagonal Fisher information of y ~ N(f(x), C I), averaged over images (1, 3, S, S): one tensor a parameter.

    The mean of the features' squared derivatives, estimated with a random sign for each from one backward pass. It
    guards the weights that shape the features of these images, not those that tell ImageNet's classes apart.
    """
    total, count = [torch.zeros_like(p) for p in parameters], 0
    for image in images:
        features = features_of(image)[0]  # (C,)
        signs = (torch.randint(2, features.shape, generator=generator) * 2 - 1).to(features)
        for t, g in zip(total, torch.autograd.grad(signs @ features / len(features) ** 0.5, parameters)):
            t += g.square()
        count += 1
    return [t / count for t in total]
