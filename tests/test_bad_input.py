"""Bad input, through the command line: exit code 2 and one sentence that names the culprit."""

import os
import re
import shutil

import nbformat
import numpy as np
import pytest
import torch
from conftest import write
from PIL import Image

from dumenet.cli import main

TRAIN = "train --config tiny.yaml --data photos"
PREDICT = "predict checkpoint.pt photos"


def text(path, content):
    """Something that writes a file."""

    def put(home):
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_bytes(content.encode() if isinstance(content, str) else content)

    return put


def gone(path):
    """Something that removes a file or a folder."""

    def remove(home):
        shutil.rmtree(home / path) if (home / path).is_dir() else (home / path).unlink()

    return remove


def empty_folder(home):
    (home / "empty").mkdir()


def small_mask(home):
    write(home / "photos/bolt/ground_truth/hole/011_mask.png", np.full((32, 40), 255, np.uint8))


def truncated(home):
    path = home / "photos/felt/train/good/003.png"
    path.write_bytes(path.read_bytes()[:300])


def huge(home):
    Image.new("1", (20_000, 20_000)).save(home / "photos/felt/train/good/003.png")


def foreign_checkpoint(home):
    torch.save({"state_dict": {"weight": torch.zeros(2)}}, home / "checkpoint.pt")


def checkpoint(home):
    """A real one, whose thresholds know bolt and felt."""
    assert main(TRAIN.split()) == 0
    shutil.copy(next(home.glob("build/runs/*/checkpoint.pt")), home / "checkpoint.pt")


def lesson(home):
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    notebook.cells = [nbformat.v4.new_code_cell('profile = "quick"\nepochs = 2', metadata={"tags": ["parameters"]})]
    (home / "notebooks").mkdir()
    nbformat.write(notebook, home / "notebooks" / "00_start.ipynb")


def untagged_lesson(home):
    lesson(home)
    path = home / "notebooks" / "00_start.ipynb"
    path.write_text(path.read_text().replace('"parameters"', '"other"'))


def kernelless_lesson(home):
    lesson(home)
    path = home / "notebooks" / "00_start.ipynb"
    path.write_text(path.read_text().replace("kernelspec", "other"))


def no_space(home):
    """The folder for checkpoints cannot be made."""
    text("build/runs", "a file")(home)


CASES = {  # what is wrong: (what to do first, the command, the culprit that the sentence names)
    "missing data folder": (None, "train --config tiny.yaml --data nowhere", "nowhere"),
    "missing folder to check": (None, "data check nowhere", "nowhere"),
    "missing folder to index": (None, "data index nowhere", "nowhere"),
    "empty folder": (empty_folder, "train --config tiny.yaml --data empty", "empty"),
    "category without training images": (gone("photos/bolt/train"), f"{TRAIN} --category bolt", "train/good"),
    "text in an image file": (text("photos/felt/train/good/003.png", "hello"), TRAIN, "003.png"),
    "zero-byte image": (text("photos/felt/train/good/003.png", ""), TRAIN, "003.png"),
    "truncated image": (truncated, TRAIN, "003.png"),
    "decompression bomb": (huge, TRAIN, "003.png"),
    "zero-byte test image": (text("photos/felt/test/hole/012.png", ""), TRAIN, "012.png"),
    "mask of wrong size": (small_mask, TRAIN, "011_mask.png is 40 x 32"),
    "missing mask": (gone("photos/bolt/ground_truth/hole/012_mask.png"), TRAIN, "012_mask.png"),
    "broken mask": (text("photos/bolt/ground_truth/hole/012_mask.png", "?"), TRAIN, "012_mask.png"),
    "broken index": (text("photos/train.json", '{"filename": 3}\n'), TRAIN, "train.json line 1"),
    "index of a missing file": (
        text("photos/train.json", '{"filename": "a.png", "label": 0, "label_name": "good", "clsname": "a"}\n'),
        TRAIN, "a.png",
    ),
    "unknown category": (None, f"{TRAIN} --category bold", "did you mean 'bolt'"),
    "unknown setting": (None, f"{TRAIN} --set train.epoch=3", "did you mean 'epochs'"),
    "unknown section": (None, f"{TRAIN} --set trian.epochs=3", "did you mean 'train'"),
    "setting without section": (None, f"{TRAIN} --set epochs=3", "'epochs'"),
    "setting without =": (None, f"{TRAIN} --set train.epochs", "'train.epochs'"),
    "value that is no YAML": (None, f"{TRAIN} --set train.epochs=[", "train.epochs"),
    "wrong type": (None, f"{TRAIN} --set train.epochs=many", "config.train.epochs"),
    "out of range": (None, f"{TRAIN} --set train.lr=-1", "config.train.lr"),
    "negative seed": (None, f"{TRAIN} --seed -1", "config.train.seed"),
    "unknown choice": (None, f"{TRAIN} --set model.fusion_mode=gat", "did you mean 'gate'"),
    "unknown pooling": (None, f"{TRAIN} --set evaluation.pooling=maximum", "did you mean 'max'"),
    "heads that do not fit": (None, f"{TRAIN} --set model.hidden_dim=15", "config.model.hidden_dim"),
    "mask that hides everything": (
        None, f"{TRAIN} --set model.neighbour_mask=[encoder] model.neighbour_size=7", "7 x 7",
    ),
    "unknown split": (None, "train --config tiny.yaml --data digits --set data.normals=01239a", "01239a"),
    "bad YAML": (text("bad.yaml", "train: [1"), "train --config bad.yaml", "bad.yaml"),
    "YAML that would run something": (
        text("bad.yaml", "data: !!python/object/apply:os.mkdir [owned]"), "train --config bad.yaml", "bad.yaml",
    ),
    "YAML that is a list": (text("bad.yaml", "- 1"), "train --config bad.yaml --data photos", "bad.yaml"),
    "YAML in another encoding": (text("bad.yaml", "a: ä".encode("utf-16")), "train --config bad.yaml", "bad.yaml"),
    "missing YAML": (None, "train --config nowhere.yaml", "nowhere.yaml"),
    "unknown configuration": (None, "train --config mvtec", "did you mean 'mvtec_ad'"),
    "unknown backbone": (None, f"{TRAIN} --set features.backbone=tf_efficientnet_lite", "tf_efficientnet_lite0"),
    "stage out of range": (None, f"{TRAIN} --set features.stages=[0,9]", "[0, 9]"),
    "missing weights": (None, f"{TRAIN} --set features.weights=nowhere.pt", "nowhere.pt"),
    "image smaller than the pooling window": (None, f"{TRAIN} --set features.image_size=8", "16 x 16"),
    "unknown device": (None, f"{TRAIN} --set train.device=gpu", "'gpu'"),
    "no place for results": (no_space, TRAIN, "build/runs"),
    "missing checkpoint": (None, PREDICT, "checkpoint.pt"),
    "missing checkpoint to evaluate": (None, "evaluate nowhere.pt", "nowhere.pt"),
    "zero-byte checkpoint": (text("checkpoint.pt", ""), PREDICT, "checkpoint.pt"),
    "foreign checkpoint": (foreign_checkpoint, PREDICT, "checkpoint.pt"),
    "checkpoint on an unknown device": (checkpoint, f"{PREDICT} --device gpu", "'gpu'"),
    "category that the checkpoint does not know": (checkpoint, f"{PREDICT} --category bold", "did you mean 'bolt'"),
    "fixed setting": (checkpoint, "evaluate checkpoint.pt --set model.heads=1", "model.heads"),
    "missing images": (checkpoint, "predict checkpoint.pt nowhere", "nowhere"),
    "no images": (lambda home: (checkpoint(home), empty_folder(home)), "predict checkpoint.pt empty", "empty"),
    "no results": (None, "table", "data/results"),
    "no results of that tag": (checkpoint, "table --tag none", "'none'"),
    "no lessons": (None, "reproduce", "notebooks"),
    "unknown lesson": (lesson, "reproduce --only 07", "'07'"),
    "unknown notebook parameter": (lesson, "reproduce -p epoch=3", "did you mean 'epochs'"),
    "notebook parameter without =": (lesson, "reproduce -p epochs", "'epochs'"),
    "notebook without a parameters cell": (untagged_lesson, "reproduce", "00_start.ipynb"),
    "notebook without a kernel": (kernelless_lesson, "reproduce", "00_start.ipynb"),
    "broken notebook": (lambda home: (lesson(home), text("notebooks/01_x.ipynb", "{")(home)), "reproduce", "01_x.ipynb"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_sentence(case, tree, tiny_yaml, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    prepare, command, culprit = CASES[case]
    if prepare:
        prepare(tmp_path)
    capfd.readouterr()
    assert main(command.split()) == 2
    error = capfd.readouterr().err
    assert "Traceback" not in error and "Warning" not in error
    # Progress bars are drawn on the same stream; they overwrite themselves and end before the sentence.
    lines = [x for x in re.split(r"[\r\n]+", error) if x.strip() and not re.search(r"\d+%\||it/s|\?it", x)]
    assert len(lines) == 1, error
    assert error.splitlines()[-1] == lines[0]
    assert re.fullmatch(r"dumenet: [^\n]{10,}\.", lines[0])
    assert culprit in lines[0]
    assert not os.path.exists("owned")


def test_unknown_words_of_the_command_itself(capsys):
    for words in (["trian"], ["train", "--epochs", "3"], ["reproduce", "--profile", "slow"], []):
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 2
