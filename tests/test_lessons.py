"""A lesson builds a class in the open; from then on the package's is used. Both must be the same thing."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from dumenet.config import make_config
from dumenet.models import ChannelMemory, DuMeNet, Fusion, ShortcutNet, SpatialMemory, ssim
from dumenet.models.layers import DecoderLayer, EncoderLayer, LearnedPosition

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def class_of_lesson(notebook: str, name: str, **known) -> type:
    """Execute the one cell of a lesson that defines class `name`, with `known` names besides torch and nn."""
    cells = json.loads((NOTEBOOKS / notebook).read_text(encoding="utf-8"))["cells"]
    sources = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    (source,) = [s for s in sources if s.startswith(f"class {name}(")]
    names = {"torch": torch, "nn": nn, **known}
    exec(source, names)
    return names[name]


@pytest.mark.parametrize(("kind", "size"), [("mlp", 1), ("conv", 3)])
@pytest.mark.parametrize("hidden", [2, 4])
def test_lesson_01_shortcut_net_is_the_packages(kind, size, hidden):
    torch.manual_seed(0)
    config = make_config(model__name=kind, model__encoder_layers=hidden // 2, model__decoder_layers=hidden // 2).model
    theirs = ShortcutNet(config, (4, 6), 5)
    theirs.standardise.mean.normal_()
    theirs.standardise.std.uniform_(0.5, 2)
    ours = class_of_lesson("01_identical_shortcut.ipynb", "ShortcutNet")(10, size, hidden)
    ours.net.load_state_dict(theirs.net.state_dict())  # strict: the same layers
    x = torch.randn(3, 10, 5, 5)
    result = theirs(x)
    assert torch.equal(ours(theirs.standardise(x)), result.features)
    assert torch.equal(result.target, theirs.standardise(x))


def test_lesson_03_channel_memory_is_the_packages():
    torch.manual_seed(0)
    theirs = ChannelMemory(7, 16)
    ours = class_of_lesson("03_channel_memory.ipynb", "ChannelMemory")(7, 16)
    ours.load_state_dict(theirs.state_dict())  # strict: the same layers
    x = torch.randn(3, 25, 16)
    for our_part, their_part in zip(ours(x), theirs(x)):
        assert torch.equal(our_part, their_part)


def test_lesson_05_dumenet_is_the_packages():
    torch.manual_seed(0)
    theirs = DuMeNet(make_config(model__hidden_dim=16, model__heads=2).model, (4, 6), 5).eval()
    parts = (ChannelMemory, DecoderLayer, EncoderLayer, Fusion, LearnedPosition, SpatialMemory)
    known = {part.__name__: part for part in parts} | {"F": nn.functional}
    ours = class_of_lesson("05_dumenet.ipynb", "OpenDuMeNet", **known)(10, 5, 16, heads=2).eval()
    missing, extra = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not missing and extra == ["standardise.mean", "standardise.std"]
    x = torch.randn(3, 10, 5, 5)
    assert torch.allclose(ours(x), theirs(x).features, atol=1e-5)


def test_lesson_04_spatial_memory_is_the_packages():
    torch.manual_seed(0)
    theirs = SpatialMemory(7, 5)
    ours = class_of_lesson("04_spatial_memory.ipynb", "SpatialMemory", ssim=ssim)(7, 5)
    ours.load_state_dict(theirs.state_dict())  # strict: the same parameters
    x = torch.randn(3, 25, 8)
    for mine, packages in zip(ours(x), theirs(x)):  # the read, the weights
        assert torch.allclose(mine, packages, atol=1e-6)
