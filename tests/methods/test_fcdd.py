"""FCDD: its loss by hand, its upsampling and its confetti against oracles, and that it learns what it is taught."""

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import nn

from dumenet.config import FeatureConfig
from dumenet.data import Sample, load_image
from dumenet.methods.fcdd import (
    FCDD,
    FCDDSettings,
    fcdd_loss,
    placed_gaussians,
    pseudo_huber,
    receptive_field,
    soft_square,
    with_confetti,
)  # fmt: skip
from dumenet.metrics import auroc


def test_the_loss_by_hand():
    z = torch.tensor([[[0.0, 3.0], [4.0, -1.0]]]).repeat(2, 1, 1)
    mean = (np.sqrt(10) + np.sqrt(17) + np.sqrt(2) - 3) / 4
    normal, outlier = fcdd_loss(pseudo_huber(z), torch.tensor([False, True])).tolist()
    assert np.isclose(normal, mean) and np.isclose(outlier, -np.log(1 - np.exp(-mean)))
    assert np.isfinite(fcdd_loss(torch.zeros(1, 2, 2), torch.tensor([True]))).all()


def test_upsampling_is_the_transposed_convolution():
    """Two 3 x 3 convolutions, the first with stride 2: receptive field 7, jump 2, first centre at pixel 0."""
    one, two = nn.Conv2d(3, 2, 3, stride=2, padding=1), nn.Conv2d(2, 1, 3, padding=1)
    net, z = nn.Sequential(one, two, nn.Flatten(1, 2)), torch.rand(1, 16, 16)
    assert receptive_field(net, 32) == (7, 2.0, 0.0)
    g = placed_gaussians(net, 32, sigma=2.0)
    line = torch.exp(-(torch.arange(-3.0, 4.0) ** 2) / 8)
    kernel = torch.outer(line, line)[None, None]
    oracle = F.conv_transpose2d(z[None], kernel, stride=2, padding=3, output_padding=1)[0]
    assert torch.allclose(g @ z @ g.T, oracle, atol=1e-5)


def test_confetti_is_a_blurred_square():
    hard = np.zeros((80, 80))
    hard[30:50, 20:40] = 1  # 20 pixels wide around (39.5, 29.5)
    assert np.abs(soft_square(80, (39.5, 29.5), 20, 0.0, 3.0) - ndimage.gaussian_filter(hard, 3.0)).max() < 0.01
    turned = soft_square(80, (39.5, 29.5), 20, np.pi / 2, 3.0)
    assert np.allclose(turned, soft_square(80, (39.5, 29.5), 20, 0.0, 3.0))
    rng = np.random.default_rng(0)
    assert with_confetti(np.full((3, 64, 64), 0.5), rng).max() <= 0.5
    assert with_confetti(np.ones((3, 64, 64)), rng).min() < 0.7
    assert with_confetti(np.zeros((3, 64, 64)), rng).max() > 0.3  # added where there is nothing to take away


def small(cache, **options):
    return FCDDSettings(**{"features": FeatureConfig(image_size=128), "cache": cache, "batch": 8} | options)


def test_finds_defects(parts, judged):
    """Spots on parquet, the factory's defects most like confetti; and confetti on unseen images."""
    method = FCDD(small(parts[1], steps=150))
    normal = judged(method, "parquet", ("stain", "worm_hole"))
    rng = np.random.default_rng(1)
    strewn = [with_confetti(load_image(s, 128).transpose(2, 0, 1) / 255, rng) for s in normal]
    arrays = [(255 * image.transpose(1, 2, 0)).astype(np.uint8) for image in strewn]
    samples = normal + [Sample(f"confetti/{i}", "parquet", "confetti", a) for i, a in enumerate(arrays)]
    assert auroc(np.array([s.label for s in samples]), method.score(samples).image) > 0.95


def test_outliers_may_be_samples_or_none(parts):
    """Without any, a centre away from 0 is fixed before training."""
    rng = np.random.default_rng(0)
    noise = [Sample(f"{i}", "noise", "noise", rng.integers(0, 256, (40, 40, 3)).astype(np.uint8)) for i in range(3)]
    for outliers in (noise, None):
        method = FCDD(small(parts[1], steps=2, batch=4, outliers=outliers))
        method.fit(parts[0].train[:4])
        assert (method.centre.item() != 0) == (outliers is None)
        assert np.isfinite(method.score(parts[0].test[:2]).maps).all()
