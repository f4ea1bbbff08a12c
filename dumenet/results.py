"""Results on disk: one JSON file per job, written whole or not at all; and their summary over seeds."""

import json
import math
import os
import platform
import re
import resource
import subprocess
from collections.abc import Callable, Iterable, Sequence
from csv import DictReader
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import stats

from dumenet.config import Config, config_from_dict, counted, merge
from dumenet.errors import DumenetError, unknown
from dumenet.files import write_atomic
from dumenet.metrics import METRICS

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1  # raise it when a field changes its meaning
PACKAGES = ("dumenet", "torch", "torchvision", "timm", "numpy", "scikit-learn")


def write_result(path: Path, record: dict) -> None:
    """Write one run's `record` as JSON, with the schema version; NaN and infinity are refused.

    Numpy numbers and arrays, paths and tuples become plain JSON; None is "not defined".
    """
    text = json.dumps({**_plain(record, "record"), "schema": SCHEMA}, indent=1, ensure_ascii=False)
    write_atomic(path, (text + "\n").encode())


def _plain(value: Any, where: str) -> Any:
    """`value` in JSON's own types; `where` names it in errors."""
    value = value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value
    if isinstance(value, dict):
        return {str(k): _plain(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise DumenetError(f"{where} is {value}: a result is a finite number, or None where it is not defined.")
    return value.as_posix() if isinstance(value, Path) else value


def read_results(folder: Path, **where: Any) -> list[dict]:
    """The records of all *.json in `folder`, by file name, whose top-level fields equal `where`.

    DumenetError: no such folder, a broken or foreign file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DumenetError(f"There is no results folder {folder}: train a model first, or name another.")
    records = []
    for path in sorted(folder.glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            version = record["schema"]
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise DumenetError(f"{path} is not a readable dumenet result: delete it, or run it again.") from error
        if version != SCHEMA:
            raise DumenetError(f"{path} has result schema {version}, this version reads {SCHEMA}: run it again.")
        records.append(record)
    return [r for r in records if all(k in r and r[k] == v for k, v in where.items())]


# --- summaries over seeds


def runs(records: Iterable[dict], row: Callable[[dict], str] = lambda r: r["column"]) -> "pd.DataFrame":
    """One line for each row of a table, part (a category, a split, or "mean"), metric and seed: `value` and `half`,
    half of the 95 % interval that bootstrapping the test images gives (NaN: none), both in percent.
    `summary` joins seeds; `dumenet.paper.tables.gain` compares two rows, paired by seed.

    A mean is over all parts that any record has, and needs every one of them. Its interval joins those of the parts as
    independent errors; splits of ten classes share their test images, so theirs are averaged, the worst case.

    Args:
        row: name of the row that a record belongs to.

    Raises:
        DumenetError: two records for one row, part and seed: settings are mixed that the table does not show.
    """
    import pandas as pd  # here: features and checkpoints need none of it

    lines = []
    for record in records:
        for part, metrics in record["metrics"]["per_category"].items():
            low, high = metrics.get("image_auroc_ci") or (None, None)
            for metric in (m for m in METRICS if m in metrics):
                half = 50 * (high - low) if metric == "image_auroc" and low is not None else None
                value = None if metrics[metric] is None else 100 * metrics[metric]
                lines.append((row(record), part, metric, record["seed"], value, half))
    key = ["row", "part", "metric", "seed"]
    found = pd.DataFrame(lines, columns=[*key, "value", "half"]).astype({"value": float, "half": float})
    for name, part, _, seed in found[found.duplicated(key)][key].head(1).itertuples(index=False):
        raise DumenetError(
            f"Two records for {name}, {part}, seed {seed}: choose one series by its tag, tell them apart by `row` (see "
            "`labels`), or delete one of them."
        )
    groups = found.assign(square=found.half**2).groupby(["row", "metric", "seed"], sort=False)
    size, count = groups.size(), groups[["value", "half"]].count()
    shared = found.part.str.startswith("{").any()
    halves = groups.half.sum() / size if shared else np.sqrt(groups.square.sum()) / size
    means = pd.DataFrame({"value": groups.value.mean(), "half": halves.where(count.half == size)})
    whole = means[(count.value == size) & (size == found.part.nunique())].reset_index().assign(part="mean")
    return pd.concat([found, whole]) if len(whole) else found


def summary(found: "pd.DataFrame") -> "pd.DataFrame":
    """Of `runs`, over seeds: `mean`, `half` and `n` for each (row, part, metric); none where a value is not defined.

    ± is `half`, half the width of a 95 % interval of the mean over `n` seeds: what other seeds would change (Student's
    t; two seeds or more) and, for image AUROC, another draw of test images (bootstrap), added as independent errors
    are. NaN: one seed and no bootstrap, or every image ranked right, where resampling tells nothing.

    >>> records = [
    ...     {"column": "ours", "seed": seed, "metrics": {"per_category": {"cap": {"pixel_auroc": value}}}}
    ...     for seed, value in enumerate((0.97, 0.98, 0.99))
    ... ]
    >>> mean, half, n = summary(runs(records)).loc["ours", "cap", "pixel_auroc"]
    >>> plus_minus(mean, half), int(n)
    ('98.0 ± 2.5', 3)
    """
    groups = found.groupby(["row", "part", "metric"], sort=False)
    made = groups.agg(mean=("value", "mean"), n=("value", "size"), spread=("value", "std"), least=("value", "min"),
                      defined=("value", "count"), half=("half", "mean"), halves=("half", "count"))  # fmt: skip
    seeds = stats.t.ppf(0.975, made.n - 1) * made.spread / np.sqrt(made.n)  # NaN for one
    images = made.half.where(made.halves == made.n)
    perfect = (made.index.get_level_values("metric") == "image_auroc") & (made.least >= 100)
    made["half"] = np.hypot(seeds.fillna(0), images.fillna(0)).where((seeds.notna() | images.notna()) & ~perfect)
    return made.loc[made.defined == made.n, ["mean", "half", "n"]]


def summary_by_row(
    records: Sequence[dict], rows: Sequence[str], categories: Sequence[str] | None = None
) -> "pd.DataFrame":
    """`summary` of records of our own networks, each in the row that `rows` names: of some categories, or of all, where
    models of other categories have rows of their own.

    Raises:
        DumenetError: a record without one of the categories, or two records for one row, part and seed.
    """
    import pandas as pd

    groups: dict[str, list[dict]] = {}
    for record, row in zip(records, rows):
        parts = record["metrics"]["per_category"]
        for category in categories or ():
            if category not in parts:
                raise unknown("category of these results", category, parts)
        chosen = {c: parts[c] for c in categories or parts}
        title = "" if categories else f"{' + '.join(parts)}: "
        groups.setdefault(title, []).append({**record, "row": title + row, "metrics": {"per_category": chosen}})
    return pd.concat([summary(runs(group, lambda r: r["row"])) for group in groups.values()])


def plus_minus(mean: float, half: float | None, digits: int = 1, sign: str = "") -> str:
    """ "93.4 ± 0.5", or "93.4"; of a difference `sign` "+" gives "+3.4 ± 0.5"."""
    return f"{mean:{sign}.{digits}f}" + ("" if half is None or math.isnan(half) else f" ± {half:.{digits}f}")


def pair(cells: "pd.DataFrame", row: str, part: str, metrics: Iterable[str]) -> str:
    """The cells of a `summary` for some metrics, "93.4 ± 0.5 / 97.1"; a dash for one that it has not."""
    keys = [(row, part, metric) for metric in metrics]
    return " / ".join(plus_minus(*cells.loc[k, ["mean", "half"]]) if k in cells.index else "–" for k in keys)


def markdown(lines: Iterable[Iterable[str]]) -> str:
    """A Markdown table; the first line is its head."""
    head, *body = [list(line) for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *body])


def labels(records: Sequence[dict]) -> list[str]:
    """A name for each record of one of our own networks: its model, and each setting that is not its preset's or
    recipe's default, unless all the records have it alike. The seed, and settings that say where, are in no name.
    """

    def flat(config: dict[str, dict[str, Any]]) -> dict[str, Any]:
        return {f"{a}.{k}": v for a, part in config.items() for k, v in part.items() if (a, k) != ("train", "seed")}

    defaults, found, usual = flat(counted(Config())), [], []
    for record in records:
        config = flat(record["config"])
        chosen = {k: config[k] for k in ("model.preset", "train.recipe")}
        known = {k: v for k, v in chosen.items() if v in ("described", "released", "standard", "paper")}  # not gone
        implied = flat(counted(config_from_dict(merge({}, known))))
        usual.append(implied | {k: defaults[k] for k in chosen})
        found.append(implied | {k: v for k, v in config.items() if k in implied})
    apart = [k for k in (found[0] if found else ()) if k != "model.name" and any(f[k] != found[0][k] for f in found)]
    short = {k: k if k.startswith("data.") else k.split(".")[1] for k in apart}
    own = [[f"{short[k]} {f[k]}" for k in apart if f[k] != u[k]] for f, u in zip(found, usual)]
    return [", ".join([f["model.name"], *texts]) for f, texts in zip(found, own)]


class PaperValue(NamedTuple):
    """One number that the paper prints, in percent; `category` "mean" is the printed mean, None a dash."""

    table: str  # "mvtec_ad", "cifar10"; "abstract" and "text" for numbers printed outside the tables
    method: str
    category: str
    metric: str
    value: float | None


def paper_results(path: Path) -> list[PaperValue]:
    """The paper's tables, typed into a CSV file in long form: data/paper_results.csv."""
    with open(path, encoding="utf-8", newline="") as file:
        return [
            PaperValue(**row | {"value": float(row["value"]) if row["value"] else None}) for row in DictReader(file)
        ]


def paper_table(paper: list[PaperValue], table: str, metric: str) -> tuple[list[str], list[str], np.ndarray]:
    """Methods, categories, and values (categories + 2, methods): the last rows are the printed and the recomputed
    mean.
    """
    value = {(r.category, r.method): r.value for r in paper if (r.table, r.metric) == (table, metric)}
    names, methods = (list(dict.fromkeys(key[i] for key in value)) for i in (0, 1))
    names = [n for n in names if n != "mean"]
    values = np.array([[value.get((n, m)) for m in methods] for n in [*names, "mean"]], dtype=float)  # None: NaN
    return methods, names, np.vstack([values, values[:-1].mean(0) if names else np.nan * values[-1]])


def machine(device: str | None = None) -> dict:
    """What a number depends on besides the code: versions, processor, device, threads, commit. No host name.

    `device` as torch names it, "cpu" or "cuda:0"; None stands for the GPU where there is one.
    """
    import torch  # here, so that reading tables does not wait for it

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _proc("cpuinfo", "model name") or platform.processor(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "commit": _commit(),
    }


def _proc(file: str, field: str) -> str | None:
    """What a file of Linux's /proc says of a field; None elsewhere."""
    path = Path("/proc", file)
    found = re.search(rf"^{field}\s*:(.*)", path.read_text(), re.MULTILINE) if path.exists() else None
    return found and found[1].strip()


def _commit() -> str | None:
    """Git commit of this checkout, "-dirty" appended if files differ from it; None outside a checkout."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():  # else git would find the checkout that a virtual environment lies in
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in MB (10^6 bytes)."""
    if peak := _proc("self/status", "VmHWM"):  # Linux: getrusage would count the memory of the parent process too
        return int(peak.split()[0]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # macOS gives bytes
