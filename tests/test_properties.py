"""What holds for any input: properties of the numbers, and readers that meet damaged files.

The same examples every time, so that no run fails by chance; to look for others, take `derandomize` away.
"""

import io
import json
import tarfile
from unittest.mock import patch

import numpy as np
import pytest
import torch
import yaml
from conftest import TINY
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from dumenet.checkpoint import Trained, load_checkpoint, save_checkpoint
from dumenet.config import Config, config_from_dict, load_config, to_dict
from dumenet.data import Sample, load_image, load_mask, read_cifar10, read_index
from dumenet.data.cifar import CLASSES
from dumenet.errors import DumenetError, shown
from dumenet.metrics import auroc, auroc_interval, average_precision, f1_max, pro
from dumenet.models import build_model
from dumenet.models.memory import ssim

CALM = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
settings.register_profile(
    "calm", derandomize=True, deadline=None, max_examples=40, database=None, suppress_health_check=CALM
)
settings.load_profile("calm")

# --- metrics: labels and scores with ties, whole numbers so that a monotone map keeps every tie

IMAGE_METRICS = (auroc, average_precision, f1_max)
PAIRS = st.lists(st.tuples(st.integers(0, 1), st.integers(-20, 20)), min_size=1, max_size=40)
MAPS = st.integers(1, 4).flatmap(
    lambda n: st.tuples(
        arrays(bool, (n, 7, 6)), arrays(np.int8, (n, 7, 6), elements=st.integers(-5, 5)).map(lambda a: a.astype(float))
    )
)


def columns(pairs):
    labels, scores = np.array(pairs).T
    return labels, scores.astype(float)


@given(PAIRS)
def test_image_metrics_are_shares_or_not_defined(pairs):
    labels, scores = columns(pairs)
    for metric in IMAGE_METRICS:
        value = metric(labels, scores)
        assert (value is None) == (labels.min() == labels.max())
        assert value is None or 0 <= value <= 1
    interval = auroc_interval(labels, scores, n_bootstrap=20)
    assert (interval is None) == (labels.min() == labels.max())
    assert interval is None or 0 <= interval[0] <= interval[1] <= 1


@given(PAIRS, st.randoms(use_true_random=False))
def test_image_metrics_ignore_order_and_scale(pairs, random):
    labels, scores = columns(pairs)
    order = random.sample(range(len(labels)), len(labels))
    for metric in IMAGE_METRICS:
        value = metric(labels, scores)
        assert metric(labels[order], scores[order]) == pytest.approx(value)
        for monotone in (lambda x: 3 * x - 7, np.exp, np.arctan, lambda x: x**3):
            assert metric(labels, monotone(scores)) == pytest.approx(value)


@given(PAIRS)
def test_auroc_is_the_share_of_ordered_pairs_and_turns_over(pairs):
    labels, scores = columns(pairs)
    value = auroc(labels, scores)
    assume(value is not None)
    difference = scores[labels == 1][:, None] - scores[labels == 0]  # (n1, n0)
    assert value == pytest.approx((difference > 0).mean() + (difference == 0).mean() / 2)
    assert auroc(labels, -scores) == pytest.approx(1 - value) == auroc(1 - labels, scores)


@given(PAIRS)
def test_ties_only(pairs):
    labels, _ = columns(pairs)
    share = labels.mean()
    assume(0 < share < 1)
    tied = np.zeros(len(labels))
    assert auroc(labels, tied) == 0.5
    assert average_precision(labels, tied) == pytest.approx(share)
    assert f1_max(labels, tied) == pytest.approx(2 * share / (1 + share))  # everything is called anomalous


@given(MAPS, st.sampled_from([0.05, 0.3, 1.0]))
def test_pro_is_a_share_and_ignores_order_scale_and_mirrors(masks_and_maps, limit):
    masks, maps = masks_and_maps
    value = pro(masks, maps, limit)
    assert (value is None) == (masks.all() or not masks.any())
    assume(value is not None)
    assert 0 <= value <= 1 + 1e-12
    for other in (
        (masks[::-1], maps[::-1]), (masks, np.exp(maps)), (masks[:, ::-1], maps[:, ::-1]),
        (masks.swapaxes(1, 2), maps.swapaxes(1, 2)),
    ):  # fmt: skip
        assert pro(*other, limit) == pytest.approx(value)
    assert pro(masks, masks.astype(float), limit) == pytest.approx(1)


# --- SSIM


def tensors(*shape):
    return arrays(np.float32, shape, elements=st.floats(-3, 3, width=32)).map(torch.from_numpy)


@given(tensors(4, 9), tensors(3, 9))
def test_ssim_lies_between_minus_one_and_one_and_is_symmetric(a, b):
    found = ssim(a, b)
    assert found.shape == (4, 3) and (found.abs() <= 1 + 1e-4).all()
    assert torch.allclose(found, ssim(b, a).T, atol=1e-5)
    assert torch.allclose(ssim(a, a).diagonal(), torch.ones(4), atol=1e-4)
    order = torch.randperm(9)
    assert torch.allclose(ssim(a[:, order], b[:, order]), found, atol=1e-4)  # one window: places do not matter


# --- resizing


PICTURES = st.tuples(st.integers(1, 40), st.integers(1, 40)).flatmap(lambda s: arrays(np.uint8, (*s, 3)))


@given(PICTURES, st.integers(1, 40))
def test_a_resized_image_stays_in_range(pixels, size):
    found = load_image(Sample("a", "c", "good", pixels), size)
    assert found.shape == (size, size, 3) and found.dtype == np.uint8
    assert (found.min((0, 1)) >= pixels.min((0, 1))).all() and (found.max((0, 1)) <= pixels.max((0, 1))).all()
    if pixels.shape[:2] == (size, size):
        assert np.array_equal(found, pixels)


@given(st.tuples(st.integers(1, 20), st.integers(1, 20)).flatmap(lambda s: arrays(bool, s)), st.integers(1, 30))
def test_a_resized_mask_holds_old_pixels_only(tmp_path, mask, size):
    assume(mask.any())
    assume(all((np.arange(1, 2 * size, 2) * n % (2 * size)).all() for n in mask.shape))  # no centre between two pixels
    Image.fromarray(mask).save(tmp_path / "m.png")
    picture = np.zeros((*mask.shape, 3), np.uint8)
    found = load_mask(Sample("a", "c", "hole", picture, tmp_path / "m.png"), size)
    rows, columns = (((np.arange(size) + 0.5) * n / size).astype(int) for n in mask.shape)
    assert np.array_equal(found, mask[np.ix_(rows, columns)])


# --- readers: a damaged file gives a valid result or one sentence


def encoded(kind):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


IMAGES = {kind: encoded(kind) for kind in ("PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP")}


def damaged(whole):
    """`whole` with some bytes exchanged, cut short, or with others in between."""
    place = st.integers(0, len(whole) - 1)
    flips = st.lists(st.tuples(place, st.integers(0, 255)), min_size=1, max_size=8)

    def flip(changes):
        data = bytearray(whole)
        for where, value in changes:
            data[where] = value
        return bytes(data)

    between = st.tuples(place, st.binary(max_size=20)).map(lambda x: whole[: x[0]] + x[1] + whole[x[0] :])
    return st.one_of(flips.map(flip), place.map(lambda n: whole[:n]), between)


def one_sentence(error):
    text = str(error.value if hasattr(error, "value") else error)
    assert text.endswith(".") and "\n" not in text and 10 < len(text) < 2000, text


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of damaged metadata; pytest takes the package's filters away
@settings(max_examples=200)
@given(st.one_of(st.binary(max_size=200), st.sampled_from(sorted(IMAGES)).flatmap(lambda kind: damaged(IMAGES[kind]))))
def test_image_reader_meets_damaged_files(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    try:
        array = load_image(Sample("a", "c", "good", path), 8)
        assert array.shape == (8, 8, 3) and array.dtype == np.uint8
    except DumenetError as error:
        one_sentence(error)


PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.dates()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=8,
)
FIELDS = [(section, key) for section, group in to_dict(Config()).items() for key in group]


@settings(max_examples=200)
@given(st.sampled_from(FIELDS), PLAIN)
def test_any_value_of_any_setting(field, value):
    section, key = field
    try:
        config = config_from_dict({section: {key: value}})
    except DumenetError as error:
        one_sentence(error)
        return
    assert config_from_dict(to_dict(config)) == config
    assert type(getattr(getattr(config, section), key)) is type(getattr(getattr(Config(), section), key)) or key in (
        "per_class_train", "per_class_test", "validation_class",
    )  # fmt: skip


@settings(max_examples=150)
@given(st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode), damaged(yaml.safe_dump(TINY).encode())))
def test_config_reader_meets_damaged_files(tmp_path, content):
    (tmp_path / "a.yaml").write_bytes(content)
    try:
        assert isinstance(config_from_dict(load_config(tmp_path / "a.yaml")), Config)
    except DumenetError as error:
        one_sentence(error)


LINE = b'{"filename": "a.png", "label": 1, "label_name": "hole", "clsname": "nut", "maskname": "m.png"}\n'


ROW = st.dictionaries(st.sampled_from(["filename", "label", "label_name", "clsname", "maskname"]), PLAIN)


@settings(max_examples=150)
@given(st.one_of(st.binary(max_size=60), damaged(LINE), ROW.map(lambda row: json.dumps(row, default=str).encode())))
def test_index_reader_meets_damaged_files(tmp_path, content):
    for name in ("a.png", "m.png"):
        (tmp_path / name).write_bytes(IMAGES["PNG"])
    (tmp_path / "test.json").write_bytes(content)
    try:
        dataset = read_index(tmp_path / "none.json", tmp_path / "test.json", tmp_path)
    except DumenetError as error:
        one_sentence(error)
        return
    assert all(s.source.is_file() and s.source.parent == tmp_path and s.label in (0, 1) for s in dataset.test)


def archive(kind):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{kind}") as tar:
        for part in ("train", "test"):
            for name in CLASSES:
                info = tarfile.TarInfo(f"c/{part}/{name}/{'x' * 120}.png")  # its long name takes a header of its own
                info.size = len(IMAGES["PNG"])
                tar.addfile(info, io.BytesIO(IMAGES["PNG"]))
    return buffer.getvalue()


ARCHIVES = {".tar": archive(""), ".tar.gz": archive("gz")}


@settings(max_examples=80)
@given(st.sampled_from(sorted(ARCHIVES)).flatmap(lambda s: st.tuples(st.just(s), damaged(ARCHIVES[s]))))
def test_archive_reader_meets_damaged_files(tmp_path, suffix_and_content):
    suffix, content = suffix_and_content
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    try:
        dataset = read_cifar10(path)
    except DumenetError as error:
        one_sentence(error)
        return
    finally:
        path.unlink()
    if suffix == ".tar.gz":  # its checksum vouches for every pixel
        whole = np.asarray(Image.open(io.BytesIO(IMAGES["PNG"])))
        assert all(np.array_equal(s.source, whole) for s in dataset.train + dataset.test)


@pytest.fixture(scope="module")
def checkpoint():
    """A checkpoint's bytes, and what it holds."""
    config = config_from_dict(TINY)
    trained = Trained(config, build_model(config.model, (3, 5), 4), (3, 5), thresholds={"all": 1.5})
    buffer = io.BytesIO()
    with patch("dumenet.checkpoint.write_atomic", lambda path, content: buffer.write(content)):
        save_checkpoint(trained, "checkpoint.pt")
    return buffer.getvalue(), trained


@settings(max_examples=80)
@given(st.data())
def test_checkpoint_reader_meets_damaged_files(tmp_path, checkpoint, data):
    whole, trained = checkpoint
    (tmp_path / "c.pt").write_bytes(data.draw(damaged(whole)))
    try:
        found = load_checkpoint(tmp_path / "c.pt", "cpu")
    except DumenetError as error:
        one_sentence(error)
        return
    assert found.config == trained.config and found.thresholds == trained.thresholds
    for a, b in zip(found.model.state_dict().values(), trained.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@given(PLAIN)
def test_a_value_is_shown_shortly(value):
    assert len(shown(value)) < 2000 and "\n" not in shown(value)


def test_archives_are_bounded_in_number(tmp_path):
    (tmp_path / "a.tar").write_bytes(ARCHIVES[".tar"])
    assert len(read_cifar10(tmp_path / "a.tar").test) == 10
    for name, limit in (("MAX_MEMBERS", 19), ("MAX_BYTES", 19 * len(IMAGES["PNG"]))):
        with patch(f"dumenet.data.cifar.{name}", limit), pytest.raises(DumenetError, match="unpacks to more than"):
            read_cifar10(tmp_path / "a.tar")
