"""Uninformed Students: they learned a teacher's patch descriptors on normal images alone (Bergmann et al. 2020).

A teacher T describes each patch of p x p pixels. It is distilled from a pretrained network P: a linear decoder D has to
recover P's features of the patch, and the dimensions shall not repeat one another (section 3.1, eq. 1 and 5),

    L_T = |D(T(patch)) - P(patch)|^2 + sum over i != j of |c_ij|,    c: correlations of the dimensions in the batch.

Students S_1 to S_M of the same shape regress the teacher's descriptors, standardised to y, on normal images (3.2). Of
an anomalous patch they guess wrongly, and each differently (eq. 8 to 11): with s their mean,

    error e = |s - y|^2,   variance v = mean over m of |S_m|^2 - |s|^2,
    score = (e - mean e) / std e + (v - mean v) / std v,

mean and std over normal images that were kept out; scores of several patch sizes are averaged (3.3). One patch net is
applied to whole images; with `dense`, maxima of stride 1 and dilated convolutions give each pixel its own descriptor.

| setting | original | ours | why |
|---|---|---|---|
| P | ResNet-18, 512 features | EfficientNet-Lite0, stage 3 pooled, of patches at 96 px | |
| what the teacher sees | ImageNet, 50,000 batches of 64 | 2,000 patches of the training images, 400 batches of 64 |
  no download, a 2-core CPU. A teacher that saw no other objects describes the unforeseen less well |
| distillation, compactness | sums; of c_ij, without the bars | means, of targets standardised by channel | both terms
  near 1, whatever P is; weights 1 and 1 stay |
| metric learning (triplets) | off on MVTec-AD | left out | |
| patch | 17, 33 and 65, scores averaged | 33; 17 or 65 by option | one scale costs a third |
| kernels (re-implementations) | 5 x 5 first at 33 and 65, 6 x 6 at 17 | 6 x 6 first (and third at 65) | a field of p |
| channels, descriptor | 128 to 256, 128 | 32 to 64, 64 | a sixteenth of the work |
| descriptors | at every pixel | at every fourth (65: eighth), the same ones; every pixel by `dense` | |
| border | | image reflected by half a patch | a map of the image's size |
| students | 3, 100 epochs of single images, Adam 1e-4 | 3, 300 single images, Adam 1e-3 | budget |
| held out | a validation set | a tenth of the training images | |
| image score | none on MVTec-AD: pixels are judged | maximum of the map | the protocol needs one |
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dumenet.errors import DumenetError
from dumenet.features import Backbone, progress_bar, statistics
from dumenet.methods.protocol import Common, Method, Sample, descend, picked

# By receptive field: kernel, channels in multiples of the width (0: the descriptor's), maxima over 2 x 2 after it.
LAYERS = {
    17: ((6, 1, False), (5, 2, False), (5, 2, False), (4, 0, False)),
    33: ((6, 1, True), (5, 2, True), (2, 2, False), (4, 0, False)),
    65: ((6, 1, True), (5, 1, True), (6, 1, True), (4, 2, False), (1, 0, False)),
}


@dataclass(frozen=True, kw_only=True)
class StudentsSettings(Common):
    """See the table above."""

    stages: tuple[int, ...] = (3,)  # of the backbone, pooled: what the teacher learns
    patch: int = 33  # receptive field in pixels: 17 (no pooling, ten times slower), 33 or 65
    width: int = 32  # channels of the first layer
    size: int = 64  # D of the descriptors
    dense: bool = False  # a descriptor at every pixel
    views: int = 2000  # patches that the teacher learns from
    view_size: int = 96  # pixels to which they are enlarged for the backbone
    teacher_steps: int = 400
    teacher_lr: float = 1e-3
    compactness: float = 1.0  # weight of the correlations
    students: int = 3
    steps: int = 300  # of the students, one batch of images each
    batch: int = 1
    lr: float = 1e-3
    holdout: float = 0.1  # share of the training images that only scale error and variance; 0: all scale and train
    sigma: float = 0.0  # smoothing of the maps, pixels


class PatchNet(nn.Module):
    """Descriptors of the patches of an image, one every `stride` pixels, or one a pixel (`dense`)."""

    def __init__(self, patch: int, width: int, size: int):
        super().__init__()
        channels = [3] + [multiple * width or size for _, multiple, _ in LAYERS[patch]]
        kernels, _, self.pooled = zip(*LAYERS[patch])
        self.convs = nn.ModuleList(nn.Conv2d(*c) for c in zip(channels, channels[1:], kernels))
        self.stride = 2 ** sum(self.pooled)

    def forward(self, x: Tensor, dense: bool = False) -> Tensor:
        """Images (B, 3, H, W) in 0..1 to (B, D, h, w); what follows a pooling of stride 1 is dilated."""
        x, step = (x - 0.5) * 4, 1  # about the scale that the first weights expect
        for conv, pooled in zip(self.convs, self.pooled):
            x = F.conv2d(x, conv.weight, conv.bias, dilation=step)
            if conv is not self.convs[-1]:
                x = F.leaky_relu(x, 5e-3)
            if pooled:
                x = F.max_pool2d(x, 2, 1 if dense else 2, dilation=step)
                step *= 2 if dense else 1
        return x


class UninformedStudents(Method):
    """See the module. Memory: the views, M + 1 small nets, and a few images' activations.

    Raises:
        DumenetError: a patch of no planned size, or images smaller than one.
    """

    at_once = 4

    def __init__(self, settings: StudentsSettings = StudentsSettings()):
        self.settings = settings.with_features(stages=settings.stages)
        if settings.patch not in LAYERS:
            raise DumenetError(f"A patch of {settings.patch} pixels is not planned for: use 17, 33 or 65.")
        if settings.features.image_size < settings.patch:
            raise DumenetError(
                f"Images of {settings.features.image_size} pixels are smaller than a patch of {settings.patch}: "
                "set a larger features.image_size, or a patch of 17."
            )

    def fit(self, train: Sequence[Sample]) -> None:
        """The teacher, the scale of its descriptors, the students, and the scale of their error and variance."""
        self._begin(train)
        s = self.settings
        every = max(round(1 / s.holdout), 2) if s.holdout else len(train) + 1
        held = train[every - 1 :: every] or train  # none kept out: all of them
        seen = [x for k, x in enumerate(train) if k % every != every - 1]
        self.teacher = distil(seen, s, self.device)
        described = (self._run(self.teacher, x).transpose(0, 1).flatten(1) for x in self._batches(seen))
        self.mean, self.std = (t.view(1, -1, 1, 1) for t in statistics(described))  # (1, D, 1, 1)
        self.students = nn.ModuleList(PatchNet(s.patch, s.width, s.size) for _ in range(s.students)).to(self.device)
        optimiser = torch.optim.Adam(self.students.parameters(), s.lr, weight_decay=1e-5)
        for _ in progress_bar(range(s.steps), "students", show=s.progress):
            guesses, target = self._described(picked(seen, torch.randint(len(seen), (s.batch,)), s.features.image_size))
            descend(sum((guess - target).square().sum(1).mean() for guess in guesses), optimiser)
        self.students.requires_grad_(False)
        parts = (error_and_variance(*self._described(x)) for x in self._batches(held))
        self.part_mean, self.part_std = statistics(torch.stack(pair).flatten(1) for pair in parts)  # (2,): of e, of v

    def judge(self, batch: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Standardised error plus standardised variance at each position, enlarged to the image; their maximum."""
        parts = zip(error_and_variance(*self._described(batch)), self.part_mean, self.part_std)
        e, v = ((part - mean) / std for part, mean, std in parts)  # (B, h, w)
        maps = self._maps(e + v, "area")
        return maps.max((1, 2)), maps

    def _run(self, net: PatchNet, images: Tensor) -> Tensor:
        """Images (B, 3, S, S) in 0..1 to descriptors (B, D, h, w) of the patches around each cell's centre."""
        p, stride = self.settings.patch, 1 if self.settings.dense else net.stride
        left, right = p // 2 - stride // 2, p // 2 + stride // 2
        padded = F.pad(images.to(self.device), (left, right, left, right), mode="reflect")
        return net(padded, self.settings.dense)

    def _described(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The students' descriptors (M, B, D, h, w), and the teacher's, standardised on training images."""
        guesses = torch.stack([self._run(net, images) for net in self.students])
        return guesses, (self._run(self.teacher, images) - self.mean) / self.std


def error_and_variance(guesses: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Squared error of the mean of `guesses` (M, B, D, h, w) about `target` (B, D, h, w), and their variance."""
    mean = guesses.mean(0)
    return (mean - target).square().sum(1), (guesses - mean).square().sum(2).mean(0)


def correlation_loss(x: Tensor) -> Tensor:
    """Mean absolute correlation of different columns of x (B, D): 0 where no dimension repeats another."""
    centred = x - x.mean(0)
    unit = centred / centred.norm(dim=0).clamp_min(1e-8)
    correlation = (unit.T @ unit).abs()  # (D, D)
    size = len(correlation)
    return (correlation.sum() - correlation.diagonal().sum()) / (size * (size - 1))


def distil(train: Sequence[Sample], settings: StudentsSettings, device: torch.device) -> PatchNet:
    """A teacher that knows the backbone's stages of enlarged patches, each averaged over its positions."""
    s, size = settings, (settings.view_size, settings.view_size)
    backbone = Backbone(s.features).to(device)
    patches = torch.cat(list(views(train, s)))  # (n, 3, p, p) in 0..1
    target = []
    for part in patches.split(64):
        stages = backbone.stages(F.interpolate(part.to(device), size, mode="bilinear"))
        target.append(torch.cat([stage.mean((2, 3)) for stage in stages], dim=1))
    target = torch.cat(target)  # (n, C)
    target = (target - target.mean(0)) / target.std(0).clamp_min(1e-6)
    teacher = PatchNet(s.patch, s.width, s.size).to(device)
    decoder = nn.Linear(s.size, target.shape[1]).to(device)
    optimiser = torch.optim.Adam([*teacher.parameters(), *decoder.parameters()], s.teacher_lr, weight_decay=1e-5)
    for _ in progress_bar(range(s.teacher_steps), "teacher", show=s.progress):
        index = torch.randint(len(patches), (64,))
        described = teacher(patches[index].to(device)).flatten(1)  # (64, D)
        loss = F.mse_loss(decoder(described), target[index.to(device)]) + s.compactness * correlation_loss(described)
        descend(loss, optimiser)
    return teacher.requires_grad_(False)


def views(train: Sequence[Sample], settings: StudentsSettings, each: int = 8) -> Iterator[Tensor]:
    """Random patches (each, 3, p, p) of random images at 0.6 to 2 times their size; turned, one in ten grey."""
    p, size = settings.patch, settings.features.image_size
    for _ in range(-(-settings.views // each)):
        side = max(round(size * float(torch.empty(1).uniform_(0.6, 2))), p)
        image = picked(train, torch.randint(len(train), (1,)), side)[0]
        for row, column in torch.randint(side - p + 1, (each, 2)).tolist():
            patch = torch.rot90(image[:, row : row + p, column : column + p], int(torch.randint(4, (1,))), (1, 2))
            yield (patch.mean(0, keepdim=True).expand(3, -1, -1) if torch.rand(1) < 0.1 else patch)[None]
