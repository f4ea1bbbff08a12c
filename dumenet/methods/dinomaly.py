"""Dinomaly: reconstruction of several layers' features by a decoder that cannot copy (Guo et al. 2025).

A frozen encoder gives features of several layers. Their mean passes a noisy bottleneck, an MLP whose dropout is all the
noise there is, and a decoder of transformer layers with linear attention (after Katharopoulos et al. 2020),

    out_i = phi(q_i) sum_j phi(k_j)^T v_j / (phi(q_i) sum_j phi(k_j)),   phi(x) = elu(x) + 1,

which cannot focus on one position and so hands on no copy of it. The reconstruction is loose: not layer to
layer, but the mean of a group of decoder layers matches the mean of a group of encoder layers, the first decoder layers
the deep group. Loss: 1 - cosine of the two flattened maps of an image, summed over positions and channels at once; the
gradient of positions that are already well reconstructed is divided by ten. Score: 1 - cosine, averaged over groups.

| setting | original | ours | why |
|---|---|---|---|
| encoder | DINOv2-R ViT-B/14, layers 3 to 10 of 12 | EfficientNet-Lite0, stages at strides 2 to 16 on one grid | |
| stages of several widths | do not occur | each channel divided by its root mean square, not centred; concatenated;
  linear layers to and from `width` | a mean of them does not exist; a centred feature near zero has a noisy cosine |
| groups | 2 of 4 layers | 2 of 2 stages | |
| input, grid | 392 px cut from 448, 28 x 28 | 224 px, 14 x 14 | the course's grid |
| bottleneck | MLP, hidden 4 x width, dropout 0.2 at its input, inside and output (0.4 on Real-IAD) | the same, 0.2 | |
| class and register tokens | pass the bottleneck and the decoder, not the loss (released code) | none | |
| decoder | 8 layers, width 768, 12 heads | 4 layers, width 192, 6 heads | minutes on two cores |
| optimiser | StableAdamW with amsgrad, lr 0.002 to 0.0002, clip 0.1 | AdamW with amsgrad, likewise | |
| steps | 10,000 of 16 (50,000 on Real-IAD); 100 to warm up, 1,000 until 90 % of the positions count a tenth | 300 of
  16; the same shares | minutes on two cores |
| smoothing | 5 x 5 window of a Gaussian of sigma 4, at 256 px | sigma 1.5 | a Gaussian about as wide |
| image score | mean of the highest 1 % of pixels | the same | |
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dumenet.errors import DumenetError
from dumenet.features import progress_bar
from dumenet.methods.protocol import Common, FeatureMethod, Sample, descend, shuffled
from dumenet.metrics import image_score
from dumenet.models.layers import Standardise, map_of, tokens_of


@dataclass(frozen=True, kw_only=True)
class DinomalySettings(Common):
    """See the table above."""

    stages: tuple[int, ...] = (0, 1, 2, 3)  # for a ViT its blocks, counted from 0
    grid: int = 14
    groups: int = 2
    layers: int = 4  # of the decoder, a multiple of `groups`
    width: int = 192  # of the decoder; stages of one width give theirs instead
    heads: int = 6
    dropout: float = 0.2  # of the bottleneck
    hard: float = 0.9  # share of the positions whose gradient shrinks, once it has risen
    shrink: float = 0.1  # what is left of their gradient
    steps: int = 300
    batch: int = 16
    lr: float = 2e-3
    clip: float = 0.1  # largest norm of the gradient
    sigma: float = 1.5  # pixels


class Dinomaly(FeatureMethod):
    """See the module. Memory: the decoder, and a batch of features."""

    def __init__(self, settings: DinomalySettings = DinomalySettings()):
        self.settings = settings.with_features(stages=settings.stages, grid=settings.grid)

    def fit(self, train: Sequence[Sample]) -> None:
        """Train bottleneck and decoder on the frozen features."""
        s, features = self.settings, self.features(train)
        self._begin(train)
        self.network = LooseReconstruction(s, self.backbone.stage_channels)
        if self.network.widths_differ:
            mean, std = features.channel_statistics()
            self.network.scale.std.copy_((mean.square() + std.square()).sqrt())
        self.network.to(self.device).train()
        optimizer = torch.optim.AdamW(self.network.parameters(), s.lr, weight_decay=1e-4, eps=1e-10, amsgrad=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_cosine(step, s.steps))
        steps = progress_bar(range(s.steps), "Dinomaly", show=s.progress)
        for step, index in zip(steps, shuffled(len(features), s.batch)):
            pairs = self.network(features.batch(index).to(self.device))
            share = s.hard * min(step / (0.1 * s.steps), 1)
            loss = sum(hard_cosine_loss(target, made, share, s.shrink) for target, made in pairs) / len(pairs)
            descend(loss, optimizer, schedule, clip=s.clip)
        self.network.eval()

    def judge(self, batch: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """1 - cosine, averaged over groups, upsampled and smoothed, and the mean of its highest hundredth."""
        distances = [1 - F.cosine_similarity(*pair, dim=1) for pair in self.network(batch)]  # (B, H, W) each
        maps = self._maps(torch.stack(distances).mean(0), "bilinear")
        return image_score(maps, "top1"), maps


class LooseReconstruction(nn.Module):
    """Bottleneck, decoder, and which layers answer for which stages."""

    def __init__(self, s: DinomalySettings, stage_channels: tuple[int, ...]):
        super().__init__()
        self.stage_channels, self.groups, self.widths_differ = stage_channels, s.groups, len(set(stage_channels)) > 1
        if not 1 <= s.groups <= len(stage_channels) or s.layers % s.groups:
            raise DumenetError(
                f"Dinomaly cannot make {s.groups} groups of {len(stage_channels)} stages and {s.layers} layers: "
                "groups must be at most the stages, and divide the layers."
            )
        width = s.width if self.widths_differ else stage_channels[0]
        if width % s.heads:
            raise DumenetError(f"Dinomaly's width {width} must be a multiple of its heads ({s.heads}).")
        self.members = [part.tolist() for part in torch.arange(len(stage_channels)).tensor_split(s.groups)]
        self.scale = Standardise(sum(stage_channels))  # changes nothing until `fit` sets it
        self.project_in, self.project_out = nn.Identity(), nn.ModuleList([nn.Identity()] * s.groups)
        if self.widths_differ:
            sizes = [sum(stage_channels[i] for i in members) for members in self.members]
            self.project_in = nn.Linear(sum(sizes), width)
            self.project_out = nn.ModuleList(nn.Linear(width, size) for size in sizes)
        self.bottleneck = nn.Sequential(nn.Dropout(s.dropout), mlp(width, s.dropout))
        self.decoder = nn.ModuleList(LinearLayer(width, s.heads) for _ in range(s.layers))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.01, a=-0.03, b=0.03)
                nn.init.zeros_(module.bias)

    def forward(self, features: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Features (B, C, H, W) to target and reconstruction (B, C_g, H, W) of each group g, the shallow one first."""
        stages = self.scale(features).split(self.stage_channels, dim=1)
        targets = [self._fused([stages[i] for i in members]) for members in self.members]
        x = self.bottleneck(self.project_in(tokens_of(self._fused(stages))))  # (B, N, D)
        made: list[Tensor] = []
        for layer in self.decoder:
            made.insert(0, x := layer(x))  # the last layer first: it answers for the shallow group
        parts = torch.stack(made).unflatten(0, (self.groups, -1)).mean(1)  # (groups, B, N, D)
        return [(t, map_of(out(part), t)) for t, out, part in zip(targets, self.project_out, parts)]

    def _fused(self, stages: Sequence[Tensor]) -> Tensor:
        """Stages (B, C_i, H, W) as one: their mean, or all of their channels where widths differ."""
        return torch.cat(list(stages), 1) if self.widths_differ else torch.stack(list(stages)).mean(0)


class LinearLayer(nn.Module):
    """Pre-norm transformer layer with linear attention."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.norm1, self.norm2 = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.out, self.mlp = nn.Linear(width, 3 * width), nn.Linear(width, width), mlp(width, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) to the same shape."""
        parts = self.query_key_value(self.norm1(x)).chunk(3, dim=-1)
        q, k, v = (p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in parts)  # (B, heads, N, D / heads)
        x = x + self.out(linear_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


def mlp(width: int, dropout: float) -> nn.Sequential:
    """Two layers, dropout after each."""
    drop = nn.Dropout(dropout)
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), drop, nn.Linear(4 * width, width), drop)


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The equation above for (..., N, d): linear in N, since the sum over j is made once for all i."""
    q, k = F.elu(q) + 1, F.elu(k) + 1
    return q @ (k.transpose(-2, -1) @ v) / (q @ k.sum(-2).unsqueeze(-1))  # (..., N, d) / (..., N, 1)


def hard_cosine_loss(target: Tensor, made: Tensor, share: float, shrink: float) -> Tensor:
    """Mean over images of 1 - cosine of the flattened maps (B, C, H, W), for training `made`.

    The `share` of the batch's positions with the smallest distance pass on only `shrink` of their gradient.
    """
    target = target.detach()
    distance = 1 - F.cosine_similarity(target, made.detach(), dim=1)  # (B, H, W)
    easy = (distance < distance.flatten().quantile(share)).unsqueeze(1)  # (B, 1, H, W)
    made = torch.where(easy, shrink * made + (1 - shrink) * made.detach(), made)  # the same numbers
    return (1 - F.cosine_similarity(target.flatten(1), made.flatten(1), dim=1)).mean()


def warm_cosine(step: int, steps: int, last: float = 0.1) -> float:
    """Factor of the learning rate: linear over the first hundredth of the steps, then half a cosine down to `last`."""
    warm = max(0.01 * steps, 1)
    if step < warm:
        return (step + 1) / (warm + 1)
    return last + (1 - last) * (1 + math.cos(math.pi * (step - warm) / max(steps - warm, 1))) / 2
