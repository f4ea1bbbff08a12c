"""CPU seconds until a model is good enough: the paper's recipe beside ours; and what else was tried.

    python benchmarks/quality.py --data data/real --category bottle   # level: image AUROC 0.99, pixel AUROC 0.97
    python benchmarks/quality.py                                      # embedded set, all categories in one model
    python benchmarks/quality.py --tries --data data/real --category tire   # variants of `fast`, at half its epochs
    python benchmarks/quality.py --quick                              # a tiny slice of both: prints, writes nothing

Seconds are CPU seconds of the process and all its threads (on a GPU: of the clock), from the image files on: features of the training images, then
training. Looking at the test images is not counted. Ours, `laptop` and `fast`, have a budget that is fixed beforehand and are looked at once, at
its end. The paper's recipe is looked at after every `--every` epochs; its time is that of the first look with which it has reached
the level, which favours it, and it is given up after `--cap` times the seconds of `laptop`. Where the data are not bottle, the level
is what `laptop` has at its end with the same seed. Each run is a process of its own; what the
results file holds already is not run again.
"""

import argparse
import copy
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from report import ROOT, named, publish, where
from torch import nn

from dumenet.config import CONFIGS, config_from_dict, load_config, merge
from dumenet.experiment import Folders, evaluate, load_data
from dumenet.features import Backbone, extract
from dumenet.models import build_model
from dumenet.models.layers import DecoderLayer, EncoderLayer
from dumenet.results import machine, write_result
from dumenet.train import Trained, pick_device, split_holdout, train

TITLE = "Time to quality"
LEVEL = {"image_auroc": 0.99, "pixel_auroc": 0.97}  # of bottle
BASE, OURS = "fast", "laptop"  # what is tried is tried on BASE
SHORT = load_config(CONFIGS / f"{OURS}.yaml")
RECIPES = {
    "paper": {"train.recipe": "paper", "model.target": "raw"}, BASE: {},
    OURS: {f"{section}.{key}": value for section, values in SHORT.items() for key, value in values.items()},
}  # fmt: skip


# --- one run, in a process of its own


class Enough(Exception):
    """A run that is watched has reached its level, or its cap."""


def clock_of(config: Any) -> Callable[[], float]:
    """Another process of the machine costs no CPU seconds; a GPU's work has none."""
    return time.process_time if pick_device(config.train.device).type == "cpu" else time.perf_counter


def prepared(settings: dict[str, Any], cache: str) -> tuple:
    """Configuration, data set, features to train on (from files, timed) and to test on, channels of the stages, seconds."""
    config = config_from_dict(merge({}, settings))
    dataset, clock = load_data(config, Folders(ROOT)), clock_of(config)
    start = clock()
    backbone = Backbone(config.features).to(pick_device(config.train.device))
    features = extract(dataset.train, backbone, cache, progress=False)
    seconds = clock() - start
    keep, _ = split_holdout(features, config.train.holdout, config.train.seed)
    return (
        config,
        dataset,
        keep,
        extract(dataset.test, backbone, cache, progress=False),
        backbone.stage_channels,
        seconds,
    )


def looked(config: Any, model: nn.Module, dataset: Any, test: Any, channels: tuple[int, ...]) -> dict[str, float]:
    mean = evaluate(Trained(config, model, channels), dataset, test)[1]["mean"]
    return {k: mean[k] for k in LEVEL}


def reached(seen: dict[str, float], level: dict[str, float]) -> bool:
    """Whether a look found the level in both metrics."""
    return all(seen[k] >= v for k, v in level.items())


def run(settings: dict[str, Any], level: dict[str, float] | None, every: int, cap: float) -> dict[str, Any]:
    """Train by the package; with a level, look every so many epochs until it is reached, else once at the end."""
    with tempfile.TemporaryDirectory() as cold:
        config, dataset, keep, test, channels, feature_seconds = prepared(settings, cold)
        clock = clock_of(config)
        seen, paused, start = [], 0.0, clock()

        def look(epoch: int, model: nn.Module) -> None:
            nonlocal paused
            now = clock()
            spent = feature_seconds + now - start - paused
            if (epoch + 1) % every == 0 or epoch + 1 == config.train.epochs:
                seen.append(
                    {"epoch": epoch + 1, "seconds": round(spent, 2)} | looked(config, model, dataset, test, channels)
                )
                if level and (reached(seen[-1], level) or spent > cap):
                    raise Enough
            paused += clock() - now

        try:
            trained = train(config, keep, channels, on_epoch=look if level else None, progress=False)
            if not level:
                look(config.train.epochs - 1, trained.model)
        except Enough:
            pass
    return {"features": round(feature_seconds, 2), "seen": seen, "train": len(keep)}


# --- what was tried: one change each of a loop that is otherwise the package's


class Both:
    """Two optimizers as one."""

    def __init__(self, *parts: torch.optim.Optimizer):
        self.parts, self.param_groups = parts, [g for p in parts for g in p.param_groups]

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def step(self) -> None:
        for part in self.parts:
            part.step()


class Lion(torch.optim.Optimizer):
    """The sign of an interpolated momentum (Chen et al. 2023, algorithm 2)."""

    def __init__(self, params: Any, lr: float, weight_decay: float):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(m.lerp(p.grad, 0.1).sign_(), alpha=-group["lr"])
                m.lerp_(p.grad, 0.01)


class ScheduleFree(torch.optim.Optimizer):
    """Schedule-free AdamW (Defazio et al. 2024): gradients at y between z, which steps, and x, the mean that is evaluated."""

    def __init__(self, params: Any, lr: float, weight_decay: float, warm_up: int):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        self.count, self.warm_up, self.total = 0, warm_up, 0.0

    @torch.no_grad()
    def step(self) -> None:
        self.count += 1
        for group in self.param_groups:
            lr = group["lr"] * min(1.0, self.count / self.warm_up)
            self.total += lr**2
            for p in (p for p in group["params"] if p.grad is not None):
                s = self.state[p]
                if not s:
                    s.update(z=p.clone(), x=p.clone(), v=torch.zeros_like(p))
                s["v"].lerp_(p.grad.square(), 0.001)
                scale = (s["v"] / (1 - 0.999**self.count)).sqrt_().add_(1e-8)
                s["z"].sub_(lr * (p.grad / scale + group["weight_decay"] * p))
                s["x"].lerp_(s["z"], lr**2 / self.total)
                p.copy_(s["z"].lerp(s["x"], 0.9))

    @torch.no_grad()
    def finish(self) -> None:
        """Put the mean in place."""
        for p, s in self.state.items():
            p.copy_(s["x"])


def adamw(model: nn.Module, c: Any, steps: int) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), c.lr, weight_decay=c.weight_decay)


def muon(model: nn.Module, c: Any, steps: int) -> Both:
    """Muon for the matrices of the layers, AdamW for what is in and around them (Jordan et al. 2024)."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and n.split(".")[0] in ("encoder", "decoder")]
    rest = [p for p in model.parameters() if not any(p is m for m in matrices)]
    return Both(
        torch.optim.Muon(matrices, lr=10 * c.lr, weight_decay=c.weight_decay),
        torch.optim.AdamW(rest, c.lr, weight_decay=c.weight_decay),
    )


def onecycle(share: float) -> float:
    """Factor of the learning rate at a share of all steps: a tenth to climb, then a cosine."""
    return share / 0.1 if share < 0.1 else 0.5 * (1 + math.cos(math.pi * (share - 0.1) / 0.9))


def stable(share: float) -> float:
    """Warm-up, stable, decay: a tenth, seven tenths, two tenths."""
    return min(1.0, share / 0.1, (1 - share) / 0.2)


def constant(share: float) -> float:
    return 1.0


def pre_norm(model: nn.Module) -> None:
    """Each layer normalises what goes into its parts, not what comes out; the sum runs through."""

    def encode(self: EncoderLayer, x, position, mask):
        h = self.norm1(x)
        x = x + self.drop(self.attention(h + position, h + position, h, mask))
        return x + self.drop(self.ffn(self.norm2(x)))

    def decode(self: DecoderLayer, x, first, second, position, mask1, mask2):
        h = self.norm1(x)
        x = x + self.drop(self.attention1(h + position, h + position, h, mask1))
        x = x + self.drop(self.attention2(self.norm2(x) + position, second + position, second, mask2))
        return x + self.drop(self.ffn(self.norm3(x)))

    for layer in model.modules():
        if isinstance(layer, (EncoderLayer, DecoderLayer)):
            layer.forward = (encode if isinstance(layer, EncoderLayer) else decode).__get__(layer)


def quiet_start(model: nn.Module) -> None:
    """Each layer begins as the identity: the last matrix of its attention and of its feed-forward part is 0."""
    for layer in model.modules():
        if isinstance(layer, (EncoderLayer, DecoderLayer)):
            for name, part in layer.named_children():
                if name.startswith("attention"):
                    nn.init.zeros_(part.out.weight)
            nn.init.zeros_(layer.ffn[-1].weight)


TRIES: dict[str, dict[str, Any]] = {  # settings; lr: times the recipe's; and what the loop below knows
    BASE: {},
    "warm-up, stable, decay": {"schedule": stable},
    "batch 16": {"settings": {"train.batch_size": 16}, "lr": 2**0.5}, "batch 32": {"settings": {"train.batch_size": 32}, "lr": 2},
    "batch 64": {"settings": {"train.batch_size": 64}, "lr": 8**0.5},
    "Muon": {"optimizer": muon},
    "Lion": {"optimizer": lambda m, c, n: Lion(m.parameters(), c.lr / 5, 5 * c.weight_decay)},
    "schedule-free AdamW": {"optimizer": lambda m, c, n: ScheduleFree(m.parameters(), c.lr, c.weight_decay, n // 10), "schedule": constant},
    "layers begin as identity": {"model": quiet_start}, "pre-norm": {"model": pre_norm},
    "2 + 2 layers": {"settings": {"model.encoder_layers": 2, "model.decoder_layers": 2}},
    "1 + 1 layers": {"settings": {"model.encoder_layers": 1, "model.decoder_layers": 1}},
    "jitter falls to 0": {"jitter": lambda share: 1 - share}, "jitter rises from 0": {"jitter": lambda share: share},
    "no jitter": {"jitter": lambda share: 0.0},
    "mean of the weights": {"average": True},
    "16 slots": {"settings": {"model.channel_memory_size": 16, "model.spatial_memory_size": 16}},
    "64 slots": {"settings": {"model.channel_memory_size": 64, "model.spatial_memory_size": 64}},
    "no dropout": {"settings": {"model.dropout": 0.0}},
    "bf16": {"settings": {"train.precision": "bf16"}},
    "raw target": {"settings": {"model.target": "raw"}},
    # a second round, of what won: together, and beside ours with all its epochs
    "fast, 8 epochs": {"epochs": 8},
    **{f"{name}, {of}": how | {"settings": {"model.encoder_layers": n, "model.decoder_layers": n}}
       for of, n in (("2 + 2 layers", 2), ("1 + 1 layers", 1))
       for name, how in {"warm-up, stable, decay": {"schedule": stable}, "Muon": {"optimizer": muon},
                         "Muon, warm-up, stable, decay": {"optimizer": muon, "schedule": stable},
                         "schedule-free AdamW": {"optimizer": lambda m, c, n: ScheduleFree(m.parameters(), c.lr, c.weight_decay, n // 10),
                                                 "schedule": constant},
                         "8 epochs": {"epochs": 8}}.items()},
    # a third: without dropout too
    **{f"{name}, no dropout, {of}": how | {"settings": {"model.encoder_layers": n, "model.decoder_layers": n, "model.dropout": 0.0}}
       for of, n in (("2 + 2 layers", 2), ("1 + 1 layers", 1))
       for name, how in {"warm-up, stable, decay": {"schedule": stable}, "8 epochs, warm-up, stable, decay": {"schedule": stable, "epochs": 8},
                         "Muon, warm-up, stable, decay": {"optimizer": muon, "schedule": stable}}.items()},
}  # fmt: skip
EPOCHS = 4  # of a try: half those of ours


def attempt(
    settings: dict[str, Any], epochs: int, optimizer: Callable = adamw, schedule: Callable = onecycle, lr: float = 1.0,
    model: Callable | None = None, jitter: Callable | None = None, average: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Train with one change, look once at the end. Seconds are of training alone."""
    config, dataset, keep, test, channels, _ = prepared(
        settings | {"train.epochs": epochs}, str(ROOT / "build" / "cache")
    )
    c = replace(config.train, lr=config.train.lr * lr)
    torch.manual_seed(c.seed)
    net, device = build_model(config.model, channels, config.features.grid), pick_device(c.device)
    if model:
        model(net)
    if config.model.target == "standardised":
        mean, std = keep.channel_statistics()
        net.standardise.mean.copy_(mean), net.standardise.std.copy_(std)
    net.to(device)
    steps = -(-len(keep) // c.batch_size) * c.epochs
    made, mean_net, step, losses = optimizer(net, c, steps), copy.deepcopy(net), 0, []
    clock = clock_of(config)
    rates, start = [g["lr"] for g in made.param_groups], clock()
    for _ in range(c.epochs):
        net.train()
        for index in torch.randperm(len(keep)).split(c.batch_size):
            share = step / steps
            for group, rate in zip(made.param_groups, rates):
                group["lr"] = rate * schedule(share)
            if jitter:
                net.config = replace(config.model, jitter=config.model.jitter * jitter(share))
            with torch.autocast(device.type, torch.bfloat16, enabled=c.precision == "bf16"):
                result = net(keep.batch(index).to(device))
            loss = nn.functional.mse_loss(result.features.float(), result.target.float())
            made.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), c.clip)
            made.step()
            step += 1
            losses.append(loss.item())
            if average:  # a mean that forgets over a tenth of all steps
                with torch.no_grad():
                    for kept, new in zip(mean_net.parameters(), net.parameters()):
                        kept.lerp_(new, max(10 / steps, 1 / step))
    if isinstance(made, ScheduleFree):
        made.finish()
    if average:
        mean_net.standardise = net.standardise
        net = mean_net
    spent = clock() - start
    found = looked(config, net.eval(), dataset, test, channels)
    return {
        "seconds": round(spent, 2),
        "loss": statistics.fmean(losses[-len(losses) // c.epochs :]),
        "images": len(keep),
    } | found


# --- all runs, and what is told of them


def child(function: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """`run` or `attempt` in a new process."""
    command = [sys.executable, __file__, "--child", json.dumps({"function": function, **arguments})]
    said = subprocess.run(command, capture_output=True, text=True)
    if said.returncode:
        sys.exit(f"A run failed: {said.stderr.strip().splitlines()[-1]}")
    return json.loads(said.stdout.splitlines()[-1])


def headline(
    record: dict[str, Any],
    base: dict[str, Any],
    seeds: list[int],
    level: dict | None,
    every: int,
    cap: float,
    keep: Callable,
) -> None:
    """Fill `record["runs"]`, "recipe/seed" -> run, with what is missing."""
    runs = record.setdefault("runs", {})
    for seed in seeds:
        for name in (*[n for n in RECIPES if n != "paper"], "paper"):  # ours first: it sets the level and the cap
            key = f"{name}/{seed}"
            if key not in runs:
                more = {"level": None, "every": 1, "cap": 0.0}
                if name == "paper":
                    end = runs[f"{OURS}/{seed}"]["seen"][-1]
                    more = {"level": level or {k: end[k] for k in LEVEL}, "every": every, "cap": cap * end["seconds"]}
                settings = base | RECIPES[name] | {"train.seed": seed}
                runs[key] = child("run", {"settings": settings, **more}) | {
                    "settings": settings,
                    **more,
                    "cpu": machine()["cpu"],
                }
                print(key, runs[key]["seen"][-1], flush=True)
                keep()


def told(record: dict[str, Any], seeds: list[int], level: dict | None) -> list[str]:
    """The headline as a table: medians over seeds. A recipe that ends below the level is not faster to it."""
    lines = [
        "| recipe | epochs | CPU seconds | of them features | image AUROC | pixel AUROC | times faster than paper |",
        "|---" * 7 + "|",
    ]
    runs = record["runs"]
    levels = {s: level or runs[f"{OURS}/{s}"]["seen"][-1] for s in seeds}
    times: dict[str, list[float]] = {}
    for name in RECIPES:
        found = {s: runs[f"{name}/{s}"] for s in seeds if f"{name}/{s}" in runs}
        ends = [r["seen"][-1] for r in found.values()]
        below = [s for s, r in found.items() if not reached(r["seen"][-1], {k: levels[s][k] for k in LEVEL})]
        times[name] = [e["seconds"] for e in ends]
        at_least = "more than " if name == "paper" and below else ""
        if name == "paper":
            ratio, least = "1", "more than " if below else ""
        elif below:
            ratio = f"– ({len(below)} of {len(found)} below the level)"
        else:
            ratio = f"{least}{statistics.median(p / t for p, t in zip(times['paper'], times[name])):.1f}"
        span = lambda k: f"{100 * min(e[k] for e in ends):.1f} to {100 * max(e[k] for e in ends):.1f}"  # noqa: E731
        lines.append(
            f"| {name} | {at_least}{statistics.median(e['epoch'] for e in ends):g} | {at_least}{statistics.median(times[name]):.0f} | "
            f"{statistics.median(r['features'] for r in found.values()):.1f} | {span('image_auroc')} | {span('pixel_auroc')} | {ratio} |"
        )
    return lines


def tried(record: dict[str, Any]) -> list[str]:
    """The attempts as a table, beside ours."""
    lines = [
        "| change | seeds | image AUROC | pixel AUROC | training loss | CPU seconds, ratio to the first row |",
        "|---" * 6 + "|",
    ]
    base = {s: r for key, r in record["tries"].items() for n, s in [key.rsplit("/", 1)] if n == BASE}
    for name in TRIES:
        found = {key.rsplit("/", 1)[1]: r for key, r in record["tries"].items() if key.rsplit("/", 1)[0] == name}
        if found:
            mean = lambda k: statistics.fmean(r[k] for r in found.values())  # noqa: E731
            spread = lambda k: (
                f"{100 * mean(k):.1f}"
                + (f" ± {100 * statistics.stdev(r[k] for r in found.values()):.1f}" if len(found) > 1 else "")
            )
            ratio = statistics.median(r["seconds"] / base[s]["seconds"] for s, r in found.items() if s in base)
            lines.append(
                f"| {name} | {len(found)} | {spread('image_auroc')} | {spread('pixel_auroc')} | {mean('loss'):.4f} | {ratio:.2f} |"
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="factory")
    parser.add_argument("--category", nargs="+", default=["all"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--every", type=int, default=5, help="epochs between two looks at the paper's recipe")
    parser.add_argument("--cap", type=float, default=25.0, help="times the seconds of ours after which it is given up")
    parser.add_argument("--tries", action="store_true")
    parser.add_argument("--only", nargs="+", choices=TRIES, metavar="CHANGE", help="of --tries: these alone")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"), help="of every recipe's training")
    parser.add_argument("--compile", action="store_true", help="every recipe's forward pass; on a GPU with CUDA graphs")
    parser.add_argument("--publish", action="store_true", help="run nothing more, tell what is there")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.tries and args.compile:
        parser.error("--compile is for the recipes: the loop of --tries is not compiled")
    if args.child:
        request = json.loads(args.child)
        function = request.pop("function")
        if function == "attempt":
            request |= {k: v for k, v in TRIES[request.pop("name")].items() if k not in ("settings", "epochs")}
        print(json.dumps({"run": run, "attempt": attempt}[function](**request)))
        return
    base = {
        "data.source": args.data,
        "data.categories": args.category,
        "train.device": args.device,
        "evaluation.bootstrap": 0,
    }
    changed = ([args.precision] if args.precision != "fp32" else []) + (["compiled"] if args.compile else [])
    base |= {"train.precision": args.precision, "train.compile": args.compile} if changed else {}
    what, seeds = "-".join([Path(args.data).name, "+".join(args.category), *changed]), args.seeds
    name, title = named(
        f"bench-quality-{'tries' if args.tries else 'time'}-{what}",
        f"{TITLE}: {'what was tried on ' if args.tries else ''}{what}",
        args.device,
    )
    path = ROOT / "data" / "results" / f"{name}.json"
    record: dict[str, Any] = json.loads(path.read_text()) if path.exists() and not args.quick else {}
    for r in record.get("runs", {}).values():
        r.setdefault("cpu", record.get("machine", {}).get("cpu"))  # of runs from before it was noted for each
    level = LEVEL if args.category == ["bottle"] else None
    cap = args.cap
    if args.quick:
        base |= {"data.categories": ["cap"], "train.epochs": 1}
        seeds, cap = [0], 2.0

    def keep() -> None:
        if not args.quick:
            write_result(path, record)

    if args.tries:
        attempts = record.setdefault("tries", {})
        for seed in () if args.publish else seeds:
            for title, how in [(k, TRIES[k]) for k in args.only or TRIES][: 2 if args.quick else None]:
                key = f"{title}/{seed}"
                if key not in attempts:
                    settings = base | how.get("settings", {}) | {"train.seed": seed}
                    attempts[key] = child(
                        "attempt",
                        {"settings": settings, "epochs": 1 if args.quick else how.get("epochs", EPOCHS), "name": title},
                    )
                    attempts[key]["settings"] = settings
                    print(key, attempts[key], flush=True)
                    keep()
        table = tried(record)
    else:
        if not args.publish:
            headline(record, base, seeds, level, args.every, cap, keep)
        seeds = [s for s in seeds if f"paper/{s}" in record.get("runs", {})]
        if not seeds:
            sys.exit("No run of the paper's recipe has ended yet: leave out --publish.")
        table = told(record, seeds, level)
    words = [f"--data {args.data} --category {' '.join(args.category)}"] if args.data != "factory" else []
    words += [f"--every {args.every}"] * (args.every != parser.get_default("every"))
    words += [f"--device {args.device}"] * (args.device != "cpu") + [f"--precision {args.precision}"] * (
        args.precision != "fp32"
    )
    command = " ".join(
        ["python benchmarks/quality.py", *["--tries"] * args.tries, *words, *["--compile"] * args.compile]
    )
    about = (
        f"What was tried: first one change each, then together what had won; half the epochs of `fast` ({EPOCHS}) where nothing else is said, the last epoch; {len({k.rsplit('/', 1)[0] for k in attempts})} of "
        f"{len(TRIES)} variants have been run, seeds {', '.join(sorted({k.rsplit('/', 1)[1] for k in attempts}))}. Seconds are of training "
        "alone. From this table `laptop` was chosen: of the variants with three seeds, the highest AUROCs at less time than `fast` with these epochs."
        if args.tries
        else f"Until image AUROC {LEVEL['image_auroc']} and pixel AUROC {LEVEL['pixel_auroc']}; medians of seeds "
        f"{', '.join(map(str, seeds))}, AUROC from the least to the largest." if level
        else f"Until the level that `{OURS}` ends with, seed by seed; medians of seeds {', '.join(map(str, seeds))}."
    )  # fmt: skip
    runs = record.get("runs", {})
    caps = sorted(
        {
            round(r["cap"] / runs[f"{OURS}/{k.rsplit('/', 1)[1]}"]["seen"][-1]["seconds"])
            for k, r in runs.items()
            if r["cap"]
        }
    )
    about += (
        f" The paper's recipe is given up after {' or '.join(map(str, caps))} times the seconds of `{OURS}`."
        if caps
        else ""
    )
    ran = {k.rsplit("/", 1)[1]: r["cpu"] for k, r in runs.items()}
    about += (
        f" Seeds ran on: {', '.join(f'{s}: {cpu}' for s, cpu in ran.items())}." if len(set(ran.values())) > 1 else ""
    )
    text = [
        f"`{command}`, {what}; {where(name, args.device, ' and '.join(dict.fromkeys(ran.values())))} {about}",
        "",
        *table,
    ]
    publish(name, title, record | {"command": command}, text, args.quick, args.device)


if __name__ == "__main__":
    main()
