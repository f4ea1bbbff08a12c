"""Tables from results files alone: ours beside the paper's, differences, intervals; docs/TABLES.md is made from them.

python -m dumenet.paper.tables    # write docs/TABLES.md and its figures from the committed results
"""

import io
import math
import shlex
import statistics
import sys
from collections.abc import Iterable, Sequence
from csv import writer
from pathlib import Path
from typing import Any, NamedTuple

from dumenet.baselines import METHODS
from dumenet.errors import DumenetError, unknown
from dumenet.metrics import METRICS, seed_interval
from dumenet.paper.jobs import TABLES, Job
from dumenet.plots import save, table_figure
from dumenet.results import PaperValue, paper_results, read_results, write_atomic


class Row(NamedTuple):
    """One cell of a table, in percent."""

    column: str
    part: str  # a category, a split, or "mean"
    metric: str
    ours: float  # mean over seeds
    half: float | None  # half-width of its 95 % interval, see `rows`
    seeds: int
    paper: float | None  # "mean": of the parts that stand here, recomputed
    difference: float | None


def rows(records: Sequence[dict[str, Any]], paper: Sequence[PaperValue] = ()) -> list[Row]:
    """The cells of one table and setting, in the table's order; a mean only from seeds that have every part.

    The interval tells what other seeds (Student's t; two seeds or more) and another draw of test images (bootstrap;
    image AUROC alone) would change, the two half-widths added as independent errors are. Half-widths of a mean over splits of
    ten classes, which share their test images, are averaged: the worst case. Where all seeds rank all images right there is none.

    Raises:
        DumenetError: two records for one column, part and seed: settings are mixed that the table does not show.
    """
    found: dict[tuple[str, str], dict[int, dict]] = {}
    for record in records:
        for part, metrics in record["metrics"]["per_category"].items():
            by_seed = found.setdefault((record["column"], part), {})
            if record["seed"] in by_seed:
                raise DumenetError(
                    f"Two records for {record['column']}, {part}, seed {record['seed']}: keep one of them."
                )
            by_seed[record["seed"]] = metrics
    if not records:
        return []
    table, other = (
        TABLES[records[0]["table"]],
        records[0]["data"]["name"] == "digits",
    )  # digits' splits are not CIFAR-10's
    printed = {(v.method, v.category, v.metric): v.value for v in paper if v.table == table.paper and not other}
    columns = [c for c in table.columns if any(c == key[0] for key in found)]
    parts = _in_paper_order({part for _, part in found}, table.paper, paper)
    made = []
    for metric in ("image_auroc", "pixel_auroc", "pro"):
        for column in columns:
            cells = {p: found[column, p] for p in parts if (column, p) in found}
            for part, by_seed in cells.items():
                said = printed.get((column, part.strip("{}"), metric))
                made += _row(column, part, metric, [{part: m} for m in by_seed.values()], said)
            whole = [s for s in next(iter(cells.values())) if all(s in by_seed for by_seed in cells.values())]
            if len(parts) > 1 and len(cells) == len(parts) and whole:
                said = [printed.get((column, p.strip("{}"), metric)) for p in parts]
                mean = statistics.fmean(said) if None not in said else None
                made += _row(column, "mean", metric, [{p: cells[p][s] for p in parts} for s in whole], mean)
    return made


def _in_paper_order(parts: set[str], table: str | None, paper: Sequence[PaperValue]) -> list[str]:
    order = list(dict.fromkeys(v.category for v in paper if v.table == table))
    return sorted(parts, key=lambda p: (order.index(p) if p in order else len(order), p))


def _row(column: str, part: str, metric: str, runs: list[dict[str, dict]], paper: float | None) -> list[Row]:
    """The row of one cell, from the metrics of its parts for each seed; none where a value is not defined."""
    values = [[m[metric] for m in run.values()] for run in runs]
    if any(v is None for run in values for v in run):
        return []
    means = [100 * statistics.fmean(run) for run in values]
    halves = [seed_interval(means)[1]]
    if metric == "image_auroc" and all(m["image_auroc_ci"] for run in runs for m in run.values()):
        widths = [[50 * (m["image_auroc_ci"][1] - m["image_auroc_ci"][0]) for m in run.values()] for run in runs]
        shared = next(iter(runs[0])).startswith("{")
        halves.append(
            statistics.fmean(statistics.fmean(run) if shared else math.hypot(*run) / len(run) for run in widths)
        )
    ours = statistics.fmean(means)
    known = [h for h in halves if h is not None] if metric != "image_auroc" or min(means) < 100 else []
    difference = None if paper is None else ours - paper
    return [Row(column, part, metric, ours, math.hypot(*known) if known else None, len(means), paper, difference)]


def csv(table: Sequence[Row]) -> str:
    """The rows as CSV text, percent with two digits; empty where there is nothing."""
    text = io.StringIO()
    out = writer(text, lineterminator="\n")
    out.writerow(Row._fields)
    out.writerows([f"{v:.2f}" if isinstance(v, float) else v for v in row] for row in table)
    return text.getvalue()


def markdown(table: Sequence[Row]) -> str:
    """One Markdown table for each metric: methods down, parts across; ours ± half, and ours minus the paper's."""
    lines = []
    for metric in dict.fromkeys(row.metric for row in table):
        cells = {(r.column, r.part): r for r in table if r.metric == metric}
        columns, parts = (list(dict.fromkeys(key[i] for key in cells)) for i in (0, 1))
        parts = [p for p in parts if p != "mean"] + ["mean"] * ("mean" in parts)
        lines += ["", f"| {METRICS[metric]} | " + " | ".join(parts) + " | seeds |", "|---" * (len(parts) + 2) + "|"]
        for column in columns:
            row = [cells.get((column, part)) for part in parts]
            seeds = sorted({r.seeds for r in row if r})
            lines.append(f"| {column} | " + " | ".join(map(_cell, row)) + f" | {'-'.join(map(str, seeds))} |")
    return "\n".join(lines[1:]) + "\n"


def _cell(row: Row | None) -> str:
    if row is None:
        return "–"
    text = f"{row.ours:.1f}" + ("" if row.half is None else f" ± {row.half:.1f}")
    return text + ("" if row.difference is None else f" ({row.difference:+.1f})")


def write(jobs: Sequence[Job], home: Path, out: Path) -> list[Path]:
    """CSV, Markdown and figure of the jobs that are finished, into `out`; returns the files."""
    records = [r for r in (job.finished() for job in jobs) if r]
    if not records:
        return []
    made = rows(records, printed(home))
    name = f"table-{jobs[0].table}-{jobs[0].dataset.name}-{jobs[0].setting}"
    files = {out / f"{name}.csv": csv(made), out / f"{name}.md": markdown(made)}
    for path, text in files.items():
        write_atomic(path, text.encode())
    return [*files, *save(table_figure(made), name, out, close=True)]


class Difference(NamedTuple):
    """A column minus the reference, in points of a metric's mean over parts, paired by seed."""

    column: str
    metric: str
    mean: float
    half: float | None  # half-width of the 95 % interval over seeds; None for one seed
    seeds: int


def _place(column: str, columns: dict[str, Any]) -> int:
    """Where a column stands in its table; one of older results that is gone stands last."""
    return list(columns).index(column) if column in columns else len(columns)


def against(records: Sequence[dict[str, Any]], reference: str) -> list[Difference]:
    """Every other column of one table minus the column `reference`, over the seeds that both have."""
    runs: dict[str, dict[int, list[dict]]] = {}  # of one column and seed a mean for each training set
    for record in records:
        runs.setdefault(record["column"], {}).setdefault(record["seed"], []).append(record["metrics"]["mean"])
    if reference not in runs:
        raise unknown("column with results", reference, runs)
    made, columns = [], TABLES[records[0]["table"]].columns
    for metric in ("image_auroc", "pixel_auroc", "pro"):
        for column, by_seed in sorted(runs.items(), key=lambda item: _place(item[0], columns)):
            base = runs[reference]
            seeds = (
                [s for s in sorted(by_seed) if len(by_seed[s]) == len(base.get(s, ()))] if column != reference else []
            )
            pairs = [([m[metric] for m in by_seed[s]], [m[metric] for m in base[s]]) for s in seeds]
            if pairs and None not in [v for pair in pairs for values in pair for v in values]:
                mean, half = seed_interval([100 * (statistics.fmean(a) - statistics.fmean(b)) for a, b in pairs])
                made.append(Difference(column, metric, mean, half, len(pairs)))
    return made


def printed(home: Path) -> list[PaperValue]:
    """The paper's values, where the project's data folder is at hand."""
    path = Path(home) / "data" / "paper_results.csv"
    return paper_results(path) if path.exists() else []


# --- docs/TABLES.md

COMMITTED = {  # data sets whose results come with the project
    "real": "*real* is MVTec-AD's bottle and the RGB images of MVTec 3D-AD's tire, both complete and resized to 256 px.",
    "cifar10": "*cifar10* is a copy of CIFAR-10 whose images were JPEG-compressed once more: numbers on it are near the official ones, not equal.",
}
REMARKS = {  # of a table: what to know, where it has the column
    ("mvtec", "real", "unified"): {
        "DuMeNet": "One model for bottle and tire: the paper's columns are from one model for fifteen categories, which is harder.",
        "UniAD": "UniAD is run at DuMeNet's size and on its target, see Budgets.",
        "DuMeNet, laptop": "`DuMeNet, laptop` was chosen on tire's test images (benchmarks/RESULTS.md), so its numbers there, and its mean, "
        "flatter it; those of bottle do not.",
    },
    ("cifar", "cifar10", "unified"): {
        "DuMeNet": "Stage, grid, layers and pooling of DuMeNet, UniAD and Gaussian were chosen for DuMeNet on training classes held out "
        "(the table recipe); the other methods have the settings of their files, not tuned to CIFAR-10.",
        "PANDA": "PANDA ends below its own start, DN2: its training as set here hurts.",
        "FCDD+OE": "The outliers of FCDD+OE are crops of two photographs, where the original takes CIFAR-100.",
    },
    ("ablations", "real", "unified"): {
        "default": "A small network. Without a memory it makes no difference what the decoder reads: two rows are one. Of 23 intervals of "
        "95 % about one misses by chance.",
    },
    ("contamination", "real", "unified"): {
        "DuMeNet": "Small networks. Defects are added to the normal images, all of which stay: at a higher level a network also takes more steps.",
    },
    ("recipe", "cifar10", "unified"): {
        "stages 0-4 at 7, 800 images a class": "The row of 800 images a class has four times the steps too, as that of 32 epochs has, and is "
        "judged on four times as many held-out images.",
    },
    ("shortfall", "real", "unified"): {"US": "Bottle alone; a row differs in one thing from the first row of its method."},
}  # fmt: skip
TITLES = {
    "mvtec": "The methods of the MVTec-AD table", "cifar": "The methods of the CIFAR-10 table",
    "shortfall": "Likely reasons for falling short of the paper, taken away one by one",
    "epochs": "What choosing the best epoch on the test images would buy",
    "ablations": "One change at a time", "contamination": "Defects among the training images",
    "recipe": "Choosing the settings for CIFAR-10",
}  # fmt: skip
HEAD = """# Tables: every method of the paper's tables, run side by side

Made by `python -m dumenet.paper.tables` from `data/results/table-*.json`; run more jobs, or change those, not this file.
Numbers are percent; ± is the half-width of a 95 % interval: other seeds (two or more) and, for image AUROC, another draw of
test images; a value without ± has one seed, or ranks every image right, where resampling tells nothing. Splits of ten classes share
their test images: ± of their mean is the worst case. In brackets: ours minus what the paper prints for the same method and row. Below
each table stand the files that it is made from: each holds every setting and, under `command`, the line that makes it again with the code
of the commit that it names (later code may draw other random numbers). A figure is drawn from the same rows.

**All runs below are of older defaults**: 8 epochs, the L2 norm of the error, features sampled bilinearly, 4 + 4 layers with dropout 0.1
where nothing else is said. They show what so short a training gives. Today's default, 3,200 steps and the error in its normal spread,
is measured in the README on five real categories; every table here will be measured again.
"""


def groups(records: Iterable[dict[str, Any]]) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    """Records of tables on the data sets COMMITTED by (table, data set, setting), in the order of TITLES."""
    found: dict[tuple[str, str, str], list[dict]] = {}
    for record in records:
        if record.get("tag") == "table" and record["data"]["name"] in COMMITTED:
            found.setdefault((record["table"], record["data"]["name"], record["setting"]), []).append(record)
    return dict(sorted(found.items(), key=lambda item: (list(TITLES).index(item[0][0]), item[0])))


def document(records: Iterable[dict[str, Any]], paper: Sequence[PaperValue]) -> tuple[str, dict[str, list[Row]]]:
    """docs/TABLES.md, and the rows of each figure that it shows."""
    lines, figures = [HEAD], {}
    for (table, data, setting), group in groups(records).items():
        made, name = rows(group, paper), f"table-{table}-{data}-{setting}"
        figures[name] = made
        hours = sum(sum(r["seconds"].values()) for r in group) / 3600
        sizes = sorted({(r["data"]["train"], r["data"]["test"]) for r in group})
        machines = sorted({f"{r['machine']['cpu']}, {r['machine']['threads']} thread(s)" for r in group})
        remarks, same = REMARKS.get((table, data, setting), {}), set_for_all(group)
        lines += [
            f"## {TITLES[table]}: {data}, {setting}", "",
            " ".join([COMMITTED[data], *(text for column, text in remarks.items() if column in {r["column"] for r in group})]), "",
            f"{len(group)} runs, {hours:.1f} hours on {'; '.join(machines)}. "
            f"Training and test images: {', '.join(f'{a} and {b}' for a, b in sizes)}. "
            + (f"Changed for every run: `{' '.join(same)}`. " if same else "") + "One of the commands:",
            "", f"```sh\n{group[-1]['command']}\n```", "", markdown(made), files(group),
        ]  # fmt: skip
        if table == "ablations" and any(r["column"] == "default" for r in group):
            lines += [versus(against(group, "default"), "default")]
        lines += [
            f"![{TITLES[table]}, {data}: dots with intervals, crosses where the paper prints a value]({name}.svg)",
            "",
        ]
    used = dict.fromkeys(r["method"] for group in groups(records).values() for r in group)
    return "\n".join([*lines, *budgets(used)]) + "\n", figures


def set_for_all(group: Sequence[dict[str, Any]]) -> list[str]:
    """The settings that the commands of all runs give, other than the device."""
    given = [shlex.split(r["command"].partition(" --set ")[2]) for r in group]
    return [pair for pair in given[0] if all(pair in pairs for pairs in given) and ".device=" not in pair]


def files(group: Sequence[dict[str, Any]]) -> str:
    """The results files of a table as links from docs/, folded, by column and part."""
    found: dict[str, list[dict]] = {}
    for record in sorted(group, key=lambda r: (_place(r["column"], TABLES[r["table"]].columns), r["seed"])):
        parts = list(record["metrics"]["per_category"])
        found.setdefault(record["column"] + (f", {parts[0]}" if len(parts) == 1 else ""), []).append(record)
    lines = ["<details><summary>Results files, with settings and commands</summary>", ""]
    for name, records in found.items():
        links = ", ".join(f"[seed {r['seed']}](../{r['files']['results']})" for r in records)
        lines.append(f"- {name}: {links}")
    return "\n".join([*lines, "", "</details>", ""])


def versus(differences: Sequence[Difference], reference: str) -> str:
    """Differences to a reference as a Markdown table."""
    metrics, columns = (list(dict.fromkeys(d[i] for d in differences)) for i in (1, 0))
    cells = {
        (d.column, d.metric): f"{d.mean:+.1f}" + ("" if d.half is None else f" ± {d.half:.1f}") for d in differences
    }
    lines = [
        f"| minus {reference} | " + " | ".join(METRICS[m] for m in metrics) + " | seeds |",
        "|---" * (len(metrics) + 2) + "|",
    ]
    for column in columns:
        seeds = next(d.seeds for d in differences if d.column == column)
        lines.append(f"| {column} | " + " | ".join(cells.get((column, m), "–") for m in metrics) + f" | {seeds} |")
    return "\n".join([*lines, ""])


def budgets(methods: Iterable[str]) -> list[str]:
    """How long each method trains here and in its own paper: from the settings table that opens its file."""
    lines = [
        "## Budgets",
        "",
        "Every method that trains is cut far short of its own budget; the file of each has all settings.",
        "",
    ]
    lines += ["| method | original | ours |", "|---|---|---|"]
    for method in methods:
        table = [
            [c.strip() for c in line.split("|")[1:-1]]
            for line in sys.modules[METHODS[method].__module__].__doc__.splitlines()
        ]
        said = [row for row in table if len(row) == 4 and row[0] in BUDGET_ROWS]
        name = f"[{method}](../{METHODS[method].__module__.replace('.', '/')}.py)"
        lines += [f"| {name}: {setting} | {original} | {ours} |" for setting, original, ours, _ in said]
    return lines


BUDGET_ROWS = (
    "width",
    "target",
    "outliers",
    "students",
    "steps",
    "training",
    "optimiser",
    "stopping",
    "backbone",
    "network",
    "encoder",
    "frozen network",
)


def main(home: Path = Path(".")) -> int:
    """`python -m dumenet.paper.tables`: docs/TABLES.md and its figures from the committed results."""
    try:
        text, figures = document(read_results(home / "data" / "results"), printed(home))
        for name, made in figures.items():
            save(table_figure(made), name, home / "docs", close=True)
        write_atomic(home / "docs" / "TABLES.md", text.encode())
    except DumenetError as error:
        print(f"Cannot write the tables: {error}", file=sys.stderr)
        return 2
    print("docs/TABLES.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
