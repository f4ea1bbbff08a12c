"""MKD, multiresolution knowledge distillation: a small student repeats a teacher on normal images (Salehi et al. 2021).

A frozen pretrained teacher and a smaller network from scratch see the same normal images; the student learns the
teacher's activations at several levels, their values and their direction (section 3.1). With a_i and b_i the level i
of both,

    L_val = sum over i of mean (a_i - b_i)^2,   L_dir = sum over i of 1 - cosine(vec a_i, vec b_i),
    L = L_dir + lambda L_val,

a level flattened into one vector for the cosine, and lambda set on the untrained student such that both terms weigh
the same. The loss of a new image is its score. Where it is anomalous is read from the loss's gradient (3.1 too),

    map = opening of G_sigma * |dL / d image|:   the pixels on which the disagreement depends.

| setting | original | ours | why |
|---|---|---|---|
| teacher | VGG-16, its last four max-poolings (strides 4 to 32) | EfficientNet-Lite0, its last four stages, the same
  strides | |
| activations | after ReLU, as they are | each channel standardised by the training images; levels end linearly |
  Lite's stages have both signs and unequal scales, which a cosine would follow |
| student | VGG's plan, 16 channels inside a level, batch norm, no biases | three convolutions a level, 16 channels
  inside, batch norm, a bias at a level's end | as small, in any teacher's shapes |
| lambda | as above, on the direction's term; in the release 0.5 (MVTec-AD) on the values' | on the values' term | |
| levels in the score | the last three (release) | all that were learned | one loss, as written |
| map | gradient; SmoothGrad and guided back-propagation were no better | gradient | |
| scale of a map | each cut at its 99th percentile and brought to 0..1 (release) | as it is | a faint map stays faint |
| smoothing, opening | sigma 4; opening of the thresholded map, 3 x 3 ellipse | sigma 4; grey opening, 5 x 5 square | |
| image | 128 px, not normalised (MVTec-AD) | the size asked for, normalised as the teacher's weights want it | |
| training | 600 epochs (release, MVTec-AD), batches of 64, Adam 1e-3 | 1,000 batches of 8, Adam 3e-3 | a 2-core CPU |
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from dumenet.features import Backbone, progress_bar
from dumenet.methods.protocol import Common, Method, Sample, descend, images_of, picked, smooth


@dataclass(frozen=True, kw_only=True)
class DistillationSettings(Common):
    """See the table above."""

    stages: tuple[int, ...] = (1, 2, 3, 4)  # of the teacher: the levels
    inner: int = 16  # channels of the student between its levels
    steps: int = 1000
    batch: int = 8
    lr: float = 3e-3
    weight: float | None = None  # lambda; None: both terms equal on the untrained student
    localise: Literal["gradient"] = "gradient"  # in records, from when there were other ways
    sigma: float = 4.0  # pixels
    opening: int = 5  # side in pixels of the square that opens a gradient's map


class Student(nn.Module):
    """Activations of the teacher's shapes, from three convolutions a level."""

    def __init__(self, channels: Sequence[int], inner: int):
        super().__init__()
        self.levels = nn.ModuleList(level(i, inner, o) for i, o in zip([3, *channels], channels))

    def forward(self, x: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
        """Levels (B, C_i, H_i, W_i) with the given shapes, maxima of the one before; 2 x 2 where the size halves."""
        out = []
        for net, shape in zip(self.levels, shapes):
            x = net(F.adaptive_max_pool2d(x, shape[-2:]))
            out.append(x)
        return out


def level(channels_in: int, inner: int, channels_out: int) -> nn.Sequential:
    """Batch norm on all but the last, which has to take the teacher's values."""
    layers: list[nn.Module] = []
    for channels in (channels_in, inner):
        layers += [nn.Conv2d(channels, inner, 3, padding=1, bias=False), nn.BatchNorm2d(inner), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(inner, channels_out, 3, padding=1))


class KnowledgeDistillation(Method):
    """See the module. Memory: teacher, student, and one batch's activations."""

    at_once = 8

    def __init__(self, settings: DistillationSettings = DistillationSettings()):
        self.settings = settings.with_features(stages=settings.stages)

    def fit(self, train: Sequence[Sample]) -> None:
        """The student, and lambda before it."""
        self._begin(train)
        s, size = self.settings, self.settings.features.image_size
        self.teacher = Backbone(s.features).to(self.device)
        self.norms = nn.ModuleList(nn.BatchNorm2d(c, affine=False, momentum=None) for c in self.teacher.stage_channels)
        self.norms.to(self.device)
        for images in images_of(train, size, s.batch):
            self._teach(images.to(self.device))
        self.norms.eval()  # the training images' mean and variance of each channel are fixed from here on
        self.student = Student(self.teacher.stage_channels, s.inner).to(self.device)
        optimiser = torch.optim.Adam(self.student.parameters(), s.lr)
        self.weight = s.weight
        for _ in progress_bar(range(s.steps), "student", show=s.progress):
            images = picked(train, torch.randint(len(train), (s.batch,)), size)
            direction, value = losses(*self._levels(images.to(self.device)))
            if self.weight is None:
                self.weight = float((direction.sum() / value.sum()).detach())
            descend((direction + self.weight * value).mean(), optimiser)
        self.student.eval().requires_grad_(False)

    @torch.enable_grad()
    def judge(self, batch: Tensor) -> tuple[Tensor, object]:
        """The loss of each image, and where it comes from."""
        s = self.settings
        direction, value = losses(*self._levels(batch.requires_grad_()))
        loss = direction + self.weight * value
        (slope,) = torch.autograd.grad(loss.sum(), batch)  # (B, 3, S, S); images do not meet in eval mode
        maps = smooth(slope.abs().mean(1), s.sigma)
        return loss.detach(), ndimage.grey_opening(maps, (1, s.opening, s.opening)) if s.opening > 1 else maps

    def _teach(self, images: Tensor) -> list[Tensor]:
        """The teacher's levels (B, C_i, H_i, W_i) for images (B, 3, S, S) in 0..1, each channel standardised."""
        return [norm(x) for norm, x in zip(self.norms, self.teacher.stages(images))]

    def _levels(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The levels of teacher and student."""
        teacher = self._teach(images)
        return teacher, self.student((images - self.teacher.mean) / self.teacher.std, [x.shape for x in teacher])


def losses(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """L_dir and L_val of each image, (B,) each, from levels (B, C_i, H_i, W_i)."""
    direction = sum(1 - F.cosine_similarity(a.flatten(1), b.flatten(1)) for a, b in zip(teacher, student))
    value = sum((a - b).square().flatten(1).mean(1) for a, b in zip(teacher, student))
    return direction, value
