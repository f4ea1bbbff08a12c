"""PaDiM and DRAEM against anomalib's pieces on the same tensors. anomalib is not installed by default: extra `compare`.

Where the two define a thing differently the test asserts the relation, not an agreement.
"""

import numpy as np
import pytest
import torch

pytest.importorskip("anomalib", reason="a comparison, by choice: pip install -e '.[compare]'")

from anomalib.models.components import MultiVariateGaussian
from anomalib.models.image.draem.loss import DraemLoss
from anomalib.models.image.padim.anomaly_map import AnomalyMapGenerator

from dumenet.config import FeatureConfig
from dumenet.methods.draem import focal_loss, ssim
from dumenet.methods.padim import PaDiM, PaDiMSettings
from dumenet.methods.protocol import mahalanobis


def kept(method, samples):
    """The features that a fitted PaDiM uses, (n, K, H, W)."""
    features, _ = method._features(samples)
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
