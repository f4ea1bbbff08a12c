"""Images per second of one training step, and its share of what the machine's matrix product can do.

    python benchmarks/step.py            # writes data/results/bench-step.json and benchmarks/RESULTS.md

Setting: hidden 256, 4 + 4 layers, 272 channels, 14 x 14, batch 8, neighbour mask in all three attentions for UniAD.
The baseline is UniAD's published structure written with `nn.MultiheadAttention`, its mask rebuilt and its positions
repeated in every step, as its code does. The candidates take turns, so that a drift of the machine hits all alike.
"""

import argparse
import re
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dumenet.config import make_config
from dumenet.models import build_model
from dumenet.results import machine, write_atomic, write_result

ROOT = Path(__file__).parents[1]
STAGES, GRID, D, BATCH = (24, 32, 56, 160), 14, 256, 8
MASKED = ["encoder", "decoder_first", "decoder_second"]


class PlainUniAD(nn.Module):
    """The baseline: tokens first, `nn.MultiheadAttention`, nothing reused between steps."""

    def __init__(self):
        super().__init__()
        c = sum(STAGES)
        attention = lambda: nn.MultiheadAttention(D, 8, dropout=0.1)  # noqa: E731
        ffn = lambda: nn.Sequential(nn.Linear(D, 1024), nn.ReLU(), nn.Dropout(0.1), nn.Linear(1024, D))  # noqa: E731
        norms = lambda n: nn.ModuleList(nn.LayerNorm(D) for _ in range(n))  # noqa: E731
        self.project_in, self.project_out, self.norm = nn.Linear(c, D), nn.Linear(D, c), nn.LayerNorm(D)
        self.row, self.column = nn.Embedding(GRID, D // 2), nn.Embedding(GRID, D // 2)
        self.encoder = nn.ModuleList(nn.ModuleDict({"a": attention(), "f": ffn(), "n": norms(2)}) for _ in range(4))
        self.decoder = nn.ModuleList(
            nn.ModuleDict({"a": attention(), "b": attention(), "f": ffn(), "n": norms(3), "q": nn.Embedding(GRID**2, D)})
            for _ in range(4)
        )
        self.drop = nn.Dropout(0.1)

    def mask(self) -> Tensor:
        mask = torch.zeros(GRID, GRID, GRID, GRID)
        for i in range(GRID):
            for j in range(GRID):
                mask[i, j, max(i - 3, 0) : i + 4, max(j - 3, 0) : j + 4] = float("-inf")
        return mask.view(GRID**2, GRID**2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) to reconstruction and target."""
        tokens = x.flatten(2).permute(2, 0, 1)  # (N, B, C)
        tokens = tokens + torch.randn_like(tokens) * tokens.norm(dim=2, keepdim=True) / tokens.shape[2] * 20
        index = torch.arange(GRID)
        column = self.column(index).repeat(GRID, 1, 1)  # (H, W, D / 2)
        row = self.row(index).unsqueeze(1).repeat(1, GRID, 1)  # (H, W, D / 2)
        pos = torch.cat([column, row], -1).flatten(0, 1)  # (N, D)
        pos = torch.cat([pos.unsqueeze(1)] * x.shape[0], dim=1)  # (N, B, D)
        mask, h = self.mask().to(x.device), self.project_in(tokens)
        for layer in self.encoder:
            h = layer["n"][0](h + self.drop(layer["a"](h + pos, h + pos, h, attn_mask=mask)[0]))
            h = layer["n"][1](h + self.drop(layer["f"](h)))
        out = h
        for layer in self.decoder:
            q = torch.cat([layer["q"].weight.unsqueeze(1)] * x.shape[0], dim=1)  # (N, B, D)
            q = layer["n"][0](q + self.drop(layer["a"](q + pos, h + pos, h, attn_mask=mask)[0]))
            q = layer["n"][1](q + self.drop(layer["b"](q + pos, out + pos, out, attn_mask=mask)[0]))
            out = layer["n"][2](q + self.drop(layer["f"](q)))
        out = self.project_out(self.norm(out)).permute(1, 2, 0).reshape(x.shape)
        return out, x


def make_step(model: nn.Module, x: Tensor):
    """A function that runs one whole training step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        out, target = model(x)[:2]
        optimizer.zero_grad(set_to_none=True)
        nn.functional.mse_loss(out, target).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()

    return step


def count_flops(step) -> int:
    """Matrix-product FLOPs of one step, forward and backward, counted by torch on the plain attention kernel."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def timed(function, device: torch.device) -> float:
    """Seconds of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    device = torch.device(args.device)
    torch.manual_seed(0)
    x = torch.randn(BATCH, sum(STAGES), GRID, GRID, device=device)
    settings = {
        "UniAD": {"model__name": "uniad", "model__neighbour_mask": MASKED},
        "DuMeNet": {},
        "DuMeNet, no memory": {"model__memory_mode": "none"},
    }
    models = {"UniAD, plain (baseline)": PlainUniAD()}
    for name, options in settings.items():
        models[name] = build_model(make_config(model__hidden_dim=D, **options).model, STAGES, GRID)
    steps = {name: make_step(model.to(device).train(), x) for name, model in models.items()}
    flops = {name: count_flops(step) for name, step in steps.items()}
    a = torch.randn(2048, 2048, device=device)
    jobs = {"matrix product": lambda: a @ a, **steps}
    seconds = {name: [] for name in jobs}
    for round_ in range(args.rounds + 2):
        for name, job in jobs.items():
            value = timed(job, device)
            if round_ >= 2:  # two rounds to warm up
                seconds[name].append(value)
    peak = 2 * 2048**3 / min(seconds["matrix product"])  # FLOP/s
    base = statistics.median(seconds["UniAD, plain (baseline)"])
    rows = [
        {
            "model": name, "images_per_second": round(BATCH / statistics.median(seconds[name]), 2),
            "ratio_to_baseline": round(base / statistics.median(seconds[name]), 2), "gflop_per_step": round(flops[name] / 1e9, 1),
            "share_of_peak": round(flops[name] / statistics.median(seconds[name]) / peak, 2),
            "parameters": sum(p.numel() for p in models[name].parameters()),
        }
        for name in steps
    ]  # fmt: skip
    record = {
        "name": "bench-step", "command": f"python benchmarks/step.py --device {args.device} --rounds {args.rounds}",
        "peak_gflop_per_second": round(peak / 1e9, 1), "rows": rows, "seconds": seconds, "machine": machine(),
    }  # fmt: skip
    write_result(ROOT / "data" / "results" / "bench-step.json", record)
    cpu = record["machine"]["cpu"]
    lines = [
        "# Benchmarks", "", "## One training step", "",
        f"`{record['command']}`, medians of {args.rounds} rounds in turn; matrix product of 2048 x 2048 at best "
        f"{record['peak_gflop_per_second']:.0f} GFLOP/s; {cpu}, {torch.get_num_threads()} threads, torch {torch.__version__}. "
        "Raw seconds: `data/results/bench-step.json`.", "",
        "| model | images/s | ratio to baseline | GFLOP a step | share of peak | parameters |", "|---|---|---|---|---|---|",
        *(
            f"| {r['model']} | {r['images_per_second']} | {r['ratio_to_baseline']} | {r['gflop_per_step']} | "
            f"{r['share_of_peak']:.0%} | {r['parameters']:,} |"
            for r in rows
        ),
        "",
    ]  # fmt: skip
    text, path = "\n".join(lines), ROOT / "benchmarks" / "RESULTS.md"
    parts = re.split(r"(?m)^(?=## )", path.read_text())[1:] if path.exists() else []
    others = [f"\n{p.rstrip()}\n" for p in parts if not p.startswith("## One training step\n")]  # of other benchmarks
    write_atomic(path, (text + "".join(others)).encode())
    print(text)


if __name__ == "__main__":
    main()
