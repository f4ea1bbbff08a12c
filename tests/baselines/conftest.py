"""One category of the embedded data, small, and what every method must do on it."""

import numpy as np
import pytest

from dumenet.data import load_mask, make_factory, open_dataset
from dumenet.metrics import auroc


@pytest.fixture(scope="session")
def parts(tmp_path_factory):
    """Connectors: 30 normal images to train on, 10 normal and 15 defective ones to test on; and a cache for features."""
    home = tmp_path_factory.mktemp("parts")
    root = make_factory(home / "factory", categories="connector", train=30, test_good=10, per_defect=3, size=128)
    return open_dataset(str(root), ("all",), home=home), home / "cache"


@pytest.fixture
def judged(parts):
    """Fit a method and judge it: ``judged(method)`` gives image AUROC, and the share of defects whose map is higher inside.

    Of defects large enough to show on a 14 x 14 grid: the map's mean inside against its mean outside.
    """
    dataset, _ = parts

    def judge(method, size):
        method.fit(dataset.train)
        scores = method.score(dataset.test)
        n = len(dataset.test)
        assert scores.image.shape == (n,) and scores.maps.shape == (n, size, size) and np.isfinite(scores.maps).all()
        labels = np.array([s.label for s in dataset.test])
        masks = np.stack([load_mask(s, size) for s in dataset.test])
        inside = [m[k].mean() > m[~k].mean() for m, k in zip(scores.maps, masks) if k.any()]
        return auroc(labels, scores.image), np.mean(inside)

    return judge
