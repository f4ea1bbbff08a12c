"""Images per second from image files to cached features: hash, decode, resize, backbone, write.

    python benchmarks/features.py                  # ONNX Runtime beside eager torch
    python benchmarks/features.py --device cuda    # torch on a GPU beside torch on the CPU

EfficientNet-Lite0, stages at strides 2 to 16, 224 px, aligned to 14 x 14; 96 images of 256 px of the factory. The
engine's graph is exported before.
"""

import statistics
import tempfile
from pathlib import Path

import numpy as np
from report import TINY, arguments, in_turn, publish

from dumenet.config import make_config
from dumenet.data import make_factory, open_dataset
from dumenet.features import Backbone, extract

BASELINE = "eager torch (baseline)"


def main() -> None:
    args = arguments(__doc__, rounds=5, device="cpu")
    ours = ("ONNX Runtime", "onnx") if args.device == "cpu" else ("torch on a GPU", "torch")
    runtimes, count = dict([(BASELINE, "torch"), ours]), 4 if args.quick else 96
    with tempfile.TemporaryDirectory() as folder:
        data = make_factory(Path(folder, "data"), train=-(-count // 6), test_good=0, per_defect=0)
        samples = open_dataset(data).train[:count]
        backbones, features, jobs = {}, {}, {}
        for title, runtime in runtimes.items():
            config = make_config(**TINY if args.quick else {}, features__runtime=runtime)
            backbones[title] = Backbone(config.features).to("cpu" if title == BASELINE else args.device)

            def job(title=title) -> None:
                cache = Path(folder, title)
                for file in (cache / backbones[title].key).glob("*.npz"):
                    file.unlink()
                features[title] = extract(samples, backbones[title], cache, progress=False).batch(np.arange(count))

            job()
            jobs[title] = job
        seconds = in_turn(jobs, args.rounds)
    speed = {title: count / statistics.median(values) for title, values in seconds.items()}
    rows = [
        {
            "backbone": title, "images_per_second": value, "ratio_to_baseline": value / speed[BASELINE],
            "largest_difference": (features[title] - features[BASELINE]).abs().max().item(),
        }
        for title, value in speed.items()
    ]  # fmt: skip
    page = {"fast": (speed[ours[0]], speed[BASELINE])}
    publish("features", page, rows, seconds, args.quick, args.device)


if __name__ == "__main__":
    main()
