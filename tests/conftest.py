"""What several test files share: a tiny data set, tiny settings, and no network."""

import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from scipy import ndimage

from dumenet.config import config_from_dict, merge
from dumenet.data import Sample, load_mask, make_factory, open_dataset
from dumenet.features import Features
from dumenet.metrics import auroc
from dumenet.run import Folders, run

torch.set_num_threads(1)  # the models are too small for more
collect_ignore = ["browser"]  # a minute, and a browser: only where the folder is named, as `make test` does

TINY = {  # a whole run takes about a second
    "features": {
        "backbone": "mobilenetv3_small_050", "weights": "random", "stages": [0, 1, 2, 3], "image_size": 64, "grid": 4,
    },
    "model": {
        "hidden_dim": 16, "heads": 2, "ffn_dim": 32, "encoder_layers": 1, "decoder_layers": 1,
        "channel_memory_size": 6, "spatial_memory_size": 5,
    },
    # Not bf16, which some processors are fast at: it rounds by far more than the tests allow.
    "train": {"epochs": 2, "batch_size": 4, "holdout": 0.25, "device": "cpu", "precision": "fp32"},
    "evaluation": {"bootstrap": 20},
}  # fmt: skip


@pytest.fixture(autouse=True)
def figures_closed():
    """A figure that a test leaves open is not the next one's."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(scope="session")
def tiny():
    """`make_config` on top of the tiny settings: ``tiny(train__epochs=3)``."""
    return lambda **overrides: config_from_dict(merge(TINY, {k.replace("__", "."): v for k, v in overrides.items()}))


@pytest.fixture
def tiny_yaml(tmp_path):
    """The tiny settings as a file."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


@pytest.fixture
def tree(tmp_path):
    """See `photos`."""
    return photos(tmp_path)


def photos(home):
    """Two categories in MVTec-AD's layout: 8 images of 64 x 64 to train on, 6 to test on, three of them with a mask."""
    rng = np.random.default_rng(0)
    for category, base in (("bolt", 90), ("felt", 150)):
        for i in range(14):
            image = (base + rng.normal(0, 12, (64, 64, 3))).clip(0, 255).astype(np.uint8)
            folder = "train/good" if i < 8 else "test/good" if i < 11 else "test/hole"
            if i >= 11:
                image[20:36, 24:44] = 255
                mask = np.zeros((64, 64), np.uint8)
                mask[20:36, 24:44] = 255
                write(home / "photos" / category / "ground_truth" / "hole" / f"{i:03d}_mask.png", mask)
            write(home / "photos" / category / folder / f"{i:03d}.png", image)
    return home / "photos"


@pytest.fixture(scope="session")
def outcomes(tiny, tmp_path_factory):
    """Runs on `photos`, made once: a network with both memories, one without, and the Gaussian. Do not change them."""
    home = tmp_path_factory.mktemp("outcomes")
    config = {"data__source": str(photos(home))}
    kinds = {"both": {}, "plain": {"model__memory_mode": "none"}, "gaussian": {"model__name": "gaussian"}}
    return {kind: run(tiny(**config, **model), Folders(home), progress=False) for kind, model in kinds.items()}


def write(path, array):
    """An image file, its folders made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def samples():
    """Ten images in memory, all different."""
    rng = np.random.default_rng(0)
    return [Sample(f"{i}", "a", "good", rng.integers(0, 256, (32, 32, 3), np.uint8)) for i in range(10)]


def rows(features):
    """All of them, in order."""
    return features.batch(np.arange(len(features)))


@pytest.fixture
def make_features():
    """In-memory `Features` of `n` images in two categories, channels (3, 5), grid 4."""

    def make(n=12, seed=0, channels=8, grid=4):
        store = np.random.default_rng(seed).normal(1, 2, (n, channels, grid, grid)).astype(np.float16)
        samples = [Sample(f"{i}", "ab"[i % 2], "good", np.zeros((1, 1, 3), np.uint8)) for i in range(n)]
        return Features(samples, store)

    return make


# --- for tests/methods


@pytest.fixture(scope="session")
def parts(tmp_path_factory):
    """Connectors: 30 normal images to train on, 10 normal and 15 defective ones to test on; a cache for features."""
    home = tmp_path_factory.mktemp("parts")
    root = make_factory(home / "factory", categories="connector", train=30, test_good=10, per_defect=3, size=128)
    return open_dataset(str(root), ("all",), home=home), home / "cache"


@pytest.fixture(scope="session")
def judged(tmp_path_factory):
    """``judged(method, "cap")`` fits a method on a category of the factory and asserts that it finds defects; gives the
    normal test images.

    30 normal images to train on; 20 normal and 5 of each defect kind, or of `kinds` alone, to test on. The image AUROC
    must exceed what that of scores without meaning exceeds in 1 of 100 such test sets (normal approximation). In a
    share `peak` of the defects the map's largest value must lie in the mask, or at most 1/14 of the side beside it: a
    cell of the 14 x 14 grid that most maps come from.
    """
    home = tmp_path_factory.mktemp("judged")

    def judge(method, category, kinds=(), peak=0.5):
        size, made = method.settings.features.image_size, home / category
        root = make_factory(made, categories=category, train=30, test_good=20, per_defect=5, size=128)
        dataset = open_dataset(str(root), ("all",), home=home)
        test = [s for s in dataset.test if not s.label or not kinds or s.defect in kinds]
        method.fit(dataset.train)
        scores = method.score(test)
        assert scores.image.shape == (len(test),) and scores.maps.shape == (len(test), size, size)
        assert np.isfinite(scores.maps).all()
        labels, found = np.array([s.label for s in test]), []
        for s, m in zip(test, scores.maps):
            if s.label and (mask := load_mask(s, size)).any():
                found.append(ndimage.distance_transform_edt(~mask).flat[m.argmax()] <= size / 14)
        bad = labels.sum()
        sd = ((len(test) + 1) / (12 * (len(test) - bad) * bad)) ** 0.5  # of the Mann-Whitney statistic under chance
        area, chance = auroc(labels, scores.image), 0.5 + 2.33 * sd
        assert area > chance and np.mean(found) > peak, (area, chance, np.mean(found))
        return [s for s in test if not s.label]

    return judge


@pytest.fixture
def stop_at(monkeypatch):
    """``stop_at(module, "function", 3, error)``: its third call raises; those before and after do what they did."""

    def stop(owner, name, call, error):
        real, calls = getattr(owner, name), []

        def stopped(*args):
            calls.append(args)
            if len(calls) == call:
                raise error
            return real(*args)

        monkeypatch.setattr(owner, name, stopped)

    return stop
