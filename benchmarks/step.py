"""Training of the default network beside that of the default before it: images per second, seconds to the same error.

    python benchmarks/step.py                  # in the precision that `train.precision` "auto" picks
    python benchmarks/step.py --device cuda

The default before: 2 + 2 layers, 8 heads, FFN 1,024, torch's own attention, AdamW, in fp32; it is run in the precision
of ours as well. All train on the same normal images of the generated factory, in turn, so many steps a round; after
each round the mean square of the error that is left on held-out normal images is taken, unclocked. `share of peak` is
of the best rate of this machine's own matrix product in that precision.
"""

import tempfile
import time
from pathlib import Path

import torch
from report import TINY, arguments, publish
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dumenet.checkpoint import Trained
from dumenet.config import Config, make_config
from dumenet.data import make_factory, open_dataset
from dumenet.features import Backbone, Features, extract
from dumenet.models import build_model
from dumenet.models.layers import Attention
from dumenet.optimizer import make_optimizer
from dumenet.parallel import Processes
from dumenet.train import make_schedule, one_epoch, pick_precision, split_holdout

BEFORE = {
    "model__encoder_layers": 2, "model__decoder_layers": 2, "model__heads": 8, "model__ffn_dim": 1024,
    "train__optimizer": "adamw",
}  # fmt: skip
BASELINE = "the default before (baseline)"
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class TorchAttention(nn.MultiheadAttention):
    """Torch's own attention, called as ours is: `mask` is True where attending is allowed."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        blocked = None if mask is None else ~mask
        return super().forward(query, key, value, attn_mask=blocked, need_weights=False)[0]


class Contender:
    """One network in training."""

    def __init__(self, config: Config, channels: tuple[int, ...], features: Features, own: bool, steps: int):
        torch.manual_seed(0)
        model = build_model(config.model, channels, config.features.grid)
        for name, module in [] if own else list(model.named_modules()):
            if isinstance(module, Attention):
                width = module.out.in_features
                model.set_submodule(name, TorchAttention(width, module.heads, 0.0, batch_first=True))
        model.standardise.fit(*features.channel_statistics())
        self.processes = Processes(torch.device(config.train.device), config, sum(channels))
        self.trained = Trained(
            config, model.to(config.train.device), channels, origin={"precision": config.train.precision}
        )
        t = config.train
        self.optimizer = make_optimizer(model, t.optimizer, t.lr, t.weight_decay, t.precision == "bf16")
        self.schedule = make_schedule(self.optimizer, config.train, steps, steps)
        self.features, self.seconds, self.errors = features, [], []

    def train(self, order: tuple[Tensor, ...]) -> None:
        """A step for each batch."""
        one_epoch(self.trained, self.trained.model, self.features, order, self.optimizer, self.schedule, self.processes)

    @torch.no_grad()
    def error(self, held: Features) -> float:
        """Mean square of what is left on held-out normal images."""
        device = self.trained.config.train.device
        return sum(
            self.trained.model(b.to(device)).error.square().mean().item() * len(b) for b in held.batches(32)
        ) / len(held)


def best_product(device: str, kind: torch.dtype, side: int) -> float:
    """FLOPs a second of this machine's matrix product."""
    square, best = torch.randn(side, side, device=device, dtype=kind), 1e9
    for _ in range(10):
        start = time.perf_counter()
        (square @ square)[0, 0].item()
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def main() -> None:
    args = arguments(__doc__, rounds=24, steps=25, device="cpu")
    small, count = (TINY, 4) if args.quick else ({}, 60)
    steps, side = (1, 64) if args.quick else (args.steps, 2048)
    auto = pick_precision("auto", torch.device(args.device))
    kinds = {BASELINE: (BEFORE, "fp32"), f"the same in {auto}": (BEFORE, auto), "DuMeNet": ({}, auto)}
    if auto == "fp32":
        del kinds["the same in fp32"]
    with tempfile.TemporaryDirectory() as folder:
        data = make_factory(Path(folder, "data"), train=count, test_good=0, per_defect=0)
        config = make_config(**small)
        backbone = Backbone(config.features)
        every = extract(open_dataset(data).train, backbone, Path(folder, "cache"), progress=False)
        kept, held = split_holdout(every, 0.2, 0)
        contenders = {}
        for name, (changed, precision) in kinds.items():
            own = make_config(**small | changed, train__precision=precision, train__device=args.device)
            contenders[name] = Contender(own, backbone.stage_channels, kept, not changed, args.rounds * steps)
        flops = {}
        for name, contender in contenders.items():
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                contender.trained.model(kept.batch(range(8)).to(args.device)).features.sum().backward()
            flops[name] = counter.get_total_flops() / min(8, len(kept))
        for _ in range(args.rounds):
            order = tuple(torch.randint(len(kept), (config.train.batch_size,)) for _ in range(steps))
            for contender in contenders.values():
                start = time.perf_counter()
                contender.train(order)
                contender.seconds.append(time.perf_counter() - start)
                contender.errors.append(contender.error(held))
    baseline, rows, needed = contenders[BASELINE], [], {}
    peak = {kind: best_product(args.device, TYPES[kind], side) for kind in TYPES}
    for name, c in contenders.items():
        reached = next((i + 1 for i, e in enumerate(c.errors) if e <= baseline.errors[-1]), len(c.errors))
        speed, needed[name] = (
            steps * config.train.batch_size / sorted(c.seconds)[len(c.seconds) // 2],
            sum(c.seconds[:reached]),
        )
        rows.append({
            "network": name, "precision": c.trained.config.train.precision, "images_per_second": speed,
            "ratio": sum(baseline.seconds) / sum(c.seconds),
            "share_of_peak": speed * flops[name] / peak[c.trained.config.train.precision],
            "error_left": c.errors[-1], "seconds_to_the_baselines_error": needed[name],
        })  # fmt: skip
    first, last = rows[0], rows[-1]
    page = {"speed": (last["images_per_second"], first["images_per_second"])}
    page["error"] = tuple(row["seconds_to_the_baselines_error"] for row in (last, first))
    publish(
        "step",
        page,
        rows,
        {k: {"seconds": c.seconds, "errors": c.errors} for k, c in contenders.items()},
        args.quick,
        args.device,
    )


if __name__ == "__main__":
    main()
