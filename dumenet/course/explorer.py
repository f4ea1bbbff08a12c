"""What the heatmap explorer shows, computed and drawn without a widget: arrays in, numbers and pictures out.

Maps are those of `dumenet.score` in *units*: 1 is the threshold of the model's verdict under the error that is shown.
So two models share one colour scale, that of the scores in sight. A single stage is always measured by the L2 norm over
its channels, since the spread is one of all channels together.

Shapes: S pixels of an image's side, C channels of all stages, H x W the grid, N = H W, D hidden size, M slots.
"""

from collections.abc import Mapping
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
from dumenet.overlay import overlay
from dumenet.plots import picture
from dumenet.run import Outcome
from dumenet.score import evaluated, lengths, upsample

ERRORS = {"mahalanobis": "in units of its normal spread", "norm": "as an L2 norm"}  # `evaluation.error`
COLOUR_MAPS = ("magma", "viridis", "cividis", "inferno")  # rising in lightness: safe for colour-blind readers
NOBODY = "none"  # no second model
SLOTS = 6  # slots shown, the most read first
SIDE = 360  # pixels of a drawn heatmap
BEST = 20  # defects, those with the highest scores, of which the one that is marked best opens the explorer


class PixelMetrics(NamedTuple):
    """What a threshold marks; None where a denominator is zero."""

    marked: int  # pixels at or above the threshold
    defect: int  # pixels of the truth
    precision: float | None  # share of the marked pixels that are defect
    recall: float | None  # share of the defect's pixels that are marked
    iou: float | None  # marked and defect / marked or defect


class Look(NamedTuple):
    """One model's look at one image."""

    error: np.ndarray  # (C, H, W) target minus reconstruction, in the model's own units
    lengths: dict[str, np.ndarray]  # its length at each position, (H, W), by `evaluation.error`
    channel_weights: np.ndarray | None  # (N, M)
    spatial_weights: np.ndarray | None  # (D, M)
    gap: np.ndarray | None  # (D, N) size of hidden map minus the spatial memory's answer
    patterns: np.ndarray | None  # (M, H, W) the values that a spatial read is a mean of
    rebuilt: np.ndarray | None  # (P, P, 3) in 0..1, a picture decoded from the reconstruction


class PositionReport(NamedTuple):
    """One position: its error by channel, and the slots of one memory that were read."""

    channels: np.ndarray  # (C,) squared error
    shares: np.ndarray  # (number of stages,) share of its sum, summing to 1
    memory: str  # "channel" or "spatial"
    slots: np.ndarray  # (K,) the slots read most, most first; empty without that memory
    weights: np.ndarray  # (K,)
    count: int  # M; an even read would give every slot 1 / M
    effective: float  # slots effectively read: e to the entropy of the weights
    hidden: int | None  # spatial memory: the hidden map that reads; None: the mean of all
    where: np.ndarray | None  # (H, W) channel: the first slot's weight at each position; spatial: its pattern


@dataclass(frozen=True)
class State:
    """Where the controls stand; made and checked by `Session.state`."""

    image: str  # name of a test image
    model: str
    other: str = NOBODY  # the model beside it
    stage: int | str = "all"  # "all", or the number of a backbone stage
    error: str = "mahalanobis"  # how its length is measured where all stages are shown
    colour_map: str = "magma"
    opacity: float = 0.6  # of the heatmap over the photograph
    threshold: float = 1.0  # in units
    row: int = 0
    column: int = 0
    memory: str = "channel"
    hidden: str = "most erroneous"  # spatial memory: which hidden map's read is shown at a position

    @property
    def models(self) -> list[str]:
        """The models shown, the first one first."""
        return [self.model] if self.other in (NOBODY, self.model) else [self.model, self.other]


@dataclass(eq=False)
class Session:
    """Trained models on the test images of one data set; what one image needs is computed when it is shown, and kept.

    Args:
        outcomes: name -> `dumenet.run.run(...)`, all on the same test images and backbone.
        pictures: decodes features for the eye (`pictures.picture_decoder`); None shows none.

    Raises:
        DumenetError: no model, no test images, no threshold, or models of different images or features.
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
            if not outcome.trained.thresholds:
                raise DumenetError(f"Model {name!r} has no threshold: train it on two normal images or more.")
        self.trained = {
            (name, error): evaluated(outcome.trained, {"evaluation.error": error})
            for name, outcome in self.outcomes.items() for error in ERRORS
        }  # fmt: skip
        self.samples = {s.name: s for s in first.test.samples}
        self.dataset, self.features = first.dataset, first.test
        self.categories = sorted({s.category for s in self.samples.values()})
        features = first.trained.config.features
        self.stage_channels = dict(zip(features.stages, first.trained.stage_channels))
        self.size, self.grid, self.align = features.image_size, features.grid, features.align
        self._index = {name: i for i, name in enumerate(self.samples)}
        for method in ("photo", "truth", "decoded", "look", "anomaly_map", "opening"):
            setattr(self, method, lru_cache(64)(getattr(self, method)))

    def choices(self) -> dict[str, list]:
        """What each setting of a `State` may be, but for opacity and threshold; and the categories."""
        models, places = list(self.outcomes), list(range(self.grid))
        return {
            "category": self.categories, "image": list(self.samples), "model": models, "other": [NOBODY, *models],
            "stage": ["all", *self.stage_channels], "error": list(ERRORS), "colour_map": COLOUR_MAPS,
            "memory": ["channel", "spatial"], "hidden": ["most erroneous", "mean"], "row": places, "column": places,
        }  # fmt: skip

    def state(self, category: str | None = None, **values: Any) -> State:
        """A checked `State`. Unless given: the `opening` image (of `category`), the first model, the map's peak.

        Raises:
            DumenetError: an unknown setting, name or number, with what there is.
        """
        choices, names = self.choices(), [f.name for f in fields(State)]
        for key, value in (values | {"category": category or self.categories[0]}).items():
            if key not in [*names, "category"]:
                raise unknown("setting of the explorer", key, [*names, "category"])
            if key in choices and value not in choices[key]:
                raise unknown(f"{key.replace('_', ' ')} of the explorer", value, choices[key])
        for key, top in (("opacity", 1), ("threshold", np.inf)):
            if not 0 <= values.get(key, 1) <= top:
                raise DumenetError(f"The explorer's {key} must lie between 0 and {top}, not {values[key]}.")
        first = {"image": values.get("image") or self.opening(category), "model": next(iter(self.outcomes))}
        state = State(**first | values)
        if {"row", "column"} & set(values):
            return state
        row, column = self.peak(state.model, state.image, state.stage, state.error)
        return replace(state, row=row, column=column)

    def images(self, category: str) -> list[str]:
        """Names of a category's test images, the defective ones first."""
        own = [name for name, s in self.samples.items() if s.category == category]
        return sorted(own, key=lambda name: not self.samples[name].label)

    def opening(self, category: str | None = None) -> str:
        """A good image to begin with: of the defects (of `category`) the one whose truth the first model marks best."""
        model, outcome = next(iter(self.outcomes.items()))
        error, names = (
            outcome.trained.config.evaluation.error,
            self.images(category) if category else list(self.samples),
        )

        def score(name: str) -> float:
            return outcome.scores.image[self._index[name]] / self.unit(model, name, error=error)

        def marked(name: str) -> float:
            if (truth := self.truth(name)) is None:  # then no maps are kept
                return 0.0
            heat, unit = outcome.scores.maps[self._index[name]], self.unit(model, name, error=error)
            return pixel_metrics(heat, truth, unit).iou or 0.0

        defects = sorted((name for name in names if self.samples[name].label), key=score, reverse=True)
        return max(defects[:BEST], key=marked, default=names[0])

    def photo(self, image: str) -> np.ndarray:
        """(S, S, 3) uint8."""
        return load_image(self.samples[image], self.size)

    def truth(self, image: str) -> np.ndarray | None:
        """(S, S) bool, or None where the category has no masks."""
        sample = self.samples[image]
        return load_mask(sample, self.size) if sample.category in self.dataset.masked else None

    def decoded(self, image: str) -> np.ndarray | None:
        """(P, P, 3) in 0..1: the picture decoded from the features themselves, the control of every `Look.rebuilt`."""
        return None if self.pictures is None else self.pictures.draw(self.features.batch([self._index[image]]))[0]

    @torch.no_grad()
    def look(self, model: str, image: str) -> Look:
        """What `model` makes of `image`, in one forward pass."""
        network, gap, patterns, rebuilt = self.outcomes[model].trained.model, [], None, None
        memory = getattr(network, "spatial_memory", None)
        if memory is not None:  # maps before and after its read: both (1, N, D)
            hook = memory.register_forward_hook(lambda _m, given, read: gap.append((given[0] - read[0]).abs()))
            patterns = memory.value(memory.slots).cpu().numpy().reshape(-1, self.grid, self.grid)
        result = network(self.features.batch([self._index[image]]).to(next(network.buffers()).device))
        if memory is not None:
            hook.remove()
        if self.pictures is not None:
            with suppress(DumenetError):  # a target that cannot be turned back into features
                rebuilt = self.pictures.draw(backbone_features(network, result.features))[0]
        first = lambda tensor: None if tensor is None else tensor[0].cpu().numpy()  # noqa: E731
        measured = {error: first(lengths(self.trained[model, error], result)[0]) for error in ERRORS}
        weights = first(result.channel_weights), first(result.spatial_weights)
        return Look(first(result.error), measured, *weights, first(gap[0]).T if gap else None, patterns, rebuilt)

    def grid_map(self, model: str, image: str, stage: int | str = "all", error: str = "mahalanobis") -> np.ndarray:
        """(H, W): length of the error, or norm of one stage's channels, in the model's own units."""
        look = self.look(model, image)
        return look.lengths[error] if stage == "all" else stage_map(look.error, self.stage_channels, stage)

    def anomaly_map(self, model: str, image: str, stage: int | str = "all", error: str = "mahalanobis") -> np.ndarray:
        """(S, S) anomaly map in units: times `unit` it is the map of `dumenet.score`."""
        grid = self.grid_map(model, image, stage, error) / self.unit(model, image, stage, error)
        return upsample(torch.from_numpy(grid)[None], self.size, self.align)[0].numpy()

    def unit(self, model: str, image: str, stage: int | str = "all", error: str = "mahalanobis") -> float:
        """The score that counts as 1: the verdict's threshold for the category that the model finds.

        A stage with c of the C channels gets sqrt(c / C) of the norm's, what it had if all channels were equally wrong.
        """
        thresholds = self.trained[model, error if stage == "all" else "norm"].thresholds
        value = thresholds.get(self.category(model, image), thresholds["all"])
        share = 1 if stage == "all" else self.stage_channels[stage] / sum(self.stage_channels.values())
        return value * share**0.5

    def category(self, model: str, image: str) -> str:
        """The category that the model takes the image for."""
        found = self.outcomes[model].scores.found
        return found[self._index[image]] if found else self.samples[image].category

    def scale(self, state: State) -> tuple[float, float]:
        """Scores at the ends of the colour scale: the smallest and the largest in sight, whichever model's they are.

        The upper end is 1 at least: otherwise a normal image would look as alarming as a defect.
        """
        maps = [self.anomaly_map(model, state.image, state.stage, state.error) for model in state.models]
        return min(float(heat.min()) for heat in maps), max(1.0, *(float(heat.max()) for heat in maps))

    def peak(self, model: str, image: str, stage: int | str = "all", error: str = "mahalanobis") -> tuple[int, int]:
        """Row and column of the grid position with the largest error."""
        row, column = divmod(int(self.grid_map(model, image, stage, error).argmax()), self.grid)
        return row, column

    def report(self, model: str, state: State) -> PositionReport:
        """`position_report` of a model at the state's position."""
        return position_report(self.look(model, state.image), self.stage_channels, state)


def stage_map(error: np.ndarray, stage_channels: Mapping[int, int], stage: int) -> np.ndarray:
    """(H, W): norm of the error (C, H, W) over the channels of one stage."""
    start = sum(c for s, c in stage_channels.items() if s < stage)
    return np.linalg.norm(error[start : start + stage_channels[stage]], axis=0)


def pixel_metrics(anomaly_map: np.ndarray, mask: np.ndarray, threshold: float) -> PixelMetrics:
    """Precision, recall and IoU of the pixels at or above `threshold` against the truth `mask`, both (S, S)."""
    marked, mask = np.asarray(anomaly_map) >= threshold, np.asarray(mask) > 0
    hit, n, truth = int((marked & mask).sum()), int(marked.sum()), int(mask.sum())
    return PixelMetrics(n, truth, *(hit / whole if whole else None for whole in (n, truth, n + truth - hit)))


def position_report(look: Look, stage_channels: Mapping[int, int], state: State) -> PositionReport:
    """What happens at the position of `state`, read from its memory.

    The position's token reads the channel memory. The spatial memory is read by whole hidden maps, not by positions:
    shown are the weights of the map that the read changes most here, or the mean over all maps.
    """
    height, width = look.error.shape[1:]
    token, memory, reader = state.row * width + state.column, state.memory, None
    channels = look.error[:, state.row, state.column].astype(np.float64) ** 2  # (C,)
    parts = np.split(channels, np.cumsum(list(stage_channels.values()))[:-1])
    shares = np.array([p.sum() for p in parts]) / max(channels.sum(), 1e-300)
    table = look.channel_weights if memory == "channel" else look.spatial_weights  # (N, M) or (D, M)
    if table is None:
        return PositionReport(channels, shares, memory, np.zeros(0, int), np.zeros(0), 0, 0.0, None, None)
    if memory == "channel":
        weights = table[token]
    else:
        reader = int(look.gap[:, token].argmax()) if state.hidden == "most erroneous" else None
        weights = table.mean(0) if reader is None else table[reader]
    slots = np.argsort(-weights, kind="stable")[:SLOTS]
    effective = float(np.exp(-(weights * np.log(np.maximum(weights, 1e-12))).sum()))
    where = table[:, slots[0]].reshape(height, width) if memory == "channel" else look.patterns[slots[0]]
    return PositionReport(channels, shares, memory, slots, weights[slots], len(weights), effective, reader, where)


# --- pictures as arrays: quick enough for a slider


def _outline(canvas: np.ndarray, mask: np.ndarray, *lines: tuple[int, int]) -> None:
    """Around a mask (P, P), each line (width, grey) over the one before."""
    for width, grey in lines:
        canvas[ndimage.binary_dilation(mask, iterations=width) & ~mask] = grey


def _large(array: np.ndarray) -> np.ndarray:
    return np.array(Image.fromarray(array).resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def draw_heatmap(
    image: np.ndarray, anomaly_map: np.ndarray | None, truth: np.ndarray | None, state: State,
    scale: tuple[float, float] = (0.0, 1.0),
) -> np.ndarray:  # fmt: skip
    """Photograph (S, S, 3) with its heatmap, marks and truth as a picture (SIDE, SIDE, 3) uint8.

    The map (S, S) is drawn as an `overlay` whose colours go from one end of `scale` to the other. Hatched: where it
    reaches the threshold.
    Outlined in white and black: the `truth` (S, S).
    """
    canvas = _large(np.asarray(image))
    if anomaly_map is not None:
        heat = _large(np.asarray(anomaly_map, np.float32))
        low, top = scale
        canvas = overlay(canvas, heat, top, low, opacity=state.opacity, colour_map=state.colour_map)
        marked, stripe = heat >= state.threshold, np.add.outer(np.arange(SIDE), np.arange(SIDE)) % 14
        dark = marked & (stripe >= 2) & (stripe < 4)
        canvas[marked & (stripe < 2)] = 255
        canvas[dark] = canvas[dark] * 0.55
        _outline(canvas, marked, (3, 0), (2, 255))
    if truth is not None and truth.any():  # around it, so that a small defect stays in sight
        _outline(canvas, _large(truth.astype(np.uint8) * 255) >= 128, (4, 255), (3, 0), (1, 255))
    return canvas


def pane(session: Session, state: State, model: str | None = None, ring: bool = False) -> np.ndarray:
    """The photograph, or the heatmap of `model` on it, with the truth: (SIDE, SIDE, 3). `ring`: at the position."""
    heat = None if model is None else session.anomaly_map(model, state.image, state.stage, state.error)
    canvas = draw_heatmap(session.photo(state.image), heat, session.truth(state.image), state, session.scale(state))
    if ring:
        y, x = np.ogrid[:SIDE, :SIDE]
        row, column = ((k + 0.5) / session.grid * (SIDE - 1) for k in (state.row, state.column))
        distance = np.abs(np.hypot(y - row, x - column) - SIDE / 28)
        canvas[distance < 3.5] = 0
        canvas[distance < 1.8] = 255
    return canvas


# --- figures


def draw_report(figure: Figure | SubFigure, stage_channels: Mapping[int, int], report: PositionReport) -> None:
    """Error by channel and slots read. Heights are in parts of the largest, which the titles give in numbers."""
    grid = figure.add_gridspec(2, 2, left=0.09, right=0.98, bottom=0.1, top=0.93, hspace=0.78, width_ratios=(1.4, 1))
    colours, edges = sns.color_palette("colorblind"), np.cumsum([0, *stage_channels.values()])
    top, left = figure.add_subplot(grid[0, :]), figure.add_subplot(grid[1, 0])
    largest, middles = max(float(report.channels.max()), 1e-12), (edges[:-1] + edges[1:]) / 2
    for k, (a, b) in enumerate(zip(edges, edges[1:])):
        top.stairs(report.channels[a:b] / largest, np.arange(a, b + 1), fill=True, color=colours[k % 10])
    top.set_xticks(middles, [f"{stage}\n{share:.0%}" for stage, share in zip(stage_channels, report.shares)])
    top.set(xlim=(0, edges[-1]), ylim=(0, 1.05), yticks=[], ylabel="squared error")
    top.set(xlabel="channels by stage, and the stage's share of the error")
    top.set(title=f"error by channel, largest {largest:.3g}")
    if report.where is None:
        left.set_axis_off()
        left.text(0, 0.5, f"This model has no {report.memory} memory.", fontsize=8.5, transform=left.transAxes)
    else:
        left.bar(range(len(report.slots)), report.weights / report.weights[0], color="0.35")
        left.axhline(1 / report.count / report.weights[0], color=colours[1], linestyle="--", linewidth=1.4)
        left.set_xticks(range(len(report.slots)), report.slots)
        left.set(xlim=(-0.6, SLOTS - 0.4), ylim=(0, 1.05), yticks=[])
        channel = report.memory == "channel"
        reader = "token's" if channel else "mean map's" if report.hidden is None else f"map {report.hidden}'s"
        title = f"{reader} slots, top {report.weights[0]:.3f}"
        left.set(ylabel="weight", xlabel="slot; dashed: an even read", title=title)
        right, low, high = figure.add_subplot(grid[1, 1]), float(report.where.min()), float(report.where.max())
        right.imshow(report.where, cmap="viridis", vmin=0 if channel else low, vmax=high)
        title = f"slot {report.slots[0]}: {'where read' if channel else 'its pattern'}"
        right.set(xticks=[], yticks=[], xlabel=f"{low:.2g} (dark) to {high:.2g}", title=title)
    for ax in figure.axes:
        ax.tick_params(length=0, labelsize=7.5)
        ax.spines[["top", "right"]].set_visible(False)
        for text, size in ((ax.title, 8.5), (ax.xaxis.label, 7.5), (ax.yaxis.label, 7.5)):
            text.set_size(size)


def report_picture(stage_channels: Mapping[int, int], report: PositionReport) -> np.ndarray:
    """`draw_report` as a picture (height, width, 3) uint8."""
    canvas = FigureCanvasAgg(Figure(figsize=(3.6, 3.4), dpi=120))
    draw_report(canvas.figure, stage_channels, report)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def explorer_figure(session: Session, **state: Any) -> Figure:
    """Everything that the explorer shows in a state (see `Session.state`), as one figure: its static twin."""
    state = session.state(**state)
    models, decoded = state.models, session.decoded(state.image)
    rows = [(["photograph", *models], [pane(session, state, m, ring=True) for m in (None, *models)])]
    if decoded is not None:
        names = ["decoded from the features", *(f"decoded from the reconstruction: {m}" for m in models)]
        rows.append((names, [decoded, *(session.look(m, state.image).rebuilt for m in models)]))
    fig = Figure(figsize=(3.3 * (1 + len(models)), 3.6 * (len(rows) + 1)))
    parts = fig.subfigures(len(rows) + 1, 1 + len(models), squeeze=False, wspace=0, hspace=0)
    for line, (names, pictures) in zip(parts, rows):
        for part, name, array in zip(line, names, pictures):
            if array is not None:
                picture(part.add_axes((0.02, 0.02, 0.96, 0.88)), array).set_title(name, fontsize=9.5)
    for part, model in zip(parts[-1][1:], models):
        draw_report(part, session.stage_channels, session.report(model, state))
    scale = parts[-1][0].add_axes((0.08, 0.5, 0.8, 0.06))
    low, top = session.scale(state)
    scale.imshow(np.linspace(low, top, 256)[None], cmap=state.colour_map, aspect="auto", extent=(low, top, 0, 1))
    for colour, width in (("white", 3), ("black", 1)):
        scale.axvline(state.threshold, color=colour, linewidth=width)
    scale.set(yticks=[], xlim=(low, top))
    scale.set_xlabel("score / the verdict's threshold", fontsize=8.5)
    marks = f"hatched: at or above {state.threshold:g}\noutline: truth; ring: row {state.row}, column {state.column}"
    title = ",\n".join(shown(session, state))
    scale.set_title(f"{title}\n{marks}", fontsize=8.5, loc="left")
    return fig


# --- words


def stage_name(session: Session, stage: int | str) -> str:
    """A stage in words."""
    if stage == "all":
        return f"all stages, {sum(session.stage_channels.values())} channels"
    return f"stage {stage}, stride {2 ** (stage + 1)}, {session.stage_channels[stage]} channels"


def shown(session: Session, state: State) -> list[str]:
    """In words: the stage that a state shows, and how its error is measured."""
    return [stage_name(session, state.stage), f"error {ERRORS[state.error if state.stage == 'all' else 'norm']}"]


def image_name(sample: Sample) -> str:
    """Short name inside its category: defect and file."""
    return f"{sample.defect} {sample.name.rsplit('/', 1)[-1].rsplit('.', 1)[0]}"


def describe(session: Session, state: State) -> list[str]:
    """What the pictures show, in sentences with numbers: the image, then each model's map and its position."""
    sample, truth = session.samples[state.image], session.truth(state.image)
    area = "" if truth is None else ", a normal image"
    if truth is not None and truth.any():
        area = f", its truth {truth.mean():.1%} of the image"
    lines = [f"{sample.category}, {image_name(sample)}{area}; {', '.join(shown(session, state))}."]
    for model in state.models:
        heat = session.anomaly_map(model, state.image, state.stage, state.error)
        row, column = session.peak(model, state.image, state.stage, state.error)
        found, marked = session.category(model, state.image), (heat >= state.threshold).mean()
        text = f"{model}: {f'taken for {found}, ' if found != sample.category else ''}peak {heat.max():.2f} near "
        text += f"row {row}, column {column}; at {state.threshold:.2f} it marks {marked:.1%} of the image"
        if truth is not None:
            numbers = pixel_metrics(heat, truth, state.threshold)[2:]
            precision, recall, iou = ("not defined" if x is None else f"{x:.2f}" for x in numbers)
            text += f": precision {precision}, recall {recall}, IoU {iou}"
        lines.append(f"{text}. {_describe_position(session, model, state)}")
    return lines


def _describe_position(session: Session, model: str, state: State) -> str:
    report, score = session.report(model, state), session.look(model, state.image).lengths[state.error]
    score = score[state.row, state.column] / session.unit(model, state.image, error=state.error)
    worst = int(report.shares.argmax())
    text = (
        f"At row {state.row}, column {state.column} the score over all stages is {score:.2f}; "
        f"stage {list(session.stage_channels)[worst]} has {report.shares[worst]:.0%} of the squared error"
    )
    if report.where is None:
        return f"{text}; no {state.memory} memory."
    return (
        f"{text}; {state.memory} slot {report.slots[0]} is read most, with weight {report.weights[0]:.3f}, "
        f"and {report.effective:.0f} of {report.count} slots effectively."
    )
