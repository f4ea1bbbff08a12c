"""The networks. They know tensors and their own settings, no data set and no file."""

from torch import nn

from dumenet.config import ModelConfig
from dumenet.models.dumenet import DuMeNet
from dumenet.models.layers import Reconstruction
from dumenet.models.memory import ChannelMemory, Fusion, SpatialMemory, ssim
from dumenet.models.simple import PositionGaussian, ShortcutNet
from dumenet.models.spread import Spread, fit_spread
from dumenet.models.uniad import UniAD


def build_model(config: ModelConfig, stage_channels: tuple[int, ...], grid: int | tuple[int, int]) -> nn.Module:
    """The network that `config.name` asks for, with fresh weights from torch's current random state."""
    kinds = {"dumenet": DuMeNet, "uniad": UniAD, "mlp": ShortcutNet, "conv": ShortcutNet, "gaussian": PositionGaussian}
    return kinds[config.name](config, stage_channels, grid)
