"""The jobs of the paper's tables, and of tables like them: one for each method, part of the data and seed.

A job is one `fit` and one `score` of a method on one training set. It leaves one results file, whose name changes with
every setting and every image, and a job whose file is there is not run again, unless masks have changed. Any number
of processes may be started on the same table: a job is taken by one of them.
"""

import contextlib
import hashlib
import json
import os
import shlex
import time
import traceback
import typing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from dumenet.baselines import METHODS, Method, Scores
from dumenet.checkpoint import pick_device
from dumenet.config import Config, DataConfig, config_from_dict, to_dict
from dumenet.data import SPLITS, Dataset, fingerprint, load_mask
from dumenet.errors import DumenetError, refused, unknown
from dumenet.experiment import Folders, load_data
from dumenet.metrics import POOLINGS, evaluate_scores, image_score
from dumenet.results import machine, write_result
from dumenet.sweep import sweep

NOT_IN_NAME = ("device", "cache", "progress", "state")  # settings that do not change what a method computes
CHUNK = 200  # images scored at a time where their maps are not kept
MASK = {"neighbour_mask": ["encoder", "decoder_first", "decoder_second"]}  # UniAD's, on in its own configuration


class Column(NamedTuple):
    """A column of a table: a method of `dumenet.baselines.METHODS`, and what differs from its defaults."""

    method: str
    settings: dict[str, Any] = {}
    data: dict[str, Any] = {}
    watched: bool = False  # score the test images after every epoch too: what choosing the best epoch would buy


def reconstruction(train: dict[str, Any] = {}, error: str = "norm", **model: Any) -> Column:  # noqa: B006
    """A column of this package's own models; the error is the paper's where nothing else is said."""
    settings = {"model": model, "train": train, "evaluation": {"error": error}}
    return Column("reconstruction", {k: v for k, v in settings.items() if v})


SPREAD = {"error": "mahalanobis"}  # ours


MVTEC = {  # the paper's columns in its order; below them what it does not have
    "US": Column("us"), "PatchSVDD": Column("patchsvdd"), "PaDiM": Column("padim"), "CutPaste": Column("cutpaste"),
    "MKD": Column("mkd"), "DRAEM": Column("draem"), "UniAD": reconstruction(name="uniad", **MASK),
    "DuMeNet": reconstruction(), "DuMeNet, spread": reconstruction(**SPREAD),
    "FCDD": Column("fcdd"), "PANDA": Column("panda"), "PatchCore": Column("patchcore"), "Dinomaly": Column("dinomaly"),
    "Gaussian": reconstruction(name="gaussian"), "PaDiM, ridge 1": Column("padim", {"ridge": 1.0}),
}  # fmt: skip
CHOSEN = {  # of the columns RECIPES below: the highest mean on CIFAR-10's held-out training classes, "stage 4 at 7"
    "features": {"stages": [4], "grid": 7}, "model": {"encoder_layers": 2, "decoder_layers": 2},
    "evaluation": {"pooling": "mean", "error": "norm"},
}  # fmt: skip
CIFAR = {
    "US": Column("us"), "FCDD": Column("fcdd", {"outliers": None}), "FCDD+OE": Column("fcdd", {"outliers": "photographs"}),
    "PANDA": Column("panda"), "MKD": Column("mkd"),
    "UniAD": Column("reconstruction", CHOSEN | {"model": CHOSEN["model"] | {"name": "uniad", "neighbour_size": 3, **MASK}}),
    "DuMeNet": Column("reconstruction", CHOSEN),
    "DuMeNet, spread": Column("reconstruction", CHOSEN | {"evaluation": {"pooling": "mean"} | SPREAD}),
    "DN2": Column("panda", {"steps": 0}), "Gaussian": Column("reconstruction", CHOSEN | {"model": {"name": "gaussian"}}),
}  # fmt: skip


def recipe(stages: Sequence[int], grid: int, images: int = 200, weights: str = "pretrained", **settings: Any) -> Column:
    """A candidate for CIFAR-10: DuMeNet at half its depth, so many training images a class."""
    features = {"stages": list(stages), "grid": grid, "weights": weights}
    model = {"encoder_layers": 2, "decoder_layers": 2} | settings.pop("model", {})
    values = {"features": features, "model": model, "train": settings, "evaluation": CHOSEN["evaluation"]}
    return Column("reconstruction", values, {"validation_class": "last", "per_class_train": images})


RECIPES = {  # judged on `data.validation_class`, never on test images
    "stages 0-3 at 14": recipe(range(4), 14), "stages 0-3 at 7": recipe(range(4), 7),
    "stages 0-4 at 7": recipe(range(5), 7), "stages 2-4 at 7": recipe(range(2, 5), 7),
    "stages 3-4 at 7": recipe(range(3, 5), 7), "stage 4 at 7": recipe([4], 7),
    "stages 0-4 at 7, raw target": recipe(range(5), 7, model={"target": "raw"}),
    "stages 0-4 at 7, 32 epochs": recipe(range(5), 7, epochs=32),
    "stages 0-4 at 7, hidden 256": recipe(range(5), 7, model={"hidden_dim": 256}),
    "stages 0-4 at 7, 800 images a class": recipe(range(5), 7, 800),
    "stages 0-4 at 7, random backbone": recipe(range(5), 7, weights="random"),
}  # fmt: skip


ABLATIONS = {  # one change each; memory mode and what the decoder reads are crossed, since the argument is about both
    "default": reconstruction(), "default, spread": reconstruction(**SPREAD),
    **{f"memory {m}, decoder reads {r}": reconstruction(memory_mode=m, decoder_reads=r)
       for m in ("none", "channel", "spatial", "both") for r in ("memory", "encoder") if (m, r) != ("both", "memory")},
    **{f"fusion {f}": reconstruction(fusion_mode=f)
       for f in ("add", "multiply", "gate", "attention", "add_linear", "weighted_sum")},
    **{f"{m} slots": reconstruction(channel_memory_size=m, spatial_memory_size=m) for m in (16, 64, 1024)},
    "spatial layout released": reconstruction(spatial_layout="released"), "dot product for SSIM": reconstruction(spatial_similarity="dot"),
    "target raw": reconstruction(target="raw"), "target sigmoid": reconstruction(target="sigmoid"),
    "neck cbam": reconstruction(neck="cbam"), "neighbour mask": reconstruction(**MASK), "no jitter": reconstruction(jitter=0.0),
}  # fmt: skip
LEVELS, ALL = (0.0, 0.05, 0.1, 0.2), {"holdout": 0.0}  # the same normal images for every method and level
CONTAMINATION = {  # one test set for all levels: see `dumenet.data.contaminate`
    f"{name}, {level:.0%}": column._replace(data={"contamination": level, "contamination_reserve": LEVELS[-1]})
    for name, column in {
        "DuMeNet": reconstruction(ALL), "DuMeNet, spread": reconstruction(ALL, **SPREAD), "DuMeNet without memory": reconstruction(ALL, memory_mode="none"),
        "UniAD": reconstruction(ALL, name="uniad", **MASK), "Gaussian": reconstruction(ALL, name="gaussian"),
        "PaDiM": Column("padim"), "PatchCore": Column("patchcore"),
    }.items() for level in LEVELS
}  # fmt: skip


SHORTFALL = {  # methods that fall short of the paper on bottle, each with one likely reason taken away
    "US": Column("us"), "US, ten times the steps": Column("us", {"steps": 3000}),
    "US, twice the width": Column("us", {"width": 64, "size": 128}), "US, patches of 65": Column("us", {"patch": 65}),
    "US, four times the teaching": Column("us", {"views": 8000, "teacher_steps": 1600}),
    "DRAEM": Column("draem"), "DRAEM, three times the steps": Column("draem", {"steps": 2400}),
    "DRAEM, twice the width": Column("draem", {"width_reconstructive": 16, "width_discriminative": 16}),
}  # fmt: skip
EPOCHS = {name: column._replace(watched=True) for name, column in MVTEC.items() if name in ("DuMeNet", "UniAD")}


class Table(NamedTuple):
    """One table: which of the paper's it is (None: neither), its data by default, its columns."""

    paper: str | None
    source: str
    columns: dict[str, Column]


TABLES = {
    "mvtec": Table("mvtec_ad", "factory", MVTEC), "cifar": Table("cifar10", "digits", CIFAR),
    "recipe": Table(None, "digits", RECIPES), "ablations": Table(None, "factory", ABLATIONS),
    "contamination": Table(None, "factory", CONTAMINATION), "epochs": Table(None, "factory", EPOCHS),
    "shortfall": Table("mvtec_ad", "factory", SHORTFALL),
}  # fmt: skip


# --- jobs


@dataclass(frozen=True, eq=False)
class Job:
    """One fit of one column on one training set. `dataset` is shared by the jobs that use it."""

    table: str
    column: str
    setting: str  # "unified" or "separate"
    settings: Any  # the method's own dataclass, seed included
    data: DataConfig
    dataset: Dataset
    overrides: dict[str, Any]
    results: Path = Path("data/results")

    @property
    def method(self) -> str:
        """Key of METHODS."""
        return TABLES[self.table].columns[self.column].method

    def identity(self) -> dict[str, Any]:
        """What the numbers depend on."""
        settings = {k: v for k, v in _plain(self.settings).items() if k not in NOT_IN_NAME}
        data = {
            k: v for k, v in _plain(self.data).items() if k not in ("source", "categories", "normals")
        }  # see the images
        return {"settings": settings, "data": data, **dict(zip(("fingerprint", "masks"), _digests(self.dataset)))}

    @property
    def name(self) -> str:
        """Readable, and different for every change from the defaults; a setting that is added later changes no name."""
        identity, defaults = self.identity(), {"settings": _plain(type(self.settings)()), "data": _plain(DataConfig())}
        del identity["masks"]  # other masks are a reason to run again, under the same name
        digest = hashlib.sha256(json.dumps(_changed(identity, defaults), sort_keys=True).encode()).hexdigest()[:8]
        categories = self.dataset.categories
        what = categories[0].strip("{}") if len(categories) == 1 else f"{len(categories)}categories"
        column = "".join(c if c.isalnum() or c in "+-.=" else "_" for c in self.column)
        return f"{self.table}-{self.dataset.name}-{what}-{self.setting}-{column}-seed{self.settings.seed}-{digest}"

    @property
    def path(self) -> Path:
        """Where its results file lies."""
        return self.results / f"table-{self.name}.json"

    def request(self) -> dict[str, Any]:
        """The arguments of `plan` that give this job alone."""
        ten_classes = self.dataset.categories[0].startswith("{")
        parts = (
            (self.data.normals,) if ten_classes else () if self.data.categories == ("all",) else self.data.categories
        )
        return {
            "name": self.table, "source": self.data.source, "parts": parts, "methods": (self.column,),
            "seeds": (self.settings.seed,), "setting": self.setting, "overrides": self.overrides,
        }  # fmt: skip

    def command(self) -> str:
        """Runs this job again, from a clone of the project."""
        asked = self.request()
        words = [
            "--table",
            self.table,
            "--data",
            self.data.source,
            *(["--category", *asked["parts"]] if asked["parts"] else []),
        ]
        words += ["--method", self.column, "--seed", str(self.settings.seed)]
        words += ["--setting", self.setting] if self.setting != "unified" else []
        pairs = [f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in self.overrides.items()]
        return "dumenet reproduce " + shlex.join([*words, *(["--set", *pairs] if pairs else [])])

    def finished(self) -> dict[str, Any] | None:
        """Its record, if it has one."""
        try:
            record = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        told, identity = record.get("identity", {}), self.identity()
        told = {"masks": identity["masks"]} | told  # records older than it do not tell
        same = (
            _changed(told, identity) == {} and told.keys() == identity.keys()
        )  # settings younger than it have their default
        return record if same else None


def _plain(settings: Any) -> dict[str, Any]:
    """Settings as JSON gives them back; settings that are not plain, such as samples, have no place in a table."""
    return json.loads(json.dumps(to_dict(settings), default=str))


def _changed(values: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """The part of `values` that `others` has not, or has otherwise."""
    found = {}
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(others.get(key), dict):
            value = _changed(value, others[key]) or None
            if value is None:
                continue
        elif key in others and others[key] == value:
            continue
        found[key] = value
    return found


_DIGESTS: WeakKeyDictionary[Dataset, tuple[str, str]] = (
    WeakKeyDictionary()
)  # a worker opens its data set anew for each job


def _digests(dataset: Dataset) -> tuple[str, str]:
    """Of the images and of the masks of a data set that several jobs share: read once."""
    if dataset not in _DIGESTS:
        masks = hashlib.sha256()
        for sample in dataset.test:
            with contextlib.suppress(OSError):  # whoever reads the masks has a sentence for it
                masks.update(
                    f"{sample.name} ".encode()
                    + (hashlib.sha256(sample.mask.read_bytes()).digest() if sample.mask else b"")
                )
        _DIGESTS[dataset] = fingerprint(dataset), masks.hexdigest()[:16]
    return _DIGESTS[dataset]


def plan(
    name: str,
    source: str | None = None,
    parts: Sequence[str] = (),
    methods: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    setting: str = "unified",
    overrides: dict[str, Any] | None = None,
    folders: Folders = Folders(),
) -> list[Job]:
    """The jobs of a table, seed by seed, so that an interrupted batch has whole tables first.

    Args:
        source: as `data.source`; None takes the table's own, which is embedded.
        parts: categories, or splits such as "01234"; none takes all.
        methods: columns of the table; none takes all.
        setting: "unified", one model for all categories, or "separate", one for each.
        overrides: dotted, "US.steps" for a column, "us.steps" for a method, "all.features.image_size", "data.per_class_train".

    Raises:
        DumenetError: an unknown table, column, setting, part or option, or whatever is wrong with the data.
    """
    if name not in TABLES:
        raise unknown("table", name, TABLES)
    if setting not in ("unified", "separate"):
        raise unknown("setting", setting, ("unified", "separate"))
    table = TABLES[name]
    for column in methods:
        if column not in table.columns:
            raise unknown(f"method of table {name}", column, table.columns)
    overrides = overrides or {}
    owners = {"data", "all", *table.columns, *(c.method for c in table.columns.values())}
    for key in overrides:
        if key.split(".")[0] not in owners or "." not in key:
            raise unknown("owner of a setting", key, sorted(owners))
        if key.split(".", 1)[1] in ("seed", "cache", "state", "progress") and not key.startswith("data."):
            raise DumenetError(
                f"{key} is not set like this: seeds are given by --seed, and folders by where a table is run."
            )
    columns = {c: table.columns[c] for c in methods or table.columns}
    made: dict[DataConfig, Dataset] = {}
    jobs = []
    for seed in seeds:
        for name_, column in columns.items():
            values = nested([*column.data.items(), *_under(overrides, "data"), ("source", source or table.source)])
            config = config_from_dict(values, DataConfig, "data")
            for one in _parts(config, parts, setting, folders, made):
                settings = settings_of(name_, column, overrides, seed, folders)
                jobs.append(Job(name, name_, setting, settings, one, made[one], overrides, folders.results))
    return jobs


def _parts(
    config: DataConfig, parts: Sequence[str], setting: str, folders: Folders, made: dict[DataConfig, Dataset]
) -> Iterator[DataConfig]:
    """One data configuration for each training set; each is opened once, into `made`."""

    def opened(one: DataConfig) -> Dataset:
        if one not in made:
            made[one] = load_data(Config(data=one), folders)
        return made[one]

    first = opened(replace(config, normals=parts[0]) if parts and parts[0].strip("{}").isdigit() else config)
    if first.categories[0].startswith("{"):  # ten classes: a split is a data set of its own
        for split in parts or SPLITS:
            one = replace(config, normals=split.strip("{}"))
            opened(one)
            yield one
        return
    chosen = replace(config, categories=tuple(parts)) if parts else config
    everything = opened(chosen)
    if setting == "unified":
        yield chosen
    else:
        for category in everything.categories:
            one = replace(chosen, categories=(category,))
            opened(one)
            yield one


def settings_of(column: str, what: Column, overrides: dict[str, Any], seed: int, folders: Folders) -> Any:
    """The settings dataclass of a column: its defaults, the column's own, then overrides, the nearest last."""
    method = METHODS[what.method]
    cls = typing.get_type_hints(method.__init__)["settings"]
    pairs = [
        *_under(overrides, "all"),
        *_flat(what.settings),
        *_under(overrides, what.method),
        *_under(overrides, column),
    ]
    settings = config_from_dict(nested(pairs), cls, column)
    return replace(settings, seed=seed, cache=folders.cache)


def _under(overrides: dict[str, Any], owner: str) -> list[tuple[str, Any]]:
    return [(k.partition(".")[2], v) for k, v in overrides.items() if k.partition(".")[0] == owner]


def _flat(values: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        yield from _flat(value, f"{before}{key}.") if isinstance(value, dict) else [(before + key, value)]


def nested(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Dotted names as nested mappings, a later pair over an earlier one."""
    values: dict[str, Any] = {}
    for dotted, value in pairs:
        *sections, key = dotted.split(".")
        place = values
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise DumenetError(f"{dotted} and {section} are both set: leave one of them out.")
        place[key] = value
    return values


def run_jobs(
    jobs: Sequence[Job],
    folders: Folders = Folders(),
    progress: bool = True,
    workers: int = 0,
    scheduler: str | None = None,
) -> list[str]:
    """Run what has no results file yet; returns a sentence for each job that failed, and the others still run.

    A job that another process has taken is left to it.

    Args:
        workers: processes of this machine that share the jobs through Dask; 0: this process, one job after another.
        scheduler: address of a Dask scheduler that runs already and sees the same folders under the same paths.
    """
    if workers or scheduler:
        requests = {
            job.name: (job.request(), Folders(folders.home.absolute())) for job in jobs if job.finished() is None
        }
        said = sweep(_requested, requests, workers, scheduler, progress)
        return [f"{name}: {sentence}" for name, sentence in said.items() if sentence]
    failures = []
    bar = tqdm(jobs, "jobs", disable=not progress, unit="job")
    for job in bar:
        bar.set_postfix_str(f"{job.column} {job.settings.seed}")
        sentence = _taken(job, folders)
        failures += [f"{job.name}: {sentence}"] if sentence else []
    return failures


def _requested(request: dict[str, Any], folders: Folders) -> str | None:
    """Run one job in a process that knows nothing of it but its request."""
    source, absolute = request["source"], (folders.home / request["source"]).absolute()
    if not absolute.exists():  # "digits", say
        absolute = source
    (job,) = plan(**request | {"source": str(absolute)}, folders=folders)
    return _taken(
        replace(job, data=replace(job.data, source=source)), folders
    )  # its record is that of any other process


def _taken(job: Job, folders: Folders) -> str | None:
    """Run one job unless it is done or another process is at it; None, or a sentence that says what went wrong."""
    log = folders.home / "build" / "locks" / f"{job.name}.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(log.with_suffix(".lock"), timeout=0):
            if job.finished() is None:
                write_result(job.path, run_job(job, folders))
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


def run_job(job: Job, folders: Folders = Folders()) -> dict[str, Any]:
    """Fit, score, measure: the record of one job."""
    dataset, state = job.dataset, folders.runs / f"table-{job.name}" / "state.pt"
    if not dataset.train or not dataset.test:
        raise DumenetError(f"{dataset.name} has no {'training' if not dataset.train else 'test'} images.")
    watched = (
        TABLES[job.table].columns[job.column].watched
    )  # to go on after an interruption would lose what was seen before it
    method = METHODS[job.method](replace(job.settings, state=None if watched else state))
    by_epoch: list[float | None] = []
    if watched:
        method.on_epoch = lambda epoch: by_epoch.append(_image_auroc(dataset, scores_of(method, dataset)[0].image))
    start = time.perf_counter()
    method.fit(dataset.train)
    fitted = time.perf_counter()
    earlier = getattr(
        getattr(method, "trained", None), "earlier", 0.0
    )  # of a fit that was interrupted, and gone on with
    scores, pooled = scores_of(method, dataset)
    scored = time.perf_counter()
    size = job.settings.features.image_size
    masks = [load_mask(s, size) for s in dataset.test] if dataset.has_masks else None
    labels, categories = (np.array([getattr(s, k) for s in dataset.test]) for k in ("label", "category"))
    metrics = evaluate_scores(labels, scores.image, categories, masks, scores.maps, seed=job.settings.seed)
    state.unlink(missing_ok=True)
    parts = {k: v for k, v in vars(job.settings).items() if k in ("features", "model", "train", "evaluation")}
    config = {"config": to_dict(Config(data=job.data, **parts))} if job.method == "reconstruction" else {}
    return config | {
        "name": job.name, "tag": "table", "table": job.table, "column": job.column, "method": job.method,
        "setting": job.setting, "seed": job.settings.seed, "identity": job.identity(), "command": job.command(),
        "data": {"name": dataset.name, "fingerprint": _digests(dataset)[0], "train": len(dataset.train),
                 "test": len(dataset.test), "config": to_dict(job.data)},
        "metrics": metrics, "image_auroc_by_epoch": by_epoch,
        "image_auroc_by_pooling": {rule: _image_auroc(dataset, values) for rule, values in pooled.items()},
        "seconds": {"fit": round(fitted - start + earlier, 1), "score": round(scored - fitted, 1)},
        "machine": machine(str(pick_device(job.settings.device))),
        "files": {"results": Path(os.path.relpath(job.path, folders.home)).as_posix()},
    }  # fmt: skip


def _image_auroc(dataset: Dataset, scores: np.ndarray) -> float | None:
    """Mean over categories."""
    labels, categories = ([getattr(s, k) for s in dataset.test] for k in ("label", "category"))
    return evaluate_scores(np.array(labels), scores, categories, n_bootstrap=0)["mean"]["image_auroc"]


def scores_of(method: Method, dataset: Dataset) -> tuple[Scores, dict[str, np.ndarray]]:
    """Scores of the test images, and what each pooling rule would make of their maps; without masks no map is kept."""
    chunk = len(dataset.test) if dataset.has_masks else CHUNK
    made, pooled = [], {rule: [] for rule in POOLINGS}
    for start in range(0, len(dataset.test), chunk):
        scores = method.score(dataset.test[start : start + chunk])
        for rule, values in pooled.items():
            values.append(image_score(scores.maps, rule))
        made.append(scores if dataset.has_masks else replace(scores, maps=None))
    image = np.concatenate([scores.image for scores in made])
    return Scores(image, made[0].maps), {rule: np.concatenate(values) for rule, values in pooled.items()}
