"""A lesson builds a class in the open; from then on the package's is used. Both must be the same thing."""

import ast
import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

from dumenet.config import make_config
from dumenet.course import lessons
from dumenet.course.classroom import read
from dumenet.models import ChannelMemory, DuMeNet, Fusion, ShortcutNet, SpatialMemory, ssim
from dumenet.models.layers import DecoderLayer, EncoderLayer, LearnedPosition

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def class_of_lesson(name: str, **known) -> type:
    """Execute the one definition of class `name` in a lesson, with `known` names besides torch and nn."""
    cells = [c for path in lessons(NOTEBOOKS.parent) for c in read(path).cells]
    (source,) = [c.source for c in cells if c.cell_type == "code" and f"class {name}(" in c.source]
    (node,) = [n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == name]
    names = {"torch": torch, "nn": nn, **known}
    exec(ast.unparse(node), names)
    return names[name]


@pytest.mark.parametrize(("kind", "size", "hidden"), [("mlp", 1, 2), ("conv", 3, 4)])
def test_the_lessons_shortcut_net_is_the_packages(kind, size, hidden):
    torch.manual_seed(0)
    config = make_config(model__name=kind, model__encoder_layers=hidden // 2, model__decoder_layers=hidden // 2).model
    theirs = ShortcutNet(config, (4, 6), 5)
    theirs.standardise.mean.normal_()
    theirs.standardise.std.uniform_(0.5, 2)
    ours = class_of_lesson("ShortcutNet")(10, size, hidden)
    ours.net.load_state_dict(theirs.net.state_dict())  # strict: the same layers
    x = torch.randn(3, 10, 5, 5)
    result = theirs(x)
    assert torch.equal(ours(theirs.standardise(x)), result.features)
    assert torch.equal(result.target, theirs.standardise(x))


@pytest.mark.parametrize(
    ("memory", "sizes", "known"), [(ChannelMemory, (7, 16), {}), (SpatialMemory, (7, 5), {"ssim": ssim})]
)
def test_the_lessons_memories_are_the_packages(memory, sizes, known):
    torch.manual_seed(0)
    theirs, ours = memory(*sizes), class_of_lesson(memory.__name__, **known)(*sizes)
    ours.load_state_dict(theirs.state_dict())  # strict: the same parameters
    x = torch.randn(3, 25, 16)
    for mine, packages in zip(ours(x), theirs(x)):  # the read, the weights
        assert torch.allclose(mine, packages, atol=1e-6)


def test_the_lessons_dumenet_is_the_packages():
    torch.manual_seed(0)
    theirs = DuMeNet(make_config(model__hidden_dim=16, model__heads=2).model, (4, 6), 5).eval()
    parts = (ChannelMemory, DecoderLayer, EncoderLayer, Fusion, LearnedPosition, SpatialMemory)
    known = {part.__name__: part for part in parts} | {"F": nn.functional}
    ours = class_of_lesson("OpenDuMeNet", **known)(10, 5, 16, heads=2).eval()
    missing, extra = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not missing and extra == ["standardise.mean", "standardise.std"]
    x = torch.randn(3, 10, 5, 5)
    assert torch.allclose(ours(x), theirs(x).features, atol=1e-5)


def test_a_figure_without_a_text_is_seen_when_the_lessons_are_executed():
    texts = runpy.run_path(str(NOTEBOOKS / "conftest.py"))["texts"]
    alt = "two curves, and the lower one is ours"
    assert list(texts({"data": {"image/png": "..."}, "metadata": {"image/png": {"alt": alt}}})) == [alt]
    assert list(texts({"data": {"image/png": "...", "text/plain": "<Figure>"}, "metadata": {}})) == [""]
    html = f'<p><img src="a.png" alt="{alt}"><img src="b.png"></p>'
    assert list(texts({"data": {"text/html": html}})) == [alt, ""] and not list(texts({"name": "stdout", "text": "x"}))
