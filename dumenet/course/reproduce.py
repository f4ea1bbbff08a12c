"""Run the lessons headless, through papermill, in order or on several processes; a second run redoes only what changed."""

import ast
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

from filelock import FileLock
from tqdm.auto import tqdm

from dumenet.config import convert
from dumenet.errors import DumenetError, refused, shown, unknown
from dumenet.results import machine, write_atomic, write_result
from dumenet.sweep import sweep

PROFILES = ("quick", "laptop", "paper")
CELL_TIMEOUT = {"quick": 900, "laptop": 7200}  # seconds; a hanging cell ends its notebook, not the batch
# Lessons that use again what another one trains. Besides, all wait for 00, which makes the data set, and from 10 on
# for every earlier one, since they read what has been recorded so far.
AFTER = {"05": ("02",), "07": ("05",)}
READS_ALL = "10"


def reproduce(
    profile: str = "quick",
    only: list[str] | None = None,
    parameters: dict[str, Any] | None = None,
    home: Path = Path("."),
    force: bool = False,
    workers: int = 0,
    scheduler: str | None = None,
) -> int:
    """Execute `notebooks/*.ipynb` into `build/notebooks/` and list what was made.

    Args:
        profile: passed on to every lesson; it sets their epochs and image counts.
        only: lessons to run, by number or name ("03", "03_channel_memory").
        parameters: further papermill parameters, for the lessons that have them.
        workers: processes of this machine that share the lessons through Dask; 0: one after another, in this process.
        scheduler: address of a Dask scheduler that runs already and sees the same folders under the same paths.

    Returns:
        0, or 1 if a lesson failed; its executed notebook is kept and the others still run.

    Raises:
        DumenetError: no notebooks here, an unknown lesson, or a parameter that no lesson has or that is of another
            type than the lesson's own value; or no scheduler answers.
    """
    home = Path(home).resolve()
    notebooks = sorted((home / "notebooks").glob("[0-9]*.ipynb"))
    if not notebooks:
        raise DumenetError(f"No lessons in {home / 'notebooks'}: run this in a clone of the project.")
    chosen = _choose(notebooks, only)
    wanted = {"profile": profile} | (parameters or {})
    if wanted["profile"] not in PROFILES:
        raise unknown("profile", wanted["profile"], PROFILES)
    defaults = {path: _parameters(path) for path in chosen}
    known = {n for group in defaults.values() for n in group}
    for name in wanted:
        if name not in known:
            raise unknown("notebook parameter", name, sorted(known))
    given = {  # all of them before the first lesson runs
        path: {k: _typed(v, own[k], f"Notebook parameter {k} of {path.stem}") for k, v in wanted.items() if k in own}
        for path, own in defaults.items()
    }
    scratch = not only and not (home / "build" / "runs").exists()  # nothing trained yet: times mean something
    started, tasks = time.perf_counter(), {}
    for path in chosen:
        waits = (
            tasks and path.stem[:2] >= READS_ALL
        )  # for results of lessons that run now: it is asked again in its turn
        if not (force or waits) and _unchanged(_stamp(home, path), _digest(home, path, given[path]), home):
            tqdm.write(f"{path.stem}: unchanged, kept")
        else:
            others = frozenset(p.stem[:2] for p in chosen) - {path.stem[:2]} if workers or scheduler else frozenset()
            tasks[path.stem] = (path, home, given[path], force, others)
    if workers or scheduler:
        after = {name: before(name, [p.stem for p in chosen]) for name in tasks}
        said = sweep(_lesson, tasks, workers, scheduler, after=after, unit="lesson")
    else:
        said = {name: _lesson(*tasks[name]) for name in tqdm(tasks, "lessons", unit="lesson")}
        if scratch:
            _note_times(home, chosen, profile)
    _closing_list(home, chosen, started)
    failures = [said[name] for name in tasks if said[name]]  # said once, at the end, where it is seen
    for failure in failures:
        print(failure)
    return 1 if failures else 0


def before(lesson: str, lessons: list[str]) -> list[str]:
    """Which of the `lessons` must have ended before this one starts."""
    number = lesson[:2]
    needed = {"00", *AFTER.get(number, ())}
    return [name for name in lessons if name[:2] < number and (number >= READS_ALL or name[:2] in needed)]


def _lesson(path: Path, home: Path, parameters: dict[str, Any], force: bool, others: frozenset[str]) -> str | None:
    """Run one lesson, in whatever process; None, or a sentence that says what went wrong.

    Args:
        others: numbers of lessons that may run meanwhile: what is named after them is none of this one's work.
    """
    stamp, lock = _stamp(home, path), home / "build" / "locks" / f"lesson-{path.stem}.lock"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):  # another process may be at it: then there is nothing left to do but to wait
            digest = _digest(home, path, parameters)
            if not force and _unchanged(stamp, digest, home):
                return None
            stamp.unlink(missing_ok=True)
            known = _outputs(home)
            seconds, failure = _execute(path, home, parameters, bar=not others)
            if failure:
                return failure
            made = sorted(k for k, v in _outputs(home).items() if known.get(k) != v and Path(k).name[:2] not in others)
            write_atomic(stamp, json.dumps({"digest": digest, "seconds": round(seconds, 1), "made": made}).encode())
    except OSError as error:
        return str(refused(f"execute {path.name}", error, "finished lessons are kept"))
    return None


def _stamp(home: Path, path: Path) -> Path:
    """Where a finished lesson is noted."""
    return home / "build" / "notebooks" / f".{path.stem}.json"


def _choose(notebooks: list[Path], only: list[str] | None) -> list[Path]:
    if not only:
        return notebooks
    by_name = {p.stem: p for p in notebooks} | {p.stem[:2]: p for p in notebooks}
    for name in only:
        if str(name).zfill(2) not in by_name and name not in by_name:
            raise unknown("lesson", name, [p.stem for p in notebooks])
    return sorted({by_name.get(str(n).zfill(2), by_name.get(n)) for n in only})


def _parameters(path: Path) -> dict[str, Any]:
    """Name and value of what the cell tagged `parameters` assigns (without the tag papermill loses values in silence).

    The value is None where it is no plain one, and so of no type that could be asked for.
    """
    import papermill

    try:
        found = papermill.inspect_notebook(str(path))
    except Exception as error:  # no JSON, no notebook, no kernel name
        detail = " ".join(str(error).split())[:200].rstrip(".")
        raise DumenetError(f"{path.name} is not a whole notebook with a Python kernel: {detail}.") from None
    if not found:
        raise DumenetError(f"{path.name} has no cell tagged 'parameters' that assigns a value: add the tag.")
    return {name: _plain(parameter["default"]) for name, parameter in found.items()}


def _plain(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None


def _typed(value: Any, default: Any, where: str) -> Any:
    """`value` in the type of the lesson's own `default`, by the rules of a setting; None goes with any."""
    if default is None or value is None:
        return value
    if isinstance(default, (list, tuple)):
        kinds = {type(item) for item in default}
        if not isinstance(value, (list, tuple)):
            raise DumenetError(f"{where} must be a list, as {shown(default)} is, not {shown(value)}.")
        return [_typed(item, default[0], where) if len(kinds) == 1 else item for item in value]
    return convert(value, type(default), where)


def _digest(home: Path, path: Path, parameters: dict[str, Any]) -> str:
    """Changes with the lesson's cells, its parameters, the package's code and configurations, the exercises' checks, or, where it
    reads all results, with any results file that neither it nor a later lesson made: theirs begin with their numbers."""
    cells = [c["source"] for c in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    digest = hashlib.sha256(json.dumps([cells, parameters], sort_keys=True, default=str).encode())
    sources = sorted(p for p in (home / "dumenet").rglob("*") if p.suffix in (".py", ".yaml"))
    for source in [*sources, *(home / "notebooks").glob("check.py")]:
        digest.update(source.read_bytes())
    if (number := path.stem[:2]) >= READS_ALL:
        found = [
            p for p in (home / "data" / "results").glob("*.json") if p.name[:2] < number or not p.name[:2].isdigit()
        ]
        digest.update(repr(sorted((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in found)).encode())
    return digest.hexdigest()


def _unchanged(stamp: Path, digest: str, home: Path) -> bool:
    try:
        old = json.loads(stamp.read_text())
    except (OSError, ValueError):
        return False
    return old.get("digest") == digest and all((home / name).exists() for name in old["made"])


def _outputs(home: Path) -> dict[str, int]:
    """Figures, results and executed notebooks with their time of change."""
    folders = (home / "figures", home / "data" / "results", home / "build" / "notebooks")
    files = (p for f in folders if f.exists() for p in f.rglob("*") if p.is_file() and not p.name.startswith("."))
    return {p.relative_to(home).as_posix(): p.stat().st_mtime_ns for p in files}


def _execute(path: Path, home: Path, parameters: dict[str, Any], bar: bool = True) -> tuple[float, str | None]:
    """Run one lesson; returns seconds and, if it failed, one line with notebook, cell and error."""
    import papermill

    out = home / "build" / "notebooks" / path.name
    start = time.perf_counter()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with patch.dict(os.environ, TQDM_DISABLE="1"):  # for the kernel; the bar over the cells is papermill's
            papermill.execute_notebook(
                str(path), str(out), parameters, cwd=str(path.parent), kernel_name="python3",
                execution_timeout=CELL_TIMEOUT.get(parameters.get("profile")),
                progress_bar={"desc": path.stem, "leave": False} if bar else False,
            )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        last = f"{error.ename}: {' '.join(error.evalue.split())}"
        return (
            time.perf_counter() - start,
            f"{path.name}: cell {error.exec_count} failed: {last}; see {out.relative_to(home)}",
        )
    except Exception as error:  # a full disk, a dead kernel or a time-out (also an OSError) must not end the batch
        if isinstance(error, OSError) and error.errno:
            return time.perf_counter() - start, str(refused(f"execute {path.name}", error, "finished lessons are kept"))
        return time.perf_counter() - start, f"{path.name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return time.perf_counter() - start, None


def _note_times(home: Path, chosen: list[Path], profile: str) -> None:
    """Seconds of each finished lesson, run from scratch, for the table in `notebooks/README.md`."""
    stamps = {path.stem: _stamp(home, path) for path in chosen}
    seconds = {name: json.loads(stamp.read_text())["seconds"] for name, stamp in stamps.items() if stamp.exists()}
    record = {"name": f"lessons-{profile}", "profile": profile, "lessons": seconds, "machine": machine()}
    write_result(home / "build" / f"lessons-{profile}.json", record)


def _closing_list(home: Path, chosen: list[Path], started: float) -> None:
    print(f"\nLessons done in {time.perf_counter() - started:.0f} s. What was made, and where:")
    for path in chosen:
        stamp = _stamp(home, path)
        if stamp.exists():
            made = json.loads(stamp.read_text())
            print(f"  {path.stem} ({made['seconds']} s)")
            for name in made["made"]:
                print(f"    {name}")
