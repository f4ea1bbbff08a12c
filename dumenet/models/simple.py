"""Models without attention: two that invite the identical shortcut, and the honest baseline."""

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
    """A diagonal Gaussian per position: the "reconstruction" is the mean of the training features there.

    The anomaly map is the norm of the difference in units of the standard deviation, so it has the form of
    every other model's. Nothing is trained: `fit` takes one pass over the features. `config.target` has no part here:
    the standard deviation is the scale.
    """

    def __init__(self, config: ModelConfig, stage_channels: tuple[int, ...], grid: int | tuple[int, int]):
        super().__init__()
        self.config = config
        shape = (sum(stage_channels), *sides(grid))
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))

    def fit(self, batches) -> None:
        """Mean and standard deviation over an iterable of (B, C, H, W) batches, summed in double precision."""
        count, total, squares = 0, torch.zeros_like(self.mean, dtype=torch.float64), 0.0
        for batch in batches:
            batch = batch.double()
            count += len(batch)
            total += batch.sum(0)
            squares = squares + batch.square().sum(0)
        mean = total / count
        variance = squares / count - mean.square()
        # A channel that never changes at a position must not dominate: floor at a hundredth of the mean variance.
        floor = 0.01 * variance.mean(dim=(1, 2), keepdim=True) + 1e-8
        self.mean.copy_(mean)
        self.std.copy_(torch.maximum(variance, floor).sqrt())

    def forward(self, features: Tensor) -> Reconstruction:
        """Features (B, C, H, W); both outputs are in units of the position's standard deviation."""
        return reconstruction((self.mean / self.std).expand_as(features), features / self.std)
