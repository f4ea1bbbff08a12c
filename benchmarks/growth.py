"""CPU seconds and peak memory of extraction, training and evaluation against images, categories and grid.

    python benchmarks/growth.py --minutes 4   # measures for so long; start it again until nothing is left
    python benchmarks/growth.py --notes       # prints the numbers of docs/NOTES.md from the recorded results
    python benchmarks/growth.py --quick       # a try, a few small points: prints, writes nothing

When nothing is left, or with --publish at once, it writes data/results/bench-growth.json, its section of
benchmarks/RESULTS.md and its numbers in docs/NOTES.md.

Each point is a process of its own, on one thread, so that its peak memory is its own; its time is the CPU's, which a
busy machine disturbs far less than the clock's. Of a point that was measured twice the larger value counts. Images are
windows on one strip of noise, made when they are used. Extraction goes through ONNX Runtime as far as time allows, and
without the backbone (rows of noise in its place) all the way. Against images and categories the network is a small one,
so that an epoch of 100,000 images fits; against the grid it is the paper's (4 + 4 layers). The extra `fast` is needed.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from report import ROOT, named, publish, where

from dumenet import features
from dumenet.checkpoint import Trained
from dumenet.config import Config, make_config
from dumenet.data import Dataset, Sample
from dumenet.features import Backbone, Features, extract
from dumenet.models import build_model
from dumenet.results import peak_memory_mb, write_atomic
from dumenet.run import evaluate
from dumenet.score import calibrate, score
from dumenet.train import split_holdout, train

NAME, TITLE = "bench-growth", "Growth"
IMAGES, CATEGORIES, GRIDS = (100, 300, 1_000, 3_000, 10_000, 30_000, 100_000), (1, 3, 10, 30, 60), (14, 28, 42, 56)
LARGEST = {"extract": 10_000, "image metrics": 30_000, "pixel metrics": 10_000, "step": 42}  # fit into time and memory
STAGES = {  # name of a stage -> what the tables call it
    "extract": "extraction", "cache": "extraction, no backbone", "open": "cache opened again", "train": "one epoch",
    "image metrics": "evaluation, image metrics", "pixel metrics": "evaluation, pixel metrics",
}  # fmt: skip
FIXED = 600  # images, while categories grow
GRID_IMAGES = {14: 32, 28: 8, 42: 4, 56: 2}
SMALL = {
    "model__hidden_dim": 8, "model__heads": 1, "model__ffn_dim": 64, "model__encoder_layers": 1,
    "model__decoder_layers": 1, "model__channel_memory_size": 16, "model__spatial_memory_size": 16,
    "model__dropout": 0.0, "model__jitter": 0.0, "train__batch_size": 32, "evaluation__error": "norm",
}  # fmt: skip
SIDE = 256  # pixels of an image as it would lie on disk
STAGE_CHANNELS = (16, 24, 40, 112)  # of the embedded backbone's stages


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
        "wall_seconds": round(time.perf_counter() - wall, 4), "peak_mb": round(peak_memory_mb(), 1),
        "start_mb": round(before, 1),
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
    model = build_model(config.model, backbone.stage_channels, 14).to(device).eval()
    data = Dataset("noise", [], samples, has_masks=stage == "pixel metrics")
    return lambda: evaluate(Trained(config, model, backbone.stage_channels), data, held)


def whole_training(config: Config, held: Features, stage_channels: tuple[int, ...]) -> None:
    """As `dumenet.run.run` does it: hold out, train, fit spread and thresholds."""
    keep, holdout = split_holdout(held, config.train.holdout, 0)
    calibrate(train(config, keep, stage_channels, progress=False), keep, holdout)


def on_grid(stage: str, grid: int, device: str) -> Callable[[], Any]:
    """Training steps, or scores, of the paper's network, image by image, after one to warm up."""
    options = {"train__epochs": 1, "train__batch_size": 1, "evaluation__batch_size": 1, "train__device": device}
    options |= {"model__encoder_layers": 4, "model__decoder_layers": 4, "evaluation__error": "norm"}
    config, stages = make_config(features__grid=grid, **options), STAGE_CHANNELS
    store = np.random.default_rng(0).normal(size=(GRID_IMAGES[grid], sum(stages), grid, grid)).astype(np.float16)
    held = Features([], np.arange(len(store)), store)
    if stage == "step":
        train(config, Features([], held.rows[:1], store), stages, progress=False)
        return lambda: train(config, held, stages, progress=False)
    trained = Trained(config, build_model(config.model, stages, grid).to(device).eval(), stages)
    score(trained, Features([], held.rows[:1], store), keep_maps=False)
    return lambda: score(trained, held, keep_maps=False)


# --- all points, one after another


def plan(quick: bool) -> list[tuple[str, int, list[str], str]]:
    """(axis, value, stages, folder): stages that share a folder share the cache that `cache` leaves there."""
    counts, categories, grids = ((100,), (1, 3), (14,)) if quick else (IMAGES, CATEGORIES, GRIDS)
    groups = [("images", n, ["extract"], f"extract-{n}") for n in counts if n <= LARGEST["extract"]]
    groups += [("grid", g, ["step", "score"] if g <= LARGEST["step"] else ["score"], "none") for g in grids]
    groups += [("categories", k, ["cache", "train", "pixel metrics"], f"categories-{k}") for k in categories]
    rest = [s for s in STAGES if s != "extract"]
    for n in counts:
        groups.append(("images", n, [s for s in rest if n <= LARGEST.get(s, n)], f"images-{n}"))
    return groups


def measure(scratch: Path, quick: bool, device: str, minutes: float) -> tuple[list[dict[str, Any]], int]:
    """Rows of all points measured so far, those of earlier calls among them, and how many points are left.

    The child is a fork of this process, which has imported everything and done nothing: its peak is counted anew.
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


def per_image(rows: list[dict], stage: str, key: str) -> float:
    """Growth for each further image, between 1,000 images and the most measured."""
    x, y = line_of(rows, "images", stage, key)
    first = int(np.searchsorted(x, 1_000))
    return float((y[-1] - y[first]) / (x[-1] - x[first]))


def table(rows: list[dict], device: str) -> list[str]:
    """Every row but those of a single value."""
    lines = ["| against | stage | value | seconds | peak memory, MB |", "|---|---|---|---|---|"]
    axes, stages = ["images", "categories", "grid"], list(STAGES)
    order = lambda r: (axes.index(r["axis"]), [*stages, r["stage"]].index(r["stage"]), r["value"])  # noqa: E731
    for r in sorted(rows, key=order):
        stage, seconds = STAGES.get(r["stage"], r["stage"]), r["cpu_seconds" if device == "cpu" else "wall_seconds"]
        lines.append(f"| {r['axis']} | {stage} | {r['value']:,} | {seconds:.2f} | {r['peak_mb']:,.0f} |")
    return lines


# --- docs/NOTES.md

MACHINE_GB = 128  # main memory of the machine in the example of the notes


def notes() -> str:
    """The numbers of docs/NOTES.md, from the recorded results of the CPU."""
    rows = json.loads((ROOT / "data" / "results" / f"{NAME}.json").read_text())["rows"]
    kb = {stage: per_image(rows, stage, "peak_mb") * 1e3 for stage in STAGES}
    lines = ["| one more image | CPU ms | kB of peak memory | measured up to |", "|---|---|---|---|"]
    for stage, name in STAGES.items():
        count = line_of(rows, "images", stage, "cpu_seconds")[0][-1]
        ms = per_image(rows, stage, "cpu_seconds") * 1e3
        lines.append(f"| {name} | {ms:.2f} | {kb[stage]:.1f} | {count:,.0f} |")
    x, seconds = line_of(rows, "grid", "step", "cpu_seconds")
    seconds /= [GRID_IMAGES[int(grid)] for grid in x]
    base = min(r["start_mb"] for r in rows if r["axis"] == "grid")  # the libraries; later starts hold the warm-up
    gb = (line_of(rows, "grid", "step", "peak_mb")[1] - base) / 1e3
    lines += ["", "| grid | tokens | training step, CPU s an image | its memory, GB |", "|---|---|---|---|"]
    lines += [f"| {g:.0f} | {g * g:,.0f} | {t:.2f} | {m:.1f} |" for g, t, m in zip(x, seconds, gb)]
    full = MACHINE_GB * 1e6 / kb["pixel metrics"]
    power = np.log(seconds[-1] / seconds[-2]) / np.log((x[-1] / x[-2]) ** 2)
    lines += ["", f"With pixel metrics, {MACHINE_GB} GB of memory are full at {full:,.0f} test images. From grid"]
    lines += [f"{x[-2]:.0f} to {x[-1]:.0f} the time of a step grows as the tokens to the power of {power:.1f}."]
    return "\n".join(lines)


def write_notes() -> None:
    """Put `notes` between the marks of docs/NOTES.md."""
    path, mark = ROOT / "docs" / "NOTES.md", "<!-- python benchmarks/growth.py --notes -->"
    before, rest = path.read_text().split(mark)
    write_atomic(path, f"{before}{mark}\n{notes()}\n<!-- end -->{rest.partition('<!-- end -->')[2]}".encode())


def publish_all(rows: list[dict], device: str) -> None:
    """The record and its section of RESULTS.md."""
    command, (name, title) = f"python benchmarks/growth.py --device {device}", named(NAME, TITLE, device)
    text = (
        f"`{command}`, {'CPU ' if device == 'cpu' else ''}seconds, each point in a process of its own on one thread of "
        f"a busy machine, some of them twice; {where(name, device)} "
        "What follows: [docs/NOTES.md](../docs/NOTES.md#scale)."
    )
    record = {"command": command, "device": device, "rows": rows}
    publish(name, title, record, [text, "", *table(rows, device)], device=device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--minutes", type=float, default=1e6, help="start no point after so long")
    parser.add_argument("--publish", action="store_true", help="write what is measured so far, though points are left")
    parser.add_argument(
        "--scratch", type=Path, default=ROOT / "build" / "growth", help="up to 10 GB, deleted as it goes"
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--notes", action="store_true", help="print the numbers of docs/NOTES.md")
    args = parser.parse_args()
    if args.notes:
        return print(notes())
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder) if args.quick else args.scratch
        scratch.mkdir(parents=True, exist_ok=True)
        rows, left = measure(scratch, args.quick, args.device, args.minutes)
        if args.quick:
            print("\n".join(table(rows, args.device)))
        elif args.publish or not left:
            publish_all(rows, args.device)
            if args.device == "cpu":  # the notes are about the CPU
                write_notes()
        if left:
            print(f"{left} points are left: start this again.")


if __name__ == "__main__":
    main()
