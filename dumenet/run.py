"""One job, from settings to a results file: data, training, scores, metrics. `dumenet train` runs one, a table many.

A job is a method, its settings and a data set. Its identity is everything that its numbers depend on: all settings but
those that say where (`dumenet.config.PLACE`), the images and the masks. A setting that an older record lacks has its
default there, so that a setting added later changes no identity. A network's training has an identity of its own,
without evaluation and test images: its checkpoint serves every job that differs in nothing else.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from dumenet import parallel
from dumenet.checkpoint import Trained, load_backbone, load_checkpoint, pick_device
from dumenet.config import SOURCES, Config, DataConfig, EvalConfig, counted, to_dict
from dumenet.data import Dataset, Sample, contaminate, cut, fingerprint, hold_out_class, load_mask, open_dataset
from dumenet.data.images import mask_files
from dumenet.errors import DumenetError, refused, shown, unknown
from dumenet.features import Features
from dumenet.files import write_atomic
from dumenet.methods import METHODS, NETWORKS, Method
from dumenet.methods.network import Network, NetworkSettings
from dumenet.metrics import POOLINGS, WINDOW, auroc, evaluate_scores, image_score
from dumenet.results import machine, peak_memory_mb, write_result
from dumenet.score import Scores, evaluated, of_photographs, score
from dumenet.sweep import sweep

COLUMNS = ["image", "category", "defect", "score"]  # of the file of a run's scores, beside its record
CHUNK = 512  # images scored at a time
COSTED = 32  # test images that a record's cost is measured on


@dataclass(frozen=True, eq=False)
class Folders:
    """Where a run keeps things, all below `home`."""

    home: Path = Path(".")
    cache = property(lambda self: self.home / "build" / "cache")  # of features: safe to delete
    runs = property(lambda self: self.home / "build" / "runs")  # checkpoints, one folder for each training
    results = property(lambda self: self.home / "data" / "results")  # from which every table and figure is made


def load_data(config: Config, folders: Folders = Folders()) -> Dataset:
    """The data set that `config.data` names, contaminated as it asks."""
    d = config.data
    dataset = open_dataset(
        d.source, d.categories, d.normals, home=folders.home / "data",
        per_class_train=d.per_class_train, per_class_test=d.per_class_test, seed=d.seed, normal_names=d.normal_names,
        pixel_range=d.pixel_range,
    )  # fmt: skip
    if d.validation_class is not None:
        dataset = hold_out_class(dataset, d.validation_class, seed=d.seed)
    return contaminate(dataset, d.contamination, d.contamination_reserve, d.seed)


def per_category(config: Config, folders: Folders = Folders()) -> list[Config]:
    """The separate setting: one configuration for each category of the data set."""
    return [replace(config, data=replace(config.data, categories=(c,))) for c in load_data(config, folders).categories]


@dataclass(frozen=True, eq=False)
class Job:
    """One fit of a method on one training set, and its scores of the test images. `dataset` is shared between jobs.

    The last fields are of a table's jobs: which table and column, "unified" or "separate", and the command that makes
    the record again.
    """

    method: str  # of METHODS
    settings: Any  # the method's own dataclass, seed included
    data: DataConfig
    dataset: Dataset
    tag: str | None = None  # groups records
    table: str | None = None
    column: str | None = None
    setting: str | None = None
    command: str | None = None
    evaluated: str | None = None  # SHA-256 of the checkpoint that is evaluated, where none is trained
    watched: bool = False  # score the test images after every epoch too: what choosing the best epoch would buy

    @property
    def identity(self) -> dict[str, Any]:
        """What the numbers depend on."""
        images, masks, _ = _digests(self.dataset)
        own = {"settings": counted(self.settings), "data": counted(self.data), "fingerprint": images, "masks": masks}
        return own | ({"checkpoint": self.evaluated} if self.evaluated else {}) | self._files

    @property
    def name(self) -> str:
        """Readable, and different for every identity; but other masks are a reason to run again under the same name."""
        given = {k: v for k, v in self.identity.items() if k != "masks"}
        return self._named(given, self.table, self.setting, self.column or self.method)

    @property
    def training(self) -> str:
        """Name of what is trained: one for all jobs that differ in evaluation, test images or device alone."""
        settings = {k: v for k, v in counted(self.settings).items() if k != "evaluation"}
        given = {"settings": settings, "fingerprint": _digests(self.dataset)[2]} | self._files
        return self._named(given, None, None, self.method)

    @property
    def _files(self) -> dict[str, str]:
        """SHA-256 of given files, whose paths may come to hold others: the backbone's weights, and the checkpoint that
        training goes on from.
        """
        paths = {"weights": self.settings.features.weights}
        paths |= {"start": self.settings.train.start} if self.method in NETWORKS else {}
        found = {}
        for key, path in paths.items():
            with contextlib.suppress(OSError, TypeError):  # whoever loads it has a sentence for it
                found[key] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        return found

    def _named(self, identity: dict[str, Any], table: str | None, setting: str | None, column: str) -> str:
        defaults = {"settings": counted(type(self.settings)()), "data": counted(DataConfig())}
        digest = hashlib.sha256(json.dumps(_changed(identity, defaults), sort_keys=True).encode()).hexdigest()[:8]
        found = self.dataset.categories
        what = found[0].strip("{}") if len(found) == 1 else f"{len(found)}categories"
        column = "".join(c if c.isalnum() or c in "+-.=" else "_" for c in column)
        parts = (table, _short(self.dataset.name), _short(what), setting, column, f"seed{self.settings.seed}", digest)
        return "-".join(part for part in parts if part)

    def path(self, folders: Folders = Folders()) -> Path:
        """Where its results file lies."""
        return folders.results / f"{self.tag + '-' if self.tag else ''}{self.name}.json"

    def finished(self, folders: Folders = Folders()) -> dict[str, Any] | None:
        """Its record, if it has one; what an older record lacks is as it is by default, or not compared."""
        try:
            record = json.loads(self.path(folders).read_text(encoding="utf-8"))
            return record if _changed(record["identity"], self.identity) == {} else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


def network_job(config: Config, folders: Folders = Folders(), tag: str | None = None) -> Job:
    """The job of one of this package's own networks.

    Raises:
        DumenetError: whatever is wrong with the data, or a tag that cannot begin a file's name.
    """
    if tag and not re.fullmatch(r"[\w. -]{1,60}", tag):
        raise DumenetError(f"The tag {shown(tag)} cannot begin a file name: use up to 60 letters, digits and -_. only.")
    return Job(config.model.name, NetworkSettings.of(config), config.data, load_data(config, folders), tag)


def _changed(values: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """The part of `values` that `others` has not, or has otherwise."""
    found = {}
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(others.get(key), dict):
            value = _changed(value, others[key])
            if value:
                found[key] = value
        elif key not in others or others[key] != value:
            found[key] = value
    return found


def _short(name: str) -> str:
    """A folder's name may be as long as a file's; two of them and more must fit into one."""
    return name.encode()[:60].decode(errors="ignore")


_DIGESTS: WeakKeyDictionary[Dataset, tuple[str, str, str]] = WeakKeyDictionary()


def _digests(dataset: Dataset) -> tuple[str, str, str]:
    """Of all images, of the masks and of the training images of a data set that several jobs share: read once."""
    if dataset not in _DIGESTS:
        masks = hashlib.sha256()
        for s in dataset.test:
            with contextlib.suppress(OSError):  # whoever reads the masks has a sentence for it
                files = mask_files(s.mask) if s.mask else []
                masks.update(f"{s.name} ".encode() + b"".join(hashlib.sha256(f.read_bytes()).digest() for f in files))
        images = fingerprint(dataset), fingerprint(replace(dataset, test=[]))
        _DIGESTS[dataset] = images[0], masks.hexdigest()[:16], images[1]
    return _DIGESTS[dataset]


# --- running


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a run leaves in memory; `record` is what it leaves on disk."""

    record: dict[str, Any]
    method: Method
    dataset: Dataset
    scores: Scores | None  # None where the data set has no test images

    @property
    def trained(self) -> Trained:
        """The model, of this package's own networks."""
        return self.method.trained

    @cached_property
    def test(self) -> Features | None:
        """Features of the test images, for one of these networks."""
        tiles = self.method.settings.features.tiles
        return self.method.features(cut(self.dataset.test, tiles)) if self.dataset.test else None


def run(
    job: Job | Config, folders: Folders = Folders(), tag: str | None = None, progress: bool = True,
    command: str | None = None,
) -> Outcome | None:  # fmt: skip
    """Fit, score, measure, and write the record; a finished training of the same identity is used again.

    Args:
        job: or the configuration of one of this package's own networks, with the `tag` of its record and the `command`
            that makes it again.

    Returns:
        None in all but the first of several processes that train together.

    Raises:
        DumenetError: whatever is wrong with the data, the weights or the disk, in one sentence.
    """
    if isinstance(job, Config):
        job = replace(network_job(job, folders, tag), command=command)
    dataset = job.dataset
    if not dataset.train:
        raise DumenetError(f"{dataset.name} has no normal training images: put some into <category>/train/good.")
    if job.table and not dataset.test:
        raise DumenetError(f"{dataset.name} has no test images: a table needs some.")
    untrained = sorted({s.category for s in dataset.test} - {s.category for s in dataset.train})
    if untrained:
        raise DumenetError(
            f"Category {untrained[0]} has test images and none in train/good: put some there, or leave it out by "
            "--category."
        )
    keeps = job.method in NETWORKS and not job.watched  # to go on would lose what was seen before
    checkpoint = folders.runs / job.training / "checkpoint.pt" if keeps else None
    state = checkpoint and checkpoint.with_name("state.pt")
    method = METHODS[job.method](replace(job.settings, cache=folders.cache, progress=progress, state=state))
    by_epoch: list[float | None] = []
    if job.watched:
        method.on_epoch = lambda epoch: by_epoch.append(
            _image_auroc(dataset, scores_of(method, dataset, folders)[0].image)
        )
    start, spent = time.perf_counter(), time.process_time()
    train = cut(dataset.train, job.settings.features.tiles)
    if not (checkpoint and method.load(checkpoint, train)):
        method.fit(train)
        if checkpoint and parallel.rank() == 0:
            method.save(checkpoint)
    if parallel.rank():
        return None
    if state:
        state.unlink(missing_ok=True)
    spent = time.process_time() - spent
    seconds = {"train": time.perf_counter() - start, "train cpu": spent} | getattr(method, "seconds", {})
    return _measured(job, method, folders, checkpoint, seconds, by_epoch)


def evaluate_checkpoint(path: Path, overrides: dict[str, Any], folders: Folders = Folders()) -> Outcome:
    """Evaluate a checkpoint on its own data set, or on what `overrides` ("data.source": ...) name.

    Raises:
        DumenetError: an override of something that the checkpoint fixes, no test images, or a category that was not
            trained; the only category of both may have two names.
    """
    trained = load_checkpoint(path)
    fixed = [k for k in overrides if not k.startswith(("data.", "evaluation."))]
    if fixed:
        raise DumenetError(f"{fixed[0]} is fixed in a checkpoint; only data.* and evaluation.* can change here.")
    trained = evaluated(trained, overrides)
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    job = replace(network_job(trained.config, folders, "evaluate"), evaluated=digest)
    if not job.dataset.test:
        name = job.dataset.name
        raise DumenetError(f"{name} has no test images: put some into <category>/test/good and test/<defect>.")
    known, given = trained.spread.categories if trained.spread else (), job.dataset.categories
    strange = [name for name in given if name not in known]
    if strange and known and len(known) + len(given) > 2:  # one part may lie in a folder of another name
        raise unknown("category of this checkpoint", strange[0], known)
    method = Network(replace(job.settings, cache=folders.cache, progress=True))
    method.trained, method.backbone = trained, load_backbone(trained)
    return _measured(job, method, folders, Path(path), {}, [])


def _measured(
    job: Job, method: Method, folders: Folders, checkpoint: Path | None, seconds: dict[str, float], by_epoch: list
) -> Outcome:
    """Score the test images, measure, and write the record."""
    dataset, settings, start = job.dataset, job.settings, time.perf_counter()
    scores, pooled = scores_of(method, dataset, folders) if dataset.test else (None, {})
    scored, resamples = time.perf_counter(), getattr(settings, "evaluation", EvalConfig()).bootstrap
    metrics = scores and measure(dataset, scores, settings.features.whole, resamples, settings.seed, folders)
    seconds |= {"score": scored - start, "metrics": time.perf_counter() - scored}
    network, peak, path = isinstance(method, Network), peak_memory_mb(), job.path(folders)
    device = next(method.trained.model.buffers()).device if network else pick_device(settings.device)
    files = {"results": path} | ({"checkpoint": checkpoint} if checkpoint else {})
    if scores:
        files["scores"] = path.with_suffix(".csv")
        rows = zip(dataset.test, scores.image.tolist())
        table = pd.DataFrame([(s.name, s.category, s.defect, score) for s, score in rows], columns=COLUMNS)
        write_atomic(files["scores"], table.to_csv(index=False).encode())
    record = {
        "name": job.name, "tag": job.tag, "table": job.table, "column": job.column, "setting": job.setting,
        "method": job.method, "seed": settings.seed, "command": job.command, "identity": job.identity,
        "data": {"name": dataset.name, "fingerprint": _digests(dataset)[0], "train": len(dataset.train),
                 "test": len(dataset.test), "config": to_dict(job.data)},
        "metrics": metrics, "image_auroc_by_epoch": by_epoch,
        "image_auroc_by_defect": scores and by_defect(dataset, scores.image),
        "image_auroc_by_pooling": {rule: _image_auroc(dataset, values) for rule, values in pooled.items()},
        "categories_found": scores and scores.found_right(dataset.test),
        "seconds": {k: round(v, 2) for k, v in seconds.items()}, "peak_memory_mb": round(peak),
        "device": str(device), "machine": machine(str(device)),
        "files": {k: Path(os.path.relpath(v, folders.home)).as_posix() for k, v in files.items()},
    }  # fmt: skip
    if job.table:
        record["cost"] = cost(method, dataset.test)
    if network:
        record |= {"config": to_dict(replace(method.config, data=job.data)), **method.facts()}
    write_result(path, record)
    return Outcome(record, method, dataset, scores)


class OnDisk(Sequence):
    """Arrays of one shape, in a file that has no name: memory does not grow with images x pixels.

    Raises:
        DumenetError: a disk that cannot take them.
    """

    def __init__(self, folder: Path):
        self._folder, self._rows, self._count = folder, [], 0
        with self._writing():
            folder.mkdir(parents=True, exist_ok=True)
            self._file = TemporaryFile(dir=folder)

    def append(self, row: np.ndarray | None) -> None:
        """Write one more array; None stands for itself."""
        self._rows.append(None if row is None else self._count)
        if row is not None:
            with self._writing():
                self._file.write(np.ascontiguousarray(row))
            self._count, self._like = self._count + 1, row

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, ...)"""
        return len(self), *self._like.shape

    def __getitem__(self, index: Any) -> np.ndarray | None:
        """An array, read from disk; of several numbers, a slice or a mask an array of them."""
        if not isinstance(index, (int, np.integer)):
            return np.stack([self[int(i)] for i in np.arange(len(self))[index]])
        if (row := self._rows[index]) is None:
            return None
        with self._writing():
            self._file.seek(row * self._like.nbytes)
            return np.frombuffer(self._file.read(self._like.nbytes), self._like.dtype).reshape(self._like.shape)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise refused(f"keep anomaly maps and masks in {self._folder}", error) from None


def scores_of(method: Method, dataset: Dataset, folders: Folders = Folders()) -> tuple[Scores, dict[str, np.ndarray]]:
    """Scores of the test images, and what each pooling rule would make of their maps; without masks no map is kept."""
    images, found, pooled, kept = [], [], {}, OnDisk(folders.cache) if dataset.masked else None
    tiles = method.settings.features.tiles
    for start in range(0, len(dataset.test), CHUNK):
        scores = method.score(cut(dataset.test[start : start + CHUNK], tiles))
        for rule in POOLINGS:
            if rule != "max" or min(scores.maps.shape[1:]) >= WINDOW:
                of_tiles = image_score(scores.maps, rule).reshape(-1, math.prod(tiles))
                pooled.setdefault(rule, []).append(of_tiles.max(1))
        scores = of_photographs(scores, tiles)
        images.append(scores.image)
        found += scores.found or ()
        for m in scores.maps if kept is not None else ():
            kept.append(m.astype(np.float32, copy=False))
    joined = {rule: np.concatenate(values) for rule, values in pooled.items()}
    return Scores(np.concatenate(images), kept, found or None), joined


def measure(
    dataset: Dataset,
    scores: Scores,
    size: tuple[int, int],
    bootstrap: int = 1000,
    seed: int = 0,
    folders: Folders = Folders(),
) -> dict[str, Any]:
    """Metrics of the test images' scores per category, mean and pooled; see `evaluate_scores`."""
    marked = dataset.masked if scores.maps is not None else set()
    masks = OnDisk(folders.cache) if marked else None
    for s in dataset.test if marked else ():
        masks.append(load_mask(s, size) if s.category in marked else None)
    labels, categories = (np.array([getattr(s, k) for s in dataset.test]) for k in ("label", "category"))
    return evaluate_scores(labels, scores.image, categories, masks, scores.maps, bootstrap, seed)


def cost(method: Method, samples: Sequence[Sample]) -> dict[str, float]:
    """Milliseconds of one core to score an image, from its file, and megabytes of all that scoring needs."""
    spent, own, samples = [], method.settings, samples[:COSTED]
    for _ in range(2):  # the first one warms up
        with TemporaryDirectory() as empty:
            method.settings = replace(own, cache=Path(empty))
            start = time.process_time()
            method.score(cut(samples, own.features.tiles))
            spent.append(time.process_time() - start)
    method.settings, kept = own, BytesIO()
    torch.save({k: v for k, v in vars(method).items() if k not in ("settings", "on_epoch")}, kept)
    return {"ms": round(1000 * spent[1] / len(samples), 2), "mb": round(kept.tell() / 1e6, 1)}


def by_defect(dataset: Dataset, image: np.ndarray) -> dict[str, dict[str, float | None]]:
    """Image AUROC by category and kind of defect, each against the category's normal images."""
    table = pd.DataFrame({"category": [s.category for s in dataset.test], "defect": [s.defect for s in dataset.test]})
    found: dict[str, dict[str, float | None]] = {}
    for category, rows in table.assign(score=image).groupby("category"):
        for kind in sorted(set(rows.defect) - {"good"}):
            own = rows[rows.defect.isin(("good", kind))]
            found.setdefault(category, {})[kind] = auroc(own.defect != "good", own.score)
    return found


def evaluate(trained: Trained, dataset: Dataset, test: Features) -> tuple[Scores, dict[str, Any]]:
    """Scores and metrics of a network that was trained outside of a job, and then calibrated (`score.calibrate`), from
    the test images' features.
    """
    scores, c = score(trained, test, keep_maps=bool(dataset.masked)), trained.config
    return scores, measure(dataset, scores, c.features.whole, c.evaluation.bootstrap, c.train.seed)


def _image_auroc(dataset: Dataset, image: np.ndarray) -> float | None:
    """Mean over categories."""
    return measure(dataset, Scores(image, None), (0, 0), bootstrap=0)["mean"]["image_auroc"]


# --- many jobs


def run_jobs(
    jobs: Sequence[Job], folders: Folders = Folders(), progress: bool = True, workers: int = 0,
    scheduler: str | None = None,
) -> list[str]:  # fmt: skip
    """Run what has no results file yet; returns a sentence for each job that failed, and the others still run.

    A job that another process has taken is left to it. Two jobs that share a training wait for each other.

    Args:
        workers: processes of this machine that share the jobs through Dask; 0: this process, one job after another.
        scheduler: address of a Dask scheduler that runs already and sees the same folders under the same paths.
    """
    if workers or scheduler:
        there = Folders(folders.home.absolute())
        # No image travels: a worker opens the data set by itself, wherever it runs.
        tasks = {
            job.name: (replace(job, dataset=None), _found_from_anywhere(job.data), there)
            for job in jobs if job.finished(folders) is None
        }  # fmt: skip
        said = sweep(_opened_and_taken, tasks, workers, scheduler, progress)
        return [f"{name}: {sentence}" for name, sentence in said.items() if sentence]
    failures = []
    bar = tqdm(jobs, "jobs", disable=not progress, unit="job")
    for job in bar:
        bar.set_postfix_str(f"{job.column or job.method} {job.settings.seed}")
        sentence = _taken(job, folders)
        failures += [f"{job.name}: {sentence}"] if sentence else []
    return failures


def _found_from_anywhere(data: DataConfig) -> DataConfig:
    """The same data with an absolute path, if it is one."""
    path = Path(data.source)
    return replace(data, source=str(path.absolute())) if path.exists() and data.source not in SOURCES else data


def _opened_and_taken(job: Job, data: DataConfig, folders: Folders) -> str | None:
    try:
        return _taken(replace(job, dataset=load_data(Config(data=data), folders)), folders)
    except DumenetError as error:
        return str(error)


def _taken(job: Job, folders: Folders) -> str | None:
    """Run one job unless it is done or another process is at it; None, or a sentence that says what went wrong."""
    log = folders.home / "build" / "locks" / f"{job.name}.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(log.with_suffix(".lock"), timeout=0), _alone(job, log.parent):
            if job.finished(folders) is None:
                run(job, folders, progress=False)
    except Timeout:
        pass
    except DumenetError as error:
        return str(error)
    except OSError as error:
        return str(refused(f"use {error.filename or log.parent}", error))
    except Exception as error:  # a fault of one method must not end a night's batch
        with contextlib.suppress(OSError):
            log.write_text(traceback.format_exc(), encoding="utf-8")
        return f"{type(error).__name__}: {error}; see {log}"
    return None


@contextlib.contextmanager
def _alone(job: Job, locks: Path) -> Iterator[None]:
    """The only process at this job's training, if that leaves a checkpoint that others wait for."""
    with FileLock(locks / f"{job.training}.train.lock") if job.method in NETWORKS else contextlib.nullcontext():
        yield
