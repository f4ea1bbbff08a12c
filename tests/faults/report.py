"""docs/RELIABILITY.md from recorded outcomes: `python tests/faults/report.py` writes it, `--run FILE ...` records first.

A record is data/results/faults-fast.json or, where FAULTS is set, faults-full.json. A run replaces the files it ran.
"""

import argparse
import ast
import json
import os
import re
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from dumenet.results import machine, write_atomic, write_result

ROOT = Path(__file__).resolve().parents[2]
HEAD = """# Reliability: faults tried, and what came of them

Made by `python tests/faults/report.py` from `data/results/faults-*.json`; `python tests/faults/report.py --run FILE ...` runs
tests and records them. A line is a test: what is claimed in its name, how many cases of it were tried, how many held.
A case that is skipped says why when its command is run with `-rs`.

What a kill costs: of training an epoch, of features a batch, of a table a job at most, of the lessons the one under way.
`dumenet data make`, `predict` and `export` start anew; that is minutes of one core at most.
"""


class Outcomes:
    """What pytest tells of each case: by file, by test, by outcome."""

    def __init__(self):
        self.files = {}

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or not report.passed and report.when == "setup":
            file, _, test = report.nodeid.partition("::")
            name, _, case = test.partition("[")
            told = self.files.setdefault(file, {}).setdefault(name, {"outcomes": {}, "cases": []})
            told["outcomes"] = dict(Counter(told["outcomes"]) + Counter([report.outcome]))
            told["cases"] += [case.removesuffix("]")] if case else []


def record(files):
    """Run the test files, each for itself, and keep what came of them."""
    times, bad = int(os.environ.get("FAULTS", 0)), 0
    name = f"faults-{'full' if times else 'fast'}"
    path = ROOT / "data" / "results" / f"{name}.json"
    known = json.loads(path.read_text())["files"] if path.exists() else {}
    for file in files:
        outcomes, start = Outcomes(), time.perf_counter()
        bad |= int(pytest.main([file, "-q", "--rootdir", str(ROOT)], plugins=[outcomes]))
        for ran, tests in outcomes.files.items():
            command = f"{f'FAULTS={times} ' if times else ''}python -m pytest {ran}"
            known[ran] = {
                "command": command,
                "seconds": round(time.perf_counter() - start, 1),
                "tests": tests,
                "machine": machine("cpu"),
            }
    write_result(path, {"name": name, "kills": times or 1, "files": known})
    return bad


def document(home=ROOT):
    """The text, from the records alone; the words of a file are the first line of its docstring."""
    lines = [HEAD]
    for path in sorted((home / "data" / "results").glob("faults-*.json"), reverse=True):
        told = json.loads(path.read_text())
        kind = "The full set" if "full" in told["name"] else "The fast set, as `make test` runs it"
        lines += [f"## {kind}", "", f"Each kind of work killed at {told['kills']} random moment(s).", ""]
        for file, ran in sorted(told["files"].items()):
            about = ast.get_docstring(ast.parse((home / file).read_text(encoding="utf-8"))).splitlines()[0]
            lines += [
                f"### {about}",
                "",
                f"`{ran['command']}`: {ran['seconds']} s on {ran['machine']['cpu_count']} cores.",
                "",
            ]
            lines += ["| what is claimed | cases | passed | failed | skipped |", "|---|---|---|---|---|"]
            for name, test in ran["tests"].items():
                counts = [test["outcomes"].get(k, 0) for k in ("passed", "failed", "skipped")]
                claim = name.removeprefix("test_").replace("_", " ")
                lines.append(f"| {claim} | {sum(counts)} | " + " | ".join(map(str, counts)) + " |")
            for name, test in ran["tests"].items():
                if len(test["cases"]) > 1:
                    cases = "; ".join(re.sub(r"[`|\n]", " ", case) for case in test["cases"])
                    lines += ["", f"*{name.removeprefix('test_').replace('_', ' ')}:* {cases}."]
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", nargs="+", default=[], metavar="FILE", help="test files to run and record first")
    options = parser.parse_args(arguments)
    bad = record(options.run) if options.run else 0
    write_atomic(ROOT / "docs" / "RELIABILITY.md", document().encode())
    return bad


if __name__ == "__main__":
    sys.exit(main())
