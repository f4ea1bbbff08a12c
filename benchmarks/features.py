"""Images per second of the frozen backbone: eager torch, its variants, inference engines; whole extraction; cache reads.

    python benchmarks/features.py        # writes data/results/bench-features.json and its section of benchmarks/RESULTS.md
    python benchmarks/features.py --device cuda    # torch alone, with bfloat16; a results file and a section of its own
    python benchmarks/features.py --quick    # a try, two rounds: prints, writes nothing

EfficientNet-Lite0, stages at strides 2 to 16, 224 px, aligned to 14 x 14. The baseline is the package's own `Backbone` in
eager torch, which all results so far were made with. On the CPU it needs the extras `fast` and `openvino`.
"""

import argparse
import copy
import statistics
import tempfile
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from report import ROOT, in_turn, named, publish, where
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dumenet.config import make_config
from dumenet.data import load_image, open_dataset
from dumenet.engine import Engine, read
from dumenet.features import Backbone, extract
from dumenet.models import build_model

NAME, TITLE = "bench-features", "Frozen features"
BASELINE, AIM = "torch, eager (baseline)", 5.0


def folded(backbone: Backbone, channels_last: bool) -> Backbone:
    """A copy with each batch normalisation folded into the convolution before it."""
    backbone = copy.deepcopy(backbone)
    before = None
    for name, module in list(backbone.net.named_modules()):
        if isinstance(module, nn.BatchNorm2d) and before is not None:
            conv, fused = backbone.net.get_submodule(before), None
            fused = fuse_conv_bn_eval(conv, module)
            conv.weight, conv.bias = fused.weight, fused.bias
            parent, _, leaf = name.rpartition(".")
            setattr(backbone.net.get_submodule(parent), leaf, getattr(module, "act", nn.Identity()))
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            before = name if isinstance(module, nn.Conv2d) else None
    if channels_last:
        backbone.net.to(memory_format=torch.channels_last)
    return backbone


def candidates(rounds: int, batch: int, images: np.ndarray, runs: dict) -> tuple[list[dict], dict]:
    """Rows and raw seconds of every candidate at one batch size."""
    part = images[:batch]
    expected = runs[BASELINE](part)
    seconds = in_turn({name: lambda run=run: run(part) for name, run in runs.items()}, rounds)
    base, rows = statistics.median(seconds[BASELINE]), []
    for name, run in runs.items():
        middle = statistics.median(seconds[name])
        rows.append({
            "candidate": name, "batch": batch, "images_per_second": round(batch / middle, 1),
            "ratio_to_baseline": round(base / middle, 2), "largest_difference": float(np.abs(run(part) - expected).max()),
        })  # fmt: skip
    return rows, seconds


def extraction(rounds: int, samples: list, backbones: dict[str, Backbone], cache: Path) -> tuple[list[dict], dict]:
    """From image files to a new cache: hashing, decoding, resizing, the backbone, writing. Its graph is there already."""

    def job(title: str):
        def run() -> None:
            for name in ("index.jsonl", "features.f16"):
                (cache / backbones[title].key / name).unlink(missing_ok=True)
            extract(samples, backbones[title], cache, progress=False)

        return run

    seconds = in_turn({title: job(title) for title in backbones}, rounds, warm_up=1)
    base = statistics.median(next(iter(seconds.values())))
    return [
        {"candidate": name, "images_per_second": round(len(samples) / statistics.median(s), 1),
         "ratio_to_baseline": round(base / statistics.median(s), 2)}
        for name, s in seconds.items()
    ], seconds  # fmt: skip


def reads(rounds: int, samples: list, backbone: Backbone, cache: Path) -> dict:
    """Cached features in random batches of 8, beside the training step that eats them."""
    config, held, device = make_config(), extract(samples, backbone, cache, progress=False), backbone.mean.device
    model = build_model(config.model, backbone.stage_channels, config.features.grid).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters())
    batch, rng = held.batch(np.arange(8)).to(device), np.random.default_rng(0)

    def step() -> float:
        out = model(batch)
        optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.mse_loss(out.features, out.target)
        loss.backward()
        optimizer.step()
        return loss.item()  # waits for a GPU

    seconds = in_turn({"read": lambda: held.batch(rng.integers(0, len(held), 8)), "step": step}, rounds)
    read_, step_ = (statistics.median(seconds[k]) for k in ("read", "step"))
    return {
        "images_per_second": round(8 / read_), "training_step_images_per_second": round(8 / step_, 1),
        "share_of_a_step": round(read_ / step_, 4),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    rounds, count = (2, 16) if args.quick else (args.rounds, 96)
    engines = {"ONNX Runtime": "onnx", "OpenVINO": "openvino"} if args.device == "cpu" else {}
    batches = (1, 16) if engines else (1, 16, 64)
    samples = open_dataset("factory", ("all",), home=ROOT / "data").train
    samples = [samples[i] for i in np.linspace(0, len(samples) - 1, count).astype(int)]
    images = np.stack([load_image(samples[i % count], 224) for i in range(batches[-1])])
    backbones = {
        title: Backbone(make_config(features__runtime=runtime).features).to(args.device)
        for title, runtime in ({"torch": "torch"} | engines).items()
    }
    backbone = backbones["torch"]

    def eager(module, half=False):
        def run(x: np.ndarray) -> np.ndarray:
            with torch.autocast(torch.device(args.device).type, torch.bfloat16, enabled=half):
                return module(torch.from_numpy(x).to(args.device)).float().cpu().numpy()

        return run

    last = copy.deepcopy(backbone)
    last.net.to(memory_format=torch.channels_last)
    runs = {
        BASELINE: eager(backbone), "torch, channels last": eager(last), "torch, batch norm folded": eager(folded(backbone, False)),
        "torch, folded, channels last": eager(folded(backbone, True)),
    }  # fmt: skip
    if not engines:
        runs["torch, folded, channels last, bf16"] = eager(folded(backbone, True), True)
    rows, seconds = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for title, runtime in engines.items():
            extract(samples[:1], backbones[title], folder, progress=False)  # exports its graph
            content, _ = read(Path(folder) / backbones[title].key / "backbone.onnx")
            runs[title] = lambda x, engine=Engine(content, runtime): engine(images=x)[0]
        for batch in batches:
            more, raw = candidates(rounds, batch, images, runs)
            rows += more
            seconds |= {f"{name}, batch {batch}": values for name, values in raw.items()}
        whole, raw = extraction(max(rounds // 5, 1), samples, backbones, Path(folder))
        seconds |= raw
        cache = reads(rounds, samples, backbone, Path(folder))
    command = f"python benchmarks/features.py --rounds {args.rounds}" + ("" if engines else f" --device {args.device}")
    versions = {name: metadata.version(name) for name in ("onnxruntime", "openvino") if engines}
    name, title = named(NAME, TITLE, args.device)
    best = max((r for r in rows if r["largest_difference"] <= 1e-3), key=lambda r: r["ratio_to_baseline"])
    text = [
        f"`{command}`, medians of {rounds} rounds in turn{''.join(f', {k} {v}' for k, v in versions.items())}; {where(name, args.device)} "
        f"The aim is {AIM:g} times the baseline with features equal to 1e-3: {'met' if best['ratio_to_baseline'] >= AIM else 'missed'} "
        f"({best['ratio_to_baseline']} at batch {best['batch']}).",
        "", "| backbone | batch | images/s | ratio to baseline | largest difference |", "|---|---|---|---|---|",
        *(f"| {r['candidate']} | {r['batch']} | {r['images_per_second']} | {r['ratio_to_baseline']} | "
          f"{r['largest_difference']:.0e} |" for r in rows),
        "", f"From {count} image files of 256 px to a new cache (hash, decode, resize, backbone, write), medians of {max(rounds // 5, 1)}:",
        "", "| extraction | images/s | ratio to baseline |", "|---|---|---|",
        *(f"| {r['candidate']} | {r['images_per_second']} | {r['ratio_to_baseline']} |" for r in whole), "",
        f"Reading the cache in random batches of 8: {cache['images_per_second']:,} images/s, {cache['share_of_a_step']:.2%} of the "
        f"time of the training step that follows ({cache['training_step_images_per_second']} images/s, hidden 128).",
    ]  # fmt: skip
    record = {
        "command": command,
        "engines": versions,
        "backbones": rows,
        "extraction": whole,
        "cache": cache,
        "seconds": seconds,
    }
    publish(name, title, record, text, args.quick, args.device)


if __name__ == "__main__":
    main()
