"""A moved control draws anew; a broken drawing fails where the control is moved."""

import matplotlib.pyplot as plt
import pytest

widgets = pytest.importorskip("ipywidgets", reason="an extra: pip install -e '.[notebooks]'")

from dumenet.widgets import live  # noqa: E402


def draw(level, flip):
    fig, ax = plt.subplots()
    ax.axhline(-level if flip else level)
    ax.set_ylim(-1, 1)
    return fig


def test_each_control_changes_the_picture():
    level, flip = widgets.FloatSlider(0.2, min=0, max=1), widgets.Checkbox(False)
    *controls, picture = live(draw, level=level, flip=flip).children
    assert controls == [level, flip]
    seen = [picture.value]
    level.value = 0.8
    seen.append(picture.value)
    flip.value = True
    seen.append(picture.value)
    assert len(set(seen)) == 3 and all(bytes(v[:4]) == b"\x89PNG" for v in seen)
    assert not plt.get_fignums(), "no figure stays open"


def test_an_error_in_the_drawing_is_raised_at_the_control():
    level = widgets.FloatSlider(0.2, min=0, max=1)

    def fragile(level):
        if level > 0.5:
            raise ValueError("broken callback")
        return draw(level, False)

    live(fragile, level=level)
    with pytest.raises(ValueError, match="broken callback"):
        level.value = 0.9
