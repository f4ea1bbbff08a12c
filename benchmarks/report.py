"""What the benchmarks of this folder share: candidates in turn, and their section of RESULTS.md."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dumenet.results import machine, write_atomic, write_result

ROOT = Path(__file__).parents[1]


def in_turn(jobs: dict[str, Callable[[], Any]], rounds: int, warm_up: int = 2) -> dict[str, list[float]]:
    """Seconds of each job in each round; they take turns, so that a drift of the machine hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for round_ in range(rounds + warm_up):
        for name, job in jobs.items():
            time.sleep(0.05)  # or threads of the one before, which spin for a while, hold up this one
            start = time.perf_counter()
            job()
            if round_ >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def named(name: str, title: str, device: str = "cpu") -> tuple[str, str]:
    """Results file and section of one kind of device: the CPU's are the plain ones."""
    kind = torch.device(device).type
    return (name, title) if kind == "cpu" else (f"{name}-{kind}", f"{title}, {kind}")


def publish(
    name: str, title: str, record: dict[str, Any], text: list[str], quick: bool = False, device: str = "cpu"
) -> None:
    """Write data/results/<name>.json, and the section `title` of RESULTS.md in place of an older one; `quick`: print alone."""
    section = "\n".join([f"## {title}", "", *text, ""])
    print(section)
    if quick:
        return
    record = {"name": name, **record, "threads": torch.get_num_threads(), "machine": machine(device)}
    write_result(ROOT / "data" / "results" / f"{name}.json", record)
    path = ROOT / "benchmarks" / "RESULTS.md"
    parts = re.split(r"(?m)^(?=## )", path.read_text())
    place = next((i for i, part in enumerate(parts) if part.startswith(f"## {title}\n")), len(parts))
    parts[place : place + 1] = [section]
    write_atomic(path, ("\n\n".join(part.strip() for part in parts) + "\n").encode())


def where(record_name: str, device: str = "cpu", cpu: str = "") -> str:
    """The machine, in the words of a section's first paragraph; `cpu`, if the numbers were not measured on this one."""
    facts = machine(device)
    gpu = "" if torch.device(device).type == "cpu" else f"{facts['device']}, "
    return (
        f"{gpu}{cpu or facts['cpu']}, {facts['threads']} threads, torch {facts['versions']['torch']}. "
        f"Raw seconds: `data/results/{record_name}.json`."
    )
