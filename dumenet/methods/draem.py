"""DRAEM: a reconstruction and a segmentation network, trained on painted-in anomalies (Zavrtanik et al. 2021).

A normal image I gets an anomaly: a texture A inside a mask M, which is Perlin noise above a threshold, with opacity
beta (section 3.3),

    I_a = (1 - M) I + (1 - beta) M I + beta M A,   beta in [0.1, 1].

The reconstructive network restores I from I_a, with mean squared error and SSIM; the discriminative one, a U-Net,
finds M from I_a and the restored image, with the focal loss -(1 - p)^2 log p, p the probability of a pixel's true
class:

    loss = |I - I_r|^2 + (1 - SSIM(I, I_r)) + focal(M, M_o)   (section 3.1, 3.2; all weights 1 in the released code)

The map is the probability of "anomalous"; the image score is the maximum of its 21 x 21 average (3.4).

| setting | original | ours | why |
|---|---|---|---|
| textures | DTD, 5,640 photographs of textures | drawn ones (clouds, stripes, checks) and other training images, half
  and half; `textures` gives a folder | DTD cannot be had offline |
| changes of a texture | 3 of 10 in the code (the paper names 7): gamma, brightness, sharpness, hue, solarise,
  posterise, invert, autocontrast, equalise, turn +-45 degrees | the same, by Pillow | |
| mask | Perlin noise of 1 to 32 cells a side (powers of 2, each axis for itself), turned +-90 degrees, above 0.5
  (code; at random in the paper) | the same; the lattice is turned, not the picture, so no corner is empty | |
| opacity | [0.1, 1] in the paper, [0.2, 1] in the code | [0.1, 1] | the paper's |
| anomalies | half of the images | the same | |
| turned normal images | +-45 degrees in the paper; in the code +-90 degrees, 3 in 10 | +-45 degrees, 3 in 10 | |
| widths | 128 (reconstructive), 64 (discriminative) | 8 and 8, an option each | 64 to 256 times fewer operations |
| blocks | 5 down and 4 up; 6 down and 5 up with skips | the same | |
| channels on the way up | times the width 4, 2, 1, 1; 8, 4, 2, 1, 1 | those of the way down | |
| training | Adam, batch 8, 700 epochs, lr 1e-4, a tenth after 400 and 600 of them (paper) or a fifth at 80 and 90 %
  (code) | Adam, one-cycle lr 5e-3, batch 4, 800 steps | minutes on a CPU |
| weights at the start | normal, deviation 0.02 (code) | PyTorch's | |
| image size | 256 | that of `features`, 224; `window` stays 21 pixels | as the other methods |
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor, nn

from dumenet.data import find_images, load_image
from dumenet.errors import DumenetError
from dumenet.features import progress_bar
from dumenet.methods.protocol import Common, Method, Sample, descend

Rng = np.random.Generator


@dataclass(frozen=True, kw_only=True)
class DRAEMSettings(Common):
    """See the table above. Of `features` only the image size counts: there is no backbone."""

    textures: Path | None = None  # a folder, searched with all below it, such as DTD's; None: what the table says
    width_reconstructive: int = 8
    width_discriminative: int = 8
    steps: int = 800
    batch: int = 4
    lr: float = 5e-3
    beta: tuple[float, float] = (0.1, 1.0)  # opacity
    turned: float = 0.3  # share of training images that are turned
    window: int = 21  # pixels of the average before the maximum; odd


class DRAEM(Method):
    """See the module. Memory: one batch. Raises a `DumenetError` where images, window or textures do not fit."""

    def __init__(self, settings: DRAEMSettings = DRAEMSettings()):
        if settings.features.image_size < 32 or settings.window % 2 == 0:
            raise DumenetError(
                "DRAEM needs images of at least 32 pixels (it halves them five times), and an odd window."
            )
        self.settings, self.at_once = settings, settings.batch
        files = find_images(Path(settings.textures))[0] if settings.textures else []
        if settings.textures and not files:
            raise DumenetError(f"There are no images of textures in {settings.textures}: give DTD's folder, or none.")
        self.textures = [Sample(f.name, "texture", "good", f) for f in files]

    def fit(self, train: Sequence[Sample]) -> None:
        """Train both networks together for a fixed number of steps, every anomaly painted anew."""
        self._begin(train)
        s, rng = self.settings, np.random.default_rng(self.settings.seed)
        self.restore = Net(3, 3, [s.width_reconstructive * k for k in (1, 2, 4, 8, 8)], skips=False)
        self.segment = Net(6, 2, [s.width_discriminative * k for k in (1, 2, 4, 8, 8, 8)], skips=True)
        for net in (self.restore, self.segment):  # this memory format is a third faster on a CPU
            net.to(self.device, memory_format=torch.channels_last).train()
        optimizer = torch.optim.Adam([*self.restore.parameters(), *self.segment.parameters()], s.lr)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, s.lr, s.steps + 2, pct_start=0.1)
        for _ in progress_bar(range(s.steps), "DRAEM", show=s.progress):
            made = [self._painted(train, rng) for _ in range(s.batch)]
            image, painted, mask = (torch.from_numpy(np.stack(part)).to(self.device) for part in zip(*made))
            restored = self.restore(painted.contiguous(memory_format=torch.channels_last))  # (B, 3, S, S)
            logits = self.segment(torch.cat([restored, painted], 1))  # (B, 2, S, S)
            loss = F.mse_loss(restored, image) + 1 - ssim(restored, image).mean() + focal_loss(logits, mask).mean()
            descend(loss, optimizer, schedule)
        self.restore.eval()
        self.segment.eval()

    def judge(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Probability of "anomalous" at each pixel, and the largest of its averages."""
        probability = self.segment(torch.cat([self.restore(batch), batch], 1)).softmax(1)[:, 1]  # (B, S, S)
        window = self.settings.window
        return F.avg_pool2d(probability[:, None], window, 1, window // 2).amax((1, 2, 3)), probability

    def _painted(self, train: Sequence[Sample], rng: Rng) -> tuple[np.ndarray, ...]:
        """An image, the same with an anomaly or without, both (3, S, S) float in 0..1, and the mask (S, S) int64."""
        s, size = self.settings, self.settings.features.image_size
        picture = Image.fromarray(load_image(train[rng.integers(len(train))], size))
        if rng.random() < s.turned:
            picture = picture.rotate(rng.uniform(-45, 45), Image.Resampling.BILINEAR)
        normal = np.asarray(picture, np.float32).transpose(2, 0, 1) / 255
        if rng.random() < 0.5:
            return normal, normal, np.zeros((size, size), np.int64)
        mask = perlin(size, 2 ** rng.integers(6, size=2), rng.uniform(-np.pi / 2, np.pi / 2), rng) > 0.5
        texture = np.asarray(self.texture(train, rng), np.float32).transpose(2, 0, 1) / 255
        return normal, paint(normal, texture, mask, rng.uniform(*s.beta)), mask.astype(np.int64)

    def texture(self, train: Sequence[Sample], rng: Rng) -> Image.Image:
        """One of `textures`, else a drawn one or a training image in equal parts; after three of ten changes."""
        samples, size = self.textures or train, self.settings.features.image_size
        if rng.random() < (0.0 if self.textures else 0.5):
            image = drawn(size, rng)
        else:
            image = Image.fromarray(load_image(samples[rng.integers(len(samples))], size))
        for change in rng.choice(len(CHANGES), 3, replace=False):
            image = CHANGES[change](image, rng)
        return image


class Net(nn.Module):
    """Blocks of two convolutions, max-pooling down, bilinear up, (B, inputs, S, S) to (B, outputs, S, S)."""

    def __init__(self, inputs: int, outputs: int, widths: Sequence[int], skips: bool):
        super().__init__()
        self.skips = skips
        self.down = nn.ModuleList(convolutions(a, b, b) for a, b in zip([inputs, *widths], widths))
        pairs = list(zip(widths[:0:-1], widths[-2::-1]))  # from the bottom up: channels below, channels here
        self.up = nn.ModuleList(convolutions(a, b) for a, b in pairs)
        self.join = nn.ModuleList(convolutions(b * (1 + skips), b, b) for _, b in pairs)
        self.out = nn.Conv2d(widths[0], outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        levels = []
        for block in self.down:
            x = block(F.max_pool2d(x, 2) if levels else x)
            levels.append(x)
        for up, join, level in zip(self.up, self.join, levels[-2::-1]):
            x = up(F.interpolate(x, level.shape[2:], mode="bilinear", align_corners=True))
            x = join(torch.cat([x, level], 1) if self.skips else x)
        return self.out(x)


def convolutions(*channels: int) -> nn.Sequential:
    """3 x 3 convolutions from each number of channels to the next, with batch norm and ReLU."""
    pairs = pairwise(channels)
    layers = (m for a, b in pairs for m in (nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(True)))
    return nn.Sequential(*layers)


def paint(image: np.ndarray, texture: np.ndarray, mask: np.ndarray, beta: float) -> np.ndarray:
    """Section 3.3: `texture` (3, S, S) laid over `image` (3, S, S) inside `mask` (S, S) with opacity `beta`."""
    return np.where(mask, (1 - beta) * image + beta * texture, image).astype(np.float32)


def perlin(size: int, cells: Sequence[int], turn: float, rng: Rng) -> np.ndarray:
    """Perlin noise (size, size) within -1..1, of `cells` down and across, its lattice turned about the middle.

    Each point blends the four dot products of its cell's corner gradients with the way to it, t^3 (6 t^2 - 15 t + 10).
    """
    y, x = turned_grid((np.arange(size) + 0.5) / size - 0.5, turn)
    (i, fy), (j, fx) = ((np.floor(c).astype(int), c % 1) for c in ((y + 0.71) * cells[0], (x + 0.71) * cells[1]))
    angle = rng.uniform(0, 2 * np.pi, (int(1.42 * cells[0]) + 3, int(1.42 * cells[1]) + 3))

    def corner(a: int, b: int) -> np.ndarray:
        gradient = angle[i + a, j + b]
        return np.sin(gradient) * (fy - a) + np.cos(gradient) * (fx - b)

    ty, tx = (t**3 * (6 * t**2 - 15 * t + 10) for t in (fy, fx))
    top, bottom = ((1 - tx) * corner(a, 0) + tx * corner(a, 1) for a in (0, 1))
    return 2**0.5 * ((1 - ty) * top + ty * bottom)


def turned_grid(line: np.ndarray, turn: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns (n, n) of the square grid with coordinates `line` (n,), turned about the origin."""
    return np.cos(turn) * line[:, None] - np.sin(turn) * line, np.sin(turn) * line[:, None] + np.cos(turn) * line


def drawn(size: int, rng: Rng) -> Image.Image:
    """A texture: a turned pattern of clouds, stripes or checks blends two colours, with grain."""
    clouds = perlin(size, 2 ** rng.integers(2, 6, size=2), rng.uniform(-np.pi / 2, np.pi / 2), rng)
    y, x = turned_grid(np.arange(size) / size, rng.uniform(0, np.pi))
    one, other = (np.sin(2 * np.pi * rng.uniform(4, 40) * w + rng.uniform(0, 3) * clouds) for w in (x, y))
    pattern = (clouds, one, one * other)[rng.integers(3)]
    blend = 1 / (1 + np.exp(-rng.choice([2, 6, 20]) * pattern[..., None]))
    one, other = rng.uniform(0, 255, (2, 3))
    grain = rng.uniform(0, 25) * rng.standard_normal((size, size, 1))
    return Image.fromarray((blend * one + (1 - blend) * other + grain).clip(0, 255).astype(np.uint8))


def with_hue(image: Image.Image, rng: Rng) -> Image.Image:
    """Hue turned and saturation shifted, each by up to 50 of 255."""
    hue, saturation, value = image.convert("HSV").split()
    turn, shift = rng.integers(-50, 51, 2).tolist()
    bands = hue.point(lambda v: (v + turn) % 256), saturation.point(lambda v: min(max(v + shift, 0), 255)), value
    return Image.merge("HSV", bands).convert("RGB")


def with_brightness(image: Image.Image, rng: Rng) -> Image.Image:
    """Values times 0.8 to 1.2, plus up to 30 of 255 either way."""
    factor, shift = rng.uniform(0.8, 1.2), rng.uniform(-30, 30)
    return image.point(lambda v: min(max(round(v * factor + shift), 0), 255))


CHANGES: tuple[Callable[[Image.Image, Rng], Image.Image], ...] = (
    lambda image, rng: Image.fromarray((255 * (np.asarray(image) / 255) ** rng.uniform(0.5, 2, 3)).astype(np.uint8)),
    with_hue, with_brightness,
    lambda image, rng: ImageEnhance.Sharpness(image).enhance(rng.uniform(0.1, 1.9)),
    lambda image, rng: ImageOps.solarize(image, int(rng.integers(32, 129))) if rng.random() < 0.5 else image,
    lambda image, rng: ImageOps.posterize(image, int(rng.integers(1, 9))),
    lambda image, rng: ImageOps.invert(image),
    lambda image, rng: ImageOps.autocontrast(image, int(rng.integers(20))),
    lambda image, rng: ImageOps.equalize(image),
    lambda image, rng: image.rotate(rng.uniform(-45, 45), Image.Resampling.BILINEAR),
)  # fmt: skip


def focal_loss(logits: Tensor, mask: Tensor, gamma: float = 2.0) -> Tensor:
    """-(1 - p)^gamma log p at each pixel, (B, S, S), of logits (B, 2, S, S) and the true class (B, S, S)."""
    log_p = logits.log_softmax(1).gather(1, mask[:, None])[:, 0]
    return -((1 - log_p.exp()) ** gamma) * log_p


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """SSIM at each pixel of images (B, 3, S, S) in 0..1, with an 11 x 11 Gaussian window of sigma 1.5."""
    rows, columns = (gaussian_average(n, a.device) for n in a.shape[2:])
    mean_a, mean_b, aa, bb, ab = rows @ torch.stack([a, b, a * a, b * b, a * b]) @ columns.T  # (B, 3, S, S) each
    variances, covariance = aa - mean_a**2 + bb - mean_b**2, ab - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
    return luminance * (2 * covariance + 9e-4) / (variances + 9e-4)


def gaussian_average(size: int, device: torch.device) -> Tensor:
    """(size, size), each row the weights of 11 neighbours; on a CPU far faster than the convolution."""
    line = torch.arange(size, device=device, dtype=torch.float32)
    distance = line[:, None] - line
    total = torch.exp(-(torch.arange(-5.0, 6.0) ** 2) / (2 * 1.5**2)).sum().item()  # at the border some are outside
    return torch.exp(-(distance**2) / (2 * 1.5**2)) * (distance.abs() <= 5) / total
