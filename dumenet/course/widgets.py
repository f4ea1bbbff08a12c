"""Controls on figures. The drawing is a plain function, so that it also works on paper and in tests."""

import html
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import anywidget
import ipywidgets
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import traitlets
from matplotlib.figure import Figure
from PIL import Image

from dumenet.course.explorer import (
    COLOUR_MAPS,
    ERRORS,
    HIDDEN,
    MEMORIES,
    NOBODY,
    TOP,
    Session,
    State,
    describe,
    explorer_figure,
    image_name,
    pane,
    report_picture,
    stage_name,
)
from dumenet.errors import DumenetError
from dumenet.plots import as_uint8

__all__ = ["Explorer", "Picture", "explorer", "explorer_figure", "live"]


SCALE = """<div style="display: flex; align-items: center; gap: 10px; line-height: 1.3; flex-wrap: wrap">
<span>score 0</span>
<div style="position: relative; flex: 1 1 160px; max-width: 380px; height: 14px;
  background: linear-gradient(to right, {colours})">
<div style="position: absolute; left: calc({at:.1f}% - 2px); top: -3px; width: 3px; height: 20px; background: black;
  outline: 1px solid white"></div></div>
<span>{top:g} and more; 1 is the verdict's threshold. Hatched: at or above {threshold:.2f}. Outline: truth.
Ring: the chosen position; click a picture to move it.</span></div>"""


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
        control.observe(update, "value")
    update()
    return ipywidgets.VBox([*controls.values(), picture])


def _png(array: np.ndarray) -> bytes:
    """An (H, W, 3) picture, uint8 or 0..1, as PNG: packed lightly, since it is sent once and thrown away."""
    data = io.BytesIO()
    Image.fromarray(as_uint8(array)).save(data, "png", compress_level=1)
    return data.getvalue()


def _controls(data_sets: list[str]) -> dict[str, ipywidgets.Widget]:
    """The explorer's controls by name, in three groups of names; `Explorer._fill` offers what a data set allows."""
    wide = {"style": {"description_width": "6.5em"}, "layout": {"width": "auto"}}
    choice = partial(ipywidgets.Dropdown, **wide)
    number = partial(ipywidgets.FloatSlider, min=0, readout_format=".2f", **wide)
    whole = partial(ipywidgets.IntSlider, min=0, max=1, **wide)
    return {
        "data": choice(description="data set", options=data_sets, value=data_sets[0]),
        "category": choice(description="category"),
        "image": choice(description="image"),
        "model": choice(description="model"),
        "other": choice(description="beside it"),
        "stage": choice(description="stage"),
        "error": choice(description="error", options=[(words, error) for error, words in ERRORS.items()]),
        "threshold": number(description="threshold", value=1, max=3, step=0.02),
        "opacity": number(description="opacity", value=0.6, max=1, step=0.05),
        "colour_map": choice(description="colour map", options=COLOUR_MAPS),
        "row": whole(description="row"),
        "column": whole(description="column"),
        "memory": choice(description="memory", options=MEMORIES),
        "hidden": choice(description="hidden map", options=HIDDEN),
    }


class Explorer(ipywidgets.VBox):
    """The heatmap explorer; see `explorer`.

    Attributes:
        controls: every control by name; setting a `value` is moving it.
        pictures: (column, row) -> `Picture`; columns 0 photograph, 1 and 2 the models; rows "map", "decoded", "report".
        status: what the pictures show, in words.
    """

    def __init__(self, sessions: Mapping[str, Session]) -> None:
        self.sessions, self._quiet, self._drawn = dict(sessions), False, {}
        self.controls = _controls(list(self.sessions))
        self.status, self.scale = ipywidgets.HTML(), ipywidgets.HTML()
        self.captions = {(c, r): ipywidgets.HTML() for c in range(3) for r in ("map", "decoded")}
        rows = ("map", "decoded", "report")
        self.pictures = {(c, r): Picture() for c in range(3) for r in rows if (c, r) != (0, "report")}
        every, ends = list(self.controls.values()), (0, 5, 10, 14)  # data and models, map, position
        groups = [ipywidgets.VBox(every[a:b], layout={"overflow": "hidden"}) for a, b in zip(ends, ends[1:])]
        columns = {"grid_template_columns": "repeat(auto-fit, minmax(260px, 1fr))", "grid_gap": "4px 20px"}
        self._cells = [
            [self.captions[c, "map"], self.pictures[c, "map"], self.pictures[c, "report"] if c else self.status,
             self.captions[c, "decoded"], self.pictures[c, "decoded"]]
            for c in range(3)
        ]  # fmt: skip
        for cell in sum(self._cells, []):
            cell.layout.min_width = "0"
        together = {"grid_gap": "4px 14px", "align_items": "flex-start", "overflow": "hidden"}
        self._board = ipywidgets.GridBox(layout=together)
        panel = ipywidgets.GridBox(groups, layout=columns)
        super().__init__([panel, self.scale, self._board], layout={"max_width": "1240px", "grid_gap": "6px"})
        self.add_class("dumenet-explorer")
        self._fill()
        for name, control in self.controls.items():
            control.observe(lambda _change, name=name: self._moved(name), "value")
        for column in range(3):
            self.pictures[column, "map"].observe(self._clicked, "place")
        self._draw()

    @property
    def session(self) -> Session:
        """The session of the data set chosen."""
        return self.sessions[self.controls["data"].value]

    @property
    def state(self) -> State:
        """Where the controls stand."""
        values = {k: c.value for k, c in self.controls.items() if k not in ("data", "category")}
        return self.session.state(**values)

    @contextmanager
    def _silent(self) -> Iterator[None]:
        """Nothing is drawn for what changes inside."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before

    def _offer(self, name: str, options: list) -> None:
        """New choices for a control, keeping its value where it still is one."""
        control, values = self.controls[name], [o[1] if isinstance(o, tuple) else o for o in options]
        old = control.value
        control.options = options
        control.value = old if old in values else values[0]

    def _fill(self) -> None:
        """The choices that the data set allows."""
        session, models = self.session, list(self.session.outcomes)
        with self._silent():
            self._offer("category", session.categories)
            self._offer("model", models)
            self._offer("other", [NOBODY, *models])
            self._offer("stage", [(stage_name(session, s), s) for s in ("all", *session.stage_channels)])
            self.controls["row"].max = self.controls["column"].max = session.grid - 1
        for column in range(3):
            self.pictures[column, "map"].grid = session.grid
        self._fill_images()

    def _fill_images(self) -> None:
        images = self.session.images(self.controls["category"].value)
        with self._silent():
            self._offer("image", [(image_name(self.session.samples[i]), i) for i in images])
        self._to_peak()

    def _to_peak(self) -> None:
        shown = (self.controls[name].value for name in ("model", "image", "stage", "error"))
        self._place(*self.session.peak(*shown))

    def _place(self, row: int, column: int) -> None:
        with self._silent():
            self.controls["row"].value, self.controls["column"].value = row, column

    def _moved(self, name: str) -> None:
        if not self._quiet:
            {"data": self._fill, "category": self._fill_images, "image": self._to_peak}.get(name, lambda: None)()
            self._draw()

    def _clicked(self, change: dict) -> None:
        if not self._quiet:
            self._place(*change["new"])
            self._draw()

    def _paint(self, column: int, row: str, key: tuple, draw: Callable[[], np.ndarray | None]) -> None:
        """Redraw one picture if what it depends on has changed."""
        if self._drawn.get((column, row)) != key:
            array = draw()
            self.pictures[column, row].layout.visibility = "hidden" if array is None else "visible"
            self.pictures[column, row].png = b"" if array is None else _png(array)
            self._drawn[column, row] = key

    def _draw(self) -> None:
        session, state, models = self.session, self.state, self.state.models
        self.controls["error"].disabled = state.stage != "all"  # a stage alone is measured by its norm
        if len(self._board.children) != 5 * (width := 1 + len(models)):  # row by row, so that pictures stand in line
            self._board.layout.grid_template_columns = f"repeat({width}, minmax(0, 400px))"
            self._board.children = [cell for row in zip(*self._cells[:width]) for cell in row]
        image = (self.controls["data"].value, state.image)
        self._paint(0, "map", image, partial(pane, session, state))
        self._paint(0, "decoded", image, lambda: session.decoded(state.image))
        heat = (state.stage, state.error, state.colour_map, state.opacity, state.threshold)
        place = (state.row, state.column, state.memory, state.hidden)
        for column, model in enumerate(models, 1):
            self._paint(column, "map", (*image, model, *heat), partial(pane, session, state, model))
            self._paint(
                column, "decoded", (*image, model), lambda model=model: session.look(model, state.image).rebuilt
            )
            report = partial(session.report, model, state)
            self._paint(
                column, "report", (*image, model, *place),
                lambda report=report: report_picture(session.stage_channels, report()),
            )  # fmt: skip
        self._caption(state, models)
        with self._silent():
            for column in range(3):
                self.pictures[column, "map"].place = [state.row, state.column]

    def _caption(self, state: State, models: list[str]) -> None:
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
        steps = matplotlib.colormaps[state.colour_map](np.linspace(0, 1, 12))
        self.scale.value = SCALE.format(
            colours=", ".join(map(matplotlib.colors.to_hex, steps)),
            at=min(100 * state.threshold / TOP, 100),
            top=TOP,
            threshold=state.threshold,
        )
        lines = "".join(f"<p style='margin: 0 0 0.6em'>{html.escape(line)}</p>" for line in words)
        self.status.value = (
            f"<div class='dumenet-status' role='status' aria-live='polite' style='line-height: 1.4'>{lines}</div>"
        )


def explorer(sessions: Mapping[str, Session]) -> Explorer:
    """The heatmap explorer of one data set or several, by name; its static twin is `explorer_figure`.

    Every control has a label; a position is chosen by a click on a picture, by the arrow keys on it, or by the
    sliders for row and column.

    Raises:
        DumenetError: no session.
    """
    if not sessions:
        raise DumenetError("The explorer needs one session at least.")
    return Explorer(sessions)
