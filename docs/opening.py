"""Draws docs/opening.png: of each category of a checkpoint the defective test image with the middle score. Maps are in
units of the category's threshold, from 0 to 2.

python docs/opening.py build/runs/.../checkpoint.pt DATA bottle capsule screw transistor
"""

import sys
from pathlib import Path

import numpy as np

from dumenet import plots
from dumenet.checkpoint import load_backbone, load_checkpoint
from dumenet.data import load_image, load_mask, read_folder
from dumenet.features import extract
from dumenet.score import score

checkpoint, data, *categories = sys.argv[1:]
trained, shown = load_checkpoint(checkpoint), []
size = trained.config.features.image_size
for sample in (read_folder(data, name) for name in categories):
    bad = [s for s in sample.test if s.label]
    scores = score(trained, extract(bad, load_backbone(trained)))
    middle = np.argsort(scores.image)[len(bad) // 2]
    shown.append((bad[middle], (scores.maps[middle] / trained.thresholds[bad[middle].category]).clip(0, 2)))
fig = plots.sheet(
    [load_image(s, size) for s, _ in shown],
    [m for _, m in shown],
    [load_mask(s, size) for s, _ in shown],
    [f"{s.category}: {s.defect}" for s, _ in shown],
)
fig.savefig(Path(__file__).with_suffix(".png"), dpi=80)
