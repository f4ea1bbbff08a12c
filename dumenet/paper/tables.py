"""Tables from results files alone: ours beside the paper's, differences, intervals; docs/TABLES.md is made from them.

python -m dumenet.paper.tables    # write docs/TABLES.md and its figures from the committed results
"""

import itertools
import math
import shlex
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml
from matplotlib.figure import Figure

from dumenet.errors import DumenetError
from dumenet.files import write_atomic
from dumenet.methods import METHODS
from dumenet.metrics import METRICS, seed_interval
from dumenet.paper.jobs import LENGTHS, TABLES
from dumenet.plots import panels, save, table_figure
from dumenet.results import PaperValue, paper_results, plus_minus, read_results, runs, summary
from dumenet.results import markdown as markdown_table
from dumenet.run import Folders, Job

SHOWN = ("image_auroc", "pixel_auroc", "pro")  # the metrics of a table
PAIRED = ("ablations", "choices")  # tables whose columns are compared with their default, seed by seed


class Row(NamedTuple):
    """One cell of a table, in percent."""

    column: str
    part: str  # a category, a split, or "mean"
    metric: str
    ours: float  # mean over seeds
    half: float | None  # half-width of its 95 % interval, see `dumenet.results.summary`
    seeds: int
    paper: float | None  # "mean": of the parts that stand here, recomputed
    difference: float | None


def rows(records: Sequence[dict[str, Any]], paper: Sequence[PaperValue] = ()) -> list[Row]:
    """The cells of one table and setting beside the paper's, in the table's order: see `dumenet.results.summary`.

    Raises:
        DumenetError: two records for one column, part and seed: settings are mixed that the table does not show.
    """
    if not records:
        return []
    table, found = TABLES[records[0]["table"]], runs(records)
    paper = [v for v in paper if v.table == table.paper]
    other = records[0]["data"]["name"] == "digits"  # its splits are not CIFAR-10's
    printed = {(v.method, v.category.strip("{}"), v.metric): v.value for v in paper if not other}
    cells, order = summary(found[found.metric.isin(SHOWN)]), [v.category.strip("{}") for v in paper]
    parts = {part for _, part, _ in cells.index} - {"mean"}
    parts = sorted(parts, key=lambda p: (order.index(q) if (q := p.strip("{}")) in order else len(order), p))
    shown = [*parts, "mean"] if len(parts) > 1 else parts
    made = []
    for metric, column, part in itertools.product(SHOWN, table.columns, shown):
        if (column, part, metric) not in cells.index:
            continue
        ours, half, seeds = cells.loc[(column, part, metric)]
        said = [printed.get((column, p.strip("{}"), metric)) for p in (parts if part == "mean" else [part])]
        said = None if None in said else statistics.fmean(said)
        difference, half = None if said is None else ours - said, None if math.isnan(half) else half
        made.append(Row(column, part, metric, ours, half, int(seeds), said, difference))
    return made


def markdown(table: Sequence[Row]) -> str:
    """One Markdown table for each metric: methods down, parts across; ours ± half, and ours minus the paper's."""
    made = []
    for metric in dict.fromkeys(row.metric for row in table):
        cells = {(r.column, r.part): r for r in table if r.metric == metric}
        columns, parts = (list(dict.fromkeys(key[i] for key in cells)) for i in (0, 1))
        parts = sorted(parts, key="mean".__eq__)  # the mean last
        lines = [[METRICS[metric], *parts, "seeds"]]
        for column in columns:
            row = [cells.get((column, part)) for part in parts]
            seeds = sorted({r.seeds for r in row if r})
            lines.append([column, *map(_cell, row), "-".join(map(str, seeds))])
        made.append(markdown_table(lines) + "\n")
    return "\n".join(made)


def _cell(row: Row | None) -> str:
    if row is None:
        return "–"
    return plus_minus(row.ours, row.half) + ("" if row.difference is None else f" ({row.difference:+.1f})")


def write(jobs: Sequence[Job], home: Path, out: Path) -> list[Path]:
    """CSV, Markdown and figure of the jobs that are finished, into `out`; returns the files.

    Raises:
        DumenetError: no test image of theirs is defective, or all are: nothing is defined that a table could show.
    """
    records = [r for r in (job.finished(Folders(home)) for job in jobs) if r]
    if not records:
        return []
    made = rows(records, printed(home))
    if not made:
        raise DumenetError(
            f"The results are kept, but a table needs normal and defective test images, and {jobs[0].dataset.name} has "
            "one kind alone: add the other."
        )
    name = f"table-{jobs[0].table}-{jobs[0].dataset.name}-{jobs[0].setting}"
    text = pd.DataFrame(made).to_csv(index=False, float_format="%.2f")
    paired = versus(records, TABLES[jobs[0].table].columns, "default") if jobs[0].table in PAIRED else ""
    files = {out / f"{name}.csv": text, out / f"{name}.md": markdown(made) + paired}
    for path, text in files.items():
        write_atomic(path, text.encode())
    return [*files, *save(table_figure(made), name, out, close=True)]


def by_seed(found: pd.DataFrame, row: str, minus: str | None = None, metric: str = "image_auroc") -> pd.Series:
    """Of `dumenet.results.runs`: seed -> the mean over parts of a row, or its difference to another row, in percent.

    Both rows are judged on the same test images, so an interval of these differences is that of other seeds alone. A
    seed that lacks one of the parts is left out.
    """
    means = found[(found.part == "mean") & (found.metric == metric)].pivot(index="seed", columns="row", values="value")
    means = means.reindex(columns=[row] if minus is None else [row, minus])
    return (means[row] if minus is None else means[row] - means[minus]).dropna()


def gain(found: pd.DataFrame, row: str, minus: str, metric: str = "image_auroc") -> str:
    """`by_seed` in words: the mean difference ± half of its 95 % interval over seeds; a dash without any."""
    seeds = by_seed(found, row, minus, metric)
    return plus_minus(*seed_interval(seeds), sign="+") if len(seeds) else "–"


def versus(records: Sequence[dict[str, Any]], columns: Iterable[str], reference: str) -> str:
    """Differences to the column `reference`, paired by seed, as a Markdown table: a row for each of the `columns`."""
    found = runs(records)
    metrics = [m for m in SHOWN if len(by_seed(found, reference, metric=m))]
    lines = [[f"minus {reference}", *(METRICS[m] for m in metrics), "seeds"]]
    for column in columns:
        seeds = max(len(by_seed(found, column, reference, m)) for m in metrics)
        if column != reference and seeds:
            lines.append([column, *(gain(found, column, reference, m) for m in metrics), f"{seeds}"])
    return markdown_table(lines) + "\n"


def printed(home: Path) -> list[PaperValue]:
    """The paper's values, where the project's data folder is at hand."""
    path = Path(home) / "data" / "paper_results.csv"
    return paper_results(path) if path.exists() else []


# --- docs/TABLES.md

WORDS = yaml.safe_load(Path(__file__).with_name("tables.yaml").read_text("utf-8"))
TITLES, COMMITTED, REMARKS = (WORDS[key] for key in ("titles", "data", "remarks"))


def data_name(record: dict[str, Any]) -> str:
    """Name of a record's data set; a part of CIFAR-10 is another one, but for the table that chooses settings on it."""
    data = record["data"]
    part = data["name"] == "cifar10" and record["table"] != "recipe" and data.get("train", 25_000) < 25_000
    return "a part of cifar10" if part else data["name"]


SAME = {  # columns of the table growth that are columns of other tables: its committed runs are theirs
    "DuMeNet, 2,400 steps": ("mvtec", "DuMeNet"), "DuMeNet, spread, 2,400 steps": ("mvtec", "DuMeNet, spread"),
    "UniAD, 2,400 steps": ("mvtec", "UniAD"),
    "DuMeNet without memory, 2,400 steps": ("ablations", "memory none, decoder reads memory"),
}  # fmt: skip


def groups(records: Iterable[dict[str, Any]]) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    """Records of tables on the data sets COMMITTED by (table, data set, setting), in the order of the words."""
    found: dict[tuple[str, str, str], list[dict]] = {}
    for record in records:
        if record.get("tag") == "table" and data_name(record) in COMMITTED:
            found.setdefault((record["table"], data_name(record), record["setting"]), []).append(record)
    if grown := found.get(("growth", "real5", "unified")):
        for column, (table, other) in SAME.items():
            same = [r for r in found.get((table, "real5", "unified"), ()) if r["column"] == other]
            grown += [r | {"table": "growth", "column": column} for r in same]
    tables, data = list(TITLES), list(COMMITTED)
    return dict(sorted(found.items(), key=lambda item: (tables.index(item[0][0]), data.index(item[0][1]), item[0])))


def committed(results: Path, table: str) -> list[dict[str, Any]]:
    """The runs of a table on five real categories, one model for all of them, among the records in a folder."""
    return groups(read_results(results, tag="table")).get((table, "real5", "unified"), [])


def growth(group: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[list[float]]]]:
    """Of the runs of the table growth: metric -> method -> for each of LENGTHS the means of its seeds, in percent."""
    found = runs(group)
    names = dict.fromkeys(c.rpartition(", ")[0] for c in TABLES["growth"].columns if c in set(found["row"]))
    return {
        f"{METRICS[m]}, %": {
            n: [by_seed(found, f"{n}, {k:,} steps", metric=m).tolist() for k in LENGTHS] for n in names
        }
        for m in SHOWN[:2]
    }


def growth_table(made: Sequence[Row]) -> str:
    """The means of the table growth: methods down, lengths across."""
    cells = {(*r.column.rsplit(", ", 1), r.metric): plus_minus(r.ours, r.half) for r in made if r.part == "mean"}
    names, lengths = (list(dict.fromkeys(key[i] for key in cells)) for i in (0, 1))
    lines = [["image / pixel AUROC", *lengths]]
    for name in names:
        lines.append([name, *(" / ".join(cells.get((name, k, m), "–") for m in SHOWN[:2]) for k in lengths)])
    return markdown_table(lines) + "\n"


def machine_name(record: dict[str, Any]) -> str:
    """What a record's method ran on."""
    machine = record["machine"]
    return machine["device"] if on_gpu(record) else f"{machine['cpu']}, {machine['threads']} thread(s)"


def on_gpu(record: dict[str, Any]) -> bool:
    """Whether a record's method ran on a GPU."""
    return record.get("device", "cpu").startswith("cuda")


def costs(group: Sequence[dict[str, Any]]) -> str:
    """Of a table's runs: each method's AUROCs, the best mean of both first, beside costs on a processor; medians."""
    found = runs(group)
    found = found[(found.part == "mean") & found.metric.isin(SHOWN[:2])]
    both = found.groupby(["row", "seed", "part"], as_index=False).agg(
        value=("value", "mean"), half=("half", lambda halves: halves.sum(min_count=1) / 2)
    )
    cells = summary(pd.concat([found, both.assign(metric="both")]))
    lines = [[*(METRICS[m] for m in SHOWN[:2]), "mean of both", "fit, s", "score, ms", "MB", "seeds"]]
    lines[0].insert(0, "one model for all categories" if group[0]["setting"] == "unified" else "one model each")
    for (column, *_), row in cells.xs("both", level="metric", drop_level=False).sort_values("mean")[::-1].iterrows():
        own = [r for r in group if r["column"] == column and not on_gpu(r)]
        measured = [[r["seconds"].get("train cpu"), *(r.get("cost", {}).get(k) for k in ("ms", "mb"))] for r in own]
        measured = measured or [[None] * 3]
        figures = ["–" if None in values else f"{statistics.median(values):.4g}" for values in zip(*measured)]
        shown = [plus_minus(*cells.loc[(column, "mean", m), ["mean", "half"]]) for m in (*SHOWN[:2], "both")]
        lines.append([column, *shown, *figures, f"{row['n']:.0f}"])
    return markdown_table(lines)


def document(
    records: Iterable[dict[str, Any]], paper: Sequence[PaperValue]
) -> tuple[str, dict[str, Callable[[], Figure]]]:
    """docs/TABLES.md, and what draws each figure that it shows."""
    grouped = groups(records)
    opening = [("mvtec", "real5", setting) for setting in ("unified", "separate")]
    first = [costs(grouped[key]) + "\n" for key in opening if key in grouped]
    told = [f"{text}\n" for text in COMMITTED.values()]
    lines, figures = [WORDS["head"], *first, WORDS["after"], "## The data", "", *told], {}
    for (table, data, setting), group in grouped.items():
        made, name = rows(group, paper), f"table-{table}-{data}-{setting}"
        figures[name] = partial(table_figure, made)
        if table == "growth":
            figures[name] = partial(panels, LENGTHS, growth(group), "steps of training", log=True)
        hours = sum(sum(r["seconds"].values()) for r in group) / 3600
        sizes = sorted({(r["data"]["train"], r["data"]["test"]) for r in group})
        machines = sorted({machine_name(r) for r in group})
        remarks = REMARKS.get(f"{table} {data}", {}) if setting == "unified" else {}
        same, columns = set_for_all(group), {r["column"] for r in group}
        lines += [
            f"## {TITLES[table]}: {data}, {setting}", "",
            *[f"{text}\n" for column, text in remarks.items() if column in columns],
            f"{len(group)} runs, {hours:.1f} hours on {'; '.join(machines)}. "
            f"Training and test images: {', '.join(f'{a} and {b}' for a, b in sizes)}. "
            + (f"Changed for every run: `{' '.join(same)}`. " if same else "") + "One of the commands:",
            "", f"```sh\n{group[0]['command']}\n```", "", *([growth_table(made)] if table == "growth" else []),
            "<details><summary>By category, with files</summary>", "", markdown(made), files(group), "</details>", "",
        ]  # fmt: skip
        if table in PAIRED:
            lines += [versus(group, TABLES[table].columns, "default")]
        alt = f"{TITLES[table]}, {data}: dots, intervals where known, crosses where the paper prints a value"
        lines += [f"![{alt}]({name}.svg)", ""]
    used = dict.fromkeys(r["method"] for group in grouped.values() for r in group)
    return "\n".join([*lines, *budgets(used)]) + "\n", figures


def set_for_all(group: Sequence[dict[str, Any]]) -> list[str]:
    """The settings that the commands of all runs give, other than the device."""
    given = [shlex.split(r["command"].partition(" --set ")[2]) for r in group]
    return [pair for pair in given[0] if all(pair in pairs for pairs in given) and "device=" not in pair]


def files(group: Sequence[dict[str, Any]]) -> str:
    """The results files of a table as links from docs/, folded, by column and part."""
    found: dict[str, list[dict]] = {}
    place = {name: i for i, name in enumerate(TABLES[group[0]["table"]].columns)}
    for record in sorted(group, key=lambda r: (place.get(r["column"], 99), r["seed"])):  # 99: a column that is gone
        parts = list(record["metrics"]["per_category"])
        found.setdefault(record["column"] + (f", {parts[0]}" if len(parts) == 1 else ""), []).append(record)
    lines = ["Results files, with settings and commands:", ""]
    for name, records in found.items():
        links = ", ".join(f"[seed {r['seed']}](../{r['files']['results']})" for r in records)
        lines.append(f"- {name}: {links}")
    return "\n".join([*lines, ""])


def budgets(methods: Iterable[str]) -> list[str]:
    """How long each method trains here and in its own paper: from the settings table that opens its file."""
    lines = ["## Budgets", "", WORDS["budgets"], "| method | original | ours |", "|---|---|---|"]
    names: dict[str, list[str]] = {}  # module -> its methods
    for method in methods:
        names.setdefault(METHODS[method].__module__, []).append(method)
    for module, own in names.items():
        text = sys.modules[module].__doc__.replace("\n  ", " ")  # a row may go on in indented lines
        table = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines()]
        said = [row for row in table if len(row) == 4 and row[0] in BUDGET_ROWS]
        link = f"[{', '.join(own)}](../{module.replace('.', '/')}.py)"
        lines += [f"| {link}: {setting} | {original} | {ours} |" for setting, original, ours, _ in said]
    return lines


BUDGET_ROWS = (
    "width", "target", "outliers", "students", "steps", "training", "optimiser", "stopping", "backbone", "network",
    "encoder", "frozen network",
)  # fmt: skip


def main(home: Path = Path(".")) -> int:
    """`python -m dumenet.paper.tables`: docs/TABLES.md and its figures from the committed results."""
    try:
        text, figures = document(read_results(home / "data" / "results"), printed(home))
        for name, drawn in figures.items():
            save(drawn(), name, home / "docs", close=True)
        write_atomic(home / "docs" / "TABLES.md", text.encode())
    except DumenetError as error:
        print(f"Cannot write the tables: {error}", file=sys.stderr)
        return 2
    print("docs/TABLES.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
