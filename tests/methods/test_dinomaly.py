"""Dinomaly: attention and loss by hand, its groups, and vision transformers."""

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from dumenet.config import FeatureConfig
from dumenet.errors import DumenetError
from dumenet.features import Backbone
from dumenet.methods.dinomaly import (
    Dinomaly,
    DinomalySettings,
    LooseReconstruction,
    hard_cosine_loss,
    linear_attention,
    warm_cosine,
)  # fmt: skip
from dumenet.score import upsample


def test_linear_attention_is_a_weighted_mean():
    q, k, v = np.random.default_rng(0).normal(size=(3, 2, 7, 4))  # (heads, N, d) each
    phi = lambda x: np.where(x > 0, x + 1, np.exp(x))  # noqa: E731
    weights = phi(q) @ phi(k).transpose(0, 2, 1)  # (heads, N, N), all positive
    weights /= weights.sum(-1, keepdims=True)
    assert np.allclose(linear_attention(*map(torch.from_numpy, (q, k, v))), weights @ v)


def test_loss_shrinks_the_gradient_of_easy_positions():
    generator = torch.Generator().manual_seed(0)
    target, made = torch.randn(2, 3, 4, 4, generator=generator), torch.randn(2, 3, 4, 4, generator=generator)
    made[:, :, :2] = target[:, :, :2] + 0.01 * made[:, :, :2]  # half of the positions are nearly right
    made.requires_grad_(True)
    flat = [1 - np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)
            for a, b in zip(target.flatten(1).numpy(), made.detach().flatten(1).numpy())]  # fmt: skip
    plain, loss = hard_cosine_loss(target, made, 0.0, 0.1), hard_cosine_loss(target, made, 0.5, 0.1)
    assert np.isclose(plain.item(), np.mean(flat), rtol=1e-4) and torch.isclose(plain, loss)
    full, shrunk = torch.autograd.grad(plain, made)[0], torch.autograd.grad(loss, made)[0]
    assert torch.allclose(shrunk[:, :, :2], 0.1 * full[:, :, :2]) and torch.allclose(shrunk[:, :, 2:], full[:, :, 2:])


def test_the_last_layers_make_the_shallow_group():
    """Four stages of one width (as of a ViT) with the values 1, 2, 3, 4: means are taken, nothing is projected."""
    network = LooseReconstruction(DinomalySettings(heads=1), (2, 2, 2, 2)).eval()
    network.bottleneck = nn.Identity()
    del network.decoder
    network.decoder = [lambda x, change=10**k: x + change for k in range(1, 5)]  # known changes for layers
    stages = torch.tensor([1.0, 2.0, 3.0, 4.0]).repeat_interleave(2).view(1, 8, 1, 1).expand(1, 8, 3, 3)
    (shallow, from_last), (deep, from_first) = network(stages)
    assert (shallow == 1.5).all() and (deep == 3.5).all() and shallow.shape == from_last.shape == (1, 2, 3, 3)
    assert (from_first == 2.5 + (10 + 110) / 2).all() and (from_last == 2.5 + (1110 + 11110) / 2).all()


def test_learning_rate_climbs_and_falls():
    factors = [warm_cosine(i, 1000) for i in range(1001)]
    assert np.argmax(factors) == 10 and factors[10] == 1 and np.isclose(factors[-1], 0.1) and factors[0] < 0.1


def test_a_vision_transformer(parts):
    """At another size than it was made for, 518; stages of one width need no projection."""
    features = FeatureConfig(backbone="vit_small_patch14_dinov2", weights="random", image_size=112)
    settings = DinomalySettings(features=features, stages=(2, 11), heads=3, steps=2, batch=2, cache=parts[1])
    method = Dinomaly(settings)
    method.fit(parts[0].train[:2])
    assert not method.network.widths_differ and (method.network.scale.std == 1).all()
    assert method.score(parts[0].test[:2]).maps.shape == (2, 112, 112)


def test_weights_of_a_vision_transformer_come_with_their_positions(tmp_path):
    """From a file for 224 pixels: the same weights at 224, its 14 x 14 position embeddings resized to 8 x 8 at 128."""
    whole = timm.create_model("vit_tiny_patch16_224", pretrained=False)
    torch.save(whole.state_dict(), tmp_path / "vit.pt")
    config = FeatureConfig(backbone="vit_tiny_patch16_224", weights=str(tmp_path / "vit.pt"), stages=(1, 3))
    nets = [Backbone(replace(config, image_size=size)).net.model for size in (224, 128)]
    assert torch.equal(nets[0].pos_embed, whole.pos_embed)
    assert torch.equal(nets[1].pos_embed[:, 0], whole.pos_embed[:, 0])  # of the class token
    grid = whole.pos_embed[:, 1:].unflatten(1, (14, 14)).permute(0, 3, 1, 2)
    resized = F.interpolate(grid, (8, 8), mode="bicubic", antialias=True).permute(0, 2, 3, 1).flatten(1, 2)
    assert torch.allclose(nets[1].pos_embed[:, 1:], resized, atol=1e-6)
    for net in nets:
        assert all(torch.equal(net.blocks[3].state_dict()[k], v) for k, v in whole.blocks[3].state_dict().items())
    with pytest.raises(DumenetError, match="patches of 16 pixels"):
        Backbone(replace(config, image_size=120))


def test_scores_by_hand(parts):
    """1 - cosine of target and reconstruction, mean over groups."""
    features = FeatureConfig(image_size=128)
    small = {"features": features, "grid": 16, "width": 96, "heads": 3, "layers": 2, "batch": 8, "cache": parts[1]}
    method = Dinomaly(DinomalySettings(**small, steps=1, sigma=0.0))
    method.fit(parts[0].train[:4])
    scores = method.score(parts[0].test[:2])
    with torch.no_grad():
        pairs = method.network(method.features(parts[0].test[:2]).batch(range(2)))
    grid = sum(1 - (F.normalize(a, dim=1) * F.normalize(b, dim=1)).sum(1) for a, b in pairs) / 2
    maps = upsample(grid, 128, "bilinear").numpy()
    assert np.allclose(scores.maps, maps, atol=1e-5)
    assert np.allclose(scores.image, np.sort(maps.reshape(2, -1))[:, -164:].mean(1), atol=1e-5)  # 1 % of 128 x 128


@pytest.mark.parametrize("wrong", [{"groups": 0}, {"groups": 5, "layers": 5}, {"layers": 3}, {"width": 100}])
def test_what_does_not_divide_is_an_error(wrong):
    with pytest.raises(DumenetError, match="groups|heads"):
        LooseReconstruction(DinomalySettings(**wrong), (2, 3, 5, 7))
