"""Results on disk: one JSON file per run, written whole or not at all, and small tables of many."""

import contextlib
import dataclasses
import hashlib
import io
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import uuid
from csv import DictReader, writer
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from dumenet.errors import DumenetError, refused, unknown

SCHEMA = 1  # raise it when a field changes its meaning
PACKAGES = ("dumenet", "torch", "torchvision", "timm", "numpy", "scikit-learn")


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a reader, or a crash, never sees half a file.

    Goes to a temporary file in the same folder first; folders are made. DumenetError when it cannot be.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(path) as file:
            try:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise refused(f"write {path}", error) from error


def _temporary(path: Path) -> BinaryIO:
    """An empty file beside `path`, locked until it is closed or its process dies.

    It has one name for each `path`, so that the next writer takes what a killed one left; where another writer is at
    it, or nothing can be locked, it has a name of its own. No name holds that of `path`, which may be as long as it can.
    """
    shared = path.with_name(f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]}.tmp")
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        if fcntl:
            file = stack.enter_context(shared.open("ab"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), os.stat(shared)):  # or another writer has just made it `path`
                file.truncate(0)
                stack.pop_all()
                return file
    return path.with_name(f".{uuid.uuid4().hex}.tmp").open("xb")


def write_result(path: Path, record: dict) -> None:
    """Write one run's `record` as JSON, with the schema version; NaN and infinity are refused.

    Numpy numbers and arrays, paths, tuples and dataclasses become plain JSON; None is "not defined".
    """
    text = json.dumps({**_plain(record, "record"), "schema": SCHEMA}, indent=1, ensure_ascii=False)
    write_atomic(path, (text + "\n").encode())


def _plain(value: Any, where: str) -> Any:
    """`value` in JSON's own types; `where` names it in errors."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(k): _plain(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, float) and not math.isfinite(value):
        raise DumenetError(f"{where} is {value}: a result is a finite number, or None where it is not defined.")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise DumenetError(f"{where} is a {type(value).__name__}, which JSON cannot hold: pass numbers, text or lists.")


def read_results(folder: Path, **where: Any) -> list[dict]:
    """The records of all *.json in `folder`, by file name, whose top-level fields equal `where`.

    DumenetError: no such folder, a broken or foreign file, a field that no record has.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DumenetError(f"There is no results folder {folder}: train a model first, or name another.")
    records = [_read(path) for path in sorted(folder.glob("*.json"))]
    fields = {field for record in records for field in record}
    for field in where:
        if records and field not in fields:
            raise unknown("result field", field, sorted(fields))
    wanted = _plain(where, "where")
    return [r for r in records if all(f in r and r[f] == v for f, v in wanted.items())]


def _read(path: Path) -> dict:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        version = record["schema"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise DumenetError(f"{path} is not a readable dumenet result: delete it, or run it again.") from error
    if version != SCHEMA:
        raise DumenetError(f"{path} has result schema {version}, this version reads {SCHEMA}: run it again.")
    return record


class Cell(NamedTuple):
    """One cell of a table: mean and standard deviation over `n` seeds; n = 0 means not defined."""

    mean: float | None
    std: float | None  # with n - 1; None for one seed
    n: int

    def __str__(self) -> str:
        if not self.n:
            return "not defined"
        return f"{self.mean:.3f}" + (f" ± {self.std:.3f}" if self.std is not None else "") + f" (n={self.n})"


Table = tuple[list[str], list[str], list[list[Cell | None]]]  # row names, column names, cells; None: no run


def table(records: list[dict], rows: str, columns: str, value: str) -> Table:
    """Pivot `records`: one row per value of field `rows`, one column per value of field `columns`.

    Fields may be dotted: ``table(records, "fusion", "dataset", "mean.image_auroc")``. A cell is the
    mean over seeds; two records of one cell with one seed are a DumenetError, since they would be
    averaged over something that the table does not show.
    """
    runs: dict[tuple[str, str], dict[Any, float | None]] = {}
    for record in records:
        place, seed = (str(_field(record, rows)), str(_field(record, columns))), record.get("seed")
        if seed in runs.setdefault(place, {}):
            where = f"{rows}={place[0]}, {columns}={place[1]}, seed={seed}"
            raise DumenetError(f"Two records for {where}: select one with `read_results(..., field=value)`.")
        runs[place][seed] = _field(record, value)
    row_names, column_names = (list(dict.fromkeys(place[i] for place in runs)) for i in (0, 1))
    return row_names, column_names, [[_cell(runs.get((r, c))) for c in column_names] for r in row_names]


def _cell(by_seed: dict[Any, float | None] | None) -> Cell | None:
    if by_seed is None:
        return None
    values = [v for v in by_seed.values() if v is not None]
    if not values:
        return Cell(None, None, 0)
    return Cell(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def _field(record: dict, dotted: str) -> Any:
    value: Any = record
    for name in dotted.split("."):
        if not isinstance(value, dict) or name not in value:
            raise unknown("result field", dotted, value if isinstance(value, dict) else ())
        value = value[name]
    return value


def markdown(pivot: Table) -> str:
    """The table as Markdown: mean ± std (n); "not defined", or "–" where there is no run."""
    row_names, column_names, cells = pivot
    lines = [["", *column_names], ["---"] * (len(column_names) + 1)]
    lines += [[name, *("–" if c is None else str(c) for c in row)] for name, row in zip(row_names, cells)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def csv(pivot: Table) -> str:
    """The table as CSV text, one line per cell: row, column, mean, std, n; empty where not defined."""
    row_names, column_names, cells = pivot
    text = io.StringIO()
    out = writer(text, lineterminator="\n")
    out.writerow(["row", "column", *Cell._fields])
    for name, row in zip(row_names, cells):
        out.writerows([name, column, *cell] for column, cell in zip(column_names, row) if cell is not None)
    return text.getvalue()


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
            PaperValue(**{**row, "value": float(row["value"]) if row["value"] else None}) for row in DictReader(file)
        ]


def paper_table(paper: list[PaperValue], table: str, metric: str) -> tuple[list[str], list[str], np.ndarray]:
    """Methods, categories, and values (categories + 2, methods): the last rows are the printed and the recomputed mean."""
    rows = [r for r in paper if r.table == table and r.metric == metric]
    methods, names = (list(dict.fromkeys(getattr(r, k) for r in rows)) for k in ("method", "category"))
    names = [n for n in names if n != "mean"]
    value = {(r.category, r.method): np.nan if r.value is None else r.value for r in rows}
    body, last = (np.array([[value.get((n, m), np.nan) for m in methods] for n in part]) for part in (names, ["mean"]))
    return methods, names, np.vstack([body, last, body.mean(0)])


def machine(device: str | None = None) -> dict:
    """What a number depends on besides the code: versions, processor, device, threads, commit. No host name.

    `device` as torch names it, "cpu" or "cuda:0"; None stands for the GPU where there is one.
    """
    import torch  # here, so that reading tables does not wait for it

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


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


def peak_memory_mb() -> float | None:
    """Largest resident memory of this process so far, in MB (10^6 bytes); None where no one knows (Windows)."""
    status = Path("/proc/self/status")  # Linux: getrusage would count the memory of the parent process too
    lines = status.read_text().splitlines() if status.exists() else []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6  # bytes on macOS, KiB elsewhere
