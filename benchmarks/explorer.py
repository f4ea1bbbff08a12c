"""Milliseconds from a moved control of the heatmap explorer to its new pictures, beside a full redraw.

    python benchmarks/explorer.py            # writes data/results/bench-explorer.json and its section of benchmarks/RESULTS.md
    python benchmarks/explorer.py --quick    # a try, one move of each: prints, writes nothing

Two models side by side, decoded pictures, features and reconstructions already computed; the browser's own time is not in it.
The baseline draws the static twin of the same state anew, as `dumenet.course.widgets.live` does with a figure. The two take turns,
so that a drift of the machine hits both.
"""

import argparse
import io
import itertools
import statistics
import time

from report import ROOT, publish, where

from dumenet.config import make_config
from dumenet.course.explorer import Session
from dumenet.course.pictures import picture_decoder
from dumenet.course.widgets import explorer, explorer_figure
from dumenet.run import Folders, run

NAME, TITLE = "bench-explorer", "The explorer's controls"
LIMIT = 200  # milliseconds


def make_session() -> Session:
    """Two networks of lesson 12's size, trained for one epoch: what they have learned costs no time here."""
    small = {
        "data__categories": ["cap", "connector"], "model__encoder_layers": 2, "model__decoder_layers": 2,
        "model__ffn_dim": 256, "train__epochs": 1,
    }  # fmt: skip
    modes = {"both memories": "both", "no memory": "none"}
    outcomes = {
        name: run(make_config(**small, model__memory_mode=m), Folders(ROOT), tag="explorer")
        for name, m in modes.items()
    }
    return Session(outcomes, picture_decoder(make_config(**small), Folders(ROOT), epochs=1))


def timed(function) -> float:
    """Milliseconds of one call."""
    start = time.perf_counter()
    function()
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    rounds, warm = (1, 0) if args.quick else (args.rounds, 2)
    session = make_session()
    app = explorer({"a": session, "b": Session(dict(reversed(session.outcomes.items())), session.pictures)})
    app.controls["other"].value = "no memory"
    images = session.images("cap")

    def redraw() -> None:
        explorer_figure(app.session, **vars(app.state)).savefig(
            io.BytesIO(), format="png", dpi=100, bbox_inches="tight"
        )

    values = {
        "data": ["b", "a"], "category": ["connector", "cap"], "image, first time": images[10 : 13 + rounds],
        "image": images[1:5], "model": ["no memory", "both memories"], "other": ["none", "no memory"],
        "stage": [0, 1, 2, 3, "all"], "threshold": [0.8, 0.9, 1.1, 1.0], "opacity": [0.3, 0.9, 0.6],
        "colour_map": ["viridis", "cividis", "magma"], "row": [2, 5, 9], "column": [3, 6, 10],
        "a click": [[2, 3], [8, 9], [5, 5]], "memory": ["spatial", "channel"], "hidden": ["mean", "most erroneous"],
    }  # fmt: skip
    seconds = {}
    for name, choices in values.items():
        if name == "hidden":
            app.controls["memory"].value = "spatial"
        control = app.controls.get(name.split(",")[0])
        if name == "category":
            app.controls["other"].value = "no memory"
        turns = itertools.cycle(choices)
        if name == "image":  # once through all of them: then they are computed
            for image in choices:
                control.value = image

        def move() -> None:
            if control is None:
                app.pictures[1, "map"].place = next(turns)
            else:
                control.value = next(turns)

        rows = [(timed(move), timed(redraw)) for _ in range(rounds + warm)][warm:]
        if control is not None:
            control.value = choices[-1]  # what the next control starts from, however many rounds there were
        seconds[name] = {"explorer": [round(a, 2) for a, _ in rows], "redraw": [round(b, 2) for _, b in rows]}
    rows = []
    for name, both in seconds.items():
        ours, full = (statistics.median(both[k]) for k in ("explorer", "redraw"))
        rows.append(
            {
                "control": name,
                "explorer_ms": round(ours, 1),
                "redraw_ms": round(full, 1),
                "ratio": round(full / ours, 1),
            }
        )
    slow = [r["control"] for r in rows if r["explorer_ms"] >= LIMIT]
    command = f"python benchmarks/explorer.py --rounds {rounds}"
    text = [
        f"`{command}`, medians of {rounds} moves, two models side by side at {session.size} px; {where(NAME)} The baseline draws the whole "
        f"figure anew. The aim is under {LIMIT} ms: " + (f"missed by {', '.join(slow)}." if slow else "met by every control."), "",
        "| control | explorer, ms | full redraw, ms (baseline) | ratio |", "|---|---|---|---|",
        *(f"| {r['control'].replace('_', ' ')} | {r['explorer_ms']} | {r['redraw_ms']} | {r['ratio']} |" for r in rows),
    ]  # fmt: skip
    publish(
        NAME, TITLE, {"command": command, "limit_ms": LIMIT, "rows": rows, "milliseconds": seconds}, text, args.quick
    )


if __name__ == "__main__":
    main()
