"""What holds for every method of the tables."""

import typing

import numpy as np
import pytest
import torch

from dumenet.config import FeatureConfig, ModelConfig, TrainConfig
from dumenet.errors import DumenetError
from dumenet.methods import METHODS, NETWORKS, Scores
from dumenet.methods.protocol import descend

LITTLE = {  # for each method: enough training that scores differ, in a second or two
    "us": {"width": 4, "size": 8, "views": 32, "view_size": 32, "teacher_steps": 3, "steps": 3},
    "patchsvdd": {"steps": 2, "images": 2, "most": 50},
    "padim": {"grid": 8, "channels": 20},
    "cutpaste": {"head_steps": 1, "steps": 1, "batch": 2},
    "mkd": {"steps": 3, "batch": 4},
    "draem": {"steps": 3, "batch": 2},
    "fcdd": {"steps": 3, "batch": 4},
    "panda": {"steps": 3, "clip": 0.1, "batch": 4, "gallery": 4, "grid": 8},
    "uniad": {"model": ModelConfig(name="uniad", hidden_dim=16, heads=2, ffn_dim=32), "train": TrainConfig(epochs=1)},
    "patchcore": {},
    "dinomaly": {"grid": 8, "width": 48, "heads": 3, "layers": 2, "steps": 2},
}  # fmt: skip
assert set(LITTLE) == set(METHODS) - set(NETWORKS) | {"uniad"}  # one of the networks, which are one class


def made(name, cache, **options):
    """The method on small images; its settings' class is read from its constructor."""
    kind = typing.get_type_hints(METHODS[name].__init__)["settings"]
    size = 128 if name in ("patchsvdd", "cutpaste", "fcdd") else 64
    return METHODS[name](kind(features=FeatureConfig(image_size=size), cache=cache, **LITTLE[name] | options))


@pytest.mark.parametrize("name", LITTLE)
def test_a_score_does_not_depend_on_the_images_beside_it(parts, name):
    """All at once (19, more than any batch), backwards, and the first ten in parts of 1, 5 and 4."""
    dataset, cache = parts
    method, test = made(name, cache), dataset.test[:10] + dataset.test[-9:]
    method.fit(dataset.train[:12])
    together, backwards = method.score(test), method.score(test[::-1])
    assert together.image.std() > 0
    parts_of_it = [method.score(test[a:b]) for a, b in ((0, 1), (1, 6), (6, 10))]
    joined = Scores(*(np.concatenate([getattr(s, part) for s in parts_of_it]) for part in ("image", "maps")))
    alike(Scores(backwards.image[::-1], backwards.maps[::-1]), together)
    alike(joined, Scores(together.image[:10], together.maps[:10]))


def alike(one, other):
    """Image scores within 1e-5 of themselves, each map within 1e-5 of its largest value."""
    assert np.allclose(one.image, other.image, rtol=1e-5, atol=0)
    assert (np.abs(one.maps - other.maps).max((1, 2)) <= 1e-5 * np.abs(one.maps).max((1, 2))).all()


VARIANTS = [*((name, {}) for name in LITTLE), ("us", {"dense": True}), ("mkd", {"localise": "positions"})]


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_the_seed_decides(parts, name, options):
    """Two methods of one seed give the same bits, a third of another seed gives others."""
    (dataset, cache), found = parts, []
    for seed in (0, 0, 1):
        method = made(name, cache, seed=seed, **options)
        method.fit(dataset.train[:8])
        found.append(method.score(dataset.test[:2]))
    for part in ("image", "maps"):
        first, same, other = (getattr(scores, part) for scores in found)
        assert np.array_equal(first, same) and not np.array_equal(first, other), part


@pytest.mark.parametrize("name", LITTLE)
def test_no_images_to_learn_from_is_said(tmp_path, name):
    with pytest.raises(DumenetError, match="No images"):
        made(name, tmp_path).fit([])


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
