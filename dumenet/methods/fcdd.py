"""FCDD: a one-class network whose output is the anomaly map (Liznerski et al. 2021).

A fully convolutional network phi takes an image to a small map (1, u, v); its last bias is the centre of the
hypersphere, so an anomaly is far from 0. With the pseudo-Huber distance of each entry and its mean over the map,

    A(x) = sqrt(phi(x)^2 + 1) - 1,   loss = mean A(x) for normal x,   -log(1 - exp(-mean A(x))) for an outlier x.

The image score is mean A(x). The map is brought to the image's size by a Gaussian at the middle of each entry's
receptive field. Where outliers come from is `outliers`:

- "confetti", the default: soft coloured squares taken away from normal images, the paper's unsupervised setting on
  MVTec-AD. It needs no other data, and without outliers a learned centre has a trivial optimum, phi = 0;
- outlier exposure (FCDD+OE; CIFAR-100 for CIFAR-10): samples of anything else, a folder of images, or one that holds
  CIFAR-100's archive (cifar-100-python). "photographs" are random squares of the two photographs that scikit-learn
  brings along, a temple and a flower: outliers without a download, and far poorer ones;
- None: normal images alone, as Deep SVDD: phi without biases is pulled to a centre fixed before training.

| setting | original (MVTec-AD) | ours | why |
|---|---|---|---|
| frozen network | first layers of a VGG-11 with batch norm, to stride 8 | EfficientNet-Lite0 to stride 8 | |
| trained on it | its next two 3 x 3 convolutions and a 1 x 1 one | a 3 x 3 and a 1 x 1 one; all with `finetune` | |
| outliers | confetti in each image with probability 1/2; CIFAR-10 with outlier exposure: CIFAR-100 | the same;
  FCDD+OE: crops of two photographs | CIFAR-100 is not here |
| confetti (released code) | on 240 px, squares of 8 to 54 px, 1.04 coloured and 0.69 of full strength on average, at
  least one each; turned +-45 degrees; blurred, sigma 5 | sizes and numbers (0.9, 0.6) for 224 px, scaled to the
  image; the blur in closed form | |
| confetti's sign (released code) | taken away; added where the image is too dark to show it | the same | |
| augmentation | crop of 224 from 240 or the whole, colour jitter, noise; local contrast normalisation | the crop
  always, brightness jitter and noise | |
| optimiser | SGD with Nesterov momentum, lr 1e-3 x 0.985 an epoch, weight decay 1e-4, batch 128 (8 of 16), 200 epochs
  of ten rounds | Adam, one-cycle lr 1e-3, batch 16, 300 steps | minutes on a CPU |
| upsampling | Gaussian of sigma 12 at 224 px, as wide as the receptive field | the same; measured by a gradient | |
| image score | mean of A; on MVTec-AD only pixels are judged | the same | a small defect hardly moves a mean |
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.special import erf
from torch import Tensor, nn

from dumenet.data import find_images
from dumenet.errors import DumenetError
from dumenet.features import Backbone, progress_bar
from dumenet.methods.protocol import Common, Method, Sample, descend, images_of


@dataclass(frozen=True, kw_only=True)
class FCDDSettings(Common):
    """See the table above."""

    stage: int = 2  # of the backbone; 2 has stride 8
    hidden: int = 128  # channels of the trained block
    finetune: bool = False  # train the backbone's weights too, its batch statistics kept
    outliers: str | Sequence[Sample] | None = "confetti"
    steps: int = 300
    batch: int = 16
    lr: float = 1e-3
    sigma: float = 12.0  # pixels of a 224-pixel image


class FCDD(Method):
    """See the module. Memory: one batch. Raises a `DumenetError` for a folder of outliers without images."""

    def __init__(self, settings: FCDDSettings = FCDDSettings()):
        outliers = settings.outliers
        if isinstance(outliers, str) and outliers != "confetti":
            outliers = photographs() if outliers == "photographs" else exposed(Path(outliers))
        self.settings = replace(settings, outliers=outliers).with_features(stages=(settings.stage,))
        self.supervised, self.at_once = outliers is not None and len(outliers) > 0, settings.batch

    def fit(self, train: Sequence[Sample]) -> None:
        """Train phi for a fixed number of steps; every batch is drawn, augmented and mixed with outliers anew."""
        self._begin(train)
        s, rng = self.settings, np.random.default_rng(self.settings.seed)
        self.net = Phi(Backbone(s.features), s.hidden, self.supervised, s.finetune).to(self.device).train()
        self.centre = torch.zeros((), device=self.device)
        trained = [p for p in self.net.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(trained, s.lr, weight_decay=1e-5)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, s.lr, s.steps + 2, pct_start=0.1)
        for step in progress_bar(range(s.steps), "FCDD", show=s.progress):
            images, outlier = self._drawn(train, rng)
            z = self.net(images.to(self.device))  # (B, u, v)
            if step == 0 and not self.supervised:  # Deep SVDD's choice of a centre, away from 0
                self.centre = z.detach().mean() + torch.where(z.detach().mean() < 0, -1.0, 1.0)
            descend(fcdd_loss(pseudo_huber(z - self.centre), outlier.to(self.device)).mean(), optimizer, schedule)
        self.net.eval()
        self.gaussians = placed_gaussians(self.net, s.features.image_size, s.sigma * s.features.image_size / 224)

    def judge(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Mean of A, and A under the Gaussians."""
        a = pseudo_huber(self.net(batch) - self.centre)  # (B, u, v)
        return a.mean((1, 2)), self.gaussians @ a @ self.gaussians.T

    def _drawn(self, train: Sequence[Sample], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Images (B, 3, S, S) in 0..1, and which of them are outliers, (B,) bool."""
        s, size = self.settings, self.settings.features.image_size
        outlier = (rng.random(s.batch) < 0.5) & self.supervised
        other = train if s.outliers is None or isinstance(s.outliers, str) else s.outliers
        samples = [source[rng.integers(len(source))] for source in (other if bad else train for bad in outlier)]
        images = next(images_of(samples, round(size * 240 / 224), s.batch)).numpy()
        made = []
        for image, bad in zip(images, outlier):
            if bad and s.outliers == "confetti":
                image = with_confetti(image, rng)
            dy, dx = rng.integers(image.shape[1] - size + 1, size=2)
            image = image[:, dy : dy + size, dx : dx + size] * rng.uniform(0.96, 1.04)
            made.append(image + rng.integers(2) * 0.1 * image.std() * rng.standard_normal(image.shape))
        return torch.from_numpy(np.stack(made).clip(0, 1)).float(), torch.from_numpy(outlier)


class Phi(nn.Module):
    """Images (B, 3, S, S) in 0..1 to (B, u, v): the frozen backbone, then what is trained, with biases or without."""

    def __init__(self, backbone: Backbone, hidden: int, bias: bool, finetune: bool):
        super().__init__()
        self.backbone = backbone
        backbone.net.requires_grad_(finetune)
        self.head = nn.Sequential(
            nn.Conv2d(backbone.stage_channels[0], hidden, 3, padding=1, bias=bias),
            nn.BatchNorm2d(hidden, affine=bias),
            nn.LeakyReLU(0.01),
            nn.Conv2d(hidden, 1, 1, bias=bias),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone.stages(images)[0])[:, 0]


def photographs() -> list[Sample]:
    """500 random squares, 32 to 200 pixels wide, of scikit-learn's two photographs."""
    from sklearn.datasets import load_sample_images  # here: half a second, and no other method needs it

    rng, photos, squares = np.random.default_rng(0), load_sample_images().images, []
    for i in range(500):
        photo, side = photos[rng.integers(len(photos))], int(rng.integers(32, 201))
        y, x = (int(rng.integers(n - side + 1)) for n in photo.shape[:2])
        squares.append(Sample(f"photograph/{i:03d}", "outlier", "outlier", photo[y : y + side, x : x + side].copy()))
    return squares


def exposed(folder: Path) -> list[Sample]:
    """CIFAR-100's 50,000 training images where `folder` holds its archive, else all images below it."""
    if (folder / "cifar-100-python").is_dir():
        from torchvision.datasets import CIFAR100

        images = CIFAR100(str(folder), train=True).data
        return [Sample(f"cifar100/{i:05d}", "outlier", "outlier", image) for i, image in enumerate(images)]
    files = find_images(folder)[0]
    if not files:
        raise DumenetError(
            f'outliers must be "confetti", "photographs", None, or a folder of images or CIFAR-100; {folder} has none.'
        )
    return [Sample(f.name, "outlier", "outlier", f) for f in files]


def pseudo_huber(z: Tensor) -> Tensor:
    """sqrt(z^2 + 1) - 1, written so that small z are not lost to rounding."""
    return z.square() / ((z.square() + 1).sqrt() + 1)


def fcdd_loss(a: Tensor, outlier: Tensor) -> Tensor:
    """Loss (B,) of distances a (B, u, v): their mean for normal images, -log(1 - exp(-mean)) for outliers (B,) bool."""
    mean = a.mean((1, 2))
    return torch.where(outlier, -torch.log(-torch.expm1(-mean.clamp_min(1e-6))), mean)


def with_confetti(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`image` (3, S, S) in 0..1 with blurred squares taken away (added where the image is too dark to show them)."""
    size = image.shape[-1]
    unit, noise = size / 224, np.zeros_like(image)
    for mean, coloured in ((0.9, True), (0.6, False)):
        for _ in range(max(rng.poisson(mean), 1)):
            place, side, turn = rng.uniform(0, size, 2), rng.integers(8, 55) * unit, rng.uniform(-np.pi / 4, np.pi / 4)
            colour = rng.uniform(0, 1, (3, 1, 1)) if coloured else 1.0
            noise += colour * soft_square(size, place, side, turn, 5 * unit)
    added, taken = (image + noise).clip(0, 1), (image - noise).clip(0, 1)
    shows = np.abs(taken - image).mean()
    return added if shows < 1e-4 and np.abs(added - image).mean() > shows else taken


def soft_square(size: int, place: Sequence[float], side: float, turn: float, sigma: float) -> np.ndarray:
    """(size, size): a turned square around `place`, blurred: a product of error functions in its own coordinates."""
    y, x = np.arange(size)[:, None] - place[0], np.arange(size) - place[1]
    across, along = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    edges = [erf((w + side / 2) / (sigma * 2**0.5)) - erf((w - side / 2) / (sigma * 2**0.5)) for w in (across, along)]
    return edges[0] * edges[1] / 4


def receptive_field(net: nn.Module, size: int) -> tuple[int, float, float]:
    """Width (the image's at most), jump, and centre of the first entry, in pixels, by the middle entry's gradient."""
    device, generator = next(net.parameters()).device, torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, size, size, generator=generator).to(device).requires_grad_()
    with torch.enable_grad():
        z = net(images)
        middle = z.shape[-1] // 2
        (gradient,) = torch.autograd.grad(z[:, middle, middle].sum(), images)
    reached = gradient.abs().sum((0, 1, 2)).nonzero().flatten()  # columns
    low, high, jump = int(reached.min()), int(reached.max()), size / z.shape[-1]
    return high - low + 1, jump, (low + high) / 2 - middle * jump


def placed_gaussians(net: nn.Module, size: int, sigma: float) -> Tensor:
    """G (S, u): a Gaussian of `sigma`, as wide as the receptive field, at the centre of each entry's; G A G^T is a map,
    and the paper's transposed convolution with a Gaussian, which is separable."""
    width, jump, start = receptive_field(net, size)
    device = next(net.parameters()).device
    centres = start + jump * torch.arange(round(size / jump), device=device)  # (u,)
    distance = torch.arange(size, device=device)[:, None] - centres  # (S, u)
    return torch.exp(-(distance**2) / (2 * sigma**2)) * (distance.abs() <= width / 2)
