"""The two memories: normal patterns as slots, read by similarity.

Shapes: B images, N tokens (H x W positions), D hidden size, M memory slots.
A read is a convex combination of slots, so what no slot resembles cannot be passed on as it is.
"""

import math

import torch
from torch import Tensor, nn

from dumenet.config import sides

C1, C2 = 0.01, 0.03  # the release's SSIM constants; not squared, as in its code


def ssim(a: Tensor, b: Tensor) -> Tensor:
    r"""Global-statistics SSIM of every row of `a` with every row of `b`.

    .. math:: \frac{(2\mu_a\mu_b + c_1)(2\sigma_{ab} + c_2)}{(\mu_a^2 + \mu_b^2 + c_1)(\sigma_a^2 + \sigma_b^2 + c_2)}

    with unbiased (co)variances: one window as large as the map (Wang et al. 2004, eq. 13).

    Args:
        a: (K, N) flattened maps.
        b: (M, N) flattened maps.

    Returns:
        (K, M), in [-1, 1] up to rounding; 1 for equal maps.

    >>> ramp = torch.arange(4.0)[None]
    >>> [round(ssim(ramp, other).item(), 2) for other in (ramp, ramp.flip(1), ramp + 3)]  # alike, reversed, brighter
    [1.0, -0.98, 0.6]
    """
    mean_a, mean_b = a.mean(1, keepdim=True), b.mean(1, keepdim=True)  # (K, 1), (M, 1)
    a, b = a - mean_a, b - mean_b
    variance_a = a.square().sum(1, keepdim=True) / (a.shape[1] - 1)  # (K, 1)
    variance_b = b.square().sum(1, keepdim=True) / (b.shape[1] - 1)  # (M, 1)
    covariance = a @ b.T / (a.shape[1] - 1)  # (K, M)
    luminance = (2 * mean_a * mean_b.T + C1) / (mean_a**2 + mean_b.T**2 + C1)  # (K, M)
    return luminance * (2 * covariance + C2) / (variance_a + variance_b.T + C2)


class ChannelMemory(nn.Module):
    r"""M slots in R^D, read by each token: :math:`w = softmax(W_q x (W_k m)^T / \sqrt D)`, read :math:`w W_v m`.

    Paper page, "channel-wise feature level"; released `ChannelMemoryModule`.

    >>> read, weights = ChannelMemory(slots=5, dim=8)(torch.zeros(2, 196, 8))
    >>> read.shape, weights.shape, weights.var() < 1e-9  # tokens of zeros read all slots alike
    (torch.Size([2, 196, 8]), torch.Size([2, 196, 5]), tensor(True))
    """

    def __init__(self, slots: int, dim: int):
        super().__init__()
        self.slots = nn.Parameter(torch.randn(slots, dim) * 0.1)
        self.query, self.key, self.value = (nn.Linear(dim, dim, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, N, D); returns the read (B, N, D) and the weights (B, N, M), which sum to 1 over slots."""
        similarity = self.query(x) @ self.key(self.slots).T / x.shape[-1] ** 0.5  # (B, N, M)
        weights = similarity.softmax(dim=-1)
        return weights @ self.value(self.slots), weights


class SpatialMemory(nn.Module):
    """M slots of H x W, read by each hidden channel's map: weights = softmax(SSIM(Wq map, Wk slot)).

    With similarity "dot" it is the scaled dot product of the channel memory instead, to see what SSIM is good for.

    Paper page, "spatial structural level"; released `SpatialMemoryModule`. Two layouts:

    - ``map``: one map per (image, hidden channel), as the paper describes.
    - ``released``: the (N, B, D) tensor *viewed* as rows of N without a permutation, as the released code
      does. A row then runs across tokens, images and channels, so an image's read depends on its batch.

    >>> read, weights = SpatialMemory(slots=5, grid=14)(torch.randn(2, 196, 8))
    >>> read.shape, weights.shape
    (torch.Size([2, 196, 8]), torch.Size([2, 8, 5]))
    """

    def __init__(self, slots: int, grid: int | tuple[int, int], layout: str = "map", similarity: str = "ssim"):
        super().__init__()
        self.layout, self.similarity = layout, similarity
        positions = math.prod(sides(grid))  # N
        self.slots = nn.Parameter(torch.randn(slots, positions) * 0.1)
        self.query, self.key, self.value = (nn.Linear(positions, positions, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, N, D); returns the read (B, N, D) and the weights (B, D, M), which sum to 1 over slots."""
        B, N, D = x.shape
        if self.layout == "map":
            rows = x.transpose(1, 2).reshape(B * D, N)  # one row: one hidden channel of one image
        else:
            rows = x.transpose(0, 1).reshape(D * B, N)  # one row: N consecutive numbers of (N, B, D)
        query, key = self.query(rows), self.key(self.slots)
        alike = ssim(query, key) if self.similarity == "ssim" else query @ key.T / N**0.5
        weights = alike.softmax(dim=-1)  # (B * D, M)
        read = weights @ self.value(self.slots)  # (B * D, N)
        if self.layout == "map":
            return read.view(B, D, N).transpose(1, 2), weights.view(B, D, -1)
        return read.view(D, B, N).permute(1, 2, 0), weights.view(D, B, -1).transpose(0, 1)


class Fusion(nn.Module):
    """Join the two reads into one (B, N, D). Modes as in the paper page's configuration, and two of the release's."""

    def __init__(self, mode: str, dim: int):
        super().__init__()
        self.mode = mode
        if mode in ("concat", "gate"):
            self.linear = nn.Linear(2 * dim, dim)
        elif mode == "add_linear":
            self.linear = nn.Linear(dim, dim)
        elif mode == "weighted_sum":
            self.alpha = nn.Parameter(torch.tensor(0.5))
        elif mode == "attention":  # promised by the release, which raises an error for it
            self.query, self.key = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)

    def forward(self, token: Tensor, channel: Tensor, spatial: Tensor) -> Tensor:
        """token: the encoder's output; channel, spatial: the two reads; all (B, N, D)."""
        if self.mode == "concat":
            return self.linear(torch.cat([channel, spatial], dim=-1))
        if self.mode == "add":
            return channel + spatial
        if self.mode == "multiply":
            return channel * spatial
        if self.mode == "add_linear":
            return self.linear(channel + spatial)
        if self.mode == "weighted_sum":
            return self.alpha * channel + (1 - self.alpha) * spatial
        if self.mode == "gate":
            gate = torch.sigmoid(self.linear(torch.cat([channel, spatial], dim=-1)))  # (B, N, D)
            return gate * channel + (1 - gate) * spatial
        reads = torch.stack([channel, spatial], dim=2)  # (B, N, 2, D)
        similarity = (self.key(reads) @ self.query(token).unsqueeze(-1)).squeeze(-1)  # (B, N, 2)
        weights = (similarity / token.shape[-1] ** 0.5).softmax(dim=-1)
        return (weights.unsqueeze(-1) * reads).sum(dim=2)
