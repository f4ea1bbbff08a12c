"""Reading folders, masks, CIFAR-10 and digits. What is odd or refused on the command line: test_bad_input.py."""

import hashlib
import json
import os
import pickle
import re
import shutil
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import TINY
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from skimage.io import imsave

from dumenet.cli import main
from dumenet.config import make_config
from dumenet.data import (
    OUTPUTS,
    Dataset,
    Sample,
    as_classes,
    check_folder,
    check_range,
    content_key,
    describe,
    few_normal,
    find_images,
    fingerprint,
    load_image,
    load_mask,
    open_dataset,
    read_cifar10,
    read_digits,
    read_folder,
    write_index,
)
from dumenet.data.cifar import BATCHES, CLASSES
from dumenet.data.images import mask_files
from dumenet.detector import Detector, _normal, load
from dumenet.errors import DumenetError
from dumenet.run import measure, network_job
from dumenet.score import Scores

SHARED = Path(os.environ.get("DUMENET_SHARED") or Path(__file__).resolve().parents[2] / "shared" / "data")


def picture(seed, size=(20, 16)):
    """A random RGB image of (width, height)."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def save(image, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def category(folder, suffix=".png", mask_name="{}_mask", kinds=("crack", "hole"), masks=True):
    """A small category: 3 training images, 2 good and 2 x `kinds` defective test images."""
    for i in range(3):
        save(picture(i), folder / "train" / "good" / f"{i:03d}{suffix}")
    for i in range(2):
        save(picture(10 + i), folder / "test" / "good" / f"{i:03d}{suffix}")
        for kind in kinds:
            save(picture(20 + i), folder / "test" / kind / f"{i:03d}{suffix}")
            if masks:
                mask = np.zeros((16, 20), np.uint8)
                mask[4:8, 5:10] = 255
                name = f"{mask_name.format(f'{i:03d}')}.png"
                save(Image.fromarray(mask), folder / "ground_truth" / kind / name)


@pytest.fixture
def root(tmp_path):
    """Two categories, with hidden and foreign files about."""
    category(tmp_path / "nut")
    category(tmp_path / "cloth", ".JPG", "{}", kinds=("stain",))
    (tmp_path / "nut" / "readme.txt").write_text("not an image")
    (tmp_path / "nut" / "train" / "good" / ".hidden.png").write_bytes(b"")
    (tmp_path / "nut" / "train" / "good" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / ".git").mkdir()
    return tmp_path


# Images and masks


def test_a_mask_fits_its_image_as_exif_turns_it(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # by 90 degrees
    path = save(picture(0, (32, 16)), tmp_path / "a.jpg", exif=exif)
    mask = save(Image.new("L", (16, 32), 255), tmp_path / "m.png")
    assert load_mask(Sample("a", "c", "hole", path, mask), 8).all()
    assert not load_mask(Sample("a", "c", "good", path), 8).any()


def test_arrays_serve_as_sources():
    array = np.asarray(picture(3, (8, 8)))
    sample = Sample("a", "c", "good", array)
    assert np.array_equal(load_image(sample, 8), array)
    assert content_key(sample) == content_key(Sample("b", "d", "x", array.copy()))
    assert content_key(sample) != content_key(Sample("a", "c", "good", array.reshape(4, 16, 3)))


GREY = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
GREY[0, :2] = 0, 255
SPIKE = np.where(GREY == 255, 1.0001, GREY / 255).astype(np.float32)  # a little above 1
DEEP = {  # what it is: (file, pixels, range)
    "12 bits in 16": ("a.png", np.round(GREY / 255 * 4095).astype(np.uint16), (0, 4095)),
    "floats from 0 to 1, and a little more": ("a.tif", SPIKE, (0, 1)),
    "floats of 16-bit tones": ("a.tif", GREY * np.float32(257), (0, 65535)),
    "floats from -1 to 1": ("a.tif", GREY * np.float32(2 / 255) - 1, (-1, 1)),
    "integers below zero": ("a.tif", GREY.astype(np.int32) * 100 - 5000, (-5000, 20500)),
}


@pytest.mark.parametrize("case", DEEP)
def test_the_range_of_deep_images_is_stated_not_guessed(case, tmp_path):
    name, pixels, limits = DEEP[case]
    (tmp_path / "nut/train/good").mkdir(parents=True)
    for i in range(3):
        Image.fromarray(np.roll(pixels, i, axis=0)).save(tmp_path / "nut/train/good" / f"{i}{name}")
    with pytest.raises(DumenetError, match="set data.pixel_range"):
        open_dataset(tmp_path)
    (problem,) = check_folder(tmp_path)
    assert "0a." in problem and "and 2 more: " in problem and "data.pixel_range" in problem
    train = open_dataset(tmp_path, pixel_range=limits).train
    for i, sample in enumerate(train):
        assert np.array_equal(load_image(sample, 16), np.repeat(np.roll(GREY, i, axis=0)[..., None], 3, axis=2))
    assert main(["data", "check", str(tmp_path), "--set", f"data.pixel_range={list(limits)}"]) == 0
    assert len({content_key(replace(train[0], pixel_range=r)) for r in (None, limits, (-9999, 1e6))}) == 3
    far = (limits[0], limits[0] + (limits[1] - limits[0]) / 2)
    assert "lie outside data.pixel_range" in check_folder(tmp_path, pixel_range=far)[0]


def test_full_16_bits_and_8_bits_need_no_range(tmp_path):
    (tmp_path / "nut/train/good").mkdir(parents=True)
    for i, pixels in enumerate((GREY, GREY * np.uint16(257), GREY.astype(np.int32) * 257, GREY * np.uint16(8))):
        Image.fromarray(pixels).save(tmp_path / "nut/train/good" / f"{i}.tif")
    images = [load_image(s, 16)[..., 0] for s in open_dataset(tmp_path).train]
    assert all(np.array_equal(image, GREY) for image in images[:3]) and images[3].max() == 8
    assert np.array_equal(load_image(open_dataset(tmp_path, pixel_range=(0, 4095)).train[0], 16)[..., 0], GREY)


def test_colour_that_cannot_be_read_whole_is_refused(tmp_path):
    colour = np.repeat(GREY[..., None], 3, axis=2)
    imsave(tmp_path / "float.tif", (colour / 255).astype(np.float32), check_contrast=False)
    imsave(tmp_path / "deep.tif", colour * np.uint16(257), check_contrast=False)
    whole = (tmp_path / "float.tif").read_bytes()
    with pytest.raises(DumenetError, match="float.tif is empty, .* or a TIFF of a kind that is not read"):
        load_image(Sample("a", "c", "good", tmp_path / "float.tif"), 16)
    (tmp_path / "float.tif").write_bytes(whole[:7])
    with pytest.raises(DumenetError, match="float.tif is empty, cut short or not an image"):
        load_image(Sample("a", "c", "good", tmp_path / "float.tif"), 16)
    deep = Sample("a", "c", "good", tmp_path / "deep.tif")
    assert np.array_equal(load_image(deep, 16), colour)
    with pytest.raises(DumenetError, match="deep.tif is 16-bit colour.*leave data.pixel_range out"):
        load_image(replace(deep, pixel_range=(0, 4095)), 16)
    imsave(tmp_path / "deep.tif", colour * np.uint16(16), check_contrast=False)
    with pytest.raises(DumenetError, match="almost black"):
        check_range([deep])


@pytest.mark.parametrize("method", ["dumenet", "padim"])
def test_a_detector_reads_all_images_by_one_range(tree, tmp_path, method):
    for file in tree.rglob("train/good/*.png"):
        Image.fromarray(np.asarray(Image.open(file))[..., 0] * np.uint16(16)).save(file)
    shared = {k: v for k, v in TINY["features"].items() if k != "grid"}  # PaDiM has its own
    groups = TINY if method == "dumenet" else {"features": shared}
    given = {f"{s}__{k}": v for s, group in groups.items() for k, v in group.items()}
    with pytest.raises(DumenetError, match="almost black"):
        Detector(method, **given).fit(tree / "bolt")
    detector = Detector(method, data__pixel_range=[0, 4080], **given).fit(tree / "bolt")
    if method == "dumenet":
        detector = load(detector.save(tmp_path / "part.pt"))
    file = tree / "bolt/train/good/003.png"
    tones = np.asarray(Image.open(file))
    assert np.array_equal(detector.predict(file).seen[..., 0], tones // 16)
    Image.fromarray((tones / 4080).astype(np.float32)).save(tmp_path / "other.tif")
    assert detector.predict(tmp_path / "other.tif").seen.max() == 0  # read by the same range, not by its own


# Folders


def test_all_some_or_one_category(root):
    dataset = read_folder(root)
    assert dataset.categories == ["cloth", "nut"] and dataset.has_masks
    assert (len(dataset.train), len(dataset.test)) == (6, 4 + 6)
    names = [s.name for s in dataset.train + dataset.test]
    assert len(set(names)) == 16 and names[0] == "cloth/train/good/000.JPG"
    assert read_folder(root, "nut").categories == read_folder(root, ["nut"]).categories == ["nut"]
    assert [s.name for s in read_folder(root, ("all",)).test] == [s.name for s in dataset.test]
    defect = next(s for s in dataset.test if s.defect == "stain")
    assert defect.mask.name == "000.png" and load_mask(defect, 20).sum() == 25


def test_the_root_may_lie_deeper_or_be_one_category(root, tmp_path):
    one = read_folder(root / "nut")
    assert one.categories == ["nut"] and one.train[0].name == "train/good/000.png" and len(one.test) == 6
    for inside in ("mvtec_anomaly_detection", "MVTec-AD/mvtec_anomaly_detection"):
        outer = tmp_path / "outer" / inside.split("/")[0]
        shutil.copytree(root / "nut", outer.parent / inside / "nut")
        dataset = read_folder(outer.parent)
        assert dataset.name == "mvtec" and dataset.train[0].name == "nut/train/good/000.png"
        shutil.rmtree(outer.parent)


def test_photographs_of_ones_own_need_neither_test_nor_masks(tmp_path):
    category(tmp_path / "nut", masks=False)
    dataset = read_folder(tmp_path / "nut")
    assert not dataset.has_masks and sum(s.label for s in dataset.test) == 4
    for i in range(4):
        save(picture(i), tmp_path / "photos" / "mug" / "train" / "good" / f"IMG {i}.jpeg")
    dataset = read_folder(tmp_path / "photos")
    assert len(dataset.train) == 4 and dataset.test == [] and not dataset.has_masks
    assert check_folder(tmp_path / "photos") == []


@pytest.mark.parametrize("name", ["Good", "ok", "NORMAL", "intact"])
def test_folders_of_normal_images_have_several_names(root, name):
    for part in ("train", "test"):
        (root / "nut" / part / "good").rename(root / "nut" / part / name)
    more = ["--set", "data.normal_names=intact"] if name == "intact" else []
    dataset = open_dataset(root, "nut", normal_names=["Intact"] if more else [])
    assert len(dataset.train) == 3 and {s.defect for s in dataset.test} == {"good", "crack", "hole"}
    assert main(["data", "check", str(root), *more]) == 0
    if more:
        line = (
            "test/intact/000.png and 1 more .001.png. has no mask.* if intact holds normal images, name it in data.norm"
        )
        assert sum(bool(re.search(line, p)) for p in check_folder(root)) == 1
        with pytest.raises(DumenetError, match=line):
            read_folder(root)
        main(["data", "index", str(root), *more])
        assert [s.defect for s in read_folder(root).test] == [s.defect for s in open_dataset(root, "all").test]


@pytest.mark.parametrize("inner", ["", "mvtec_anomaly_detection"])
def test_index_round_trip(root, tmp_path, inner):
    base = tmp_path / "indexed"
    shutil.copytree(root / "nut", base / inner / "nut")
    before = read_folder(base)
    write_index(before, base, base)
    lines = [json.loads(line) for line in (base / "test.json").read_text().splitlines()]
    plain = {"filename", "label", "label_name", "clsname"}
    assert [set(line) for line in lines] == [plain | ({"maskname"} if line["label"] else set()) for line in lines]
    after = read_folder(base)  # this time by the index
    fields = [(s.name, s.category, s.defect, s.source, s.mask) for s in before.train + before.test]
    assert fields == [(s.name, s.category, s.defect, s.source, s.mask) for s in after.train + after.test]
    assert fingerprint(before) == fingerprint(after) and after.has_masks and check_folder(base) == []
    save(picture(7), base / inner / "nut" / "train" / "good" / "new.png")
    assert (len(read_folder(base).train), len(read_folder(base, use_index=False).train)) == (3, 4)


def test_an_index_of_uniad_names_defects_by_their_folder(root):
    row = {"filename": "nut/test/crack/000.png", "label": 1, "label_name": "defective", "clsname": "nut"}
    row["maskname"] = "nut/ground_truth/crack/000_mask.png"
    (root / "train.json").touch()
    (root / "test.json").write_text(json.dumps(row) + "\n\n", encoding="utf-8-sig")
    (sample,) = read_folder(root).test
    assert sample.defect == "crack" and sample.label == 1


def test_images_of_hidden_folders_are_not_found(tmp_path):
    for name in ("a.png", ".thumbnails/a.png", "part/.ipynb_checkpoints/b-checkpoint.png", "part/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert find_images(tmp_path) == ([tmp_path / "a.png", tmp_path / "part/b.png"], [])


def test_fingerprint_changes_with_any_image(root):
    before = fingerprint(read_folder(root))
    assert len(before) == 16 and before == fingerprint(read_folder(root))
    save(picture(99), root / "nut" / "test" / "good" / "000.png")
    assert fingerprint(read_folder(root)) != before


def test_fingerprint_changes_with_a_category_that_no_name_tells():
    image = np.zeros((4, 4, 3), np.uint8)
    made = lambda *names: Dataset("d", [Sample(f"{i}.png", c, "good", image) for i, c in enumerate(names)], [])  # noqa: E731
    assert fingerprint(made("a", "a", "b")) != fingerprint(made("a", "b", "b"))
    one = Sample("a.png", "c", "good", image)
    others = [one, replace(one, defect="hole"), replace(one, name="b.png")]
    assert len({fingerprint(Dataset("d", [], [s])) for s in others}) == 3


def reshape(root, shape):
    """The masks of nut in another layout: the folder, and what `load_mask` finds."""
    truth = root / "nut" / "ground_truth"
    for number, mask in enumerate(sorted(truth.glob("*/*.png"))):
        image = root / "nut" / "test" / mask.parent.name / mask.name.replace("_mask", "")
        image.rename(image.with_name(f"{number}_mask.png"))
        pixels = np.asarray(Image.open(mask)).copy()
        mask.unlink()
        name = {"flat": f"{number}_mask_mask.png", "same name": f"{mask.parent.name}/{number}_mask.png"}
        if shape == "folder for each image":  # MVTec LOCO; two parts of the defect
            for part, columns in enumerate((slice(7), slice(7, None))):
                half = np.zeros_like(pixels)
                half[:, columns] = pixels[:, columns]
                save(Image.fromarray(half), truth / mask.parent.name / f"{number}_mask" / f"{part:03d}.png")
        else:
            save(Image.fromarray(pixels), truth / name[shape])


@pytest.mark.parametrize("shape", ["folder for each image", "flat", "same name"])
def test_masks_in_other_layouts(root, shape):
    before = [load_mask(s, 20).sum() for s in read_folder(root, "nut").test]
    reshape(root, shape)
    dataset = read_folder(root, "nut")
    assert dataset.has_masks and [load_mask(s, 20).sum() for s in dataset.test] == before == [25, 25, 0, 0, 25, 25]
    save(Image.new("L", (20, 16)), root / "nut/ground_truth/good/000.png")  # black: nothing is marked
    assert check_folder(root) == []
    write_index(dataset, root, root)
    assert [s.mask for s in read_folder(root).test] == [s.mask for s in dataset.test]
    config = make_config(data__source=str(root))
    known = network_job(config).identity["masks"]
    save(Image.new("L", (20, 16), 255), mask_files(dataset.test[-1].mask)[-1])
    assert network_job(config).identity["masks"] != known


def test_what_predict_writes_is_no_image(root):
    for end in OUTPUTS.values():
        save(picture(60), root / "nut" / "train" / "good" / f"000.png{end}")
    assert len(read_folder(root, "nut").train) == 3 and check_folder(root) == []


def test_doubtful_masks_are_reported(root):
    truth = root / "nut" / "ground_truth"
    save(picture(50), root / "nut/test/crack/000.bmp")
    save(Image.new("L", (20, 16), 255), truth / "good" / "001_mask.png")
    (truth / "hole" / "001_mask.png").unlink()
    (truth / "hole" / "001.json").write_text("{}")
    same = "000.bmp and .*000.png have the same mask .*000_mask.png: rename one"
    with pytest.raises(DumenetError, match=same):
        read_folder(root)
    expected = (same, "001.json for one; a mask is an image", "good/001_mask.png: marks a defect, but")
    expected += ("hole/001.png has no mask, but others of nut have one: add it .ground_truth/hole/001_mask.png, or",)
    problems = check_folder(root)
    assert [sum(bool(re.search(part, p)) for p in problems) for part in expected] == [1, 1, 1, 1] and len(problems) == 4


def test_a_category_without_masks_leaves_the_others_their_pixel_metrics(root):
    shutil.rmtree(root / "cloth" / "ground_truth")
    dataset = read_folder(root)
    maps = np.random.default_rng(0).random((len(dataset.test), 20, 20))
    metrics = measure(dataset, Scores(maps.max(axis=(1, 2)), maps), 20, bootstrap=0)
    assert dataset.masked == {"nut"} and not dataset.has_masks
    assert (
        metrics["per_category"]["cloth"]["pro"] is None and metrics["per_category"]["cloth"]["image_auroc"] is not None
    )
    assert metrics["mean"]["count"]["pro"] == 1 and metrics["mean"]["count"]["image_auroc"] == 2
    alone = read_folder(root, "nut")
    part = maps[[s.category == "nut" for s in dataset.test]]
    for name, value in measure(alone, Scores(part.max(axis=(1, 2)), part), 20, bootstrap=0)["mean"].items():
        assert name == "count" or value == metrics["per_category"]["nut"][name]
    assert metrics["pooled"]["pro"] == metrics["mean"]["pro"]


def table(path, lines, separator=","):
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(separator.join(line) for line in lines), encoding="utf-8")


def to_loco(root):
    for kind, name in (("crack", "logical_anomalies"), ("hole", "structural_anomalies")):
        for i in range(2):
            old, new = (root / "nut/ground_truth" / k for k in (f"{kind}/{i:03d}_mask.png", f"{name}/{i:03d}/000.png"))
            new.parent.mkdir(parents=True)
            old.rename(new)
        (root / "nut/test" / kind).rename(root / "nut/test" / name)
        (root / "nut/ground_truth" / kind).rmdir()


def to_3d(root):
    """As MVTec 3D-AD has it: masks of normal images too, and positions as floats of three channels."""
    for kind in [*(root / "nut").glob("t*/*")]:
        for file in [*kind.glob("*.png")]:
            save(Image.open(file), kind / "rgb" / file.name)
            (kind / "xyz").mkdir(exist_ok=True)
            imsave(kind / "xyz" / f"{file.stem}.tiff", np.zeros((4, 4, 3), np.float32), check_contrast=False)
            mask = root / "nut/ground_truth" / kind.name / f"{file.stem}_mask.png"
            if kind.parent.name == "test":
                save(Image.open(mask) if mask.exists() else Image.new("L", (20, 16)), kind / "gt" / file.name)
            file.unlink()
    shutil.rmtree(root / "nut/ground_truth")
    (root / "nut/calibration").mkdir()
    (root / "nut/validation/good/rgb").mkdir(parents=True)


def to_btad(root):
    for part, old, new in (("train", "good", "ok"), ("test", "good", "ok"), ("test", "hole", "ko")):
        (root / "nut" / part / old).rename(root / "nut" / part / new)
    (root / "nut/ground_truth/hole").rename(root / "nut/ground_truth/ko")
    for file in (root / "nut/ground_truth/ko").glob("*"):
        file.rename(file.with_name(file.name.replace("_mask", "")))
    for part in ("test", "ground_truth"):
        shutil.rmtree(root / "nut" / part / "crack")


def to_visa(root):
    lines = [("object", "split", "label", "image", "mask")]
    for sample in [*read_folder(root, "nut").train, *read_folder(root, "nut").test]:
        number, split = len(lines), sample.name.split("/")[1]
        kind = "Anomaly" if sample.label else "Normal"
        image = save(Image.open(sample.source), root / f"nut/Data/Images/{kind}/{number:03d}.JPG", quality=100)
        mask = root / f"nut/Data/Masks/Anomaly/{number:03d}.png"
        if sample.label:  # VisA's masks hold small numbers
            save(Image.fromarray(np.asarray(Image.open(sample.mask)) // 255 * 3), mask)
        names = [p.relative_to(root).as_posix() if p.exists() else "" for p in (image, mask)]
        lines.append(("nut", split, "anomaly" if sample.label else "normal", *names))
    for part in ("train", "test", "ground_truth"):
        shutil.rmtree(root / "nut" / part)
    table(root / "split_csv/1cls.csv", lines)


def to_csv(root):
    lines = [("Label", "mask", "path", "split", "remark", "category")]
    for sample in [*read_folder(root, "nut").train, *read_folder(root, "nut").test]:
        mask = sample.mask.relative_to(root).as_posix() if sample.mask else ""
        lines.append((sample.defect.replace("good", "OK"), mask, sample.name, sample.name.split("/")[1], "a", "bolt"))
    lines.append(("0", "", "nowhere.png", "validation", "", "bolt"))
    table(root / "parts.csv", lines)
    return root / "parts.csv"


LAYOUTS = {  # what it is: (how it is made, its defects, what the check says)
    "MVTec-AD, MPDD": (lambda r: None, ["crack", "hole"], "is in the layout of MVTec-AD (<category>/train/good, "),
    "MVTec LOCO": (
        to_loco,
        ["logical_anomalies", "structural_anomalies"],
        "is in the layout of MVTec LOCO (<category>/train",
    ),  # fmt: skip
    "MVTec 3D-AD": (to_3d, ["crack", "hole"], "is in the layout of MVTec 3D-AD (<category>/train/good/rgb, "),
    "BTAD": (to_btad, ["ko"], "is in the layout of BTAD (<category>/train/ok, "),
    "VisA": (to_visa, ["anomaly"], " is VisA, read by the table split_csv/1cls.csv, "),
    "CSV": (to_csv, ["crack", "hole"], "parts.csv is read by the table parts.csv, "),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_a_layout_is_found_from_what_is_there(tmp_path, case, capsys, monkeypatch):
    category(tmp_path / "nut")
    make, kinds, says = LAYOUTS[case]
    monkeypatch.chdir(tmp_path)
    root = make(Path()) or Path()
    dataset = open_dataset(root)
    bad = [s for s in dataset.test if s.label]
    assert dataset.categories == ["bolt" if case == "CSV" else "nut"] and sorted({s.defect for s in bad}) == kinds
    count = 2 if case == "BTAD" else 4
    assert (len(dataset.train), len(dataset.test), len(bad)) == (3, 2 + count, count)
    assert not any(s.label or s.mask for s in dataset.train) and dataset.has_masks
    assert [load_mask(s, 20).sum() for s in dataset.test] == [25 * s.label for s in dataset.test]
    tones = sorted(load_image(s, 16).mean() for s in dataset.train)
    assert np.allclose(tones, sorted(np.asarray(picture(i).resize((16, 16), 2)).mean() for i in range(3)), atol=0.5)
    assert len({s.name for s in dataset.train + dataset.test}) == 5 + count
    assert main(["data", "check", str(root)]) == 0
    first, second, last = capsys.readouterr().out.splitlines()
    sizes = f", test images: {2 + count}, defective: {count}, with masks: {count}."
    assert says in first and first.endswith(f", categories: 1, training images: 3{sizes}")
    assert re.search("under 20 normal images .of (nut|bolt) 3.: expect three times the false alarms", second)
    assert last == f"{root} is clean."
    main(["data", "index", str(root), "--out", "."])
    assert len(_normal(root, False)) == 3
    if root == Path():
        again = read_folder(root)
        assert [(s.name, s.defect, s.mask) for s in again.test] == [(s.name, s.defect, s.mask) for s in dataset.test]


def test_what_is_said_of_few_images():
    def said(*counts):
        train = [Sample(f"{k}/{i}", f"c{k}", "good", Path()) for k, count in enumerate(counts) for i in range(count)]
        return few_normal(Dataset("d", train, []))

    assert said(20, 50) == said() == "" and "images (of c1 19, c3 2): expect" in said(20, 19, 1, 2)
    assert "One normal image, of c2, leaves none" in said(20, 19, 1, 2) and "Thresholds rest" not in said(1)


def test_a_table_of_the_folder_above_is_read(tmp_path):
    category(tmp_path / "nut")
    to_visa(tmp_path)
    (tmp_path / "split_csv/1cls.csv").rename(tmp_path / "split_csv/2cls_highshot.csv")
    assert len(read_folder(tmp_path / "split_csv/2cls_highshot.csv").test) == 6
    with pytest.raises(DumenetError, match="no category: put normal .* split_csv/1cls.csv, or another layout of data"):
        read_folder(tmp_path)
    (problem,) = check_folder(tmp_path)
    assert "no category; put normal photographs into NAME/train/good, " in problem
    assert "layout" not in describe(tmp_path)[0]  # of one that nobody has found


LINES = "path,label,split\na.png,good,train\nb.png,0,train\n"
TABLES = {  # what is wrong: (the table, the sentence)
    "empty": ("", "p.csv has no column path: its first line must name path, label and split"),
    "no rows": ("path,label,split\n", "p.csv lists no images"),
    "other separator": (LINES.replace(",", ";"), "no column path: .* it names 'path;label;split'"),
    "lacking column": ("path,label\na.png,ok\n", "p.csv has no column split"),
    "lacking label": (LINES + "c.png,,test\n", "p.csv line 4 lacks its path or its label"),
    "short line": (LINES + "c.png\n", "p.csv line 4 lacks its path or its label"),
    "line that ends before its path": ("label,split,path\nok,train\n", "p.csv line 2 lacks its path or its label"),
    "lacking file": (LINES + "z.png,ok,test\n", "p.csv line 4 names .*z.png, which is not there"),
    "lacking mask": (LINES.replace("split\n", "split,mask\n") + "c.png,hole,test,z.png\n", "names .*z.png, which is"),
    "mask of one": ("path,label,split,mask\na.png,0,train\nb.png,x,test,m.png\nc.png,x,test\n", "c.png has no mask"),
    "mask of two": ("path,label,split,mask\nb.png,x,test,m.png\nc.png,x,test,m.png\n", "have the same mask"),
    "unknown split": (LINES + "c.png,ok,tset\n", "p.csv line 4 has the split 'tset'"),
    "defect to train on": (LINES + "c.png,hole,train\n", "p.csv lists the defect .*c.png: training images must have"),
    "twice": (LINES + "a.png,ok,test\n", "p.csv lists .*a.png 2 times"),
    "elsewhere": (LINES + "../c.png,ok,test\n", "p.csv line 4 names ../c.png: give file names below"),
    "odd label": (LINES + "c.png,a/b,test\n", "p.csv line 4 holds the name 'a/b'"),
    "zero byte": (LINES + "c.p\0ng,ok,test\n", "p.csv line 4 (names|is not CSV)"),
    "no text": (LINES.encode("utf-16").decode("latin-1"), "no column path"),
    "field without end": (LINES + 'c.png,"' + "a" * 200_000, "p.csv line 4 is not CSV .field larger"),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_table_that_cannot_be_used_is_one_sentence(tmp_path, case):
    content, sentence = TABLES[case]
    for i, name in enumerate("abc"):
        save(picture(i), tmp_path / f"{name}.png")
    save(Image.new("L", (20, 16), 255), tmp_path / "m.png")
    (tmp_path / "p.csv").write_text(content, encoding="utf-8")
    with pytest.raises(DumenetError, match=sentence) as caught:
        read_folder(tmp_path / "p.csv")
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
    assert case == "no rows" or any(re.search(sentence, p) for p in check_folder(tmp_path / "p.csv"))


def test_a_table_without_category_has_its_own_name(tmp_path):
    for name in "abc":
        save(picture(ord(name)), tmp_path / "more" / f"{name}.png")
    (tmp_path / "p.csv").write_text(
        "\ufeffpath, label, split\n" + LINES[17:].replace("\n", "\r\n").replace("a.", "more/a.")
    )
    save(picture(1), tmp_path / "b.png")
    dataset = open_dataset(tmp_path / "p.csv")
    assert dataset.name == "p" and dataset.categories == ["p"] and dataset.train[0].name == "more/a.png"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_a_mask_of_another_size_is_refused_before_training(tmp_path, suffix):
    """By headers alone, which tell how an image is turned."""
    category(tmp_path / "nut", suffix)
    file, exif = tmp_path / f"nut/test/hole/001{suffix}", Image.Exif()
    exif[0x0112] = 6  # by 90 degrees
    save(picture(1, (16, 20)), file, exif=exif)
    open_dataset(tmp_path)
    save(picture(1), file, exif=exif)
    with pytest.raises(DumenetError, match="Mask .*hole/001_mask.png is 20 x 16 pixels, but its image .* is 16 x 20"):
        open_dataset(tmp_path)
    (tmp_path / "nut/ground_truth/hole/001_mask.png").write_bytes(b"")
    with pytest.raises(DumenetError, match="001_mask.png is empty"):
        open_dataset(tmp_path)


def test_masks_are_compared_without_being_decoded(root, monkeypatch):
    monkeypatch.setattr("dumenet.data.images.load_mask", lambda *given: pytest.fail("decoded"))
    monkeypatch.setattr(PngImageFile, "load", lambda image: pytest.fail("decoded"))
    assert open_dataset(root, "nut").has_masks


FIRST, INDEX = "nut/train/good/000.png", "train.json"


def load_lost_mask(root):
    shutil.rmtree(root / "nut" / "ground_truth")
    load_mask(next(s for s in read_folder(root, "nut").test if s.label), 8)


BAD = {  # what is wrong: (what reads it, what the sentence says)
    "file gone": (lambda r: load_image(Sample("a", "c", "good", r / "a.png"), 8), "a.png.*restore"),
    "key of no file": (lambda r: content_key(Sample("a", "c", "good", r / "a.png")), "a.png.*restore"),
    "mask never given": (load_lost_mask, "crack/000.png has no mask: add one"),
    "a file as root": (lambda r: read_folder(r / FIRST), "no folder .*000.png"),
    "no category": (lambda r: read_folder(r, []), "name some of cloth, nut"),
    "index empty": (lambda r: (r / INDEX).write_text("") or read_folder(r), "lists no images: delete it"),
    "index out of reach": (lambda r: write_index(read_folder(r), r, r / FIRST / "x"), "Cannot write the index.*choose"),
    "unknown split": (lambda r: read_digits("abcde"), "split 'abcde'"),
    "no CIFAR-10": (lambda r: read_cifar10(r), "holds no CIFAR-10: expected"),
    "broken tar": (lambda r: (r / "x.tar.gz").write_bytes(b"no") and read_cifar10(r), "x.tar.gz.*again"),
    "broken archive": (lambda r: (r / BATCHES).mkdir() or read_cifar10(r), "incomplete or damaged.*again"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence(root, name):
    read, pattern = BAD[name]
    with pytest.raises(DumenetError, match=pattern) as caught:
        read(root)
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text


def test_check_reports_every_problem_at_once(root):
    """Each kind of them: test_bad_input.py."""
    assert check_folder(root) == []
    nut = root / "nut"
    (nut / "train/good/001.png").write_bytes(b"")
    (nut / "ground_truth/crack/001_mask.png").unlink()
    (nut / "validation" / "good").mkdir(parents=True)  # MVTec 3D has one; it is left alone
    (root / "bare" / "train" / "good").mkdir(parents=True)
    row = {"filename": FIRST, "label": 1, "label_name": "good", "clsname": "nut"}
    (root / INDEX).write_text(json.dumps(row) + "\n")
    problems = check_folder(root)
    for part in ("001.png: unreadable", "001.png has no mask", "bare: empty category", "must have label 0."):
        assert sum(part in p for p in problems) == 1, (part, problems)
    assert len(problems) == 4


# CIFAR-10 and digits


@pytest.fixture
def cifar(tmp_path):
    """Class folders: 3 training and 2 test images a class."""
    for k, name in enumerate(CLASSES):
        for part, count in (("train", 3), ("test", 2)):
            for i in range(count):
                save(picture(100 * k + i + count, (32, 32)), tmp_path / "c" / part / name / f"{i:04d}.png")
    return tmp_path / "c"


def test_cifar_from_folders_and_from_tars_is_the_same(cifar, tmp_path):
    dataset = read_cifar10(cifar, "{56789}")
    assert dataset.categories == ["{56789}"] and not dataset.has_masks
    assert (len(dataset.train), len(dataset.test)) == (15, 20)
    assert {s.defect for s in dataset.train} == {"good"}
    assert {s.defect for s in dataset.test} == {"good", *CLASSES[:5]} and sum(s.label for s in dataset.test) == 10
    assert dataset.train[0].name == "train/dog/0000.png" and dataset.train[0].source.shape == (32, 32, 3)
    (tmp_path / "tars").mkdir()
    for part in ("train", "test"):
        with tarfile.open(tmp_path / "tars" / f"{part}.tar.gz", "w:gz") as archive:
            archive.add(cifar / part, f"./{part}")
    assert fingerprint(read_cifar10(tmp_path / "tars", "56789")) == fingerprint(dataset)
    assert fingerprint(open_dataset(tmp_path / "tars", normals="56789")) == fingerprint(dataset)
    assert fingerprint(open_dataset(cifar, normals="56789")) == fingerprint(dataset)


def test_cifar_subsets_follow_the_seed(cifar):
    def names(seed):
        return [s.name for s in read_cifar10(cifar, "02468", per_class_train=1, per_class_test=1, seed=seed).train]

    assert len(names(0)) == 5 and names(0) == names(0)
    assert len({tuple(names(seed)) for seed in range(5)}) > 1
    shutil.rmtree(cifar / "train" / "bird")
    with pytest.raises(DumenetError, match="no images of train/bird"):
        read_cifar10(cifar)


def test_cifar10_comes_from_its_archive(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    rng = np.random.default_rng(0)
    (tmp_path / BATCHES).mkdir()

    def put(name, content):
        (tmp_path / BATCHES / name).write_bytes(content := pickle.dumps(content))
        return [name, hashlib.md5(content).hexdigest()]

    def batch():
        return {"data": rng.integers(0, 256, (20, 3072), dtype=np.uint8), "labels": [*range(10)] * 2}

    monkeypatch.setattr(CIFAR10, "train_list", [put(f"data_batch_{i}", batch()) for i in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [put("test_batch", batch())])
    name, md5 = put("batches.meta", {"label_names": list(CLASSES)})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": md5})
    dataset = read_cifar10(tmp_path)
    assert (len(dataset.train), len(dataset.test)) == (50, 20)
    assert fingerprint(open_dataset(tmp_path)) == fingerprint(dataset)
    (tmp_path / BATCHES / "test_batch").write_bytes(b"damaged")
    with pytest.raises(DumenetError, match="damaged .*again"):
        read_cifar10(tmp_path)


def test_digits():
    dataset = read_digits("13579")
    assert dataset.categories == ["{13579}"] and len(dataset.test) in range(895, 905)
    assert {s.name.split("/")[1] for s in dataset.train} == set("13579")
    assert {s.defect for s in dataset.test} == {"good", *"02468"}
    assert not {s.name.split("/")[2] for s in dataset.train} & {s.name.split("/")[2] for s in dataset.test}
    assert dataset.train[0].source.shape == (8, 8, 3) and max(s.source.max() for s in dataset.test) == 255
    assert fingerprint(dataset) == fingerprint(open_dataset("digits", normals="{97531}"))


def test_digits_are_as_many_as_wanted():
    whole, some = (read_digits("01234", *most, seed=1) for most in ((None, None), (20, 30)))
    assert fingerprint(read_digits("01234", 800, 800, seed=1)) == fingerprint(whole)
    assert (len(some.train), len(some.test)) == (100, 300)
    for part in ("train", "test"):
        assert {s.name for s in getattr(some, part)} < {s.name for s in getattr(whole, part)}
    assert len(open_dataset("digits", per_class_train=20, per_class_test=30).test) == 300
    assert {s.name for s in read_digits("01234", 20, seed=2).train} != {s.name for s in some.train}


def test_ten_classes_have_one_category_their_split(cifar):
    for source in ("digits", cifar):
        for categories in ("all", ("all",), "56789", ("{56789}",)):
            assert open_dataset(source, categories, "{98765}").categories == ["{56789}"]
        for categories in ("cat", ("all", "{01234}")):
            with pytest.raises(
                DumenetError, match="only the split .56789.: splits are chosen by data.normals, e.g. `--set"
            ):
                open_dataset(source, categories, "56789")


def test_categories_as_classes(tree):
    whole = open_dataset(tree)  # bolt, felt
    data = as_classes(whole, "1")
    assert data.categories == ["{1}"] and data.name == whole.name and not data.has_masks
    assert [s.name for s in data.train] == [s.name for s in whole.train if s.category == "felt"]
    assert {(s.name.split("/")[0], s.defect) for s in data.test} == {("bolt", "bolt"), ("felt", "good")}
    assert len(data.test) == sum(not s.label for s in whole.test)
    for normals in ("", "01", "7"):
        with pytest.raises(DumenetError, match="Of the classes bolt, felt some must be normal and some foreign"):
            as_classes(whole, normals)


def test_elpv_is_read_from_its_package():
    pytest.importorskip("elpv_dataset", reason="the solar cells are not installed: pip install elpv-dataset")
    data = open_dataset("elpv")
    counted = Counter((s.category, s in data.train, s.defect) for s in data.train + data.test)
    assert counted == {
        ("mono", True, "good"): 441, ("mono", False, "good"): 147, ("mono", False, "defective"): 313,
        ("poly", True, "good"): 690, ("poly", False, "good"): 230, ("poly", False, "defective"): 402,
    }  # fmt: skip
    assert len({s.name for s in data.train + data.test}) == 2223 and not data.has_masks
    assert load_image(data.train[0], 64).shape == (64, 64, 3)
    assert fingerprint(open_dataset("elpv", "mono")) == fingerprint(open_dataset("elpv", ["mono"]))
    with pytest.raises(DumenetError, match="Unknown category 'mon': did you mean 'mono'"):
        open_dataset("elpv", "mon")


def test_elpv_leaves_out_doubtful_cells_and_tests_on_every_fourth_normal_one(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    chances = ["0.0"] * 9 + ["1.0", "0.3333333333333333"]
    (tmp_path / "data" / "labels.csv").write_text("".join(f"images/{i}.png  {p} mono\n" for i, p in enumerate(chances)))
    package = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: package)
    data = open_dataset("elpv")
    assert [Path(s.name).stem for s in data.test] == ["3", "7", "9"] and len(data.train) == 7


def test_elpv_without_its_package(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DumenetError, match=r"^The data set elpv .* pip install elpv-dataset\.$"):
        open_dataset("elpv")


# Real data, where it is there


def real(part):
    if not (SHARED / part).exists():
        pytest.skip(f"no real data at {SHARED / part}: set DUMENET_SHARED to the folder that holds it")
    return SHARED / part


def test_mvtec_bottle():
    dataset = open_dataset(real("mvtec"), "bottle")
    assert (dataset.name, len(dataset.train), len(dataset.test)) == ("mvtec", 209, 83)
    assert dataset.has_masks and sum(s.mask is not None for s in dataset.test) == 63
    assert 0.01 < np.mean([load_mask(s, 64).mean() for s in dataset.test if s.label]) < 0.2
    assert check_folder(SHARED / "mvtec") == []


def test_cifar10_tars():
    dataset = open_dataset(real("cifar10"), per_class_train=20, per_class_test=10)
    assert (len(dataset.train), len(dataset.test), sum(s.label for s in dataset.test)) == (100, 100, 50)
    full = read_cifar10(SHARED / "cifar10", "13579")
    assert (len(full.train), len(full.test), sum(s.label for s in full.test)) == (25000, 10000, 5000)
