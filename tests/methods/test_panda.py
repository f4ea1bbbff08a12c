"""PANDA: its formulas by hand, and what it trains."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import nn

from dumenet.config import FeatureConfig
from dumenet.errors import DumenetError
from dumenet.features import Backbone
from dumenet.methods.panda import PANDA, PANDASettings, fisher, knn_distance, later_parameters


def quick(**settings):
    return PANDA(PANDASettings(features=FeatureConfig(image_size=64), grid=8, batch=4, **settings))


def test_the_image_score_is_scikit_learns():
    bank, queries = torch.randn(20, 5, generator=torch.Generator().manual_seed(0)), torch.zeros(3, 5)
    queries[1:] = torch.randn(2, 5, generator=torch.Generator().manual_seed(1))
    true, _ = NearestNeighbors(n_neighbors=2).fit(bank).kneighbors(queries)
    assert np.allclose(knn_distance(queries, bank, 2), (true**2).mean(1), rtol=1e-4)
    assert knn_distance(bank[:1], bank, 1)[0] == 0


def test_only_what_lies_after_the_first_stage_is_trained():
    one, two, three = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
    net = nn.ModuleList([one, two, three])  # the third is of no stage
    later = later_parameters(net, lambda x: [one(x), two(one(x))], torch.ones(1, 2))
    assert [id(p) for p in later] == [id(p) for p in two.parameters()]
    assert [p.requires_grad for p in net.parameters()] == [False, False, True, True, False, False]


def test_fisher_of_a_linear_map_is_its_squared_input():
    """d f_i / d w_ij = x_j: the square of a signed derivative is x_j^2 / C, whatever the sign."""
    x, layer = torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, -1.0]]), nn.Linear(3, 2)
    weight, bias = fisher(layer, list(layer.parameters()), x.split(1), torch.Generator().manual_seed(0))
    assert torch.allclose(weight, x.square().mean(0).expand(2, 3) / 2) and torch.allclose(bias, torch.tensor(0.5))


def test_training_compacts_and_ewc_holds_back(parts):
    """Steps far larger than the default's, so that ten of them show."""
    train, moved, spread = parts[0].train[:8], {}, {}
    for name, options in {"frozen": {"steps": 0}, "free": {}, "held": {"ewc": 1e4, "fisher_images": 4}}.items():
        method = quick(**{"steps": 10, "clip": 0.1} | options)
        before = [p.clone() for p in method_parameters(method)]
        method.fit(train)
        moved[name] = sum(float((a - b).square().sum()) for a, b in zip(before, method_parameters(method)))
        spread[name] = float(method.bank.var(0).sum())
        assert not any(p.requires_grad for p in method.backbone.parameters())
    assert moved["frozen"] == 0 < moved["held"] < moved["free"]
    assert spread["free"] < spread["frozen"]


def method_parameters(method):
    """Those of the fitted network, or of the one it starts from."""
    return list(getattr(method, "backbone", Backbone(method.settings.features)).net.parameters())


def test_one_stage_leaves_nothing_to_train(parts):
    with pytest.raises(DumenetError, match="two or more"):
        quick(stages=(4,)).fit(parts[0].train[:2])
    frozen = quick(stages=(4,), steps=0)
    frozen.fit(parts[0].train[:3])
    assert frozen.score(parts[0].train[:3]).maps.shape == (3, 64, 64)
