"""What holds for any input: properties of the numbers, and readers that meet damaged files.

The same examples every time, so that no run fails by chance; to look for others, take `derandomize` away, or change
the seed of `damages`.
"""

import io
import json
import tarfile
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from dumenet.checkpoint import Trained, load_checkpoint, save_checkpoint
from dumenet.config import Config, config_from_dict, to_dict
from dumenet.data import Sample, load_image, load_mask, read_cifar10, read_folder
from dumenet.data.cifar import CLASSES
from dumenet.errors import DumenetError
from dumenet.metrics import auroc, auroc_interval, average_precision, f1_max, pro
from dumenet.models import build_model

CALM = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
settings.register_profile(
    "calm", derandomize=True, deadline=None, max_examples=40, database=None, suppress_health_check=CALM
)
settings.load_profile("calm")

# --- metrics: labels and scores with ties

PAIRS = st.lists(st.tuples(st.integers(0, 1), st.integers(-20, 20)), min_size=1, max_size=40)
MAPS = st.integers(1, 4).flatmap(
    lambda n: st.tuples(
        arrays(bool, (n, 7, 6)), arrays(np.int8, (n, 7, 6), elements=st.integers(-5, 5)).map(lambda a: a.astype(float))
    )
)


@given(PAIRS)
def test_image_metrics_are_shares_or_not_defined(pairs):
    labels, scores = np.array(pairs).T
    for metric in (auroc, average_precision, f1_max):
        value = metric(labels, scores)
        assert (value is None) == (labels.min() == labels.max())
        assert value is None or 0 <= value <= 1
    interval = auroc_interval(labels, scores, n_bootstrap=20)
    assert (interval is None) == (labels.min() == labels.max())
    assert interval is None or 0 <= interval[0] <= interval[1] <= 1


@given(MAPS, st.sampled_from([0.05, 0.3, 1.0]))
def test_pro_is_a_share_and_ignores_order_scale_and_mirrors(masks_and_maps, limit):
    masks, maps = masks_and_maps
    value = pro(masks, maps, limit)
    assert (value is None) == (masks.all() or not masks.any())
    assume(value is not None)
    assert 0 <= value <= 1 + 1e-12
    for other in ((masks[::-1], maps[::-1]), (masks, np.exp(maps)), (masks[:, ::-1], maps[:, ::-1])):
        assert pro(*other, limit) == pytest.approx(value)
    assert pro(masks, masks.astype(float), limit) == pytest.approx(1)


# --- resizing


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


def damages(whole, count):
    """`whole` with some bytes exchanged, cut short, or with others in between: so many, the same ones every time."""
    rng = np.random.default_rng(0)
    for i in range(count):
        data, place = bytearray(whole), int(rng.integers(len(whole)))
        if i % 3 == 0:
            for where in rng.integers(len(whole), size=rng.integers(1, 9)):
                data[where] ^= int(rng.integers(1, 256))
        elif i % 3 == 1:
            del data[place:]
        else:
            data[place:place] = rng.bytes(rng.integers(1, 20))
        yield bytes(data)


def found_or_refused(read, *given):
    """What a reader gives; None where it refuses in one sentence."""
    try:
        return read(*given)
    except DumenetError as error:
        text = str(error)
        assert text.endswith(".") and "\n" not in text and 10 < len(text) < 2000, text


def encoded(kind):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of damaged metadata; pytest takes the package's filters away
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP"])
def test_image_reader_meets_damaged_files(tmp_path, kind):
    sample = Sample("a", "c", "good", tmp_path / "a.png")
    for content in [*damages(encoded(kind), 60), b"", b"\0" * 200]:
        sample.source.write_bytes(content)
        array = found_or_refused(load_image, sample, 8)
        assert array is None or (array.shape, array.dtype) == ((8, 8, 3), np.uint8)


PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.dates()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=8,
)
FIELDS = [(section, key) for section, group in to_dict(Config()).items() for key in group]


@settings(max_examples=80)
@given(st.sampled_from(FIELDS), PLAIN)
def test_any_value_of_any_setting(field, value):
    section, key = field
    config = found_or_refused(config_from_dict, {section: {key: value}})
    assert config is None or config_from_dict(to_dict(config)) == config


LINE = {"filename": "a.png", "label": 1, "label_name": "hole", "clsname": "nut", "maskname": "m.png"}
CHANGE = st.dictionaries(st.sampled_from(list(LINE)), st.one_of(st.sampled_from(["", "..", "b.png", 0]), PLAIN))


@settings(max_examples=80)
@given(st.one_of(CHANGE.map(lambda change: LINE | change), PLAIN))
def test_index_reader_meets_any_line(tmp_path, line):
    for name in ("a.png", "m.png"):
        (tmp_path / name).touch()
    (tmp_path / "train.json").touch()
    (tmp_path / "test.json").write_text(json.dumps(line, default=str))
    dataset = found_or_refused(read_folder, tmp_path)
    for sample in dataset.test if dataset else ():
        assert sample.source.is_file() and sample.source.parent == tmp_path and sample.label in (0, 1)


def archive(kind):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{kind}") as tar:
        for part in ("train", "test"):
            for name in CLASSES:
                info = tarfile.TarInfo(f"c/{part}/{name}/{'x' * 120}.png")  # its long name takes a header of its own
                info.size = len(encoded("PNG"))
                tar.addfile(info, io.BytesIO(encoded("PNG")))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["", "gz"])
def test_archive_reader_meets_damaged_files(tmp_path, kind):
    whole = np.asarray(Image.open(io.BytesIO(encoded("PNG"))))
    for content in damages(archive(kind), 100):
        (tmp_path / f"a.tar.{kind}".rstrip(".")).write_bytes(content)
        dataset = found_or_refused(read_cifar10, tmp_path)
        if dataset and kind:  # gzip's checksum vouches for every pixel
            assert all(np.array_equal(s.source, whole) for s in dataset.train + dataset.test)


def test_checkpoint_reader_meets_damaged_files(tmp_path, tiny):
    config, path = tiny(), tmp_path / "checkpoint.pt"
    trained = Trained(config, build_model(config.model, (3, 5), 4), (3, 5), thresholds={"all": 1.5})
    for content in damages(save_checkpoint(trained, path).read_bytes(), 80):
        path.write_bytes(content)
        if found := found_or_refused(load_checkpoint, path, "cpu"):
            assert found.config == trained.config and found.thresholds == trained.thresholds
            for a, b in zip(found.model.state_dict().values(), trained.model.state_dict().values(), strict=True):
                assert torch.equal(a, b)


def test_archives_are_bounded(tmp_path):
    content = archive("")
    (tmp_path / "a.tar").write_bytes(content)
    assert len(read_cifar10(tmp_path / "a.tar").test) == 10
    with patch("dumenet.data.cifar.MAX_BYTES", len(content) - 1), pytest.raises(DumenetError, match="unpacks to more"):
        read_cifar10(tmp_path / "a.tar")
