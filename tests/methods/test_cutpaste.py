"""CutPaste: what it pastes, its Gaussian against scikit-learn's, and that it finds defects."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.covariance import LedoitWolf

from dumenet.config import FeatureConfig
from dumenet.features import Backbone
from dumenet.methods.cutpaste import CutPaste, CutPasteSettings, cut_paste, gaussian, paste, scar
from dumenet.methods.protocol import images_of, mahalanobis


def test_the_gaussian_is_scikit_learns():
    rows = (np.random.default_rng(0).normal(size=(40, 6)) * (1, 2, 3, 1, 1, 0.1)).astype(np.float32)
    true = LedoitWolf().fit(rows[:30]).mahalanobis(rows[30:])  # squared
    got = mahalanobis(torch.from_numpy(rows[30:]), *gaussian(torch.from_numpy(rows[:30])))
    assert np.allclose(got.square(), true, rtol=1e-3)


@pytest.mark.filterwarnings("ignore:Only one sample")
def test_a_gaussian_of_one_image_is_finite():
    assert torch.isfinite(torch.cat([t.flatten() for t in gaussian(torch.ones(1, 4))])).all()


@pytest.mark.parametrize("degrees", [0, 90, 30])
def test_what_is_pasted_is_a_turned_piece(degrees):
    """In a picture of coordinates, red x and green y, the pasted pixels say where they come from."""
    side, height, width = 100, 30.0, 10.0
    y, x = torch.meshgrid(torch.arange(side) / side, torch.arange(side) / side, indexing="ij")
    image = torch.stack([x, y, torch.zeros_like(x)])
    for seed in range(5):
        new = paste(image, height, width, degrees, 0.0, torch.Generator().manual_seed(seed))
        changed = (new != image).any(0).numpy()
        area = ndimage.binary_fill_holes(changed).sum()
        assert abs(area - height * width) < 60  # the border's pixels
        rows, columns = np.nonzero(changed)
        source = np.stack([new[1].numpy()[changed], new[0].numpy()[changed]]) * side
        target = np.stack([rows, columns]).astype(float)
        source, target = source - source.mean(1, keepdims=True), target - target.mean(1, keepdims=True)
        turn = np.linalg.lstsq(target.T, source.T, rcond=None)[0].T  # source = turn @ target
        a = np.radians(degrees)
        assert np.allclose(turn, [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]], atol=0.05)
        extent = np.ptp(source, axis=1)
        assert abs(extent[0] - height) <= 2 and abs(extent[1] - width) <= 2


def test_sizes_are_the_papers():
    settings, generator = CutPasteSettings(jitter=0.0), torch.Generator().manual_seed(0)
    image = torch.rand(3, 256, 256, generator=generator)
    pasted = [(cut_paste(image, settings, generator) != image).any(0).float().mean() for _ in range(60)]
    scars = [(scar(image, settings, generator) != image).any(0).sum() for _ in range(60)]
    assert 0.015 < min(pasted) < 0.04 and 0.12 < max(pasted) < 0.16
    assert min(scars) > 10 and 200 < max(scars) < 16 * 25 + 50


def settings_of(parts, **changes):
    short = {"features": FeatureConfig(image_size=128), "head_steps": 10, "steps": 20, "batch": 6, "cache": parts[1]}
    return CutPasteSettings(**short | changes)


def test_finds_defects(parts, judged):
    """What lies on the surface and was not there, as what is pasted; of a crushed crimp something is gone."""
    method = CutPaste(settings_of(parts))
    normal = judged(method, "cap", ("mirrored_print", "scratch", "stain", "wrong_number"))
    generator = torch.Generator().manual_seed(1)
    # The features alone find as much: is the puzzle learned, on unseen images?
    images = next(images_of(normal, 128, len(normal)))
    pasted = torch.stack([cut_paste(x, method.settings, generator) for x in images])
    right = [method.network.classify(method.network(x).mean((2, 3))).argmax(1) == 0 for x in (images, pasted)]
    assert (right[0].float().mean() + 1 - right[1].float().mean()) / 2 > 0.8


def test_a_frozen_backbone_stays_as_it_was(parts):
    kept = {}
    for tune in (True, False):
        method = CutPaste(settings_of(parts, head_steps=0, steps=1, batch=2, tune=tune))
        method.fit(parts[0].train[:3])
        kept[tune] = {k: v.clone() for k, v in method.network.backbone.net.state_dict().items()}
    plain = Backbone(method.settings.features).net.state_dict()
    assert all(torch.equal(kept[False][k], v) for k, v in plain.items())
    assert any(not torch.equal(kept[True][k], v) for k, v in plain.items())
    assert all(torch.equal(kept[True][k], v) for k, v in plain.items() if "running" in k)
