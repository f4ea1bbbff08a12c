"""Milliseconds from a moved control of the heatmap explorer to its new pictures, beside the whole figure drawn anew.

    python benchmarks/explorer.py

Two models side by side, decoded pictures, features and reconstructions already computed; the browser's own time is not
in it. The baseline draws the static twin of the explorer, as `dumenet.course.widgets.live` does with a figure.
"""

import io
import itertools
import statistics
import tempfile
from pathlib import Path

from report import TINY, arguments, in_turn, publish

from dumenet.config import make_config
from dumenet.course.explorer import Session
from dumenet.course.pictures import picture_decoder
from dumenet.course.widgets import Explorer, explorer_figure
from dumenet.data import make_factory
from dumenet.run import Folders, run


def make_session(home: Path, quick: bool) -> Session:
    """Two networks trained for one epoch: what they have learned costs no time here."""
    counts = {"train": 3, "test_good": 2, "per_defect": 1} if quick else {}
    data = make_factory(home / "data", categories=("cap", "connector"), **counts)
    settings = {"data__source": str(data), "train__epochs": 1, "train__device": "cpu"} | (TINY if quick else {})
    outcomes = {
        name: run(make_config(**settings, model__memory_mode=mode), Folders(home), progress=False)
        for name, mode in {"both memories": "both", "no memory": "none"}.items()
    }
    return Session(outcomes, picture_decoder(make_config(**settings), Folders(home), epochs=1, progress=False))


def main() -> None:
    args = arguments(__doc__, rounds=20)
    with tempfile.TemporaryDirectory() as folder:
        session = make_session(Path(folder), args.quick)
        app = Explorer({"a": session, "b": Session(dict(reversed(session.outcomes.items())), session.pictures)})
        seconds, images = {}, session.images("cap")
        values = {
            "data": ["b", "a"], "category": ["connector", "cap"], "image, first time": images[5:],
            "image": images[1:5], "model": ["no memory", "both memories"], "other": ["none", "no memory"],
            "error": ["norm", "mahalanobis"],
            "stage": [*session.stage_channels, "all"], "threshold": [0.8, 0.9, 1.1, 1.0], "opacity": [0.3, 0.9, 0.6],
            "colour_map": ["viridis", "cividis", "magma"], "row": [2, 5, 9], "column": [3, 6, 10],
            "a click": [[2, 3], [8, 9], [5, 5]], "memory": ["spatial", "channel"], "hidden": ["mean", "most erroneous"],
        }  # fmt: skip
        for name, choices in values.items():
            app.controls["other"].value = "no memory"  # data and category may have changed it
            app.controls["memory"].value = "spatial" if name == "hidden" else "channel"
            control, turns = app.controls.get(name.split(",")[0]), itertools.cycle(choices)
            if name == "image":  # once through all of them: then they are computed
                for image in choices:
                    control.value = image

            def move(control=control, turns=turns) -> None:
                if control is None:
                    app.pictures[1, "map"].place = next(turns)
                else:
                    control.value = next(turns)

            seconds |= in_turn({name: move}, args.rounds)
            if control is not None:
                control.value = choices[-1]  # what the next control starts from, however many rounds there were

        def redraw() -> None:
            figure = explorer_figure(app.session, **vars(app.state))
            figure.savefig(io.BytesIO(), format="png", dpi=100, bbox_inches="tight")

        seconds |= in_turn({"whole figure (baseline)": redraw}, args.rounds)
    ms = {name: 1000 * statistics.median(values) for name, values in seconds.items()}
    whole = ms["whole figure (baseline)"]
    rows = [{"control": name, "ms": value, "ratio": whole / value} for name, value in ms.items()]
    slowest = max(value for name, value in ms.items() if name in values)
    publish("explorer", {"slowest": (slowest, whole)}, rows, seconds, args.quick)


if __name__ == "__main__":
    main()
