"""Controls on figures. The drawing is a plain function, so that it also works on paper and in tests."""

import html
import io
from collections.abc import Callable, Mapping

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
    HIDDEN,
    MEMORIES,
    NOBODY,
    TOP,
    ReportPainter,
    Session,
    State,
    describe,
    explorer_figure,
    image_name,
    memory_of,
    overlay,
    shown,
    stage_name,
)
from dumenet.errors import DumenetError

__all__ = ["Explorer", "Picture", "explorer", "explorer_figure", "live"]


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


class Picture(anywidget.AnyWidget):
    """A PNG with a text alternative. With a `grid`, a click or the arrow keys move its `place` (row, column).

    `ipywidgets.Image` has neither a text alternative nor clicks. The ring at `place` is drawn by the browser.
    """

    _esm = """
    export default { render({ model, el }) {
      const box = document.createElement("div"), image = document.createElement("img"), ring = document.createElement("div");
      box.className = "dumenet-picture"; ring.className = "dumenet-ring"; box.append(image, ring); el.append(box);
      let address;
      const draw = () => {
        const old = address;
        address = URL.createObjectURL(new Blob([model.get("png")], { type: "image/png" }));
        image.src = address;
        if (old) URL.revokeObjectURL(old);
      };
      const place = () => {
        const last = model.get("grid") - 1, [row, column] = model.get("place");
        ring.hidden = last < 1;
        ring.style.top = 100 * row / last + "%"; ring.style.left = 100 * column / last + "%";
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
          const b = image.getBoundingClientRect(), last = model.get("grid") - 1;
          move(Math.round((e.clientY - b.top) / b.height * last), Math.round((e.clientX - b.left) / b.width * last));
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
    .dumenet-picture img { width: 100%; height: auto; }
    .dumenet-picture img:focus-visible { outline: 3px solid #0173b2; outline-offset: -3px; }
    .dumenet-ring { position: absolute; width: 22px; height: 22px; margin: -11px 0 0 -11px; border-radius: 50%;
      box-sizing: border-box; border: 2px solid white; outline: 1.5px solid black; box-shadow: inset 0 0 0 1.5px black;
      pointer-events: none; }
    """
    png = traitlets.Bytes(b"").tag(sync=True)
    alt = traitlets.Unicode("").tag(sync=True)
    grid = traitlets.Int(0).tag(sync=True)
    place = traitlets.List(traitlets.Int(), [0, 0]).tag(sync=True)


def _png(array: np.ndarray) -> bytes:
    """An (H, W, 3) picture, uint8 or 0..1, as PNG: packed lightly, since it is sent once and thrown away."""
    data = io.BytesIO()
    array = array if array.dtype == np.uint8 else (array * 255).round().astype(np.uint8)
    Image.fromarray(array).save(data, "png", compress_level=1)
    return data.getvalue()


class Explorer(ipywidgets.VBox):
    """The heatmap explorer; see `explorer`.

    Attributes:
        controls: every control by name; setting a `value` is moving it.
        pictures: (column, row) -> `Picture`; columns 0 photograph, 1 and 2 the models; rows "map", "decoded", "report".
        status: what the pictures show, in words.
    """

    def __init__(self, sessions: Mapping[str, Session]) -> None:
        self.sessions, self._quiet, self._drawn, self._painters = dict(sessions), False, {}, {}
        first = next(iter(self.sessions))
        style = {"description_width": "6.5em"}
        wide = {"style": style, "layout": {"width": "auto"}}
        choice = lambda text, options=(): ipywidgets.Dropdown(description=text, options=options, **wide)  # noqa: E731
        number = lambda text, value, top, step: ipywidgets.FloatSlider(  # noqa: E731
            value=value, min=0, max=top, step=step, description=text, readout_format=".2f", **wide
        )
        whole = lambda text: ipywidgets.IntSlider(min=0, max=1, description=text, **wide)  # noqa: E731
        self.controls = {
            "data": choice("data set", list(self.sessions)), "category": choice("category"), "image": choice("image"),
            "model": choice("model"), "other": choice("beside it"), "stage": choice("stage"),
            "threshold": number("threshold", 1.0, 3.0, 0.02), "opacity": number("opacity", 0.6, 1.0, 0.05),
            "colour_map": choice("colour map", COLOUR_MAPS),
            "row": whole("row"), "column": whole("column"),
            "memory": choice("memory", MEMORIES), "hidden": choice("hidden map", HIDDEN),
        }  # fmt: skip
        self.controls["data"].value = first
        self.status, self.scale = ipywidgets.HTML(), ipywidgets.HTML()
        self.captions = {(c, r): ipywidgets.HTML() for c in range(3) for r in ("map", "decoded")}
        rows = ("map", "decoded", "report")
        self.pictures = {(c, r): Picture() for c in range(3) for r in rows if (c, r) != (0, "report")}
        groups = (("data", "category", "image", "model", "other"), ("stage", "threshold", "opacity", "colour_map"),
                  ("row", "column", "memory", "hidden"))  # fmt: skip
        panel = ipywidgets.GridBox(
            [ipywidgets.VBox([self.controls[n] for n in group], layout={"overflow": "hidden"}) for group in groups],
            layout={"grid_template_columns": "repeat(auto-fit, minmax(260px, 1fr))", "grid_gap": "4px 20px"},
        )
        self._cells = [
            [self.captions[c, "map"], self.pictures[c, "map"], self.status if c == 0 else self.pictures[c, "report"],
             self.captions[c, "decoded"], self.pictures[c, "decoded"]]
            for c in range(3)
        ]  # fmt: skip
        for column in self._cells:
            for cell in column:
                cell.layout.min_width = "0"
        self._board = ipywidgets.GridBox(
            layout={"grid_gap": "4px 14px", "align_items": "flex-start", "overflow": "hidden"}
        )
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

    def _set(self, **values: object) -> None:
        """Set controls without drawing."""
        quiet, self._quiet = self._quiet, True
        try:
            for name, value in values.items():
                self.controls[name].value = value
        finally:
            self._quiet = quiet

    def _offer(self, name: str, options: list) -> None:
        """New choices for a control, keeping its value where it still is one."""
        quiet, self._quiet, control = self._quiet, True, self.controls[name]
        values = [o[1] if isinstance(o, tuple) else o for o in options]
        old = control.value
        control.options = options
        control.value = old if old in values else values[0]
        self._quiet = quiet

    def _fill(self) -> None:
        """The choices that the data set allows."""
        session = self.session
        models = list(session.outcomes)
        self._offer("category", session.categories)
        self._offer("model", models)
        self._offer("other", [NOBODY, *models])
        self._offer("stage", [(stage_name(session, s), s) for s in ("all", *session.stage_channels)])
        quiet, self._quiet = (
            self._quiet,
            True,
        )  # a lower end moves the value, while the image is still the other data set's
        for name in ("row", "column"):
            self.controls[name].max = session.grid - 1
        self._quiet = quiet
        for column in range(3):
            self.pictures[column, "map"].grid = session.grid
        self._fill_images()

    def _fill_images(self) -> None:
        session = self.session
        images = session.images(self.controls["category"].value)
        self._offer("image", [(image_name(session.samples[i]), i) for i in images])
        self._to_peak()

    def _to_peak(self) -> None:
        c = self.controls
        row, column = self.session.peak(c["model"].value, c["image"].value, c["stage"].value)
        self._set(row=row, column=column)

    def _moved(self, name: str) -> None:
        if self._quiet:
            return
        {"data": self._fill, "category": self._fill_images, "image": self._to_peak}.get(name, lambda: None)()
        self._draw()

    def _clicked(self, change: dict) -> None:
        if not self._quiet:
            self._set(row=change["new"][0], column=change["new"][1])
            self._draw()

    def _paint(self, column: int, row: str, key: tuple, draw: Callable[[], np.ndarray | None]) -> None:
        """Redraw one picture if what it depends on has changed."""
        if self._drawn.get((column, row)) != key:
            array = draw()
            self.pictures[column, row].layout.visibility = "hidden" if array is None else "visible"
            self.pictures[column, row].png = b"" if array is None else _png(array)
            self._drawn[column, row] = key

    def _draw(self) -> None:
        session, state = self.session, self.state
        models, words = shown(state), describe(session, state)
        photo, truth, data = session.photo(state.image), session.truth(state.image), self.controls["data"].value
        if len(self._board.children) != 5 * (width := 1 + len(models)):  # row by row, so that pictures stand in line
            self._board.layout.grid_template_columns = f"repeat({width}, minmax(0, 400px))"
            self._board.children = [cell for row in zip(*self._cells[:width]) for cell in row]
        self._paint(0, "map", (data, state.image), lambda: overlay(photo, truth=truth))
        self._paint(0, "decoded", (data, state.image), lambda: session.decoded(state.image))
        for column, model in enumerate(models, 1):
            heat = (state.stage, state.colour_map, state.opacity, state.threshold)
            self._paint(
                column, "map", (data, state.image, model, *heat),
                lambda model=model: overlay(
                    photo, session.anomaly_map(model, state.image, state.stage), state.opacity, state.colour_map,
                    state.threshold, truth,
                ),
            )  # fmt: skip
            look = session.look(model, state.image)
            self._paint(column, "decoded", (data, state.image, model), lambda look=look: look.rebuilt)
            place = (state.row, state.column, state.memory, state.hidden)
            self._paint(
                column, "report", (data, state.image, model, *place), lambda model=model: self._report(model, state)
            )
        self._caption(state, models, words)
        quiet, self._quiet = self._quiet, True
        for column in range(3):
            self.pictures[column, "map"].place = [state.row, state.column]
        self._quiet = quiet

    def _report(self, model: str, state: State) -> np.ndarray:
        memory = memory_of(self.session, model, state.memory)
        key = (tuple(self.session.stage_channels.items()), memory)
        if key not in self._painters:
            self._painters[key] = ReportPainter(self.session.stage_channels, memory)
        return self._painters[key](self.session.report(model, state))

    def _caption(self, state: State, models: list[str], words: list[str]) -> None:
        """Captions, text alternatives, colour scale and status line."""
        session = self.session
        decoded = session.decoded(state.image) is not None
        for column, model in enumerate(["photograph", *models]):
            self.captions[column, "map"].value = f"<b>{html.escape(model)}</b>"
            source = "from the features" if column == 0 else "from the reconstruction"
            self.captions[column, "decoded"].value = f"decoded {source}" if decoded else ""
            picture = self.pictures[column, "map"]
            what = "Photograph" if column == 0 else f"Anomaly map of {model}"
            picture.alt = f"{what}. {words[column]} Click, or press the arrow keys, to ask about a position."
            self.pictures[column, "decoded"].alt = f"Picture decoded {source}, {words[0]}"
            if column:
                self.pictures[column, "report"].alt = f"Error by channel and memory slots read. {words[column]}"
        colours = ", ".join(
            matplotlib.colors.to_hex(matplotlib.colormaps[state.colour_map](x)) for x in np.linspace(0, 1, 12)
        )
        at = min(100 * state.threshold / TOP, 100)
        self.scale.value = (
            "<div style='display: flex; align-items: center; gap: 10px; line-height: 1.3; flex-wrap: wrap'><span>score 0</span>"
            "<div style='position: relative; flex: 1 1 160px; max-width: 380px; height: 14px; "
            f"background: linear-gradient(to right, {colours})'>"
            f"<div style='position: absolute; left: calc({at:.1f}% - 2px); top: -3px; width: 3px; height: 20px; background: black; "
            f"outline: 1px solid white'></div></div><span>{TOP:g} and more; 1 is the verdict's threshold. Hatched: at or above "
            f"{state.threshold:.2f}. Outline: truth. Ring: the position asked; click a picture to move it.</span></div>"
        )
        lines = "".join(f"<p style='margin: 0 0 0.6em'>{html.escape(line)}</p>" for line in words)
        self.status.value = (
            f"<div class='dumenet-status' role='status' aria-live='polite' style='line-height: 1.4'>{lines}</div>"
        )


def explorer(session: Session | Mapping[str, Session]) -> Explorer:
    """The heatmap explorer of one session, or of several data sets by name.

    Its static twin is `explorer_figure`. Every control has a label; a position is chosen by a click on a picture, by the
    arrow keys on it, or by the sliders for row and column.
    """
    sessions = {session.dataset.name: session} if isinstance(session, Session) else session
    if not sessions:
        raise DumenetError("The explorer needs one session at least.")
    return Explorer(sessions)
