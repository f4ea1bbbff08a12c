"""Images per second of one training step, and its share of what the machine's matrix product can do.

    python benchmarks/step.py            # writes data/results/bench-step.json and its section of benchmarks/RESULTS.md
    python benchmarks/step.py --device cuda    # on a GPU, into a results file and a section of its own
    python benchmarks/step.py --quick    # a try, one round: prints, writes nothing

Setting: hidden 256, 4 + 4 layers, 272 channels, 14 x 14, batch 8, neighbour mask in all three attentions for UniAD.
The baseline is UniAD's published structure written with `nn.MultiheadAttention`, its mask rebuilt and its positions
repeated in every step, as its code does. Each candidate trains in fp32 and under bf16 autocast, its weights in fp32.
"""

import argparse
import copy
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from report import in_turn, named, publish, where
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode

from dumenet.config import TrainConfig, make_config
from dumenet.models import build_model
from dumenet.optimizer import make_optimizer

NAME, TITLE = "bench-step", "One training step"
STAGES, GRID, D, BATCH = (24, 32, 56, 160), 14, 256, 8
MASKED = ["encoder", "decoder_first", "decoder_second"]
BASELINE = "UniAD, plain (baseline)"
PUBLISHED = {  # sizes
    "model__hidden_dim": D, "model__encoder_layers": 4, "model__decoder_layers": 4, "model__heads": 8,
    "model__ffn_dim": 1024, "model__dropout": 0.1,
}  # fmt: skip
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SIZE, PROFILED = 2048, 3  # of the matrix product; steps
TIMES, SHARE = 2.0, 0.6  # the aim: images/s of the baseline, share of the matrix product's peak
CLASSES = {  # of operators, by a part of their name; the first that fits
    "matrix products": ("::mm", "::addmm", "::bmm", "::baddbmm"),
    "attention: softmax, masks": ("softmax", "scaled_dot_product", "::where", "::all", "::isneginf", "::masked_fill"),
    "dropout": ("::bernoulli_", "::random_", "::ge", "::mul_", "::div_"),
    "layer norms": ("layer_norm",),
    "copies and conversions": ("::copy_", "::cat"),
    "sums, ReLU and the like": ("::add", "::mul", "::div", "::sum", "::clamp_min", "::relu", "::threshold", "::fill_"),
}


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
            nn.ModuleDict(
                {"a": attention(), "b": attention(), "f": ffn(), "n": norms(3), "q": nn.Embedding(GRID**2, D)}
            )
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


def make_step(model: nn.Module, x: Tensor, precision: str) -> Callable[[], float]:
    """A function that runs one whole training step and returns its loss: the baseline's with AdamW, as published, ours
    with the optimizer that `dumenet.train` takes.
    """
    name = "adamw" if isinstance(model, PlainUniAD) else TrainConfig().optimizer
    optimizer = make_optimizer(model, name, 1e-4, 1e-4)

    def step() -> float:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
            out, target = model(x)[:2]
            loss = nn.functional.mse_loss(out.float(), target.float())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        with record_function("optimiser"):
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
        return loss.item()  # waits for the device

    return step


def count_flops(step: Callable) -> int:
    """Matrix-product FLOPs of one step, forward and backward, counted by torch on the plain attention kernel."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def profiled(step: Callable) -> dict[str, float]:
    """Share of a step's time on the CPU by class of operators; products of two tensors of one shape are dropout's."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        for _ in range(PROFILED):
            step()
    spent: Counter[str] = Counter()
    for event in seen.events():
        above, shapes = event, [s for s in event.input_shapes or [] if s]
        while above and above.name != "optimiser":
            above = above.cpu_parent
        if above:
            name = "optimiser"
        elif event.name == "aten::mul" and len(shapes) == 2 and shapes[0] == shapes[1]:
            name = "dropout"
        else:
            name = next((n for n, parts in CLASSES.items() if any(p in event.name for p in parts)), "other")
        spent[name] += event.self_cpu_time_total
    return {name: round(spent[name] / spent.total(), 3) for name in (*CLASSES, "optimiser", "other")}


@torch.no_grad()
def bf16_error(model: nn.Module, x: Tensor) -> float:
    """Largest difference that bf16 makes to the anomaly map of the same weights, in shares of its largest value."""
    model = copy.deepcopy(model).eval()
    exact = model(x).anomaly_map
    with torch.autocast(x.device.type, torch.bfloat16):
        rough = model(x).anomaly_map.float()
    return ((rough - exact).abs().max() / exact.max()).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=0, help="of the CPU; 0: torch's own number")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    rounds, size, batch = (1, 256, 1) if args.quick else (args.rounds, SIZE, BATCH)
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    torch.manual_seed(0)
    x = torch.randn(batch, sum(STAGES), GRID, GRID, device=device)
    settings = {
        "UniAD": {"model__name": "uniad", "model__neighbour_mask": MASKED},
        "DuMeNet": {},
        "DuMeNet, no memory": {"model__memory_mode": "none"},
    }
    start = {BASELINE: PlainUniAD()}
    for name, options in settings.items():
        start[name] = build_model(make_config(**PUBLISHED, **options).model, STAGES, GRID)
    models, steps = {}, {}
    for precision in TYPES:
        for name, model in start.items():
            models[name, precision] = copy.deepcopy(model).to(device).train()
            steps[name, precision] = make_step(models[name, precision], x, precision)
    flops = {name: count_flops(make_step(model.to(device).train(), x, "fp32")) for name, model in start.items()}
    squares = {precision: torch.randn(size, size, device=device, dtype=type_) for precision, type_ in TYPES.items()}
    products = {("matrix product", p): lambda a=a: (a @ a)[0, 0].item() for p, a in squares.items()}
    losses: dict[Any, list[float]] = {key: [] for key in steps}
    jobs = {key: lambda key=key: losses[key].append(steps[key]()) for key in steps}
    seconds = in_turn({**products, **jobs}, rounds, warm_up=1)
    peak = {p: 2 * size**3 / min(seconds["matrix product", p]) for p in TYPES}  # FLOP/s
    best = {key: min(seconds[key]) for key in steps}  # like the peak; a machine is not always alone with this
    base = best[BASELINE, "fp32"]
    rows = []
    for (name, precision), took in best.items():
        row = {
            "model": name, "precision": precision, "images_per_second": round(batch / took, 2),
            "ratio_to_baseline": round(base / took, 2), "gflop_per_step": round(flops[name] / 1e9, 1),
            "share_of_peak": round(flops[name] / took / peak[precision], 3),
            "loss": round(losses[name, precision][-1], 4),
            "parameters": sum(p.numel() for p in models[name, precision].parameters()),
        }  # fmt: skip
        rows.append(row)
    errors = {name: round(bf16_error(models[name, "bf16"], x), 4) for name in settings}
    record = {
        "command": " ".join(["python benchmarks/step.py", *sys.argv[1:]]),
        "peak_gflop_per_second": {p: round(value / 1e9, 1) for p, value in peak.items()},
        "rows": rows, "bf16_error": errors,
        "seconds": {", ".join(key): values for key, values in seconds.items()},
    }  # fmt: skip
    if device.type == "cpu":
        chosen = [(BASELINE, "fp32"), ("UniAD", "fp32"), ("DuMeNet", "fp32"), (BASELINE, "bf16"), ("DuMeNet", "bf16")]
        chosen = chosen[:1] if args.quick else chosen
        record["profile"] = {", ".join(key): profiled(steps[key]) for key in chosen}
    name, title = named(NAME, TITLE, args.device)
    publish(name, title, record, in_words(where(name, args.device), record, rounds, size), args.quick, args.device)


def in_words(machine: str, record: dict[str, Any], rounds: int, size: int) -> list[str]:
    """The lines of the section in RESULTS.md."""
    rows, peak = record["rows"], record["peak_gflop_per_second"]
    met = lambda key, aim: [f"{r['model']} in {r['precision']}" for r in rows if r[key] >= aim]  # noqa: E731
    fast, full = met("ratio_to_baseline", TIMES), met("share_of_peak", SHARE)
    errors = ", ".join(f"{model} {error:.1%}" for model, error in record["bf16_error"].items())
    lines = [
        f"`{record['command']}`, the best of {rounds} rounds in turn; {machine} A matrix product of {size} x {size} "
        f"reaches at best {peak['fp32']:.0f} GFLOP/s in fp32 and {peak['bf16']:.0f} in bf16. The aims are {TIMES:g} times the baseline's "
        f"images/s, met by {', '.join(fast) or 'none'}; and {SHARE:.0%} of the peak in the same precision, met by "
        f"{', '.join(full) or 'none'}.", "",
        "| model | precision | images/s | ratio to baseline | GFLOP a step | share of peak | last loss | parameters |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {r['model']} | {r['precision']} | {r['images_per_second']} | {r['ratio_to_baseline']} | "
            f"{r['gflop_per_step']} | {r['share_of_peak']:.0%} | {r['loss']} | {r['parameters']:,} |"
            for r in rows
        ),
        "", "The ratio is to the baseline in fp32; the losses are after the same number of steps. What bf16 changes at most in "
        f"an anomaly map, the weights being the same, in shares of the map's largest value: {errors}.", "",
    ]  # fmt: skip
    if "profile" in record:
        shares = record["profile"]
        lines += [
            "", f"Where a step's time goes, from the profile of {PROFILED} steps:", "",
            "| operators | " + " | ".join(shares) + " |", "|---" * (len(shares) + 1) + "|",
            *(
                f"| {kind} | " + " | ".join(f"{share[kind]:.0%}" for share in shares.values()) + " |"
                for kind in next(iter(shares.values()))
            ),
        ]  # fmt: skip
    return lines


if __name__ == "__main__":
    main()
