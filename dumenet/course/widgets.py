"""Controls on figures. The drawing is a plain function, so that it also works on paper and in tests."""

import html
import io
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import anywidget
import ipywidgets
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import traitlets
from matplotlib.figure import Figure
from PIL import Image

from dumenet.course.explorer import (
    ERRORS,
    Session,
    State,
    describe,
    explorer_figure,
    image_name,
    pane,
    report_picture,
    stage_name,
)
from dumenet.plots import as_uint8

__all__ = ["Explorer", "Picture", "explorer_figure", "live"]

SCALE = """<div style="display: flex; align-items: center; gap: 10px; line-height: 1.3; flex-wrap: wrap">
<span>score {low:.2f}</span>
<div style="position: relative; flex: 1 1 160px; max-width: 380px; height: 14px;
  background: linear-gradient(to right, {colours})">
<div style="position: absolute; left: calc({at:.1f}% - 2px); top: -3px; width: 3px; height: 20px; background: black;
  outline: 1px solid white"></div></div>
<span>{top:.2f}, the scores in sight; 1 is the verdict's threshold. Hatched: at or above {threshold:.2f}.
Outline: truth. Ring: the chosen position; click a picture to move it.</span></div>"""


class Picture(anywidget.AnyWidget):
    """A PNG with a text alternative. With a `grid`, a click or the arrow keys move its `place` (row, column).

    `ipywidgets.Image` has neither a text alternative nor clicks. The ring at `place` is drawn by the browser.
    """

    _esm = """
    export default { render({ model, el }) {
      const [box, image, ring] = ["div", "img", "div"].map((tag) => document.createElement(tag));
      box.className = "dumenet-picture"; ring.className = "dumenet-ring"; box.append(image, ring); el.append(box);
      let address;
      const draw = () => {
        const old = address;
        address = URL.createObjectURL(new Blob([model.get("png")], { type: "image/png" }));
        image.src = address;
        if (old) URL.revokeObjectURL(old);
      };
      const place = () => {
        const grid = model.get("grid"), [row, column] = model.get("place");
        ring.hidden = grid < 2;
        ring.style.top = 100 * (row + 0.5) / grid + "%"; ring.style.left = 100 * (column + 0.5) / grid + "%";
      };
      const move = (row, column) => {
        const last = model.get("grid") - 1, inside = (x) => Math.min(Math.max(x, 0), last);
        model.set("place", [inside(row), inside(column)]); model.save_changes();
      };
      const words = () => { image.alt = model.get("alt"); };
      model.on("change:png", draw); model.on("change:place", place); model.on("change:alt", words);
      draw(); place(); words();
      if (model.get("grid") > 1) {
        image.tabIndex = 0; image.style.cursor = "crosshair";
        image.addEventListener("click", (e) => {
          const b = image.getBoundingClientRect(), grid = model.get("grid");
          move(Math.floor((e.clientY - b.top) / b.height * grid), Math.floor((e.clientX - b.left) / b.width * grid));
        });
        image.addEventListener("keydown", (e) => {
          const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[e.key];
          if (!step) return;
          e.preventDefault(); e.stopPropagation();
          const [row, column] = model.get("place");
          move(row + step[0], column + step[1]);
        });
      }
      return () => URL.revokeObjectURL(address);
    } };
    """
    _css = """
    .dumenet-picture { position: relative; line-height: 0; overflow: hidden; }
    .dumenet-picture img { max-width: 100%; height: auto; }
    .dumenet-explorer .dumenet-picture img { width: 100%; }
    .dumenet-explorer .widget-toggle-buttons { display: flex; flex-flow: row nowrap; align-items: baseline; }
    .dumenet-explorer .widget-toggle-buttons > .widget-label { text-align: right; }
    .dumenet-picture img:focus-visible { outline: 3px solid #0173b2; outline-offset: -3px; }
    .dumenet-ring { position: absolute; width: 22px; height: 22px; margin: -11px 0 0 -11px; border-radius: 50%;
      box-sizing: border-box; border: 2px solid white; outline: 1.5px solid black; box-shadow: inset 0 0 0 1.5px black;
      pointer-events: none; }
    """
    png = traitlets.Bytes(b"").tag(sync=True)
    alt = traitlets.Unicode("").tag(sync=True)
    grid = traitlets.Int(0).tag(sync=True)
    place = traitlets.List(traitlets.Int(), [0, 0]).tag(sync=True)


def live(draw: Callable[..., Figure], **controls: ipywidgets.Widget) -> ipywidgets.VBox:
    """Controls above the picture that ``draw(**values)`` makes anew whenever one of them moves.

    Nothing is captured: an error in `draw` is raised where a control is moved, so a cell that moves it fails, and a
    headless run cannot hang on a lost output message.

    Args:
        controls: widgets with a `value`, named like the arguments of `draw`.
    """
    picture = Picture()

    def update(_change: object = None) -> None:
        values = {name: control.value for name, control in controls.items()}
        figure, data = draw(**values), io.BytesIO()
        figure.savefig(data, format="png", dpi=100, bbox_inches="tight")
        plt.close(figure)
        picture.png = data.getvalue()
        picture.alt = "The figure for " + ", ".join(f"{name} {value}" for name, value in values.items())

    for control in controls.values():
        control.style.description_width = "initial"  # else Jupyter cuts a label of eleven letters
        control.observe(update, "value")
    update()
    return ipywidgets.VBox([*controls.values(), picture])


def _png(array: np.ndarray) -> bytes:
    """An (H, W, 3) picture, uint8 or 0..1, as PNG: packed lightly, since it is sent once and thrown away."""
    data = io.BytesIO()
    Image.fromarray(as_uint8(array)).save(data, "png", compress_level=1)
    return data.getvalue()


GROUPS = (  # the explorer's controls: of data and models, of the map, of the position
    ("data", "category", "image", "model", "other"),
    ("stage", "error", "threshold", "opacity", "colour_map"),
    ("row", "column", "memory", "hidden"),
)
LABELS = {"data": "data set", "other": "beside it", "colour_map": "colour map", "hidden": "hidden map"}
MEASURES = {"mahalanobis": "spread", "norm": "norm"}  # `evaluation.error`, on its buttons
ROWS = ("map", "decoded", "report")


def _control(name: str) -> ipywidgets.Widget:
    """One of the explorer's controls; what it may be is filled in by `Explorer._offer`."""
    style = {"style": {"description_width": "6.5em"}, "layout": {"width": "auto"}}
    style["description"] = LABELS.get(name, name)
    if name in ("row", "column"):
        return ipywidgets.IntSlider(min=0, max=1, **style)
    if name == "error":
        buttons = {"tooltips": [ERRORS[error] for error in MEASURES]}
        return ipywidgets.ToggleButtons(**style | {"style": style["style"] | {"button_width": "5.5em"}}, **buttons)
    if name in ("threshold", "opacity"):
        value, top, step = (1, 3, 0.02) if name == "threshold" else (0.6, 1, 0.05)
        return ipywidgets.FloatSlider(value, min=0, max=top, step=step, readout_format=".2f", **style)
    return ipywidgets.Dropdown(**style)


class Explorer(ipywidgets.VBox):
    """The heatmap explorer of one data set or several, by name; its static twin is `explorer_figure`.

    Every control has a label; a position is chosen by a click on a picture, by the arrow keys on it, or by the
    sliders for row and column.

    Attributes:
        controls: every control by name; setting a `value` is moving it.
        pictures: (column, row) -> `Picture`; columns 0 photograph, 1 and 2 the models; rows "map", "decoded", "report".
        status: what the pictures show, in words.
    """

    def __init__(self, sessions: Mapping[str, Session]) -> None:
        self.sessions, self._quiet, self._drawn, self._columns = dict(sessions), False, {}, 0
        self.controls = {name: _control(name) for group in GROUPS for name in group}
        self.controls["data"].options = list(self.sessions)
        self.controls["data"].value = next(iter(self.sessions))
        self.status, self.scale = ipywidgets.HTML(), ipywidgets.HTML()
        self.captions = {(c, r): ipywidgets.HTML() for c in range(3) for r in ("map", "decoded")}
        self.pictures = {(c, r): Picture() for c in range(3) for r in ROWS if (c, r) != (0, "report")}
        self._cells = [
            [self.captions[c, "map"], self.pictures[c, "map"], self.pictures[c, "report"] if c else self.status,
             self.captions[c, "decoded"], self.pictures[c, "decoded"]]
            for c in range(3)
        ]  # fmt: skip
        for cell in sum(self._cells, []):
            cell.layout.min_width = "0"
        groups = [ipywidgets.VBox([self.controls[n] for n in g], layout={"overflow": "hidden"}) for g in GROUPS]
        columns = {"grid_template_columns": "repeat(auto-fit, minmax(260px, 1fr))", "grid_gap": "4px 20px"}
        together = {"grid_gap": "4px 14px", "align_items": "flex-start", "overflow": "hidden"}
        panel, self._board = ipywidgets.GridBox(groups, layout=columns), ipywidgets.GridBox(layout=together)
        super().__init__([panel, self.scale, self._board], layout={"max_width": "1240px", "grid_gap": "6px"})
        self.add_class("dumenet-explorer")
        self._moved("data")
        for name, control in self.controls.items():
            control.observe(lambda _change, name=name: self._moved(name), "value")
        for column in range(3):
            self.pictures[column, "map"].observe(lambda change: self._moved("place", change["new"]), "place")

    @property
    def session(self) -> Session:
        """The session of the data set chosen."""
        return self.sessions[self.controls["data"].value]

    @property
    def state(self) -> State:
        """Where the controls stand."""
        values = {k: c.value for k, c in self.controls.items() if k not in ("data", "category")}
        return self.session.state(**values)

    def show(self, **state: Any) -> None:
        """Move all controls to a state, see `Session.state`, and draw once; without arguments where it opens."""
        chosen, self._quiet = self.session.state(**state), True
        try:
            self.controls["category"].value = self.session.samples[chosen.image].category
            self._offer({"image"})
            for name, value in vars(chosen).items():
                self.controls[name].value = value
            self._draw()
        finally:
            self._quiet = False

    def _moved(self, name: str, place: list[int] | None = None) -> None:
        """Bring the other controls in line with the one that moved, and draw; their own moves are not answered."""
        if self._quiet:
            return
        self._quiet = True
        try:
            if name == "data":
                self._offer(set(self.session.choices()) - {"image"})
                for column in range(3):
                    self.pictures[column, "map"].grid = self.session.grid
            if name in ("data", "category"):
                self._offer({"image"})
            if name in ("data", "category", "image"):
                shown = (self.controls[key].value for key in ("model", "image", "stage", "error"))
                place = self.session.peak(*shown)
            if place is not None:
                self.controls["row"].value, self.controls["column"].value = place
            self._draw()
        finally:
            self._quiet = False

    def _offer(self, names: set[str]) -> None:
        """What the data set allows for these controls; a value that is still one of it stays."""
        session = self.session
        words = {
            "image": lambda name: image_name(session.samples[name]), "error": MEASURES.get,
            "stage": lambda stage: stage_name(session, stage),
        }  # fmt: skip
        for name in names:
            control, values, old = self.controls[name], session.choices()[name], self.controls[name].value
            if name in ("row", "column"):
                control.max = values[-1]
            else:
                first = values[0]
                if name == "image":
                    category = self.controls["category"].value
                    values, first = session.images(category), session.opening(category)
                elif name == "category":
                    first = session.samples[session.opening()].category
                control.options = [(words.get(name, str)(value), value) for value in values]
                control.value = old if old in values else first

    def _paint(self, column: int, row: str, key: tuple, draw: Callable[[], np.ndarray | None]) -> None:
        """Redraw one picture if what it depends on has changed."""
        if self._drawn.get((column, row)) != key:
            array = draw()
            self.pictures[column, row].layout.visibility = "hidden" if array is None else "visible"
            self.pictures[column, row].png = b"" if array is None else _png(array)
            self._drawn[column, row] = key

    def _arrange(self, models: int) -> None:
        """Row by row, so that pictures stand in line: one model's report beside its map, two models' below theirs."""
        self._columns, cells, words = models, self._cells[: 1 + models], self.status.layout
        self._board.layout.grid_template_columns = "repeat(3, minmax(0, 400px))"
        words.grid_area = "auto / 1 / auto / span 3" if models == 1 else "auto"
        if models == 1:
            (photo, *below), (name, heat, report, *decoded) = cells
            rows = [[photo, name, ipywidgets.Box()], [below[0], heat, report], [below[1]]]
            rows += [[a, b, ipywidgets.Box()] for a, b in zip(below[2:], decoded)]
        else:
            rows = zip(*cells)
        self._board.children = [cell for row in rows for cell in row]

    def _draw(self) -> None:
        session, state = self.session, self.state
        models, scale, threshold = state.models, session.scale(state), self.controls["threshold"]
        threshold.max = max(3.0, scale[1], threshold.value)
        self.controls["error"].disabled = state.stage != "all"  # a stage alone is measured by its norm
        if len(models) != self._columns:
            self._arrange(len(models))
        image = (self.controls["data"].value, state.image)
        self._paint(0, "map", image, lambda: pane(session, state))
        self._paint(0, "decoded", image, lambda: session.decoded(state.image))
        draw = {  # row: what it depends on besides image and model, and how it is drawn for a model
            "map": (
                (state.stage, state.error, state.colour_map, state.opacity, state.threshold, scale),
                lambda model: pane(session, state, model),
            ),
            "decoded": ((), lambda model: session.look(model, state.image).rebuilt),
            "report": (
                (state.row, state.column, state.memory, state.hidden),
                lambda model: report_picture(session.stage_channels, session.report(model, state)),
            ),
        }
        for column, model in enumerate(models, 1):
            for row, (key, drawn) in draw.items():
                self._paint(column, row, (*image, model, *key), partial(drawn, model))
        self._describe(state, models)
        for column in range(3):
            self.pictures[column, "map"].place = [state.row, state.column]

    def _describe(self, state: State, models: list[str]) -> None:
        """Captions, text alternatives, colour scale and status line."""
        words = describe(self.session, state)
        decoded = self.session.decoded(state.image) is not None
        for column, model in enumerate(["photograph", *models]):
            source = "from the reconstruction" if column else "from the features"
            self.captions[column, "map"].value = f"<b>{html.escape(model)}</b>"
            self.captions[column, "decoded"].value = f"decoded {source}" if decoded else ""
            what = f"Anomaly map of {model}" if column else "Photograph"
            keys = "Click, or press the arrow keys, to choose a position."
            self.pictures[column, "map"].alt = f"{what}. {words[column]} {keys}"
            self.pictures[column, "decoded"].alt = f"Picture decoded {source}, {words[0]}"
            if column:
                self.pictures[column, "report"].alt = f"Error by channel and memory slots read. {words[column]}"
        colours = ", ".join(
            map(matplotlib.colors.to_hex, matplotlib.colormaps[state.colour_map](np.linspace(0, 1, 12)))
        )
        low, top = self.session.scale(state)
        at = float(np.clip(100 * (state.threshold - low) / max(top - low, 1e-12), 0, 100))
        self.scale.value = SCALE.format(colours=colours, at=at, low=low, top=top, threshold=state.threshold)
        lines = "".join(f"<p style='margin: 0 0 0.6em'>{html.escape(line)}</p>" for line in words)
        self.status.value = (
            f"<div class='dumenet-status' role='status' aria-live='polite' style='line-height: 1.4'>{lines}</div>"
        )
