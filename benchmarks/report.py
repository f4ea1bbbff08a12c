"""What the benchmarks share: options, jobs that take turns, one form of record, and RESULTS.md made from the records.

    python benchmarks/report.py    # writes RESULTS.md anew

A record, data/results/bench-<script>.json, holds `command` and `machine`; `page`, its numbers in the first table of
RESULTS.md; `rows`, its table of details; and `raw`, what both were computed from.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from dumenet.files import write_atomic
from dumenet.results import labels, machine, markdown, paper_results, read_results, write_result

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "data" / "results", Path(__file__).with_name("RESULTS.md")
TINY = {  # settings of a quick try
    "features__backbone": "test_resnet", "features__weights": "random", "features__stages": [0, 1],
    "features__image_size": 64, "model__hidden_dim": 16, "model__heads": 2, "model__ffn_dim": 32,
    "model__decoder_layers": 1, "evaluation__bootstrap": 10,
}  # fmt: skip


class Line(NamedTuple):
    """A line of the page's table."""

    script: str
    key: str  # of the record's `page`
    what: str
    unit: str
    times: float | None = None  # aim: the ratio
    most: float | None = None  # limit of our number


LINES = [
    Line(
        "step", "speed", "training: DuMeNet / its network before, torch's attention, AdamW, fp32", "images/s", times=3.5
    ),
    Line("step", "error", "the same two: until the error that the latter leaves on normal images", "s"),
    Line("real5", "", "real5: features, training until image / pixel AUROC: ours / printed", "s", most=180),
    Line("beside", "busy", "a training step beside a busy process: the package / GNU OpenMP as usual", "ms", times=2),
    Line("beside", "alone", "the same with the machine to itself: 10 % more at most", "ms", times=1 / 1.1),
    Line("inference", "one", "one image file to its heatmap: ONNX Runtime / eager torch", "ms", times=3),
    Line("inference", "many", "32 image files to heatmaps, each: ONNX Runtime / eager torch", "ms", times=4),
    Line("predict", "checkpoint", "`dumenet predict` of one image / importing torch and timm alone", "s", most=3),
    Line("predict", "graph", "the same of an exported graph / of a checkpoint", "s"),
    Line("features", "fast", "image files to cached features: ONNX Runtime / eager torch", "images/s", times=5),
    Line("inference", "spread", "heatmap by the error in its spread / by its norm: 10 % more at most", "ms", 1 / 1.1),
    Line("explorer", "slowest", "the explorer's slowest control: new pictures / whole figure anew", "ms", most=200),
    Line("camera", "held", "new files of a watched folder, judged in half a second / judged in a row", "images/s"),
    Line("metrics", "exact", "four pixel metrics, exact / PRO alone, a loop over 200 thresholds", "s", times=100),
    Line(
        "growth", "image", "memory of one more image in training, spread aside (docs/NOTES.md) / of its features", "kB"
    ),
    Line(
        "thresholds", "worst", "false alarms of three categories, 5 % promised: bound / quantile; at worst", "%", most=5
    ),
    Line("step-cuda", "speed", "training on a GPU: the same two", "images/s", times=2),
    Line("features-cuda", "fast", "image files to cached features: torch on a GPU / on the CPU", "images/s"),
]
HEAD = """# Benchmarks

Made from the records in `data/results` by `python benchmarks/report.py`; each command writes its record and this page.
A ratio, of medians, above 1 is in our favour. Below: details, the machine, and the commit, whose scripts may have had
other options.
"""
REAL5 = "dumenet train --data data/real5 --seed 0 1 2 --tag real5-3min --set train.steps=1000"
PRINTED = ("bottle", "capsule", "screw", "transistor")  # categories of real5 that the paper has


def arguments(text: str, **options: Any) -> argparse.Namespace:
    """The command line: `options` with their defaults, and --quick, which takes one round."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a try at tiny sizes: prints, writes nothing")
    for name, default in options.items():
        kind = {"action": "store_true"} if default is False else {"type": type(default), "default": default}
        parser.add_argument(f"--{name}", **kind, help=f"default {default}")
    args = parser.parse_args()
    if args.quick and "rounds" in options:
        args.rounds = 1
    return args


def in_turn(jobs: dict[Any, Callable[[], Any]], rounds: int) -> dict[Any, list[float]]:
    """Seconds of each job in each round; they take turns, so that a drift of the machine hits all alike."""
    seconds: dict[Any, list[float]] = {name: [] for name in jobs}
    warm_up = min(rounds - 1, 2)
    for round_ in range(rounds + warm_up):
        for name, job in jobs.items():
            time.sleep(0.05)  # or threads of the one before, which spin for a while, hold up this one
            start = time.perf_counter()
            job()
            if round_ >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def publish(
    script: str, page: dict[str, tuple[float, float]], rows: list[dict], raw: Any, quick: bool, device: str = "cpu"
) -> None:
    """Write the record and RESULTS.md, or, of a quick try, both into a folder that is thrown away; print the details.

    Args:
        page: our number and the baseline's for each key of the script's lines.
    """
    script += "" if device == "cpu" else f"-{torch.device(device).type}"
    record = {
        "name": f"bench-{script}", "command": " ".join([f"python benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "machine": machine(device), "page": {key: {"ours": a, "baseline": b} for key, (a, b) in page.items()},
        "rows": rows, "raw": raw,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        results, path = (Path(folder), Path(folder, PAGE.name)) if quick else (RESULTS, PAGE)
        write_result(results / f"bench-{script}.json", record)
        write_atomic(path, make_page(results).encode())
        print(details(json.loads((results / f"bench-{script}.json").read_text())))


def make_page(results: Path) -> str:
    """The text of RESULTS.md, from all records in `results`."""
    records = read_results(results)
    own = {r["name"]: r for r in records if r.get("name", "").startswith("bench-")}
    table = [["what: ours / baseline", "command", "ours", "baseline", "ratio", "aim"]]
    for line in LINES:
        real5 = line.script == "real5"
        table.append(paper_line(line, records) if real5 else cells(line, own.get(f"bench-{line.script}")))
    return "\n".join([HEAD, markdown(table), "", *map(details, own.values())])


def cells(line: Line, record: dict | None) -> list[str]:
    """A line of the table, from its record, if there is one."""
    aim = f"ratio {said(line.times)}" if line.times else f"{said(line.most)} {line.unit} at most" if line.most else ""
    values = record and record["page"].get(line.key)
    if not values:
        script, _, device = line.script.partition("-")
        command = f"`python benchmarks/{script}.py{' --device ' if device else ''}{device}`"
        return [line.what, command, "not measured", "", "", aim]
    ours, baseline = values["ours"], values["baseline"]
    ratio = ours / baseline if line.unit == "images/s" else baseline / ours
    met = ratio >= line.times if line.times else ours <= (line.most or 0)
    numbers = [f"{said(ours)} {line.unit}", f"{said(baseline)} {line.unit}", f"{ratio:.2f}"]
    return [line.what, f"`{record['command']}`", *numbers, aim and f"{aim}: {'met' if met else 'missed'}"]


def paper_line(line: Line, records: list[dict]) -> list[str]:
    """Seconds of features and training on real5, and the means over seeds and the four categories that are MVTec-AD's.

    Runs that found their features computed took no time for them: the longest time of the others is added.
    """
    records = [r for r in records if r.get("tag") == "real5-3min" and r["method"] == "dumenet"]
    records = [r for r, name in zip(records, labels(records)) if name == "dumenet"]
    aim = "the printed numbers in 180 s"
    if not records:
        return [line.what, f"`{REAL5}`", "not measured", "", "", aim]
    seconds = np.mean([r["seconds"]["train"] for r in records])
    seconds += max(r["seconds"].get("train features", 0) for r in records)
    paper = [v for v in paper_results(ROOT / "data" / "paper_results.csv") if v.table == "mvtec_ad"]
    ours, printed = [], []
    for metric in ("image_auroc", "pixel_auroc"):
        per_category = [r["metrics"]["per_category"] for r in records]
        ours.append(100 * np.mean([found[c][metric] for found in per_category for c in PRINTED]))
        own = [v for v in paper if (v.method, v.metric) == ("DuMeNet", metric) and v.category in PRINTED]
        printed.append(np.mean([v.value for v in own]))
    met = "met" if seconds <= line.most and all(a >= b for a, b in zip(ours, printed)) else "missed"
    pairs = [" / ".join(f"{value:.1f}" for value in pair) for pair in (ours, printed)]
    took = f"{said(seconds)} s, {records[0]['machine']['threads']} threads: {pairs[0]}"
    return [line.what, f"`{REAL5}`", took, pairs[1], "", f"{aim}: {met}"]


def details(record: dict) -> str:
    """A record's section: its rows, folded."""
    facts, keys = record["machine"], list(dict.fromkeys(key for row in record["rows"] for key in row))
    where = "" if facts["device"] == "cpu" else f"{facts['device']}, "
    where += f"{facts['cpu']}, {facts['threads']} threads, torch {facts['versions']['torch']}"
    commit = facts["commit"] or "unknown"
    head = f"<code>{record['command']}</code> at commit {commit[:9]}{commit[40:]}; {where}"  # and "-dirty"
    table = [[key.replace("_", " ") for key in keys]]
    table += [[said(row.get(key, "")) for key in keys] for row in record["rows"]]
    title = record["name"].removeprefix("bench-").capitalize()
    return f"## {title}\n\n<details><summary>{head}</summary>\n\n{markdown(table)}\n\n</details>\n"


def said(value: Any) -> str:
    """A number to three digits; text as it is."""
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


if __name__ == "__main__":
    write_atomic(PAGE, make_page(RESULTS).encode())
