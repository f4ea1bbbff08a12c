"""Models without attention: two that invite the identical shortcut, and the honest baseline."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from dumenet.config import ModelConfig, sides
from dumenet.models.layers import Reconstruction, Standardise, reconstruction


class ShortcutNet(nn.Module):
    """Reconstruct each position by 1 x 1 (``mlp``) or each neighbourhood by 3 x 3 (``conv``) convolutions.

    The hidden width is the number of channels, so nothing forbids the identity: the networks of UniAD's
    figure 2 that learn to copy. `encoder_layers` + `decoder_layers` hidden layers.
    """

    def __init__(self, config: ModelConfig, stage_channels: tuple[int, ...], grid: int | tuple[int, int]):
        super().__init__()
        self.config = config
        channels, size = sum(stage_channels), 1 if config.name == "mlp" else 3
        self.standardise = Standardise(channels)
        layers: list[nn.Module] = []
        for _ in range(config.encoder_layers + config.decoder_layers):
            layers += [nn.Conv2d(channels, channels, size, padding=size // 2), nn.ReLU()]
        self.net = nn.Sequential(*layers, nn.Conv2d(channels, channels, 1))

    def forward(self, features: Tensor, noise: Tensor | None = None) -> Reconstruction:
        """Reconstruct backbone features (B, C, H, W); these networks have no jitter, so `noise` has no part."""
        target = self.standardise(features)
        return reconstruction(self.net(target), target, kind=self.config.target)


class PositionGaussian(nn.Module):
    """The mean of the training features at each position, whatever the image: a baseline that cannot copy.

    In units of the spread of its errors (`dumenet.models.spread`) it is a Gaussian with a full covariance for each
    position, of one category; of several the mean is one for all, and the spread of each is about that mean. By the
    norm it is the distance from the mean. Nothing is trained: `fit` takes one pass over
    the features. `config.target` has no part here: the features are standardised by channel.
    """

    def __init__(self, config: ModelConfig, stage_channels: tuple[int, ...], grid: int | tuple[int, int]):
        super().__init__()
        self.config = config
        self.standardise = Standardise(sum(stage_channels))
        self.register_buffer("mean", torch.zeros(sum(stage_channels), *sides(grid)))

    def fit(self, batches: Iterable[Tensor]) -> None:
        """The mean over (B, C, H, W) batches, standardised and summed in double precision."""
        count, total = 0, torch.zeros_like(self.mean, dtype=torch.float64)
        for batch in batches:
            count += len(batch)
            total += self.standardise(batch).double().sum(0)
        self.mean.copy_(total / count)

    def forward(self, features: Tensor) -> Reconstruction:
        """Features (B, C, H, W); both outputs are standardised by channel."""
        return reconstruction(self.mean.expand_as(features), self.standardise(features))
