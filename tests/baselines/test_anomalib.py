"""PaDiM and DRAEM against anomalib's pieces on the same tensors. anomalib is not installed by default: extra `compare`.

Where the two define a thing differently the test asserts the relation, not an agreement.
"""

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("anomalib", reason="a comparison, by choice: pip install -e '.[compare]'")

from anomalib.data.utils.generators.perlin import generate_perlin_noise
from anomalib.models.components import MultiVariateGaussian
from anomalib.models.image.draem.loss import DraemLoss
from anomalib.models.image.draem.torch_model import DiscriminativeSubNetwork, ReconstructiveSubNetwork
from anomalib.models.image.padim.anomaly_map import AnomalyMapGenerator

from dumenet.baselines.draem import Net, focal_loss, perlin, ssim
from dumenet.baselines.padim import PaDiM, PaDiMSettings, mahalanobis
from dumenet.baselines.protocol import features_of
from dumenet.config import FeatureConfig


def kept(method, samples):
    """The features that a fitted PaDiM uses, (n, K, H, W)."""
    features, _ = features_of(samples, method.settings)
    return features.batch(np.arange(len(features)))[:, method.kept]


@pytest.mark.parametrize("ridge", [0.01, 0.01001])
def test_padims_gaussians_and_distances(parts, ridge):
    """anomalib divides by n - 1 too, but adds 0.01 and then another 0.00001 to the covariance's diagonal.

    With the same sum all agrees to float32's rounding. With PaDiM's own 0.01, ours are larger by the square root of
    1.001 at most: squared distances along a direction of variance v are 1 / (v + 0.01) there, 1 / (v + 0.01001) here.
    """
    settings = PaDiMSettings(features=FeatureConfig(image_size=128), grid=8, channels=20, ridge=ridge, cache=parts[1])
    method = PaDiM(settings)
    method.fit(parts[0].train)
    mean, inverse = MultiVariateGaussian().fit(kept(method, parts[0].train))  # (K, N), (N, K, K)
    assert torch.allclose(method.mean, mean.T, rtol=1e-5, atol=1e-5)
    new = kept(method, parts[0].test)
    theirs = AnomalyMapGenerator.compute_distance(new, [mean, inverse]).flatten(1)  # (n, N)
    ours = mahalanobis(new.flatten(2).permute(2, 0, 1), method.mean, method.inverse).T  # (n, N)
    if ridge == 0.01001:
        assert (method.inverse - inverse).abs().max() < 1e-4 * inverse.abs().max()
        assert torch.allclose(ours, theirs, rtol=1e-4)
    else:
        ratio = ours / theirs
        assert ratio.min() > 1 - 1e-4 and ratio.max() < 1.001**0.5 + 1e-4 and ratio.mean() > 1 + 1e-5


def test_draems_focal_loss():
    """Of an anomalous pixel the same, apart from a factor: kornia's mean counts both classes of a pixel, hence half.

    Of a normal one not: anomalib's alpha of 1 gives it the weight 0 (kornia's is 1 - alpha); ours is 1, as the
    original's.
    """
    torch.manual_seed(0)
    logits, some = torch.randn(2, 2, 8, 8), torch.randint(2, (2, 8, 8))
    for mask in (some, torch.ones_like(some), torch.zeros_like(some)):
        ours = focal_loss(logits, mask)
        theirs = DraemLoss().focal_loss(logits, mask)
        assert torch.isclose(theirs, (ours * mask).mean() / 2, rtol=1e-5) and ours.mean() > 0


def test_draems_structural_loss():
    """Images that differ in the middle alone: at the border, where only the padding differs, both SSIMs are 1."""
    torch.manual_seed(0)
    a = torch.rand(2, 3, 48, 48)
    b = a.clone()
    b[..., 16:32, 16:32] = torch.rand(2, 3, 16, 16)
    ours = 1 - ssim(a, b).mean()
    assert ours > 0.1 and torch.isclose(2 * DraemLoss().ssim_loss(b, a), ours, rtol=1e-4)
    loss = DraemLoss()(a, b, torch.ones(2, 1, 48, 48), torch.zeros(2, 2, 48, 48))  # p = 1/2: half of -(1 - p)^2 log p
    assert torch.isclose(loss, (a - b).square().mean() + ours + 0.125 * np.log(2), rtol=1e-4)


@pytest.mark.parametrize("cells", [(2, 2), (4, 8), (16, 16)])
def test_draems_noise_is_as_rough(cells):
    """Two generators of random noise: the same spread of values and share above 0.5, the mask's threshold."""
    torch.manual_seed(0)
    rng, draws = np.random.default_rng(0), 400
    theirs = np.stack([generate_perlin_noise(64, 64, cells, torch.device("cpu")).numpy() for _ in range(draws)])
    ours = np.stack([perlin(64, cells, 0.0, rng) for _ in range(draws)])
    assert np.isclose(theirs.std(), ours.std(), rtol=0.05)
    shares = [(noise > 0.5).mean((1, 2)) for noise in (theirs, ours)]
    error = np.hypot(*(s.std() / draws**0.5 for s in shares))  # of the difference of their means
    assert abs(shares[0].mean() - shares[1].mean()) < 4 * error + 0.005


@pytest.mark.parametrize(
    ("theirs", "ours", "up"),
    [
        (ReconstructiveSubNetwork(base_width=4), Net(3, 3, [4, 8, 16, 32, 32], skips=False), (16, 8, 4, 4)),
        (DiscriminativeSubNetwork(6, 2, 4), Net(6, 2, [4, 8, 16, 32, 32, 32], skips=True), (32, 16, 8, 4, 4)),
    ],
    ids=["reconstructive", "discriminative"],
)
def test_draems_networks(theirs, ours, up):
    """The same way down and the same output; on the way up a step of theirs has the channels `up`, ours the level's."""
    x = torch.rand(2, 3 if theirs.__class__ is ReconstructiveSubNetwork else 6, 64, 64)
    assert theirs(x).shape == ours(x).shape
    encoder, decoder = theirs.children()
    assert shapes(encoder) == shapes(ours.down)
    last = [[m for m in part if isinstance(m, nn.Conv2d)][-1].out_channels
            for name, part in decoder.named_children() if name.startswith("db")]  # fmt: skip
    assert tuple(last) == up
    assert [part[-3].out_channels for part in ours.join] == [part[-3].out_channels for part in ours.down][-2::-1]


def shapes(module):
    """Of all parameters, in order."""
    return [p.shape for p in module.parameters()]
