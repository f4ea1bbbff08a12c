"""The transformer layers that DuMeNet and UniAD share.

Shapes: B images, N tokens (H x W positions), C feature channels, D hidden size.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dumenet.config import sides
from dumenet.errors import DumenetError


class Reconstruction(NamedTuple):
    """What every model returns."""

    features: Tensor  # (B, C, H, W) reconstruction
    target: Tensor  # (B, C, H, W) what had to be reconstructed
    anomaly_map: Tensor  # (B, H, W) >= 0, L2 norm over channels of their difference
    channel_weights: Tensor | None = None  # (B, N, M) rows sum to 1: what each token read of the channel memory
    spatial_weights: Tensor | None = None  # (B, D, M) rows sum to 1: what each hidden map read of the spatial one

    @property
    def error(self) -> Tensor:
        """(B, C, H, W) target minus reconstruction: what `dumenet.score` measures the length of."""
        return self.target - self.features


def reconstruction(features: Tensor, target: Tensor, *weights: Tensor | None, kind: str = "raw") -> Reconstruction:
    """Bundle a reconstruction with its anomaly map, the L2 norm over channels (UniAD, eq. 6). `kind` is `model.target`:
    with "sigmoid" both sides pass through one, as in DuMeNet's released code."""
    if kind == "sigmoid":
        features, target = features.sigmoid(), target.sigmoid()
    return Reconstruction(features, target, (features - target).norm(dim=1), *weights)


class Standardise(nn.Module):
    """Subtract the mean and divide by the standard deviation of each channel of the training features.

    The statistics are buffers, so that a checkpoint carries them; as made, the module changes nothing.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))

    def fit(self, mean: Tensor, std: Tensor) -> None:
        """Take the statistics of the training features, (C, 1, 1) each."""
        self.mean.copy_(mean)
        self.std.copy_(std)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        return (x - self.mean) / self.std


class Attention(nn.Module):
    """Multi-head attention, softmax(q k^T / sqrt(d)) v (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, dim: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.drop = heads, nn.Dropout(dropout)
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, N, D / heads)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """All (B, N, D); `mask` (N, N) is True where attending is allowed."""
        q, k, v = self._split(self.query(query)), self._split(self.key(key)), self._split(self.value(value))
        if q.is_cuda:
            dropout = self.drop.p if self.training else 0.0
            read = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        else:  # torch's fused kernel is the slower one on the CPU
            scores = (q / q.shape[-1] ** 0.5) @ k.transpose(-2, -1)  # (B, heads, N, N)
            scores = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
            read = self.drop(scores.softmax(dim=-1)) @ v  # (B, heads, N, D / heads)
        return self.out(read.transpose(1, 2).flatten(2))  # (B, N, D)


def feed_forward(dim: int, ffn_dim: int, dropout: float) -> nn.Sequential:
    """The position-wise two-layer network of a transformer layer."""
    return nn.Sequential(nn.Linear(dim, ffn_dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(ffn_dim, dim))


class EncoderLayer(nn.Module):
    """Post-norm self-attention and feed-forward; positions are added to queries and keys only."""

    def __init__(self, dim: int, heads: int, ffn_dim: int, dropout: float):
        super().__init__()
        self.attention = Attention(dim, heads, dropout)
        self.ffn = feed_forward(dim, ffn_dim, dropout)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, position: Tensor, mask: Tensor | None) -> Tensor:
        """x (B, N, D), position (N, D)."""
        placed = x + position
        x = self.norm1(x + self.drop(self.attention(placed, placed, x, mask)))
        return self.norm2(x + self.drop(self.ffn(x)))


class DecoderLayer(nn.Module):
    """Post-norm: attend to `first`, then to `second`, then feed-forward.

    DuMeNet passes first = the layer's own input (self-attention), second = the memory read or the encoder.
    UniAD passes first = the encoder, second = the previous layer's output, and a fresh query as x.
    """

    def __init__(self, dim: int, heads: int, ffn_dim: int, dropout: float):
        super().__init__()
        self.attention1, self.attention2 = Attention(dim, heads, dropout), Attention(dim, heads, dropout)
        self.ffn = feed_forward(dim, ffn_dim, dropout)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))
        self.drop = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, first: Tensor, second: Tensor, position: Tensor, mask1: Tensor | None, mask2: Tensor | None
    ) -> Tensor:
        """x, first, second (B, N, D); position (N, D)."""
        x = self.norm1(x + self.drop(self.attention1(x + position, first + position, first, mask1)))
        x = self.norm2(x + self.drop(self.attention2(x + position, second + position, second, mask2)))
        return self.norm3(x + self.drop(self.ffn(x)))


class LearnedPosition(nn.Module):
    """One learned vector per row and one per column, concatenated (UniAD's `learned` embedding).

    Starts from N(0, 1), not UniAD's U(0, 1): the training loss falls sooner (docs/ARCHITECTURE.md).
    """

    def __init__(self, grid: int | tuple[int, int], dim: int):
        super().__init__()
        rows, columns = sides(grid)
        self.row = nn.Parameter(torch.randn(rows, dim // 2))
        self.column = nn.Parameter(torch.randn(columns, dim // 2))

    def forward(self) -> Tensor:
        """(N, D), row by row."""
        column = self.column.expand(len(self.row), -1, -1)  # (H, W, D / 2)
        row = self.row.unsqueeze(1).expand(-1, len(self.column), -1)  # (H, W, D / 2)
        return torch.cat([column, row], dim=-1).flatten(0, 1)  # (N, D)


def neighbour_mask(grid: int | tuple[int, int], size: int) -> Tensor:
    """(N, N) bool, True where token i may attend to token j: outside the size x size square around i.

    A token that cannot see itself or its neighbours cannot copy its input (UniAD, section 3.2).

    Raises:
        DumenetError: the square leaves some token nothing to attend to.
    """
    rows, columns = sides(grid)
    row, column = torch.arange(rows).repeat_interleave(columns), torch.arange(columns).repeat(rows)  # (N,), (N,)
    near = lambda x: (x[:, None] - x[None, :]).abs() <= size // 2  # noqa: E731
    allowed = ~(near(row) & near(column))  # (N, N)
    if not allowed.any(dim=1).all():
        raise DumenetError(
            f"A neighbour mask of {size} x {size} hides the whole {rows} x {columns} grid from a token: use a smaller "
            "one."
        )
    return allowed


def jitter(tokens: Tensor, scale: float, noise: Tensor | None = None) -> Tensor:
    """Noise in proportion to each token's own length: N(0, 1) * |token| / C * scale (UniAD, section 3.3).

    tokens (B, N, C) to the same shape; `noise` of that shape is drawn here if it is not given.
    """
    length = tokens.norm(dim=-1, keepdim=True) / tokens.shape[-1]  # (B, N, 1)
    noise = torch.randn(tokens.shape, device=tokens.device) if noise is None else noise
    return tokens + noise * length * scale


def xavier(model: nn.Module) -> None:
    """Xavier-uniform weights and zero biases in every linear layer, as the released code does.

    `nn.MultiheadAttention` starts query, key and value as one (3 D, D) matrix, so with 1 / sqrt(2) of the gain.
    """
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in model.modules():
        if isinstance(module, Attention):
            for linear in (module.query, module.key, module.value):
                nn.init.xavier_uniform_(linear.weight, gain=2**-0.5)


def tokens_of(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, N, C)."""
    return x.flatten(2).transpose(1, 2)


def map_of(tokens: Tensor, like: Tensor) -> Tensor:
    """(B, N, C) back to the (B, C, H, W) of `like`."""
    return tokens.transpose(1, 2).reshape(like.shape)
