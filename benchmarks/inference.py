"""Milliseconds from an image file to its heatmap: eager torch, inference engines, PaDiM and PatchCore.

    python benchmarks/inference.py           # writes data/results/bench-inference.json and its section of RESULTS.md
    python benchmarks/inference.py --quick   # a try, one round: prints, writes nothing

From the file: decode, resize to 224 px, EfficientNet-Lite0 features, reconstruction, the error's length, anomaly map
at image size, image score. The baseline decodes, then computes, in eager torch; the engines do as `dumenet predict`
does, which decodes the next images while it computes. The rivals run in eager torch with the same backbone, loaded
once. The extra `fast` is needed; OpenVINO is measured where it is installed.
"""

import argparse
import importlib.util
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from report import ROOT, in_turn, publish, where

from dumenet import engine
from dumenet.config import make_config
from dumenet.data import load_image
from dumenet.features import Backbone, Features, read_ahead
from dumenet.methods import padim, patchcore
from dumenet.predict import Detector, export, load_detector
from dumenet.run import Folders, run

NAME, TITLE, BATCH = "bench-inference", "From image file to heatmap", 32
BASELINE = "DuMeNet, spread, torch, eager (baseline)"


def resident(samples, settings, _backbones={}):  # noqa: B006
    """In place of `features_of` in the rivals: no cache, and the backbone is loaded once."""
    if settings.features not in _backbones:
        _backbones[settings.features] = Backbone(settings.features)
    backbone = _backbones[settings.features]
    images = torch.from_numpy(np.stack([load_image(s, settings.features.image_size) for s in samples]))
    return Features(list(samples), np.arange(len(samples)), backbone(images).numpy()), backbone.stage_channels


def ahead(detector: Detector, samples: list) -> np.ndarray:
    """Maps as `dumenet predict` computes them."""
    parts = read_ahead(lambda s: load_image(s, 224), samples, detector.batch)
    return np.concatenate([detector.run(np.stack(images), np.full(len(images), -1))[0] for _, images in parts])


def rivals(train: list) -> dict:
    """PaDiM and PatchCore, fitted on a few images: their speed does not depend on how well."""
    padim.features_of = patchcore.features_of = resident
    runs = {}
    for name, method in {"PaDiM, torch": padim.PaDiM(), "PatchCore, torch": patchcore.PatchCore()}.items():
        method.fit(train)

        def score(samples, method=method):
            with torch.no_grad():
                return method.score(samples).maps

        runs[name] = score
    return runs


def candidates(checkpoint: Path, folder: Path) -> dict:
    """Name -> function of samples that gives their maps."""
    eager = load_detector(checkpoint, "torch", "cpu")
    none = lambda n: np.full(n, -1)  # noqa: E731
    runs = {BASELINE: lambda samples: eager.run(np.stack([load_image(s, 224) for s in samples]), none(len(samples)))[0]}
    for error, title in (("mahalanobis", "DuMeNet, spread"), ("norm", "DuMeNet")):
        export(checkpoint, folder / f"{error}.onnx", error)
        for runtime, (package, _) in engine.ENGINES.items():
            if importlib.util.find_spec(package):
                detector = load_detector(folder / f"{error}.onnx", runtime)
                runs[f"{title}, {package}"] = lambda samples, d=detector: ahead(d, samples)
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    rounds = 1 if args.quick else args.rounds
    settings = {"data__categories": ["connector"], "train__steps": 1 if args.quick else 60, "train__device": "cpu"}
    outcome = run(make_config(**settings), Folders(ROOT), tag="inference", progress=False)
    files = (outcome.dataset.test * BATCH)[:BATCH]
    with tempfile.TemporaryDirectory() as folder:
        runs = candidates(ROOT / outcome.record["files"]["checkpoint"], Path(folder))
        sizes = {p.stem: round(p.stat().st_size / 1e6, 1) for p in Path(folder).iterdir()}
    expected = runs[BASELINE](files)
    own = [name for name in runs if name.startswith("DuMeNet, spread")]
    off = max(float(np.abs(runs[name](files) - expected).max() / np.ptp(expected)) for name in own)
    runs |= rivals(outcome.dataset.train[: 8 if args.quick else 50])
    seconds = {
        n: in_turn(
            {k: lambda job=job, n=n: job(files[:n]) for k, job in runs.items()}, max(rounds // max(n // 8, 1), 1)
        )
        for n in (1, BATCH)
    }
    rows = []
    for name in runs:
        row: dict = {"candidate": name}
        for batch, raw in seconds.items():
            middle, base = statistics.median(raw[name]), statistics.median(raw[BASELINE])
            row |= {f"ms_per_image_{batch}": round(1000 * middle / batch, 1), f"ratio_{batch}": round(base / middle, 2)}
        rows.append(row)
    text = [
        f"`python benchmarks/inference.py --rounds {args.rounds}`, medians of rounds in turn; {where(NAME)} Maps of the engines equal "
        f"eager torch's to {off:.0e} of their range. Exported file: {sizes['mahalanobis']} MB with the spread, {sizes['norm']} MB "
        f"without.", "",
        f"| from file to heatmap | one image, ms | ratio | batch {BATCH}, ms an image | ratio |", "|---|---|---|---|---|",
        *(f"| {r['candidate']} | {r['ms_per_image_1']} | {r['ratio_1']} | {r[f'ms_per_image_{BATCH}']} | {r[f'ratio_{BATCH}']} |"
          for r in rows),
    ]  # fmt: skip
    raw = {f"batch {batch}": values for batch, values in seconds.items()}
    record = {"command": f"python benchmarks/inference.py --rounds {args.rounds}", "megabytes": sizes, "rows": rows}
    publish(NAME, TITLE, record | {"largest_difference": off, "seconds": raw}, text, args.quick)


if __name__ == "__main__":
    main()
