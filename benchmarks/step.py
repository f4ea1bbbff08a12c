"""Images per second of one training step, and its share of what the machine's matrix product can do.

    python benchmarks/step.py --device cuda    # or without --device, on the CPU

At UniAD's size: hidden 256, 4 + 4 layers, dropout 0.1, 272 channels, 14 x 14, batch 8. The baseline is the same network
with torch's own attention, trained by AdamW; between the two stands our attention, trained by AdamW. Each trains in
fp32 and under bf16 autocast, its weights in fp32. The best round counts, like the matrix product's.
"""

import copy
from collections.abc import Callable

import torch
from report import TINY, arguments, in_turn, publish
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dumenet.config import make_config
from dumenet.models import build_model
from dumenet.models.layers import Attention
from dumenet.optimizer import make_optimizer

STAGES = (24, 32, 56, 160)
UNIAD = {
    "model__hidden_dim": 256, "model__encoder_layers": 4, "model__decoder_layers": 4, "model__heads": 8,
    "model__ffn_dim": 1024, "model__dropout": 0.1,
}  # fmt: skip
BASELINE = "torch's attention, AdamW (baseline)"
CANDIDATES = {BASELINE: "adamw", "our attention, AdamW": "adamw", "DuMeNet": "muon"}  # name: its optimizer
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class TorchAttention(nn.MultiheadAttention):
    """Torch's own attention, called as ours is: `mask` is True where attending is allowed."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        blocked = None if mask is None else ~mask
        return super().forward(query, key, value, attn_mask=blocked, need_weights=False)[0]


def with_torch_attention(model: nn.Module) -> nn.Module:
    """The model, with torch's attention in place of each of ours."""
    for name, module in list(model.named_modules()):
        if isinstance(module, Attention):
            width = module.out.in_features
            model.set_submodule(name, TorchAttention(width, module.heads, module.drop.p, batch_first=True))
    return model


def make_step(model: nn.Module, optimizer: str, x: Tensor, precision: str) -> Callable[[], float]:
    """A function that runs one whole training step, and waits for it."""
    changes = make_optimizer(model, optimizer, 1e-4, 1e-4)

    def step() -> float:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
            out = model(x)
            loss = nn.functional.mse_loss(out.features.float(), out.target.float())
        changes.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        changes.step()
        return loss.item()

    return step


def count_flops(step: Callable) -> int:
    """FLOPs of one step's matrix products, the optimizer's among them, counted by torch on the plain attention."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def main() -> None:
    args = arguments(__doc__, rounds=15, device="cpu")
    batch, grid, side = (1, 4, 64) if args.quick else (8, 14, 2048)
    torch.manual_seed(0)
    x = torch.randn(batch, sum(STAGES), grid, grid, device=args.device)
    start = build_model(make_config(**TINY if args.quick else UNIAD).model, STAGES, grid)
    jobs, flops = {}, {}
    for precision, kind in TYPES.items():
        square = torch.randn(side, side, device=args.device, dtype=kind)
        jobs["matrix product", precision] = lambda square=square: (square @ square)[0, 0].item()
        for name, optimizer in CANDIDATES.items():
            model = copy.deepcopy(start)
            model = with_torch_attention(model) if name == BASELINE else model
            step = make_step(model.to(args.device).train(), optimizer, x, precision)
            jobs[name, precision], flops[name, precision] = step, count_flops(step)
    seconds = in_turn(jobs, args.rounds)
    best = {key: min(values) for key, values in seconds.items()}
    rows = [
        {
            "model": name, "precision": precision, "images_per_second": batch / best[name, precision],
            "ratio_to_baseline": best[BASELINE, precision] / best[name, precision],
            "gflop_per_step": count / 1e9,
            "share_of_peak": count / best[name, precision] / (2 * side**3 / best["matrix product", precision]),
        }
        for (name, precision), count in flops.items()
    ]  # fmt: skip
    page = {p: (batch / best["DuMeNet", p], batch / best[BASELINE, p]) for p in TYPES}
    publish("step", page, rows, {", ".join(key): v for key, v in seconds.items()}, args.quick, args.device)


if __name__ == "__main__":
    main()
