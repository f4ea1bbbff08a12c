"""The command line from end to end: what a stranger types, and what then lies on disk."""

import csv
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import nbformat
import numpy as np
import pytest
import yaml
from conftest import TINY, photos
from PIL import Image

from dumenet import detector
from dumenet.checkpoint import load_checkpoint, save_checkpoint
from dumenet.cli import main
from dumenet.data import read_folder
from dumenet.overlay import overlay as overlay_of
from dumenet.results import write_result


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder in which a model was trained on both categories, once for all tests."""
    home = tmp_path_factory.mktemp("trained")
    photos(home)
    (home / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        assert main(["train", "--config", "tiny.yaml", "--data", "photos"]) == 0
    return home


@pytest.fixture
def checkpoint(home, tree, trained):
    """A copy of that model, of its record and of its features, where the test works."""
    for folder in ("build", "data"):
        shutil.copytree(trained / folder, home / folder)
    return next(home.glob("build/runs/*/checkpoint.pt"))


def records(home):
    return [json.loads(p.read_text()) for p in sorted((home / "data" / "results").glob("*.json"))]


def scores(folder):
    with open(folder / "scores.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def asked(monkeypatch):
    """The configurations that `dumenet train` was to run since; nothing is run."""
    found = []
    monkeypatch.setattr("dumenet.run.run", lambda config, **_: found.append(config))
    return found


def test_help_shows_examples(capsys):
    commands = "|data|data make|data check|data index|train|evaluate|table|predict|export|reproduce|explore|book"
    for command in commands.split("|"):
        with pytest.raises(SystemExit) as stop:
            main([*command.split(), "--help"])
        assert stop.value.code == 0
        assert f"\nexamples:\n  dumenet {command}" in capsys.readouterr().out


def test_train_reports_and_is_done_once(home, tree, tiny_yaml, capsys):
    for folder in ("test/hole", "ground_truth"):
        shutil.rmtree(tree / "felt" / folder)
    command = ["train", "--config", str(tiny_yaml), "--data", str(tree)]
    assert main(command) == 0
    out = capsys.readouterr().out
    (record,) = records(home)
    assert set(record["metrics"]["per_category"]) == {"bolt", "felt"}
    for word in ("image AUROC", "PRO", "bolt", "mean", "pooled", record["files"]["checkpoint"]):
        assert word in out
    (felt,) = [line for line in out.splitlines() if line.startswith("felt")]
    assert felt.count("not defined") == 7
    assert f"{record['metrics']['mean']['image_auroc']:.4f}" in out
    assert out.splitlines()[-1].startswith(
        "Thresholds rest on under 20 normal images (of bolt 8, felt 8): expect three"
    )
    checkpoint = home / record["files"]["checkpoint"]
    before = checkpoint.stat().st_mtime_ns
    assert main(command) == 0
    assert checkpoint.stat().st_mtime_ns == before and len(records(home)) == 1


def test_train_separately_with_two_seeds(home, tree, tiny_yaml, capsys):
    settings = ["--set", "train.epochs=1", "model.memory_mode=channel"]
    command = ["train", "--config", str(tiny_yaml), "--data", str(tree), "--separate", "--seed", "3", "4", *settings]
    assert main(command) == 0
    made = {(*r["metrics"]["per_category"], r["seed"]) for r in records(home)}
    assert made == {("bolt", 3), ("bolt", 4), ("felt", 3), ("felt", 4)}
    assert all(r["config"]["train"]["epochs"] == 1 for r in records(home))
    assert all(r["config"]["train"]["seed"] == r["seed"] for r in records(home))
    assert {r["command"] for r in records(home)} == {shlex.join(["dumenet", *command])}
    assert len(list(home.glob("build/runs/*/checkpoint.pt"))) == 4
    assert len(list(home.glob("build/cache/*"))) == 1  # one cache serves them all
    capsys.readouterr()
    assert main(["table"]) == 0
    out = capsys.readouterr().out
    rows = out.splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == ["bolt: dumenet", "felt: dumenet"]
    assert all(row.endswith("| 2 |") and row.count("±") for row in rows)


def test_an_option_given_twice_counts_twice(asked):
    words = "--seed 3 --seed 4 --category bolt --category felt --set train.epochs=1 --set model.memory_mode=channel"
    assert main(["train", *words.split()]) == 0
    assert [config.train.seed for config in asked] == [3, 4] and asked[0].data.categories == ("bolt", "felt")
    assert asked[0].train.epochs == 1 and asked[0].model.memory_mode == "channel"


def test_a_folder_of_its_name_does_not_hide_a_configuration(home, asked):
    (home / "cifar10").mkdir()
    assert main(["train", "--config", "cifar10"]) == 0
    assert asked[0].model.dropout == 0.1  # the paper's


def test_a_slash_at_the_end_of_a_folder_is_no_other_run(asked):
    for data in (["--data", "photos"], ["--data", "photos/"], ["--set", "data.source=./photos"]):
        assert main(["train", *data]) == 0
    assert {config.data.source for config in asked} == {"photos"}
    assert main(["train", "--data", "./factory"]) == 0
    assert asked[-1].data.source == "./factory"  # a folder, and not what is embedded


def test_runs_whose_difference_a_row_leaves_out_are_told_apart(home, checkpoint, capsys):
    (record,) = records(home)
    folder = home / "data" / "results"
    write_result(folder / "seed1.json", record | {"seed": 1})
    record["config"]["evaluation"]["bootstrap"], record["config"]["data"]["seed"] = 10, 3
    write_result(folder / "other.json", record)
    assert main(["table"]) == 0
    first, second = sorted(line for line in capsys.readouterr().out.splitlines()[2:])
    assert first.startswith("| bolt + felt: dumenet, bootstrap 20 |") and first.endswith("| 2 |")
    assert second.startswith("| bolt + felt: dumenet, data.seed 3, bootstrap 10 |") and second.endswith("| 1 |")
    shutil.copy(folder / "other.json", folder / "copy.json")
    assert main(["table"]) == 2
    assert "Two records for bolt + felt: dumenet" in capsys.readouterr().err


def test_evaluate_again(home, checkpoint, capsys):
    assert main(["evaluate", str(checkpoint)]) == 0
    assert main(["evaluate", str(checkpoint), "--category", "felt", "--set", "evaluation.pooling=mean"]) == 0
    first, mean, trained = sorted(records(home), key=lambda r: (r["tag"] or "z", -len(r["metrics"]["per_category"])))
    assert first["metrics"] == trained["metrics"]
    capsys.readouterr()
    for words, rows in ((["table"], 1), (["table", "--tag", "evaluate"], 2), (["table", "--csv"], None)):
        assert main(words) == 0  # the evaluation does not stand in the way of the run it repeats
        out = capsys.readouterr().out
        assert out.count("\n| ") == rows + 1 if rows else out.startswith("row,part,metric,mean,half,n\n")
    assert set(mean["metrics"]["per_category"]) == {"felt"} and mean["config"]["evaluation"]["pooling"] == "mean"


def test_a_category_that_was_not_trained_is_not_evaluated(home, tree, tiny_yaml, capsys):
    command = ["train", "--config", str(tiny_yaml), "--data", str(tree), "--category", "bolt"]
    assert main([*command, "--set", "train.epochs=1"]) == 0
    checkpoint = str(next(home.glob("build/runs/*/checkpoint.pt")))
    assert main(["evaluate", checkpoint, "--category", "bolt", "felt"]) == 2
    assert "Unknown category of this checkpoint 'felt': did you mean 'bolt'? Known: bolt" in capsys.readouterr().err
    (tree / "bolt").rename(tree / "screw")  # the same part in a folder of another name
    assert main(["evaluate", checkpoint, "--category", "screw"]) == 0


def test_predict_a_folder_with_a_broken_image(tree, checkpoint, capsys):
    """Twice into the folder of images itself: a heatmap is no image."""
    photos = tree / "bolt" / "test"
    (photos / "good" / "broken.jpg").write_bytes(b"not an image")
    (photos / "notes.txt").write_text("not looked at")
    for _ in range(2):
        assert main(["predict", str(checkpoint), str(photos), "--out", str(photos)]) == 2
        captured = capsys.readouterr()
        assert "dumenet: 1 of 7 images could not be read" in captured.err and "Traceback" not in captured.err
    rows = scores(photos)
    assert list(rows[0]) == ["image", "score", "rank", "threshold", "verdict", "category", "problem"]
    assert [r["image"] for r in rows] == sorted(
        ["good/broken.jpg", *(f"good/{i:03d}.png" for i in (8, 9, 10)), *(f"hole/{i:03d}.png" for i in (11, 12, 13))]
    )
    for row in rows:
        heatmap = photos / f"{row['image']}.heatmap.png"
        if row["image"] == "good/broken.jpg":
            assert row["verdict"] == "unreadable" and "broken.jpg" in row["problem"] and not row["score"]
            assert not heatmap.exists()
        else:
            assert row["verdict"] == ("anomalous" if float(row["score"]) > float(row["threshold"]) else "normal")
            assert not row["problem"] and Image.open(heatmap).size[0] > 400


def test_predict_writes_maps_masks_and_overlays_which_no_reader_takes_for_images(tree, checkpoint, capsys):
    photos = tree / "bolt" / "test"
    wide = photos / "hole" / "wide.webp"
    Image.open(photos / "hole" / "011.png").resize((100, 70)).save(wide, lossless=True)
    options = ["--save", "map", "mask", "overlay", "--threshold", "0.001", "--format", "json"]
    assert main(["predict", str(checkpoint), str(photos), "--out", str(photos), *options]) == 0
    rows = json.loads((photos / "scores.json").read_text())
    assert len(rows) == 7 and all(r["verdict"] == "anomalous" and r["threshold"] == 0.001 for r in rows)
    row = next(r for r in rows if r["image"] == "hole/wide.webp")
    anomaly_map, mask, overlay = (
        np.asarray(Image.open(f"{wide}{end}")) for end in (".map.tiff", ".mask.png", ".overlay.png")
    )
    assert anomaly_map.shape == mask.shape == (70, 100) and overlay.shape == (70, 100, 3)
    assert anomaly_map.max() > row["score"] > 0 and mask.all()
    limit = round(row["score"] / 2, 3)
    assert main(["predict", str(checkpoint), str(wide), "--out", "half", "--threshold", f"{limit}", *options[:4]]) == 0
    mask, shown = (np.asarray(Image.open(f"half/wide.webp{end}")) for end in (".mask.png", ".overlay.png"))
    assert np.array_equal(mask > 0, anomaly_map > limit) and 0 < (mask > 0).mean() < 1
    assert np.array_equal(shown, overlay_of(np.asarray(Image.open(wide).convert("RGB")), anomaly_map, 2 * limit))
    between = (anomaly_map.max() + row["score"]) / 2  # the score is a mean of 16 x 16 pixels, of which one may pass it
    assert main(["predict", str(checkpoint), str(wide), "--out", "one", "--threshold", f"{between}", *options[:4]]) == 0
    assert not np.asarray(Image.open("one/wide.webp.mask.png")).any() and scores(Path("one"))[0]["verdict"] == "normal"
    for bad in ("nan", "inf", "0"):
        assert main(["predict", str(checkpoint), str(wide), "--threshold", bad]) == 2
        assert "A threshold is a positive number" in capsys.readouterr().err
    (photos / "notes.txt").write_text("no image")
    capsys.readouterr()
    assert main(["predict", str(checkpoint), str(photos), "--out", "again"]) == 0
    captured = capsys.readouterr()
    assert "Not read as images in" in captured.err and "1 (notes.txt)" in captured.err  # not what we wrote
    assert len(scores(Path("again"))) == 7
    wide.unlink()  # it has no mask
    assert len(read_folder(tree, "bolt").test) == 6


def test_predict_one_image_with_the_threshold_asked_for(home, tree, checkpoint):
    image = tree / "felt" / "test" / "hole" / "011.png"
    trained = load_checkpoint(checkpoint, "cpu")
    trained.thresholds = {"bolt": 1e6, "felt": 1e-6, "all": 1e6}
    save_checkpoint(trained, checkpoint)
    for category, verdict in (("felt", "anomalous"), ("bolt", "normal"), ("all", "anomalous")):  # felt is found
        assert main(["predict", str(checkpoint), str(image), "--out", category, "--category", category]) == 0
        (row,) = scores(home / category)
        assert row["image"] == "011.png" and row["verdict"] == verdict
        assert row["category"] == ("felt" if category == "all" else category)
        assert float(row["threshold"]) == trained.thresholds[row["category"]]
        assert (home / category / "011.png.heatmap.png").exists()


def test_an_interrupted_prediction_leaves_the_scores_that_it_had(home, tree, checkpoint, stop_at):
    command = ["predict", str(checkpoint), str(tree / "bolt" / "test"), "--out"]
    assert main([*command, "whole"]) == 0
    stop_at(detector, "Result", 3, KeyboardInterrupt)  # on the third image
    assert main([*command, "out"]) == 130
    assert scores(home / "out") == scores(home / "whole")[:2]


def test_only_good_photographs_train_and_predict(home, tree, tiny_yaml, capsys):
    for folder in ("test", "ground_truth"):
        shutil.rmtree(tree / "bolt" / folder)
    shutil.rmtree(tree / "felt")
    assert main(["train", "--config", str(tiny_yaml), "--data", str(tree)]) == 0
    assert "No test images" in capsys.readouterr().out
    checkpoint = next(home.glob("build/runs/*/checkpoint.pt"))
    assert main(["predict", str(checkpoint), str(tree / "bolt"), "--out", "out"]) == 0
    assert {r["verdict"] for r in scores(home / "out")} <= {"normal", "anomalous"} and len(scores(home / "out")) == 8


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (KeyboardInterrupt(), 130, "interrupted; run the same command again"),
        (MemoryError(), 2, "There is not enough memory: use smaller images"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 2, "There is not enough memory"),
        (PermissionError(13, "Permission denied", "photos"), 2, "Cannot use 'photos' (Permission denied)"),
    ],
)
def test_what_stops_a_command_is_one_sentence(monkeypatch, capsys, error, code, says):
    monkeypatch.setattr("dumenet.data.check_folder", Mock(side_effect=error))
    assert main(["data", "check", "photos"]) == code
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"dumenet: {says}")
    monkeypatch.setattr("dumenet.data.check_folder", Mock(side_effect=RuntimeError("mat1 and mat2 shapes")))
    with pytest.raises(RuntimeError, match="mat1"):  # a fault of ours stays one
        main(["data", "check", "photos"])


def test_a_reader_that_has_seen_enough_is_no_error():
    code = "import sys; from dumenet.cli import main; sys.exit(main(['doctor', '--freeze']))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait(60) == 141


@pytest.fixture
def explorer(home, monkeypatch):
    """The commands and environments that `dumenet explore` was to become; nothing is started."""
    (home / "notebooks").mkdir()
    lesson = Path(__file__).parents[1] / "notebooks" / "12_explorer.ipynb"
    (home / "notebooks" / lesson.name).write_bytes(lesson.read_bytes())
    started = []
    monkeypatch.setattr("os.execve", lambda _, *call: started.append(call))
    return started


def test_explore_becomes_a_server_for_this_machine_alone(home, explorer, monkeypatch, capsys):
    monkeypatch.setenv("JUPYTER_TOKEN", "secret")
    assert main(["explore", "--no-browser"]) == 0
    app, lab = [line.split()[-1] for line in capsys.readouterr().out.splitlines()[-2:]]
    assert "/voila/render/build/explorer.ipynb?token=secret" in app and "/lab/tree/notebooks/" in lab
    monkeypatch.delenv("JUPYTER_TOKEN")
    for _ in range(2):
        assert main(["explore", "--no-browser"]) == 0
    first, *new = [environment["JUPYTER_TOKEN"] for _, environment in explorer]
    assert first == "secret" and len(set(new)) == 2 and min(map(len, new)) >= 32  # each time another
    for command, environment in explorer:
        assert "--ServerApp.ip=127.0.0.1" in command and f"--ServerApp.root_dir={home}" in command
        assert not any(word in " ".join(command) for word in (environment["JUPYTER_TOKEN"], "token=''", "disable"))


def test_the_app_is_the_lessons_cells_for_it_and_no_more(home, explorer):
    (home / "photos").mkdir()
    assert main(["explore", "--no-browser", "--data", "photos", "--category", "bolt"]) == 0
    title, parameters, given, *cells = nbformat.read(home / "build" / "explorer.ipynb", 4).cells
    assert (
        given.source == f"data = {str(home / 'photos')!r}\ncategories = ['bolt']\n"
        and 'data = "factory"' in parameters.source
    )
    assert cells[-1].source.endswith("\napp") and not any("plots.show" in cell.source for cell in cells)
    (home / "notebooks" / "12_explorer.ipynb").write_text("{}")
    assert main(["explore"]) == 2


def test_explore_says_why_not(home, explorer, capsys):
    assert main(["explore", "--port", "80000"]) == 2
    assert "Port 80000" in capsys.readouterr().err
    shutil.rmtree(home / "notebooks")
    assert main(["explore"]) == 2 and not explorer
    assert "run this in a clone of the project" in capsys.readouterr().err


@pytest.mark.parametrize("given", [None, "7"])
def test_threads_spin_for_less_time_unless_the_user_says_otherwise(given, monkeypatch):
    """And it is set while torch, which reads it, is not yet imported."""
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    if given:
        monkeypatch.setenv("GOMP_SPINCOUNT", given)
    code = "import dumenet, os, sys; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == [given or "10000", "False"]


def test_results_without_the_tag_are_named_by_theirs(tmp_path, capsys):
    write_result(tmp_path / "one.json", {"tag": "real5"})
    assert main(["table", "--results", str(tmp_path)]) == 2
    assert "no results without a tag: choose by --tag. Tags: real5." in capsys.readouterr().err
