"""CPU seconds and peak memory of extraction, training and evaluation against images, categories and grid.

    python benchmarks/growth.py           # writes its numbers in docs/NOTES.md too
    python benchmarks/growth.py --notes   # prints them, from the record

Each point is a process of its own, on one thread, so that its peak memory is its own; its time is the CPU's, which a
busy machine disturbs far less than the clock's. Images are windows on one strip of noise, made when they are used.
Training and evaluation read a cache that was written without a backbone, noise in its place. Against images and
categories the network is a small one; against the grid it is the paper's (4 + 4 layers). 6 GB of TMPDIR are needed.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from report import RESULTS, ROOT, TINY, arguments, publish
from torch import Tensor

from dumenet import run
from dumenet.checkpoint import Trained
from dumenet.config import make_config
from dumenet.data import Dataset, Sample, content_key
from dumenet.features import Backbone, Features, extract
from dumenet.files import write_atomic
from dumenet.models import build_model
from dumenet.results import markdown, peak_memory_mb
from dumenet.run import Folders
from dumenet.score import calibrate, score
from dumenet.train import split_holdout, train

STAGES = {  # name of a stage -> what the notes call it
    "extract": "extraction", "cache": "extraction, no backbone", "open": "cache opened again", "train": "one epoch",
    "spread": "spread and thresholds", "image metrics": "evaluation, image metrics",
    "pixel metrics": "evaluation, pixel metrics",
}  # fmt: skip
IMAGES, CATEGORIES, FIXED = (1_000, 10_000, 30_000), (1, 60), 600  # images while categories grow
LARGEST = dict.fromkeys(("extract", "train", "spread", "pixel metrics"), 10_000)  # images that fit into time and memory
GRIDS = {14: 32, 28: 8, 42: 4}  # grid: images
SMALL = {
    "model__hidden_dim": 8, "model__heads": 1, "model__ffn_dim": 64, "model__encoder_layers": 1,
    "model__decoder_layers": 1, "model__channel_memory_size": 16, "model__spatial_memory_size": 16,
    "model__jitter": 0.0, "train__batch_size": 32, "evaluation__error": "norm",
}  # fmt: skip
PAPER = {"model__encoder_layers": 4, "model__decoder_layers": 4, "train__batch_size": 1}
SIDE, CHANNELS = 256, (16, 24, 40, 112)  # pixels of an image on disk; of the embedded backbone's stages


class NoBackbone(Backbone):
    """Noise for features, for almost no time."""

    def forward(self, images: Tensor) -> Tensor:
        if not hasattr(self, "noise"):
            self.noise = torch.randn(self.config.batch_size, sum(self.stage_channels), *[self.config.grid] * 2)
        return self.noise[: len(images)]


def make_samples(count: int, categories: int, scratch: Path) -> list[Sample]:
    """Samples whose images are windows on one strip of noise; every fourth has a defect, all with one mask."""
    size = SIDE * SIDE * 3
    strip = np.random.default_rng(0).integers(0, 256, size + 3 * count, np.uint8)
    region, mask = np.zeros((SIDE, SIDE), np.uint8), scratch / "mask.png"
    region[100:156, 80:136] = 255
    Image.fromarray(region).save(mask)
    return [
        Sample(f"{i}.png", f"{i % categories:02d}", "hole" if i // categories % 4 == 3 else "good",
               strip[3 * i : 3 * i + size].reshape(SIDE, SIDE, 3), mask)
        for i in range(count)
    ]  # fmt: skip


def on_images(stage: str, count: int, categories: int, folder: Path, quick: bool) -> Callable[[], Any]:
    """One stage on so many images; all but extraction share the cache in `folder`, which the stage "cache" writes."""
    config = make_config(**SMALL | (TINY if quick else {}), train__epochs=1, train__device="cpu")
    samples = make_samples(count, categories, folder)
    backbone = (Backbone if stage == "extract" else NoBackbone)(config.features)
    if stage in ("extract", "cache", "open"):
        return lambda: extract(samples, backbone, folder / ("own" if stage == "extract" else "cache"), progress=False)
    grid, channels = config.features.grid, backbone.stage_channels
    held = Features(samples, [folder / "cache" / backbone.key / f"{content_key(s)}.npz" for s in samples])
    if stage == "train":
        return lambda: train(config, held, channels, progress=False)
    trained = Trained(config, build_model(config.model, channels, grid).eval(), channels)
    if stage == "spread":
        return lambda: calibrate(trained, *split_holdout(held, config.train.holdout, 0))
    method = SimpleNamespace(
        settings=config, score=lambda part: score(trained, held.subset([int(s.name[:-4]) for s in part]))
    )
    tested = samples if stage == "pixel metrics" else [replace(s, mask=None) for s in samples]
    dataset, folders = Dataset("noise", samples, tested), Folders(folder)
    scored = lambda: run.scores_of(method, dataset, folders)[0]  # noqa: E731
    return lambda: run.measure(dataset, scored(), config.features.shape, folders=folders)


def on_grid(grid: int, images: int) -> Callable[[], Any]:
    """Training steps of the paper's network, image by image, after one to warm up."""
    config = make_config(**PAPER, features__grid=grid, train__epochs=1, train__device="cpu")
    store = np.random.default_rng(0).normal(size=(images, sum(CHANNELS), grid, grid)).astype(np.float16)
    train(config, Features([], store[:1]), CHANNELS, progress=False)
    return lambda: train(config, Features([], store), CHANNELS, progress=False)


def point(axis: str, value: int, stage: str, folder: Path, quick: bool) -> dict[str, Any]:
    """Seconds and peak memory of one stage; `value` is the number of images or categories, or the grid."""
    torch.manual_seed(0)
    if axis == "grid":
        job = on_grid(value, 1 if quick else GRIDS[value])
    else:
        count, categories = (value, 3) if axis == "images" else (20 if quick else FIXED, value)
        job = on_images(stage, count, categories, folder, quick)
    before, cpu = peak_memory_mb(), time.process_time()
    job()
    return {
        "axis": axis, "stage": stage, "value": value, "cpu_seconds": time.process_time() - cpu,
        "peak_mb": peak_memory_mb(), "start_mb": before,
    }  # fmt: skip


def plan(quick: bool) -> Iterator[tuple[str, int, list[str]]]:
    """(axis, value, stages that share a cache)."""
    for count in (20, 40) if quick else IMAGES:
        yield "images", count, [stage for stage in STAGES if count <= LARGEST.get(stage, count)]
    for categories in (2,) if quick else CATEGORIES:
        yield "categories", categories, [stage for stage in STAGES if stage != "extract"]
    for grid in (4, 6) if quick else GRIDS:
        yield "grid", grid, ["step"]


def measure(quick: bool) -> list[dict[str, Any]]:
    """Rows of all points. A child is a fork of this process, which has imported everything and done nothing."""
    torch.set_num_threads(1)  # a pool of threads would not live in the child
    rows = []
    for axis, value, stages in plan(quick):
        with tempfile.TemporaryDirectory() as folder:
            for stage in stages:
                with ProcessPoolExecutor(1, get_context("fork")) as child:
                    rows.append(child.submit(point, axis, value, stage, Path(folder), quick).result())
    return rows


def line_of(rows: list[dict], axis: str, stage: str, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Values and measurements of one stage; of a point that was measured twice the larger ones."""
    chosen = dict(sorted((r["value"], r[key]) for r in rows if (r["axis"], r["stage"]) == (axis, stage)))
    return np.array(list(chosen), float), np.array(list(chosen.values()), float)


def per_image(rows: list[dict], stage: str, key: str) -> float:
    """Growth for each further image, between 1,000 images and the most measured; more than 0, or it has no ratio."""
    x, y = line_of(rows, "images", stage, key)
    first = np.searchsorted(x, min(1_000, x[-2]))
    return max(float((y[-1] - y[first]) / (x[-1] - x[first])), 1e-6)


NOTES, MARKS = ROOT / "docs" / "NOTES.md", ("<!-- python benchmarks/growth.py --notes -->\n", "\n<!-- end -->")
MACHINE_GB = 128  # main memory of the machine in the example of the notes


def notes(rows: list[dict]) -> str:
    """The numbers of docs/NOTES.md."""
    stages = [stage for stage in STAGES if len(line_of(rows, "images", stage, "value")[0])]
    kb = {stage: per_image(rows, stage, "peak_mb") * 1e3 for stage in stages}
    table = [["one more image", "CPU ms", "kB of peak memory", "measured up to"]]
    for stage in stages:
        count, ms = line_of(rows, "images", stage, "value")[0][-1], per_image(rows, stage, "cpu_seconds") * 1e3
        table.append([STAGES[stage], f"{ms:.2f}", f"{kb[stage]:.1f}", f"{count:,.0f}"])
    x, seconds = line_of(rows, "grid", "step", "cpu_seconds")
    seconds /= [GRIDS.get(int(grid), 1) for grid in x]
    base = min(r["start_mb"] for r in rows if r["axis"] == "grid")  # the libraries; later starts hold the warm-up
    gb = (line_of(rows, "grid", "step", "peak_mb")[1] - base) / 1e3
    grids = [["grid", "tokens", "training step, CPU s an image", "its memory, GB"]]
    grids += [[f"{g:.0f}", f"{g * g:,.0f}", f"{t:.2f}", f"{m:.1f}"] for g, t, m in zip(x, seconds, gb)]
    full = MACHINE_GB * 1e6 / kb["spread"]
    power = np.log(seconds[-1] / seconds[-2]) / np.log((x[-1] / x[-2]) ** 2)
    return (
        f"{markdown(table)}\n\n{markdown(grids)}\n\n"
        f"{MACHINE_GB} GB of memory are full at {full:,.0f} normal images, whose spread is fitted in memory.\n"
        f"From grid {x[-2]:.0f} to {x[-1]:.0f} the time of a step grows as the tokens to the power of {power:.1f}."
    )


def main() -> None:
    args = arguments(__doc__, notes=False)
    if args.notes:
        return print(notes(json.loads((RESULTS / "bench-growth.json").read_text())["rows"]))
    rows = measure(args.quick)
    held = 2 * sum(CHANNELS) * 14**2 / 1e3  # kB of an image's features in half precision
    page = {"image": (per_image(rows, "train", "peak_mb") * 1e3, held)}
    publish("growth", page, rows, None, args.quick)
    before, rest = NOTES.read_text().split(MARKS[0])
    text = before + MARKS[0] + notes(rows) + MARKS[1] + rest.partition(MARKS[1])[2]
    if not args.quick:
        write_atomic(NOTES, text.encode())


if __name__ == "__main__":
    main()
