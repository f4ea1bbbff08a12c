"""Seconds of `dumenet predict` for one image, from the start of the command to its end, with its files written.

    python benchmarks/predict.py    # the extra `fast` is needed

Of a checkpoint, and of the same exported. The baseline imports what the former needs, torch and timm, and does nothing.
"""

import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from report import TINY, arguments, in_turn, publish

import dumenet
from dumenet.data import make_factory
from dumenet.graph import export

BASELINE = "import torch, timm (baseline)"


def main() -> None:
    args = arguments(__doc__, rounds=5)
    images, settings = (4, TINY) if args.quick else (20, {})
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        good = make_factory(home / "data", 0, "cap", train=images, test_good=1, per_defect=0) / "cap" / "train" / "good"
        checkpoint = dumenet.Detector(train__steps=2, **settings).fit(good).save(home / "model.pt")
        commands = {BASELINE: ["-c", "import torch, timm"]}
        for title, model in {"checkpoint": checkpoint, "graph": export(checkpoint, home / "model.onnx")}.items():
            commands[title] = ["-m", "dumenet.cli", "predict", model, min(good.iterdir()), "--out", home / title]
        quiet = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        jobs = {k: partial(subprocess.run, [sys.executable, *command], **quiet) for k, command in commands.items()}
        seconds = in_turn(jobs, args.rounds)
    median = {title: statistics.median(values) for title, values in seconds.items()}
    page = {"checkpoint": (median["checkpoint"], median[BASELINE]), "graph": (median["graph"], median["checkpoint"])}
    publish("predict", page, [{"command": k, "seconds": v} for k, v in median.items()], seconds, args.quick)


if __name__ == "__main__":
    main()
