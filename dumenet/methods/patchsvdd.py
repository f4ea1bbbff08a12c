"""PatchSVDD: the distance to the nearest normal patch, in a representation learned by two puzzles (Yi and Yoon 2020).

An encoder f gives a patch p a vector. Patches a pixel or two apart should have near vectors (after SVDD but without
its one centre); and from the vectors of two neighbours a classifier C should tell on which of eight sides of the
first the second lies, without which all vectors would fall together (eq. 6):

    L = sum over both scales of  cross-entropy(C(f(p), f(p'')), side) + pull * mean ||f(p) - f(p')||

Two scales: f_big(64 px) = g(f_small of its four 32 px quarters). A patch scores its distance to the nearest of the
training images' patches, a pixel the mean of the patches over it; the two scales' maps are multiplied, an image has its
map's maximum. No convolution here is padded: one pass over an image gives the vectors of all its patches.

What a short training does not do: seen after 100 steps on 30 images, image AUROC rose from 0.59 (untrained) to 0.80 on
generated cloth; on generated connectors, whose place varies, it stayed at chance (0.4 to 0.6) up to 450 steps.

| setting | original (paper, released code) | ours | why |
|---|---|---|---|
| image | 256 px, a category's mean image taken off | 224 px, grey taken off | a category is not told |
| f_small | 8 layers, stride 2, 32 to 128 channels | 5 layers, stride 4, 32 to 64 channels | a tenth of the operations |
| weights at the start | PyTorch's | He's | the pull does not draw all vectors together at once |
| g, C | 2 x 2 and 1 x 1 convolution; MLP on f(p) - f(p'') | the same, C without weight normalisation | |
| vector | 64 numbers, tanh | the same | |
| steps | 300 epochs, in each 100 patches an image; 64 pairs a step, Adam 1e-4 | 600 steps of 64 pairs, Adam 1e-3 | |
| pull (lambda) | 1 in the code, 0.001 in its read-me's example | 0.1 | small for a short training |
| side's offset | 3/4 to 1 patch, clipped at the border | 3/4 to 1 patch, both patches inside | |
| noise on colours and pixels | 0.02 and 0.02 | the same | hides colour aberration, a shortcut |
| lattice of scores | 16 px (64), 4 px (32) | the same | |
| neighbours | among all training patches | among 20,000 at most a scale, drawn alike from each image | memory |
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dumenet.errors import DumenetError
from dumenet.features import progress_bar
from dumenet.methods.protocol import Common, Method, Sample, descend, picked, positions

BIG, SMALL = 64, 32  # pixels of a patch; the encoder's layers fit these
LATTICE = {BIG: 16, SMALL: 4}  # pixels between patches that are scored
SIDES = torch.tensor([(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)])  # (8, 2)


@dataclass(frozen=True, kw_only=True)
class PatchSVDDSettings(Common):
    """See the table above; of the features only `image_size` is read, no pretrained backbone has a part in this."""

    dims: int = 64  # D, of a patch's vector
    steps: int = 600
    images: int = 16  # in a step
    pairs: int = 4  # of patches an image, for each of the two puzzles and scales
    lr: float = 1e-3
    pull: float = 0.1  # weight of the pull, lambda
    noise: float = 0.02  # standard deviation, of a patch's colour and of its pixels; images are 0..1
    most: int = 20_000  # normal patches remembered for each scale


class Encoder(nn.Module):
    """Patch representations of two scales."""

    def __init__(self, dims: int):
        super().__init__()
        leak = nn.LeakyReLU(0.1)
        self.small = nn.Sequential(  # receptive field 4, 8, 16, 24, 32 px; stride 4 px
            nn.Conv2d(3, 32, 4, 2), leak, nn.Conv2d(32, 64, 3, 2), leak, nn.Conv2d(64, 64, 3), leak,
            nn.Conv2d(64, 64, 3), leak, nn.Conv2d(64, dims, 3), nn.Tanh(),
        )  # fmt: skip
        self.join = nn.Conv2d(dims, 128, 2)  # of four quarters
        self.top = nn.Sequential(leak, nn.Conv2d(128, dims, 1), nn.Tanh())
        for module in self.modules():  # smaller weights, as PyTorch's, let the pull draw all vectors together first
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, 0.1)
                nn.init.zeros_(module.bias)

    def forward(self, patches: Tensor) -> Tensor:
        """Patches (n, 3, K, K), K either 32 or 64, to vectors (n, D)."""
        if patches.shape[-1] == SMALL:
            return self.small(patches).flatten(1)
        n = len(patches)
        quarters = patches.unfold(2, SMALL, SMALL).unfold(3, SMALL, SMALL)  # (n, 3, 2, 2, 32, 32)
        quarters = quarters.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)  # (n 4, 3, 32, 32)
        vectors = self.small(quarters).view(n, 2, 2, -1).permute(0, 3, 1, 2)  # (n, D, 2, 2)
        return self.top(self.join(vectors)).flatten(1)

    def lattice(self, images: Tensor) -> dict[int, Tensor]:
        """Vectors of all patches of images (B, 3, S, S) on their lattice: {64: (B, D, h, h), 32: (B, D, h', h')}."""
        small, step = self.small(images), LATTICE[SMALL]
        apart, stride = SMALL // step, LATTICE[BIG] // step  # quarters lie 32 px apart: 8 steps of the small lattice
        big = self.top(F.conv2d(small, self.join.weight, self.join.bias, stride, dilation=apart))
        return {BIG: big, SMALL: small}


class PatchSVDD(Method):
    """See the module. Memory: `most` vectors a scale. Raises a `DumenetError` for images below two patches."""

    at_once = 4

    def __init__(self, settings: PatchSVDDSettings = PatchSVDDSettings()):
        if settings.features.image_size < 2 * BIG:
            raise DumenetError(
                f"PatchSVDD needs images of at least {2 * BIG} pixels, two patches wide: set image_size so."
            )
        self.settings = settings

    def fit(self, train: Sequence[Sample]) -> None:
        """Learn the representation, then remember normal patches, the same number of each image."""
        self._begin(train)
        s, generator = self.settings, torch.Generator().manual_seed(self.settings.seed)
        self.encoder = Encoder(s.dims).to(self.device)
        leak = nn.LeakyReLU(0.1)
        side_of = nn.ModuleList(
            nn.Sequential(nn.Linear(s.dims, 128), leak, nn.Linear(128, 128), leak, nn.Linear(128, 8)) for _ in LATTICE
        ).to(self.device)
        optimizer = torch.optim.Adam([*self.encoder.parameters(), *side_of.parameters()], s.lr)
        for _ in progress_bar(range(s.steps), "PatchSVDD", show=s.progress):
            index = torch.randint(len(train), (s.images,), generator=generator)
            images = picked(train, index, s.features.image_size) - 0.5
            loss = 0.0
            for patch, classifier in zip(LATTICE, side_of):
                first, second, side = self._pairs(images, patch, 3 * patch // 4, patch - 1, s.noise, generator)
                close, closer, _ = self._pairs(images, patch, 1, patch // 32, 0.0, generator)
                loss = loss + F.cross_entropy(classifier(first - second), side)
                loss = loss + s.pull * (close - closer).norm(dim=1).mean()
            descend(loss, optimizer)
        self.encoder.requires_grad_(False)
        banks: dict[int, list[Tensor]] = {patch: [] for patch in LATTICE}
        for images in self._batches(train):
            for patch, vectors in self.encoder.lattice((images - 0.5).to(self.device)).items():
                banks[patch].append(positions(vectors, max(s.most // len(train), 1), generator))
        self.banks = {patch: torch.cat(rows)[: s.most] for patch, rows in banks.items()}

    def _pairs(
        self, images: Tensor, patch: int, near: int, far: int, noise: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Vectors (n, D) of random patches of images (B, 3, S, S) and of a neighbour of each, and its side (n,)."""
        which = torch.arange(len(images)).repeat(self.settings.pairs)
        *corners, side = pairs(len(which), images.shape[-1], patch, near, far, generator)
        both = torch.cat([crops(images, which, c, patch) for c in corners])  # (2n, 3, K, K)
        both += noise * torch.randn(len(both), 3, 1, 1, generator=generator)
        both += noise * torch.randn(both.shape, generator=generator)
        return *self.encoder(both.to(self.device)).chunk(2), side.to(self.device)

    def judge(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Distances to the nearest normal patch, spread over pixels and multiplied over the scales; their maximum."""
        product = 1.0
        for patch, vectors in self.encoder.lattice(batch - 0.5).items():
            rows = vectors.permute(0, 2, 3, 1)  # (B, h, w, D)
            some = rows.flatten(0, 2).split(1024)
            nearest = torch.cat([torch.cdist(x, self.banks[patch]).amin(1) for x in some]).view(rows.shape[:3])
            product = product * spread(nearest, patch, LATTICE[patch], batch.shape[-1])
        return product.amax((1, 2)), product


def pairs(
    n: int, size: int, patch: int, near: int, far: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Corners (n, 2) of random patches inside the image, of a neighbour of each, and the neighbours' sides (n,).

    The neighbour lies `near` to `far` pixels off in each direction in which its side (one of eight) lies off at all.
    """
    side = torch.randint(8, (n,), generator=generator)
    offset = SIDES[side] * torch.randint(near, far + 1, (n, 2), generator=generator)
    low, high = (-offset).clamp_min(0), size - patch - offset.clamp_min(0)
    first = low + (torch.rand(n, 2, generator=generator) * (high - low + 1)).long()
    return first, first + offset, side


def crops(images: Tensor, which: Tensor, corners: Tensor, patch: int) -> Tensor:
    """Patches (n, 3, patch, patch) of images (B, 3, S, S): image `which` (n,) at row and column `corners` (n, 2)."""
    places = zip(which.tolist(), corners.tolist())
    return torch.stack([images[i, :, y : y + patch, x : x + patch] for i, (y, x) in places])


def spread(scores: Tensor, patch: int, step: int, size: int) -> Tensor:
    """Scores of patches (B, h, w), `step` pixels apart, to pixels (B, size, size): the mean of those over each.

    Pixels beyond the last patch, where steps do not fill the image, repeat the nearest covered one.
    """
    ones = torch.ones(1, 1, patch, patch, device=scores.device)
    total = F.conv_transpose2d(scores[:, None], ones, stride=step)
    mean = total / F.conv_transpose2d(torch.ones_like(scores[:1, None]), ones, stride=step)
    rest = size - mean.shape[-1]
    return F.pad(mean, (0, rest, 0, rest), mode="replicate")[:, 0]
