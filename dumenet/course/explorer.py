"""What the heatmap explorer shows, computed and drawn without a widget: arrays in, numbers and pictures out.

Shapes: S pixels of an image's side, C channels of all stages, H x W the grid, N = H W, D hidden size, M slots.
Scores are shown in *units*: 1 is the threshold of a model's verdict, learned from held-out normal images. So two
models share one colour scale and one threshold, although their errors are measured in different units.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import seaborn as sns
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from PIL import Image
from scipy import ndimage

from dumenet.course.pictures import PictureDecoder, backbone_features
from dumenet.data import Sample, load_image, load_mask
from dumenet.errors import DumenetError, unknown
from dumenet.experiment import Outcome
from dumenet.plots import overlay, picture
from dumenet.score import lengths, upsample

COLOUR_MAPS = ("magma", "viridis", "cividis", "inferno")  # rising in lightness: safe for colour-blind readers
TOP = 2.0  # units at the upper end of the colour scale
MEMORIES, HIDDEN = ("channel", "spatial"), ("most erroneous", "mean")
NOBODY = "none"  # no second model
SLOTS = 6  # slots shown, the most read first
SIDE = 360  # pixels of a drawn heatmap


class PixelMetrics(NamedTuple):
    """What a threshold marks; None where a denominator is zero."""

    marked: int  # pixels at or above the threshold
    defect: int  # pixels of the truth
    precision: float | None  # share of the marked pixels that are defect
    recall: float | None  # share of the defect's pixels that are marked
    iou: float | None  # marked and defect / marked or defect


class Look(NamedTuple):
    """One model's look at one image."""

    difference: np.ndarray  # (C, H, W) reconstruction minus target, in the model's own units
    lengths: np.ndarray  # (H, W) length of the error, as the verdict measures it
    channel_weights: np.ndarray | None  # (N, M)
    spatial_weights: np.ndarray | None  # (D, M)
    gap: np.ndarray | None  # (D, N) size of hidden map minus the spatial memory's answer
    patterns: np.ndarray | None  # (M, H, W) the values that a spatial read is a mean of
    rebuilt: np.ndarray | None  # (P, P, 3) in 0..1, a picture decoded from the reconstruction


class PositionReport(NamedTuple):
    """One position: its error by channel, and the memory slots that were read."""

    row: int
    column: int
    score: float  # anomaly score there, the length of the error
    channels: np.ndarray  # (C,) squared error
    shares: np.ndarray  # (number of stages,) share of the squared error, summing to 1
    slots: np.ndarray  # (K,) the slots read most, most first; empty without that memory
    weights: np.ndarray  # (K,)
    count: int  # M; an even read would give every slot 1 / M
    effective: float  # slots effectively read: e to the entropy of the weights
    hidden: int | None  # spatial memory: the hidden map that asks; None: the mean of all
    where: np.ndarray | None  # (H, W) channel: the first slot's weight at each position; spatial: its pattern
    readers: np.ndarray  # spatial: the five hidden maps that read the first slot most


@dataclass(frozen=True)
class State:
    """Where the controls stand; made and checked by `Session.state`."""

    image: str  # name of a test image
    model: str
    other: str = NOBODY  # the model beside it
    stage: int | str = "all"  # "all", or the number of a backbone stage
    colour_map: str = "magma"
    opacity: float = 0.6  # of the heatmap over the photograph
    threshold: float = 1.0  # in units
    row: int = 0
    column: int = 0
    memory: str = "channel"
    hidden: str = "most erroneous"  # spatial memory: which hidden map asks at a position


@dataclass(eq=False)
class Session:
    """Trained models on the test images of one data set; what one image needs is computed when asked, and kept.

    Args:
        outcomes: name -> `experiment.run(...)`, all on the same test images and backbone.
        pictures: decodes features for the eye (`pictures.picture_decoder`); None shows none.

    Raises:
        DumenetError: no model, no test images, or models of different images or features.
    """

    outcomes: Mapping[str, Outcome]
    pictures: PictureDecoder | None = None
    samples: dict[str, Sample] = field(init=False)  # test images by name

    def __post_init__(self) -> None:
        if not self.outcomes or NOBODY in self.outcomes:
            raise DumenetError(f"The explorer needs one trained model at least, and none may be called {NOBODY!r}.")
        first = next(iter(self.outcomes.values()))
        for name, outcome in self.outcomes.items():
            if not outcome.test:
                raise DumenetError(f"{outcome.dataset.name} has no test images to explore.")
            same = [s.name for s in outcome.test.samples] == [s.name for s in first.test.samples]
            if not same or outcome.trained.config.features != first.trained.config.features:
                raise DumenetError(
                    f"Model {name!r} was run on other images or features than the first: compare like with like."
                )
        self.samples = {s.name: s for s in first.test.samples}
        self.dataset, self.features = first.dataset, first.test
        features = first.trained.config.features
        self.stage_channels = dict(zip(features.stages, first.trained.stage_channels))
        self.size, self.grid, self.align = features.image_size, features.grid, features.align
        self._index = {name: i for i, name in enumerate(self.samples)}
        for method in ("photo", "truth", "decoded", "look", "anomaly_map", "unit"):
            setattr(self, method, lru_cache(64)(getattr(self, method)))

    def state(self, category: str | None = None, **values: Any) -> State:
        """A checked `State`. Unless given: the first defective image (of `category`), the first model, the map's peak.

        Raises:
            DumenetError: an unknown setting, name or number, with what there is.
        """
        names = [f.name for f in fields(State)]
        for key in values:
            if key not in names:
                raise unknown("setting of the explorer", key, [*names, "category"])
        if category is not None and category not in self.categories:
            raise unknown("category", category, self.categories)
        if "image" not in values:
            images = self.images(category or self.categories[0])
            values["image"] = next((i for i in images if self.samples[i].label), images[0])
        values.setdefault("model", next(iter(self.outcomes)))
        state = State(**values)
        choices = {
            "image": self.samples, "model": self.outcomes, "other": [NOBODY, *self.outcomes],
            "stage": ["all", *self.stage_channels], "colour_map": COLOUR_MAPS, "memory": MEMORIES, "hidden": HIDDEN,
        }  # fmt: skip
        for key, known in choices.items():
            if getattr(state, key) not in known:
                raise unknown(f"{key.replace('_', ' ')} of the explorer", getattr(state, key), list(map(str, known)))
        if not {"row", "column"} & set(values):
            row, column = self.peak(state.model, state.image, state.stage)
            state = replace(state, row=row, column=column)
        last = self.grid - 1
        for key, top in {"opacity": 1, "threshold": np.inf, "row": last, "column": last}.items():
            if not 0 <= getattr(state, key) <= top:
                raise DumenetError(f"The explorer's {key} must lie between 0 and {top}, not {getattr(state, key)}.")
        return state

    @property
    def categories(self) -> list[str]:
        """Categories with test images."""
        return sorted({s.category for s in self.samples.values()})

    def images(self, category: str) -> list[str]:
        """Names of a category's test images, the defective ones first."""
        return sorted(
            (n for n, s in self.samples.items() if s.category == category), key=lambda n: not self.samples[n].label
        )

    def photo(self, image: str) -> np.ndarray:
        """(S, S, 3) uint8."""
        return load_image(self.samples[image], self.size)

    def truth(self, image: str) -> np.ndarray | None:
        """(S, S) bool, or None where the data set has no masks."""
        return load_mask(self.samples[image], self.size) if self.dataset.has_masks else None

    def decoded(self, image: str) -> np.ndarray | None:
        """(P, P, 3) in 0..1: the picture decoded from the features themselves, the control of every `Look.rebuilt`."""
        return None if self.pictures is None else self.pictures.draw(self.features.batch([self._index[image]]))[0]

    @torch.no_grad()
    def look(self, model: str, image: str) -> Look:
        """What `model` makes of `image`, in one forward pass."""
        trained, kept = self.outcomes[model].trained, {}
        network = trained.model.eval()
        memory = getattr(network, "spatial_memory", None)
        if memory is not None:  # what it is asked and what it answers: both (1, N, D)
            hook = memory.register_forward_hook(lambda _m, asked, answer: kept.update(gap=(asked[0] - answer[0]).abs()))
        try:
            result = network(self.features.batch([self._index[image]]).to(next(network.buffers()).device))
        finally:
            if memory is not None:
                hook.remove()
        first = lambda tensor: None if tensor is None else tensor[0].cpu().numpy()  # noqa: E731
        rebuilt = None
        if self.pictures is not None:
            with suppress(DumenetError):  # a target that cannot be turned back into features
                rebuilt = self.pictures.draw(backbone_features(network, result.features))[0]
        gap = first(kept.get("gap"))
        return Look(
            difference=first(result.features - result.target),
            lengths=first(lengths(trained, result)[0]),
            channel_weights=first(result.channel_weights),
            spatial_weights=first(result.spatial_weights),
            gap=None if gap is None else gap.T,
            patterns=None if memory is None else self._patterns(memory),
            rebuilt=rebuilt,
        )

    def _patterns(self, memory: torch.nn.Module) -> np.ndarray:
        return memory.value(memory.slots).cpu().numpy().reshape(-1, self.grid, self.grid)

    def anomaly_map(self, model: str, image: str, stage: int | str = "all") -> np.ndarray:
        """(S, S) anomaly map in units, of all channels or those of one stage alone."""
        grid = self._grid(model, image, stage)
        unit = self.unit(model, self.samples[image].category, stage)
        return upsample(torch.from_numpy(grid / unit)[None], self.size, self.align)[0].numpy()

    def unit(self, model: str, category: str, stage: int | str = "all") -> float:
        """The score that counts as 1: the verdict's threshold; without one, the median image score of the category.

        A stage with c of the C channels gets sqrt(c / C) of it, what it had if all channels were equally wrong.
        """
        outcome = self.outcomes[model]
        thresholds = outcome.trained.thresholds
        value = thresholds.get(category, thresholds.get("all"))
        if value is None:
            value = np.median(
                [s for s, n in zip(outcome.scores.image, self.samples) if self.samples[n].category == category]
            )
        share = 1 if stage == "all" else self.stage_channels[stage] / sum(self.stage_channels.values())
        return max(float(value) * share**0.5, 1e-12)

    def peak(self, model: str, image: str, stage: int | str = "all") -> tuple[int, int]:
        """Row and column of the grid position with the largest error."""
        grid = self._grid(model, image, stage)
        row, column = np.unravel_index(grid.argmax(), grid.shape)
        return int(row), int(column)

    def _grid(self, model: str, image: str, stage: int | str) -> np.ndarray:
        look = self.look(model, image)
        return stage_map(look.difference, self.stage_channels, stage, look.lengths)  # (H, W)

    def report(self, model: str, state: State) -> PositionReport:
        """`position_report` of a model at the state's position."""
        look = self.look(model, state.image)
        return position_report(look, self.stage_channels, state.row, state.column, state.memory, state.hidden)

    def metrics(self, model: str, state: State) -> PixelMetrics | None:
        """`pixel_metrics` of a model's map at the state's threshold; None without masks."""
        truth = self.truth(state.image)
        return (
            None
            if truth is None
            else pixel_metrics(self.anomaly_map(model, state.image, state.stage), truth, state.threshold)
        )


def stage_map(
    difference: np.ndarray,
    stage_channels: Mapping[int, int],
    stage: int | str = "all",
    lengths: np.ndarray | None = None,
) -> np.ndarray:
    """(H, W): length of the error (C, H, W) at each position, or what one stage contributes to it.

    The squares of the stages' contributions add up; each is as large as the stage's share of the squared error.

    Args:
        lengths: (H, W) of the whole error; None: its L2 norm over channels.
    """
    norm = np.linalg.norm(difference, axis=0)
    lengths = norm if lengths is None else lengths
    if stage == "all":
        return lengths
    start = sum(c for s, c in stage_channels.items() if s < stage)
    part = np.linalg.norm(difference[start : start + stage_channels[stage]], axis=0)
    return lengths * (part / np.maximum(norm, 1e-12))


def pixel_metrics(anomaly_map: np.ndarray, mask: np.ndarray, threshold: float) -> PixelMetrics:
    """Precision, recall and IoU of the pixels at or above `threshold` against the truth `mask`, both (S, S)."""
    marked, mask = np.asarray(anomaly_map) >= threshold, np.asarray(mask) > 0
    if marked.shape != mask.shape:
        raise DumenetError(f"A mask of shape {mask.shape} does not fit a map of shape {marked.shape}.")
    hit, n, truth = int((marked & mask).sum()), int(marked.sum()), int(mask.sum())
    share = lambda whole: hit / whole if whole else None  # noqa: E731
    return PixelMetrics(n, truth, share(n), share(truth), share(n + truth - hit))


def position_report(
    look: Look, stage_channels: Mapping[int, int], row: int, column: int, memory: str = "channel",
    hidden: str = "most erroneous",
) -> PositionReport:  # fmt: skip
    """What happens at one position of the grid.

    The position's token reads the channel memory. The spatial memory is read by whole hidden maps, not by positions:
    shown are the weights of the map whose own value and whose answer differ most here, or the mean over all maps.
    """
    channels = look.difference[:, row, column].astype(np.float64) ** 2  # (C,)
    score = float(look.lengths[row, column])
    parts = np.split(channels, np.cumsum(list(stage_channels.values()))[:-1])
    shares = np.array([p.sum() for p in parts]) / max(channels.sum(), 1e-300)
    token, asked, readers = row * look.difference.shape[2] + column, None, np.zeros(0, int)
    table = look.channel_weights if memory == "channel" else look.spatial_weights  # (N, M) or (D, M)
    if table is None:
        return PositionReport(row, column, score, channels, shares, readers, np.zeros(0), 0, 0.0, None, None, readers)
    if memory == "channel":
        weights = table[token]
    else:
        asked = int(look.gap[:, token].argmax()) if hidden == "most erroneous" else None
        weights = table.mean(0) if asked is None else table[asked]
    slots = np.argsort(-weights, kind="stable")[:SLOTS]
    effective = float(np.exp(-(weights * np.log(np.maximum(weights, 1e-12))).sum()))
    if memory == "channel":
        where = table[:, slots[0]].reshape(look.difference.shape[1:])
    else:
        where, readers = look.patterns[slots[0]], np.argsort(-table[:, slots[0]], kind="stable")[:5]
    return PositionReport(
        row, column, score, channels, shares, slots, weights[slots], len(weights), effective, asked, where, readers
    )  # fmt: skip


# --- pictures as arrays: quick enough for a slider


def _ring(mask: np.ndarray, inner: int, outer: int) -> np.ndarray:
    """The pixels of a mask (P, P) grown by `outer` that are not in it grown by `inner`; negative shrinks it."""

    def at(k: int) -> np.ndarray:
        if k > 0:
            return ndimage.binary_dilation(mask, iterations=k)
        return ndimage.binary_erosion(mask, iterations=-k, border_value=1) if k else mask

    return at(outer) & ~at(inner)


def _large(array: np.ndarray, side: int) -> np.ndarray:
    return np.array(Image.fromarray(array).resize((side, side), Image.Resampling.BILINEAR))


def draw_heatmap(
    image: np.ndarray,
    anomaly_map: np.ndarray | None = None,
    opacity: float = 0.6,
    colour_map: str = "magma",
    threshold: float | None = None,
    truth: np.ndarray | None = None,
    place: tuple[float, float] | None = None,
    side: int = SIDE,
) -> np.ndarray:
    """Photograph (S, S, 3) with its heatmap, marks and truth as a picture (side, side, 3) uint8.

    The map (S, S) is drawn as an `overlay` with the colours from 0 to `TOP`. Hatched: where it reaches `threshold`.
    Outlined in white and black: the `truth` (S, S). `place`: a ring at (row, column), both as shares 0 to 1.
    """
    canvas = _large(np.asarray(image), side)
    if anomaly_map is not None:
        heat = _large(np.asarray(anomaly_map, np.float32), side)
        canvas = overlay(canvas, heat, TOP, opacity=opacity, colour_map=colour_map)
        if threshold is not None:
            marked, step = heat >= threshold, np.arange(side)
            stripe = (step[:, None] + step[None, :]) % 14
            dark = marked & (stripe >= 2) & (stripe < 4)
            canvas[marked & (stripe < 2)] = 255
            canvas[dark] = canvas[dark] * 0.55
            canvas[_ring(marked, -3, 0)] = 0
            canvas[_ring(marked, -2, 0)] = 255
    if truth is not None and truth.any():
        mask = _large(truth.astype(np.uint8) * 255, side) >= 128
        canvas[_ring(mask, 0, 4)] = 255  # around it, so that a small defect stays in sight
        canvas[_ring(mask, 1, 3)] = 0
    if place is not None:
        y, x = np.ogrid[:side, :side]
        distance = np.hypot(y - place[0] * (side - 1), x - place[1] * (side - 1)) - side / 28
        canvas[np.abs(distance) < 3.5] = 0
        canvas[np.abs(distance) < 1.8] = 255
    return canvas


def pane(session: Session, state: State, model: str | None = None, ring: bool = False) -> np.ndarray:
    """The photograph, or the heatmap of `model` on it, with the truth: (SIDE, SIDE, 3). `ring`: at the position."""
    return draw_heatmap(
        session.photo(state.image),
        None if model is None else session.anomaly_map(model, state.image, state.stage),
        state.opacity,
        state.colour_map,
        state.threshold,
        session.truth(state.image),
        ((state.row + 0.5) / session.grid, (state.column + 0.5) / session.grid) if ring else None,
    )


def shown(state: State) -> list[str]:
    """The models shown, the first one first."""
    return [state.model] if state.other in (NOBODY, state.model) else [state.model, state.other]


# --- figures


class ReportPlot:
    """Error by channel and slots read, drawn once into `figure`; `update` moves what depends on the position."""

    def __init__(self, figure: Figure | SubFigure, stage_channels: Mapping[int, int], memory: str | None) -> None:
        """`memory`: whose slots are shown; None for a model without that memory."""
        grid = figure.add_gridspec(
            2, 2, left=0.09, right=0.98, bottom=0.1, top=0.93, hspace=0.78, wspace=0.12, width_ratios=(1.4, 1)
        )
        colours, self.memory, edges = sns.color_palette("colorblind"), memory, np.cumsum([0, *stage_channels.values()])
        self.edges, self.moving = edges, []
        top = figure.add_subplot(grid[0, :])
        top.set(xlim=(0, edges[-1]), ylim=(0, 1.05), yticks=[], ylabel="squared error")
        top.set_xticks((edges[:-1] + edges[1:]) / 2, [f"{s}" for s in stage_channels])
        top.set_xlabel("channels by stage, and the stage's share of the error", labelpad=15)
        self.stairs = [
            top.stairs(np.zeros(b - a), np.arange(a, b + 1), fill=True, color=colours[k % 10])
            for k, (a, b) in enumerate(zip(edges, edges[1:]))
        ]
        for edge in edges[1:-1]:
            top.axvline(edge, color="0.8", linewidth=0.8)
        below = top.get_xaxis_transform()
        small = {"ha": "center", "va": "center", "fontsize": 7.5}
        self.shares = [top.text(x, -0.3, "", transform=below, **small) for x in (edges[:-1] + edges[1:]) / 2]
        self.title = top.text(0.5, 1.08, "", ha="center", fontsize=8.5, transform=top.transAxes)
        self.moving += [*self.stairs, *self.shares, self.title]
        left = figure.add_subplot(grid[1, 0])
        if memory is None:
            left.set_axis_off()
            left.text(0, 0.5, "No such memory in this model.", fontsize=8.5, transform=left.transAxes)
        else:
            left.set(xlim=(-0.6, SLOTS - 0.4), ylim=(0, 1.05), xticks=[], yticks=[], ylabel="weight")
            left.set_xlabel("slot; dashed: an even read", labelpad=14)
            self.bars = left.bar(range(SLOTS), np.zeros(SLOTS), color="0.35")
            self.even = left.axhline(0, color=colours[1], linestyle="--", linewidth=1.4)
            below = left.get_xaxis_transform()
            self.names = [left.text(k, -0.12, "", transform=below, **small) for k in range(SLOTS)]
            self.heading = left.text(0.5, 1.08, "", ha="center", fontsize=8.5, transform=left.transAxes)
            right = figure.add_subplot(grid[1, 1])
            right.set(xticks=[], yticks=[])
            self.where = right.imshow(np.zeros((2, 2)), cmap="viridis", interpolation="nearest", extent=(0, 1, 0, 1))
            self.range = right.text(0.5, -0.12, "", transform=right.transAxes, **small)
            self.caption = right.text(0.5, 1.08, "", ha="center", fontsize=8.5, transform=right.transAxes)
            self.moving += [*self.bars, self.even, *self.names, self.heading, self.where, self.range, self.caption]
        for ax in figure.axes:
            ax.tick_params(length=0, labelsize=7.5)
            ax.xaxis.label.set_size(7.5)
            ax.yaxis.label.set_size(7.5)
            ax.spines[["top", "right"]].set_visible(False)

    def update(self, report: PositionReport) -> None:
        """Show one position. Heights are in parts of the largest, which the titles give in numbers."""
        largest = max(float(report.channels.max()), 1e-12)
        for part, a, b in zip(self.stairs, self.edges, self.edges[1:]):
            part.set_data(values=report.channels[a:b] / largest)
        for text, share in zip(self.shares, report.shares):
            text.set_text(f"{share:.0%}")
        self.title.set_text(f"row {report.row}, column {report.column}: error by channel, largest {largest:.3g}")
        if self.memory is None:
            return
        for k, bar in enumerate(self.bars):
            held = k < len(report.slots)
            bar.set_height(report.weights[k] / report.weights[0] if held else 0)
            self.names[k].set_text(f"{report.slots[k]}" if held else "")
        self.even.set_ydata([1 / report.count / report.weights[0]] * 2)
        asker = (
            "token's"
            if self.memory == "channel"
            else "mean map's"
            if report.hidden is None
            else f"map {report.hidden}'s"
        )
        self.heading.set_text(f"{asker} slots, top {report.weights[0]:.3f}")
        low, high = float(report.where.min()), float(report.where.max())
        self.where.set_data(report.where)
        self.where.set_clim(0 if self.memory == "channel" else low, high)
        self.range.set_text(f"{low:.2g} (dark) to {high:.2g}")
        self.caption.set_text(
            f"slot {report.slots[0]}: " + ("where read" if self.memory == "channel" else "its pattern")
        )


class ReportPainter:
    """A `ReportPlot` as a picture. Axes and labels are drawn once; a new position redraws only what moves."""

    def __init__(self, stage_channels: Mapping[int, int], memory: str | None) -> None:
        figure = Figure(figsize=(3.6, 3.4), dpi=120)
        self.canvas, self.plot = FigureCanvasAgg(figure), ReportPlot(figure, stage_channels, memory)
        for artist in self.plot.moving:
            artist.set_animated(True)
        self.canvas.draw()
        self.background = self.canvas.copy_from_bbox(figure.bbox)

    def __call__(self, report: PositionReport) -> np.ndarray:
        """(height, width, 3) uint8."""
        self.canvas.restore_region(self.background)
        self.plot.update(report)
        for artist in self.plot.moving:
            artist.axes.draw_artist(artist)
        return np.asarray(self.canvas.buffer_rgba())[..., :3].copy()


def memory_of(session: Session, model: str, memory: str) -> str | None:
    """`memory`, or None where `model` has none of that kind."""
    return memory if getattr(session.outcomes[model].trained.model, f"{memory}_memory", None) is not None else None


def explorer_figure(session: Session, **state: Any) -> Figure:
    """Everything that the explorer shows in a state (see `Session.state`), as one figure: its static twin."""
    state = session.state(**state)
    models, decoded = shown(state), session.decoded(state.image)
    width, inch, title, report = 1 + len(models), 3.3, 0.3, 3.3  # columns; inches: a picture, its title, the report
    height = inch + title + (inch + title if decoded is not None else 0) + report
    fig = Figure(figsize=(inch * width, height))

    def place(column: int, top: float, array: np.ndarray, name: str) -> None:
        ax = fig.add_axes(
            ((column + 0.02) / width, 1 - (top + title + inch * 0.96) / height, 0.96 / width, inch * 0.96 / height)
        )
        picture(ax, array)
        ax.set_title(name, fontsize=9.5)

    for column, model in enumerate([None, *models]):
        place(column, 0, pane(session, state, model, ring=True), model or "photograph")
    if decoded is not None:
        place(0, inch + title, decoded, "decoded from the features")
        for column, model in enumerate(models):
            rebuilt = session.look(model, state.image).rebuilt
            if rebuilt is not None:
                place(column + 1, inch + title, rebuilt, f"decoded from the reconstruction: {model}")
    parts = fig.subfigures(2, width, height_ratios=(height - report, report), wspace=0, hspace=0)[1]
    for part, model in zip(parts[1:], models):
        ReportPlot(part, session.stage_channels, memory_of(session, model, state.memory)).update(
            session.report(model, state)
        )
    scale = parts[0].add_axes((0.08, 0.5, 0.8, 0.06))
    scale.imshow(np.linspace(0, TOP, 256)[None], cmap=state.colour_map, aspect="auto", extent=(0, TOP, 0, 1))
    scale.axvline(state.threshold, color="white", linewidth=3)
    scale.axvline(state.threshold, color="black", linewidth=1)
    scale.set(yticks=[], xlim=(0, TOP))
    scale.set_xlabel("score / the verdict's threshold", fontsize=8.5)
    marks = f"hatched: at or above {state.threshold:g}\noutline: truth; ring: the position asked"
    scale.set_title(f"{stage_name(session, state.stage)}\n{marks}", fontsize=8.5, loc="left")
    return fig


# --- words


def stage_name(session: Session, stage: int | str) -> str:
    """A stage in words."""
    if stage == "all":
        return f"all stages, {sum(session.stage_channels.values())} channels"
    return f"stage {stage}, stride {2 ** (stage + 1)}, {session.stage_channels[stage]} channels"


def image_name(sample: Sample) -> str:
    """Short name inside its category: defect and file."""
    return f"{sample.defect} {sample.name.rsplit('/', 1)[-1].rsplit('.', 1)[0]}"


def _share(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.2f}"


def describe(session: Session, state: State) -> list[str]:
    """What the pictures show, in sentences with numbers: the image, then each model's map, then its position."""
    sample = session.samples[state.image]
    truth = session.truth(state.image)
    area = (
        "" if truth is None else f", its truth {truth.mean():.1%} of the image" if truth.any() else ", a normal image"
    )
    lines = [f"{sample.category}, {image_name(sample)}{area}; {stage_name(session, state.stage)}."]
    for model in shown(state):
        heat = session.anomaly_map(model, state.image, state.stage)
        row, column = session.peak(model, state.image, state.stage)
        metrics = session.metrics(model, state)
        text = f"{model}: peak {heat.max():.2f} near row {row}, column {column}; at {state.threshold:.2f} it marks "
        if metrics is None:
            text += f"{(heat >= state.threshold).mean():.1%} of the image"
        else:
            text += (
                f"{metrics.marked / heat.size:.1%} of the image: precision {_share(metrics.precision)}, "
                f"recall {_share(metrics.recall)}, IoU {_share(metrics.iou)}"
            )
        lines.append(f"{text}. {describe_position(session, model, state)}")
    return lines


def describe_position(session: Session, model: str, state: State) -> str:
    """One position of one model in words."""
    report = session.report(model, state)
    stages: Sequence[int] = list(session.stage_channels)
    worst = int(report.shares.argmax())
    unit = session.unit(model, session.samples[state.image].category)
    text = (
        f"At row {state.row}, column {state.column} the score over all stages is {report.score / unit:.2f}, "
        f"{report.shares[worst]:.0%} of its square from stage {stages[worst]}"
    )
    if report.where is None:
        return f"{text}; no {state.memory} memory."
    return (
        f"{text}; {state.memory} slot {report.slots[0]} is read most, with weight {report.weights[0]:.3f}, "
        f"and {report.effective:.0f} of {report.count} slots effectively."
    )
