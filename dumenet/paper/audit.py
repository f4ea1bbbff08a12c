"""The paper's claims, each with a rule from results to a verdict; docs/AUDIT.md is made from them.

    python -m dumenet.paper.audit                                  # write docs/AUDIT.md from the committed results
    python -m dumenet.paper.audit --take data/results/11-....json  # commit a measurement of lesson 11 first

A verdict is never typed: a claim is a function of results, and the rule stands beside it. Results that count are the
paper's own table, records tagged "real", those of `dumenet.paper.tables`, and what lesson 11 measured (`data/results/audit-*.json`).
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from scipy import stats

from dumenet.errors import DumenetError
from dumenet.metrics import seed_interval
from dumenet.paper.jobs import TABLES
from dumenet.paper.tables import Row, against, groups, rows
from dumenet.results import PaperValue, paper_results, read_results, write_atomic, write_result

HOLDS, PART, NOT = "holds", "holds in part", "does not hold here"
CANNOT, NOT_RUN = "cannot be tested here", "not run yet"
VERDICTS = (HOLDS, PART, NOT, CANNOT, NOT_RUN)
BUDGET = ("tf_efficientnet_lite0", "fast", 8, 0)  # backbone, recipe, epochs, contamination of the real runs
PRINTED = "data/paper_results.csv"
ROUNDED = 0.1  # points: a mean printed with one digit (0.05), of rows printed with one digit (0.05)


# --- rules


def judge(difference: float | None, half: float | None) -> str:
    """A claim that a difference is above 0: only an interval that lies on one side of it decides.

    `half` is the half-width of the difference's 95 % interval; None, for example with one seed, decides nothing.
    """
    if difference is None or half is None:
        return CANNOT
    return HOLDS if difference - half > 0 else NOT if difference + half < 0 else CANNOT


def reaches(ours: float, top: float, printed: float) -> str:
    """A claim that a number comes out: our mean reaches it, even the upper end `top` of its interval does not, or neither."""
    least = printed - ROUNDED / 2
    return HOLDS if ours >= least else NOT if top < least else CANNOT


def within(difference: float, tolerance: float) -> str:
    """A claim that two numbers are equal up to `tolerance`."""
    return HOLDS if abs(difference) <= tolerance + 1e-9 else NOT


def together(verdicts: Iterable[str]) -> str:
    """A claim in several parts: all of them, some, or none; parts that cannot be tested leave the rest in part."""
    verdicts = list(verdicts)
    if HOLDS not in verdicts:
        return NOT if NOT in verdicts else CANNOT
    return HOLDS if set(verdicts) == {HOLDS} else PART


def paired(a: Sequence[float], b: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean of b - a, pair by pair, and the half-width of its 95 % interval; None where it is not defined."""
    return seed_interval([y - x for x, y in zip(a, b, strict=True)])


# --- evidence


@dataclass(frozen=True)
class Evidence:
    """What the claims are held against."""

    paper: list[PaperValue]
    real: list[dict]
    measured: dict[str, dict]  # lesson 11: name of the measurement -> its numbers
    tables: dict[tuple[str, str, str], list[dict]] = field(
        default_factory=dict
    )  # (table, data set, setting) -> records
    sources: dict[str, str] = field(default_factory=dict)  # name of a measurement -> its file
    used: set[str] = field(default_factory=set, compare=False)  # files that were asked since the last claim

    def _use(self, records: Iterable[dict]) -> list[dict]:
        records = list(records)
        self.used.update(r["files"]["results"] for r in records)
        return records

    def measurement(self, name: str) -> dict:
        """The numbers of one measurement of lesson 11; KeyError where nobody has made it."""
        self.used.update({self.sources[name]} if name in self.sources else ())
        return self.measured[name]

    def table(self, name: str, *columns: str) -> list[dict]:
        """The committed runs of a table, or of some of its columns, on real images, one model for all categories."""
        found = self.tables.get((name, "cifar10" if TABLES[name].source == "digits" else "real", "unified"), [])
        return self._use(r for r in found if not columns or r["column"] in columns)

    def row(self, name: str, column: str, metric: str = "image_auroc", part: str = "mean") -> Row | None:
        """One cell of such a table."""
        cells = {(r.column, r.metric, r.part): r for r in rows(self.table(name, column), self.paper)}
        return cells.get((column, metric, part))

    def change(self, name: str, column: str, reference: str, metric: str) -> tuple[float | None, float | None, int]:
        """Column minus reference in points, paired by seed: difference, half-width, seeds."""
        records = self.table(name, column, reference)
        if {r["column"] for r in records} != {column, reference}:
            return None, None, 0
        found = {d.metric: d for d in against(records, reference)}
        return (found[metric].mean, found[metric].half, found[metric].seeds) if metric in found else (None, None, 0)

    def column(self, table: str, method: str, metric: str) -> tuple[dict[str, float], float | None]:
        """The rows that the paper prints for a method, in percent, and the mean that it prints below."""
        self.used.add(PRINTED)
        rows = {v.category: v.value for v in self.paper if (v.table, v.method, v.metric) == (table, method, metric)}
        printed = rows.pop("mean", None)
        return {k: v for k, v in rows.items() if v is not None}, printed

    def methods(self, table: str, metric: str) -> list[str]:
        """The methods with numbers in a table, in the paper's order."""
        names = dict.fromkeys(v.method for v in self.paper if v.table == table and v.metric == metric)
        return [name for name in names if self.column(table, name, metric)[0]]

    def printed(self, table: str, metric: str) -> float:
        """What the abstract or the text prints for DuMeNet."""
        self.used.add(PRINTED)
        return next(v.value for v in self.paper if (v.table, v.method, v.metric) == (table, "DuMeNet", metric))

    def runs(self, categories: Sequence[str], **model: object) -> dict[int, dict]:
        """Seed -> record of the real runs on these categories whose model has these settings, in one budget.

        Runs of one seed that differ in yet other settings are a DumenetError, not a choice.
        """
        default = {
            "name": "dumenet",
            "preset": "described",
            "decoder_reads": "memory",
            "memory_mode": "both",
            "neck": "plain",
        }
        found = {}
        for record in self.real:
            c = record["config"]
            budget = (
                c["features"]["backbone"],
                c["train"]["recipe"],
                c["train"]["epochs"],
                c["data"].get("contamination", 0),
            )
            same = all(c["model"][k] == v for k, v in (default | model).items())
            if budget == BUDGET and same and sorted(record["metrics"]["per_category"]) == sorted(categories):
                if record["seed"] in found:
                    raise DumenetError(
                        f"Two real runs of one kind and seed: {found[record['seed']]['name']}, {record['name']}."
                    )
                found[record["seed"]] = record
        self._use(found.values())
        return found

    def pair(self, categories: Sequence[str], metric: str, a: dict, b: dict) -> tuple[float | None, float | None, int]:
        """b - a in a mean metric over their common seeds: difference, half-width, seeds."""
        first, second = self.runs(categories, **a), self.runs(categories, **b)
        seeds = sorted(set(first) & set(second))
        value = lambda runs: [runs[s]["metrics"]["mean"][metric] for s in seeds]  # noqa: E731
        return *paired(value(first), value(second)), len(seeds)


def gather(home: Path = Path(".")) -> Evidence:
    """The evidence in a checkout: tables on the images that its records name, and all runs that are tagged real or audit."""
    folder = Path(home) / "data" / "results"
    records = [r for r in read_results(folder) if r.get("tag") in ("real", "audit", "table")]
    measured = {k: v for r in records if r["tag"] == "audit" for k, v in r["measured"].items()}
    sources = {k: f"data/results/audit-{r['name']}.json" for r in records if r["tag"] == "audit" for k in r["measured"]}
    real = [r for r in records if r["tag"] == "real"]
    return Evidence(paper_results(folder.parent / "paper_results.csv"), real, measured, groups(records), sources)


class Finding(NamedTuple):
    """What the evidence says about a claim."""

    verdict: str
    evidence: str
    files: tuple[str, ...] = ()  # what was asked for it, from the project's folder


@dataclass(frozen=True)
class Claim:
    """One sentence of the paper's page, what is run for it, and the rule that judges it."""

    key: str
    quote: str
    kind: str  # "number", "mechanism", "comparison"
    run: str
    rule: str
    needs: str  # to decide it, or to decide it better
    finding: Callable[[Evidence], Finding | None]  # None: not run yet

    def judged(self, evidence: Evidence) -> Finding:
        """The verdict, its evidence and the files of that; without evidence "not run yet"."""
        evidence.used.clear()
        try:
            found = self.finding(evidence)
        except KeyError as missing:  # a measurement that nobody has made
            if missing.args[0] not in MEASUREMENTS:
                raise
            found = None
        return found._replace(files=tuple(sorted(evidence.used))) if found else Finding(NOT_RUN, "none")


# --- numbers: the paper's own arithmetic


def _mean(e: Evidence, table: str, method: str, metric: str) -> float:
    return statistics.fmean(e.column(table, method, metric)[0].values())


def _abstract(metric: str) -> Callable[[Evidence], Finding]:
    def finding(e: Evidence) -> Finding:
        said, mean = e.printed("abstract", metric), _mean(e, "mvtec_ad", "DuMeNet", metric)
        table = e.column("mvtec_ad", "DuMeNet", metric)[1]
        return Finding(
            within(said - mean, ROUNDED), f"rows average {mean:.2f}; the table prints {table}, the abstract {said}"
        )

    return finding


def off(e: Evidence, table: str) -> dict[tuple[str, str], float]:
    """(method, metric) -> printed mean minus mean of the rows, in points, for every column of a table."""
    columns = [(m, metric) for metric in ("image_auroc", "pixel_auroc") for m in e.methods(table, metric)]
    return {(m, metric): e.column(table, m, metric)[1] - _mean(e, table, m, metric) for m, metric in columns}


def _printed_means(table: str) -> Callable[[Evidence], Finding]:
    def finding(e: Evidence) -> Finding:
        gaps = off(e, table)
        wrong = [f"{m} {metric.split('_')[0]} {g:+.2f}" for (m, metric), g in gaps.items() if within(g, ROUNDED) == NOT]
        text = f"{len(gaps) - len(wrong)} of {len(gaps)} printed means fit their rows" + (
            f"; off: {', '.join(wrong)}" if wrong else ""
        )
        return Finding(together(within(g, ROUNDED) for g in gaps.values()), text)

    return finding


def _best_mean(e: Evidence) -> Finding:
    verdicts, said = [], []
    for metric in ("image_auroc", "pixel_auroc"):
        means = {m: _mean(e, "mvtec_ad", m, metric) for m in e.methods("mvtec_ad", metric)}
        best = max(means, key=means.get)
        verdicts.append(HOLDS if best == "DuMeNet" else NOT)
        second = max((m for m in means if m != "DuMeNet"), key=means.get)
        said.append(
            f"{metric.split('_')[0]}: DuMeNet {means['DuMeNet']:.2f}, the best other {second} {means[second]:.2f}"
        )
    return Finding(together(verdicts), "; ".join(said))


def _most_categories(e: Evidence) -> Finding:
    verdicts, said = [], []
    for metric in ("image_auroc", "pixel_auroc"):
        ours = e.column("mvtec_ad", "DuMeNet", metric)[0]
        others = [e.column("mvtec_ad", m, metric)[0] for m in e.methods("mvtec_ad", metric) if m != "DuMeNet"]
        wins = sum(all(v > other[c] for other in others) for c, v in ours.items())
        over = sum(v > e.column("mvtec_ad", "UniAD", metric)[0][c] for c, v in ours.items())
        verdicts.append(HOLDS if wins > len(ours) / 2 else NOT)
        said.append(f"{metric.split('_')[0]}: ahead of all methods in {wins} of {len(ours)}, of UniAD in {over}")
    return Finding(together(verdicts), "; ".join(said))


# --- numbers and comparisons: real images


def _bottle(e: Evidence) -> Finding | None:
    runs = list(e.runs(["bottle"]).values())
    if len(runs) < 2:
        return None
    verdicts, said = [], []
    for metric in ("image_auroc", "pixel_auroc"):
        printed = e.column("mvtec_ad", "DuMeNet", metric)[0]["bottle"]
        values = [100 * r["metrics"]["mean"][metric] for r in runs]
        mean, half = seed_interval(values)
        top = mean + half
        if metric == "image_auroc":  # the test images are few: their interval is the wider one
            top = max([top, *(100 * r["metrics"]["pooled"]["image_auroc_ci"][1] for r in runs)])
        verdicts.append(reaches(mean, top, printed))
        said.append(f"{metric.split('_')[0]} {mean:.2f}, interval up to {top:.2f}, printed {printed:g}")
    return Finding(together(verdicts), f"{len(runs)} seeds: " + "; ".join(said))


def _against(categories: Sequence[str], a: dict, b: dict) -> Callable[[Evidence], Finding | None]:
    def finding(e: Evidence) -> Finding | None:
        verdicts, said = [], []
        for metric in ("image_auroc", "pixel_auroc"):
            difference, half, n = e.pair(categories, metric, a, b)
            if not n:
                return None
            verdicts.append(judge(difference, half))
            said.append(
                f"{metric.split('_')[0]} {100 * difference:+.2f}" + (f" ± {100 * half:.2f}" if half is not None else "")
            )
        return Finding(together(verdicts), f"{', '.join(said)} points, {n} seed{'s' * (n > 1)}")

    return finding


def gain_and_noise(e: Evidence) -> tuple[float, float, float, int] | None:
    """The gain over UniAD that the paper claims on CIFAR-10; the standard deviation over seeds of the mean image AUROC of its
    splits, pooled over both methods; by how much two single runs then differ (95 %, Student's t); seeds of a method."""
    runs = {}
    for column in ("DuMeNet", "UniAD"):
        by_seed: dict[int, list[float]] = {}
        for r in e.table("cifar", column):
            by_seed.setdefault(r["seed"], []).append(100 * r["metrics"]["mean"]["image_auroc"])
        most = max(map(len, by_seed.values()), default=0)
        runs[column] = [statistics.fmean(v) for v in by_seed.values() if len(v) == most]
    n = min(map(len, runs.values()))
    if n < 2:
        return None
    spread = math.sqrt(statistics.fmean(statistics.variance(v) for v in runs.values()))
    half = float(stats.t.ppf(0.975, sum(len(v) - 1 for v in runs.values()))) * math.sqrt(2) * spread
    gain = e.column("cifar10", "DuMeNet", "image_auroc")[1] - e.column("cifar10", "UniAD", "image_auroc")[1]
    return gain, spread, half, n


def _cifar_gain(e: Evidence) -> Finding | None:
    found = gain_and_noise(e)
    if not found:
        return None
    gain, spread, half, n = found
    return Finding(
        judge(gain, half),
        f"gain {gain:.1f}; standard deviation of the mean over {n} seeds of DuMeNet and of UniAD, pooled, {spread:.2f}, so two single runs "
        f"differ by ± {half:.2f}",
    )


def _mvtec(e: Evidence) -> Finding | None:
    ours = {m: [r for r in rows(e.table("mvtec", "DuMeNet"), e.paper) if r.metric == m and r.paper is not None]
            for m in ("image_auroc", "pixel_auroc")}  # fmt: skip
    parts = [r.part for r in ours["image_auroc"] if r.part != "mean"]
    if not parts:
        return None
    if len(parts) < 15:
        return Finding(
            CANNOT,
            f"{len(parts)} of 15 categories is on hand ({', '.join(parts)}), see its row; a mean of 15 needs them all",
        )
    means = {m: e.row("mvtec", "DuMeNet", m) for m in ours}
    said = [
        f"{m.split('_')[0]} {r.ours:.2f} ± {r.half or 0:.2f}, printed {e.printed('abstract', m):g}"
        for m, r in means.items()
    ]
    verdicts = [reaches(r.ours, r.ours + (r.half or 0), e.printed("abstract", m)) for m, r in means.items()]
    return Finding(together(verdicts), "; ".join(said))


def _cifar(e: Evidence) -> Finding | None:
    ours = [r for r in rows(e.table("cifar", "DuMeNet"), e.paper) if r.metric == "image_auroc" and r.part != "mean"]
    said = [f"{r.part} {r.ours:.1f} ± {r.half or 0:.1f}, printed {r.paper}" for r in ours]
    verdicts = [reaches(r.ours, r.ours + (r.half or 0), r.paper) for r in ours]
    return Finding(together(verdicts), "; ".join(said)) if ours else None


def ahead(e: Evidence, table: str) -> dict[str, tuple[float, float | None, str]]:
    """Every other method, variants left out -> DuMeNet's mean image AUROC minus its, half-width, verdict. The interval is that of
    seeds and test images, of both methods as if they were independent; one seed of a method that draws numbers decides nothing."""
    ours, found = e.row(table, "DuMeNet"), {}
    for column in TABLES[table].columns if ours else ():
        other = e.row(table, column)
        if other and column != "DuMeNet" and ", " not in column:  # "PaDiM, ridge 1" is a variant
            known = min(ours.seeds, other.seeds if column not in SEEDLESS else 2) > 1 and None not in (
                ours.half,
                other.half,
            )
            difference, half = ours.ours - other.ours, math.hypot(ours.half, other.half) if known else None
            found[column] = difference, half, judge(difference, half)
    return found


SEEDLESS = ("DN2", "Gaussian")  # columns that draw nothing


def _beside_all(table: str, tell: Callable[[dict], Finding]) -> Callable[[Evidence], Finding | None]:
    return lambda e: tell(found) if (found := ahead(e, table)) else None


def _ahead_of_most(found: dict[str, tuple[float, float | None, str]]) -> Finding:
    named = lambda v: ", ".join(f"{k} {d:+.1f}" for k, (d, _, x) in found.items() if x == v) or "none"  # noqa: E731
    verdicts = [v for _, _, v in found.values()]
    decided = (
        HOLDS if verdicts.count(HOLDS) > len(verdicts) / 2 else NOT if verdicts.count(NOT) > len(verdicts) / 2 else None
    )
    return Finding(
        decided or (PART if HOLDS in verdicts else CANNOT),
        f"ahead of: {named(HOLDS)}; behind: {named(NOT)}; not told apart: {named(CANNOT)}",
    )


def _ahead_of_all(found: dict[str, tuple[float, float | None, str]]) -> Finding:
    verdicts = [v for _, _, v in found.values()]
    verdict = HOLDS if set(verdicts) == {HOLDS} else NOT if NOT in verdicts else CANNOT
    said = (f"{k} {d:+.1f} " + ("(one seed)" if h is None else f"± {h:.1f}") for k, (d, h, _) in found.items())
    return Finding(verdict, "DuMeNet minus " + ", ".join(said))


def _changes(table: str, *pairs: tuple[str, str]) -> Callable[[Evidence], Finding | None]:
    """Each pair: a column that should be better, and the one that it should be better than."""

    def finding(e: Evidence) -> Finding | None:
        verdicts, said = [], []
        for column, reference in pairs:
            for metric in ("image_auroc", "pixel_auroc"):
                difference, half, n = e.change(table, column, reference, metric)
                if not n:
                    return None
                verdicts.append(judge(difference, half))
                said.append(
                    f"{metric.split('_')[0]} {difference:+.2f}" + (f" ± {half:.2f}" if half is not None else "")
                )
            said[-1] += f" against {reference} ({n} seed{'s' * (n > 1)})"
        return Finding(together(verdicts), ", ".join(said))

    return finding


def _noise(e: Evidence) -> Finding | None:
    def loss(method: str) -> dict[int, float]:
        by = {
            (r["column"], r["seed"]): 100 * r["metrics"]["mean"]["image_auroc"]
            for r in e.table("contamination", f"{method}, 0%", f"{method}, 20%")
        }
        seeds = [s for c, s in by if c == f"{method}, 0%" and (f"{method}, 20%", s) in by]
        return {s: by[f"{method}, 0%", s] - by[f"{method}, 20%", s] for s in seeds}

    ours, verdicts, said = loss("DuMeNet"), [], []
    for other in ("DuMeNet without memory", "UniAD", "PaDiM"):
        theirs = loss(other)
        seeds = sorted(set(ours) & set(theirs))
        if not seeds:
            return None
        difference, half = paired([ours[s] for s in seeds], [theirs[s] for s in seeds])
        verdicts.append(judge(difference, half))
        said.append(f"{other} loses {difference:+.1f}" + (f" ± {half:.1f}" if half is not None else "") + " more")
    return Finding(
        together(verdicts),
        f"with 20 % defects DuMeNet loses {statistics.fmean(ours.values()):.1f} points; " + ", ".join(said),
    )


SMALL = 0.5  # points: an effect of a free choice that would not change a ranking of this table


def _pooling(e: Evidence) -> Finding | None:
    by = {}
    for table, own in (("mvtec", "max"), ("cifar", "mean")):
        found = [r["image_auroc_by_pooling"] for r in e.table(table, "DuMeNet")]
        if not found:
            return None
        by[table] = {rule: 100 * statistics.fmean(f[rule] for f in found) for rule in found[0]}, own
    one = max(by["mvtec"][0], key=lambda rule: sum(values[rule] for values, _ in by.values()))
    gains = {table: values[own] - values[one] for table, (values, own) in by.items()}
    said = [f"{t}: " + ", ".join(f"{rule} {v:.1f}" for rule, v in values.items()) for t, (values, _) in by.items()]
    return Finding(
        within(max(abs(g) for g in gains.values()), SMALL), "; ".join(said) + f"; the best single rule is {one}"
    )


def _epochs(e: Evidence) -> Finding | None:
    found = [r["image_auroc_by_epoch"] for r in e.table("epochs")]
    if not found:
        return None
    gains = [100 * (max(f) - f[-1]) for f in found]
    mean, half = seed_interval(gains)
    told = f"{mean:.2f}" + ("" if half is None else f" ± {half:.2f}")
    return Finding(judge(SMALL - mean, half), f"{len(gains)} run{'s' * (len(gains) > 1)} of {len(found[0])} epochs: the best minus the last "
                   f"is {told} points on average, {max(gains):.2f} at most")  # fmt: skip


def _one_threshold(e: Evidence) -> Finding | None:
    pairs = {"bottle + tire": [r["metrics"] for r in e.runs(["bottle", "tire"]).values()]}
    pairs = {k: [(m["mean"]["image_auroc"], m["pooled"]["image_auroc"]) for m in v] for k, v in pairs.items() if v}
    if "pooled" in e.measured:
        m = e.measurement("pooled")
        pairs["factory"] = [(m["mean"], m["pooled"])]
    pairs = {k: [statistics.fmean(x) for x in zip(*v)] for k, v in pairs.items()}
    said = [f"{k}: mean over categories {m:.3f}, pooled {p:.3f}" for k, (m, p) in pairs.items()]
    verdicts = [CANNOT if m <= 0.6 else HOLDS if p >= m - 0.01 else NOT for m, p in pairs.values()]
    return Finding(together(verdicts), "; ".join(said)) if pairs else None


# --- mechanisms: what lesson 11 measures

MEASUREMENTS = (
    "query",
    "layout",
    "shuffle",
    "temperature",
    "sigmoid",
    "neck",
    "slots",
    "fusion",
    "multi_class",
    "shortcut",
    "pooled",
)


def _query(e: Evidence) -> Finding:
    m = e.measurement("query")
    verdicts = [within(m[k], 0) for k in ("described", "released")]
    return Finding(
        together(verdicts), f"output changes by {m['described']:.2g} as described, {m['released']:.2g} as released"
    )


def _layout(e: Evidence) -> Finding:
    m = e.measurement("layout")
    verdicts = [within(m[k], 0) for k in ("map", "released")]
    return Finding(
        together(verdicts),
        f"map changes by {m['map']:.2g} as described, {m['released']:.2g} as released, of a mean of {m['scale']:.2g}",
    )


def _shuffle(e: Evidence) -> Finding:
    m = e.measurement("shuffle")
    said = f"same shuffle for both maps: SSIM changes by {m['ssim']:.1g}; with {m['window']} x {m['window']} windows it would by {m['windowed']:.2g}"
    return Finding(
        HOLDS if m["ssim"] > 0.01 else NOT,
        said + f"; a module with shuffled weights reads the shuffled maps up to {m['module']:.1g}",
    )


def _temperature(e: Evidence) -> Finding:
    m = e.measurement("temperature")
    said = f"no slot can weigh more than {m['most']:.1%} of {m['slots']} slots (ratio at most e² = {m['bound']:.2f}); largest seen {m['seen']:.1%}"
    return Finding(HOLDS if m["most"] > 0.5 else NOT, said)


def _outcome(e: Evidence, column: str) -> str:
    """What that ablation does to pixel AUROC, as the end of a sentence; told, not judged."""
    difference, half, n = e.change("ablations", column, "default", "pixel_auroc")
    return (
        ""
        if half is None
        else f"; in the table ablations ({column}, {n} seeds) pixel AUROC changes by {difference:+.1f} ± {half:.1f} points"
    )


def _sigmoid(e: Evidence) -> Finding:
    m = e.measurement("sigmoid")
    said = (
        f"{k}: {m[k]['saturated']:.0%} saturated, mean slope {m[k]['slope']:.3f} of 0.25"
        for k in ("raw", "standardised")
    )
    return Finding(HOLDS if m["raw"]["saturated"] < 0.05 else NOT, "; ".join(said) + _outcome(e, "target sigmoid"))


def _neck(e: Evidence) -> Finding:
    m = e.measurement("neck")
    said = (f"{k}: length of the target x {m[k][-1] / m[k][0]:.2f}" for k in ("plain", "cbam"))
    told = f" after {len(m['cbam']) - 1} epochs" + _outcome(e, "neck cbam")
    return Finding(within(m["cbam"][-1] / m["cbam"][0] - 1, 0.1), "; ".join(said) + told)


def _slots(e: Evidence) -> Finding:
    m = e.measurement("slots")
    learned = [HOLDS if m[k] > 0.01 else NOT for k in ("channel", "spatial")]
    said = f"slots moved by {m['channel']:.0%} (channel) and {m['spatial']:.0%} (spatial) of their length in {m['epochs']} epochs"
    return Finding(together([*learned, CANNOT]), said + "; adaptation to domains not tested")


def _fusion(e: Evidence) -> Finding:
    m = e.measurement("fusion")
    verdicts = [within(m[k] - m["promised"], 0) for k in ("here", "released")]
    return Finding(
        together(verdicts), f"{m['here']} of {m['promised']} run here; {m['released']} in the released code, as read"
    )


def _multi_class(e: Evidence) -> Finding:
    m, here = e.measurement("multi_class"), e.runs(["bottle", "tire"])
    said = f"the released script trains {m['models']} models for {m['categories']} categories (read, not run)"
    verdicts = [within(m["models"] - 1, 0)]
    if here:
        said, verdicts = (
            said + f"; here one model serves {len(next(iter(here.values()))['metrics']['per_category'])}",
            [*verdicts, HOLDS],
        )
    return Finding(together(verdicts), said)


def _shortcut(e: Evidence) -> Finding:
    m = e.measurement("shortcut")
    shown = m["peak"] - m["last"] > 0.02 and m["loss_last"] < m["loss_peak"]
    said = f"{m['network']}: pooled image AUROC {m['peak']:.3f} at epoch {m['peak_epoch']}, {m['last']:.3f} at {m['last_epoch']}"
    said += f", while the loss went from {m['loss_peak']:.4f} to {m['loss_last']:.4f}; how often is not tested"
    return Finding(together([HOLDS, CANNOT]) if shown else NOT, said)


READS = "decoder reads memory"
NONE, UNIAD, BOTH = {"memory_mode": "none"}, {"name": "uniad"}, {}
PAPER = "the mean of the printed rows (data/paper_results.csv)"
EQUAL = f"holds if printed and recomputed differ by at most {ROUNDED} points, what rounding can explain"
ABOVE = "holds if the 95 % interval of the difference (over seeds, paired) lies above 0, does not if below; across 0 nothing is decided"
REACHED = (
    "holds if our mean reaches the printed number, does not if even the upper end of its 95 % interval stays below"
)
BOTH_KINDS = "(over seeds and test images, the methods as if independent; one seed decides nothing)"
CLAIMS = (
    Claim("abstract-image", "DuMeNet achieves 98.5% image-level", "number", PAPER, EQUAL, "", _abstract("image_auroc")),
    Claim("abstract-pixel", "97.4% pixel-level AUROC", "number", PAPER, EQUAL, "", _abstract("pixel_auroc")),
    Claim("means-mvtec", "(the row Mean of the MVTec-AD table)", "number", PAPER, EQUAL + "; in part if some do", "", _printed_means("mvtec_ad")),
    Claim("means-cifar", "(the row Mean of the CIFAR-10 table)", "number", PAPER, EQUAL + "; in part if some do", "", _printed_means("cifar10")),
    Claim("bottle", "(the row Bottle of the MVTec-AD table)", "number", "bottle, Lite0 features, 8 epochs, not B4 and 700",
          REACHED + " (image: the wider one, over test images)", "EfficientNet-B4, 700 epochs", _bottle),
    Claim("mvtec", "On the MVTec-AD benchmark, DuMeNet achieves 98.5% image-level, 97.4% pixel-level AUROC", "number",
          "the table mvtec, as far as its images are on hand", REACHED,
          "all 15 categories (4.9 GB), unified, 3 seeds or more, the paper's budget on a GPU", _mvtec),
    Claim("cifar", "(the column Ours of the CIFAR-10 table)", "number",
          "the table cifar: 300 training and 100 test images a class, Lite0, not 5,000 and 1,000, B4", REACHED + ", split by split",
          "25,000 images resized to 224 for each split, 3 seeds or more, a GPU", _cifar),
    Claim("best-mean", "DuMeNet achieves state-of-the-art performance on the MVTec-AD dataset", "comparison", PAPER,
          "holds where DuMeNet's rows have the highest mean", "the comparators, run under one protocol", _best_mean),
    Claim("most-categories", "DuMeNet consistently shows superior performance across most categories", "comparison",
          "the printed rows, category by category", "holds where DuMeNet is ahead of every other column in more than half", "", _most_categories),
    Claim("many-baselines", "outperforming many baselines", "comparison", "the table mvtec on bottle and tire, image AUROC: DuMeNet minus every other method",
          f"holds if more than half of the differences lie above 0 with their 95 % intervals {BOTH_KINDS}, does not if more than half lie below; in part if some are above",
          "the other 14 categories, the paper's budgets", _beside_all("mvtec", _ahead_of_most)),
    Claim("uniad-bottle", "(the row Bottle of the MVTec-AD table: Ours is ahead of UniAD)", "comparison", "DuMeNet minus UniAD, bottle; UniAD at our size and budget, not its own",
          ABOVE, "the other 14 categories, the other comparators, UniAD's own recipe", _against(["bottle"], UNIAD, BOTH)),
    Claim("cifar-best", "has the best Out-of-Distribution detection performance on CIFAR-10", "comparison",
          "the table cifar: mean image AUROC of four splits, DuMeNet minus every other method", f"holds if every 95 % interval {BOTH_KINDS} lies above 0, does not if one lies below",
          "all images, the paper's budgets", _beside_all("cifar", _ahead_of_all)),
    Claim("cifar-gain", "(the means 87.5 and 87.2 of the CIFAR-10 table, one number each: DuMeNet is ahead of UniAD)", "comparison",
          "the claimed gain beside the spread of seeds of both methods in the table cifar", "holds if the gain exceeds what two single runs "
          "differ by (95 %, Student's t); else nothing is decided", "three seeds or more of both methods on the whole of CIFAR-10", _cifar_gain),
    Claim("threshold", "(implied by a mean over categories: a score means the same in each)", "comparison",
          "one unified model: AUROC in each category, and of all images pooled", "holds where pooling loses at most 0.01; asked only where the mean is above 0.6, away from chance", "", _one_threshold),
    Claim("shortcut", "they often suffer from the identical shortcut problem", "mechanism",
          "lesson 01: a network without bottleneck, watched while it trains", "that it happens holds if AUROC falls by more than 0.02 from its peak while the "
          "training loss still falls", "seeds; real images", _shortcut),
    Claim("memories", "Dual memory architecture at channel-wise feature and spatial structural levels addressing the identical shortcut problem", "mechanism",
          "both memories minus none, bottle", ABOVE, "categories on which methods differ more", _against(["bottle"], NONE, BOTH)),
    Claim("memories-unified", "two complementary memory mechanisms", "mechanism",
          "both memories minus the channel memory alone, and minus the spatial one alone: bottle and tire in one small model", ABOVE, "larger models, more categories",
          _changes("ablations", ("default", f"memory channel, {READS}"), ("default", f"memory spatial, {READS}"))),
    Claim("memories-small", "addressing the identical shortcut problem", "mechanism", "both memories minus none: bottle and tire in one small model",
          ABOVE, "larger models, more categories", _changes("ablations", ("default", f"memory none, {READS}"))),
    Claim("query", "continuously referencing learned normal patterns", "mechanism", "the encoder's tokens replaced, the memory's answer kept",
          "holds where the output does not change at all", "", _query),
    Claim("query-helps", "Prevents the decoder from drifting away from memory-constrained representations", "mechanism",
          "decoder reading the memory minus reading the encoder: bottle and tire in one small model", ABOVE, "larger models, more categories",
          _changes("ablations", ("default", "memory both, decoder reads encoder"))),
    Claim("layout", "spatial structural levels", "mechanism", "one image's anomaly map with two different batch-mates",
          "holds where the map does not change at all", "", _layout),
    Claim("ssim", "Utilizes SSIM similarity for preserving spatial patterns", "mechanism", "SSIM of two maps before and after one shuffle of both",
          "holds if a shuffle changes SSIM by more than 0.01", "", _shuffle),
    Claim("ssim-dot", "emphasize spatial pattern reconstruction", "mechanism", "SSIM minus a plain dot product in the spatial memory: bottle and tire in one small model",
          ABOVE, "larger models, more categories", _changes("ablations", ("default", "dot product for SSIM"))),
    Claim("temperature", "to emphasize spatial pattern reconstruction", "mechanism", "the largest weight that a softmax of SSIM values can give",
          "holds if one slot can get more than half of the weight", "", _temperature),
    Claim("sigmoid", "(implied by the released target, a sigmoid of raw features: the loss sees every feature)", "mechanism", "the share of features whose sigmoid is above 0.99 or below 0.01",
          "holds if it is under 5 % of the raw features; standardised ones for comparison", "", _sigmoid),
    Claim("neck", "(implied by a later release's trained attention before the target: a low loss is a good reconstruction)", "mechanism",
          "the target's length while training, with that attention (CBAM) and without",
          "holds if the length stays within 10 %: a trained target must not buy a low loss", "", _neck),
    Claim("learned", "Memory items are learned during training, allowing for better adaptation to different domains", "mechanism",
          "how far slots move in a short training", "learned: more than 1 % of their length", "training on one domain, testing on another", _slots),
    Claim("noise", "enhances the model's robustness to noise in training data", "mechanism",
          "bottle and tire with 20 % defects among the training images, small networks, PaDiM as in the table mvtec: what others lose in image AUROC, minus what DuMeNet loses", ABOVE, "more categories, larger models", _noise),
    Claim("fusion", "Options: 'concat', 'add', 'multiply', 'attention', 'gate'", "mechanism", "each option built and run once",
          "holds where all of them run", "", _fusion),
    Claim("pooling", "(implied by a maximum on MVTec-AD and a mean on CIFAR-10: the rule from map to score is no free choice)", "comparison",
          "DuMeNet's maps of both tables under four rules", f"holds if the best single rule for both is within {SMALL} points of the two own ones", "", _pooling),
    Claim("best-epoch", "(implied by the released trainers, which keep the epoch that is best on the test images: it does not matter)", "comparison",
          "bottle and tire, DuMeNet and UniAD as small networks, test images scored after every epoch, for the record only", f"holds if the best is within {SMALL} points of the last, on average, with its 95 % interval over runs; does not if the interval lies above", "more runs", _epochs),
    Claim("multi-class", "For multi-class training", "mechanism", "how many models one command trains",
          "holds where it is one for all categories", "", _multi_class),
)  # fmt: skip


# --- the document

HEAD = """# Audit: claims against evidence

Made by `python -m dumenet.paper.audit` from `data/paper_results.csv`, `data/results/{real,table,audit}-*.json`;
change those, or the rules in `dumenet/paper/audit.py`, not this file. Lesson 11 makes the measurements and explains them.
AUROC in percent, differences in points. A verdict speaks about what was run here, and about no more.
The last column leads to the files that were asked; each holds every setting, the seed, the data's fingerprint, versions and
machine, and those of a table the command that makes them again.
"""


def judgements(evidence: Evidence) -> list[tuple[Claim, Finding]]:
    """Every claim with what the evidence says."""
    return [(claim, claim.judged(evidence)) for claim in CLAIMS]


def quoted(claim: Claim) -> str:
    """The paper's words in quotation marks; a place in its tables as it is."""
    return claim.quote if claim.quote.startswith("(") else f"“{claim.quote}”"


def document(evidence: Evidence) -> str:
    """docs/AUDIT.md: how many verdicts of each kind, the table, and what would decide the rest."""
    found = judgements(evidence)
    counts = {v: sum(f.verdict == v for _, f in found) for v in VERDICTS}
    lines = [HEAD, f"{len(found)} claims: " + ", ".join(f"{n} {v}" for v, n in counts.items() if n) + ".", ""]
    lines += ["| claim | kind | what was run | evidence | rule | verdict | from |", "|---|---|---|---|---|---|---|"]
    for claim, finding in found:
        cells = (
            quoted(claim),
            claim.kind,
            claim.run,
            finding.evidence,
            claim.rule,
            f"**{finding.verdict}**",
            _links(finding.files),
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
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
    """`python -m dumenet.paper.audit`: write docs/AUDIT.md; with --take commit a record of lesson 11 to the evidence first."""
    parser = argparse.ArgumentParser(prog="python -m dumenet.paper.audit", description=main.__doc__)
    parser.add_argument("--home", type=Path, default=Path("."), help="the checkout")
    parser.add_argument("--take", type=Path, help="a results file of lesson 11")
    options = parser.parse_args(arguments)
    try:
        if options.take:
            record = json.loads(options.take.read_text(encoding="utf-8"))
            target = options.home / "data" / "results" / f"audit-{record['name']}.json"
            write_result(target, record | {"tag": "audit"})
        path = options.home / "docs" / "AUDIT.md"
        write_atomic(path, document(gather(options.home)).encode())
    except (DumenetError, OSError, ValueError, KeyError) as error:
        print(f"Cannot write the audit: {error}", file=sys.stderr)
        return 2
    print(path.as_posix())
    return 0


if __name__ == "__main__":
    sys.exit(main())
