"""How often a threshold is passed by new normal images, and by defects, for few and many normal images to learn from.

    python benchmarks/thresholds.py           # writes data/results/bench-thresholds.json and its section of RESULTS.md
    python benchmarks/thresholds.py --quick   # a try: prints, writes nothing

Images of the generated factory that no other run uses: of each category so many normal images to train on (a tenth
held out), 300 new normal ones and 100 defects. The baseline is a quantile of the held-out scores, which was the rule
before.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from report import publish, where

from dumenet.config import make_config
from dumenet.data import make_factory, open_dataset
from dumenet.features import Backbone, extract
from dumenet.score import calibrate, evaluated, score, thresholds
from dumenet.train import split_holdout, train

NAME, TITLE, SEED = "bench-thresholds", "Thresholds", 101
COUNTS, CATEGORIES, PROMISES = (20, 50, 200), ("cap", "connector", "grid"), (0.95, 0.99)


def measure(category: str, counts: tuple[int, ...], steps: int, tests: int, folder: Path) -> list[dict]:
    """Rows of one category: shares of normal images and of defects above the threshold, by both rules."""
    root = make_factory(
        folder / category, SEED, categories=category, train=max(counts), test_good=tests, per_defect=tests // 15
    )
    config = make_config(train__steps=steps, train__device="cpu")
    dataset, backbone = open_dataset(str(root), (category,)), Backbone(config.features)
    normal, test = (extract(part, backbone, folder / "cache", False) for part in (dataset.train, dataset.test))
    bad, rows = np.array([s.label for s in test.samples], bool), []
    for count in counts:
        kept, held = split_holdout(normal.subset(range(count)), config.train.holdout, 0)
        trained = train(config, kept, backbone.stage_channels, progress=False)
        calibrate(trained, kept, held)
        for error in ("norm", "mahalanobis"):
            one = evaluated(trained, {"evaluation.error": error})
            scores, out = score(one, test, keep_maps=False).image, np.array(one.normal.held)
            before = np.array(one.normal.scores[f"{error} max"])[out]
            for promise in PROMISES:
                rules = {
                    "prediction bound": thresholds(
                        one.normal, evaluated(one, {"evaluation.quantile": promise}).config.evaluation
                    )["all"],
                    "quantile of held-out (baseline)": float(np.quantile(before, promise)),
                }
                for rule, value in rules.items():
                    shares = {
                        "false_alarms": float((scores[~bad] > value).mean()),
                        "found": float((scores[bad] > value).mean()),
                    }
                    rows.append(
                        {"category": category, "images": count, "error": error, "promise": 1 - promise, "rule": rule}
                        | shares
                    )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    categories, counts = (CATEGORIES[:1], (10,)) if args.quick else (CATEGORIES, COUNTS)
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            row for c in categories
            for row in measure(c, counts, 2 if args.quick else args.steps, 15 if args.quick else 300, Path(folder))
        ]  # fmt: skip
    lines = [
        f"`python benchmarks/thresholds.py --steps {args.steps}`, means over {', '.join(categories)} of the factory (seed {SEED}); "
        f"{where(NAME, 'cpu')} \"Promised\" is one minus `evaluation.quantile`.", "",
        "| normal images | error | rule | promised | false alarms | largest of a category | defects found |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    keys = dict.fromkeys((r["images"], r["error"], r["rule"], round(r["promise"], 4)) for r in rows)
    for images, error, rule, promise in keys:
        same = [
            r
            for r in rows
            if (r["images"], r["error"], r["rule"], round(r["promise"], 4)) == (images, error, rule, promise)
        ]
        alarms, found = ([r[k] for r in same] for k in ("false_alarms", "found"))
        lines.append(
            f"| {images} | {error} | {rule} | {promise:.0%} | {np.mean(alarms):.1%} | {max(alarms):.1%} | {np.mean(found):.0%} |"
        )
    record = {"command": f"python benchmarks/thresholds.py --steps {args.steps}", "rows": rows}
    publish(NAME, TITLE, record, lines, args.quick, "cpu")


if __name__ == "__main__":
    main()
