"""What changes the weights after each batch: AdamW, or Muon for the linear layers and AdamW for all else."""

from collections.abc import Callable

import torch
from timm.optim.muon import zeropower_via_newtonschulz
from torch import Tensor, nn

NEWTON_SCHULZ = [(3.4445, -4.7750, 2.0315)] * 5  # the quintic iteration of Jordan et al.
MATRIX_RATE = 20.0  # learning rate of the matrices over that of all else


def orthogonal(matrices: Tensor, bf16: bool = False) -> Tensor:
    """Matrices (n, rows, columns) with all singular values near 1 and the singular vectors that they had."""
    kind = torch.bfloat16 if bf16 else torch.float32
    return zeropower_via_newtonschulz(matrices, 5, NEWTON_SCHULZ, dtype=kind).to(matrices.dtype)


def make_optimizer(
    model: nn.Module, name: str, lr: float, weight_decay: float, bf16: bool = False
) -> torch.optim.Optimizer:
    """The optimizer `name`, "adamw" or "muon", for all parameters of `model`; `bf16` where that is fast, for Muon."""
    if name == "adamw":
        return torch.optim.AdamW(model.parameters(), lr, weight_decay=weight_decay)
    matrices = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    others = [p for p in model.parameters() if all(p is not m for m in matrices)]
    return Muon(matrices, others, lr, weight_decay, bf16)


class Muon(torch.optim.AdamW):
    """Muon: the momentum of a matrix, made orthogonal, is its step, so that all its directions are learned at one pace
    (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/).

    timm and torch have it too, but always compute it in bf16: on a processor without it a step of this network then
    takes five times as long. timm's iteration is used here, for all matrices of one shape at once.

    Args:
        matrices: weights (out, in) of linear layers, stepped by Muon at `MATRIX_RATE` times `lr`.
        others: stepped by AdamW.
        bf16: make the momentum orthogonal in bf16, as its authors do, and not in fp32.
    """

    def __init__(
        self, matrices: list[Tensor], others: list[Tensor], lr: float, weight_decay: float, bf16: bool = False
    ):
        self.bf16 = bf16
        groups = [{"params": others}, {"params": matrices, "lr": lr * MATRIX_RATE, "momentum": 0.95}]
        super().__init__([g for g in groups if g["params"]], lr, weight_decay=weight_decay, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """One step of every parameter that has a gradient; one at least must have."""
        groups = self.param_groups
        self.param_groups = [g for g in groups if "momentum" not in g]
        super().step()
        self.param_groups = groups
        for group in groups:
            if "momentum" in group:
                self._step_matrices(group)

    def _step_matrices(self, group: dict) -> None:
        taught = [p for p in group["params"] if p.grad is not None]
        gradients, momenta = [p.grad for p in taught], []
        for p in taught:
            state = self.state[p]
            if not state:  # "step" is for the loader of AdamW's states
                state.update(step=torch.zeros(()), momentum=torch.zeros_like(p))
            momenta.append(state["momentum"])
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, momenta, group["momentum"])  # Nesterov
        shapes: dict[torch.Size, list[int]] = {}
        for i, p in enumerate(taught):
            shapes.setdefault(p.shape, []).append(i)
        torch._foreach_mul_(taught, 1 - group["lr"] * group["weight_decay"])
        for (rows, columns), same in shapes.items():
            steps = orthogonal(torch.stack([ahead[i] for i in same]), self.bf16)
            rate = group["lr"] * max(1, rows / columns) ** 0.5
            torch._foreach_add_([taught[i] for i in same], list(steps.unbind()), alpha=-rate)
