"""A training step alone and beside another busy process, by how long threads spin: as the package sets it, or as usual.

    python benchmarks/beside.py

GNU OpenMP, whose threads torch uses, reads GOMP_SPINCOUNT when torch is imported, so each measurement is a process of
its own; they take turns. Without a setting it is 300,000
(https://gcc.gnu.org/onlinedocs/libgomp/GOMP_005fSPINCOUNT.html).
"""

import os
import subprocess
import sys
import time
from contextlib import ExitStack

from report import TINY, arguments, publish

SPINS = {"10,000 times, ours": "10000", "300,000 times, GNU OpenMP's default": "300000"}
STEPS = """
import sys, time
from dumenet.config import make_config
from dumenet.features import Features
from dumenet.train import train
import numpy as np
rows = [np.random.randn(192, 14, 14).astype(np.float16) for _ in range(64)]
for steps in (2, int(sys.argv[1])):  # the first to warm up
    start = time.perf_counter()
    config = make_config(train__steps=steps, train__holdout=0.0, **eval(sys.argv[2]))
    train(config, Features([], rows), (16, 24, 40, 112), progress=False)
print(1e3 * (time.perf_counter() - start) / steps)
"""


def milliseconds(spins: str, busy: bool, steps: int, settings: dict) -> float:
    """Of one step."""
    with ExitStack() as stack:
        if busy:
            other = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(other.kill)
            time.sleep(0.2)
        environment = os.environ | {"GOMP_SPINCOUNT": spins, "TQDM_DISABLE": "1"}
        child = [sys.executable, "-c", STEPS, str(steps), repr(settings)]
        said = subprocess.run(child, env=environment, check=True, capture_output=True, text=True).stdout
    return float(said)


def main() -> None:
    args = arguments(__doc__, rounds=5, steps=20)
    small = {k: v for k, v in TINY.items() if k.startswith("model")} if args.quick else {}
    places = {"alone": False, "beside one busy process": True}
    found = {(name, place): [] for place in places for name in SPINS}
    for _ in range(args.rounds):
        for (name, place), values in found.items():
            values.append(milliseconds(SPINS[name], places[place], 1 if args.quick else args.steps, small))
    median = {key: sorted(values)[len(values) // 2] for key, values in found.items()}
    page = {key: tuple(median[name, place] for name in SPINS) for key, place in zip(("alone", "busy"), places)}
    rows = [
        {"threads spin": name, **{f"{place}, ms a step": median[name, place] for place in places}} for name in SPINS
    ]
    publish("beside", page, rows, {", ".join(key): values for key, values in found.items()}, args.quick)


if __name__ == "__main__":
    main()
