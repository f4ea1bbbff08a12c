"""The work that `test_kill` interrupts: `python drive.py HOME COMMAND`, where "factory" makes a small data set.

HOME/log gets a line at the start, for each batch of images that the backbone sees, for each epoch, and at the end.
"""

import os
import sys
from pathlib import Path

from dumenet.cli import main
from dumenet.course import reproduce  # noqa: F401  imported now, so that the clock starts with the work
from dumenet.data import make_factory
from dumenet.features import Backbone
from dumenet.methods import network
from dumenet.paper import tables  # noqa: F401


def note(text: str) -> None:
    with open("log", "a") as log:
        log.write(f"{text}\n")
        log.flush()
        os.fsync(log.fileno())


def noted_forward(backbone, images):
    features = forward(backbone, images)
    note(f"images {len(images)}")
    return features


if __name__ == "__main__":
    home, command = sys.argv[1:]
    os.chdir(home)
    forward, Backbone.forward = Backbone.forward, noted_forward
    train = network.train
    network.train = lambda *given: train(*given[:4], lambda epoch, model: note(f"epoch {epoch}"), *given[5:])
    note("start")
    if command == "factory":
        make_factory(Path("data/factory"), seed=1, train=10, test_good=5, per_defect=1, size=64)
    elif code := main(command.split()):
        sys.exit(code)
    note("end")
