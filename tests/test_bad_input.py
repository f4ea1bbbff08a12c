"""Bad input, through the command line: exit code 2 and one sentence that names the culprit.

Three tables: CASES are refused, REPORTED is what `data check` tells of images that can be read as well, VALID looks odd
and is read right.
"""

import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import zlib

import nbformat
import numpy as np
import pytest
import timm
import torch
from conftest import TINY, write
from PIL import Image

from dumenet.cli import main
from dumenet.data import Sample, load_image, load_mask
from dumenet.data.cifar import CLASSES
from dumenet.train import load_checkpoint, save_checkpoint

TRAIN = "train --config tiny.yaml --data photos"
PREDICT = "predict checkpoint.pt photos"
FELT, MASK = "photos/felt/train/good", "photos/bolt/ground_truth/hole"
LONG = "a" * 5000
NOISE = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)


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


def image(path, array, **options):
    """Something that saves an array as an image."""

    def put(home):
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(home / path, **options)

    return put


def halved(path):
    """Something that cuts a file short."""
    return lambda home: os.truncate(home / path, (home / path).stat().st_size // 2)


def link(path, target):
    """Something that puts a symbolic link in the place of what is there."""

    def put(home):
        if (home / path).exists():
            gone(path)(home)
        (home / path).symlink_to(target)

    return put


def copy(source, target):
    """Something that copies a file."""
    return lambda home: shutil.copy(home / source, home / target)


def both(*steps):
    """Several of them, one after the other."""
    return lambda home: [step(home) for step in steps]


class Runs:
    """A pickle that would make a folder when it is loaded."""

    def __reduce__(self):
        return os.mkdir, ("owned",)


def torch_file(path, content):
    """Something that writes a file of torch's."""
    return lambda home: torch.save(content(), home / path)


def weights(value):
    """Weights of the tiny backbone with one number exchanged."""

    def state():
        tensors = timm.create_model(TINY["features"]["backbone"], pretrained=False).state_dict()
        tensors["conv_stem.weight"][0, 0, 0, 0] = value
        return tensors

    return state


def spoilt(change):
    """A real checkpoint with something changed in it."""

    def spoil(home):
        checkpoint(home)
        trained = load_checkpoint(home / "checkpoint.pt", "cpu")
        change(trained)
        save_checkpoint(trained, home / "checkpoint.pt")

    return spoil


def diverge(trained):
    next(trained.model.parameters()).data.fill_(float("nan"))


def indexed(*changes):
    """The folder's own index, with the first line of train.json changed; a change to None takes the field away."""

    def put(home):
        assert main(["data", "index", "photos"]) == 0
        lines = (home / "photos" / "train.json").read_text().splitlines()
        first = [{k: v for k, v in (json.loads(lines[0]) | change).items() if v is not None} for change in changes]
        (home / "photos" / "train.json").write_text("\n".join([json.dumps(row) for row in first] + lines[1:]))

    return put


def tar(*members, cut=None, flip=None):
    """Something that writes tars/train.tar.gz of (name, content or size) members."""

    def put(home):
        (home / "tars").mkdir()
        path = home / "tars" / "train.tar.gz"
        with tarfile.open(path, "w:gz", compresslevel=1) as archive:
            for name, content in members:
                info = tarfile.TarInfo(name)
                info.size = content if isinstance(content, int) else len(content)
                archive.addfile(info, Zeros() if isinstance(content, int) else io.BytesIO(content))
        data = bytearray(path.read_bytes())
        if flip:
            data[flip] ^= 255
        path.write_bytes(data[:cut])

    return put


class Zeros:
    """A file of nothing but zeros."""

    def read(self, size):
        return bytes(size)


def header_bomb(home):
    """A member's long name alone is said to be 300 MB."""
    (home / "tars").mkdir()
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 300_000_000
    (home / "tars" / "train.tar").write_bytes(info.tobuf() + bytes(1024))


def png(size):
    """Bytes of a black image."""
    buffer = io.BytesIO()
    Image.new("L", (size, size)).save(buffer, "PNG")
    return buffer.getvalue()


def eps(home):
    Image.new("RGB", (64, 64)).save(home / FELT / "003.eps")
    (home / FELT / "003.eps").rename(home / FELT / "003.png")


def odd_name(name):
    """Something that gives an image a name that not every disk can hold."""

    def put(home):
        try:
            shutil.copy(home / FELT / "003.png", os.path.join(os.fsencode(home / FELT), name))
        except OSError:
            pytest.skip("this disk refuses such a name by itself")

    return put


def aliases(home):
    """Nine lines of YAML that stand for 9 ** 9 words."""
    lines = ["train:", "- &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"- &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi")]
    (home / "bad.yaml").write_text("\n".join(lines))


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
    notebook.cells = [nbformat.v4.new_code_cell('profile = "quick"\nepochs = 2\ncategories = ["cap"]', metadata={"tags": ["parameters"]})]
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
    "test images of a category that is not trained": (gone("photos/bolt/train"), TRAIN, "Category bolt"),
    "image that is a program's input": (eps, TRAIN, "003.png"),
    "pixels that are NaN": (image(f"{FELT}/9.tif", np.full((9, 9), np.nan, np.float32)), TRAIN, "9.tif holds pixels"),
    "pixels that are infinite": (image(f"{FELT}/9.tif", np.full((9, 9), np.inf, np.float32)), TRAIN, "9.tif"),
    "JPEG cut short": (both(image(f"{FELT}/9.jpg", NOISE), halved(f"{FELT}/9.jpg")), TRAIN, "9.jpg"),
    "BMP cut short": (both(image(f"{FELT}/9.bmp", NOISE), halved(f"{FELT}/9.bmp")), TRAIN, "9.bmp"),
    "TIFF cut short": (both(image(f"{FELT}/9.tif", NOISE), halved(f"{FELT}/9.tif")), TRAIN, "9.tif"),
    "link to nothing": (link(f"{FELT}/003.png", "nothing.png"), TRAIN, "003.png"),
    "link to itself": (link(f"{FELT}/003.png", "003.png"), TRAIN, "003.png"),
    "two links to each other": (both(link(f"{FELT}/a.png", "b.png"), link(f"{FELT}/b.png", "a.png")), TRAIN, "a.png"),
    "mask that links to itself": (link(f"{MASK}/012_mask.png", "012_mask.png"), TRAIN, "012_mask.png"),
    "category that links to itself": (link("photos/felt", "felt"), f"{TRAIN} --category felt", "'felt'"),
    "data folder that links to itself": (link("loop", "loop"), "data check loop", "loop"),
    "name with a line break": (odd_name(b"a\nb.png"), TRAIN, "a\\nb.png"),
    "name that is no UTF-8": (odd_name(b"\xff.png"), TRAIN, "udcff.png"),
    "very long data folder": (None, f"train --config tiny.yaml --data {LONG}", "aaa"),
    "very long image folder": (checkpoint, f"predict checkpoint.pt {LONG}", "aaa"),
    "very long checkpoint": (None, f"predict {LONG} photos", "aaa"),
    "very long configuration": (None, f"train --config {LONG}.yaml", "aaa"),
    "very long setting": (None, f"{TRAIN} --set train.{LONG}=3", "aaa"),
    "very long tag": (None, f"{TRAIN} --tag {LONG}", "tag"),
    "tag that leads into another folder": (None, f"{TRAIN} --tag a/b", "'a/b'"),
    "empty mask": (image(f"{MASK}/012_mask.png", np.zeros((64, 64), np.uint8)), TRAIN, "012_mask.png is empty"),
    "mask off by one pixel": (
        image(f"{MASK}/012_mask.png", np.full((63, 64), 255, np.uint8)), TRAIN, "012_mask.png is 64 x 63",
    ),
    "transparent mask": (
        image(f"{MASK}/012_mask.png", np.full((64, 64, 4), (255, 255, 255, 0), np.uint8)), TRAIN, "012_mask.png is empty",
    ),
    "index without labels": (indexed({"label": None}), TRAIN, "train.json line 1"),
    "index with a label that is no label": (indexed({"label": 2}), TRAIN, "train.json line 1"),
    "index with half a label": (indexed({"label": 0.5}), TRAIN, "train.json line 1"),
    "index with an infinite label": (indexed({"label": float("inf")}), TRAIN, "train.json line 1"),
    "index without a kind": (indexed({"label_name": None}), TRAIN, "train.json line 1"),
    "index that names a folder above": (indexed({"filename": "../tiny.yaml"}), TRAIN, "train.json line 1"),
    "index that names a file elsewhere": (indexed({"filename": "/etc/hostname"}), TRAIN, "train.json line 1"),
    "index that names an image twice": (indexed({}, {}), TRAIN, "twice"),
    "index nested too deep": (text("photos/train.json", '{"filename":' + "[" * 100_000), TRAIN, "train.json line 1"),
    "index that is no text": (text("photos/train.json", bytes(range(256))), TRAIN, "train.json line 1"),
    "tag that calls a function": (
        text("bad.yaml", "train: !!python/object/new:os.mkdir [owned]"), "train --config bad.yaml", "bad.yaml",
    ),
    "tag that names a class": (text("bad.yaml", "train: !!python/name:os.mkdir"), "train --config bad.yaml", "bad.yaml"),
    "tag that imports": (text("bad.yaml", "train: !!python/module:this"), "train --config bad.yaml", "bad.yaml"),
    "tag on the command line": (None, f"{TRAIN} --set train.epochs=!!python/name:os.mkdir", "train.epochs"),
    "tag of one's own": (text("bad.yaml", "train: !mine 3"), "train --config bad.yaml", "bad.yaml"),
    "key given twice": (text("bad.yaml", "train: {epochs: 1}\ntrain: {lr: 1}"), "train --config bad.yaml", "'train'"),
    "YAML nested too deep": (text("bad.yaml", "train: " + "[" * 5000), "train --config bad.yaml", "bad.yaml"),
    "value nested too deep": (None, f"{TRAIN} --set train.epochs={'[' * 2000}", "train.epochs"),
    "YAML that grows when shown": (aliases, "train --config bad.yaml", "config.train"),
    "YAML that holds itself": (text("bad.yaml", "train: &a [*a]"), "train --config bad.yaml", "config.train"),
    "number for a section": (text("bad.yaml", "train: 5"), "train --config bad.yaml", "config.train"),
    "list for a number": (text("bad.yaml", "train: {epochs: [1]}"), "train --config bad.yaml", "config.train.epochs"),
    "mapping for a number": (text("bad.yaml", "train: {lr: {a: 1}}"), "train --config bad.yaml", "config.train.lr"),
    "date for a number": (text("bad.yaml", "train: {epochs: 2024-01-01}"), "train --config bad.yaml", "config.train.epochs"),
    "yes for a number": (text("bad.yaml", "train: {epochs: yes}"), "train --config bad.yaml", "config.train.epochs"),
    "number for yes": (text("bad.yaml", "train: {compile: 1}"), "train --config bad.yaml", "config.train.compile"),
    "number too large for any": (text("bad.yaml", f"train: {{lr: 1{'0' * 400}}}"), "train --config bad.yaml", "config.train.lr"),
    "number too long to print": (
        text("bad.yaml", f"train: {{epochs: 0x{'f' * 9000}}}"), "train --config bad.yaml", "config.train.epochs",
    ),
    "not a number": (text("bad.yaml", "train: {lr: .nan}"), "train --config bad.yaml", "config.train.lr"),
    "more than a million": (None, f"{TRAIN} --set model.hidden_dim=160000000000", "config.model.hidden_dim"),
    "more resamples than memory": (None, f"{TRAIN} --set evaluation.bootstrap=1000000000", "config.evaluation.bootstrap"),
    "stage beyond numbers": (None, f"{TRAIN} --set features.stages=[0,{'9' * 30}]", "config.features.stages"),
    "device of a module": (None, f"{TRAIN} --set train.device=privateuseone", "'privateuseone'"),
    "NaN in the weights": (torch_file("w.pt", weights(float("nan"))), f"{TRAIN} --set features.weights=w.pt", "not finite"),
    "features beyond half precision": (
        torch_file("w.pt", weights(1e30)), f"{TRAIN} --set features.weights=w.pt", "not finite",
    ),
    "weights that would run something": (torch_file("w.pt", Runs), f"{TRAIN} --set features.weights=w.pt", "w.pt"),
    "checkpoint that would run something": (torch_file("checkpoint.pt", Runs), PREDICT, "checkpoint.pt"),
    "checkpoint with code beside its weights": (
        torch_file("checkpoint.pt", lambda: {"config": {}, "model": {}, "stage_channels": Runs()}), PREDICT, "checkpoint.pt",
    ),
    "checkpoint that diverged": (spoilt(diverge), PREDICT, "NaN"),
    "checkpoint with a threshold that is none": (
        spoilt(lambda trained: trained.thresholds.update(all=float("nan"))), PREDICT, "checkpoint.pt",
    ),
    "checkpoint of other weights": (
        spoilt(lambda trained: trained.origin.update(backbone="other-weights")), PREDICT, "other-weights",
    ),
    "evaluation with other weights": (
        spoilt(lambda trained: trained.origin.update(backbone="other-weights")), "evaluate checkpoint.pt", "other-weights",
    ),
    "evaluation of nothing": (checkpoint, "evaluate checkpoint.pt --data nowhere", "nowhere"),
    "heatmaps into a file": (checkpoint, f"{PREDICT} --out checkpoint.pt", "checkpoint.pt"),
    "factory over something else": (None, "data make --out photos", "photos holds something else"),
    "result that is no JSON": (text("data/results/a.json", "{"), "table", "a.json"),
    "result of another version": (text("data/results/a.json", '{"schema": 99}'), "table", "a.json has result schema 99"),
    "result nested too deep": (text("data/results/a.json", "[" * 100_000), "table", "a.json"),
    "archive with a huge file": (
        tar(("c/train/cat/0.png", 50_000_000)), "train --config tiny.yaml --data tars", "train.tar.gz unpacks",
    ),
    "archive with a huge header": (header_bomb, "train --config tiny.yaml --data tars", "train.tar unpacks"),
    "archive of large images": (
        tar(*((f"c/{part}/{name}/0.png", png(4000)) for part in ("train", "test") for name in CLASSES)),
        "train --config tiny.yaml --data tars", "4000 x 4000",
    ),
    "archive cut short": (
        tar(("c/train/cat/0.png", os.urandom(9000)), cut=4000), "train --config tiny.yaml --data tars", "train.tar.gz",
    ),
    "archive damaged in the middle": (
        tar(("c/train/cat/0.png", b"0123456789" * 9000), flip=150), "train --config tiny.yaml --data tars", "train.tar.gz",
    ),
    "archive that leads elsewhere": (
        tar(("../../owned/0.png", png(32)), ("/owned/cat/0.png", png(32))), "train --config tiny.yaml --data tars",
        "train/airplane",
    ),
    "notebook parameter of another type": (lesson, "reproduce -p epochs=many", "epochs of 00_start must be of type int"),
    "notebook parameter that is half": (lesson, "reproduce -p epochs=2.5", "epochs of 00_start must be of type int"),
    "notebook parameter that is yes": (lesson, "reproduce -p epochs=yes", "epochs of 00_start must be of type int"),
    "notebook parameter that is a list": (lesson, "reproduce -p epochs=[2]", "epochs of 00_start must be of type int"),
    "notebook parameter that is no list": (lesson, "reproduce -p categories=cap", "categories of 00_start must be a list"),
    "notebook parameter with a list of others": (
        lesson, "reproduce -p categories=[1.5]", "categories of 00_start must be of type str",
    ),
    "notebook parameter that constructs": (lesson, "reproduce -p epochs=!!python/name:os.mkdir", "epochs"),
    "profile by another way": (lesson, "reproduce -p profile=slow", "'slow'"),
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
