"""Run the lessons headless through papermill, one by one or several at a time; a second run redoes what changed."""

import ast
import hashlib
import json
import os
import time
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import papermill
from traitlets.config import Config

from dumenet.config import Integer, config_from_dict
from dumenet.course import PROFILES, lessons
from dumenet.errors import DumenetError, refused, unknown
from dumenet.files import write_atomic
from dumenet.results import machine, write_result
from dumenet.sweep import sweep

CELL_TIMEOUT = {"quick": 900, "laptop": 7200}  # seconds; a hanging cell ends its lesson, not the others
MAKES_DATA, READS_ALL = "00", "10"  # the first makes the data set; from 10 on, each reads results that others left


def reproduce(
    profile: str = "quick", only: list[str] | None = None, parameters: dict[str, Any] | None = None,
    home: Path = Path("."), force: bool = False, workers: int = 0,
) -> int:  # fmt: skip
    """Execute `notebooks/*.ipynb` into `build/notebooks/` and list what was made.

    Args:
        profile: passed on to every lesson; it sets their epochs and image counts.
        only: lessons to run, by number or name ("03", "03_channel_memory").
        parameters: further papermill parameters, for the lessons that have them.
        workers: processes that share the lessons, and the processor's cores; 0 or 1: one lesson after another. Two
            lessons that train the same network at the same time both train it.

    Returns:
        0, or 1 if a lesson failed; its executed notebook is kept and the others still run.

    Raises:
        DumenetError: no notebooks here, an unknown lesson, or a parameter that no lesson has or that is of another
            type than the lesson's own value; or a full disk.
    """
    home = Path(home).resolve()
    if workers < 0:
        raise DumenetError(f"--workers is {workers}: give the number of processes that share the lessons.")
    chosen = _choose(home, only)
    given = _given(chosen, {"profile": profile} | (parameters or {}))
    from_scratch = not only and workers < 2 and not (home / "build" / "runs").exists()
    started, failures = time.perf_counter(), []
    for _, together in groupby(chosen, _turn):
        due = {}
        for path in together:
            if not force and _is_done(home, path, given[path]):
                print(f"{path.stem}: unchanged, kept")
            else:
                due[path.stem] = (home, path, given[path])
        if workers > 1 and len(due) > 1:
            threads = max(1, (os.cpu_count() or 1) // workers)
            ended = sweep(_run, {name: (*task, threads) for name, task in due.items()}, min(workers, len(due)))
            failures += [f"{name}: {ended[name]}" for name in due if ended[name]]
        else:
            failures += [f"{name}: {said}" for name, task in due.items() if (said := _run(*task))]
    stamps = {path.stem: json.loads(s.read_text()) for path in chosen if (s := _stamp(home, path)).exists()}
    if from_scratch:  # nothing was trained before: the times mean something, and go into notebooks/README.md
        seconds = {name: stamp["seconds"] for name, stamp in stamps.items()}
        record = {"name": f"lessons-{profile}", "profile": profile, "lessons": seconds, "machine": machine()}
        write_result(home / "build" / f"lessons-{profile}.json", record)
    print(f"\nLessons done in {time.perf_counter() - started:.0f} s. What was made, and where:")
    for name, stamp in stamps.items():
        print(f"  {name} ({stamp['seconds']} s)", *stamp["made"], sep="\n    ")
    print(*failures, sep="\n", end="\n" if failures else "")  # at the end, where they are seen
    return 1 if failures else 0


def _turn(path: Path) -> str:
    """Neighbouring lessons of the same turn may run at the same time; all others run alone."""
    return "any" if MAKES_DATA < path.stem[:2] < READS_ALL else path.stem


def _choose(home: Path, only: list[str] | None) -> list[Path]:
    found = lessons(home)
    by_name = {p.stem: p for p in found} | {p.stem[:2]: p for p in found}
    wanted = [str(name).zfill(2) for name in only or [p.stem for p in found]]
    for name in wanted:
        if name not in by_name:
            raise unknown("lesson", name, [p.stem for p in found])
    return sorted({by_name[name] for name in wanted})


def _given(chosen: list[Path], wanted: dict[str, Any]) -> dict[Path, dict[str, Any]]:
    """For each lesson those of the `wanted` parameters that it has, in the types of its own values."""
    if wanted["profile"] not in PROFILES:
        raise unknown("profile", wanted["profile"], PROFILES)
    own = {path: _parameters(path) for path in chosen}
    known = {name for kinds in own.values() for name in kinds}
    for name in wanted:
        if name not in known:
            raise unknown("notebook parameter", name, sorted(known))
    where = "Notebook parameter {} of {}".format
    return {
        path: {k: config_from_dict(v, kinds[k], where(k, path.stem)) for k, v in wanted.items() if k in kinds}
        for path, kinds in own.items()
    }


def _parameters(path: Path) -> dict[str, Any]:
    """Name and type of what the cell tagged `parameters` assigns."""
    try:
        found = papermill.inspect_notebook(str(path))
        kinds = {name: _kind(ast.literal_eval(parameter["default"])) | None for name, parameter in found.items()}
    except Exception as error:  # no JSON, no notebook, no kernel name, a parameter that is computed
        detail = " ".join(str(error).split())[:200].rstrip(".")
        message = f"{path.name} is not a whole notebook with a Python kernel and plain parameters: {detail}."
        raise DumenetError(message) from None
    if not kinds:  # papermill would run the lesson without the values
        raise DumenetError(f"{path.name} has no cell tagged 'parameters' that assigns a value: add the tag.")
    return kinds


def _kind(default: Any) -> Any:
    if isinstance(default, list):
        kinds = {_kind(item) for item in default}
        return list[kinds.pop()] if len(kinds) == 1 else list
    return Any if default is None else Integer if type(default) is int else type(default)


def _stamp(home: Path, path: Path) -> Path:
    """The file that notes of a finished lesson what it depended on (a digest), its seconds, and what it made."""
    return home / "build" / "notebooks" / f".{path.stem}.json"


def _digest(home: Path, path: Path, parameters: dict[str, Any]) -> str:
    """Changes with the lesson's cells, its parameters, the package's code and configurations, and, for a lesson that
    reads all results, with any results file that neither it nor a later lesson made."""
    cells = [c["source"] for c in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    digest = hashlib.sha256(json.dumps([cells, parameters], sort_keys=True, default=str).encode())
    for source in sorted(p for p in (home / "dumenet").rglob("*") if p.suffix in (".py", ".yaml")):
        digest.update(source.read_bytes())
    if (number := path.stem[:2]) >= READS_ALL:
        read = (p for p in (home / "data" / "results").glob("*.json") if not number <= p.name[:2] <= "99")
        digest.update(repr(sorted((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in read)).encode())
    return digest.hexdigest()


def _is_done(home: Path, path: Path, parameters: dict[str, Any]) -> bool:
    try:
        stamp = json.loads(_stamp(home, path).read_text())
    except (OSError, ValueError):
        return False
    return stamp["digest"] == _digest(home, path, parameters) and all((home / name).exists() for name in stamp["made"])


def _run(home: Path, path: Path, parameters: dict[str, Any], threads: int = 0) -> str | None:
    """Run one lesson, in whatever process; None, or a sentence that says what went wrong.

    Args:
        threads: of a lesson beside which others run; 0: it has the machine, and a progress bar.

    Raises:
        DumenetError: the disk refuses; then it would refuse the other lessons too.
    """
    out, stamp = home / "build" / "notebooks" / path.name, _stamp(home, path)
    number, digest, start = path.stem[:2], _digest(home, path, parameters), time.perf_counter()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        stamp.unlink(missing_ok=True)
        before = _files(home, number)
        shared = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))} if threads else {}
        with (
            patch.dict(os.environ, TQDM_DISABLE="1", **shared),  # for the kernel, not for papermill
            TemporaryDirectory(prefix="kernel") as sockets,  # two that start at one time can take the same TCP port
        ):
            papermill.execute_notebook(
                path, out, parameters, cwd=path.parent, kernel_name="python3",
                execution_timeout=CELL_TIMEOUT.get(parameters.get("profile")),
                config=Config(
                    KernelManager={"transport": "ipc", "ip": f"{sockets}/socket"},
                    NotebookClient={
                        "shutdown_kernel": "immediate",  # two seconds less than asking it to stop
                        # Most of what Python's collector looks at are the objects of imported packages, which stay.
                        "extra_arguments": ["--IPKernelApp.exec_lines=import gc; gc.set_threshold(100_000)"],
                    },
                ),
                progress_bar=False if threads else {"desc": path.stem},
            )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        last = f"{error.ename}: {' '.join(error.evalue.split())}"
        return f"cell {error.exec_count} failed: {last}; see {out.relative_to(home)}"
    except Exception as error:  # a dead kernel or a time-out ends this lesson, not the others
        if isinstance(error, OSError) and error.errno:
            raise refused(f"execute {path.name}", error, "finished lessons are kept") from error
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    made = sorted(name for name, changed in _files(home, number).items() if before.get(name) != changed)
    seconds = round(time.perf_counter() - start, 1)
    write_atomic(stamp, json.dumps({"digest": digest, "seconds": seconds, "made": made}).encode())
    return None


def _files(home: Path, number: str) -> dict[str, int]:
    """Time of change of figures, results and executed notebooks, without those that are named after another lesson."""
    folders = (home / "figures", home / "data" / "results", home / "build" / "notebooks")
    files = [p for folder in folders for p in folder.glob("[!.]*") if p.name[:2] == number or not p.name[:2].isdigit()]
    return {p.relative_to(home).as_posix(): p.stat().st_mtime_ns for p in files}
