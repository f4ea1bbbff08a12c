"""PaDiM: its formula against an oracle."""

import numpy as np
import torch
from scipy.spatial.distance import mahalanobis as oracle

from dumenet.methods.padim import gaussians
from dumenet.methods.protocol import mahalanobis


def test_mahalanobis_is_scipys():
    rng = np.random.default_rng(0)
    x, new = rng.normal(size=(2, 12, 3)), rng.normal(size=(2, 4, 3))  # (N, images, K)
    t = torch.from_numpy(x)
    mean, inverse = gaussians(12, t.sum(1), t.transpose(1, 2) @ t, ridge=0.01)
    got = mahalanobis(torch.from_numpy(new).float(), mean, inverse)
    for n in range(2):
        covariance = np.cov(x[n], rowvar=False) + 0.01 * np.eye(3)
        for b in range(4):
            true = oracle(new[n, b], x[n].mean(0), np.linalg.inv(covariance))
            assert np.isclose(got[n, b], true, rtol=1e-3)
