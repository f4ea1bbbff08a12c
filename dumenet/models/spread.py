r"""The spread of reconstruction errors on normal images, and the length of a new error in its units.

The error at a grid position is the vector target minus reconstruction, :math:`e \in R^C`. Its length in units of what
is usual on normal images is :math:`\sqrt{e^T \Sigma^{-1} e}` (Mahalanobis 1936; for features instead of errors:
PaDiM, Defard et al. 2021). :math:`\Sigma = (S_p + \bar S) / 2` is one matrix for each category and position: the
second moment of errors there, their mean taken as 0, and its average over all positions of the category. A position
that hardly varies in training, as in a dark background, so keeps half of what is usual elsewhere.

Shapes: B images, N positions (H x W), C channels, R kept directions, K categories.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dumenet.config import sides
from dumenet.errors import DumenetError

RANK = 32  # directions of a position's own spread that are kept: more change no score


class Spread(nn.Module):
    r"""The spread of the errors on normal images, by category and position; measures a new error in its units.

    Errors are first whitened by the category's average, :math:`u = \bar S^{-1/2} e`, so that :math:`\Sigma` becomes
    :math:`(S'_p + I) / 2`. Of :math:`S'_p` the R leading directions :math:`v_j` are kept, which give :math:`\Sigma`
    the variances :math:`\lambda_j`, and the mean variance s of the others (as in probabilistic PCA, Tipping and
    Bishop 1999): :math:`e^T \Sigma^{-1} e = |u|^2 / s - \sum_j (1 / s - 1 / \lambda_j) (v_j^T u)^2`.

    Attributes:
        categories: their names, in the order of the buffers' rows.
    """

    def __init__(self, categories: Sequence[str], channels: int, grid: int | tuple[int, int]):
        super().__init__()
        self.categories, count, positions = tuple(categories), len(categories), math.prod(sides(grid))
        self.register_buffer("centres", torch.zeros(count, channels))  # mean target over images and positions
        self.register_buffer("whitening", torch.zeros(count, channels, channels))
        self.register_buffer("scales", torch.ones(count, positions))  # 1 / s
        self.register_buffer(
            "factors", torch.zeros(count, positions, min(RANK, channels), channels)
        )  # (1/s - 1/lambda_j)^0.5 v_j

    @property
    def megabytes(self) -> float:
        """In a checkpoint, in 10^6 bytes."""
        return sum(b.numel() * (2 if name == "factors" else 4) for name, b in self.named_buffers()) / 1e6

    def find(self, target: Tensor) -> Tensor:
        """Targets (B, C, H, W) to the category (B,) whose mean target is nearest to theirs."""
        return (target.mean((2, 3)).unsqueeze(1) - self.centres).square().sum(-1).argmin(1)

    def forward(self, error: Tensor, category: Tensor) -> Tensor:
        """Errors (B, C, H, W) of images of `category` (B,), int64, to their lengths (B, H, W)."""
        rows = error.flatten(2).transpose(1, 2) @ self.whitening[category]  # (B, N, C)
        if torch.compiler.is_compiling():  # an exported graph, which runs image by image
            own = self.factors if len(self.categories) == 1 else self.factors[category]  # which copies 5 MB
            inside = (own @ rows.unsqueeze(-1)).squeeze(-1)  # (B, N, R)
        else:  # reads each category's factors once
            inside = rows.new_empty(*rows.shape[:2], self.factors.shape[2])
            for k in category.unique().tolist():
                own = category == k
                inside[own] = (self.factors[k] @ rows[own].permute(1, 2, 0)).permute(2, 0, 1)
        squares = self.scales[category] * rows.square().sum(-1) - inside.square().sum(-1)  # (B, N)
        return squares.clamp_min(0).sqrt().unflatten(1, error.shape[2:])


def fit_spread(errors: Tensor, targets: Tensor, categories: Sequence[str]) -> tuple[Spread, Tensor]:
    """The spread of the errors of normal images, and nearly the length of each image's error under that of the others:
    the whitening still has seen the image, and all directions are kept.

    Args:
        errors: (n, C, H, W) target minus reconstruction.
        targets: (n, C) mean target of each image.
        categories: (n,) names.

    Returns:
        The spread, and leave-one-out lengths (n, H, W), in closed form (Sherman and Morrison 1950); of a category's
        only image 0.

    Raises:
        DumenetError: errors that are not finite.
    """
    if not torch.isfinite(errors).all():
        raise DumenetError("The errors of normal images are not finite: did training diverge? Lower train.lr.")
    channels, grid = errors.shape[1], tuple(errors.shape[2:])
    spread, lengths = Spread(sorted(set(categories)), channels, grid), torch.empty(len(errors), math.prod(grid))
    for k, name in enumerate(spread.categories):
        own = [i for i, c in enumerate(categories) if c == name]
        spread.centres[k] = targets[own].mean(0)
        rows, n = errors[own].float().flatten(2).permute(2, 0, 1), len(own)  # (N, n, C)
        spread.whitening[k] = _inverse_root(torch.einsum("pnc,pnd->cd", rows, rows) / rows[..., 0].numel())
        rows = rows @ spread.whitening[k]
        variances, directions = _principal(rows)  # (N, C) rising, (N, C, C)
        squares = (rows @ directions).square()  # (N, n, C)
        s, wide = _spectrum(variances)  # (N, 1), (N, R)
        weights = (1 / s - 1 / wide).clamp_min(0).sqrt()
        factors = directions[:, :, -wide.shape[1] :].transpose(1, 2) * weights.unsqueeze(-1)  # (N, R, C)
        spread.factors[k], spread.scales[k] = factors.half().float(), 1 / s[:, 0]  # as exact as a checkpoint holds them
        if n > 1:
            wide = (variances.clamp_min(0) * n / (n - 1) + 1) / 2  # as if the image were in it once more
            a = (squares / wide.unsqueeze(1)).sum(-1)  # (N, n), below 2 (n - 1)
            lengths[own] = (a / (1 - a / (2 * (n - 1))).clamp_min(1e-3)).sqrt().T
        else:
            lengths[own] = 0.0
    return spread, lengths.view(-1, *grid)


def _inverse_root(moment: Tensor) -> Tensor:
    """The inverse square root of (C, C), no direction narrower than a thousandth of the mean."""
    variances, directions = torch.linalg.eigh(moment.double())
    narrow = variances.mean() / 1000 + 1e-12
    return ((directions / variances.clamp_min(narrow).sqrt()) @ directions.T).float()


def _principal(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Of rows (N, n, C) the variances (N, C), rising, and the directions (N, C, C) along which they have them.

    Few rows vary along n directions at most, which their (n, n) products give much sooner; all other
    variances are 0, and their directions are left 0.
    """
    n, channels = rows.shape[1:]
    if 2 * n >= channels:
        return torch.linalg.eigh(rows.transpose(1, 2) @ rows / n)
    variances, mixed = torch.linalg.eigh(rows @ rows.transpose(1, 2) / n)  # (N, n), (N, n, n)
    kept = variances > 1e-6 * variances[:, -1:]  # the others are rounding: of equal images, or of errors without a mean
    scale = torch.where(kept, (n * variances.clamp_min(1e-12)).rsqrt(), 0).unsqueeze(1)
    directions = rows.transpose(1, 2) @ mixed * scale  # (N, C, n)
    return F.pad(variances, (channels - n, 0)), F.pad(directions, (channels - n, 0))


def _spectrum(variances: Tensor) -> tuple[Tensor, Tensor]:
    """Rising variances (N, C) of a position's own spread to s (N, 1) and the kept lambda_j (N, R) of half of it and
    half of I.
    """
    wide, rank = (variances.clamp_min(0) + 1) / 2, min(RANK, variances.shape[1])
    rest = wide[:, : variances.shape[1] - rank]
    return (rest.mean(1, keepdim=True) if rest.shape[1] else wide[:, :1]), wide[:, -rank:]
