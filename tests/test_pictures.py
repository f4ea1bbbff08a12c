"""From features back to pictures: the decoder draws what it is given, and never sees a defect."""

import numpy as np
import pytest
import torch

from dumenet.course.pictures import (
    ALTERED,
    altered,
    backbone_features,
    picture_decoder,
    picture_difference,
)
from dumenet.data import Sample
from dumenet.errors import DumenetError
from dumenet.features import Backbone, extract
from dumenet.models import build_model
from dumenet.run import Folders, load_data


@pytest.fixture
def config(tiny, tree):
    return tiny(data__source=str(tree), features__image_size=64, features__grid=14, train__device="cpu")


def test_trains_once_and_learns_light_and_dark(config, tmp_path):
    folders = Folders(tmp_path / "home")
    decoder = picture_decoder(config, folders, epochs=10, progress=False)
    again = picture_decoder(config, folders, epochs=10, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(decoder.state_dict().values(), again.state_dict().values()))
    dataset = load_data(config, folders)
    features = extract(dataset.train, Backbone(config.features), folders.cache, False).batch(range(16))
    drawn = decoder.draw(features)
    mean = {c: drawn[[i for i, s in enumerate(dataset.train) if s.category == c]].mean() for c in dataset.categories}
    assert mean["felt"] - mean["bolt"] > 0.1  # 150 and 90 of 255
    wild = decoder.draw(features[:2] * 100)
    assert wild.shape == (2, 112, 112, 3) and wild.min() >= 0 and wild.max() <= 1


def test_altered_images_are_new_and_repeatable():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (64, 64, 3), np.uint8) for _ in range(ALTERED + 3)]
    samples = [Sample(str(i), "a", "good", image) for i, image in enumerate(images)]
    made = altered(samples, 64, 0)
    assert len(made) == ALTERED and all(s.label == 0 for s in made)
    for sample in made[:5]:
        changed = (sample.source != images[int(sample.name.split()[0])]).any(-1).mean()
        assert 0 < changed < 0.9
    assert all(np.array_equal(a.source, b.source) for a, b in zip(made, altered(samples, 64, 0)))
    assert not all(np.array_equal(a.source, b.source) for a, b in zip(made, altered(samples, 64, 1)))


@pytest.mark.parametrize("model", ["dumenet", "uniad", "mlp", "gaussian"])
def test_a_target_goes_back_to_the_backbones_units(tiny, model):
    net = build_model(tiny(model__name=model).model, (3, 5), 4).eval()
    for name in ("mean", "std"):
        for module in net.modules():
            if name in module._buffers:
                module._buffers[name].uniform_(0.5, 2)
    x = torch.randn(2, 8, 4, 4)
    with torch.no_grad():
        assert torch.allclose(backbone_features(net, net(x).target), x, atol=1e-5)


def test_what_cannot_be_drawn_is_refused(tiny, tree, tmp_path):
    for option in ({"model__target": "sigmoid"}, {"model__neck": "cbam"}):
        net = build_model(tiny(**option).model, (3, 5), 4)
        with pytest.raises(DumenetError, match="cannot be drawn"):
            backbone_features(net, torch.zeros(1, 8, 4, 4))
    with pytest.raises(DumenetError, match="features.grid 14"):
        picture_decoder(tiny(data__source=str(tree)), Folders(tmp_path))


def test_differences_inside_and_outside_a_mask():
    one, other, masks = np.zeros((2, 4, 4, 3)), np.zeros((2, 4, 4, 3)), np.zeros((2, 4, 4), bool)
    masks[0, :2, :2] = True
    other[0, 0, 0], other[1] = 1.0, 0.25
    assert picture_difference(one, other, masks) == (0.25, pytest.approx(16 * 0.25 / 28))
