"""Reading folders, masks, CIFAR-10 and digits: what works, and what is refused in one sentence."""

import hashlib
import io
import json
import os
import pickle
import shutil
import tarfile
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dumenet.data import (
    Sample,
    check_folder,
    content_key,
    fingerprint,
    load_image,
    load_mask,
    open_dataset,
    read_cifar10,
    read_digits,
    read_folder,
    read_index,
    write_index,
)  # fmt: skip
from dumenet.data.cifar import BATCHES, CLASSES, fetch
from dumenet.errors import DumenetError

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


MODES = {
    ".png": ("RGB", "L", "P", "RGBA", "LA", "1"), ".jpg": ("RGB", "L", "CMYK"), ".jpeg": ("RGB",),
    ".bmp": ("RGB", "L", "P", "1"), ".tif": ("RGB", "L", "P", "RGBA", "LA", "CMYK", "1"), ".TIFF": ("RGB",),
}  # fmt: skip


@pytest.mark.parametrize(("suffix", "mode"), [(s, m) for s in MODES for m in MODES[s]])
def test_every_kind_of_file_gives_rgb(tmp_path, suffix, mode):
    tone = 255 if mode == "1" else 204
    path = save(Image.new("RGB", (30, 20), (tone, tone, tone)).convert(mode), tmp_path / f"a{suffix}")
    array = load_image(Sample("a", "c", "good", path), 24)
    assert array.shape == (24, 24, 3) and array.dtype == np.uint8
    assert np.abs(array.astype(int) - tone).max() <= 6


def test_sixteen_bit_grey_keeps_its_tones(tmp_path):
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16)[None].repeat(256, axis=0)
    path = save(Image.fromarray(ramp), tmp_path / "a.png")
    array = load_image(Sample("a", "c", "good", path), 256)
    assert array[0, 0, 0] == 0 and array[0, -1, 0] == 255 and abs(int(array[0, 128, 1]) - 128) <= 1


def test_exif_orientation_is_applied_to_image_and_mask_check(tmp_path):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, :16] = 255  # left half white; turned by 90 degrees clockwise the white half is on top
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(Image.fromarray(pixels), tmp_path / "a.jpg", exif=exif, quality=95)
    array = load_image(Sample("a", "c", "good", path), 32)
    assert array[4].min() > 200 and array[28].max() < 50
    mask = save(Image.new("L", (16, 32), 255), tmp_path / "m.png")
    assert load_mask(Sample("a", "c", "hole", path, mask), 8).all()


def test_masks_are_nearest_and_anything_above_zero(tmp_path):
    image = save(picture(0, (8, 8)), tmp_path / "a.png")
    values = np.zeros((8, 8), np.uint8)
    values[2:4, 2:4] = 1
    grey = Image.fromarray(values)
    for mask in (grey, Image.fromarray(values > 0), Image.merge("RGB", [grey] * 3)):
        loaded = load_mask(Sample("a", "c", "hole", image, save(mask, tmp_path / "m.png")), 16)
        assert loaded.dtype == bool and loaded.sum() == 16 and loaded[4:8, 4:8].all()
    assert not load_mask(Sample("a", "c", "good", image), 16).any()


def test_arrays_serve_as_sources():
    array = np.asarray(picture(3, (8, 8)))
    sample = Sample("a", "c", "good", array)
    assert np.array_equal(load_image(sample, 8), array)
    assert content_key(sample) == content_key(Sample("b", "d", "x", array.copy()))
    assert content_key(sample) != content_key(Sample("a", "c", "good", array.reshape(4, 16, 3)))


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


def test_photographs_of_ones_own_need_no_test(tmp_path):
    for i in range(4):
        save(picture(i), tmp_path / "photos" / "mug" / "train" / "good" / f"IMG {i}.jpeg")
    dataset = read_folder(tmp_path / "photos")
    assert len(dataset.train) == 4 and dataset.test == [] and not dataset.has_masks
    assert check_folder(tmp_path / "photos") == []


def test_without_ground_truth_there_are_no_masks(tmp_path):
    category(tmp_path / "nut", masks=False)
    dataset = read_folder(tmp_path)
    assert not dataset.has_masks and sum(s.label for s in dataset.test) == 4


@pytest.mark.parametrize("inner", ["", "mvtec_anomaly_detection"])
def test_index_round_trip(root, tmp_path, inner):
    base = tmp_path / "indexed"
    shutil.copytree(root / "nut", base / inner / "nut")
    before = read_folder(base)
    write_index(before, base, base)
    lines = [json.loads(line) for line in (base / "test.json").read_text().splitlines()]
    assert set(lines[0]) == {"filename", "label", "label_name", "maskname", "clsname"}
    assert "maskname" not in lines[-1] or lines[-1]["label"] == 1
    after = read_folder(base)  # this time by the index
    fields = [(s.name, s.category, s.defect, s.source, s.mask) for s in before.train + before.test]
    assert fields == [(s.name, s.category, s.defect, s.source, s.mask) for s in after.train + after.test]
    assert fingerprint(before) == fingerprint(after) and after.has_masks and check_folder(base) == []
    save(picture(7), base / inner / "nut" / "train" / "good" / "new.png")
    assert (len(read_folder(base).train), len(read_folder(base, use_index=False).train)) == (3, 4)


def test_an_index_of_uniad_names_defects_by_their_folder(root):
    row = {"filename": "nut/test/crack/000.png", "label": 1, "label_name": "defective",
           "maskname": "nut/ground_truth/crack/000_mask.png", "clsname": "nut"}  # fmt: skip
    (root / "t.json").write_text(json.dumps(row) + "\n\n", encoding="utf-8-sig")
    (sample,) = read_index(root / "absent.json", root / "t.json", root).test
    assert sample.defect == "crack" and sample.label == 1


def test_fingerprint_changes_with_any_image(root):
    before = fingerprint(read_folder(root))
    assert len(before) == 16 and before == fingerprint(read_folder(root))
    save(picture(99), root / "nut" / "test" / "good" / "000.png")
    assert fingerprint(read_folder(root)) != before


def _load_first(root):
    load_image(read_folder(root, "nut").train[0], 8)


def _load_mask(root):
    load_mask(next(s for s in read_folder(root, "nut").test if s.label), 8)


FIRST, MASK, INDEX = "nut/train/good/000.png", "nut/ground_truth/crack/000_mask.png", "train.json"


def _bomb(path):
    """A PNG header that promises 40,000 x 40,000 pixels."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = (40000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)


def _one_line(path, **changes):
    row = {"filename": FIRST, "label": 0, "label_name": "good", "clsname": "nut"} | changes
    path.write_text(json.dumps({k: v for k, v in row.items() if v is not None}) + "\n")


BAD = {
    "zero bytes": (lambda r: (r / FIRST).write_bytes(b""), _load_first, "000.png.*replace or remove"),
    "cut short": (lambda r: (r / FIRST).write_bytes((r / FIRST).read_bytes()[:300]), _load_first, "000.png.*cut short"),
    "text named png": (lambda r: (r / FIRST).write_text("hello"), _load_first, "000.png.*not an image"),
    "bomb": (lambda r: _bomb(r / FIRST), _load_first, "000.png.*pixels.*scale it down"),
    "file gone": (lambda r: None, lambda r: load_image(Sample("a", "c", "good", r / "a.png"), 8), "a.png.*restore"),
    "key of no file": (lambda r: None, lambda r: content_key(Sample("a", "c", "good", r / "a.png")), "a.png.*restore"),
    "mask size": (lambda r: Image.new("L", (9, 9), 1).save(r / MASK), _load_mask, "9 x 9.*20 x 16.*export"),
    "mask broken": (lambda r: (r / MASK).write_bytes(b"x"), _load_mask, "000_mask.png.*replace"),
    "mask gone": (lambda r: (r / MASK).unlink(), read_folder, "crack.000.png has no mask.*add"),
    "mask never given": (
        lambda r: shutil.rmtree(r / "nut/ground_truth"), _load_mask, "crack/000.png has no mask: add one"
    ),
    "no such root": (lambda r: None, lambda r: read_folder(r / "nowhere"), "no folder .*nowhere.*train/good"),
    "a file as root": (lambda r: None, lambda r: read_folder(r / FIRST), "no folder .*000.png"),
    "empty root": (lambda r: (r / "e").mkdir(), lambda r: read_folder(r / "e"), "no category.*<category>/train/good"),
    "empty category": (lambda r: (r / "e/train/good").mkdir(parents=True), read_folder, "e holds no images"),
    "unknown category": (lambda r: None, lambda r: read_folder(r, "nutt"), "nutt.*did you mean 'nut'"),
    "no category": (lambda r: None, lambda r: read_folder(r, []), "name some of cloth, nut"),
    "index not JSON": (lambda r: (r / INDEX).write_text("{oops\n"), read_folder, "train.json line 1.*fix it"),
    "index not an object": (lambda r: (r / INDEX).write_text("\n[1]\n"), read_folder, "train.json line 2"),
    "index lacks a field": (lambda r: _one_line(r / INDEX, label=None), read_folder, "train.json line 1.*label"),
    "index names a ghost": (lambda r: _one_line(r / INDEX, filename="nut/x.png"), read_folder, "x.png.*delete"),
    "index trains on a defect": (lambda r: _one_line(r / INDEX, label=1), read_folder, "must have label 0"),
    "index empty": (lambda r: (r / INDEX).write_text(""), read_folder, "lists no images: delete it"),
    "index out of reach": (
        lambda r: None, lambda r: write_index(read_folder(r), r, r / FIRST / "x"), "Cannot write the index.*choose"
    ),
    "check of nothing": (lambda r: None, lambda r: check_folder(r / "nowhere"), "no folder .*nowhere"),
    "unknown split": (lambda r: None, lambda r: read_digits("0123"), "split '0123'.*01234"),
    "split of letters": (lambda r: None, lambda r: read_digits("abcde"), "split 'abcde'"),
    "no CIFAR-10": (lambda r: None, lambda r: read_cifar10(r), "holds no CIFAR-10: expected"),
    "broken tar": (lambda r: (r / "x.tar.gz").write_bytes(b"no"), lambda r: read_cifar10(r), "x.tar.gz.*again"),
    "broken archive": (
        lambda r: (r / "cifar-10-batches-py").mkdir(), lambda r: read_cifar10(r), "incomplete or damaged.*again"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence(root, name):
    spoil, use, pattern = BAD[name]
    spoil(root)
    with pytest.raises(DumenetError, match=pattern) as caught:
        use(root)
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text


def test_check_reports_every_problem_at_once(root):
    assert check_folder(root) == []
    nut = root / "nut"
    (nut / "train/good/001.png").write_bytes(b"")
    (nut / "test/crack/000.png").unlink()  # its mask stays
    (nut / "ground_truth/crack/001_mask.png").unlink()
    Image.new("L", (9, 9), 1).save(nut / "ground_truth/hole/000_mask.png")
    Image.new("L", (20, 16)).save(nut / "ground_truth/hole/001_mask.png")
    save(picture(0), nut / "train/bad/000.png")
    save(picture(0), nut / "train/loose.png")
    (nut / "tset").mkdir()
    (nut / "validation" / "good").mkdir(parents=True)  # MVTec 3D has one; tolerated
    (root / "bare" / "train" / "good").mkdir(parents=True)
    (root / "train.json").write_text("{oops\n")
    problems = check_folder(root)
    for part in (
        "001.png: unreadable", "000_mask.png: mask without image", "001.png: image without mask", "mask is 9 x 9",
        "001_mask.png: empty mask", "bad: stray folder", "loose.png: stray image", "tset: stray folder",
        "bare: empty category", "train.json line 1",
    ):  # fmt: skip
        assert sum(part in p for p in problems) == 1, (part, problems)
    assert len(problems) == 10
    _one_line(root / INDEX, label=1)
    problems = check_folder(root)
    assert sum("train.json line 1 lists the defect" in p and "must have label 0" in p for p in problems) == 1


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
    for source in (tmp_path / "tars", [tmp_path / "tars" / "train.tar.gz", tmp_path / "tars" / "test.tar.gz"]):
        assert fingerprint(read_cifar10(source, "56789")) == fingerprint(dataset)
    assert fingerprint(open_dataset(tmp_path / "tars", normals="56789")) == fingerprint(dataset)
    assert fingerprint(open_dataset(cifar, normals="56789")) == fingerprint(dataset)


def test_cifar_subsets_follow_the_seed(cifar):
    def names(seed):
        return [s.name for s in read_cifar10(cifar, "02468", per_class_train=1, per_class_test=1, seed=seed).train]

    assert len(names(0)) == 5 and names(0) == names(0)
    assert len({tuple(names(seed)) for seed in range(5)}) > 1
    with pytest.raises(DumenetError, match="positive"):
        read_cifar10(cifar, per_class_train=0)
    shutil.rmtree(cifar / "train" / "bird")
    with pytest.raises(DumenetError, match="no images of train/bird"):
        read_cifar10(cifar)


class Server(BaseHTTPRequestHandler):
    """Sends `content`; `breaks` and `whole` are faults: bytes after which it hangs up, and whether it knows no ranges."""

    content, breaks, whole, asked = b"", None, False, []

    def do_GET(self):
        start = 0 if self.whole else int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        self.asked.append(start)
        self.send_response(200 if self.whole else 206)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        self.end_headers()
        self.wfile.write(self.content[start:][: self.breaks])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    """A server of this machine, a class whose settings hold for its next answer, and the address of a file."""
    handler = type("Handler", (Server,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield handler, f"http://127.0.0.1:{httpd.server_port}/file.tar.gz"
        httpd.shutdown()


CONTENT = np.random.default_rng(0).bytes(3_000_000)
SUM = (hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))


@pytest.mark.parametrize("whole", [False, True], ids=["ranges", "no ranges"])
def test_a_download_that_breaks_off_goes_on(tmp_path, server, whole):
    handler, url = server
    path = tmp_path / "new" / "file.tar.gz"
    handler.content, handler.breaks, handler.whole = CONTENT, 1_234_567, whole
    with pytest.raises(
        DumenetError, match=r"1,234,567 of 3,000,000 bytes are here.*run the same command again"
    ) as caught:
        fetch(url, path, *SUM)
    assert "\n" not in str(caught.value) and not path.exists()
    handler.breaks = None
    assert fetch(url, path, *SUM).read_bytes() == CONTENT
    assert handler.asked == [0, 0 if whole else 1_234_567]
    assert fetch(url, path, *SUM) == path and len(handler.asked) == 2  # what is there is not asked for again
    assert not list(path.parent.glob("*.part"))


@pytest.mark.parametrize("content", [CONTENT[:-1] + b"?", CONTENT + bytes(9_000_000)], ids=["other bytes", "too long"])
def test_a_download_of_something_else_is_refused(tmp_path, server, content):
    handler, url = server
    handler.content = content
    if len(content) == len(CONTENT):
        assert content != CONTENT
    path = tmp_path / "file.tar.gz"
    path.write_bytes(b"an old file, damaged")
    with pytest.raises(DumenetError, match="SHA-256 differs"):
        fetch(url, path, *SUM)
    assert path.read_bytes() == b"an old file, damaged" and not list(tmp_path.glob("*.part"))
    handler.content = CONTENT
    assert fetch(url, path, *SUM).read_bytes() == CONTENT


def test_a_download_without_a_way_is_one_sentence(tmp_path, server, monkeypatch):
    handler, url = server
    for address in (url.replace("127.0.0.1", "no.such.host.invalid"), url.replace("http://", "nothing://")):
        monkeypatch.setattr("dumenet.data.cifar.ARCHIVE", (address, *SUM))
        with pytest.raises(DumenetError, match=r"could not be downloaded .*0 of 3,000,000 bytes .* by hand") as caught:
            read_cifar10(tmp_path, download=True)
        assert "\n" not in str(caught.value)
    monkeypatch.setattr("dumenet.data.cifar.ARCHIVE", (url, *SUM))
    blocked = tmp_path / "blocked"
    blocked.write_bytes(b"")
    with pytest.raises(DumenetError, match="could not be downloaded"):
        read_cifar10(blocked, download=True)
    handler.content = CONTENT  # the right sum, and yet no archive
    with pytest.raises(DumenetError, match="damaged .* again"):
        read_cifar10(tmp_path, download=True)


def test_cifar10_comes_from_its_archive(tmp_path, server, monkeypatch):
    from torchvision.datasets import CIFAR10

    rng = np.random.default_rng(0)
    with tarfile.open(tmp_path / "made.tar.gz", "w:gz") as tar:

        def add(name, content):
            member = tarfile.TarInfo(f"{BATCHES}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
            return [name, hashlib.md5(content).hexdigest()]

        def batch():
            return pickle.dumps({"data": rng.integers(0, 256, (20, 3072), dtype=np.uint8), "labels": [*range(10)] * 2})

        monkeypatch.setattr(CIFAR10, "train_list", [add(f"data_batch_{i}", batch()) for i in range(1, 6)])
        monkeypatch.setattr(CIFAR10, "test_list", [add("test_batch", batch())])
        name, md5 = add("batches.meta", pickle.dumps({"label_names": list(CLASSES)}))
        monkeypatch.setattr(CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": md5})
    handler, url = server
    handler.content = (tmp_path / "made.tar.gz").read_bytes()
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(handler.content).hexdigest())
    monkeypatch.setattr(CIFAR10, "filename", Path(url).name)
    known = (url, hashlib.sha256(handler.content).hexdigest(), len(handler.content))
    monkeypatch.setattr("dumenet.data.cifar.ARCHIVE", known)
    folder = tmp_path / "cifar10"
    dataset = read_cifar10(folder, download=True)
    assert (len(dataset.train), len(dataset.test)) == (50, 20)
    handler.content = b""  # from here on nothing is asked of it
    again = read_cifar10(folder)
    assert [s.name for s in again.test] == [s.name for s in dataset.test]
    assert all((a.source == b.source).all() for a, b in zip(again.train, read_cifar10(folder, download=True).train))
    (folder / BATCHES / "test_batch").write_bytes(b"damaged")
    with pytest.raises(DumenetError, match="damaged .*again"):
        read_cifar10(folder)
    assert len(read_cifar10(folder, download=True).test) == 20  # unpacked again from the archive, which is still there
    (folder / Path(url).name).unlink()
    shutil.rmtree(folder / BATCHES)
    with pytest.raises(DumenetError, match="could not be downloaded"):
        read_cifar10(folder, download=True)


def test_digits():
    dataset = read_digits("13579")
    assert dataset.categories == ["{13579}"] and len(dataset.test) in range(895, 905)
    assert {s.name.split("/")[1] for s in dataset.train} == set("13579")
    assert {s.defect for s in dataset.test} == {"good", *"02468"}
    assert not {s.name.split("/")[2] for s in dataset.train} & {s.name.split("/")[2] for s in dataset.test}
    assert dataset.train[0].source.shape == (8, 8, 3) and max(s.source.max() for s in dataset.test) == 255
    assert fingerprint(dataset) == fingerprint(open_dataset("digits", normals="{97531}"))


def test_digits_are_as_many_as_asked_for():
    whole, some = (read_digits("01234", *most, seed=1) for most in ((None, None), (20, 30)))
    assert fingerprint(read_digits("01234", 800, 800, seed=1)) == fingerprint(whole)
    assert (len(some.train), len(some.test)) == (100, 300)
    for part in ("train", "test"):
        assert {s.name for s in getattr(some, part)} < {s.name for s in getattr(whole, part)}
    assert len(open_dataset("digits", per_class_train=20, per_class_test=30).test) == 300
    assert {s.name for s in read_digits("01234", 20, seed=2).train} != {s.name for s in some.train}
    with pytest.raises(DumenetError, match="per_class_test is 0"):
        read_digits(per_class_test=0)


def test_ten_classes_have_one_category_their_split(cifar):
    for source in ("digits", cifar):
        for categories in ("all", ("all",), "56789", ("{56789}",)):
            assert open_dataset(source, categories, "{98765}").categories == ["{56789}"]
        for categories in ("cat", ("all", "{01234}")):
            with pytest.raises(
                DumenetError, match="only the split .56789.: splits are chosen by data.normals, e.g. `--set"
            ):
                open_dataset(source, categories, "56789")


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
