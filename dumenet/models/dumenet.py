"""DuMeNet: project, encode, read the memories, fuse, decode, project back.

Shapes: B images, N tokens (H x W positions), C feature channels, D hidden size, M memory slots.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dumenet.config import ModelConfig
from dumenet.models.layers import (
    DecoderLayer,
    EncoderLayer,
    LearnedPosition,
    Reconstruction,
    Standardise,
    jitter,
    map_of,
    neighbour_mask,
    reconstruction,
    tokens_of,
    xavier,
)
from dumenet.models.memory import ChannelMemory, Fusion, SpatialMemory


class CBAM(nn.Module):
    """Trainable channel and spatial attention on one stage's features (Woo et al. 2018).

    A later version of the release puts it before the target, which is then trained as well and can shrink.
    There it works on each stage before the resize; here after it, since cached features are already aligned.
    """

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        inner = max(channels // reduction, 4)
        self.mlp = nn.Sequential(nn.Linear(channels, inner), nn.ReLU(), nn.Linear(inner, channels))
        self.conv = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        channel = torch.sigmoid(self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3))))  # (B, C)
        x = x * channel[:, :, None, None]
        spatial = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)  # (B, 2, H, W)
        return x * torch.sigmoid(self.conv(spatial))


class DuMeNet(nn.Module):
    """Dual-memory reconstruction of frozen features.

    Args:
        config: see `ModelConfig`; every point on which the paper's text and its release differ is one option.
        stage_channels: channels of each backbone stage; their sum is C.
        grid: H and W of the aligned features, or one number for both.
    """

    def __init__(self, config: ModelConfig, stage_channels: tuple[int, ...], grid: int | tuple[int, int]):
        super().__init__()
        self.config, self.stage_channels = config, tuple(stage_channels)
        channels, dim = sum(stage_channels), config.hidden_dim
        sizes = (dim, config.heads, config.ffn_dim, config.dropout)
        self.standardise = Standardise(channels)
        self.neck = nn.ModuleList(CBAM(c) for c in stage_channels) if config.neck == "cbam" else None
        self.project_in, self.project_out = nn.Linear(channels, dim), nn.Linear(dim, channels)
        self.position = LearnedPosition(grid, dim)
        self.encoder = nn.ModuleList(EncoderLayer(*sizes) for _ in range(config.encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(*sizes) for _ in range(config.decoder_layers))
        self.norm = nn.LayerNorm(dim)
        mode = config.memory_mode
        self.channel_memory = ChannelMemory(config.channel_memory_size, dim) if mode in ("both", "channel") else None
        self.spatial_memory = (
            SpatialMemory(config.spatial_memory_size, grid, config.spatial_layout, config.spatial_similarity)
            if mode in ("both", "spatial")
            else None
        )
        self.fusion = Fusion(config.fusion_mode, dim) if mode == "both" else None
        self.masks = Masks(config.neighbour_mask, grid, config.neighbour_size)
        xavier(self)

    def forward(self, features: Tensor, noise: Tensor | None = None) -> Reconstruction:
        """Reconstruct backbone features (B, C, H, W); see `Reconstruction` for what comes back, and `jitter` for
        `noise`.
        """
        target = self.attend(self.standardise(features))  # (B, C, H, W)
        tokens = tokens_of(target)  # (B, N, C)
        if self.training and self.config.jitter:
            tokens = jitter(tokens, self.config.jitter, noise)
        hidden = F.layer_norm(self.project_in(tokens), (self.config.hidden_dim,))  # (B, N, D)
        position = self.position()  # (N, D)
        for layer in self.encoder:
            hidden = layer(hidden, position, self.masks.get("encoder"))
        memory, channel_weights, spatial_weights = self.read(hidden)  # (B, N, D), (B, N, M), (B, D, M)
        source = memory if self.config.decoder_reads == "memory" else hidden  # the continuous query, or the leak
        out = memory
        for layer in self.decoder:
            out = layer(out, out, source, position, self.masks.get("decoder_first"), self.masks.get("decoder_second"))
        out = map_of(self.project_out(self.norm(out)), target)  # (B, C, H, W)
        return reconstruction(out, target, channel_weights, spatial_weights, kind=self.config.target)

    def attend(self, x: Tensor) -> Tensor:
        """The neck: nothing, or CBAM on each stage; (B, C, H, W) to the same shape."""
        if self.neck is None:
            return x
        return torch.cat([cbam(part) for cbam, part in zip(self.neck, x.split(self.stage_channels, dim=1))], dim=1)

    def read(self, hidden: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Ask the memories about the encoder's tokens (B, N, D); without a memory the tokens pass through."""
        channel, channel_weights = self.channel_memory(hidden) if self.channel_memory else (None, None)
        spatial, spatial_weights = self.spatial_memory(hidden) if self.spatial_memory else (None, None)
        if self.fusion:
            return self.fusion(hidden, channel, spatial), channel_weights, spatial_weights
        read = next((r for r in (channel, spatial) if r is not None), hidden)
        return read, channel_weights, spatial_weights


class Masks(nn.Module):
    """The neighbour mask, built once, for those attentions that want it."""

    def __init__(self, attentions: tuple[str, ...], grid: int | tuple[int, int], size: int):
        super().__init__()
        self.attentions = attentions
        self.register_buffer("mask", neighbour_mask(grid, size) if attentions else None, persistent=False)

    def get(self, attention: str) -> Tensor | None:
        """(N, N) bool, True where attending is allowed, or None for everywhere."""
        return self.mask if attention in self.attentions else None
