"""What holds for every method of the tables."""

import typing

import numpy as np
import pytest
import torch

from dumenet.config import FeatureConfig, ModelConfig, TrainConfig
from dumenet.errors import DumenetError
from dumenet.methods import METHODS, NETWORKS, Scores
from dumenet.methods.protocol import descend, shuffled
from dumenet.run import cost

LITTLE = {  # for each method: enough training that scores differ, in a second or two
    "us": {"width": 4, "size": 8, "views": 32, "view_size": 32, "teacher_steps": 3, "steps": 3},
    "patchsvdd": {"steps": 2, "images": 2, "most": 50},
    "padim": {"grid": 8, "channels": 20},
    "cutpaste": {"head_steps": 1, "steps": 1, "batch": 2},
    "mkd": {"steps": 3, "batch": 4},
    "draem": {"steps": 3, "batch": 2, "window": 5},
    "fcdd": {"steps": 3, "batch": 4},
    "panda": {"steps": 3, "clip": 0.1, "batch": 4, "gallery": 4, "grid": 8},
    "uniad": {"model": ModelConfig(name="uniad", hidden_dim=16, heads=2, ffn_dim=32), "train": TrainConfig(epochs=1)},
    "patchcore": {},
    "dinomaly": {"grid": 8, "width": 48, "heads": 3, "layers": 2, "steps": 2},
}  # fmt: skip
assert set(LITTLE) == set(METHODS) - set(NETWORKS) | {"uniad"}  # one of the networks, which are one class
VARIANTS = [*((name, {}) for name in LITTLE), ("us", {"dense": True})]


def made(name, cache, pixels=0, **options):
    """The method on small images; its settings' class is read from its constructor."""
    kind = typing.get_type_hints(METHODS[name].__init__)["settings"]
    features = FeatureConfig(image_size=pixels or (128 if name == "patchsvdd" else 64))
    return METHODS[name](kind(features=features, cache=cache, **options))


def alike(one, other):
    """Image scores within 1e-5 of themselves, each map within 1e-5 of its largest value."""
    assert np.allclose(one.image, other.image, rtol=1e-5, atol=0)
    assert (np.abs(one.maps - other.maps).max((1, 2)) <= 1e-5 * np.abs(one.maps).max((1, 2))).all()


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_scores_depend_on_the_seed_and_not_on_the_images_beside(parts, name, options):
    """A second method of the same seed gives the same bits, and another seed others. Scores are the same whether 17
    images, more than any batch, come at once, backwards, or a few alone."""
    (dataset, cache), methods = parts, []
    test = dataset.test[:8] + dataset.test[-9:]
    for seed in (0, 0, 1):
        methods.append(made(name, cache, seed=seed, **LITTLE[name] | options))
        methods[-1].fit(dataset.train[:8])
    together, backwards = methods[0].score(test), methods[0].score(test[::-1])
    assert together.image.std() > 0
    alike(Scores(backwards.image[::-1], backwards.maps[::-1]), together)
    first, same, other = (method.score(test[:2]) for method in methods)
    alike(first, Scores(together.image[:2], together.maps[:2]))
    for part in ("image", "maps"):
        a, b, c = (getattr(scores, part) for scores in (first, same, other))
        assert np.array_equal(a, b) and not np.array_equal(a, c), part


FINDS = {  # category of the factory, kinds of its defects, settings, pixels, share of maps that peak in the defect
    # A printed number in the middle: a Gaussian for each position fits. Most defects cover a few cells.
    "padim": ("cap", (), {"grid": 16, "channels": 60}, 128, 0.5),
    "patchcore": ("cap", (), {"grid": 16}, 128, 0.5),
    # Its image score is of pooled features, which a defect of a few pixels hardly moves.
    "panda": ("cap", (), {"steps": 4, "batch": 8}, 224, 0.5),
    # Without scratches, thinner than a pixel. So short a training peaks in fewer than half (seen: 0.42).
    "us": ("connector", ("bent_pin", "missing_pin", "residue", "wrong_slot"),
           {"views": 480, "teacher_steps": 120, "steps": 150}, 96, 0.25),
    # Wrong order of threads: what the puzzle of neighbours teaches. Seconds of training do not do for connectors,
    # whose place varies.
    "patchsvdd": ("weave", ("float", "swapped_threads"),
                  {"images": 8, "pairs": 2, "most": 3000, "steps": 80}, 128, 0.5),
    # Fifty steps learn a texture, not yet an object's parts and edges.
    "dinomaly": ("parquet", (), {"width": 96, "heads": 3, "layers": 2, "batch": 8, "steps": 50}, 224, 0.5),
}  # fmt: skip


@pytest.mark.parametrize("name", FINDS)
def test_finds_defects(parts, judged, name):
    category, kinds, options, pixels, peak = FINDS[name]
    judged(made(name, parts[1], pixels, **options), category, kinds, peak)


@pytest.mark.parametrize("name", LITTLE)
def test_no_images_to_learn_from_is_said(tmp_path, name):
    with pytest.raises(DumenetError, match="No images"):
        made(name, tmp_path, **LITTLE[name]).fit([])


@pytest.mark.parametrize(
    ("name", "pixels", "options", "sentence"),
    [
        ("us", 64, {"patch": 32}, "17, 33 or 65"),
        ("us", 32, {}, "smaller than a patch"),
        ("patchsvdd", 96, {}, "128 pixels"),
        ("draem", 64, {"window": 4}, "odd window"),
        ("draem", 64, {"textures": "nowhere"}, "no images of textures"),
        ("fcdd", 64, {"outliers": "nowhere"}, "outliers must be"),
    ],
)
def test_settings_that_do_not_fit_are_said(tmp_path, name, pixels, options, sentence):
    with pytest.raises(DumenetError, match=sentence):
        made(name, tmp_path, pixels, **options)


def test_a_step_of_training():
    """Downhill, no farther than `clip` lets it, and never with a loss that is not a number."""
    weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    descend(weight.square().sum() / 2, optimizer, schedule, clip=1.0)  # the gradient (3, 4), cut to length 1
    assert torch.allclose(weight, torch.tensor([2.94, 3.92]), atol=1e-5) and schedule.get_last_lr() == [0.05]
    kept = weight.detach().clone()
    for bad in (float("nan"), float("inf")):
        with pytest.raises(DumenetError, match=f"loss became {bad}: lower the learning rate"):
            descend((weight * bad).sum(), optimizer)
    assert torch.equal(weight, kept)


def test_an_epoch_has_every_image_once():
    batches = shuffled(7, 3)
    first, second = (torch.cat([next(batches) for _ in range(3)]) for _ in range(2))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(7)) and first.tolist() != second.tolist()


@pytest.mark.parametrize("name", LITTLE)
def test_cost_leaves_the_method_as_it_was(parts, name):
    """What is counted is all that scoring needs, and no image that was learned from."""
    dataset, cache = parts
    method = made(name, cache, **LITTLE[name])
    method.fit(dataset.train[:8])
    before, settings = method.score(dataset.test[:2]), method.settings
    found = cost(method, dataset.test[:4])
    assert method.settings is settings and np.array_equal(before.maps, method.score(dataset.test[:2]).maps)
    assert found["ms"] > 0 and 0 < found["mb"] < 80
