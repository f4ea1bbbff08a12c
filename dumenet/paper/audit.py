"""The paper's claims against the evidence; docs/AUDIT.md is made from them.

    python -m dumenet.paper.audit                                  # write docs/AUDIT.md from the committed results
    python -m dumenet.paper.audit --take data/results/11-....json  # commit a measurement of lesson 11 first

No verdict is typed. `claims.yaml` holds the claims; each names a measure, which turns evidence into numbers, and one of
four rules, which turns these numbers into a verdict. Evidence is the paper's own tables, the committed runs on real
images, and what lesson 11 measured (`data/results/audit-*.json`).
"""

import argparse
import contextlib
import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from string import Formatter
from typing import Any, Literal, NamedTuple

import pandas as pd
import yaml
from scipy import stats

from dumenet.config import config_from_dict
from dumenet.errors import DumenetError
from dumenet.files import write_atomic
from dumenet.metrics import seed_interval
from dumenet.paper.tables import Row, by_seed, data_name, printed, rows
from dumenet.results import PaperValue, paper_table, plus_minus, read_results, runs, write_result

HOLDS, PART, NOT = "holds", "holds in part", "does not hold here"
CANNOT, NOT_RUN = "cannot be tested here", "not run yet"
VERDICTS = (HOLDS, PART, NOT, CANNOT, NOT_RUN)
PRINTED = "data/paper_results.csv"
ROUNDED = 0.1  # points: a mean printed with one digit (0.05), of rows printed with one digit (0.05)
METRICS = {"image": "image_auroc", "pixel": "pixel_auroc"}

# --- rules: from the numbers of one part of a claim to its verdict


def above_zero(difference: float, half: float | None) -> str:
    """A difference is above 0: only a 95 % interval on one side of 0 decides, and one seed (no `half`) gives none."""
    if half is None:
        return CANNOT
    return HOLDS if difference - half > 0 else NOT if difference + half < 0 else CANNOT


def reaches(ours: float, half: float | None, printed: float) -> str:
    """A printed number comes out: our mean reaches it; not if even the upper end of its 95 % interval stays below."""
    least = printed - ROUNDED / 2
    return HOLDS if ours >= least else NOT if half is not None and ours + half < least else CANNOT


def within(difference: float, limit: float) -> str:
    """Two numbers are equal up to `limit`; a difference that is NaN decides nothing."""
    return CANNOT if math.isnan(difference) else HOLDS if abs(difference) <= limit + 1e-9 else NOT


def exceeds(value: float, limit: float) -> str:
    """A number is above `limit`."""
    return HOLDS if value > limit else NOT


def together(verdicts: Iterable[str], parts: str = "in part") -> str:
    """One verdict from those of a claim's parts.

    "in part": all, some or none hold; "most": what more than half say; "every": one that fails refutes the claim.
    """
    verdicts = list(verdicts)
    hold, fail = (verdicts.count(v) / max(len(verdicts), 1) for v in (HOLDS, NOT))
    if parts == "every":
        return HOLDS if hold == 1 else NOT if fail else CANNOT
    if parts == "most":
        return HOLDS if hold > 0.5 else NOT if fail > 0.5 else PART if hold else CANNOT
    return HOLDS if hold == 1 else PART if hold else NOT if fail else CANNOT


# --- evidence

REAL = ("real5", "cifar10")  # data sets of real images


def placed(records: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Table -> its runs on real images with one model for all categories."""
    found: dict[str, list[dict[str, Any]]] = {}
    for r in records:
        if data_name(r) in REAL and r["setting"] == "unified":
            found.setdefault(r["table"], []).append(r)
    return found


class NothingRun(Exception):
    """No run and no measurement that a claim needs: its verdict is "not run yet"."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the claims are held against."""

    paper: list[PaperValue]
    records: dict[str, list[dict]]  # see `placed`
    measured: dict[str, dict]  # lesson 11: name of the measurement -> its numbers; "file" and "on" of a committed one
    used: set[str] = field(default_factory=set)  # files that were read since the last claim
    data: set[str] = field(default_factory=set)  # names of their data sets

    def runs(self, table: str, *columns: str) -> list[dict[str, Any]]:
        """The records of a table, or of some of its columns; NothingRun without any of a column."""
        found = [r for r in self.records.get(table, ()) if not columns or r["column"] in columns]
        if not found or {r["column"] for r in found} < set(columns):
            raise NothingRun
        self.used.update(r["files"]["results"] for r in found)
        self.data.update(r["data"]["name"] for r in found)
        return found

    def by_seed(self, table: str, column: str, minus: str | None = None, metric: str = "image_auroc") -> pd.Series:
        """Seed -> a column, or its difference to another, in percent, see `tables.by_seed`; NothingRun without any."""
        columns = (column,) if minus is None else (column, minus)
        seeds = by_seed(runs(self.runs(table, *columns)), column, minus, metric)
        if not len(seeds):
            raise NothingRun
        return seeds

    def cells(self, table: str, *columns: str) -> list[Row]:
        """The cells of a table beside the paper's, with intervals over seeds and test images: `tables.rows`."""
        return rows(self.runs(table, *columns), self.paper)

    def measurement(self, name: str) -> dict[str, Any]:
        """The numbers of one measurement of lesson 11; NothingRun where nobody has made it."""
        if name not in self.measured:
            raise NothingRun
        self.used.update({self.measured[name].get("file")} - {None})
        self.data.update({self.measured[name].get("on")} - {None})
        return self.measured[name]

    def printed(self, table: str, metric: str) -> pd.DataFrame:
        """What the paper prints, in percent: rows are categories and "mean", columns the methods that have numbers."""
        self.used.add(PRINTED)
        methods, categories, values = paper_table(self.paper, table, metric)
        return pd.DataFrame(values[:-1], [*categories, "mean"], methods).dropna(axis="columns", how="all")


def gather(home: Path = Path(".")) -> Evidence:
    """The evidence in a checkout: the paper's tables, and the records that are tagged table or audit."""
    records = read_results(Path(home) / "data" / "results")
    measured = {
        k: v | {"file": f"data/results/audit-{r['name']}.json", "on": r["data"]["name"]}
        for r in records if r.get("tag") == "audit" for k, v in r["measured"].items()
    }  # fmt: skip
    counted = placed(r for r in records if r.get("tag") == "table")
    return Evidence(printed(home), counted, measured)


# --- measures: from evidence to the parts of a claim


class Part(NamedTuple):
    """A part of a claim."""

    name: str  # in words, with its numbers
    numbers: tuple[float | None, ...]  # what the rule takes
    shown: dict[str, Any] = {}  # what else the sentence `evidence` of the claim shows, by name


def abstract(e: Evidence, metric: str) -> Iterator[Part]:
    """The abstract's number minus the mean of the printed rows."""
    ours, said = e.printed("mvtec_ad", metric)["DuMeNet"], e.printed("abstract", metric).at["mean", "DuMeNet"]
    average = ours.drop("mean").mean()
    yield Part("", (said - average,), {"rows": average, "table": ours["mean"], "abstract": said})


def gaps(e: Evidence, table: str) -> dict[tuple[str, str], float]:
    """(method, metric) -> printed mean minus mean of the printed rows, in points, for every column of a table."""
    columns = {(name, m): c for m in METRICS.values() for name, c in e.printed(table, m).items()}
    return {key: column["mean"] - column.drop("mean").mean() for key, column in columns.items()}


def printed_means(e: Evidence, table: str) -> Iterator[Part]:
    """The `gaps` of a table."""
    for (method, metric), gap in gaps(e, table).items():
        yield Part(f"{method} {metric.removesuffix('_auroc')} {gap:+.2f}", (gap,))


def lead_in_means(e: Evidence) -> Iterator[Part]:
    """The mean of DuMeNet's printed rows minus that of the best other method."""
    for name, metric in METRICS.items():
        means = e.printed("mvtec_ad", metric).drop("mean").mean()
        ours, best = means.pop("DuMeNet"), means.idxmax()
        yield Part(f"{name}: DuMeNet {ours:.2f}, the best other {best} {means[best]:.2f}", (ours - means[best],))


def lead_in_rows(e: Evidence) -> Iterator[Part]:
    """The share of printed rows in which DuMeNet is ahead of every other method."""
    for name, metric in METRICS.items():
        printed = e.printed("mvtec_ad", metric).drop("mean")
        ours = printed.pop("DuMeNet")
        first, over = ours > printed.max(axis="columns"), (ours > printed["UniAD"]).sum()
        said = f"{name}: ahead of all methods in {first.sum()} of {len(ours)}, of UniAD in {over}"
        yield Part(said, (first.mean(),))


def printed_again(e: Evidence, table: str, column: str, mean_of: int = 0) -> Iterator[Part]:
    """Our number, the half-width of its interval and the printed one: of each row, or of the mean of `mean_of` rows."""
    cells = [r for r in e.cells(table, column) if r.paper is not None]
    e.used.add(PRINTED)
    names = dict.fromkeys(r.part for r in cells if r.part != "mean")
    if len(names) < mean_of:
        said = f"{len(names)} of {mean_of} categories at hand ({', '.join(names)}), see its row; a mean needs them all"
        yield Part(said, (math.nan, None, math.nan))
        return
    for r in (r for r in cells if (r.part == "mean") == (mean_of > 0)):
        printed = e.printed("abstract", r.metric).at["mean", column] if mean_of else r.paper
        said = f"{r.part} {r.metric.removesuffix('_auroc')} {plus_minus(r.ours, r.half, 2)}, printed {printed:g}"
        one = r.seeds < 2  # which decides nothing, even where its interval over test images is known
        yield Part(said, (math.nan if one else r.ours, r.half, printed), {"seeds": r.seeds})


def other_methods(e: Evidence, table: str, seedless: Sequence[str]) -> Iterator[Part]:
    """DuMeNet's mean image AUROC minus that of every other method, variants ("PaDiM, ridge 1") left out.

    The interval is that of seeds and test images, of both methods as if they were independent; one seed gives none,
    but of the methods `seedless`, which draw no random numbers.
    """
    means = {r.column: r for r in e.cells(table) if (r.metric, r.part) == ("image_auroc", "mean")}
    ours = means.pop("DuMeNet")
    for column, other in ((c, r) for c, r in means.items() if ", " not in c):
        seeds = min(ours.seeds, 2 if column in seedless else other.seeds)
        known = seeds > 1 and None not in (ours.half, other.half)
        difference, half = ours.ours - other.ours, math.hypot(ours.half, other.half) if known else None
        yield Part(f"{column} {plus_minus(difference, half, 1, '+')}" + " (one seed)" * (seeds < 2), (difference, half))


def differences(e: Evidence, table: str, column: str, minus: Sequence[str]) -> Iterator[Part]:
    """A column minus others, paired by seed."""
    for other in minus:
        for name, metric in METRICS.items():
            gains = e.by_seed(table, column, other, metric)
            end = f" against {other} ({len(gains)} seed{'s' * (len(gains) > 1)})" if name == "pixel" else ""
            yield Part(f"{name} {plus_minus(*seed_interval(gains), 2, '+')}{end}", seed_interval(gains))


def claimed_gain(e: Evidence) -> Iterator[Part]:
    """The gain over UniAD that the paper claims on CIFAR-10, beside the runs of the table cifar, in points.

    Shown: `gain`; `deviation`, the standard deviation over seeds of the mean image AUROC of the splits, pooled over
    both methods; `half`, by how much two single runs then differ (95 %, Student's t); `seeds` of a method.
    """
    columns = ("DuMeNet", "UniAD")
    runs = [e.by_seed("cifar", column) for column in columns]
    if min(map(len, runs)) < 2:
        raise NothingRun
    deviation = math.sqrt(sum(r.var() for r in runs) / 2)
    half = float(stats.t.ppf(0.975, sum(map(len, runs)) - 2)) * math.sqrt(2) * deviation
    ours, other = e.printed("cifar10", "image_auroc").loc["mean", list(columns)]
    shown = {"gain": ours - other, "deviation": deviation, "half": half, "seeds": min(map(len, runs))}
    yield Part("", (ours - other, half), shown)


def loss_by_defects(e: Evidence, table: str, column: str, others: Sequence[str]) -> Iterator[Part]:
    """How much more image AUROC others lose by 20 % defects among the training images, paired by seed."""
    ours, *theirs = (e.by_seed(table, f"{c}, 0%", f"{c}, 20%") for c in (column, *others))
    for other, loss in zip(others, theirs):
        more = seed_interval((loss - ours).dropna())
        yield Part(f"{other} loses {plus_minus(*more, 1, '+')} more", more, {"ours": ours.mean()})


def one_rule_for_both(e: Evidence, column: str, own: dict[str, str]) -> Iterator[Part]:
    """How far the best single rule from map to score is from each table's own rule, in points."""
    found = {t: pd.DataFrame(r["image_auroc_by_pooling"] for r in e.runs(t, column)) for t in own}
    means = 100 * pd.DataFrame({t: rules.mean() for t, rules in found.items()})
    best = means.sum(axis="columns").idxmax()
    said = "; ".join(f"{t}: " + ", ".join(f"{rule} {v:.1f}" for rule, v in means[t].items()) for t in own)
    largest = max(abs(means.at[rule, t] - means.at[best, t]) for t, rule in own.items())
    yield Part("", (largest,), {"rules": said, "best": best})


def best_minus_last(e: Evidence, table: str, small: float) -> Iterator[Part]:
    """`small` minus what the best epoch is ahead of the last, over runs, in points."""
    found = [r["image_auroc_by_epoch"] for r in e.runs(table)]
    gains = [100 * (max(f) - f[-1]) for f in found]
    mean, half = seed_interval(gains)
    shown = {"runs": len(gains), "epochs": len(found[0]), "most": max(gains), "gain": plus_minus(mean, half, 2)}
    yield Part("", (small - mean, half), shown)


def loss_by_pooling(e: Evidence, table: str, column: str, lesson: str, least: float) -> Iterator[Part]:
    """What one threshold for all categories loses; undecided where the mean over categories is near chance."""
    runs = [r["metrics"] for r in e.runs(table, column)]
    values = [fmean(m[k]["image_auroc"] for m in runs) for k in ("mean", "pooled")]
    found = {" + ".join(runs[0]["per_category"]): values}
    if lesson in e.measured:
        found["factory"] = [e.measurement(lesson)[k] for k in ("mean", "pooled")]
    for data, (mean, pooled) in found.items():
        said = f"{data}: mean over categories {mean:.3f}, pooled {pooled:.3f}"
        yield Part(said, (max(mean - pooled, 0) if mean > least else math.nan,))


def lesson(e: Evidence, lesson: str, values: Sequence[str], expected: float = 0, ablation: str = "") -> Iterator[Part]:
    """Measured values minus the expected one; a list over epochs counts as its last number divided by its first.

    The outcome of an ablation is shown and not judged.
    """
    m = {"outcome": ""}
    for name, value in e.measurement(lesson).items():
        m |= {name: value[-1] / value[0], "epochs": len(value) - 1} if isinstance(value, list) else {name: value}
    with contextlib.suppress(NothingRun):
        change = e.by_seed("choices", ablation, "default", "pixel_auroc")
        said = f"({ablation}, {len(change)} seeds) pixel AUROC changes by {plus_minus(*seed_interval(change), 1, '+')}"
        m["outcome"] = f"; in the table choices {said} points"
    for name in values:
        yield Part(name, (Formatter().get_field(name, (), m)[0] - expected,), m)


def fall_from_peak(e: Evidence, lesson: str) -> Iterator[Part]:
    """By how much AUROC fell from its peak; 0 unless the training loss went on falling."""
    m = e.measurement(lesson)
    yield Part("", (m["peak"] - m["last"] if m["loss_last"] < m["loss_peak"] else 0,), m)


def models_trained(e: Evidence, lesson: str, table: str, column: str) -> Iterator[Part]:
    """How many models more than one it takes for all categories: in the released code, and here."""
    m, here = e.measurement(lesson), e.runs(table, column)[0]["metrics"]["per_category"]
    said = f"the released script trains {m['models']} models for {m['categories']} categories (read, not run)"
    yield Part(said, (m["models"] - 1,))
    yield Part(f"here one model serves {len(here)}", (0,))


# --- claims

RULES = {rule.__name__: rule for rule in (above_zero, reaches, within, exceeds)}
MEASURES = {measure.__name__: measure for measure in (
    abstract, printed_means, lead_in_means, lead_in_rows, printed_again, other_methods, differences, claimed_gain,
    loss_by_defects, one_rule_for_both, best_minus_last, loss_by_pooling, lesson, fall_from_peak, models_trained,
)}  # fmt: skip


class Finding(NamedTuple):
    """What the evidence says about a claim."""

    verdict: str
    evidence: str
    files: tuple[str, ...] = ()  # what was read for it, from the project's folder


@dataclass(frozen=True)
class Claim:
    """One sentence of the paper's page, what is run for it, and the rule that judges it: see claims.yaml."""

    key: str
    quote: str
    kind: str
    run: str
    measure: Literal[tuple(MEASURES)]
    rule: Literal[tuple(RULES)]
    holds_if: str
    of: dict[str, Any] = field(default_factory=dict)
    evidence: str = "{each}"
    limit: float | None = None
    parts: str = "in part"
    untested: str = ""
    needs: str = ""
    was: str = ""  # an earlier verdict, and on what it rested, where newer runs gave another one

    def judged(self, evidence: Evidence) -> Finding:
        """The verdict, its evidence and the files of that; without evidence "not run yet"."""
        evidence.used.clear()
        evidence.data.clear()
        try:
            parts = list(MEASURES[self.measure](evidence, **self.of))
        except NothingRun:
            return Finding(NOT_RUN, "none")
        limit = () if self.limit is None else (self.limit,)
        verdicts = [RULES[self.rule](*part.numbers, *limit) for part in parts]
        shown = {k: v for part in parts for k, v in part.shown.items()}
        shown |= {"each": "; ".join(part.name for part in parts), "n": len(parts), "n_holds": verdicts.count(HOLDS)}
        for name, verdict in (("holds", HOLDS), ("fails", NOT), ("open", CANNOT)):
            shown[name] = ", ".join(p.name for p, v in zip(parts, verdicts) if v == verdict) or "none"
        said = f"*{', '.join(sorted(evidence.data))}*: " if evidence.data else ""
        said += self.evidence.format(**shown) + (f"; {self.untested} is not tested" if self.untested else "")
        verdict = together(verdicts + [CANNOT] * bool(self.untested), self.parts)
        return Finding(verdict, said, tuple(sorted(evidence.used)))


WRITTEN = yaml.safe_load(Path(__file__).with_name("claims.yaml").read_text("utf-8"))
CLAIMS = tuple(config_from_dict(claim, Claim, f"claims.yaml, {claim.get('key')}") for claim in WRITTEN)
MEASUREMENTS = {claim.of["lesson"] for claim in CLAIMS if "lesson" in claim.of}  # what lesson 11 may measure


def judgements(evidence: Evidence) -> list[tuple[Claim, Finding]]:
    """Every claim with what the evidence says."""
    return [(claim, claim.judged(evidence)) for claim in CLAIMS]


# --- the document

HEAD = """# Audit: claims against evidence

Made by `python -m dumenet.paper.audit` from `data/paper_results.csv`, `data/results/{table,audit}-*.json`;
change those, or the claims in `dumenet/paper/claims.yaml`, not this file. Lesson 11 makes and explains measurements.
AUROC in percent, differences in points. A verdict is about what was run here, and about no more; "in part" says that
at least one part holds.
The last column links to the files that were used; each holds every setting, the seed, the data's fingerprint, versions
and machine, and those of a table the command that makes them again.
"""


def quoted(claim: Claim) -> str:
    """The paper's words in quotation marks; a place in its tables as it is."""
    return claim.quote if claim.quote.startswith("(") else f"“{claim.quote}”"


def document(evidence: Evidence) -> str:
    """docs/AUDIT.md: how many verdicts of each kind, the table, and what would decide the rest."""
    found = judgements(evidence)
    counts = {v: sum(f.verdict == v for _, f in found) for v in VERDICTS}
    lines = [HEAD, f"{len(found)} claims: " + ", ".join(f"{v} {n}" for v, n in counts.items() if n) + ".", ""]
    lines += ["| claim | kind | what was run | evidence | holds if | verdict | from |", "|---|---|---|---|---|---|---|"]
    for c, f in found:
        holds_if = c.holds_if.format(**c.of | {"limit": c.limit})
        cells = quoted(c), c.kind, c.run, f.evidence, holds_if, f"**{f.verdict}**", _links(f.files)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    changed = [f"- {quoted(c)}: was {c.was}; now {f.verdict}." for c, f in found if c.was]
    lines += ["", "## What changed", "", *changed] if changed else []
    lines += ["", "## What would decide more", ""]
    lines += [f"- {quoted(c)} ({f.verdict}): {c.needs}." for c, f in found if c.needs]
    return "\n".join(lines) + "\n"


def _links(files: Sequence[str]) -> str:
    """The files as links from docs/; of many runs of one table, the list of them in docs/TABLES.md."""
    of_tables = [f for f in files if Path(f).name.startswith("table-")]
    many = of_tables if len(of_tables) > 6 else []
    links = [f"[{i}](../{f})" for i, f in enumerate((f for f in files if f not in many), 1)]
    return " ".join([*links, *([f"[{len(many)} runs](TABLES.md)"] if many else [])])


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m dumenet.paper.audit`: write docs/AUDIT.md; --take adds a record of lesson 11 to the evidence first."""
    parser = argparse.ArgumentParser(prog="python -m dumenet.paper.audit", description=main.__doc__)
    parser.add_argument("--home", type=Path, default=Path("."), help="the checkout")
    parser.add_argument("--take", type=Path, help="a results file of lesson 11")
    options = parser.parse_args(arguments)
    try:
        if options.take:
            record = json.loads(options.take.read_text(encoding="utf-8"))
            write_result(options.home / "data" / "results" / f"audit-{record['name']}.json", record | {"tag": "audit"})
        path = options.home / "docs" / "AUDIT.md"
        write_atomic(path, document(gather(options.home)).encode())
    except (DumenetError, OSError, ValueError, KeyError) as error:
        print(f"Cannot write the audit: {error}", file=sys.stderr)
        return 2
    print(path.as_posix())
    return 0


if __name__ == "__main__":
    sys.exit(main())
