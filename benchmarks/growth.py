"""CPU seconds and peak memory of extraction, training and evaluation against images, categories and grid; docs/SCALING.md.

    python benchmarks/growth.py --minutes 4   # measures for so long; start it again until nothing is left. Then it writes
                                              # data/results/bench-growth.json, its section of benchmarks/RESULTS.md,
                                              # docs/growth.svg and docs/SCALING.md; with --publish at once
    python benchmarks/growth.py --document    # docs/SCALING.md and the figure alone, from the recorded results
    python benchmarks/growth.py --quick       # a try, a few small points: prints, writes nothing

Each point is a process of its own, on one thread, so that its peak memory is its own; its time is the CPU's, which a busy machine
disturbs far less than the clock's. Of a point that was measured twice the larger value counts. Images are windows on one strip of noise, made when they are asked for. Extraction goes through
ONNX Runtime as far as time allows, and without the backbone (rows of noise in its place) all the way. Against images and
categories the network is a small one, so that an epoch of 100,000 images fits; against the grid it is the default one.
The extra `fast` is needed.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from PIL import Image
from report import ROOT, named, publish, where

from dumenet import features, plots
from dumenet.config import Config, make_config
from dumenet.data import Dataset, Sample, load_image
from dumenet.data.factory import render
from dumenet.score import score, set_thresholds
from dumenet.experiment import evaluate
from dumenet.features import Backbone, Features, extract
from dumenet.models import build_model
from dumenet.results import peak_memory_mb, write_atomic
from dumenet.checkpoint import Trained
from dumenet.train import split_holdout, train

NAME, TITLE = "bench-growth", "Growth"
IMAGES, CATEGORIES, GRIDS = (100, 300, 1_000, 3_000, 10_000, 30_000, 100_000), (1, 3, 10, 30, 60), (14, 28, 42, 56)
LARGEST = {
    "extract": 10_000,
    "image metrics": 30_000,
    "pixel metrics": 10_000,
    "step": 42,
}  # what fits into time and memory
STAGES = {  # name of a stage -> what the figure calls it
    "extract": "extraction", "cache": "extraction, no backbone", "open": "cache opened again", "train": "one epoch",
    "image metrics": "evaluation, image metrics", "pixel metrics": "evaluation, pixel metrics",
}  # fmt: skip
FIXED = 600  # images, while categories grow
GRID_IMAGES = {14: 32, 28: 8, 42: 4, 56: 2}
DECODED, READ, READ_FROM = (
    200,
    2_000,
    10_000,
)  # image files decoded; cached images read at random, from a cache of so many
SMALL = {
    "model__hidden_dim": 8, "model__heads": 1, "model__ffn_dim": 64, "model__encoder_layers": 1, "model__decoder_layers": 1,
    "model__channel_memory_size": 16, "model__spatial_memory_size": 16, "model__dropout": 0.0, "model__jitter": 0.0,
    "train__batch_size": 32,
}  # fmt: skip
SIDE = 256  # pixels of an image as it would lie on disk
STAGE_CHANNELS = (16, 24, 40, 112)  # of the embedded backbone's stages
THREADS = 4  # `features.READERS` where there are cores enough
INDEX_LINE = len(json.dumps({"key": "0" * 64, "row": 999_999, "crc": 2**32 - 1})) + 1  # bytes


# --- one point, in a process of its own


def images(count: int, categories: int, scratch: Path) -> list[Sample]:
    """Samples whose images are windows on one strip of noise; every fourth has a defect, all with one mask."""
    size = SIDE * SIDE * 3
    strip = np.random.default_rng(0).integers(0, 256, size + 3 * count, np.uint8)
    mask = scratch / "mask.png"
    if not mask.exists():
        region = np.zeros((SIDE, SIDE), np.uint8)
        region[100:156, 80:136] = 255
        Image.fromarray(region).save(mask)
    return [
        Sample(f"{i}.png", f"{i % categories:02d}", "hole" if i // categories % 4 == 3 else "good",
               strip[3 * i : 3 * i + size].reshape(SIDE, SIDE, 3), mask)
        for i in range(count)
    ]  # fmt: skip


def noise(backbone: Backbone, _: Path) -> Callable[[np.ndarray], np.ndarray]:
    """In place of `features._runner`: rows of noise, no two alike, for almost no time."""
    shape = (backbone.config.batch_size, sum(backbone.stage_channels), backbone.config.grid, backbone.config.grid)
    tile, calls = np.random.default_rng(0).normal(size=shape).astype(np.float16), iter(range(10**9))
    return lambda batch: np.roll(tile, next(calls))[: len(batch)]


def point(stage: str, value: int, axis: str, folder: Path, device: str) -> dict[str, Any]:
    """Seconds and peak memory of one stage; `value` is the number of images or categories, or the grid."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if axis == "grid":
        job = on_grid(stage, value, device)
    elif stage == "decode":
        job = decode(folder, value)
    else:
        count, categories = (value, 3) if axis == "images" else (FIXED, value)
        job = on_images(stage, count, categories, folder, device)
    before = peak_memory_mb()
    cpu, wall = time.process_time(), time.perf_counter()
    job()
    if device != "cpu":
        torch.cuda.synchronize()
    row = {
        "axis": axis, "stage": stage, "value": value, "cpu_seconds": round(time.process_time() - cpu, 4),
        "wall_seconds": round(time.perf_counter() - wall, 4), "peak_mb": round(peak_memory_mb(), 1), "start_mb": round(before, 1),
    }  # fmt: skip
    return row | ({"gpu_peak_mb": round(torch.cuda.max_memory_allocated() / 1e6, 1)} if device != "cpu" else {})


def on_images(stage: str, count: int, categories: int, folder: Path, device: str) -> Callable[[], Any]:
    """One stage on `count` images: extraction into `folder`, or what reads the cache that lies there."""
    runtime = "onnx" if stage == "extract" else "torch"
    config = make_config(train__epochs=1, train__device=device, features__runtime=runtime, **SMALL)
    samples, backbone = images(count, categories, folder.parent), Backbone(config.features)
    if stage == "extract":
        features._runner(backbone, folder.parent)  # exports the graph, a matter of seconds, once for all data sets
        (folder / backbone.key).mkdir(parents=True)
        shutil.copy(folder.parent / "backbone.onnx", folder / backbone.key)
        return lambda: extract(samples, backbone, folder, progress=False)
    if stage in ("cache", "open"):
        features._runner = noise
        return lambda: extract(samples, backbone, folder, progress=False)
    shape = (count, sum(backbone.stage_channels), 14, 14)
    held = Features(
        samples, np.arange(count), np.memmap(folder / backbone.key / "features.f16", np.float16, "r", shape=shape)
    )
    if stage == "train":
        return lambda: whole_training(config, held, backbone.stage_channels)
    if stage == "read":
        order = np.random.default_rng(0).integers(0, count, READ).reshape(-1, 8)
        return lambda: [held.batch(index) for index in order]
    model = build_model(config.model, backbone.stage_channels, 14).to(device).eval()
    data = Dataset("noise", [], samples, has_masks=stage == "pixel metrics")
    return lambda: evaluate(Trained(config, model, backbone.stage_channels), data, held)


def whole_training(config: Config, held: Features, stage_channels: tuple[int, ...]) -> None:
    """As `experiment.run` does it: hold out, train, set the thresholds."""
    keep, holdout = split_holdout(held, config.train.holdout, 0)
    set_thresholds(train(config, keep, stage_channels, progress=False), holdout)


def on_grid(stage: str, grid: int, device: str) -> Callable[[], Any]:
    """Training steps, or scores, of the default network, image by image, after one to warm up."""
    options = {"train__epochs": 1, "train__batch_size": 1, "evaluation__batch_size": 1, "train__device": device}
    config, stages = make_config(features__grid=grid, **options), STAGE_CHANNELS
    store = np.random.default_rng(0).normal(size=(GRID_IMAGES[grid], sum(stages), grid, grid)).astype(np.float16)
    held = Features([], np.arange(len(store)), store)
    if stage == "step":
        train(config, Features([], held.rows[:1], store), stages, progress=False)
        return lambda: train(config, held, stages, progress=False)
    trained = Trained(config, build_model(config.model, stages, grid).to(device).eval(), stages)
    score(trained, Features([], held.rows[:1], store), keep_maps=False)
    return lambda: score(trained, held, keep_maps=False)


def decode(folder: Path, count: int) -> Callable[[], Any]:
    """Reading one image file of the factory's kind again and again."""
    path = folder.parent / "photograph.png"
    Image.fromarray(render("connector", "train", "good", 0, 0, SIDE)[0]).save(path)
    sample = Sample("photograph.png", "connector", "good", path)
    return lambda: [load_image(sample, 224) for _ in range(count)]


# --- all points, one after another


def plan(quick: bool) -> list[tuple[str, int, list[str], str]]:
    """(axis, value, stages, folder): stages that share a folder share the cache that `cache` leaves there."""
    counts, categories, grids = ((100,), (1, 3), (14,)) if quick else (IMAGES, CATEGORIES, GRIDS)
    groups = [("images", DECODED, ["decode"], "files")]
    groups += [("images", n, ["extract"], f"extract-{n}") for n in counts if n <= LARGEST["extract"]]
    groups += [("grid", g, ["step", "score"] if g <= LARGEST["step"] else ["score"], "none") for g in grids]
    groups += [("categories", k, ["cache", "train", "pixel metrics"], f"categories-{k}") for k in categories]
    rest = [s for s in STAGES if s != "extract"]
    for n in counts:
        more = ["read"] if n == READ_FROM else []
        groups.append(("images", n, [s for s in rest if n <= LARGEST.get(s, n)] + more, f"images-{n}"))
    return groups


def measure(scratch: Path, quick: bool, device: str, minutes: float) -> tuple[list[dict[str, Any]], int]:
    """Rows of all points measured so far, those of earlier calls among them, and how many points are left.

    The child is a fork of this process, which has imported everything and done nothing: the kernel counts its peak anew.
    """
    torch.set_num_threads(1)  # here too: a pool of threads would not live in the child
    known, end, left = scratch / f"points-{device}.json", time.monotonic() + 60 * minutes, 0
    rows = json.loads(known.read_text()) if known.exists() else []
    for axis, value, stages, name in plan(quick):
        done = {r["stage"] for r in rows if (r["axis"], r["value"]) == (axis, value)}
        todo, folder = [s for s in stages if s not in done], scratch / name
        if todo and "cache" in stages and "cache" in done and not folder.exists():
            todo = ["cache", *todo]  # again, for those that read it
        for stage in todo:
            if time.monotonic() > end:
                left += 1
                continue
            if stage in ("cache", "extract"):
                shutil.rmtree(folder, ignore_errors=True)
            with ProcessPoolExecutor(1, get_context("fork")) as child:
                row = child.submit(point, stage, value, axis, folder, device).result()
            print(row, flush=True)
            if stage not in done:
                rows.append(row)
                write_atomic(known, json.dumps(rows).encode())
        if set(stages) <= {r["stage"] for r in rows if (r["axis"], r["value"]) == (axis, value)}:
            shutil.rmtree(folder, ignore_errors=True)
    return rows, left


# --- what the rows say


def line_of(rows: list[dict], axis: str, stage: str, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Values and measurements of one line of the figure; of those of one point the largest."""
    chosen = dict(sorted((r["value"], r[key]) for r in rows if (r["axis"], r["stage"]) == (axis, stage)))
    return np.array(list(chosen), float), np.array(list(chosen.values()), float)


def spread(rows: list[dict], key: str) -> float:
    """Largest ratio of two measurements of one point."""
    points: dict[tuple, list[float]] = {}
    for r in rows:
        points.setdefault((r["axis"], r["stage"], r["value"]), []).append(r[key])
    return max(max(p) / min(p) for p in points.values())


def slope(x: np.ndarray, y: np.ndarray) -> float:
    """Exponent p of y ~ x^p, by least squares in the logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def per_image(rows: list[dict], stage: str, key: str) -> float:
    """Growth for each further image, between 1,000 images and the most measured."""
    x, y = line_of(rows, "images", stage, key)
    first = int(np.searchsorted(x, 1_000))
    return float((y[-1] - y[first]) / (x[-1] - x[first]))


def seconds_key(device: str) -> str:
    return "cpu_seconds" if device == "cpu" else "wall_seconds"


def figure(record: dict[str, Any]) -> plt.Figure:
    """Time above, peak memory below; against images, categories and the tokens of the grid."""
    rows, key = record["rows"], seconds_key(record["device"])
    names = {"step": "training step", "score": "score"}
    panels = {
        "images": (list(STAGES), "images", 1_000), "categories": (["train", "pixel metrics"], f"categories of {FIXED} images", 1),
        "grid": (["step", "score"], "tokens, grid x grid", 1),
    }  # fmt: skip
    fig, axes = plt.subplots(2, 3, figsize=(11, 8), layout="constrained", width_ratios=(1.5, 1, 1))
    for (axis, (stages, xlabel, fit_from)), column in zip(panels.items(), axes.T):
        for ax, measure_, factor in ((column[0], key, 1), (column[1], "peak_mb", 1e-3)):
            for k, stage in enumerate(stages):
                x, y = line_of(rows, axis, stage, measure_)
                if axis == "grid":
                    y = y / ([GRID_IMAGES[int(g)] for g in x] if ax is column[0] else 1)
                    x = x**2
                fit = x >= fit_from
                exponent = f", slope {slope(x[fit], y[fit]):.2f}" if fit.sum() > 1 else ""
                label = (STAGES | names)[stage] + exponent
                style = {
                    "color": sns.color_palette("colorblind")[k],
                    "ls": plots.STYLES[k % 4],
                    "marker": "osD^vP"[k],
                    "ms": 4,
                }
                ax.plot(x, y * factor, label=label.replace("-0.00", "0.00"), lw=1.4, **style)
            ax.set(xscale="log", yscale="log", xlabel=xlabel)
            ax.grid(alpha=0.25)
            ax.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.17))
            sns.despine(ax=ax)
        ticks = {"images": IMAGES[::2], "categories": CATEGORIES, "grid": [g * g for g in GRIDS]}[axis]
        for ax in column:
            ticks = [t for t in ticks if t <= max(line.get_xdata().max() for line in ax.lines) * 1.01]
            ax.set_xticks(ticks, [f"{t:,}" for t in ticks])
            ax.xaxis.set_minor_locator(plt.NullLocator())
    word = "CPU seconds" if record["device"] == "cpu" else "seconds"
    low, high = axes[0, 1].get_ylim()
    axes[0, 1].set_ylim(low / 3, high * 3)  # or noise would look like growth
    for ax in axes[0]:
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_locator(plt.NullLocator())
    low, high = min(a.get_ylim()[0] for a in axes[1]), max(a.get_ylim()[1] for a in axes[1])
    for ax in axes[1]:
        ax.set_ylim(low, high)
        ax.yaxis.set_major_formatter("{x:g}")
        ax.set_yticks([v for v in (0.5, 1, 2, 5, 10, 20) if low <= v <= high])
        ax.yaxis.set_minor_locator(plt.NullLocator())
    axes[0, 0].set(ylabel=word, title="images, small network")
    axes[0, 1].set(title="categories, small network")
    axes[0, 2].set(ylabel=f"{word} an image", title="grid, default network")
    axes[1, 0].set(ylabel="peak memory, GB")
    return fig


def table(rows: list[dict], device: str) -> list[str]:
    """Every row but those of a single value."""
    lines = ["| against | stage | value | seconds | peak memory, MB |", "|---|---|---|---|---|"]
    order = {"images": 0, "categories": 1, "grid": 2}
    for r in sorted(
        rows,
        key=lambda r: (order[r["axis"]], list(STAGES).index(r["stage"]) if r["stage"] in STAGES else 9, r["value"]),
    ):
        lines.append(
            f"| {r['axis']} | {STAGES.get(r['stage'], r['stage'])} | {r['value']:,} | {r[seconds_key(device)]:.2f} | {r['peak_mb']:,.0f} |"
        )
    return lines


# --- docs/SCALING.md

ASSUMED = {  # name -> (value, unit, why)
    "images": (1_000_000, "images", "what the page is about"),
    "channels": (272, "channels", "EfficientNet-B4's stages, as in the paper; Lite0 has 192"),
    "epochs": (8, "epochs", "the recipe `fast`; the paper trains for 700 or more"),
    "price": (2.5, "€ a GPU hour", "a rented data-centre GPU, with its share of cores and memory"),
    "disk_price": (80, "€ a TB and month", "fast network disk of a cloud; kept for one month"),
    "flops": (30, "TFLOP/s a GPU", "sustained on these small matrices, a fraction of what is printed on it"),
    "launch": (15, "ms", "shortest training step, however small its batch: starting some thousand kernels"),
    "backbone": (2_000, "images/s", "frozen backbone at 224 px on one GPU"),
    "memory": (128, "GB", "main memory of the machine"),
    "disk_speed": (2, "GB/s", "random reads of rows of the cache, local NVMe"),
}  # fmt: skip


def costs(a: dict[str, float], record: dict[str, Any], step: dict[str, Any]) -> dict[str, Any]:
    """Disk, hours and euros from the assumptions `a` and what was measured."""
    rows, key, n = record["rows"], seconds_key(record["device"]), a["images"]
    row_bytes = {g: 2 * a["channels"] * g * g for g in GRIDS}
    decoded, read = (
        line_of(rows, "images", s, key)[1][0] / count for s, count in (("decode", DECODED), ("read", READ))
    )
    feed = THREADS / decoded
    checked = per_image(rows, "open", key)
    gflop = next(r["gflop_per_step"] for r in step["rows"] if r["model"] == "DuMeNet") / 8
    rate = 1 / (1 / min(a["backbone"], feed) + checked)
    made = {"row_bytes": row_bytes, "decoded": decoded, "feed": feed, "read": read, "checked": checked, "gflop": gflop,
            "feature_rate": rate, "feature_hours": n / rate / 3600, "runs": []}  # fmt: skip
    for gpus in (1, 8):
        for batch in (8, 64 * gpus):
            share = batch / gpus
            seconds = share * read + max(a["launch"] / 1e3, share * gflop / (a["flops"] * 1e3))
            hours = n / batch * seconds * a["epochs"] / 3600
            euros = (made["feature_hours"] + hours * gpus) * a["price"]
            made["runs"].append({"gpus": gpus, "batch": batch, "step_ms": seconds * 1e3, "rate": batch / seconds, "hours": hours,
                                 "euros": euros, "reads": batch / seconds * row_bytes[14] / 1e9})  # fmt: skip
    return made


def document(home: Path = ROOT) -> str:
    """docs/SCALING.md from the recorded results and the assumptions."""
    read = lambda name: json.loads((home / "data" / "results" / f"{name}.json").read_text())  # noqa: E731
    record, step = read(NAME), read("bench-step")
    rows, key, a = record["rows"], seconds_key(record["device"]), {k: v for k, (v, _, _) in ASSUMED.items()}
    c, n = costs(a, record, step), a["images"]
    at = lambda axis, stage, k: line_of(rows, axis, stage, k)[1]  # noqa: E731
    rise = {s: float(np.divide(*line_of(rows, "images", s, "peak_mb")[1][[-1, 0]])) for s in ("cache", "open", "train")}
    kb = {s: max(per_image(rows, s, "peak_mb") * 1e3, 0) for s in STAGES}
    ms = {s: per_image(rows, s, key) * 1e3 for s in STAGES}
    most = {s: int(line_of(rows, "images", s, key)[0][-1]) for s in STAGES}
    fits = {s: a["memory"] * 1e6 / kb[s] for s in ("pixel metrics", "image metrics")}
    first = min(fits, key=fits.get)
    x, y = line_of(rows, "grid", "step", key)
    step_s = y / np.array([GRID_IMAGES[int(g)] for g in x])
    step_gb = line_of(rows, "grid", "step", "peak_mb")[1] / 1e3
    base_gb = (
        min(r["start_mb"] for r in rows if r["axis"] == "grid") / 1e3
    )  # the libraries; later starts hold the warm-up
    grids, y = line_of(rows, "grid", "score", key)
    score_s = y / np.array([GRID_IMAGES[int(g)] for g in grids])
    finest, one_gb = int(x[-1]), float(step_gb[-1] - base_gb)
    tera = {g: n * b / 1e12 for g, b in c["row_bytes"].items()}
    lines = [
        "# Scaling", "",
        "What more images, categories and finer grids cost. Made by `python benchmarks/growth.py --document` from "
        "`data/results/bench-growth.json` and `bench-step.json`; a test holds the page to them.", "",
        "## Measured", "",
        "![CPU seconds and peak memory against images, categories and tokens, log-log](growth.svg)", "",
        f"{record['machine']['cpu']}, one thread. Times are CPU seconds, each point is a process of its own; its peak memory holds "
        f"{min(r['start_mb'] for r in rows):.0f} MB of imported libraries. Images are windows of {SIDE} px on noise, made when asked for: no file "
        f"is decoded here. Extraction is ONNX Runtime's, and once more with rows of noise in place of the backbone, to get further. How far each stage was "
        "measured, the last column says; no line is extrapolated. The machine was "
        f"busy, and most points were measured once: those measured twice differ by up to {spread(rows, key) - 1:.0%} in time and "
        f"{spread(rows, 'peak_mb') - 1:.0%} in memory, and the larger value counts. Slopes against images are fitted from 1,000 on. "
        "In the left and middle column the network is a small one (hidden 8, one layer each, batch 32), so that an epoch of "
        f"{IMAGES[-1]:,} images fits; in the right one it is the default (hidden 128, 4 + 4 layers), batch 1.", "",
        "| against images | ms for each further image | kB of peak memory for each further image | to |", "|---|---|---|---|",
        *(f"| {STAGES[s]} | {ms[s]:.2f} | {kb[s]:.2f} | {most[s]:,} |" for s in STAGES), "",
        f"**Training images** cost time, and little memory. Peak memory becomes {rise['cache']:.2f} times as large from {IMAGES[0]} images to "
        f"{most['cache']:,} in extraction, {rise['open']:.2f} times to {most['open']:,} where the cache is opened again, and {rise['train']:.2f} times to "
        f"{most['train']:,} in an epoch. So it is not quite flat. {kb['cache']:.2f} kB an image are the list of samples, with hashes and row numbers. In an "
        f"epoch it also scatters: {', '.join(f'{m:.0f}' for m in at('images', 'train', 'peak_mb'))} MB along the line. A row of the cache has "
        f"{2 * sum(STAGE_CHANNELS) * 14 * 14 / 1e3:.0f} kB here, and no process keeps it.", "",
        f"**Test images** have to be scored together, and that takes memory: {kb['pixel metrics']:.0f} kB each with pixel metrics, of which "
        f"{224 * 224 * 4 / 1e3:.0f} are the anomaly map and {224 * 224 / 1e3:.0f} its mask, and {kb['image metrics']:.0f} kB without, the resamples "
        "of the interval.", "",
        f"**Categories.** The same {FIXED} images in {CATEGORIES[0]} and in {CATEGORIES[-1]} categories take "
        f"{at('categories', 'train', key)[0]:.2f} and {at('categories', 'train', key)[-1]:.2f} s for an epoch and the thresholds, "
        f"{at('categories', 'pixel metrics', key)[0]:.2f} and {at('categories', 'pixel metrics', key)[-1]:.2f} s for evaluation with every metric.", "",
        "| grid | tokens | training step, CPU s an image | score, CPU s an image | memory of a step, GB |", "|---|---|---|---|---|",
        *(f"| {int(g)} | {int(g * g):,} | {t:.3f} | {u:.3f} | {m - base_gb:.2f} |" for g, t, u, m in zip(x, step_s, score_s, step_gb)),
        *(f"| {int(g)} | {int(g * g):,} | not measured | {u:.3f} | not measured |" for g, u in zip(grids[len(x):], score_s[len(x):])), "",
        f"**The grid** is what costs most. From {int(x[-2])} to {finest} a training step's time grows as tokens to the power of "
        f"{slope(x[-2:] ** 2, step_s[-2:]):.1f}, its memory to that of {slope(x[-2:] ** 2, (step_gb - base_gb)[-2:]):.1f}. Attention and the matrices of the "
        "spatial memory are quadratic in the tokens, the rest is linear. What is marked as not measured did not fit into the memory at hand.", "",
        "## On paper: a million images", "",
        "No GPU was measured. What follows is arithmetic on these assumptions; change them in `benchmarks/growth.py` and make the page again.", "",
        "| assumed | value | why |", "|---|---|---|",
        *(f"| {k.replace('_', ' ')} | {v:,} {unit} | {why} |" for k, (v, unit, why) in ASSUMED.items()), "",
        "| measured | value |", "|---|---|",
        f"| `decode`: an image file of {SIDE} px, decoded and resized | {c['decoded'] * 1e3:.2f} ms |",
        f"| `check`: hash of an image, CRC of its row | {c['checked'] * 1e3:.3f} ms |",
        f"| `read`: a row of the cache, to float32 | {c['read'] * 1e3:.3f} ms |",
        f"| `work`: training step, hidden 256, {a['channels']} channels (`bench-step.json`) | {c['gflop']:.1f} GFLOP an image |", "",
        "*Disk*: 2 bytes x channels x grid² x images. " + ", ".join(f"grid {g}: {t:.2f} TB, {t * a['disk_price']:,.0f} €" for g, t in tera.items())
        + f"; index {n * INDEX_LINE / 1e6:.0f} MB; the images themselves come on top.", "",
        f"*Features*: images x (1 / min(backbone, {THREADS} threads / decode) + check) = {c['feature_hours']:.2f} h, "
        f"{c['feature_hours'] * a['price']:.2f} €, at {c['feature_rate']:,.0f} images/s. One process does it, so eight GPUs are no faster.", "",
        "*Training*: a step takes batch / GPUs x read + max(launch, batch / GPUs x work / flops); an epoch has images / batch steps. "
        "Euros are those of the features (one GPU) and of the training.", "",
        "| GPUs | batch | step, ms | images/s | hours of training | € in all | GB/s from the cache |", "|---|---|---|---|---|---|---|",
        *(f"| {r['gpus']} | {r['batch']} | {r['step_ms']:.1f} | {r['rate']:,.0f} | {r['hours']:.2f} | {r['euros']:.2f} | {r['reads']:.2f} |" for r in c["runs"]), "",
        "Eight GPUs share a batch: at the recipe's batch of 8 each gets one image, waits for launches, and costs eight times as much for "
        f"{c['runs'][2]['rate'] / c['runs'][0]['rate']:.2f} times the speed. They pay from a batch of some hundreds on, whose learning rate nobody has tuned here.", "",
        "## Where the design breaks first", "",
        "| what | why | at a million images | breaks at |", "|---|---|---|---|",
        f"| evaluation with pixel metrics | all maps and masks at once, {kb['pixel metrics']:.0f} kB a test image | {n * kb['pixel metrics'] / 1e6:.0f} GB | "
        f"{fits['pixel metrics']:,.0f} test images in {a['memory']} GB |",
        f"| the interval of the AUROC | 1,000 resamples as counts of every image, {kb['image metrics']:.0f} kB | {n * kb['image metrics'] / 1e6:.0f} GB | "
        f"{fits['image metrics']:,.0f} test images in {a['memory']} GB |",
        f"| one process extracts | decoding by {THREADS} threads at most | {c['feature_hours']:.2f} h | a GPU faster than {c['feed']:,.0f} images/s waits |",
        f"| every start checks everything | hash of each image, CRC of each row, one process | {n * c['checked'] / 60:.1f} min, "
        f"and {tera[14] * 1e3 / a['disk_speed'] / 60:.1f} min of disk | {60 / c['checked']:,.0f} images for a minute's wait |",
        f"| the cache outgrows memory | rows are read at random, and not ahead of the step | {tera[14] * 1e3:.0f} GB | "
        f"{a['memory'] * 1e9 / c['row_bytes'][14]:,.0f} images; beyond, {a['disk_speed'] * 1e9 / c['row_bytes'][14]:,.0f} images/s from disk |",
        f"| samples and index in memory | Python objects, one list | {n * kb['cache'] / 1e6:.2f} GB | {a['memory'] * 1e6 / max(kb['cache'], 1e-3):,.0f} images |",
        f"| grid {finest} | attention over {finest**2:,} tokens, {one_gb:.1f} GB for a batch of one on the CPU | "
        f"{tera[finest]:.2f} TB of cache | a batch of about {int(a['memory'] / one_gb)} in {a['memory']} GB |", "",
        f"So memory ends first in the evaluation with {first}: at {fits[first]:,.0f} *test* images. Until somebody streams the maps, evaluate in parts "
        "and do without the pooled row. Extraction and training need little more memory; they wait.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def publish_all(rows: list[dict], device: str) -> None:
    """The record and its section of RESULTS.md."""
    command, (name, title) = f"python benchmarks/growth.py --device {device}", named(NAME, TITLE, device)
    text = [
        f"`{command}`, {'CPU ' if device == 'cpu' else ''}seconds, each point in a process of its own on one thread of a busy machine, some of them twice; {where(name, device)} What the stages are, slopes and "
        "what follows from them: [docs/SCALING.md](../docs/SCALING.md).", "", *table(rows, device),
    ]  # fmt: skip
    publish(name, title, {"command": command, "device": device, "rows": rows}, text, device=device)


def write_page() -> None:
    """docs/SCALING.md and docs/growth.svg from the recorded results."""
    write_atomic(ROOT / "docs" / "SCALING.md", document().encode())
    with tempfile.TemporaryDirectory() as folder:
        record = json.loads((ROOT / "data" / "results" / f"{NAME}.json").read_text())
        _, svg = plots.save(figure(record), "growth", Path(folder), close=True)
        write_atomic(ROOT / "docs" / "growth.svg", svg.read_bytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--minutes", type=float, default=1e6, help="start no point after so long")
    parser.add_argument("--publish", action="store_true", help="write what is measured so far, though points are left")
    parser.add_argument(
        "--scratch", type=Path, default=ROOT / "build" / "growth", help="up to 10 GB, deleted as it goes"
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--document", action="store_true", help="write the page and the figure from the recorded results"
    )
    parser.add_argument(
        "--check", action="store_true", help="with --document: exit with 1 if the page is another; write nothing"
    )
    args = parser.parse_args()
    if args.document:
        if args.check:
            sys.exit((ROOT / "docs" / "SCALING.md").read_text() != document())
        return write_page()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder) if args.quick else args.scratch
        scratch.mkdir(parents=True, exist_ok=True)
        rows, left = measure(scratch, args.quick, args.device, args.minutes)
        if args.quick:
            print("\n".join(table(rows, args.device)))
        elif args.publish or not left:
            publish_all(rows, args.device)
            if args.device == "cpu":  # the page is about the CPU's
                write_page()
        if left:
            print(f"{left} points are left: start this again.")


if __name__ == "__main__":
    main()
