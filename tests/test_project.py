"""The project holds together: one list of packages, one test command, imports one way, lessons without outputs."""

import ast
import doctest
import graphlib
import importlib
import json
import re
import runpy
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.stats import ttest_1samp

from dumenet.cli import main
from dumenet.metrics import seed_interval
from dumenet.paper.jobs import CHOICES
from dumenet.paper.tables import by_seed, gain, groups
from dumenet.results import plus_minus, read_results, runs

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def pyproject():
    tomllib = pytest.importorskip("tomllib", reason="in the standard library from Python 3.11 on")
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def tracked():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    out = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True, check=True).stdout
    return [name for name in out.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("name", ["metrics", "models.memory", "results", "score"])
def test_examples_in_docstrings(name):
    failed, attempted = doctest.testmod(importlib.import_module(f"dumenet.{name}"))
    assert attempted and not failed


# --- one list of packages


BY_CHOICE = {  # neither `make install` nor environment.yml takes them
    "backbones", "book", "solar", "teaching", "tensorboard",
}  # fmt: skip


def test_environment_holds_pyprojects_packages_and_nothing_else():
    project = pyproject()["project"]
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert conda == [f"python{project['requires-python']}", "pip"]
    (install,) = pip["pip"]
    extras = re.fullmatch(r"-e \.\[([\w,]+)\]", install)[1].split(",")
    assert set(extras) == set(project["optional-dependencies"]) - BY_CHOICE
    assert environment["name"] == project["name"]


def test_makefile_installs_the_same_extras():
    extras = ",".join(name for name in pyproject()["project"]["optional-dependencies"] if name not in BY_CHOICE)
    assert f"'.[{extras}]'" in (ROOT / "Makefile").read_text()


def test_every_package_is_declared():
    """Whatever the package and the tests import is in pyproject.toml or in the standard library."""
    project, installed = pyproject()["project"], metadata.packages_distributions()
    packages = [p for group in (project["dependencies"], *project["optional-dependencies"].values()) for p in group]
    declared = {re.match(r"[\w-]+", package)[0] for package in packages} | {"nbformat", "traitlets"}  # of papermill
    known = {"dumenet", "conftest", "test_kill", *sys.stdlib_module_names}
    for path in [*(ROOT / "dumenet").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        for name in {name.split(".")[0] for name in imports(path)} - known:
            packages = {name, *(d.lower() for d in installed.get(name, ()))}  # one that is not installed by its name
            assert declared & packages, f"{path.name} imports {name}"


# --- one test command


def test_ci_runs_the_test_command_of_the_readme():
    *before, command = [x for x in (ROOT / ".ci" / "run").read_text().splitlines() if x and not x.startswith("#")]
    assert command == "make test" and command in (ROOT / "README.md").read_text()
    assert all(re.match(r"set |cd ", x) for x in before) and (ROOT / ".ci" / "run").stat().st_mode & 0o100


# --- arrows go one way


def imports(path):
    """Full names of the modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names if node.module.startswith("dumenet")}
    return found


def rooms():
    """Room -> what the table of docs/ARCHITECTURE.md lets it import, in the table's order."""
    table = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    rows = re.findall(r"^\| `dumenet/(\w+)(?:\.py|/)` \|.*\| ([^|]+) \|$", table, re.MULTILINE)
    allowed, order = {}, [name for name, _ in rows]
    for name, text in rows:
        above = order[: order.index(name)]
        if text == "nothing":
            direct = set()
        elif text.startswith("all of the above but"):
            direct = set(above) - set(re.findall(r"\w+", text.split("but")[1]))
        else:
            direct = set(above) if text == "the rooms" else set(re.findall(r"\w+", text))
        assert direct <= set(above), f"{name} would import a room below it"
        allowed[name] = direct.union(*(allowed[d] for d in direct))  # and what those know
    return allowed


def test_every_room_is_in_the_table_and_imports_only_what_it_says():
    allowed, seen = rooms(), set()
    for path in (ROOT / "dumenet").rglob("*.py"):
        room = path.relative_to(ROOT / "dumenet").parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        seen.add(room)
        for name in imports(path):
            other = name.split(".")[1] if name.startswith("dumenet.") else room
            assert other == room or other in allowed[room], f"{path.name} imports {name}"
    assert seen == set(allowed)


def test_modules_import_each_other_in_no_circle():
    files = {
        ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p
        for p in (ROOT / "dumenet").rglob("*.py")
    }
    graph = {name: imports(path) & files.keys() - {name} for name, path in files.items()}
    assert list(graphlib.TopologicalSorter(graph).static_order())  # or CycleError, which names the circle


def test_models_data_and_metrics_do_not_know_each_other():
    allowed = rooms()
    assert not allowed["models"] & {"data", "features", "metrics", "results"}
    assert not allowed["data"] & {"models", "features", "metrics", "results"}
    assert not allowed["metrics"] & {"models", "data", "features", "results"}
    for path in [*(ROOT / "dumenet" / "models").glob("*.py"), ROOT / "dumenet" / "metrics.py"]:
        assert not imports(path) & {"pathlib", "os", "io", "json"}, f"{path.name} knows files"


# --- what is in the repository


def test_no_machine_paths_and_nothing_large():
    path = re.compile(b"(?<![\\w.])/(tmp|root|home|work|Users)/")
    for name in tracked():
        content = (ROOT / name).read_bytes()
        assert len(content) < 3e6, name
        assert name == "tests/test_project.py" or not path.search(content), name


# --- the lessons


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_lesson_has_parameters_a_kernel_and_no_outputs(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    kernel = notebook["metadata"]["kernelspec"]
    assert (kernel["name"], kernel["language"]) == ("python3", "python")  # papermill asks for both
    code = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    tagged = [c for c in code if "parameters" in c["metadata"].get("tags", ())]
    assert len(tagged) == 1
    names = {t.id for n in ast.parse("".join(tagged[0]["source"])).body for t in n.targets}
    assert "profile" in names
    assert not any(c["outputs"] or c["execution_count"] for c in code)
    ids = [c["id"] for c in notebook["cells"]]
    assert len(set(ids)) == len(ids)


# --- numbers come from results files


def test_readmes_tables_are_made_from_results_files(capsys):
    text = (ROOT / "README.md").read_text()
    shown = re.findall(r"<!-- table: dumenet (.*?) -->\n(.*?)\n<!-- end -->", text, re.S)
    assert len(shown) == 2
    for command, table in shown:
        assert main([*command.split(), "--results", str(ROOT / "data" / "results")]) == 0
        assert capsys.readouterr().out.strip() == table.strip()


def test_readmes_findings_are_those_of_the_records():
    text = " ".join((ROOT / "README.md").read_text().split())
    found = {key: runs(group) for key, group in groups(read_results(ROOT / "data" / "results")).items()}

    def mean(table, row, metric="image_auroc", data="real5", setting="unified"):
        return by_seed(found[table, data, setting], row, metric=metric).mean()

    def pair(*where, **more):
        return " / ".join(f"{mean(*where, metric=m, **more):.1f}" for m in ("image_auroc", "pixel_auroc"))

    def more(table, row, minus, *metrics):
        said = [gain(found[table, "real5", "unified"], row, minus, f"{m}_auroc") for m in metrics or ("image", "pixel")]
        return [s.lstrip("+").replace("-0.0", "0.0") for s in said]

    ours, spread, none = "DuMeNet", "DuMeNet, spread", "memory none, decoder reads memory"
    image, pixel = more("ablations", "default", none)
    assert f"both instead of none add {image} points of image and {pixel} of pixel AUROC" in text
    alone = {"channel": "Instead of the channel memory alone both add", "spatial": "instead of the spatial one alone"}
    for memory, words in alone.items():
        image, pixel = more("ablations", "default", f"memory {memory}, decoder reads memory")
        assert f"{words} {image} and {pixel}" in text

    def by_part(table, row, minus, metric="image", minus_setting="unified"):
        cells = [
            own[(own.row == name) & (own.metric == f"{metric}_auroc")].pivot(
                index="seed", columns="part", values="value"
            )
            for name, own in ((row, found[table, "real5", "unified"]), (minus, found[table, "real5", minus_setting]))
        ]
        return (cells[0] - cells[1]).dropna().drop(columns="mean")

    change = {m: by_part("ablations", "default", none, m) for m in ("image", "pixel")}
    on = {(m, c): plus_minus(*seed_interval(d[c])) for m, d in change.items() for c in d}
    assert {len(d) for d in change.values()} == {9}
    said = (
        f"that is {on['image', 'transistor']} and {on['pixel', 'transistor']}; on screw {on['image', 'screw']} of image"
    )
    assert f"{said} AUROC, on capsule {on['image', 'capsule']}, and all else is 0.1 at most" in text
    told = {("image", "transistor"), ("pixel", "transistor"), ("image", "screw"), ("image", "capsule")}
    assert max(abs(change[m][c].mean()) for m, c in set(on) - told) < 0.15
    image, pixel = more("growth", "DuMeNet, spread, 2,400 steps", "DuMeNet without memory, spread, 2,400 steps")
    assert f"In the spread both instead of none add {image} and {pixel}" in text
    table = found["mvtec", "real5", "unified"]
    ahead = [
        gain(table, *two).lstrip("+")
        for two in ((ours, "UniAD"), (spread, "UniAD, spread"), (spread, "Gaussian, spread"))
    ]
    lost = gain(table, ours, spread, "pro").lstrip("+")
    said = "by {} points of image AUROC. The spread gives both image AUROC, takes {} points of PRO from DuMeNet"
    assert said.format(ahead[0], lost) + f", and leaves it {ahead[1]} ahead" in text
    assert f"has {pair('mvtec', 'Gaussian, spread')}: {ahead[2]} points of image AUROC less" in text
    lead = by_part("mvtec", spread, "Gaussian, spread").mean()
    assert lead["screw"] > lead.sum() / 2 and "most of it on screw" in text
    for name, words in ((ours, "by the norm, {}"), (spread, "in the spread, {}")):
        alone = [mean("mvtec", name, f"{m}_auroc", setting="separate") for m in ("image", "pixel")]
        ahead = [x - mean("mvtec", name, f"{m}_auroc") for x, m in zip(alone, ("image", "pixel"))]
        both = [f"{a:.1f} / {b:.1f}" for a, b in (alone, ahead)]
        assert f"{both[0]} {words.format(both[1])} more" in text
    lost = mean("mvtec", "PaDiM", setting="separate") - mean("mvtec", "PaDiM")
    gained = mean("mvtec", "PaDiM", "pixel_auroc") - mean("mvtec", "PaDiM", "pixel_auroc", setting="separate")
    assert (
        f"PaDiM, one for all, loses {lost:.1f} points of image AUROC, and gains {gained:.1f} of pixel AUROC, on tire"
        in text
    )
    gains = by_part("mvtec", "PaDiM", "PaDiM", "pixel", "separate").mean()
    assert gains["tire"] > 30 and gains.drop("tire").max() < 0.1
    shortfall, printed = found["shortfall", "real", "unified"], {"US": 84.0, "DRAEM": 97.5}
    near = {
        row: (by_seed(shortfall, row) > printed[row.partition(",")[0]] - 3).sum()
        for row in ("US", "DRAEM", "DRAEM, three times the steps", "DRAEM, twice the width")
    }
    said = "DRAEM as it is never is; in two of three seeds with three times the steps, in one with twice the width"
    assert list(near.values()) == [3, 0, 2, 1] and said in " ".join((ROOT / "docs" / "TABLES.md").read_text().split())
    costs = [gain(found["mvtec", "real5", "separate"], ours, spread, m).lstrip("+") for m in ("pixel_auroc", "pro")]
    assert "there the spread costs {} points of pixel AUROC and {} of PRO".format(*costs) in text
    dirty = found["contamination", "real5", "unified"]
    names = (ours, spread, "DuMeNet without memory", "PaDiM", "PatchCore")
    much, some = ([gain(dirty, f"{n}, 0%", f"{n}, {share}").lstrip("+") for n in names] for share in ("20%", "10%"))
    said = "cost {} points by the norm and {} in the spread, without memory {}, PaDiM {}, PatchCore {}; 10 % in the "
    assert said.format(*much) + "spread {}, PaDiM {}, PatchCore {}.".format(*some[1:2], *some[3:]) in text
    larger = [f"{mean('backbones', n):.1f}" for n in ("Lite1, spread", "Lite2, spread", "Lite1", "Lite2")]
    assert "{} and {} in the spread, {} and {} by the norm".format(*larger) in text
    lite = [f"{mean('backbones', n, data='cifar10'):.1f}" for n in ("Lite2", "Lite0")]
    assert "(Lite2, one split, one seed: {} instead of {})".format(*lite) in text
    epochs = [r["image_auroc_by_epoch"] for r in read_results(ROOT / "data" / "results") if r.get("table") == "epochs"]
    later = max(100 * (max(e) - e[-1]) for e in epochs)
    assert len(epochs) == 6 and f"at most {later:.2f} points better than the last (six runs)" in text
    grown = [f"{mean('growth', f'{n}, {k} steps'):.0f}" for n in (ours, spread) for k in ("240", "800", "2,400")]
    assert "{} after 240 steps, {} after 800 and {} after 2,400, in its spread {}, {} and {}".format(*grown) in text
    (jitter,), (sigmoid,) = (
        more("choices", "default", *less) for less in (("no jitter", "image"), ("target sigmoid", "pixel"))
    )
    assert f"Without jitter it has {jitter} points" in text and f"sigmoid as the target costs {sigmoid} points" in text
    choices = found["choices", "real5", "unified"]
    gate, raw = (gain(choices, name, "default").lstrip("+") for name in ("fusion gate", "target raw"))
    others = set(CHOICES) - {"default", "default, spread", "no jitter", "target sigmoid", "neck cbam"}
    p = [
        ttest_1samp(by_seed(choices, n, "default", m), 0).pvalue for n in others for m in ("image_auroc", "pixel_auroc")
    ]
    assert len(p) == 26 and sum(x < 0.05 for x in p) == 4 and min(p) > 0.05 / 26
    for metric, most in (("image_auroc", "0.7"), ("pixel_auroc", "0.1")):
        moved = [mean("choices", name, metric) - mean("choices", "default", metric) for name in others]
        assert f"{max(map(abs, moved)):.1f}" == most
    assert "move image AUROC by 0.7 points at most, pixel AUROC by 0.1. Of these 26 intervals four" in text
    assert f"(image AUROC of a gate as the fusion: {gate} more, of a raw target {raw})" in text
    compared = (ours, spread, "UniAD", "UniAD, spread", "PaDiM", "PatchCore", "Gaussian, spread", "PANDA")
    solar = [f"{mean('mvtec', name, data='elpv'):.1f}" for name in compared]
    said = "DuMeNet {}, in its spread {}, UniAD {} and {}, PaDiM {}, PatchCore {}, Gaussian in its spread {}, "
    assert (said + "PANDA {}.").format(*solar) in text
    photos = [f"{mean('cifar', n, data='cifar10'):.1f}" for n in (ours, spread, "UniAD", "DN2")]
    assert "{} by the norm and {} by the spread (mean of four splits; UniAD {})".format(*photos[:3]) in text
    assert f"train nothing and have {photos[3]}**" in text
    others = [n for n in set(found["mvtec", "real5", "unified"].row) if "," not in n and n != ours]
    assert len(others) == 12 and "ahead of eleven other methods" in text and "and of UniAD, trained alike" in text
    for metric in ("image_auroc", "pixel_auroc"):
        assert max(mean("mvtec", name, metric) for name in others) < mean("mvtec", ours, metric)


def test_readmes_minutes_and_false_alarms_are_those_of_the_records():
    text, records = " ".join((ROOT / "README.md").read_text().split()), read_results(ROOT / "data" / "results")
    whole = [r["seconds"] for r in records if r.get("tag") == "real5"]
    minutes = [
        (s["train"] + extra["train features"]) / 60 for s in whole for extra in whole if "train features" in extra
    ]
    assert 12 < min(minutes) and max(minutes) < 14 and "12 to 14 minutes on two cores" in text
    (quick,) = re.findall(r"1,000 steps, features included, give (\S+ / \S+) in these four", text)
    assert f" threads: {quick} |" in (ROOT / "benchmarks" / "RESULTS.md").read_text()
    (uniad,) = (r for r in records if r.get("tag") == "real5-3min" and r["method"] == "uniad")
    four = [uniad["metrics"]["per_category"][c] for c in ("bottle", "capsule", "screw", "transistor")]
    means = [np.mean([100 * c[f"{m}_auroc"] for c in four]) for m in ("image", "pixel")]
    ours = [r["seconds"] for r in records if r.get("tag") == "real5-3min" and r["method"] == "dumenet"]
    features = max(s.get("train features", 0) for s in ours)
    longer = (uniad["seconds"]["train"] + features) / (np.mean([s["train"] for s in ours]) + features)
    assert int(longer) == 5 and f"{uniad['config']['train']['steps']} steps, five times as long, and" in text
    assert f"five times as long, and {means[0]:.1f} / {means[1]:.1f}" in text
    (alarms,) = (r["rows"] for r in records if r.get("name") == "bench-thresholds")
    rate = {(r["error"], r["promise"], r["images"]): r["false alarms"] for r in alarms if "bound" in r["rule"]}
    rows = (("mahalanobis", 1), ("mahalanobis", 5), ("norm", 5))
    one, five, norm = ("{:.0f}, {:.0f} and {:.0f}".format(*(rate[(*row, n)] for n in (20, 50, 200))) for row in rows)
    assert f"{one} in a hundred of three categories did with 20, 50 and 200 to learn from;" in text
    assert f"where 5 were promised, {five} did, and" in text
    assert f"and {norm} by `evaluation.error=norm`" in text


def test_the_notes_numbers_are_made_from_results_files(monkeypatch, capsys):
    command = "python benchmarks/growth.py --notes"
    shown = re.search(rf"<!-- {command} -->\n(.*?)\n<!-- end -->", (ROOT / "docs" / "NOTES.md").read_text(), re.S)
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setattr(sys, "argv", command.split()[1:])
    runpy.run_path(str(ROOT / "benchmarks" / "growth.py"), run_name="__main__")
    assert capsys.readouterr().out.strip() == shown[1]


def test_links_between_documents_lead_somewhere():
    for page in [ROOT / name for name in tracked() if name.endswith((".md", ".ipynb"))]:
        text = page.read_text(encoding="utf-8")
        if page.suffix == ".ipynb":
            text = "".join("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "markdown")
        for link in re.findall(r"\]\(([^)#\s:]+)(?:#[^)]*)?\)", text):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
