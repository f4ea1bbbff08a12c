"""Bad input, through the command line: exit code 2 and one sentence that names the culprit.

FOLDERS are data that training refuses or `data check` reports, COMMANDS and the tables below it are refused otherwise;
IMAGES and MASKS look odd and are read right.
"""

import functools
import io
import json
import os
import re
import shutil
import struct
import tarfile
import zlib
from pathlib import Path

import nbformat
import numpy as np
import pytest
from conftest import write
from PIL import Image

from dumenet.checkpoint import load_checkpoint, save_checkpoint
from dumenet.cli import main
from dumenet.data import Sample, load_image, load_mask
from dumenet.data.cifar import CLASSES
from dumenet.errors import DumenetError

pytestmark = pytest.mark.filterwarnings("ignore:Image size")  # pytest takes the package's own filter away
TRAIN = "train --config tiny.yaml --data photos"
TARS = "train --config tiny.yaml --data tars"
PREDICT = "predict checkpoint.pt photos"
FELT, PHOTO = "photos/felt/train/good", "photos/felt/train/good/003.png"
DEFECT, MASK = "photos/bolt/test/hole/012.png", "photos/bolt/ground_truth/hole/012_mask.png"
INDEX = "photos/train.json"
LONG = "a" * 5000
NOISE = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)

# --- what is done to a folder that holds photos/ and tiny.yaml: each gives a function of that folder


def text(path, content=""):
    """A file with this content."""

    def put(home):
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_bytes(content.encode() if isinstance(content, str) else content)

    return put


def gone(path):
    """No such file or folder any more."""
    return lambda home: shutil.rmtree(home / path) if (home / path).is_dir() else (home / path).unlink()


def image(path, array):
    """An array as an image file."""
    return lambda home: Image.fromarray(array).save(home / path)


def folder(path):
    """An empty folder."""
    return lambda home: (home / path).mkdir(parents=True)


def copy(source, target):
    """A copy of a file."""
    return lambda home: shutil.copy(home / source, home / target)


def both(*steps):
    """One step after the other."""
    return lambda home: [step(home) for step in steps]


def odd_name(name):
    """An image with a name that not every disk can hold."""

    def put(home):
        try:
            shutil.copy(home / PHOTO, os.path.join(os.fsencode(home / FELT), name))
        except OSError:
            pytest.skip("this disk refuses such a name by itself")

    return put


def indexed(*changes):
    """The folder's own index, the first line of train.json once for each change; None takes a field away."""

    def put(home):
        assert main(["data", "index", "photos"]) == 0
        lines = (home / INDEX).read_text().splitlines()
        first = [{k: v for k, v in (json.loads(lines[0]) | change).items() if v is not None} for change in changes]
        (home / INDEX).write_text("\n".join([json.dumps(row) for row in first] + lines[1:]))

    return put


def one_image(home):
    for path in (home / FELT).glob("00[1-7].png"):
        path.unlink()


def dangling(home):
    (home / PHOTO).unlink()
    (home / PHOTO).symlink_to("nothing.png")


def huge(home):
    (home / PHOTO).write_bytes(raw_png(10_000, 10_000, 1, 0, bytes(10_000 * 1_251)))


@functools.cache
def trained_bytes():
    """A checkpoint whose thresholds know bolt and felt, trained in the working folder before anything is done to it."""
    assert main(TRAIN.split()) == 0
    (path,) = Path.cwd().glob("build/runs/*/checkpoint.pt")
    return path.read_bytes()


def checkpoint(change=lambda trained: None):
    """That checkpoint, with something changed in it."""

    def put(home):
        (home / "checkpoint.pt").write_bytes(trained_bytes())
        trained = load_checkpoint(home / "checkpoint.pt", "cpu")
        change(trained)
        save_checkpoint(trained, home / "checkpoint.pt")

    return put


def lesson(old="", new=""):
    """A notebook with three parameters, one word of its file replaced."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    parameters = 'profile = "quick"\nepochs = 2\ncategories = ["cap"]'
    cell = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel}, cells=[cell])
    return text("notebooks/00_start.ipynb", nbformat.writes(notebook).replace(old, new))


# --- bytes of files


def saved(kind, picture, **options):
    """An image file."""
    buffer = io.BytesIO()
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(np.ascontiguousarray(picture))
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()


def raw_png(width, height, depth, colour, rows):
    """A PNG of a kind that Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tar(*members):
    """A compressed archive of (name, content)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


# --- what is refused, or reported by `dumenet data check`

BLACK, CONSTANT = np.zeros((64, 64), np.uint8), np.full((64, 64, 3), 7, np.uint8)
INVERTED, RED_ON_WHITE = BLACK + 255, np.full((64, 64, 3), 255, np.uint8)
INVERTED[20:36, 24:44], RED_ON_WHITE[20:36, 24:44] = 0, (255, 0, 0)
TWO = {"save_all": True, "append_images": [Image.fromarray(255 - NOISE)]}  # frames or pages
TRAINED_ON, LEAKED = "photos/bolt/train/good/1.png", "photos/felt/test/good/1.png"
LINE, KEYS = "train.json line 1", "train.json line 1 is not a JSON object with filename, label"
GHOST = '{"filename": "a.png", "label": 0, "label_name": "good", "clsname": "a"}\n'

FOLDERS = {  # what is wrong: (what to do, what training says, the line that the check prints); None: not looked at
    "zero-byte image": (text(PHOTO), "003.png", "003.png: unreadable"),
    "image of 100 million pixels": (huge, "more than", "003.png: unreadable; .* more than"),
    "pixels that are NaN": (image(f"{FELT}/9.tif", BLACK + np.float32(np.nan)), "9.tif holds pixels", "9.tif: .* NaN"),
    "link to nothing": (dangling, "003.png", "003.png: unreadable"),
    "name with a line break": (odd_name(b"a\nb.png"), "a\\nb.png", r"a\\nb.png': name with a control character"),
    "name that is not UTF-8": (odd_name(b"\xff.png"), "udcff.png", r"udcff.png': name .* not in UTF-8; rename it"),
    "no image": (gone(FELT), "Category felt", "felt: empty category"),
    "one image": (one_image, None, "felt: one image; no other is left for the verdict's threshold"),
    "missing mask": (gone(MASK), "012_mask.png", "012.png has no mask, but others"),
    "mask without image": (gone(DEFECT), None, "012_mask.png: mask without image"),
    "empty mask": (image(MASK, BLACK), "012_mask.png is empty", "012_mask.png: empty mask"),
    "broken mask": (text(MASK, "?"), "012_mask.png", "012_mask.png: unreadable"),
    "mask off by a pixel": (image(MASK, INVERTED[1:]), "is 64 x 63", "012_mask.png: mask is 64 x 63, its image 64 x"),
    "coloured mask on white": (image(MASK, RED_ON_WHITE), None, "012_mask.png: mask marks 100%.* exchanged"),
    "broken index": (text(INDEX, '{"filename": 3}\n'), LINE, KEYS),
    "index nested too deep": (text(INDEX, '{"filename":' + "[" * 100_000), LINE, KEYS),
    "index of a missing file": (text(INDEX, GHOST), "a.png", f"{LINE} names .*a.png, which is not there"),
    "file in a folder above": (indexed({"filename": "../tiny.yaml"}), f"{LINE} names ../tiny.yaml", LINE),
    "file elsewhere": (indexed({"filename": "/etc/hostname"}), f"{LINE} names /etc/hostname", LINE),
    "category elsewhere": (indexed({"clsname": "/../../x"}), f"{LINE} holds the name '/../../x'", LINE),
    "category that is the folder above": (indexed({"clsname": ".."}), f"{LINE} holds the name '..'", LINE),
    "image listed twice": (indexed({}, {}), "000.png 2 times", "000.png 2 times: delete all lines but one"),
    "defect to train on": (indexed({"label": 1}), "must have label 0", "lists the defect .*000.png"),
    "image that the index forgets": (both(indexed({}), image(f"{FELT}/new.png", NOISE)), None, "new.png: neither in"),
    "picture under another name": (copy(PHOTO, f"{FELT}/4.dat"), None, "4.dat: not read; save it as PNG"),
    "animation": (text(f"{FELT}/4.png", saved("PNG", NOISE, **TWO)), None, "4.png: holds 2 frames or pages; only the"),
    "constant image": (image(f"{FELT}/4.png", CONSTANT), None, "4.png: every pixel has the same colour"),
    "test image that is trained on": (copy(PHOTO, LEAKED), None, "1.png: the same .*003.png, which is trained on"),
    "defect that is trained on": (copy(DEFECT, TRAINED_ON), None, "012.png: the same .*1.png, which is trained on"),
    "two labels": (copy("photos/bolt/test/good/008.png", DEFECT), None, "012.png: the same image .* another label"),
    "folder among the images": (folder(f"{FELT}/more"), None, "more: stray folder; images lie directly in good"),
    "folder of no split": (folder("photos/felt/tset"), None, "tset: stray folder; expected train, test"),
    "folder beside good": (folder("photos/felt/train/bad"), None, "bad: stray folder; train holds good only"),
    "image beside its folder": (image("photos/felt/train/4.png", NOISE), None, "4.png: stray image"),
}

LARGE = tar(*((f"{p}/{c}/0.png", saved("PNG", CONSTANT.repeat(5, axis=0))) for p in ("train", "test") for c in CLASSES))
OUTSIDE = tar(("../../owned/0.png", b""), ("/owned/cat/0.png", b""))
NAME_BOMB = tarfile.TarInfo("././@LongLink")  # a member whose name alone is said to have 300 MB
NAME_BOMB.type, NAME_BOMB.size = tarfile.GNUTYPE_LONGNAME, 300_000_000
ALIASES = "train:\n- &a [x, x, x, x, x, x, x, x, x]\n" + "".join(  # stands for 9 ** 9 words
    f"- &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi")
)
RESULT, LACKING = "data/results/a.json", '{"schema": 1, "tag": null, "config": {}, "metrics": {"mean": {}}}'
OTHER_WEIGHTS = checkpoint(lambda t: t.origin.update(backbone="other-weights"))

COMMANDS = {  # what is wrong: (what to do first, the command, the culprit that the sentence names)
    "missing data folder": (None, "train --config tiny.yaml --data nowhere", "nowhere"),
    "empty folder": (folder("empty"), "train --config tiny.yaml --data empty", "empty"),
    "unknown category": (None, f"{TRAIN} --category bold", "did you mean 'bolt'"),
    "missing YAML": (None, "train --config nowhere.yaml", "nowhere.yaml"),
    "unknown configuration": (None, "train --config mvtec", "did you mean 'mvtec_ad'"),
    "no place for results": (text("build/runs", "a file"), TRAIN, "build/runs"),
    "tag that leads into another folder": (None, f"{TRAIN} --tag a/b", "'a/b'"),
    "very long data folder": (None, f"train --config tiny.yaml --data {LONG}", "aaa"),
    "missing checkpoint": (None, PREDICT, "checkpoint.pt"),
    "checkpoint that diverged": (checkpoint(lambda t: next(t.model.parameters()).data.fill_(np.nan)), PREDICT, "NaN"),
    "threshold that is not a number": (checkpoint(lambda t: t.thresholds.update(all=np.nan)), PREDICT, "checkpoint.pt"),
    "checkpoint of other weights": (OTHER_WEIGHTS, PREDICT, "other-weights"),
    "checkpoint on an unknown device": (checkpoint(), f"{PREDICT} --device gpu", "'gpu'"),
    "category that the checkpoint does not know": (checkpoint(), f"{PREDICT} --category bold", "did you mean 'bolt'"),
    "missing images": (checkpoint(), "predict checkpoint.pt nowhere", "nowhere"),
    "no images": (both(checkpoint(), folder("empty")), "predict checkpoint.pt empty", "empty"),
    "heatmaps into a file": (checkpoint(), f"{PREDICT} --out checkpoint.pt", "checkpoint.pt"),
    "export of a folder": (None, "export .", ". is not a whole dumenet checkpoint"),
    "factory over something else": (None, "data make --out photos", "photos holds something else"),
    "no results": (None, "table", "data/results"),
    "no results of that tag": (text(RESULT, LACKING), "table --tag other", "'other'"),
    "result that is not JSON": (text(RESULT, "{"), "table", "a.json"),
    "result of another version": (text(RESULT, '{"schema": 99}'), "table", "a.json has result schema 99"),
    "result that lacks its numbers": (text(RESULT, LACKING), "table", "not whole"),
    "archive with a large header": (text("tars/a.tar", NAME_BOMB.tobuf() + bytes(1024)), TARS, "a.tar is not a whole"),
    "archive of large images": (text("tars/a.tar.gz", LARGE), TARS, "64 x 320"),
    "archive that leads elsewhere": (text("tars/a.tar.gz", OUTSIDE), TARS, "train/airplane"),
    "no lessons": (None, "reproduce", "notebooks"),
    "unknown lesson": (lesson(), "reproduce --only 07", "'07'"),
    "notebook without a parameters cell": (lesson('"parameters"', '"other"'), "reproduce", "00_start.ipynb"),
    "notebook without a kernel": (lesson("kernelspec", "other"), "reproduce", "00_start.ipynb"),
    "broken notebook": (both(lesson(), text("notebooks/01_x.ipynb", "{")), "reproduce", "01_x.ipynb"),
}

SETTINGS = {  # what is wrong: (a value of --set, the culprit)
    "unknown setting": ("train.epoch=3", "did you mean 'epochs'"),
    "unknown section": ("trian.epochs=3", "did you mean 'train'"),
    "setting without section": ("epochs=3", "'epochs'"),
    "setting without =": ("train.epochs", "'train.epochs'"),
    "value nested too deep": (f"train.epochs={'[' * 1000}", "train.epochs"),
    "tag on the command line": ("train.epochs=!!python/name:os.mkdir", "train.epochs"),
    "out of range": ("train.lr=-1", "config.train.lr"),
    "unknown choice": ("model.fusion_mode=gat", "did you mean 'gate'"),
    "heads that do not fit": ("model.hidden_dim=15", "model.hidden_dim"),
    "image smaller than the pooling window": ("features.image_size=8", "16 x 16"),
}

YAML = {  # what is wrong: (the content of bad.yaml, the culprit)
    "bad YAML": ("train: [1", "bad.yaml"),
    "YAML that is a list": ("- 1", "bad.yaml"),
    "YAML in another encoding": ("a: ä".encode("utf-16"), "bad.yaml"),
    "YAML nested too deep": ("train: " + "[" * 1000, "bad.yaml"),
    "YAML that grows when shown": (ALIASES, "config.train"),
    "key given twice": ("train: {epochs: 1}\ntrain: {lr: 1}", "'train'"),
    "YAML that would run something": ("data: !!python/object/apply:os.mkdir [owned]", "bad.yaml"),
}

PARAMETERS = {  # what is wrong: (a value of -p for the lesson, the culprit)
    "parameter of another type": ("epochs=many", "epochs of 00_start must be a valid integer"),
    "parameter that is no list": ("categories=cap", "categories of 00_start must be a valid list"),
    "profile by another way": ("profile=slow", "'slow'"),
    "unknown parameter": ("epoch=3", "did you mean 'epochs'"),
}

COMMANDS |= {name: (None, f"{TRAIN} --set {words}", culprit) for name, (words, culprit) in SETTINGS.items()}
COMMANDS |= {name: (text("bad.yaml", y), "train --config bad.yaml", culprit) for name, (y, culprit) in YAML.items()}
COMMANDS |= {name: (lesson(), f"reproduce -p {word}", culprit) for name, (word, culprit) in PARAMETERS.items()}


@pytest.fixture
def home(tree, tiny_yaml, tmp_path, monkeypatch):
    """The working folder, with photos/ and tiny.yaml."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def is_refused(command, culprit, capfd):
    """The command ends with 2 and prints one sentence that names the culprit; nothing from a file was run."""
    capfd.readouterr()
    assert main(command.split()) == 2
    error = capfd.readouterr().err
    assert "Traceback" not in error and "Warning" not in error
    # Progress bars are drawn on the same stream; they overwrite themselves and end before the sentence.
    lines = [x for x in re.split(r"[\r\n]+", error) if x.strip() and not re.search(r"\d+%\||it/s|\?it", x)]
    assert len(lines) == 1 and error.splitlines()[-1] == lines[0], error
    assert re.fullmatch(r"dumenet: [^\n]{10,}\.", lines[0])
    assert culprit in lines[0]
    assert not os.path.exists("owned")


@pytest.mark.parametrize("case", COMMANDS)
def test_bad_input_is_one_sentence(case, home, capfd):
    prepare, command, culprit = COMMANDS[case]
    if prepare:
        prepare(home)
    is_refused(command, culprit, capfd)


@pytest.mark.parametrize("case", FOLDERS)
def test_a_bad_folder_is_refused_or_reported(case, home, capfd):
    prepare, sentence, line = FOLDERS[case]
    prepare(home)
    if sentence:
        is_refused(TRAIN, sentence, capfd)
    if line:
        capfd.readouterr()
        assert main(["data", "check", "photos"]) == 1
        out, error = capfd.readouterr()
        told = [x for x in out.splitlines() if not re.match("photos is (in|a|read) |Thresholds rest|One normal", x)]
        assert len(told) == 2 and out.endswith("1 problem(s) in photos.\n"), out
        assert re.search(line, told[0]), out
        assert not error


def test_unknown_words_of_the_command_itself(capsys):
    for words, says in (
        ("reproduce --set a.b=3", "--set is for a table: name it by --table, or set a lesson's parameter by -p"),
        ("reproduce --seed 0", "--seed is for a table"),
        ("reproduce --out figures", "--out is for a table"),
        ("reproduce --table mvtec -p seed=3", "-p is for the lessons: leave out --table"),
    ):
        assert main(words.split()) == 2 and says in capsys.readouterr().err
    for words in ("trian", "train --epochs 3", "reproduce --profile slow", ""):
        with pytest.raises(SystemExit) as stop:
            main(words.split())
        assert stop.value.code == 2


# --- what looks odd and is read right


def grey(values):
    """(H, W) to (H, W, 3) uint8."""
    return np.repeat(np.asarray(values).astype(np.uint8)[..., None], 3, axis=2)


RED = NOISE[..., 0]
GREY = grey(RED)
RAMP = RED.astype(np.uint16) * 257  # 16-bit tones that 8 bits can hold
PALETTE = Image.fromarray(NOISE).quantize(64)
COLOURS = np.asarray(PALETTE.convert("RGB"))
ALPHA = np.dstack([NOISE, RED])
SMOOTH = np.asarray(Image.fromarray(NOISE[:3, :3]).resize((64, 64), Image.Resampling.BICUBIC))  # what JPEG can hold
CMYK, SMOOTH_CMYK = (Image.fromarray(np.dstack([255 - x, x[..., 0] * 0]), "CMYK") for x in (NOISE, SMOOTH))
ROWS = b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in NOISE)
DEEP = raw_png(64, 64, 16, 2, ROWS)
TURN = Image.Exif()
TURN[0x0112] = 6  # by 90 degrees

IMAGES = {  # what it is: (name, bytes, pixels, largest difference)
    "16-bit grey PNG": ("a.png", saved("PNG", RAMP), GREY, 0),
    "16-bit colour PNG": ("a.png", DEEP, NOISE, 0),
    "32-bit grey of 16-bit tones": ("a.tif", saved("TIFF", RAMP.astype(np.int32)), GREY, 0),
    "CMYK TIFF": ("a.tif", saved("TIFF", CMYK), NOISE, 0),
    "CMYK JPEG": ("a.jpg", saved("JPEG", SMOOTH_CMYK, quality=98), SMOOTH, 12),
    "palette PNG": ("a.png", saved("PNG", PALETTE), COLOURS, 0),
    "palette with a transparent colour": ("a.png", saved("PNG", PALETTE, transparency=3), COLOURS, 0),
    "alpha PNG": ("a.png", saved("PNG", ALPHA), NOISE, 0),
    "WebP named JPEG": ("a.jpg", saved("WEBP", NOISE, lossless=True), NOISE, 0),
    "turned by EXIF": ("a.png", saved("PNG", np.rot90(NOISE), exif=TURN), NOISE, 0),
    "animated GIF named PNG": ("a.png", saved("GIF", PALETTE, **TWO), COLOURS, 0),
}


@pytest.mark.parametrize("case", IMAGES)
def test_odd_image_is_read_right(case, tmp_path):
    name, content, pixels, most = IMAGES[case]
    (tmp_path / name).write_bytes(content)
    array = load_image(Sample("a", "c", "good", tmp_path / name), 64)
    assert array.dtype == np.uint8 and array.shape == (64, 64, 3)
    assert np.abs(array.astype(int) - pixels).max() <= most


SQUARE = np.zeros((64, 64), bool)
SQUARE[20:36, 24:44] = True
BYTES, WHITE = SQUARE.astype(np.uint8), np.full((64, 64, 3), 255, np.uint8)
TWO_GREYS = Image.fromarray(np.where(SQUARE[..., None], 255, WHITE // 2).astype(np.uint8)).quantize(2)
MASKS = {  # what it is: the file; all of them mark SQUARE
    "black and white": saved("PNG", SQUARE),
    "grey": saved("PNG", BYTES * 255),
    "float": saved("TIFF", SQUARE.astype(np.float32)),
    "blue on black": saved("PNG", np.dstack([BYTES * 0, BYTES * 0, BYTES * 9])),
    "white where it is not transparent": saved("PNG", np.dstack([WHITE, BYTES * 255])),
    "grey and alpha": saved("PNG", Image.fromarray(np.dstack([WHITE[..., 0], BYTES * 255]), "LA")),
    "palette": saved("PNG", Image.fromarray(WHITE * SQUARE[..., None]).quantize(2)),
    "palette with transparency": saved("PNG", TWO_GREYS, transparency=TWO_GREYS.getpixel((0, 0))),
    "JPEG, with its noise": saved("JPEG", BYTES * 255, quality=60),
}


@pytest.mark.parametrize("case", MASKS)
def test_odd_mask_is_read_right(case, tree, tmp_path):
    (tmp_path / "m.png").write_bytes(MASKS[case])
    sample = Sample("a", "bolt", "hole", tree / "bolt/test/hole/011.png", tmp_path / "m.png")
    assert np.array_equal(load_mask(sample, 64), SQUARE)


def test_a_huge_image_costs_no_memory(home, monkeypatch):
    """It would take 300 MB as RGB: its header is read, and no pixel."""
    huge(home)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *_: pytest.fail("decoded"))
    for read in (load_image, load_mask):
        with pytest.raises(DumenetError, match="003.png has more than"):
            read(Sample("a", "felt", "hole", home / PHOTO, home / PHOTO), 64)


# --- odd data sets train and predict


@pytest.mark.parametrize("case", ["constant images", "one-pixel images", "one image"])
def test_poor_data_trains_to_sound_numbers(case, home, tree, capfd):
    if case == "one image":
        one_image(home)
    else:
        side = 64 if case == "constant images" else 1
        for path in (tree / "felt").glob("t*/*/*.png"):
            write(path, np.full((side, side, 3), 90, np.uint8))
        for path in (tree / "felt/ground_truth/hole").glob("*.png"):
            write(path, np.full((side, side), 255, np.uint8))
    assert main(f"{TRAIN} --category felt".split()) == 0
    record = json.loads(next(home.glob("data/results/*.json")).read_text())
    values = [v for k, v in record["metrics"]["mean"].items() if k != "count"]
    assert all(value is None or 0 <= value <= 1 for value in values) and np.isfinite(record["history"]["loss"]).all()
    shutil.copy(next(home.glob("build/runs/*/checkpoint.pt")), "checkpoint.pt")
    assert main(["predict", "checkpoint.pt", "photos/felt/test/good", "--out", "out"]) == 0
    verdicts = {row.split(",")[4] for row in Path("out/scores.csv").read_text().splitlines()[1:]}
    assert (verdicts == {"no threshold"}) == (case == "one image")  # none could be held out
    error = capfd.readouterr().err
    assert "Traceback" not in error and "Warning" not in error


def test_odd_names_train_and_predict(home, tree, capfd):
    names = ["with space", "\u56fe\u50cf\U0001f642", "$x^$", "a" * 251, "=1+1", "-h", "%s{}"]
    odd = tree.rename(home / "odd $_{ \u00e9")
    (odd / "felt").rename(odd / "\u7d19 $^$")
    good = odd / "bolt" / "train" / "good"
    for path, name in zip(sorted(good.glob("*.png")), names):
        path.rename(good / f"{name}.png")
    for command in (["data", "check"], ["data", "index"], ["train", "--config", "tiny.yaml", "--data"]):
        assert main([*command, str(odd)]) == 0
    (record,) = home.glob("data/results/*.json")
    assert set(json.loads(record.read_text())["metrics"]["per_category"]) == {"bolt", "\u7d19 $^$"}
    checkpoint = str(next(home.glob("build/runs/*/checkpoint.pt")))
    capfd.readouterr()
    assert main(["predict", checkpoint, str(good), "--out", "out"]) == 0
    error = capfd.readouterr().err
    assert "Traceback" not in error and "Warning" not in error
    rows = (home / "out" / "scores.csv").read_text().splitlines()[1:]
    assert sorted(row.split(",")[0] for row in rows) == sorted(f"{n}.png" for n in [*names, "007"])
    overlays = [p.name for p in (home / "out").glob("*.heatmap.png")]
    assert len(overlays) == 8 and "with space.png.heatmap.png" in overlays
    assert sum(name.startswith("a" * 40 + "~") for name in overlays) == 1


def test_an_image_is_predicted_although_its_name_is_not_text(home):
    checkpoint()(home)
    odd_name(b"\xff.png")(home)
    assert main(f"predict checkpoint.pt {FELT} --out out".split()) == 0
    assert "\\udcff.png," in (home / "out" / "scores.csv").read_text()


def test_a_fifo_is_passed_over(home):
    os.mkfifo(home / FELT / "pipe.png")  # opening it would wait for ever
    assert main(["data", "check", "photos"]) == 0
