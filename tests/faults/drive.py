"""The work that `test_kill` interrupts: `python drive.py WORK HOME`. What is done is noted in HOME/log, line by line."""

import os
import sys
from functools import partial
from pathlib import Path

from dumenet import experiment, features
from dumenet.config import make_config
from dumenet.course.reproduce import reproduce
from dumenet.data import make_factory
from dumenet.paper import jobs

SMALL = {"hidden_dim": 32, "encoder_layers": 1, "decoder_layers": 1, "ffn_dim": 32, "heads": 2}
CONFIG = make_config(
    data__source="photos", features__image_size=64, features__grid=4, features__batch_size=2, train__epochs=6, train__device="cpu",
    **{f"model__{k}": v for k, v in SMALL.items()}, model__channel_memory_size=16, model__spatial_memory_size=16,
)  # fmt: skip


def note(word: str) -> None:
    with open("log", "a") as log:
        log.write(f"{word}\n")
        log.flush()
        os.fsync(log.fileno())


def noted(compute, *given):
    values = compute(*given)
    note(f"features {len(values)}")
    return values


def data() -> None:
    make_factory(Path("data/factory"), seed=1, train=10, test_good=5, per_defect=1, size=64)


def run() -> None:
    features._compute = partial(noted, features._compute)
    experiment.train = partial(experiment.train, on_epoch=lambda epoch, model: note(f"epoch {epoch}"))
    experiment.run(CONFIG, progress=False)


def table() -> None:
    chosen = {"all.features.image_size": 64, "all.device": "cpu", "DuMeNet.train.epochs": 4, "DuMeNet.features.grid": 4}
    chosen |= {f"DuMeNet.model.{k}": v for k, v in SMALL.items()}
    wanted = jobs.plan("mvtec", "photos", methods=("Gaussian", "PaDiM", "DuMeNet"), seeds=(0, 1), overrides=chosen)
    for sentence in jobs.run_jobs(wanted, progress=False):
        raise SystemExit(sentence)


def lessons() -> None:
    reproduce("quick")


if __name__ == "__main__":
    work, home = sys.argv[1:]
    os.chdir(home)
    Path("started").touch()
    note("start")
    {"data": data, "run": run, "table": table, "lessons": lessons}[work]()
    note("done")
