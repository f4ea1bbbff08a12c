"""Uninformed Students: the formulas by hand, and the patch nets against their own patches."""

import numpy as np
import pytest
import torch

from dumenet.config import FeatureConfig
from dumenet.methods.students import (
    LAYERS,
    PatchNet,
    StudentsSettings,
    UninformedStudents,
    correlation_loss,
    error_and_variance,
    statistics,
)  # fmt: skip


def test_error_and_variance_by_hand():
    guesses = torch.tensor([[1.0, 0.0], [3.0, 0.0], [5.0, 6.0]]).view(3, 1, 2, 1, 1)  # mean (3, 2)
    error, variance = error_and_variance(guesses, torch.tensor([0.0, 4.0]).view(1, 2, 1, 1))
    assert error.item() == 9 + 4
    mean_square = (1 + 9 + 25 + 36) / 3  # as the paper writes it: mean of |S|^2, less |mean|^2
    assert np.isclose(variance.item(), mean_square - (9 + 4))


def test_correlations_are_numpys():
    x = np.random.default_rng(0).normal(size=(20, 4))
    c = np.abs(np.corrcoef(x, rowvar=False))
    assert np.isclose(correlation_loss(torch.from_numpy(x)).item(), (c.sum() - 4) / 12)


def test_statistics_over_batches():
    x = torch.randn(3, 50)
    mean, std = statistics(iter(x.split(20, dim=1)))
    assert torch.allclose(mean, x.mean(1), atol=1e-6) and torch.allclose(std, x.std(1, correction=0), atol=1e-6)


@pytest.mark.parametrize("patch", LAYERS)
def test_descriptors_of_an_image_are_those_of_its_patches(patch):
    """Dense or strided, the descriptor at a place is the net's of the p x p pixels there: the field is all of p."""
    torch.manual_seed(0)
    net, image = PatchNet(patch, 4, 6), torch.randn(1, 3, patch + 13, patch + 13)
    dense, strided = net(image, dense=True), net(image)
    assert net(image[..., :patch, :patch]).shape == (1, 6, 1, 1) and dense.shape == (1, 6, 14, 14)
    for row, column in ((0, 0), (13, 13), (5, 8)):
        own = net(image[..., row : row + patch, column : column + patch])[..., 0, 0]
        assert torch.allclose(dense[..., row, column], own, atol=1e-5)
    assert torch.allclose(strided, dense[..., :: net.stride, :: net.stride], atol=1e-5)
    weighed = image[..., :patch, :patch].clone().requires_grad_()
    net(weighed).sum().backward()
    assert weighed.grad[0, :, [0, -1]].abs().sum() > 0 and weighed.grad[0, :, :, [0, -1]].abs().sum() > 0


@pytest.mark.parametrize("options", [{}, {"holdout": 0.0}, {"patch": 17}])
def test_one_training_image_is_enough(parts, options):
    tiny = {"width": 4, "size": 8, "views": 32, "view_size": 32, "teacher_steps": 3, "steps": 3}
    method = UninformedStudents(StudentsSettings(features=FeatureConfig(image_size=48), **tiny | options))
    method.fit(parts[0].train[:1])
    assert np.isfinite(method.score(parts[0].test[:1]).image).all()
