"""Milliseconds from an image file to its heatmap: ONNX Runtime beside eager torch, with both errors; PaDiM, PatchCore.

    python benchmarks/inference.py    # the extra `fast` is needed

From the file: decode, resize to 224 px, EfficientNet-Lite0 features, reconstruction, the error's length, anomaly map
at image size, image score. The baseline decodes, then computes, in eager torch; the others do as `dumenet predict`
does, which decodes the next images while it computes. PaDiM and PatchCore have their features from the same engine.
"""

import statistics
import tempfile
from pathlib import Path

import numpy as np
from report import TINY, arguments, in_turn, publish

from dumenet.config import make_config
from dumenet.data import load_image, make_factory, read_ahead
from dumenet.detector import Detector, load
from dumenet.graph import export
from dumenet.run import Folders, run

BASELINE, OTHERS = "spread, eager torch (baseline)", ("padim", "patchcore")
FEATURES = ("features__backbone", "features__weights", "features__image_size")  # of a quick try


def at_once(detector: Detector, samples: list) -> np.ndarray:
    """Maps of images that are decoded before they are computed."""
    images = [load_image(s, detector.size) for s in samples]
    return detector.run(np.stack(images), np.full(len(images), -1))[0]


def ahead(detector: Detector, samples: list) -> np.ndarray:
    """Maps as `dumenet predict` computes them."""
    parts = read_ahead(lambda s: load_image(s, detector.size), samples, detector.batch)
    return np.concatenate([detector.run(np.stack(images), np.full(len(images), -1))[0] for _, images in parts])


def main() -> None:
    args = arguments(__doc__, rounds=15)
    many, images, steps = (2, 4, 1) if args.quick else (32, 50, 60)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        data = make_factory(home / "data", categories="connector", train=images, test_good=many, per_defect=0)
        settings = {"data__source": str(data), "train__steps": steps, "train__device": "cpu"}
        outcome = run(make_config(**TINY if args.quick else {}, **settings), Folders(home), progress=False)
        files, checkpoint = outcome.dataset.test[:many], home / outcome.record["files"]["checkpoint"]
        eager = load(checkpoint, "cpu")
        features = {k: v for k, v in TINY.items() if k in FEATURES} if args.quick else {"features__runtime": "onnx"}
        runs = {BASELINE: lambda samples: at_once(eager, samples)}
        for error in ("mahalanobis", "norm"):
            export(checkpoint, home / f"{error}.onnx", error)
        ours = {
            "spread, onnxruntime": load(home / "mahalanobis.onnx"), "norm, onnxruntime": load(home / "norm.onnx"),
            **{f"{name}, onnxruntime": Detector(name, **features).fit(data / "connector") for name in OTHERS},
        }  # fmt: skip
        runs |= {title: lambda samples, detector=detector: ahead(detector, samples) for title, detector in ours.items()}
        expected = runs[BASELINE](files)
        seconds, ms = {}, {}
        for n, rounds in ((1, args.rounds), (many, -(-args.rounds // 3))):
            seconds[n] = in_turn({title: lambda job=job, n=n: job(files[:n]) for title, job in runs.items()}, rounds)
            ms[n] = {title: 1000 * statistics.median(values) / n for title, values in seconds[n].items()}
        rows = []
        for title, job in runs.items():
            row = {"error, runtime": title}
            for n, values in ms.items():
                low, high = np.quantile(seconds[n][title], (0.25, 0.75)) * 1000 / n
                row |= {f"ms, of {n}": values[title], f"quartiles, of {n}": f"{low:.3g} to {high:.3g}"}
                row[f"ratio, of {n}"] = values[BASELINE] / values[title]
            gap = np.abs(job(files) - expected).max() / np.ptp(expected)
            rows.append(row | ({"largest_difference": gap} if title.startswith("spread") else {}))
    page = {key: (ms[n]["spread, onnxruntime"], ms[n][BASELINE]) for key, n in (("one", 1), ("many", many))}
    page["spread"] = (ms[many]["spread, onnxruntime"], ms[many]["norm, onnxruntime"])
    raw = {f"{n} images": values for n, values in seconds.items()}
    publish("inference", page, rows, raw, args.quick)


if __name__ == "__main__":
    main()
