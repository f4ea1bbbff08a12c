"""Tables: which jobs there are, that none runs twice, and what is made of their results files."""

import json
import re
import shlex
import shutil
import threading
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from conftest import TINY, photos
from distributed.config import config
from filelock import FileLock

from dumenet import cli
from dumenet import run as running
from dumenet.cli import main
from dumenet.config import counted
from dumenet.errors import DumenetError
from dumenet.paper import tables
from dumenet.paper.audit import placed
from dumenet.paper.jobs import TABLES, plan, settings_of
from dumenet.plots import table_figure
from dumenet.results import PaperValue, paper_results, read_results, runs
from dumenet.run import Folders, run_jobs
from dumenet.sweep import sweep

FAST = {f"features.{k}": v for k, v in TINY["features"].items() if k != "stages"}
FAST |= {"device": "cpu", "evaluation.bootstrap": 10}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Folders(tmp_path)


def jobs(home, tree, **more):
    given = {"methods": ("Gaussian", "PaDiM"), "overrides": FAST, "folders": home} | more
    return plan("mvtec", str(tree), **given)


@pytest.fixture(scope="module")
def made_once(tmp_path_factory):
    """A folder in which the jobs of both methods and two seeds are finished, in the unified setting."""
    home = tmp_path_factory.mktemp("finished")
    photos(home)
    assert run_jobs(jobs(Folders(home), home / "photos", seeds=(0, 1)), Folders(home), progress=False) == []
    return home


@pytest.fixture
def done(home, tree, made_once):
    """Those jobs where the test works: their records are there, no features and no checkpoint."""
    shutil.copytree(made_once / "data", home.home / "data")
    return jobs(home, tree, seeds=(0, 1))


def test_a_category_may_be_named_by_digits(home, tree):
    (tree / "bolt").rename(tree / "01")
    assert [job.dataset.categories for job in jobs(home, tree, parts=["01"])] == [["01"]] * 2


def test_a_setting_that_a_method_has_itself_is_not_given_to_it(home, tree):
    network, padim = jobs(home, tree, overrides=FAST | {"features.grid": 5})
    assert network.settings.features.grid == 5 != padim.settings.features.grid
    with pytest.raises(DumenetError, match="Unknown setting of PaDiM 'features.grid'"):
        jobs(home, tree, overrides=FAST | {"PaDiM.features.grid": 5})


def test_a_finished_job_is_not_run_again_and_a_changed_one_is(home, tree, done):
    times = {j.path(): j.path().stat().st_mtime_ns for j in done}
    assert run_jobs(done, home, progress=False) == []
    assert {p: p.stat().st_mtime_ns for p in times} == times
    changed = jobs(home, tree, overrides=FAST | {"PaDiM.sigma": 1.0})
    assert [j.finished() is None for j in changed] == [False, True]


def test_a_record_that_lacks_a_setting_added_later_still_counts(done):
    job = done[1]
    record = json.loads(job.path().read_text())
    del record["identity"]["settings"]["sigma"]  # as if `sigma` had been added to the settings later
    job.path().write_text(json.dumps(record))
    assert job.column == "PaDiM" and job.finished()
    record["identity"]["settings"]["ridge"] = 7.0  # but one with another value is another job's
    job.path().write_text(json.dumps(record))
    assert job.finished() is None


def test_other_masks_are_a_reason_to_run_again_under_the_same_name(home, tree, done):
    job = done[0]
    mask = next(tree.rglob("ground_truth/*/*.png"))
    assert job.finished()
    mask.write_bytes(mask.read_bytes() + b" ")
    other = jobs(home, tree)[0]
    assert other.path() == job.path() and job.finished() and other.finished() is None
    record = json.loads(job.path().read_text())
    del record["identity"]["masks"]  # older than this
    job.path().write_text(json.dumps(record))
    assert other.finished()


def test_two_processes_do_not_take_one_job(home, tree):
    (job,) = jobs(home, tree, methods=("Gaussian",))
    lock = home.home / "build" / "locks" / f"{job.name}.lock"
    lock.parent.mkdir(parents=True)
    with FileLock(lock):
        assert run_jobs([job], home, progress=False) == []
        assert job.finished() is None
    run_jobs([job], home, progress=False)
    assert job.finished()


def test_a_failing_job_leaves_the_others_alone(home, tree, monkeypatch):
    from dumenet.methods import PaDiM

    monkeypatch.setattr(PaDiM, "fit", lambda self, train: 1 / 0)
    made = jobs(home, tree)
    (sentence,) = run_jobs(made, home, progress=False)
    assert "PaDiM" in sentence and "ZeroDivisionError" in sentence and Path(sentence.split("see ")[1]).is_file()
    assert [bool(j.finished()) for j in made] == [j.column == "Gaussian" for j in made]


def test_the_record_leads_back_to_its_command(home, tree, done):
    job = done[1]
    before = json.loads(job.path().read_text())
    job.path().unlink()
    (again,) = jobs(home, tree, methods=("PaDiM",))  # of this folder, which the command names
    assert main(again.command.split()[1:]) == 0
    after = json.loads(job.path().read_text())
    assert after["metrics"] == before["metrics"] and after["identity"] == before["identity"]
    assert after["command"] == again.command and set(after["image_auroc_by_pooling"]) == {"max", "mean", "std", "top1"}


def test_a_watched_run_records_every_epoch_and_is_seen_from_its_first_again_when_interrupted(home, tree, stop_at):
    small = {"hidden_dim": 16, "heads": 2, "ffn_dim": 16, "neighbour_size": 3}
    small = {f"model.{k}": v for k, v in small.items()} | {"train.epochs": 3}
    (job,) = plan("epochs", str(tree), methods=("UniAD",), folders=home, overrides=FAST | small)
    stop_at(running, "_image_auroc", 2, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run_jobs([job], home, progress=False)
    run_jobs([job], home, progress=False)
    by_epoch = job.finished()["image_auroc_by_epoch"]
    assert len(by_epoch) == 3 and by_epoch[-1] == pytest.approx(job.finished()["metrics"]["mean"]["image_auroc"])


def test_unified_and_separate(home, made_once):
    together, apart = (jobs(home, made_once / "photos", methods=("PaDiM",), setting=s) for s in ("unified", "separate"))
    assert [j.dataset.categories for j in together] == [["bolt", "felt"]]
    assert [j.dataset.categories for j in apart] == [["bolt"], ["felt"]]


def test_a_table_of_some_categories_asks_nothing_of_the_others(home, tree):
    for folder in ("test/hole", "ground_truth"):
        shutil.rmtree(tree / "felt" / folder)  # without defects, nothing there can contaminate
    (job,) = plan("contamination", str(tree), ["bolt"], ["PaDiM, 10%"], overrides=FAST, folders=home)
    assert job.dataset.categories == ["bolt"]


def test_costs_are_of_a_processor(home, done):
    assert run_jobs(done, home, progress=False) == []
    here = [job.finished() for job in done]
    there = [r | {"device": "cuda", "seed": r["seed"] + 2, "cost": {"ms": 123.0, "mb": 1.0}} for r in here]
    costs = lambda records: [line.split(" | ")[-4:-1] for line in tables.costs(records).splitlines()]  # noqa: E731
    assert costs(here + there) == costs(here) and "–" not in tables.costs(here)
    assert "– | – | – |" in tables.costs(there)


def test_splits_of_the_digits(home):
    few = {"methods": ("Gaussian",), "folders": home}
    few["overrides"] = FAST | {"data.per_class_train": 5, "data.per_class_test": 5, "features.stages": [0, 1]}
    made = plan("cifar", None, **few)
    assert [j.dataset.categories for j in made] == [["{01234}"], ["{56789}"], ["{02468}"], ["{13579}"]]
    (one,) = plan("cifar", None, ["13579"], **few)
    assert one.name == made[3].name
    assert run_jobs([one], home, progress=False) == []
    said = [PaperValue("cifar10", "Gaussian", "13579", "image_auroc", 50.0)]
    (row,) = [r for r in tables.rows([one.finished()], said) if r.metric == "image_auroc"]
    assert row.paper is None  # digits are not CIFAR-10


def test_settings_for_cifar_are_chosen_without_its_test_images(home):
    (job,) = plan("recipe", None, ["01234"], methods=("stage 4 at 7",), overrides=FAST, folders=home)
    assert {s.name.split("/")[0] for s in job.dataset.train + job.dataset.test} == {"train"}
    assert not {s.name for s in job.dataset.train} & {s.name for s in job.dataset.test}
    assert {s.name.split("/")[1] for s in job.dataset.test if s.label} == {"4"}
    assert {s.name.split("/")[1] for s in job.dataset.train} == set("0123")


@pytest.mark.parametrize(("more", "said"), [
    ({"methods": ("PaDim",)}, "PaDiM"), ({"parts": ("bolts",)}, "bolt"),
    ({"overrides": {"PaDim.sigma": 1}}, "did you mean 'PaDiM'"), ({"overrides": {"PaDiM.seed": 1}}, "--seed"),
    ({"overrides": {"PaDiM.sigmas": 1}}, "sigma"), ({"overrides": {"PaDiM.sigma": "wide"}}, "sigma"),
    ({"overrides": {"sigmas": 1}}, "did you mean 'sigma'"),
    ({"overrides": {"PaDiM.features": 3}}, "features.tiles"), ({"overrides": {"data.sed": 1}}, "data.seed"),
    ({"overrides": {"train.epoch": 3}}, "train.epochs"), ({"overrides": {"seed": 3}}, "--seed"),
])  # fmt: skip
def test_wrong_wishes_get_a_sentence(home, made_once, more, said):
    with pytest.raises(DumenetError, match=said):
        jobs(home, made_once / "photos", **more)


def test_a_key_reaches_every_column_that_has_it_or_one_alone(home, made_once):
    given = {"train.epochs": 3, "DuMeNet.train.epochs": 4, "sigma": 1.0, "padim.sigma": 2.0, "PaDiM.sigma": 3.0}
    made = {j.column: j.settings for j in jobs(home, made_once / "photos", methods=(), overrides=given)}
    assert {c: made[c].train.epochs for c in ("UniAD", "DuMeNet")} == {"UniAD": 3, "DuMeNet": 4}
    assert made["UniAD"].train.steps is None  # the budget is one of them
    assert [made[c].sigma for c in ("PatchCore", "PaDiM, ridge 1", "PaDiM")] == [1, 2, 3]
    assert made["PaDiM, ridge 1"].ridge == 1 and made["UniAD"].model.name == "uniad"


def test_two_columns_that_differ_in_evaluation_share_one_training(home, tree):
    """And a job waits while another process is at it."""
    small = {"model.hidden_dim": 16, "model.heads": 2, "model.ffn_dim": 16, "train.epochs": 1}
    made = jobs(home, tree, methods=("DuMeNet", "DuMeNet, spread"), overrides=FAST | small)
    assert made[0].training == made[1].training and made[0].name != made[1].name
    worker = threading.Thread(target=run_jobs, args=(made[:1], home), kwargs={"progress": False})
    with FileLock(home.home / "build" / "locks" / f"{made[0].training}.train.lock"):
        worker.start()
        worker.join(0.5)
        assert worker.is_alive() and made[0].finished() is None
    worker.join(60)
    assert made[0].finished()


# --- many workers


def test_a_worker_that_dies_costs_no_job(tmp_path):
    """That workers give what one process gives: tests/test_parallel.py."""

    def dies_once(mark, i):  # here, so that a worker need not import this file
        """The first to come here takes its whole process along."""
        import os
        import signal

        try:
            mark.touch(exist_ok=False)
        except FileExistsError:
            return i * i
        os.kill(os.getpid(), signal.SIGKILL)

    said = sweep(dies_once, {f"task {i}": (tmp_path / "dead", i) for i in range(4)}, workers=2, progress=False)
    assert said == {f"task {i}": i * i for i in range(4)} and (tmp_path / "dead").exists()


def test_no_scheduler(monkeypatch):
    monkeypatch.setitem(config["distributed"]["comm"]["timeouts"], "connect", "1s")
    with pytest.raises(DumenetError, match="No Dask scheduler"):
        sweep(print, {"a": ()}, scheduler="tcp://127.0.0.1:9")


# --- rows


def record(column, seed, values, ci=None):
    metrics = {p: {"image_auroc": v, "pixel_auroc": None, "pro": None, "image_auroc_ci": ci} for p, v in values.items()}
    return {
        "table": "mvtec", "column": column, "seed": seed, "data": {"name": "mvtec"},
        "metrics": {"per_category": metrics},
    }  # fmt: skip


def test_rows_stand_beside_the_papers():
    records = [record("US", s, {"bottle": v, "cable": 0.5}, [0.4, 0.6]) for s, v in enumerate((0.80, 0.84, 0.88))]
    said = [
        PaperValue("mvtec_ad", "US", "bottle", "image_auroc", 84.0),
        PaperValue("mvtec_ad", "US", "cable", "image_auroc", 60.0),
    ]
    bottle, cable, mean = tables.rows(records, said)
    assert (bottle.part, cable.part, mean.part) == ("bottle", "cable", "mean")
    assert (bottle.ours, bottle.difference) == (pytest.approx(84), pytest.approx(0))
    assert (mean.ours, mean.paper, mean.difference) == (pytest.approx(67), pytest.approx(72), pytest.approx(-5))
    assert [r.seeds for r in (bottle, cable, mean)] == [3, 3, 3] and cable.half == pytest.approx(10)
    assert [r.part for r in tables.rows([record("US", 0, {"bottle": 0.8})])] == ["bottle"]  # no mean of one


def test_costs_stand_beside_the_means_of_the_best_first():
    made = []
    for column, values, spent in (("US", (0.7, 0.8), (10.0, 30.0)), ("PaDiM", (0.9, 0.9), (1.0, None))):
        for seed, (value, seconds) in enumerate(zip(values, spent)):
            r = record(column, seed, {"bottle": value, "cable": value}, [value - 0.1, value + 0.1])
            for part in r["metrics"]["per_category"].values():
                part["pixel_auroc"] = 0.95
            r |= {"setting": "unified", "seconds": {"train cpu": seconds}, "cost": {"ms": 8.0, "mb": 10 + seed}}
            made.append(r)
    head, _, first, second = tables.costs(made).splitlines()
    assert head.startswith("| one model for all categories |")
    cells = [cell.strip() for cell in first.split("|")[1:-1]]
    assert cells[0] == "PaDiM" and cells[1].startswith("90.0 ± 7.1") and cells[2] == "95.0 ± 0.0"
    assert cells[3].startswith("92.5 ± 3.5") and cells[4:] == ["–", "8", "10.5", "2"]  # one run lacks its seconds
    cells = [cell.strip() for cell in second.split("|")[1:-1]]
    assert cells[3] == "85.0 ± 32.0" and cells[4:] == ["20", "8", "10.5", "2"]


def test_a_difference_is_over_all_parts_of_a_seed():
    values = {"default": (0.5, 0.5), "no jitter": (0.55, 0.4)}
    made = [record(c, 0, {p: v}) for c, by in values.items() for p, v in zip(("bottle", "tire"), by)]
    assert tables.by_seed(runs(made), "no jitter", "default").to_dict() == pytest.approx({0: -2.5})
    assert "| no jitter | -2.5 | 1 |" in tables.versus(made, values, "default")
    assert tables.gain(runs(made), "no jitter", "default") == "-2.5"
    assert len(tables.by_seed(runs(made[:3]), "no jitter", "default")) == 0  # one part less


def test_what_is_written(home, tree, done):
    assert tables.write(jobs(home, tree, seeds=(2,)), home.home, home.home / "out") == []
    paths = tables.write(done, home.home, home.home / "out")
    assert not plt.get_fignums()  # in a batch figures would pile up
    assert [p.suffix for p in paths] == [".csv", ".md", ".png", ".svg"] and all(p.stat().st_size for p in paths)
    lines = paths[0].read_text().splitlines()
    assert lines[0].split(",") == list(tables.Row._fields) and len(lines) == 1 + 2 * 3 * 3  # methods, parts, metrics
    text = paths[1].read_text()
    assert text.count("| PaDiM |") == 3 and "± " in text


def test_a_table_without_a_defective_test_image_says_so_and_keeps_the_results(home, tree):
    for category in ("bolt", "felt"):
        for folder in ("test/hole", "ground_truth"):
            shutil.rmtree(tree / category / folder)
    made = jobs(home, tree, methods=("Gaussian",))
    assert run_jobs(made, home, progress=False) == []
    with pytest.raises(DumenetError, match="results are kept, but a table needs normal and defective test images"):
        tables.write(made, home.home, home.home / "out")
    assert made[0].finished() is not None


def test_every_column_of_the_paper_is_there():
    paper = paper_results(Path(__file__).parents[1] / "data" / "paper_results.csv")
    for table in (TABLES["mvtec"], TABLES["cifar"]):
        printed = {v.method for v in paper if v.table == table.paper}
        assert printed and printed <= set(table.columns)


@pytest.mark.parametrize("name", TABLES)
def test_every_column_can_be_planned(home, made_once, name):
    digits = TABLES[name].source == "digits"
    made = plan(name, None if digits else str(made_once / "photos"), ["01234"] if digits else (), folders=home)
    assert {j.column for j in made} == set(TABLES[name].columns)
    assert len({j.name for j in made}) == len(made)


def test_the_document_is_what_the_committed_results_say():
    root = Path(__file__).parents[1]
    text, figures = tables.document(read_results(root / "data" / "results"), tables.printed(root))
    assert (root / "docs" / "TABLES.md").read_text(encoding="utf-8") == text, "run: python -m dumenet.paper.tables"
    assert all((root / "docs" / f"{name}.svg").exists() for name in figures)


def test_what_every_run_was_given_is_said():
    commands = [
        "dumenet reproduce --set device=cpu US.steps=3 'a.b=[1, 2]'",
        "dumenet reproduce --set US.steps=3 device=cpu 'a.b=[1, 2]' x.y=1",
    ]
    assert tables.set_for_all([{"command": c} for c in commands]) == ["US.steps=3", "a.b=[1, 2]"]
    assert tables.set_for_all([{"command": c} for c in (*commands, "dumenet reproduce --seed 1")]) == []


def test_every_number_of_the_document_leads_to_its_files():
    root = Path(__file__).parents[1]
    text = (root / "docs" / "TABLES.md").read_text(encoding="utf-8")
    linked = re.findall(r"\]\(\.\./(data/results/[^)]+)\)", text)
    records = read_results(root / "data" / "results")
    shown = [r for group in tables.groups(records).values() for r in group]
    committed = [r["files"]["results"] for r in shown]
    assert sorted(linked) == sorted(committed) and all((root / file).is_file() for file in linked)


def test_every_method_has_a_budget_to_show():
    from dumenet.methods import METHODS

    lines = tables.budgets(METHODS)
    named = {name for line in lines if line.startswith("| [") for name in line[3:].partition("]")[0].split(", ")}
    assert named == set(METHODS)


def test_a_value_far_below_is_written_at_the_edge_of_the_figure():
    values = [90 + 0.1 * k for k in range(6)] + [20.0]  # one of seven: of 10 % to 90 % of them it is a part
    fig = table_figure(
        [tables.Row(f"m{k}", "bolt", "pixel_auroc", v, 0.1, 3, None, None) for k, v in enumerate(values)]
    )
    (ax,) = fig.axes
    assert ax.get_xlim()[0] > 85 and [t.get_text() for t in ax.texts] == ["← 20"]
    said = [tables.Row(f"m{k}", "bolt", "pixel_auroc", v, 0.1, 3, 95.0, v - 95) for k, v in enumerate(values)]
    assert table_figure(said).axes[0].get_xlim()[0] < 20  # beside the paper's values nothing is cut


def test_a_users_part_of_cifar10_stands_beside_no_committed_run():
    made = [{"tag": "table", "table": t, "setting": "unified", "data": {"name": "cifar10", "train": n}}
            for t, n in (("cifar", 1500), ("cifar", 25_000), ("recipe", 1600))]  # fmt: skip
    assert [r for group in tables.groups(made).values() for r in group] == made[1:]
    assert [r for group in placed(made).values() for r in group] == made[1:]


def test_the_commands_of_committed_records_still_mean_their_settings():
    shown = [r for g in tables.groups(read_results(Path(__file__).parents[1] / "data" / "results")).values() for r in g]
    assert len(shown) > 400
    for record in shown:
        asked = cli._parser().parse_args(shlex.split(record["command"])[1:])
        (column,), (seed,) = asked.method, asked.seed
        own = {k: v for k, v in cli._pairs(asked.set).items() if not k.startswith("data.")}
        made = settings_of(column, TABLES[asked.table].columns[column], own, seed)
        assert running._changed(record["identity"]["settings"], counted(made)) == {}, record["name"]


def test_lessons_find_their_tables():
    home = Path(__file__).parents[1]
    for name in ("ablations", "choices", "growth", "contamination", "epochs"):
        assert len(tables.committed(home / "data" / "results", name)) > 5, name
    _, figures = tables.document(read_results(home / "data" / "results"), [])
    assert [ax.get_xlabel() for ax in figures["table-growth-real5-unified"]().axes] == ["steps of training"] * 2


def test_growth_takes_the_runs_of_other_tables():
    data = {"tag": "table", "setting": "unified", "data": {"name": "real5"}}
    made = [record("UniAD, 240 steps", 0, {"tire": 0.5}) | {"table": "growth"}, record("UniAD", 0, {"tire": 0.7})]
    found = tables.groups([r | data for r in made])
    assert [r["column"] for r in found["growth", "real5", "unified"]] == ["UniAD, 240 steps", "UniAD, 2,400 steps"]
    assert [r["column"] for r in found["mvtec", "real5", "unified"]] == ["UniAD"]
    for name, (table, other) in tables.SAME.items():
        ours, theirs = TABLES["growth"].columns[name], TABLES[table].columns[other]
        assert settings_of(name, ours, {}, 0) == settings_of(other, theirs, {}, 0)


def test_growth_has_a_place_for_each_length():
    values = {("DuMeNet", "240"): (0.5, 0.7), ("DuMeNet", "2,400"): (0.8, 0.8), ("DuMeNet, spread", "2,400"): (0.9,)}
    made = [
        record(f"{name}, {steps} steps", seed, {"bottle": v, "tire": v}) | {"table": "growth"}
        for (name, steps), by_seed in values.items() for seed, v in enumerate(by_seed)
    ]  # fmt: skip
    image, _ = tables.growth(made).values()
    assert image == {
        "DuMeNet": [pytest.approx([50, 70]), [], pytest.approx([80, 80])],
        "DuMeNet, spread": [[], [], pytest.approx([90])],
    }
    head, _, norm, spread = tables.growth_table(tables.rows(made)).splitlines()[:4]
    assert head.count("steps") == 2 and norm.startswith("| DuMeNet | 60.0 ±") and "| 80.0 ± 0.0 / –" in norm
    assert spread == "| DuMeNet, spread | – / – | 90.0 / – |"
