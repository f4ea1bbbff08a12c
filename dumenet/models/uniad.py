"""UniAD (You et al. 2022), after its published structure: no memory, a learned query in every decoder layer."""

import math

import torch
from torch import Tensor, nn

from dumenet.config import ModelConfig, sides
from dumenet.models.dumenet import Masks
from dumenet.models.layers import (
    DecoderLayer,
    EncoderLayer,
    LearnedPosition,
    Reconstruction,
    Standardise,
    jitter,
    map_of,
    reconstruction,
    tokens_of,
    xavier,
)


class UniAD(nn.Module):
    """Neighbour-masked encoder, layer-wise query decoder.

    Args: as `dumenet.models.dumenet.DuMeNet`; the memory fields of `config` have no part here. UniAD's own
    settings are hidden_dim 256, target "raw" and the neighbour mask in all three attentions.
    """

    def __init__(self, config: ModelConfig, stage_channels: tuple[int, ...], grid: int | tuple[int, int]):
        super().__init__()
        self.config = config
        channels, dim = sum(stage_channels), config.hidden_dim
        sizes = (dim, config.heads, config.ffn_dim, config.dropout)
        self.standardise = Standardise(channels)
        self.project_in, self.project_out = nn.Linear(channels, dim), nn.Linear(dim, channels)
        self.position = LearnedPosition(grid, dim)
        self.encoder = nn.ModuleList(EncoderLayer(*sizes) for _ in range(config.encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(*sizes) for _ in range(config.decoder_layers))
        self.queries = nn.Parameter(torch.randn(config.decoder_layers, math.prod(sides(grid)), dim))
        self.norm = nn.LayerNorm(dim)
        self.masks = Masks(config.neighbour_mask, grid, config.neighbour_size)
        xavier(self)

    def forward(self, features: Tensor, noise: Tensor | None = None) -> Reconstruction:
        """Reconstruct backbone features (B, C, H, W); see `jitter` for `noise`."""
        target = self.standardise(features)  # (B, C, H, W)
        tokens = tokens_of(target)  # (B, N, C)
        if self.training and self.config.jitter:
            tokens = jitter(tokens, self.config.jitter, noise)
        encoded, position = self.project_in(tokens), self.position()  # (B, N, D), (N, D)
        for layer in self.encoder:
            encoded = layer(encoded, position, self.masks.get("encoder"))
        out = encoded
        for layer, query in zip(self.decoder, self.queries):
            query = query.expand_as(encoded)  # (B, N, D)
            out = layer(
                query, encoded, out, position, self.masks.get("decoder_first"), self.masks.get("decoder_second")
            )
        out = map_of(self.project_out(self.norm(out)), target)  # (B, C, H, W)
        return reconstruction(out, target, kind=self.config.target)
