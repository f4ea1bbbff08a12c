"""DRAEM: what it paints and its two losses against oracles, and that it finds defects."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import structural_similarity
from torchvision.ops import sigmoid_focal_loss

from dumenet.config import FeatureConfig
from dumenet.data import load_image
from dumenet.methods import draem
from dumenet.methods.draem import DRAEM, DRAEMSettings, Net, drawn, focal_loss, paint, perlin, ssim
from dumenet.metrics import auroc


def small(**options):
    """For images of 64 pixels, on which `window` 21 of 256 is 5."""
    return DRAEM(DRAEMSettings(features=FeatureConfig(image_size=64), window=5, **options))


def test_paint_mixes_inside_the_mask():
    image, texture, mask = np.full((3, 1, 2), 0.2), np.full((3, 1, 2), 0.8), np.array([[True, False]])
    painted = paint(image, texture, mask, 0.25)
    assert np.allclose(painted[:, 0, 0], 0.75 * 0.2 + 0.25 * 0.8) and np.allclose(painted[:, 0, 1], 0.2)


def test_focal_loss_is_torchvisions():
    torch.manual_seed(0)
    logits, mask = torch.randn(2, 2, 4, 4), torch.randint(2, (2, 4, 4))
    oracle = sigmoid_focal_loss(logits[:, 1] - logits[:, 0], mask.float(), alpha=-1, gamma=2)
    assert torch.allclose(focal_loss(logits, mask), oracle, atol=1e-6)


def test_ssim_is_scikit_images():
    rng = np.random.default_rng(0)
    a = rng.random((3, 24, 20))
    b = (a + rng.normal(0, 0.2, a.shape)).clip(0, 1)
    got = ssim(*(torch.from_numpy(v)[None].float() for v in (a, b)))[0].numpy()
    options = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1, full=True)
    for channel in range(3):
        _, true = structural_similarity(a[channel], b[channel], **options)
        assert np.allclose(got[channel, 5:-5, 5:-5], true[5:-5, 5:-5], atol=1e-4)  # the border is padded otherwise


def test_perlin_noise_is_zero_on_its_lattice_and_smooth_between():
    rng = np.random.default_rng(0)
    assert np.allclose(perlin(50, (100, 100), 0.0, rng), 0, atol=1e-9)  # these pixels all lie on lattice points
    noise = perlin(64, (4, 2), 0.7, rng)
    assert noise.shape == (64, 64) and np.abs(noise).max() <= 1
    assert max(np.abs(np.diff(noise, axis=k)).max() for k in (0, 1)) < 0.25 < noise.max() - noise.min()


@pytest.mark.parametrize("change", draem.CHANGES)
def test_a_changed_texture_keeps_its_size_and_mode(change):
    rng = np.random.default_rng(0)
    assert all((x.size, x.mode) == ((48, 48), "RGB") for x in (change(drawn(48, rng), rng) for _ in range(3)))


def test_textures_are_drawn_or_training_images_or_those_of_a_folder(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(draem, "CHANGES", [lambda image, rng: image] * 10)
    rng, (train, _) = np.random.default_rng(0), (parts[0].train[:1], (tmp_path / "banded").mkdir())
    images = [np.asarray(small().texture(train, rng)) for _ in range(12)]
    assert 0 < sum(np.array_equal(image, load_image(train[0], 64)) for image in images) < 12
    Image.new("RGB", (9, 9), (1, 2, 3)).save(tmp_path / "banded" / "one.png")
    assert (np.asarray(small(textures=tmp_path).texture(train, rng)) == (1, 2, 3)).all()


def test_the_networks_keep_any_size():
    x = torch.rand(2, 3, 50, 50)
    assert Net(3, 3, [2, 4, 8, 16, 16], skips=False)(x).shape == (2, 3, 50, 50)
    assert Net(3, 2, [2, 4, 8, 16, 16, 16], skips=True)(x).shape == (2, 2, 50, 50)


def test_finds_what_it_paints(parts):
    """Textures on unseen images: most painted pixels above the others. Factory's defects take more than 200 steps."""
    method, rng = small(steps=150, turned=0.0), np.random.default_rng(1)
    method.fit(parts[0].train)
    test, masks = [], []
    for sample in parts[0].test:
        if not sample.label:
            image, masks = load_image(sample, 64).transpose(2, 0, 1) / 255, [*masks, perlin(64, (4, 4), 0.3, rng) > 0.5]
            painted = paint(image, np.asarray(drawn(64, rng)).transpose(2, 0, 1) / 255, masks[-1], 0.2)
            test.append(replace(sample, source=(255 * painted).round().astype(np.uint8).transpose(1, 2, 0)))
    found = [auroc(m.ravel(), s.ravel()) for m, s in zip(masks, method.score(test).maps)]
    assert len(found) == 10 and np.mean(found) > 0.6, found  # three seeds had 0.74 to 0.90; chance 0.5 +- 0.05
