"""MKD: its losses against scikit-learn and by hand, and that defects are found."""

import numpy as np
import torch
from sklearn.metrics import mean_squared_error
from sklearn.metrics.pairwise import cosine_similarity

from dumenet.config import FeatureConfig
from dumenet.methods import distillation
from dumenet.methods.distillation import DistillationSettings, KnowledgeDistillation, Student, losses


def test_the_losses_are_sklearns():
    rng = np.random.default_rng(0)
    teacher, student = ([rng.normal(size=s) for s in ((2, 3, 4, 4), (2, 5, 2, 2))] for _ in range(2))
    direction, value = losses([torch.from_numpy(a) for a in teacher], [torch.from_numpy(b) for b in student])
    for k in range(2):
        pairs = [(a[k].reshape(1, -1), b[k].reshape(1, -1)) for a, b in zip(teacher, student)]
        assert np.isclose(direction[k], sum(1 - cosine_similarity(a, b).item() for a, b in pairs))
        assert np.isclose(value[k], sum(mean_squared_error(a, b) for a, b in pairs))


def test_finds_defects(judged):
    """On parquet without scratches, lines of a pixel that the map's smoothing, sigma 4, spreads thin.

    The gradient of so short a training peaks in half of the defects, a random place in far fewer.
    """
    settings = DistillationSettings(features=FeatureConfig(image_size=128), steps=110, batch=6)
    method = KnowledgeDistillation(settings)
    normal = judged(method, "parquet", ("dent", "stain", "turned_tile", "worm_hole"), peak=0.25)
    learned = method.score(normal).image.mean()
    method.student = Student(method.teacher.stage_channels, settings.inner).eval()  # one that has learned nothing
    assert learned < 0.5 * method.score(normal).image.mean()


def test_both_terms_weigh_the_same_before_training(parts, monkeypatch):
    seen = []
    monkeypatch.setattr(distillation, "losses", lambda *levels: seen.append(losses(*levels)) or seen[-1])
    short = {"features": FeatureConfig(image_size=64), "steps": 1, "batch": 4}
    methods = [KnowledgeDistillation(DistillationSettings(**short, weight=weight)) for weight in (None, 0.5)]
    for method in methods:
        method.fit(parts[0].train[:6])
    direction, value = seen[0]
    assert np.isclose(direction.sum().item(), methods[0].weight * value.sum().item(), rtol=1e-5)
    assert methods[1].weight == 0.5
