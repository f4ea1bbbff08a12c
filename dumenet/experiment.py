"""One run from configuration to results file: data, features, training, scores, metrics."""

import hashlib
import json
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dumenet import parallel
from dumenet.checkpoint import Trained, load_backbone, load_checkpoint, pick_device, save_checkpoint
from dumenet.config import Config, EvalConfig, to_dict
from dumenet.data import Dataset, contaminate, fingerprint, hold_out_class, load_mask, open_dataset
from dumenet.errors import DumenetError, shown
from dumenet.features import Backbone, Features, extract
from dumenet.metrics import evaluate_scores
from dumenet.results import machine, peak_memory_mb, write_result
from dumenet.score import Scores, calibrate, evaluated, score
from dumenet.train import split_holdout, train


@dataclass(frozen=True, eq=False)
class Folders:
    """Where a run keeps things, all below `home`."""

    home: Path = Path(".")

    @property
    def cache(self) -> Path:
        """Feature caches: safe to delete."""
        return self.home / "build" / "cache"

    @property
    def runs(self) -> Path:
        """Checkpoints: one folder a run."""
        return self.home / "build" / "runs"

    @property
    def results(self) -> Path:
        """Results files, from which every table and figure is made."""
        return self.home / "data" / "results"


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a run leaves in memory; `record` is what it leaves on disk."""

    record: dict[str, Any]
    trained: Trained
    dataset: Dataset
    test: Features | None  # None where the data set has no test images
    scores: Scores | None


def load_data(config: Config, folders: Folders = Folders()) -> Dataset:
    """The data set that `config.data` names, contaminated as it asks."""
    d = config.data
    dataset = open_dataset(
        d.source, d.categories, d.normals, home=folders.home / "data",
        per_class_train=d.per_class_train, per_class_test=d.per_class_test, seed=d.seed,
    )  # fmt: skip
    if d.validation_class is not None:
        dataset = hold_out_class(dataset, d.validation_class, seed=d.seed)
    return contaminate(dataset, d.contamination, d.contamination_reserve, d.seed)


def run_name(config: Config, dataset: Dataset) -> str:
    """Readable, and different for every configuration with another result."""
    values = to_dict(config)
    del values["train"]["device"]
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
    categories = dataset.categories
    what = categories[0].strip("{}") if len(categories) == 1 else f"{len(categories)}categories"
    return f"{_short(dataset.name)}-{_short(what)}-{config.model.name}-seed{config.train.seed}-{digest}"


def training(config: Config) -> Config:
    """The part of a configuration that training depends on: how a model is evaluated is none."""
    return replace(config, evaluation=EvalConfig(), train=replace(config.train, device="auto"))


def _short(name: str) -> str:
    """A folder's name may be as long as a file's; two of them and more must fit into one."""
    return name.encode()[:60].decode(errors="ignore")


def run(config: Config, folders: Folders = Folders(), tag: str | None = None, progress: bool = True) -> Outcome | None:
    """Train and evaluate one configuration; a finished checkpoint of the same configuration is used again.

    Args:
        tag: groups records in the results folder, for example by the notebook that ran them.

    Returns:
        None in all but the first of several processes that train together.

    Raises:
        DumenetError: whatever is wrong with the data, the weights or the disk, in one sentence.
    """
    if tag and not re.fullmatch(r"[\w. -]{1,60}", tag):
        raise DumenetError(f"The tag {shown(tag)} cannot begin a file name: use up to 60 letters, digits and -_. only.")
    dataset = load_data(config, folders)
    if not dataset.train:
        raise DumenetError(f"{dataset.name} has no normal training images: put some into <category>/train/good.")
    untrained = sorted({s.category for s in dataset.test} - {s.category for s in dataset.train})
    if untrained:
        raise DumenetError(
            f"Category {untrained[0]} has test images and none in train/good: put some there, or leave it out by --category."
        )
    checkpoint = folders.runs / run_name(training(config), dataset) / "checkpoint.pt"
    start = time.perf_counter()
    backbone = Backbone(config.features).to(pick_device(config.train.device))
    features = extract(dataset.train, backbone, folders.cache, progress)
    seconds = {"train features": time.perf_counter() - start}
    origin = {"data": fingerprint(dataset), "backbone": backbone.key}
    trained = _finished(checkpoint, config, origin)
    if trained is None:
        start = time.perf_counter()
        keep, holdout = split_holdout(features, config.train.holdout, config.train.seed)
        state = checkpoint.with_name("state.pt")
        trained = train(config, keep, backbone.stage_channels, state, progress=progress, origin=origin)
        if parallel.rank():
            return None
        calibrate(trained, keep, holdout)
        trained.origin |= {"seconds": trained.earlier + time.perf_counter() - start}
        save_checkpoint(trained, checkpoint)
        state.unlink(missing_ok=True)
    seconds["train"] = trained.origin["seconds"]
    return _evaluated(trained, config, dataset, backbone, folders, tag, checkpoint, seconds, progress)


def evaluate_checkpoint(path: Path, overrides: dict[str, Any], folders: Folders = Folders()) -> Outcome:
    """Evaluate a checkpoint on its own data set, or on what `overrides` ("data.source": ...) name.

    Raises:
        DumenetError: an override of something that the checkpoint fixes, or no test images.
    """
    trained = load_checkpoint(path)
    fixed = [k for k in overrides if not k.startswith(("data.", "evaluation."))]
    if fixed:
        raise DumenetError(f"{fixed[0]} is fixed in a checkpoint; only data.* and evaluation.* can change here.")
    trained = evaluated(trained, overrides)
    config = trained.config
    dataset = load_data(config, folders)
    if not dataset.test:
        raise DumenetError(f"{dataset.name} has no test images: put some into <category>/test/good and test/<defect>.")
    backbone = load_backbone(trained)
    return _evaluated(trained, config, dataset, backbone, folders, "evaluate", Path(path), {}, True)


def _evaluated(
    trained: Trained, config: Config, dataset: Dataset, backbone: Backbone, folders: Folders, tag: str | None,
    checkpoint: Path, seconds: dict[str, float], progress: bool,
) -> Outcome:  # fmt: skip
    """Score the test images and write the record."""
    start = time.perf_counter()
    test = extract(dataset.test, backbone, folders.cache, progress) if dataset.test else None
    seconds["test features"] = time.perf_counter() - start
    start = time.perf_counter()
    scores, metrics = evaluate(trained, dataset, test) if test else (None, None)
    seconds["evaluate"] = time.perf_counter() - start
    name, peak = run_name(config, dataset), peak_memory_mb()
    path = folders.results / f"{tag + '-' if tag else ''}{name}.json"
    record = {
        "name": name, "tag": tag, "config": to_dict(config), "seed": config.train.seed,
        "data": {"name": dataset.name, "fingerprint": fingerprint(dataset), "train": len(dataset.train),
                 "test": len(dataset.test)},
        "precision": trained.origin.get("precision"), "categories_found": scores and scores.found_right(dataset.test),
        "spread_mb": trained.spread and round(trained.spread.megabytes, 1),
        "backbone": backbone.key, "parameters": sum(p.numel() for p in trained.model.parameters()),
        "history": trained.history, "thresholds": trained.thresholds, "metrics": metrics,
        "seconds": {k: round(v, 2) for k, v in seconds.items()}, "peak_memory_mb": peak and round(peak),
        "device": str(next(trained.model.buffers()).device), "machine": machine(),
        "files": {"results": path.as_posix(), "checkpoint": Path(checkpoint).as_posix()},
    }  # fmt: skip
    write_result(path, record)
    return Outcome(record, trained, dataset, test, scores)


def _finished(checkpoint: Path, config: Config, origin: dict[str, Any]) -> Trained | None:
    """The model of an earlier run with the same training on the same images, if there is one."""
    try:
        trained = load_checkpoint(checkpoint, config.train.device)
    except DumenetError:
        return None
    if training(trained.config) != training(config) or any(trained.origin.get(k) != v for k, v in origin.items()):
        return None
    return evaluated(trained, {f"evaluation.{k}": v for k, v in to_dict(config)["evaluation"].items()})


def evaluate(trained: Trained, dataset: Dataset, test: Features) -> tuple[Scores, dict[str, Any]]:
    """Scores of the test images, and their metrics per category, mean and pooled."""
    scores = score(trained, test, keep_maps=dataset.has_masks)
    size = trained.config.features.image_size
    masks = [load_mask(s, size) for s in test.samples] if dataset.has_masks else None
    metrics = evaluate_scores(
        np.array([s.label for s in test.samples]), scores.image, np.array([s.category for s in test.samples]),
        masks, scores.maps, trained.config.evaluation.bootstrap, trained.config.train.seed,
    )  # fmt: skip
    return scores, metrics


def per_category(config: Config, folders: Folders = Folders()) -> list[Config]:
    """The separate setting: one configuration for each category of the data set."""
    return [replace(config, data=replace(config.data, categories=(c,))) for c in load_data(config, folders).categories]
