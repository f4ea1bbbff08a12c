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
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

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
from dumenet.errors import DumenetError
from dumenet.checkpoint import load_checkpoint, save_checkpoint

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


def empty_folder_in(path):
    """Something that makes a folder."""
    return lambda home: (home / path).mkdir(parents=True)


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
    notebook.cells = [
        nbformat.v4.new_code_cell(
            'profile = "quick"\nepochs = 2\ncategories = ["cap"]', metadata={"tags": ["parameters"]}
        )
    ]
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
    "index whose category leads elsewhere": (indexed({"clsname": "/../../x"}), TRAIN, "train.json line 1 holds the name '/../../x'"),
    "index whose category is the folder above": (indexed({"clsname": ".."}), TRAIN, "train.json line 1 holds the name '..'"),
    "index whose category is another system's path": (indexed({"clsname": "a\\b"}), TRAIN, "train.json line 1 holds the name"),
    "index whose category holds a zero": (indexed({"clsname": "a\0b"}), TRAIN, "train.json line 1 holds the name 'a\\x00b'"),
    "index whose category is no text": (indexed({"clsname": "a\ud800"}), TRAIN, "train.json line 1 holds the name 'a\\ud800'"),
    "index whose kind leads elsewhere": (indexed({"label_name": "a/../b"}), TRAIN, "train.json line 1 holds the name 'a/../b'"),
    "index of a file whose name is no text": (indexed({"filename": "a\0.png"}), TRAIN, "train.json line 1 names 'a\\x00.png'"),
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
    "result that lacks its numbers": (
        text("data/results/a.json", '{"schema": 1, "tag": null, "config": {}, "metrics": {"mean": {}}}'), "table", "not whole",
    ),
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
    "export of a folder": (None, "export .", ". is not a whole dumenet checkpoint"),
    "category of ten classes": (None, "train --config tiny.yaml --data digits --category 3", "--set data.normals=56789"),
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
    for words, says in (
        (
            ["reproduce", "--set", "train.epochs=3"],
            "--set is for a table: name it by --table, or set a lesson's parameter by -p",
        ),
        (["reproduce", "--seed", "0"], "--seed is for a table"),
        (["reproduce", "--out", "figures"], "--out is for a table"),
        (["reproduce", "--table", "mvtec", "-p", "seed=3"], "-p is for the lessons: leave out --table"),
    ):
        assert main(words) == 2 and says in capsys.readouterr().err
    for words in (["trian"], ["train", "--epochs", "3"], ["reproduce", "--profile", "slow"], []):
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 2


# --- what can be read and is likely wrong: `dumenet data check`

INVERTED = np.full((64, 64), 255, np.uint8)
INVERTED[20:36, 24:44] = 0
RED_ON_WHITE = np.full((64, 64, 3), 255, np.uint8)
RED_ON_WHITE[20:36, 24:44] = (255, 0, 0)


def frames(path, **options):
    """Something that saves an animation, or a file of several pages."""

    def put(home):
        two = [Image.fromarray(NOISE), Image.fromarray(255 - NOISE)]
        two[0].save(home / path, save_all=True, append_images=two[1:], **options)

    return put


def one_image(home):
    for path in (home / FELT).glob("00[1-7].png"):
        path.unlink()


def forgotten(home):
    """An image that came after the index was written."""
    indexed({})(home)
    image(f"{FELT}/new.png", NOISE)(home)


REPORTED = {  # what is wrong: (what to do first, what the one line says)
    "truncated image": (truncated, "003.png: unreadable"),
    "zero-byte image": (text(f"{FELT}/003.png", ""), "003.png: unreadable"),
    "text in an image file": (text(f"{FELT}/003.png", "hello"), "003.png: unreadable"),
    "decompression bomb": (huge, "003.png: unreadable; .* pixels"),
    "program's input in an image file": (eps, "003.png: unreadable"),
    "pixels that are NaN": (image(f"{FELT}/9.tif", np.full((9, 9), np.nan, np.float32)), "9.tif: unreadable; .* NaN"),
    "picture under a foreign name": (copy(f"{FELT}/003.png", f"{FELT}/4.dat"), "4.dat: not read; save it as PNG"),
    "WebP": (lambda home: Image.fromarray(NOISE).save(home / FELT / "4.webp"), "4.webp: not read; save it as PNG"),
    "GIF": (lambda home: Image.fromarray(NOISE).save(home / FELT / "4.gif"), "4.gif: not read; save it as PNG"),
    "HEIC": (text(f"{FELT}/4.HEIC", b"\0\0\0\x18ftypheic"), "4.HEIC: not read; save it as PNG"),
    "animation": (frames(f"{FELT}/4.png"), "4.png: holds 2 frames or pages; only the first is read"),
    "pages": (frames(f"{FELT}/4.tif"), "4.tif: holds 2 frames or pages; only the first is read"),
    "animation under another name": (frames(f"{FELT}/4.png", format="GIF"), "4.png: holds 2 frames"),
    "constant image": (image(f"{FELT}/4.png", np.full((64, 64, 3), 7, np.uint8)), "4.png: every pixel has the same colour"),
    "image of one pixel": (image(f"{FELT}/4.png", np.zeros((1, 1, 3), np.uint8)), "4.png: every pixel has the same colour"),
    "category of one image": (one_image, "felt: one image; no other is left for the verdict's threshold"),
    "category of no image": (gone(FELT), "felt: empty category"),
    "inverted mask": (image(f"{MASK}/012_mask.png", INVERTED), "012_mask.png: mask marks 92%.* exchanged"),
    "coloured mask on white": (image(f"{MASK}/012_mask.png", RED_ON_WHITE), "012_mask.png: mask marks 100%.* exchanged"),
    "empty mask": (image(f"{MASK}/012_mask.png", np.zeros((64, 64), np.uint8)), "012_mask.png: empty mask"),
    "mask off by one pixel": (image(f"{MASK}/012_mask.png", INVERTED[1:]), "mask is 64 x 63, its image 64 x 64"),
    "broken mask": (text(f"{MASK}/012_mask.png", "?"), "012_mask.png: unreadable"),
    "image without mask": (gone(f"{MASK}/012_mask.png"), "012.png: image without mask"),
    "mask without image": (gone("photos/bolt/test/hole/012.png"), "012_mask.png: mask without image"),
    "test image that is trained on": (
        copy(f"{FELT}/003.png", "photos/felt/test/good/new.png"), "new.png: the same image as .*003.png, which is trained on",
    ),
    "defect that is trained on": (
        copy("photos/felt/test/hole/012.png", f"{FELT}/new.png"), "012.png: the same image as .*new.png, which is trained on",
    ),
    "test image with two labels": (
        copy("photos/felt/test/good/008.png", "photos/felt/test/hole/011.png"), "011.png: the same image .* another label",
    ),
    "image that the index forgets": (forgotten, "new.png: neither in train.json nor in test.json"),
    "image that the index names twice": (indexed({}, {}), "000.png: listed 2 times"),
    "index without labels": (indexed({"label": None}), "train.json line 1 is not a JSON object with filename, label"),
    "index of a missing file": (
        indexed({}, {"filename": "bolt/train/good/99.png"}), "train.json line 2 names .*99.png, which is not there",
    ),
    "image that links to nothing": (link(f"{FELT}/003.png", "nothing.png"), "003.png: unreadable"),
    "image that links to itself": (link(f"{FELT}/003.png", "003.png"), "003.png: unreadable"),
    "folder that links to itself": (link("photos/felt/test/scratch", "scratch"), "scratch: link to nothing"),
    "folder among the images": (empty_folder_in(f"{FELT}/more"), "more: stray folder; images lie directly in good"),
    "folder that leads back": (link(f"{FELT}/back", ".."), "back: stray folder; images lie directly in good"),
    "folder of no split": (empty_folder_in("photos/felt/tset"), "tset: stray folder"),
    "image beside its folder": (image("photos/felt/train/4.png", NOISE), "4.png: stray image"),
    "name with a line break": (odd_name(b"a\nb.png"), r"a\\nb.png': name with a control character"),
    "name that is no UTF-8": (odd_name(b"\xff.png"), r"udcff.png': name .* not in UTF-8; rename it"),
}  # fmt: skip


@pytest.mark.parametrize("case", REPORTED)
def test_check_reports(case, tree, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    prepare, line = REPORTED[case]
    prepare(tmp_path)
    capfd.readouterr()
    assert main(["data", "check", "photos"]) == 1
    out, error = capfd.readouterr()
    assert len(out.splitlines()) == 2 and out.endswith("1 problem(s) in photos.\n"), out
    assert re.search(line, out.splitlines()[0]), out
    assert not error


# --- what looks odd and is read right


def saved(array_or_image, **options):
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image = array_or_image if isinstance(array_or_image, Image.Image) else Image.fromarray(array_or_image)
    image.save(buffer, **options)
    return buffer.getvalue()


def deep_png(values):
    """A PNG of (H, W, 3) uint16, which Pillow does not write."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def turned(orientation, kind):
    """(file, what it shows): stored so that the EXIF orientation turns it back to NOISE."""
    back = {  # from the EXIF standard: where row 0 and column 0 of the stored pixels are to be seen
        1: lambda x: x, 2: lambda x: x[:, ::-1], 3: lambda x: x[::-1, ::-1], 4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1), 6: lambda x: np.rot90(x, 1), 7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
        8: lambda x: np.rot90(x, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(np.ascontiguousarray(back(NOISE)), format=kind, exif=exif), NOISE


def grey(values):
    """(H, W) to (H, W, 3) uint8."""
    return np.repeat(np.asarray(values).astype(np.uint8)[..., None], 3, axis=2)


RAMP = NOISE[..., 0].astype(np.uint16) * 257  # 16-bit tones that 8 bits can hold
PALETTE = Image.fromarray(NOISE).quantize(64)
ALPHA = np.dstack([NOISE, NOISE[..., 0]])
INK = np.dstack([255 - NOISE, np.zeros((64, 64), np.uint8)])  # cyan, magenta, yellow, no black
SMOOTH = np.asarray(Image.fromarray(NOISE[:3, :3]).resize((64, 64), Image.Resampling.BICUBIC))  # what JPEG can hold

VALID = {  # what it is: (name, bytes, pixels, largest difference)
    "16-bit grey PNG": ("a.png", saved(RAMP, format="PNG"), grey(NOISE[..., 0]), 0),
    "16-bit grey TIFF": ("a.tif", saved(RAMP, format="TIFF"), grey(NOISE[..., 0]), 0),
    "16-bit colour PNG": ("a.png", deep_png(NOISE.astype(np.uint16) * 257), NOISE, 0),
    "32-bit grey of 16-bit tones": ("a.tif", saved(RAMP.astype(np.int32), format="TIFF"), grey(NOISE[..., 0]), 0),
    "float from 0 to 1": ("a.tif", saved((NOISE[..., 0] / 255).astype(np.float32), format="TIFF"), grey(NOISE[..., 0]), 1),
    "float from 0 to 255": ("a.tif", saved(NOISE[..., 0].astype(np.float32), format="TIFF"), grey(NOISE[..., 0]), 0),
    "grey PNG": ("a.png", saved(NOISE[..., 0], format="PNG"), grey(NOISE[..., 0]), 0),
    "grey BMP": ("a.bmp", saved(NOISE[..., 0], format="BMP"), grey(NOISE[..., 0]), 0),
    "grey with alpha": ("a.png", saved(Image.fromarray(ALPHA[..., 2:], "LA"), format="PNG"), grey(NOISE[..., 2]), 0),
    "black and white": ("a.png", saved(NOISE[..., 0] > 127, format="PNG"), grey((NOISE[..., 0] > 127) * 255), 0),
    "CMYK TIFF": ("a.tif", saved(Image.fromarray(INK, "CMYK"), format="TIFF"), NOISE, 0),
    "CMYK JPEG": (
        "a.jpg", saved(Image.fromarray(np.dstack([255 - SMOOTH, SMOOTH[..., 0] * 0]), "CMYK"), format="JPEG", quality=98),
        SMOOTH, 12,
    ),
    "palette PNG": ("a.png", saved(PALETTE, format="PNG"), np.asarray(PALETTE.convert("RGB")), 0),
    "palette BMP": ("a.bmp", saved(PALETTE, format="BMP"), np.asarray(PALETTE.convert("RGB")), 0),
    "palette with a transparent colour": (
        "a.png", saved(PALETTE, format="PNG", transparency=3), np.asarray(PALETTE.convert("RGB")), 0,
    ),
    "alpha PNG": ("a.png", saved(ALPHA, format="PNG"), NOISE, 0),
    "alpha TIFF": ("a.tif", saved(ALPHA, format="TIFF"), NOISE, 0),
    "progressive JPEG": ("a.jpg", saved(SMOOTH, format="JPEG", quality=98, progressive=True), SMOOTH, 12),
    "compressed TIFF": ("a.tif", saved(NOISE, format="TIFF", compression="tiff_lzw"), NOISE, 0),
    "one pixel": ("a.png", saved(NOISE[:1, :1], format="PNG"), np.broadcast_to(NOISE[0, 0], (64, 64, 3)), 0),
    "one row": ("a.png", saved(NOISE[:1], format="PNG"), np.broadcast_to(NOISE[:1], (64, 64, 3)), 0),
    "JPEG named PNG": ("a.png", saved(SMOOTH, format="JPEG", quality=98), SMOOTH, 12),
    "PNG named JPEG": ("a.jpg", saved(NOISE, format="PNG"), NOISE, 0),
    "WebP named JPEG": ("a.jpg", saved(NOISE, format="WEBP", lossless=True), NOISE, 0),
    "animated PNG": (
        "a.png", saved(Image.fromarray(NOISE), format="PNG", save_all=True, append_images=[Image.new("RGB", (64, 64))]),
        NOISE, 0,
    ),
    "pages of a TIFF": (
        "a.tif", saved(Image.fromarray(NOISE), format="TIFF", save_all=True, append_images=[Image.new("RGB", (64, 64))]),
        NOISE, 0,
    ),
    "animated GIF named PNG": (
        "a.png", saved(PALETTE, format="GIF", save_all=True, append_images=[Image.new("P", (64, 64))]),
        np.asarray(PALETTE.convert("RGB")), 0,
    ),
    "name with spaces": (" a  b .png", saved(NOISE, format="PNG"), NOISE, 0),
    "name in Unicode": ("\u56fe\u50cf \u00e9\u202f\U0001f642.png", saved(NOISE, format="PNG"), NOISE, 0),
    "name with formulas": ("$x^$_{%s}\\.png", saved(NOISE, format="PNG"), NOISE, 0),
    "name as long as names can be": ("a" * 251 + ".png", saved(NOISE, format="PNG"), NOISE, 0),
    **{
        f"orientation {k} in {kind}": (f"a.{kind.lower()}", *turned(k, kind), 0)
        for kind in ("PNG", "TIFF") for k in range(1, 9)
    },
}  # fmt: skip


@pytest.mark.parametrize("case", VALID)
def test_odd_image_is_read_right(case, tmp_path):
    name, content, pixels, most = VALID[case]
    (tmp_path / name).write_bytes(content)
    array = load_image(Sample("a", "c", "good", tmp_path / name), 64)
    assert array.dtype == np.uint8 and array.shape == (64, 64, 3)
    assert np.abs(array.astype(int) - pixels).max() <= most


SQUARE = np.zeros((64, 64), bool)
SQUARE[20:36, 24:44] = True
WHITE = np.full((64, 64, 3), 255, np.uint8)
MASKS = {  # what it is: the file; all of them mark SQUARE
    "black and white": saved(SQUARE, format="PNG"),
    "grey": saved(SQUARE.astype(np.uint8) * 255, format="PNG"),
    "grey of one": saved(SQUARE.astype(np.uint8), format="PNG"),
    "16-bit": saved(SQUARE.astype(np.uint16), format="PNG"),
    "float": saved(SQUARE.astype(np.float32), format="TIFF"),
    "blue on black": saved(np.dstack([SQUARE * 0, SQUARE * 0, SQUARE * 9]).astype(np.uint8), format="PNG"),
    "white where it is not transparent": saved(np.dstack([WHITE, SQUARE * 255]).astype(np.uint8), format="PNG"),
    "white on opaque black": saved(np.dstack([WHITE * SQUARE[..., None], WHITE[..., 0]]), format="PNG"),
    "grey and alpha": saved(Image.fromarray(np.dstack([WHITE[..., 0], SQUARE * 255]).astype(np.uint8), "LA"), format="PNG"),
    "palette": saved(Image.fromarray(WHITE * SQUARE[..., None]).quantize(2), format="PNG"),
    "palette with transparency": saved(
        Image.fromarray(np.where(SQUARE[..., None], 255, WHITE // 2).astype(np.uint8)).quantize(2), format="PNG",
        transparency=Image.fromarray(np.where(SQUARE[..., None], 255, WHITE // 2).astype(np.uint8)).quantize(2).getpixel((0, 0)),
    ),
    "JPEG, with its noise": saved(SQUARE.astype(np.uint8) * 255, format="JPEG", quality=60),
}  # fmt: skip


@pytest.mark.parametrize("case", MASKS)
def test_odd_mask_is_read_right(case, tree, tmp_path):
    (tmp_path / "m.png").write_bytes(MASKS[case])
    sample = Sample("a", "bolt", "hole", tree / "bolt/test/hole/011.png", tmp_path / "m.png")
    assert np.array_equal(load_mask(sample, 64), SQUARE)


def test_a_huge_image_costs_no_memory(tree, tmp_path):
    """20,000 x 20,000 pixels would take 400 MB as grey, 1.2 GB as RGB; the process may grow by far less."""
    huge(tmp_path)
    code = """
import sys
from dumenet.cli import main
from dumenet.results import peak_memory_mb
main(["data", "check", "photos/bolt"])
before = peak_memory_mb()
code = main(["data", "check", "photos/felt"])
print(code, peak_memory_mb() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120
    )
    code, grown = done.stdout.split()[-2:]
    assert code == "1" and "more than" in done.stdout and float(grown) < 50


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # pytest takes the package's filters away
def test_many_readers_at_once_refuse_what_is_too_large(tmp_path):
    """Pillow only warns of 100 million pixels, and filters of warnings belong to all threads."""
    Image.new("1", (10_000, 10_000)).save(tmp_path / "large.png")
    (tmp_path / "small.png").write_bytes(saved(NOISE, format="PNG"))
    before = list(warnings.filters)

    def read(name):
        try:
            return load_image(Sample(name, "c", "good", tmp_path / name), 8).shape
        except DumenetError as error:
            return "more than" in str(error)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read, ["large.png", "small.png"] * 50)) == [True, (8, 8, 3)] * 50
    assert warnings.filters == before


# --- odd data sets train and predict


def sound(home):
    """The records, each metric a number from 0 to 1 or not defined."""
    found = [json.loads(path.read_text()) for path in (home / "data" / "results").glob("*.json")]
    assert found
    for record in found:
        for value in [v for k, v in record["metrics"]["mean"].items() if k != "count"]:
            assert value is None or 0 <= value <= 1
        assert np.isfinite(record["history"]["loss"]).all()
    return found


@pytest.mark.parametrize("model", ["dumenet", "gaussian"])
@pytest.mark.parametrize("case", ["constant images", "one image", "one-pixel images"])
def test_poor_data_trains_to_sound_numbers(case, model, tree, tiny_yaml, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    if case == "one image":
        one_image(tmp_path)
    else:
        side = 64 if case == "constant images" else 1
        for path in (tree / "felt").glob("t*/*/*.png"):
            write(path, np.full((side, side, 3), 90, np.uint8))
        for path in (tree / "felt/ground_truth/hole").glob("*.png"):
            write(path, np.full((side, side), 255, np.uint8))
    assert main(f"{TRAIN} --category felt --set model.name={model}".split()) == 0
    (record,) = sound(tmp_path)
    assert case == "one image" or record["metrics"]["mean"]["image_auroc"] == 0.5  # all test images are alike
    assert (record["thresholds"] == {}) == (case == "one image")  # none could be held out
    shutil.copy(next(tmp_path.glob("build/runs/*/checkpoint.pt")), "checkpoint.pt")
    assert main(["predict", "checkpoint.pt", "photos/felt/test/good", "--out", "out"]) == 0
    error = capfd.readouterr().err
    assert "Traceback" not in error and "Warning" not in error


def test_odd_names_train_and_predict(tree, tiny_yaml, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    names = ["with space", "\u56fe\u50cf\U0001f642", "$x^$", "a" * 251, "=1+1", "-h", "%s{}"]
    odd = tree.rename(tmp_path / "odd $_{ \u00e9")
    (odd / "felt").rename(odd / "\u7d19 $^$")
    good = odd / "bolt" / "train" / "good"
    for path, name in zip(sorted(good.glob("*.png")), names):
        path.rename(good / f"{name}.png")
    assert main(["data", "check", str(odd)]) == 0
    assert main(["data", "index", str(odd)]) == 0
    assert main(["train", "--config", "tiny.yaml", "--data", str(odd)]) == 0
    assert set(sound(tmp_path)[0]["metrics"]["per_category"]) == {"bolt", "\u7d19 $^$"}
    checkpoint = str(next(tmp_path.glob("build/runs/*/checkpoint.pt")))
    capfd.readouterr()
    assert main(["predict", checkpoint, str(good), "--out", "out"]) == 0
    error = capfd.readouterr().err
    assert "Traceback" not in error and "Warning" not in error
    rows = (tmp_path / "out" / "scores.csv").read_text().splitlines()[1:]
    assert sorted(row.split(",")[0] for row in rows) == sorted(f"{n}.png" for n in [*names, "007"])
    overlays = [p.name for p in (tmp_path / "out").glob("*.heatmap.png")]
    assert len(overlays) == 8 and "with space.png.heatmap.png" in overlays
    assert sum(name.startswith("a" * 40 + "~") for name in overlays) == 1


def test_a_name_that_is_no_text_is_predicted_all_the_same(tree, tiny_yaml, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint(tmp_path)
    odd_name(b"\xff.png")(tmp_path)
    assert main(f"predict checkpoint.pt {FELT} --out out".split()) == 0
    assert "\\udcff.png," in (tmp_path / "out" / "scores.csv").read_text()


def test_a_fifo_is_passed_over(tree, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    os.mkfifo(tmp_path / FELT / "pipe.png")  # opening it would wait for ever
    assert main(["data", "check", "photos"]) == 0
