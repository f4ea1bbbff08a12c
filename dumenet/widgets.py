"""Controls on figures. The drawing is a plain function, so that it also works on paper and in tests."""

import io
from collections.abc import Callable

import ipywidgets
import matplotlib.pyplot as plt
from matplotlib.figure import Figure


def live(draw: Callable[..., Figure], **controls: ipywidgets.Widget) -> ipywidgets.VBox:
    """Controls above the picture that ``draw(**values)`` makes anew whenever one of them moves.

    The picture is an `ipywidgets.Image`, not a captured output: an error in `draw` is raised where a control is
    moved, so a cell that moves it fails, and a headless run cannot hang on a lost output message.

    Args:
        controls: widgets with a `value`, named like the arguments of `draw`.
    """
    picture = ipywidgets.Image(format="png", layout={"align_self": "flex-start", "max_width": "100%"})

    def update(_change: object = None) -> None:
        figure, data = draw(**{name: control.value for name, control in controls.items()}), io.BytesIO()
        figure.savefig(data, format="png", dpi=100, bbox_inches="tight")
        plt.close(figure)
        picture.value = data.getvalue()

    for control in controls.values():
        control.observe(update, "value")
    update()
    return ipywidgets.VBox([*controls.values(), picture])
