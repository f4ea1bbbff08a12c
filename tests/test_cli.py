"""The command line from end to end: what a stranger types, and what then lies on disk."""

import csv
import json
import shutil
import subprocess
import sys

import pytest
from conftest import TINY
from PIL import Image

from dumenet import predict
from dumenet.checkpoint import load_checkpoint, save_checkpoint
from dumenet.cli import _parser, main
from dumenet.errors import DumenetError
from dumenet.run import evaluate_checkpoint


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def checkpoint(home, tree, tiny_yaml, capsys):
    """A model trained on both categories."""
    assert main(["train", "--config", str(tiny_yaml), "--data", str(tree)]) == 0
    capsys.readouterr()
    return next(home.glob("build/runs/*/checkpoint.pt"))


def records(home):
    return [json.loads(p.read_text()) for p in sorted((home / "data" / "results").glob("*.json"))]


def scores(folder):
    with open(folder / "scores.csv", newline="") as file:
        return list(csv.DictReader(file))


COMMANDS = (
    "",
    "data",
    "data make",
    "data check",
    "data index",
    "train",
    "evaluate",
    "table",
    "predict",
    "export",
    "reproduce",
    "explore",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_examples(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    out = capsys.readouterr().out
    assert stop.value.code == 0
    assert f"\nexamples:\n  dumenet {command}" in out


def test_check_lists_every_problem(home, tree, capsys):
    assert main(["data", "check", str(tree)]) == 0
    assert "is clean" in capsys.readouterr().out
    (tree / "bolt" / "train" / "good" / "000.png").write_bytes(b"")
    (tree / "felt" / "ground_truth" / "hole" / "011_mask.png").unlink()
    assert main(["data", "check", str(tree)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and "000.png" in lines[0] and "011.png" in lines[1] and lines[2].startswith("2 problem(s)")


def test_index_is_read_back(home, tree, tiny_yaml, capsys):
    assert main(["data", "index", str(tree)]) == 0
    assert len((tree / "train.json").read_text().splitlines()) == 16
    assert len((tree / "test.json").read_text().splitlines()) == 12
    assert main(["train", "--config", str(tiny_yaml), "--data", str(tree), "--category", "felt"]) == 0
    assert records(home)[0]["data"]["train"] == 8


def test_train_reports_and_is_done_once(home, tree, tiny_yaml, capsys):
    command = ["train", "--config", str(tiny_yaml), "--data", str(tree)]
    assert main(command) == 0
    out = capsys.readouterr().out
    (record,) = records(home)
    assert set(record["metrics"]["per_category"]) == {"bolt", "felt"}
    for word in ("image AUROC", "PRO", "bolt", "felt", "mean", "pooled", record["files"]["checkpoint"]):
        assert word in out
    assert f"{record['metrics']['mean']['image_auroc']:.4f}" in out
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
    assert len(list(home.glob("build/runs/*/checkpoint.pt"))) == 4
    assert len(list(home.glob("build/cache/*"))) == 1  # one cache serves them all
    capsys.readouterr()
    assert main(["table"]) == 0
    out = capsys.readouterr().out
    rows = out.splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == ["bolt: dumenet", "felt: dumenet"]
    assert all(row.endswith("| 2 |") and row.count("±") for row in rows)


def test_runs_that_differ_in_how_they_were_trained_have_rows_of_their_own(home, tree, tiny_yaml, capsys):
    command = ["train", "--config", str(tiny_yaml), "--data", str(tree), "--category", "bolt"]
    for settings in (["train.schedule=onecycle"], ["train.recipe=paper", "train.epochs=1"]):
        assert main([*command, "--set", *settings]) == 0
    capsys.readouterr()
    assert main(["table"]) == 0
    rows = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines()[2:]]
    assert len(rows) == 2
    assert [("schedule onecycle" in row, "recipe paper" in row, "lr" in row) for row in rows] in (
        [(True, False, False), (False, True, False)], [(False, True, False), (True, False, False)],
    )  # fmt: skip


def test_an_option_given_twice_counts_twice(home, tree, tiny_yaml, capsys):
    words = "--seed 3 --seed 4 --category bolt --category felt --set train.epochs=1 --set model.memory_mode=channel"
    assert main(["train", "--config", str(tiny_yaml), "--data", str(tree), *words.split()]) == 0
    found = records(home)
    assert [r["seed"] for r in found] == [3, 4] and set(found[0]["metrics"]["per_category"]) == {"bolt", "felt"}
    assert found[0]["config"]["train"]["epochs"] == 1 and found[0]["config"]["model"]["memory_mode"] == "channel"
    lessons = _parser().parse_args(
        [
            "reproduce",
            *[
                "--only",
                "00",
                "--only",
                "01",
                "02",
                "--method",
                "US",
                "--method",
                "MKD",
                "--seed",
                "1",
                "--seed",
                "2",
                "3",
            ],
        ]
    )
    assert (lessons.only, lessons.method, lessons.seed) == (["00", "01", "02"], ["US", "MKD"], [1, 2, 3])


def test_a_folder_of_its_name_does_not_hide_a_configuration(home, tree):
    (home / "cifar10").mkdir()
    tiny = [f"{part}.{k}={json.dumps(v)}" for part, values in TINY.items() for k, v in values.items()]
    assert main(["train", "--config", "cifar10", "--data", str(tree), "--set", *tiny]) == 0
    assert records(home)[0]["config"]["model"]["dropout"] == 0.1  # the paper's


def test_a_slash_at_the_end_of_a_folder_is_no_other_run(home, tree, tiny_yaml, capsys):
    for data in (["--data", "photos"], ["--data", "photos/"], ["--set", "data.source=./photos"]):
        assert main(["train", "--config", str(tiny_yaml), *data]) == 0
    assert len(records(home)) == 1 and records(home)[0]["config"]["data"]["source"] == "photos"
    assert main(["train", "--config", str(tiny_yaml), "--data", "./factory"]) == 2  # a folder, and not what is embedded
    assert "no folder factory" in capsys.readouterr().err


def test_runs_whose_difference_a_row_leaves_out_are_told_apart(home, tree, tiny_yaml, capsys):
    command = ["train", "--config", str(tiny_yaml), "--data", str(tree), "--category", "bolt"]
    assert main([*command, "--seed", "0", "1"]) == 0
    assert main([*command, "--set", "evaluation.bootstrap=10", "data.seed=3"]) == 0
    capsys.readouterr()
    assert main(["table"]) == 0
    rows = {line.split("|")[1].strip(): line for line in capsys.readouterr().out.splitlines()[2:]}
    first, second = sorted(rows)
    assert first.endswith("dumenet, bootstrap 20") and rows[first].endswith("| 2 |")
    assert second.endswith("dumenet, data.seed 3, bootstrap 10") and rows[second].endswith("| 1 |")
    path = min((home / "data" / "results").glob("*.json"))
    shutil.copy(path, path.with_name("copy.json"))
    assert main(["table"]) == 2
    assert "Two records for bolt: dumenet" in capsys.readouterr().err


def test_what_is_not_defined_is_said(home, tree, tiny_yaml, capsys):
    shutil.rmtree(tree / "felt" / "test" / "hole")
    shutil.rmtree(tree / "felt" / "ground_truth")
    assert main(["train", "--config", str(tiny_yaml), "--data", str(tree)]) == 0
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("felt")]
    assert line.count("not defined") == 7


def test_evaluate_again(home, tree, checkpoint, capsys):
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


def test_predict_a_folder_with_a_broken_image(home, tree, checkpoint, capsys):
    photos = home / "new"
    shutil.copytree(tree / "bolt" / "test", photos)
    (photos / "good" / "broken.jpg").write_bytes(b"not an image")
    (photos / "notes.txt").write_text("not looked at")
    assert main(["predict", str(checkpoint), str(photos), "--out", "out"]) == 2
    captured = capsys.readouterr()
    assert "dumenet: 1 of 7 images could not be read" in captured.err and "Traceback" not in captured.err
    rows = scores(home / "out")
    assert list(rows[0]) == ["image", "score", "threshold", "verdict", "category", "problem"]
    assert [r["image"] for r in rows] == sorted(
        ["good/broken.jpg", *(f"good/{i:03d}.png" for i in (8, 9, 10)), *(f"hole/{i:03d}.png" for i in (11, 12, 13))]
    )
    for row in rows:
        heatmap = home / "out" / f"{row['image']}.heatmap.png"
        if row["image"] == "good/broken.jpg":
            assert row["verdict"] == "unreadable" and "broken.jpg" in row["problem"] and not row["score"]
            assert not heatmap.exists()
        else:
            assert row["verdict"] == ("anomalous" if float(row["score"]) > float(row["threshold"]) else "normal")
            assert not row["problem"] and Image.open(heatmap).size[0] > 400


def test_predict_scores_like_the_evaluation(home, tree, checkpoint, capsys):
    """The way without labels and cache ends at the same numbers, but for the cache's fp16."""
    outcome = evaluate_checkpoint(checkpoint, {})
    assert main(["predict", str(checkpoint), str(tree), "--out", "out"]) == 0
    found = {r["image"]: float(r["score"]) for r in scores(home / "out")}
    for sample, score in zip(outcome.test.samples, outcome.scores.image):
        assert found[sample.name] == pytest.approx(score, rel=0.01)


def test_predict_one_image_with_the_threshold_asked_for(home, tree, checkpoint, capsys):
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


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (DumenetError("No space."), 2)])
def test_an_interrupted_prediction_leaves_the_scores_that_it_had(home, tree, checkpoint, stop_at, error, code):
    command = ["predict", str(checkpoint), str(tree / "bolt" / "test"), "--out"]
    assert main([*command, "whole"]) == 0
    stop_at(predict, "_overlay", 3, error)
    assert main([*command, "out"]) == code
    assert scores(home / "out") == scores(home / "whole")[:3]


def test_predict_into_the_folder_of_images_can_be_repeated(home, tree, checkpoint, capsys):
    photos = tree / "bolt" / "test"
    for _ in range(2):
        assert main(["predict", str(checkpoint), str(photos), "--out", str(photos)]) == 0
        assert len(scores(photos)) == 6


def test_only_good_photographs_train_and_predict(home, tree, tiny_yaml, capsys):
    for folder in ("test", "ground_truth"):
        shutil.rmtree(tree / "bolt" / folder)
    shutil.rmtree(tree / "felt")
    assert main(["train", "--config", str(tiny_yaml), "--data", str(tree)]) == 0
    assert "No test images" in capsys.readouterr().out
    checkpoint = next(home.glob("build/runs/*/checkpoint.pt"))
    assert main(["predict", str(checkpoint), str(tree / "bolt"), "--out", "out"]) == 0
    assert {r["verdict"] for r in scores(home / "out")} <= {"normal", "anomalous"} and len(scores(home / "out")) == 8


def test_of_a_single_image_there_is_no_verdict(home, tree, tiny_yaml, capsys):
    for image in sorted((tree / "bolt" / "train" / "good").iterdir())[1:]:
        image.unlink()
    command = ["train", "--config", str(tiny_yaml), "--data", str(tree), "--category", "bolt"]
    assert main([*command, "--set", "train.holdout=0"]) == 0
    checkpoint = next(home.glob("build/runs/*/checkpoint.pt"))
    assert main(["predict", str(checkpoint), str(tree / "bolt" / "test" / "good"), "--out", "out"]) == 0
    assert {(r["verdict"], r["threshold"]) for r in scores(home / "out")} == {("no threshold", "")}


def test_interruption_is_one_line(home, tree, tiny_yaml, monkeypatch, capsys):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("dumenet.methods.network.train", stop)
    assert main(["train", "--config", str(tiny_yaml), "--data", str(tree)]) == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("dumenet: interrupted; run the same command again")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "There is not enough memory: use smaller images"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "There is not enough memory"),
        (PermissionError(13, "Permission denied", "photos"), "Cannot use photos (Permission denied)"),
    ],
)
def test_what_the_machine_refuses_is_one_sentence(home, tree, tiny_yaml, monkeypatch, capsys, error, says):
    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr("dumenet.methods.network.train", refuse)
    assert main(["train", "--config", str(tiny_yaml), "--data", str(tree)]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"dumenet: {says}")


def test_an_error_of_our_own_stays_one(home, tree, tiny_yaml, monkeypatch):
    def slip(*args, **kwargs):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr("dumenet.methods.network.train", slip)
    with pytest.raises(RuntimeError, match="mat1"):
        main(["train", "--config", str(tiny_yaml), "--data", str(tree)])


def test_a_reader_that_has_seen_enough_is_no_error(home):
    code = "import sys; from dumenet.cli import main; sys.exit(main(['doctor', '--freeze']))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait(60) == 141


def test_explore_becomes_a_server_for_this_machine_alone(home, monkeypatch, capsys):
    (home / "notebooks").mkdir()
    (home / "notebooks" / "12_explorer.ipynb").write_text("{}")
    monkeypatch.setenv("JUPYTER_TOKEN", "secret")
    started = []
    monkeypatch.setattr("os.execve", lambda *call: started.append(call))
    assert main(["explore", "--no-browser"]) == 0
    _, command, environment = started[0]
    assert "--ServerApp.ip=127.0.0.1" in command and f"--ServerApp.root_dir={home}" in command
    assert environment["JUPYTER_TOKEN"] == "secret" and not any("secret" in word for word in command)
    app, lab = [line.split()[-1] for line in capsys.readouterr().out.splitlines()[-2:]]
    assert "/voila/render/notebooks/12_explorer.ipynb?token=secret" in app and "/lab/tree/notebooks/" in lab


@pytest.mark.parametrize(("port", "message"), [("80000", "Port 80000"), ("-1", "Port -1")])
def test_explore_says_why_not(home, port, message, capsys):
    assert main(["explore"]) == 2
    assert "run this in a clone of the project" in capsys.readouterr().err
    (home / "notebooks").mkdir()
    (home / "notebooks" / "12_explorer.ipynb").write_text("{}")
    assert main(["explore", "--port", port]) == 2
    assert message in capsys.readouterr().err
