"""Milliseconds from an image file to its heatmap: eager torch, inference engines, PaDiM and PatchCore.

    python benchmarks/inference.py       # writes data/results/bench-inference.json and its section of benchmarks/RESULTS.md
    python benchmarks/inference.py --data data/real --category bottle    # accuracy on other images; speed hardly changes
    python benchmarks/inference.py --device cuda     # torch alone, compiled and in bfloat16; a results file and a section of its own
    python benchmarks/inference.py --quick   # a try, two rounds: prints, writes nothing

From the file: decode, resize to 224 px, EfficientNet-Lite0 features, reconstruction (hidden 128, 4 + 4 layers), anomaly map
at image size, image score. The baseline decodes, then computes, in eager torch; the engines do as `dumenet predict` does, which
decodes the next images while it computes. The rivals run in eager torch with the same backbone, loaded once, at the stages and
grids of dumenet/baselines; on a GPU their backbone runs there, their distances on the CPU. On the CPU the extras `fast` and
`openvino` are needed.
"""

import argparse
import statistics
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from report import ROOT, in_turn, named, publish, where
from torch import nn

from dumenet import engine
from dumenet.baselines import padim, patchcore
from dumenet.config import make_config
from dumenet.data import Dataset, load_image, load_mask, open_dataset
from dumenet.data.images import open_image
from dumenet.experiment import Folders, run
from dumenet.features import READERS, Backbone, Features
from dumenet.metrics import auroc, image_score
from dumenet.predict import INSIDE, OUTPUTS, Detector, Graph, _overlay, _read_ahead, export, load_detector
from dumenet.score import upsample
from dumenet.train import compiled, load_backbone, load_checkpoint

NAME, TITLE, BATCH = "bench-inference", "From image file to heatmap", 32
BASELINE = "DuMeNet, torch, eager (baseline)"
POOL = ThreadPoolExecutor(READERS)


def resident(samples, settings, _backbones={}):  # noqa: B006
    """In place of `features_of` in the rivals: no cache, and the backbone is loaded once."""
    if settings.features not in _backbones:
        _backbones[settings.features] = Backbone(settings.features).to(settings.device)
    backbone = _backbones[settings.features]
    images = torch.from_numpy(np.stack([load_image(s, settings.features.image_size) for s in samples])).to(
        settings.device
    )
    return Features(list(samples), np.arange(len(samples)), backbone(images).cpu().numpy()), backbone.stage_channels


def baseline(checkpoint: Path, device: str):
    """Eager torch, one thing after another."""
    detector = load_detector(checkpoint, "torch", device)
    return lambda samples: detector.run(np.stack([load_image(s, 224) for s in samples]))


def on_gpu(checkpoint: Path, device: str) -> dict:
    """Like `engines`, of torch: the graph that is exported elsewhere, as it is, compiled, and in bfloat16."""
    trained = load_checkpoint(checkpoint, device)
    graph = Graph(trained, load_backbone(trained)).to(device).eval()
    quick = compiled(graph, torch.device(device))

    def made(net, half: bool):
        @torch.no_grad()
        def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=half):
                maps, scores, _ = net(torch.from_numpy(images).to(device))
            return maps.float().cpu().numpy(), scores.float().cpu().numpy()

        detector = Detector(trained.config, trained.thresholds, run, BATCH)
        return lambda samples: ahead(detector, samples)

    return {
        "DuMeNet, torch, one graph": made(graph, False), "DuMeNet, torch, compiled": made(quick, False),
        "DuMeNet, torch, compiled, bfloat16": made(quick, True),
    }  # fmt: skip


def engines(checkpoint: Path, folder: Path) -> dict:
    """Candidate -> function of samples that gives their maps and scores."""
    export(checkpoint, folder / "model.onnx")
    export(checkpoint, folder / "int8.onnx", int8=True)
    made = {
        "DuMeNet, ONNX Runtime": load_detector(folder / "model.onnx", "onnx"),
        "DuMeNet, OpenVINO": load_detector(folder / "model.onnx", "openvino"),
        "DuMeNet, OpenVINO, bfloat16": load_detector(folder / "model.onnx", "openvino-bf16"),
        "DuMeNet, ONNX Runtime, int8": load_detector(folder / "int8.onnx", "onnx"),
    }  # fmt: skip
    return {name: lambda samples, d=d: ahead(d, samples) for name, d in made.items()}


def ahead(detector: Detector, samples: list) -> tuple[np.ndarray, np.ndarray]:
    """Maps and scores as `dumenet predict` computes them."""
    parts = _read_ahead([s.source for s in samples], 224, detector.together, POOL)
    maps, scores = zip(*(detector.run(np.stack([image for _, image in part])) for part in parts))
    return np.concatenate(maps), np.concatenate(scores)


class Small(nn.Module):
    """The graph up to its anomaly map of 14 x 14."""

    def __init__(self, backbone: nn.Module, model: nn.Module):
        super().__init__()
        self.backbone, self.model = backbone, model

    def forward(self, images):
        features = self.backbone(images)
        return self.model(features).anomaly_map, features


def profile(checkpoint: Path, folder: Path, sample, rounds: int) -> tuple[dict[str, dict[str, float]], dict]:
    """Milliseconds of one image in each stage, for each runtime, least of all rounds; an engine's from graphs that end earlier."""
    trained = load_checkpoint(checkpoint, "cpu")
    backbone, model = load_backbone(trained), trained.model
    engine.export(backbone, 224, INSIDE, {}, folder / "backbone.onnx")
    engine.export(Small(backbone, model), 224, ("maps",), {}, folder / "map.onnx", inside=INSIDE)
    engine.export(Graph(trained, backbone), 224, OUTPUTS, {}, folder / "whole.onnx", inside=INSIDE)
    image = load_image(sample, 224)[None]
    with torch.no_grad():
        features = backbone(torch.tensor(image))
        small = model(features).anomaly_map
        maps = upsample(small, 224).numpy()
        jobs = {
            "decode": lambda: open_image(sample.source).load(), "load": lambda: load_image(sample, 224),
            "torch backbone": lambda: backbone(torch.tensor(image)), "torch reconstruction": lambda: model(features),
            "torch upsample": lambda: upsample(small, 224), "torch score": lambda: image_score(maps),
        }  # fmt: skip
        for runtime in engine.PACKAGES:
            for part in ("backbone", "map", "whole"):
                content, _ = engine.read(folder / f"{part}.onnx")
                kind = (
                    "openvino" if (runtime, part) == ("openvino-bf16", "backbone") else runtime
                )  # its backbone is in f32
                jobs[f"{runtime} {part}"] = lambda run=engine.Engine(content, kind): run(image)
        seconds = in_turn(jobs, rounds)
    ms = {name: 1000 * min(values) for name, values in seconds.items()}
    reading = {"decode": ms["decode"], "resize": ms["load"] - ms["decode"]}
    eager = {k: ms[f"torch {k}"] for k in ("backbone", "reconstruction")}
    table = {"torch": reading | eager | {"upsample, score": ms["torch upsample"] + ms["torch score"]}}
    for runtime in engine.PACKAGES:
        ends = [0.0, *(ms[f"{runtime} {part}"] for part in ("backbone", "map", "whole"))]
        steps = zip(("backbone", "reconstruction", "upsample, score"), np.diff(ends))
        table[runtime] = reading | {name: max(float(value), 0.0) for name, value in steps}
    return table, seconds


def rivals(train: list, device: str) -> dict:
    """The same for PaDiM and PatchCore, fitted on a few images: their speed does not depend on how well."""
    padim.features_of = patchcore.features_of = resident
    methods = {
        "PaDiM, torch": padim.PaDiM(padim.PaDiMSettings(device=device)),
        "PatchCore, torch": patchcore.PatchCore(patchcore.PatchCoreSettings(device=device)),
    }
    runs = {}
    for name, method in methods.items():
        method.fit(train)

        def run(samples, method=method):
            with torch.no_grad():
                scores = method.score(samples)
            return scores.maps, scores.image

        runs[name] = run
    return runs


def accuracy(runs: dict, dataset: Dataset, limit: int) -> dict[str, dict]:
    """Of each candidate: AUROC of images and pixels, and its maps' largest difference in units of the baseline's range."""
    test = [dataset.test[i] for i in np.linspace(0, len(dataset.test) - 1, min(limit, len(dataset.test))).astype(int)]
    labels, masks = np.array([s.label for s in test]), np.stack([load_mask(s, 224) for s in test])
    parts = [test[i : i + BATCH] for i in range(0, len(test), BATCH)]
    found, expected = {}, None
    for name, job in runs.items():
        maps, scores = (np.concatenate(x) for x in zip(*map(job, parts)))
        expected = maps if expected is None else expected
        found[name] = {
            "image_auroc": auroc(labels, scores), "pixel_auroc": auroc(masks, maps),
            "map_difference": float(np.abs(maps - expected).max() / np.ptp(expected)) if name.startswith("DuMeNet") else None,
        }  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="factory")
    parser.add_argument("--category", default="connector")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    rounds, tests, epochs = (2, 8, 1) if args.quick else (args.rounds, 200, 20)
    settings = {"data__source": args.data, "data__categories": [args.category], "train__epochs": epochs}
    outcome = run(make_config(**settings, train__device=args.device), Folders(ROOT), tag="inference")
    dataset = open_dataset(args.data, (args.category,), home=ROOT / "data")
    files = (dataset.test * BATCH)[:BATCH]
    few, on_cpu = dataset.train[: 8 if args.quick else 50], args.device == "cpu"
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = ROOT / outcome.record["files"]["checkpoint"]
        runs = {BASELINE: baseline(checkpoint, args.device)}
        runs |= engines(checkpoint, Path(folder)) if on_cpu else on_gpu(checkpoint, args.device)
        runs |= rivals(few, args.device)
        sizes = {p.stem: round(p.stat().st_size / 1e6, 1) for p in Path(folder).iterdir()}
        stages, stage_seconds = profile(checkpoint, Path(folder), files[0], rounds) if on_cpu else ({}, {})
    right = accuracy(runs, dataset, tests)
    seconds = {
        1: in_turn({name: lambda job=job: job(files[:1]) for name, job in runs.items()}, rounds),
        BATCH: in_turn(
            {name: lambda job=job: job(files) for name, job in runs.items()}, max(rounds // 3, 1), warm_up=1
        ),
    }
    image, (anomaly_map,) = load_image(files[0], 224), runs[BASELINE](files[:1])[0]
    drawing = in_turn({"overlay": lambda: _overlay(image, anomaly_map, 1.0, "an image: normal")}, rounds)["overlay"]
    rows = []
    for name in runs:
        row: dict = {"candidate": name}
        for batch, raw in seconds.items():
            middle, base = statistics.median(raw[name]), statistics.median(raw[BASELINE])
            row |= {f"ms_per_image_{batch}": round(1000 * middle / batch, 1), f"ratio_{batch}": round(base / middle, 2)}
        rows.append(row | right[name])
    command = "python benchmarks/inference.py" + (
        f" --data {args.data} --category {args.category}" if args.data != "factory" else ""
    ) + f" --rounds {args.rounds}" + ("" if on_cpu else f" --device {args.device}")  # fmt: skip
    versions = {name: metadata.version(name) for name in ("onnxruntime", "openvino") if on_cpu}
    name, title = named(NAME, TITLE, args.device)
    less = {
        "bfloat16": f"{'what follows the features' if on_cpu else 'all of it'} in bfloat16",
        "int8": "in int8",
    }  # ends of names
    single = [r for r in rows[1:] if r["candidate"].startswith("DuMeNet") and not r["candidate"].endswith(tuple(less))]
    best = {b: max(r[f"ratio_{b}"] for r in single) for b in seconds}
    met = {b: f"{'met' if r >= 4 else 'missed'} ({r})" for b, r in best.items()}
    exact = max(r["map_difference"] for r in single)
    number = lambda x, form: "–" if x is None else format(x, form)  # noqa: E731
    by_choice = [
        f"{less[kind]}: {r['ratio_1']} and {r[f'ratio_{BATCH}']} times, maps within {r['map_difference']:.0e}, "
        f"image AUROC {r['image_auroc'] - rows[0]['image_auroc']:+.4f}"
        for r in rows for kind in less if r["candidate"].endswith(kind)
    ]  # fmt: skip
    text = [
        f"`{command}`, medians of {rounds} rounds in turn (batch {BATCH}: {max(rounds // 3, 1)})"
        f"{''.join(f', {k} {v}' for k, v in versions.items())}; {where(name, args.device)} "
        f"The aim is 4 times the baseline with maps equal to 1e-3 of their range. In single precision (largest difference {exact:.0e}): "
        f"{met[1]} for one image, {met[BATCH]} for {BATCH}. By choice, {'; '.join(by_choice)}. AUROC on {dataset.name}'s {args.category} "
        f"after {epochs} epochs; the rivals were fitted on {len(few)} images."
        + (f" Exported file: {sizes['model']} MB, in int8 {sizes['int8']} MB." if on_cpu else ""),
        "", f"| from file to heatmap | one image, ms | ratio | batch {BATCH}, ms an image | ratio | largest difference of maps | "
        "image AUROC | pixel AUROC |", "|---|---|---|---|---|---|---|---|",
        *(
            f"| {r['candidate']} | {r['ms_per_image_1']} | {r['ratio_1']} | {r[f'ms_per_image_{BATCH}']} | {r[f'ratio_{BATCH}']} | "
            f"{number(r['map_difference'], '.0e')} | {number(r['image_auroc'], '.4f')} | {number(r['pixel_auroc'], '.4f')} |"
            for r in rows
        ),
    ]  # fmt: skip
    if on_cpu:
        gain = {stage: stages["torch"][stage] / stages["openvino"][stage] for stage in ("backbone", "reconstruction")}
        text += [
            "", f"Where the time of one image goes, in ms (share), from the least of {rounds} rounds of each part:", "",
            f"| stage | {' | '.join(stages)} |", "|---" * (len(stages) + 1) + "|",
            *(
                f"| {stage} | " + " | ".join(f"{p[stage]:.1f} ({p[stage] / sum(p.values()):.0%})" for p in stages.values()) + " |"
                for stage in stages["torch"]
            ),
            "", f"What limits the ratio: in single precision OpenVINO takes the backbone {gain['backbone']:.1f} times as fast as eager torch, the "
            f"reconstruction only {gain['reconstruction']:.1f} times; decode and resize cost the same whatever computes.",
        ]  # fmt: skip
    text += [
        "", f"Drawing and writing the overlay of `dumenet predict` takes {1000 * statistics.median(drawing):.0f} ms an image more, "
        "whatever computes.",
    ]  # fmt: skip
    raw = {f"batch {batch}": values for batch, values in seconds.items()} | {"overlay": drawing}
    record = {
        "command": command,
        "engines": versions,
        "megabytes": sizes,
        "rows": rows,
        "stages_ms": stages,
        "seconds": raw,
        "stage_seconds": stage_seconds,
    }
    publish(name, title, record, text, args.quick, args.device)


if __name__ == "__main__":
    main()
