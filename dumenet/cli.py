"""The command line: `dumenet data|train|evaluate|table|predict|export|reproduce|explore|classroom|book|doctor`."""

import argparse
import atexit
import contextlib
import gc
import importlib.util
import os
import re
import secrets
import shlex
import socket
import sys
from pathlib import Path
from typing import Any

import yaml

from dumenet.config import CONFIGS, SOURCES, config_from_dict, load_config, merge
from dumenet.errors import DumenetError, refused, shown, unknown

EXAMPLES = """examples:
  dumenet data make                                  generate the embedded factory data set in data/factory
  dumenet data check photos/                         list every problem of a folder at once
  dumenet data index photos/                         write photos/train.json and photos/test.json
  dumenet train --category weave                     train on one category of the embedded data
  dumenet train --data mvtec/ --category bottle tile one unified model for two categories
  dumenet train --data mvtec/ --separate             one model for each category
  dumenet train --config mvtec_ad --data mvtec/      the paper's settings (a GPU, and B4's weights)
  dumenet train --data photos/ --set train.steps=400 a first try in two minutes
  dumenet evaluate build/runs/.../checkpoint.pt      the same metrics again
  dumenet table --tag real5                          results files as a Markdown table
  dumenet predict build/runs/.../checkpoint.pt photos/ --out verdicts/
  dumenet export build/runs/.../checkpoint.pt --out model.onnx
  dumenet reproduce --only 00 01 -p seed=3           run lessons headless
  dumenet reproduce --workers 2                      all lessons, by two processes
  dumenet reproduce --table mvtec --data mvtec/      every method of a table: resumable jobs
  dumenet explore                                    the heatmap explorer (lesson 12) in the browser
  dumenet explore --data photos/                     the same, small networks trained on your images
  dumenet classroom                                  the lessons as student's and instructor's copies
  dumenet book                                       lessons and documents as a site: build/book/index.html
  dumenet doctor                                     what was found on this machine, what will be used, what is missing
"""


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code: 0 done, 1 a lesson, a job, a check or the doctor found something wrong, 2
    bad input (one sentence on stderr), 130 interrupted."""
    # Torch is many objects and no garbage: to look for some takes a second at the start, and half of one at the end.
    gc.set_threshold(10_000)
    atexit.register(gc.freeze)
    args = _parser().parse_args(argv)
    args.typed = shlex.join(["dumenet", *(sys.argv[1:] if argv is None else argv)])
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that this terminal cannot show must not end the run
    try:
        code = args.run(args) or 0
        sys.stdout.flush()
        return code
    except DumenetError as error:
        code, sentence = 2, str(error)
    except KeyboardInterrupt:
        code, sentence = 130, "interrupted; run the same command again: what is finished is kept."
    except OSError as error:  # what the operating system refuses before a room has a better sentence
        if error.filename is None:  # the output; Python would try once more at its end
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # the reader of our output, for example head, has seen enough
            return 141
        code, sentence = 2, str(refused(f"use {shown(error.filename) if error.filename else 'the output'}", error))
    except (MemoryError, RuntimeError) as error:
        text = "out of memory|not enough memory|allocate memory"
        if not isinstance(error, MemoryError) and not re.search(text, str(error)):
            raise
        code, sentence = 2, "There is not enough memory: use smaller images, a smaller batch or a smaller model."
    # Printed here, where the failed call's progress bars are gone, so that the sentence has a line of its own.
    sentence = re.sub(r"[\x00-\x1f\x7f]", lambda c: repr(c[0])[1:-1], sentence)  # a name may hold a line break
    print(f"dumenet: {sentence}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    """From `COMMANDS`, the last lines of this file."""
    options = {"description": __doc__, "epilog": EXAMPLES, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser("dumenet", **options)
    above = {"": parser.add_subparsers(required=True, metavar="COMMAND")}
    for name, (text, run, arguments) in COMMANDS.items():
        group, _, last = name.rpartition(" ")
        examples = [line for line in EXAMPLES.splitlines() if line.startswith(f"  dumenet {name}")]
        said = f"{text[0].upper()}{text[1:]}.".replace("%%", "%")  # argparse formats `help` alone
        options |= {"description": said, "epilog": "\n".join(["examples:", *examples])}
        command = above[group].add_parser(last, help=text, **options)
        for argument, how in arguments.items():
            command.add_argument(argument, **how)
        if run:
            command.set_defaults(run=run)
        else:
            above[name] = command.add_subparsers(required=True, metavar="COMMAND")
    return parser


def _packaged() -> list[str]:
    return sorted(p.stem for p in CONFIGS.glob("*.yaml"))


def _pairs(items: list[str]) -> dict[str, Any]:
    """``["train.epochs=3"]`` as ``{"train.epochs": 3}``; values are read as YAML."""
    pairs = {}
    for item in items:
        key, separator, value = item.partition("=")
        if not separator or not key:
            raise DumenetError(f"{item!r} is not of the form NAME=VALUE.")
        try:
            pairs[key] = value if re.fullmatch("0[0-9]+", value) else yaml.safe_load(value)  # 01234, a split, not 668
        except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: a date such as 2024-13-01
            raise DumenetError(f"The value of {key} is not plain YAML: {value!r}.") from None
    return pairs


def _data_make(args: argparse.Namespace) -> None:
    from dumenet.data import make_factory

    print(f"The factory data set is in {make_factory(args.out, seed=args.seed)}.")


def _data_check(args: argparse.Namespace) -> int:
    from dumenet.data import check_folder, describe

    settings = config_from_dict(merge({}, _pairs(args.set))).data
    problems = check_folder(args.root, settings.normal_names, settings.pixel_range)
    summary = f"{len(problems)} problem(s) in {args.root}." if problems else f"{args.root} is clean."
    print("\n".join([*describe(args.root, settings.normal_names), *problems, summary]))
    return 1 if problems else 0


def _data_index(args: argparse.Namespace) -> None:
    from dumenet.data import read_folder, write_index

    out, names = args.out or args.root, config_from_dict(merge({}, _pairs(args.set))).data.normal_names
    write_index(read_folder(args.root, use_index=False, normal_names=names), args.root, out)
    print(f"Wrote {out / 'train.json'} and {out / 'test.json'}.")


def _overrides(args: argparse.Namespace) -> dict[str, Any]:
    overrides = _pairs(args.set)
    if args.data:
        overrides["data.source"] = args.data
    source = overrides.get("data.source")
    if isinstance(source, str) and str(Path(source)) not in SOURCES:  # ./factory is a folder
        overrides["data.source"] = str(Path(source))  # photos/ is photos, and no other run
    if args.category:
        overrides["data.categories"] = args.category
    return overrides


def _train(args: argparse.Namespace) -> None:
    from dumenet.data import few_normal
    from dumenet.run import per_category, run

    values = {}
    if args.config:
        path, packaged = Path(args.config), _packaged()
        if args.config in packaged and not path.is_file():  # nor is it a folder that bears the name
            path = CONFIGS / f"{args.config}.yaml"
        elif not path.exists() and path.suffix not in (".yaml", ".yml"):
            raise unknown("configuration", args.config, packaged)
        values = load_config(path)
    values = merge(values, _overrides(args))
    seeds = [{"train.seed": seed} for seed in args.seed or ()] or [{}]
    for config in [config_from_dict(merge(values, seed)) for seed in seeds]:
        for one in per_category(config) if args.separate else [config]:
            if outcome := run(one, tag=args.tag, command=args.typed):
                _report(outcome.record)
                if few := few_normal(outcome.dataset):
                    print(few)


def _evaluate(args: argparse.Namespace) -> None:
    from dumenet.run import evaluate_checkpoint

    _report(evaluate_checkpoint(args.checkpoint, _overrides(args)).record)


def _report(record: dict[str, Any]) -> None:
    """Print the metrics of one record as a table."""
    from dumenet.metrics import METRICS

    print(f"\n{record['name']}  (seconds: {record['seconds']})")
    if record["metrics"] is None:
        print("No test images, so no metrics; `dumenet predict` gives scores and verdicts.")
    else:
        rows = record["metrics"]["per_category"] | {k: record["metrics"][k] for k in ("mean", "pooled")}
        print(f"{'':16}" + "".join(f"{title:>15}" for title in METRICS.values()))
        for name, row in rows.items():
            cells = ["not defined" if row.get(k) is None else f"{row[k]:.4f}" for k in METRICS]
            print(f"{name:16}" + "".join(f"{cell:>15}" for cell in cells))
    print(f"results:    {record['files']['results']}\ncheckpoint: {record['files']['checkpoint']}")


def _table(args: argparse.Namespace) -> None:
    from dumenet.metrics import METRICS
    from dumenet.results import labels, markdown, pair, read_results, summary_by_row

    found = [r for r in read_results(args.results) if r.get("metrics") and "config" in r and r.get("tag") == args.tag]
    if not found:
        tags = ", ".join(sorted({r["tag"] for r in read_results(args.results) if r.get("tag")})) or "none"
        without = f"tagged {args.tag!r}" if args.tag else "without a tag"
        raise DumenetError(f"{args.results} holds no results {without}: choose by --tag. Tags: {tags}.")
    try:
        cells = summary_by_row(found, labels(found), args.category)
    except (KeyError, TypeError, AttributeError) as error:
        text = f"A result in {args.results} is not whole ({type(error).__name__}: {error}): delete it, or run it again."
        raise DumenetError(text) from None
    if args.csv:
        return print(cells.to_csv(), end="")
    if args.category:
        parts = [*args.category, *(["mean"] if len(args.category) > 1 else [])]
        columns, head = [(part, ("image_auroc", "pixel_auroc")) for part in parts], ["image / pixel AUROC", *parts]
    else:
        columns, head = [("mean", (metric,)) for metric in METRICS], ["%", *METRICS.values()]
    lines = [[*head, "seeds"]]
    for row in dict.fromkeys(cells.index.get_level_values("row")):
        lines.append([row, *(pair(cells, row, *column) for column in columns), f"{cells.loc[row].n.max()}"])
    print(markdown(lines))


def _predict(args: argparse.Namespace) -> int:
    from dumenet.predict import predict

    names = "checkpoint images out category device threshold save format".split()
    rows = predict(*(getattr(args, name) for name in names))
    verdicts, scores = [r.verdict for r in rows], args.out / f"scores.{args.format}"
    bad = verdicts.count("unreadable")
    maps = ", heatmaps beside it" if bad < len(rows) else ""
    print(f"{', '.join(f'{verdicts.count(v)} {v}' for v in sorted(set(verdicts)))}: {scores}{maps}.")
    if bad:
        print(f"dumenet: {bad} of {len(rows)} images could not be read; {scores.name} says why.", file=sys.stderr)
    return 2 if bad else 0


def _export(args: argparse.Namespace) -> None:
    from dumenet.graph import export

    out = args.out or args.checkpoint.parent / f"{args.checkpoint.stem}.onnx"
    print(f"The graph is in {export(args.checkpoint, out, args.error)}.")


def _reproduce(args: argparse.Namespace) -> int:
    others = "profile only parameters force" if args.table else "method category seed setting set out scheduler"
    for name in others.split():
        if getattr(args, name) not in (None, False, [], "quick", "unified"):  # what it is where it is not given
            option = "-p" if name == "parameters" else f"--{name}"
            fix = "a table: name it by --table, or set a lesson's parameter by -p NAME=VALUE"
            raise DumenetError(f"{option} is for {'the lessons: leave out --table' if args.table else fix}.")
    if args.table:
        return _reproduce_table(args)
    from dumenet.course.reproduce import reproduce

    parameters = _pairs(args.parameters) | ({"data": _anywhere(args.data)} if args.data else {})
    return reproduce(args.profile, args.only, parameters, force=args.force, workers=args.workers)


def _reproduce_table(args: argparse.Namespace) -> int:
    from dumenet.paper import jobs, tables
    from dumenet.run import run_jobs

    chosen = args.data, args.category, args.method, args.seed or [0], args.setting, _pairs(args.set)
    wanted = jobs.plan(args.table, *chosen)
    failures = run_jobs(wanted, workers=args.workers, scheduler=args.scheduler)
    finished = sum(job.finished() is not None for job in wanted)
    print(f"{finished} of {len(wanted)} jobs have their results file.")
    for path in tables.write(wanted, Path("."), args.out or Path("figures")):
        print(f"  {path}")
    for failure in failures:
        print(f"dumenet: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _classroom(args: argparse.Namespace) -> None:
    from dumenet.course.assignments import assignments
    from dumenet.course.classroom import classroom, refresh

    if args.readme:
        print(f"Changed: {', '.join(refresh()) or 'nothing'}.")
    else:
        out = classroom()
        print(f"{out}/student, {out}/selfstudy and {out}/instructor, each with INDEX.md.\n{assignments()}")
        print("All are written anew each time, so work in a copy.")


def _anywhere(data: str | None) -> str | None:
    """A folder's full path: a lesson runs in another folder than the command."""
    return str(Path(data).resolve()) if data and Path(data).exists() else data


def _book(args: argparse.Namespace) -> None:
    from dumenet.course.book import book

    print(f"The book is in {book()}; open it in a browser.")


def _doctor(args: argparse.Namespace) -> int:
    from dumenet.doctor import examine, lock

    if args.freeze:
        print("\n".join(lock()))
        return 0
    text, ready = examine()
    print(text)
    return 0 if ready else 1


def _explore(args: argparse.Namespace) -> None:
    """Become a Jupyter server of this folder, which shows the explorer as an app (Voila), lesson 12 in JupyterLab."""
    local, own = "127.0.0.1", {"data": _anywhere(args.data), "categories": args.category}
    if not all(importlib.util.find_spec(name) for name in ("jupyterlab", "voila")):
        raise DumenetError("The explorer needs JupyterLab and Voila: pip install -e '.[notebooks]'.")
    with socket.socket() as probe:
        try:
            probe.bind((local, args.port))
        except (OSError, OverflowError) as error:
            text = f"Port {args.port} cannot be used ({error}): leave --port out to get a free one."
            raise DumenetError(text) from None
        port = probe.getsockname()[1]
    from dumenet.course.app import LESSON, write_app

    app = write_app({name: value for name, value in own.items() if value})
    token = os.environ.get("JUPYTER_TOKEN") or secrets.token_urlsafe(24)
    print(
        "The explorer runs until Ctrl-C, for this machine alone. The app trains for a minute the first time.\n"
        f"app:        http://{local}:{port}/voila/render/{app}?token={token}\n"
        f"JupyterLab: http://{local}:{port}/lab/tree/{LESSON}?token={token}",
        flush=True,
    )
    options = {
        "ip": local, "port": port, "port_retries": 0, "root_dir": Path.cwd(), "answer_yes": True,
        "default_url": f"/voila/render/{app}", "open_browser": not args.no_browser, "allow_root": os.geteuid() == 0,
    }  # fmt: skip
    command = [sys.executable, "-m", "jupyterlab", "--log-level=ERROR"]
    command += [f"--ServerApp.{name}={value}" for name, value in options.items()]
    # A list of processes shows everybody the command, so the token is in the environment.
    os.execve(sys.executable, command, os.environ | {"JUPYTER_TOKEN": token, "TQDM_DISABLE": "1"})


def _path(default: str | None = None, text: str | None = None) -> dict[str, Any]:
    """How an argument that names a file or folder is read."""
    return {"type": Path, "help": text} | ({"default": Path(default)} if default else {})


ONE_OR_MORE: dict[str, Any] = {"nargs": "+", "action": "extend"}  # of an option that is given twice, both count
FLAG: dict[str, Any] = {"action": "store_true"}
CHECKPOINT, ROOT = _path(text="a checkpoint of `dumenet train`"), _path(text="a data set's folder, or a CSV")
DATA = '"factory", "digits", "elpv", or a folder or CSV (MVTec-AD and others, CIFAR-10)'
DATA_OPTIONS = {"--data": {"help": DATA}, "--category": ONE_OR_MORE | {"help": 'category names, or "all"'}}
SET: dict[str, Any] = ONE_OR_MORE | {"default": [], "metavar": "KEY=VALUE"}
TABLES = "mvtec, cifar, recipe, epochs, ablations, choices, contamination, growth, shortfall, backbones"
COMMANDS: dict[str, tuple[str, Any, dict[str, dict[str, Any]]]] = {  # what it does, function, arguments
    "data": ("make, check or index a data set", None, {}),
    "data make": ("generate the embedded factory data set (MVTec layout)", _data_make, {
        "--out": _path("data/factory", "folder to make (default: %(default)s)"),
        "--seed": {"type": int, "default": 0, "help": "of the drawing (default: 0)"},
    }),
    "data check": ("list every problem of a folder at once", _data_check, {
        "root": ROOT, "--set": SET | {"help": "data.*, e.g. data.pixel_range=[0,4095]"},
    }),
    "data index": ("write train.json and test.json (JSON lines) for a folder", _data_index, {
        "root": ROOT, "--out": _path(text="folder for the two files (default: ROOT)"),
        "--set": SET | {"help": "e.g. data.normal_names=intact"},
    }),
    "train": ("train and evaluate one unified model, or one for each category", _train, {
        "--config": {"help": f"YAML file, or one of: {', '.join(_packaged())}"},
        "--separate": FLAG | {"help": "one model for each category"},
        "--seed": ONE_OR_MORE | {"type": int, "help": "one or several seeds"},
        "--tag": {"help": "prefix of the results files, to find a series again"},
        **DATA_OPTIONS, "--set": SET | {"help": "e.g. train.steps=400; all settings: dumenet/config.py"},
    }),
    "evaluate": ("evaluate a checkpoint again, on its own data or another folder", _evaluate, {
        "checkpoint": CHECKPOINT, **DATA_OPTIONS,
        "--set": SET | {"help": "data.* and evaluation.*, e.g. evaluation.pooling=mean"},
    }),
    "table": ("the results files as a table: mean over seeds ± half of its 95 %% interval", _table, {
        "--tag": {"help": "the series (default: results without a tag)"},
        "--results": _path("data/results", "folder of results files (default: %(default)s)"),
        "--csv": FLAG | {"help": "CSV instead of Markdown"},
        "--category": ONE_OR_MORE | {"help": "these categories and their mean: image / pixel AUROC in percent"},
    }),
    "predict": ("heatmaps, scores and verdicts for images", _predict, {
        "checkpoint": _path(text="a checkpoint, or a file of `dumenet export`"),
        "images": _path(text="an image or a folder"),
        "--out": _path("build/predictions", "folder for scores and heatmaps (default: %(default)s)"),
        "--category": {"default": "all", "help": "of the images (default: found for each)"},
        "--device": {"default": "auto", "help": "of torch, which runs a checkpoint"},
        "--threshold": {"type": float, "help": "of the score, instead of the checkpoint's own"},
        "--save": ONE_OR_MORE | {"default": [], "choices": ("map", "mask", "overlay"),
                                 "help": "write these too, at each photograph's own shape"},
        "--format": {"choices": ("csv", "json"), "default": "csv", "help": "of scores.csv or scores.json"},
    }),
    "export": ("a checkpoint as one ONNX graph, from images to anomaly maps and scores", _export, {
        "checkpoint": CHECKPOINT, "--out": _path(text="file to write (default: beside the checkpoint)"),
        "--error": {"choices": ("norm", "mahalanobis"), "help": "length of the error (default: the checkpoint's own)"},
    }),
    "reproduce": ("run the lessons headless through papermill, or the jobs of a table", _reproduce, {
        "--profile": {"choices": ("quick", "laptop", "paper"), "default": "quick",
                      "help": "how long lessons train (default: quick)"},
        "--data": {"help": f"{DATA}; default: the lesson's or table's own"},
        "--only": ONE_OR_MORE | {"metavar": "NN", "help": "numbers or names of lessons"},
        "-p": {"dest": "parameters", "action": "append", "default": [], "metavar": "NAME=VALUE",
               "help": "of a lesson, e.g. seed=3"},
        "--force": FLAG | {"help": "run lessons again that did not change"},
        "--table": {"metavar": "NAME", "help": f"instead: {TABLES}"},
        "--method": ONE_OR_MORE | {"default": [], "help": "columns of the table (default: all)"},
        "--category": ONE_OR_MORE | {"default": [], "help": "categories, or splits such as 01234 (default: all)"},
        "--seed": ONE_OR_MORE | {"type": int, "help": "one or several seeds (default: 0)"},
        "--setting": {"choices": ("unified", "separate"), "default": "unified",
                      "help": "one model for all categories, or one each (default: unified)"},
        "--set": SET | {"help": "as of train, or US.steps=30 for one column or method alone"},
        "--workers": {"type": int, "default": 0,
                      "help": "processes that share the lessons or jobs (default: this one alone)"},
        "--scheduler": {"metavar": "ADDRESS", "help": "Dask scheduler of a table on several machines"},
        "--out": _path(text="folder for a table's CSV, Markdown and figure (default: figures)"),
    }),
    "explore": ("open the heatmap explorer (lesson 12) in the browser, for this machine alone", _explore, {
        **DATA_OPTIONS, "--port": {"type": int, "default": 0, "help": "port on 127.0.0.1 (default: a free one)"},
        "--no-browser": FLAG | {"help": "print the addresses, open nothing"},
    }),
    "classroom": ("copies of the lessons for classes, learners and nbgrader, in build/classroom", _classroom, {
        "--readme": FLAG | {"help": "instead: bring measured times and tables into the lessons and their README"},
    }),
    "book": ("the executed lessons, tables and documents as a site, to be read without a server", _book, {}),
    "doctor": ("what was found on this machine, what will be used, and what is missing, each with its fix", _doctor, {
        "--freeze": FLAG | {"help": "instead: the installed versions, as in docs/constraints.txt"},
    }),
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
