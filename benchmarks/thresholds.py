"""How often a threshold is passed by new normal images, and by defects, for few and many normal images to learn from.

    python benchmarks/thresholds.py

Images of the generated factory that no other run uses: of each category so many normal images to train on (a tenth
held out), 300 new normal ones and 100 defects. The baseline is a quantile of the held-out scores. The promise is one
minus `evaluation.quantile`; all in percent.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from report import TINY, arguments, publish

from dumenet.config import make_config
from dumenet.data import make_factory, open_dataset
from dumenet.features import Backbone, extract
from dumenet.score import calibrate, evaluated, score, thresholds
from dumenet.train import split_holdout, train

SEED = 101
RULE, BASELINE = "prediction bound", "quantile of held-out (baseline)"


def measure(category: str, counts: tuple[int, ...], tests: int, settings: dict, folder: Path) -> list[dict]:
    """Rows of one category: shares of normal images and of defects above the threshold, by both rules."""
    made = {"train": max(counts), "test_good": tests, "per_defect": tests // 15}
    dataset = open_dataset(make_factory(folder / category, SEED, category, **made))
    config = make_config(**settings, train__device="cpu")
    backbone = Backbone(config.features)
    normal, test = (extract(part, backbone, folder / "cache", False) for part in (dataset.train, dataset.test))
    bad, rows = np.array([s.label for s in test.samples], bool), []
    for count in counts:
        kept, held = split_holdout(normal.subset(range(count)), config.train.holdout, 0)
        trained = train(config, kept, backbone.stage_channels, progress=False)
        calibrate(trained, kept, held)
        for error in ("norm", "mahalanobis"):
            one = evaluated(trained, {"evaluation.error": error})
            scores = score(one, test, keep_maps=False).image
            before = np.array(one.normal.scores[f"{error} max"])[one.normal.held]
            for quantile in (0.95, 0.99):
                rules = {RULE: thresholds(one.normal, replace(one.config.evaluation, quantile=quantile))["all"]}
                rules[BASELINE] = float(np.quantile(before, quantile))
                rows += [
                    {"category": category, "images": count, "error": error, "promise": 1 - quantile, "rule": rule,
                     "false_alarms": (scores[~bad] > value).mean(), "found": (scores[bad] > value).mean()}
                    for rule, value in rules.items()
                ]  # fmt: skip
    return rows


def summary(raw: list[dict]) -> tuple[dict, list[dict]]:
    """The page's numbers and the rows in percent, from those of the categories."""
    frame = pd.DataFrame(raw)
    frame[["promise", "false_alarms", "found"]] *= 100
    groups = frame.round({"promise": 6}).groupby(["images", "error", "promise", "rule"], sort=False)
    alarms = groups.false_alarms.agg(["mean", "max"])
    usual = alarms["mean"].xs(("mahalanobis", 5), level=("error", "promise")).unstack()
    worst = usual.loc[usual[RULE].idxmax()]
    rows = pd.DataFrame({
        "false alarms": alarms["mean"], "of a category at most": alarms["max"], "defects found": groups.found.mean()
    })  # fmt: skip
    return {"worst": (worst[RULE], worst[BASELINE])}, rows.reset_index().to_dict("records")


def main() -> None:
    args = arguments(__doc__, steps=150)
    categories, counts, tests = ("cap", "connector", "grid"), (20, 50, 200), 300
    if args.quick:
        categories, counts, tests = ("cap", "grid"), (10,), 15
    settings = TINY | {"train__steps": 2} if args.quick else {"train__steps": args.steps}
    with tempfile.TemporaryDirectory() as folder:
        raw = [row for c in categories for row in measure(c, counts, tests, settings, Path(folder))]
    page, rows = summary(raw)
    publish("thresholds", page, rows, raw, args.quick)


if __name__ == "__main__":
    main()
