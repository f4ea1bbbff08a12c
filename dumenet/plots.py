"""Figures. Each function takes arrays and an `Axes`, draws, and returns that `Axes`.

Colours are safe for colour-blind readers: magma for anomaly scores, viridis for memories and tables,
seaborn's "colorblind" for classes and lines, and a second cue (line style) where two lines may cross.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import PlaceHolderLayoutEngine
from matplotlib.patches import FancyBboxPatch, Rectangle
from sklearn.metrics import roc_curve

from dumenet.config import ModelConfig
from dumenet.errors import DumenetError
from dumenet.metrics import METRICS, auroc
from dumenet.results import write_atomic

NORMAL, ANOMALOUS = (sns.color_palette("colorblind")[i] for i in (0, 1))  # blue, orange
STYLES = ("-", "--", "-.", ":")
LUMA = (0.299, 0.587, 0.114)  # grey from red, green, blue (ITU-R BT.601)


def heatmap(
    ax: Axes,
    image: np.ndarray,
    anomaly_map: np.ndarray,
    vmin: float | None = None,
    vmax: float | None = None,
    alpha: float = 0.5,
    mask: np.ndarray | None = None,
) -> Axes:
    """Anomaly map (H, W) over its image (H, W, 3) or (H, W); the truth `mask` (H, W) as an outline.

    `vmin` and `vmax` are scores. Without them the map is stretched over its own range, so that even a
    normal image shows a bright spot: pass one range for images that are to be compared. The image is
    drawn in grey, so that all colour is score: magma on a red object cannot be told from the object.
    """
    image = np.asarray(image)
    grey = image if image.ndim == 2 else (image @ LUMA).astype(image.dtype)
    picture(ax, grey)
    ax.imshow(anomaly_map, cmap="magma", vmin=vmin, vmax=vmax, alpha=alpha)
    if mask is not None and np.any(mask):
        ax.contour(np.asarray(mask) > 0, levels=[0.5], colors="white", linewidths=2.4)
        ax.contour(np.asarray(mask) > 0, levels=[0.5], colors=["black"], linewidths=0.9)
    return ax


def picture(ax: Axes, image: np.ndarray) -> Axes:
    """Image (H, W, 3) or grey (H, W), uint8 or float in 0..1, or mask (H, W) bool, without ticks."""
    image = np.asarray(image)
    top = 255 if image.dtype == np.uint8 else 1
    ax.imshow(image, cmap="gray", vmin=0, vmax=top)
    ax.set(xticks=[], yticks=[])
    return ax


def sheet(
    images: Sequence[np.ndarray],
    maps: Sequence[np.ndarray],
    masks: Sequence[np.ndarray] | None = None,
    titles: Sequence[str] | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
) -> Figure:
    """One row per image: input, truth, anomaly map, overlay, on one scale of scores for all rows.

    `images` n of (H, W, 3), `maps` n of (H, W), `masks` n of (H, W) or None, `titles` n row names.
    The scale runs from the lowest to the highest score of the maps shown, unless given.
    """
    vmin = min(np.min(m) for m in maps) if vmin is None else vmin
    vmax = max(np.max(m) for m in maps) if vmax is None else vmax
    norm = Normalize(vmin, vmax)
    columns = ["input", *(["truth"] if masks is not None else []), "anomaly map", "overlay"]
    size = (1.9 * len(columns) + 0.8, 1.9 * len(images) + 0.3)  # inches
    fig, axes = plt.subplots(len(images), len(columns), figsize=size, squeeze=False, layout="constrained")
    for i, row in enumerate(axes):
        mask = masks[i] if masks is not None else None
        picture(row[0], images[i])
        if mask is not None:
            picture(row[1], np.asarray(mask) > 0)
        row[-2].imshow(maps[i], cmap="magma", norm=norm)
        row[-2].set(xticks=[], yticks=[])
        heatmap(row[-1], images[i], maps[i], vmin, vmax, mask=mask)
        if titles is not None:
            row[0].set_ylabel(titles[i], fontsize=9)
    for ax, name in zip(axes[0], columns):
        ax.set_title(name, fontsize=10)
    fig.colorbar(ScalarMappable(norm, "magma"), ax=axes, label="anomaly score", fraction=0.03, pad=0.02)
    return fig


def score_histogram(ax: Axes, labels: np.ndarray, scores: np.ndarray, threshold: float | None = None) -> Axes:
    """Image scores (n,) of the two classes in common bins, each class as a share of its own images."""
    labels, scores = np.asarray(labels), np.asarray(scores)
    edges = np.histogram_bin_edges(scores, bins=30)
    for label, name, colour in ((0, "normal", NORMAL), (1, "anomalous", ANOMALOUS)):
        s = scores[labels == label]
        share = np.full(len(s), 1 / max(len(s), 1))
        ax.hist(s, edges, weights=share, color=colour, alpha=0.6, label=f"{name} ({len(s)})")
    if threshold is not None:
        ax.axvline(threshold, color="black", linestyle="--", linewidth=1.2, label=f"threshold {threshold:.3g}")
    ax.set(xlabel="image score", ylabel="share of the class")
    ax.legend(frameon=False)
    return ax


def roc(ax: Axes, labels: np.ndarray, scores: np.ndarray, name: str) -> Axes:
    """ROC curve of one method, its AUROC in the legend; call again on the same axes for another."""
    area = auroc(labels, scores)
    if area is None:
        ax.plot([], [], " ", label=f"{name}: not defined")
    else:
        fpr, tpr, _ = roc_curve(np.ravel(labels), np.ravel(scores))
        k = sum(line.get_gid() == "roc" for line in ax.lines)
        style = {"color": sns.color_palette("colorblind")[k % 10], "linestyle": STYLES[k % len(STYLES)]}
        ax.plot(fpr, tpr, gid="roc", label=f"{name}: {area:.3f}", **style)
    ax.axline((0, 0), (1, 1), color="0.7", linewidth=0.8, zorder=0)
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    ax.set(xlabel="false positive rate", ylabel="true positive rate")
    ax.legend(title="AUROC", loc="lower right", edgecolor="none")
    return ax


def curves(
    ax: Axes,
    steps: Sequence[float],
    values: Mapping[str, Sequence[float | None]],
    xlabel: str = "step",
    ylabel: str = "",
) -> Axes:
    """Named curves over the same `steps` (T,), such as losses; a None leaves a gap."""
    colours = sns.color_palette("colorblind", len(values))
    for k, (name, series) in enumerate(values.items()):
        ax.plot(steps, np.array(series, dtype=float), color=colours[k], linestyle=STYLES[k % len(STYLES)], label=name)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.legend(frameon=False)
    return ax


def memory_weights(ax: Axes, weights: np.ndarray) -> Axes:
    """Reading weights (N, M), one row per query, each summing to 1; slots sorted by mean use, highest left."""
    weights = np.asarray(weights)
    order = np.argsort(-weights.mean(axis=0), kind="stable")
    drawn = ax.imshow(weights[:, order], cmap="viridis", vmin=0, aspect="auto", interpolation="nearest")
    ax.set(xlabel="memory slot, by mean use", ylabel="query")
    ax.figure.colorbar(drawn, ax=ax, label="weight")
    return ax


def slots(fig: Figure, spatial_memory: np.ndarray, columns: int = 16) -> Axes:
    """All slots of a spatial memory (M, H, W) as small pictures, row by row, on one colour scale.

    One mosaic, not M axes: 256 slots draw at once. Returns the axes that it adds to `fig`.
    """
    memory = np.asarray(spatial_memory)
    m, h, w = memory.shape
    columns = min(columns, m)
    rows = -(-m // columns)
    mosaic = np.full((rows * (h + 1) + 1, columns * (w + 1) + 1), np.nan)  # one pixel between pictures
    for k in range(m):
        top, left = k // columns * (h + 1) + 1, k % columns * (w + 1) + 1
        mosaic[top : top + h, left : left + w] = memory[k]
    ax = fig.add_subplot()
    drawn = ax.imshow(mosaic, cmap="viridis", interpolation="nearest")
    ax.set(xticks=[], ylabel="first slot of the row")
    ax.set_yticks((np.arange(rows) + 0.5) * (h + 1), labels=np.arange(rows) * columns)
    ax.tick_params(left=False)
    ax.spines[:].set_visible(False)
    fig.colorbar(drawn, ax=ax, label="value", fraction=0.04)
    return ax


def metric_table(
    ax: Axes,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float | None]],
    digits: int = 3,
) -> Axes:
    """A table (rows, columns) of numbers as a heat map with the numbers in it; "–" where it is None."""
    numbers = np.array(values, dtype=float).reshape(len(rows), len(columns))  # None becomes NaN
    labels = {"xticklabels": [name.replace(" ", "\n") for name in columns], "yticklabels": rows}
    limits = {} if np.isfinite(numbers).any() else {"vmin": 0, "vmax": 1}
    sns.heatmap(numbers, ax=ax, annot=True, fmt=f".{digits}f", cmap="viridis", linewidths=0.5, **labels, **limits)
    for i, j in np.argwhere(np.isnan(numbers)):  # seaborn writes nothing in an empty cell
        ax.text(j + 0.5, i + 0.5, "–", ha="center", va="center", color="black")
    ax.tick_params(axis="y", rotation=0, left=False)
    ax.tick_params(axis="x", rotation=0, bottom=False)
    return ax


def printed_table(ax: Axes, methods: Sequence[str], categories: Sequence[str], values: np.ndarray) -> Axes:
    """A printed table with the printed and the recomputed mean as last rows, as `results.paper_table` gives it.

    A frame marks a printed mean more than 0.1 from the recomputed one, a dotted one more than 0.05.
    """
    metric_table(ax, [*categories, "printed mean", "recomputed mean"], methods, values, digits=1)
    for text in ax.texts:
        row, column = int(text.get_position()[1]), int(text.get_position()[0])
        text.set_fontweight("bold" if row >= len(categories) else "normal")
        if row > len(categories) and np.isfinite(values[row, column]):
            text.set_text(f"{values[row, column]:.2f}")
    off = np.abs(values[-2] - values[-1])  # a dash is NaN, and not greater
    for column in np.flatnonzero(off > 0.05 + 1e-9):
        style = {"edgecolor": "red", "linewidth": 2, "linestyle": "-" if off[column] > 0.1 + 1e-9 else ":"}
        ax.add_patch(Rectangle((column, len(categories)), 1, 1, fill=False, clip_on=False, zorder=5, **style))
    return ax


def dots(
    ax: Axes,
    names: Sequence[str],
    values: Sequence[float | None],
    halves: Sequence[float | None] | None = None,
    bands: Sequence[float] = (),
    seeds: Sequence[Sequence[float]] | None = None,
    edge: bool = False,
) -> Axes:
    """One row per name, first on top: a dot at its value, an interval of +- its half-width where there is one.

    `bands` are half-widths of grey stripes about zero, for differences; `seeds` the single runs of each row, as
    small rings below the dot. A value of None leaves its row empty. With `edge` a value that lies far below the
    others, and would press them together, is written at the left edge instead.
    """
    rows, known = np.arange(len(names)), [v for v in values if v is not None]
    low, high = np.percentile(known, [10, 90]) if edge and known else (-np.inf, np.inf)
    for band in sorted(bands, reverse=True):
        ax.axvspan(-band, band, color="0.5", alpha=0.18, linewidth=0)
    if bands:
        ax.axvline(0, color="0.4", linewidth=0.8)
    for row, value in zip(rows, values):
        if value is not None and low < high and value < low - 3 * (high - low):
            ax.annotate(
                f"← {value:.3g}",
                (0.03, row),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=8,
                color=ANOMALOUS,
            )
            continue
        half = halves[row] if halves is not None else None
        if seeds is not None:
            ax.plot(seeds[row], np.full(len(seeds[row]), row + 0.25), "o", ms=3, mfc="none", color="0.4")
        if value is not None:
            ax.errorbar(value, row, xerr=half, fmt="o", ms=4, color=NORMAL, capsize=2, linewidth=1.2)
    ax.set_yticks(rows, labels=names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(axis="y", color="0.9", linewidth=0.6)
    ax.set_axisbelow(True)
    return ax


def table_figure(rows: Sequence[Any]) -> Figure:
    """A table's rows (`dumenet.paper.tables.Row`): a panel for each metric and part, a dot with its interval for each method,
    a cross where the paper prints a value. With more than four parts only their mean is shown. A value far below all others is
    written at the edge, where the paper prints none.
    """
    metrics = list(dict.fromkeys(r.metric for r in rows))
    parts = [p for p in dict.fromkeys(r.part for r in rows) if p != "mean"]
    has_mean = any(r.part == "mean" for r in rows)
    parts = (parts if len(parts) <= 4 or not has_mean else []) + ["mean"] * has_mean
    columns = list(dict.fromkeys(r.column for r in rows))
    size = (2.6 * len(parts) + 1.5, (0.26 * len(columns) + 0.8) * len(metrics))
    fig, axes = plt.subplots(len(metrics), len(parts), figsize=size, squeeze=False, sharey=True, layout="constrained")
    for line, metric in zip(axes, metrics):
        for ax, part in zip(line, parts):
            cells = {r.column: r for r in rows if (r.metric, r.part) == (metric, part)}
            shown = [cells.get(c) for c in columns]
            crosses = [(r.paper, k) for k, r in enumerate(shown) if r and r.paper is not None]
            dots(ax, columns, [r and r.ours for r in shown], [r and r.half for r in shown], edge=not crosses)
            ax.plot(*zip(*crosses) if crosses else ((), ()), "x", ms=5, color=ANOMALOUS, label="paper")
            ax.set_title(f"{part}\n{METRICS[metric]}, %", fontsize=9)
            left, right = ax.get_xlim()
            ax.set_xlim(right=min(right, 100 + 0.02 * (right - left)))  # an interval may reach beyond what there can be
    if any(r.paper is not None for r in rows):
        fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower left", frameon=False, fontsize=8)
    return fig


def save(fig: Figure, name: str, folder: Path = Path("figures"), close: bool = False) -> list[Path]:
    """Write `fig` as `folder`/name.png (150 dpi) and name.svg, whole or not at all; returns both paths. `close` lets go of it then.

    The same figure gives the same bytes: no date, and element names from a fixed salt.
    """
    paths = []
    for suffix, options in (("png", {"dpi": 150}), ("svg", {"metadata": {"Date": None}})):
        data = io.BytesIO()
        with plt.rc_context({"svg.hashsalt": "dumenet"}):
            fig.savefig(data, format=suffix, bbox_inches="tight", **options)
        paths.append(Path(folder) / f"{name}.{suffix}")
        write_atomic(paths[-1], data.getvalue())
    if close:
        plt.close(fig)
    return paths


def show(fig: Figure, alt: str, name: str | None = None, folder: Path = Path("figures")) -> None:
    """Show `fig` in a notebook with the text `alt` for those who cannot see it, and close it.

    With `name` the figure is saved as well, see `save`. `alt` says what is drawn and what to see in it.
    """
    from IPython.display import Image, display

    if name is not None:
        save(fig, name, folder)
    data = io.BytesIO()
    fig.savefig(data, format="png", dpi=96, bbox_inches="tight")
    plt.close(fig)  # otherwise the notebook shows it a second time, without its text
    display(Image(data.getvalue(), alt=alt))


def architecture(
    config: ModelConfig, stage_channels: Sequence[int] = (16, 24, 40, 112), grid: int = 14, image_size: int = 224
) -> Figure:
    """DuMeNet as `config` makes it, with the shapes on the arrows.

    What is on one drawing and not on another is an option: memories, fusion, target, neck, and what every decoder
    layer reads. Blue, solid: the continuous query. Orange, dashed: a path that goes round the memories.

    Raises:
        DumenetError: `config` names another network.
    """
    if config.name != "dumenet":
        raise DumenetError(f"This draws DuMeNet; there is no drawing of {config.name!r}.")
    drawing = _Drawing()
    _draw_features(drawing, config, stage_channels, grid, image_size)
    _draw_network(drawing, config, grid)
    _draw_score(drawing, config, grid, image_size)
    channels, tokens = sum(stage_channels), grid * grid
    symbols = f"B images     N = {grid} × {grid} = {tokens} tokens     C = {' + '.join(map(str, stage_channels))} = {channels} channels"
    both = (config.channel_memory_size, config.spatial_memory_size)
    sizes = {"both": both, "channel": both[:1], "spatial": both[1:], "none": ()}[config.memory_mode]
    symbols += f"     D = {config.hidden_dim} hidden"
    if sizes:
        symbols += f"     M = {' and '.join(map(str, dict.fromkeys(sizes)))} slots"
    drawing.text(50, 1.3, symbols, size=9, color="0.25")
    return drawing.ax.figure


class _Drawing:
    """Boxes, arrows and words on a sheet of 100 x 53 tenths of an inch."""

    INK, FROZEN, TRAINED, MEMORY = "#222222", "#e9e9e9", "#ffffff", "#e3f1ec"
    QUERY, LEAK = NORMAL, sns.color_palette("colorblind")[3]

    def __init__(self) -> None:
        # a placeholder, since saving would put the user's default engine in the place of none
        fig = plt.figure(figsize=(10, 5.3), layout=PlaceHolderLayoutEngine(True, True), facecolor="white")
        self.ax = fig.add_axes((0, 0, 1, 1))
        self.ax.set(xlim=(0, 100), ylim=(0, 53))
        self.ax.axis("off")

    def text(self, x: float, y: float, words: str, size: float = 8.5, **style: Any) -> None:
        style = {"ha": "center", "va": "center", "color": self.INK, "linespacing": 1.25, "zorder": 5} | style
        self.ax.text(x, y, words, fontsize=size, **style)

    def panel(self, x: float, y: float, w: float, h: float, title: str, face: str) -> None:
        shape = FancyBboxPatch((x, y), w, h, boxstyle="round,pad=0,rounding_size=1.2", fc=face, ec="none", zorder=0)
        self.ax.add_patch(shape)
        self.text(x + 1.2, y + h - 1.8, title, size=10, ha="left", weight="bold")

    def box(self, x: float, y: float, w: float, h: float, words: str, face: str, **style: Any) -> None:
        edge = {"ec": self.INK, "lw": 0.9, "ls": "-"} | style
        shape = FancyBboxPatch((x, y), w, h, boxstyle="round,pad=0,rounding_size=0.6", fc=face, zorder=3, **edge)
        self.ax.add_patch(shape)
        if words:
            self.text(x + w / 2, y + h / 2, words)

    def arrow(
        self, *points: tuple[float, float], color: Any = None, ls: str = "-", lw: float = 1.2, head: bool = True
    ) -> None:
        """A line through the points, with a head at the last one."""
        color = color or self.INK
        x, y = zip(*points)
        self.ax.plot(x, y, color=color, ls=ls, lw=lw, zorder=2, solid_capstyle="butt", solid_joinstyle="round")
        if head:
            style = {
                "arrowstyle": "-|>,head_width=0.22,head_length=0.42",
                "color": color,
                "lw": lw,
                "shrinkA": 0,
                "shrinkB": 0,
            }
            self.ax.annotate("", points[-1], _before(points), arrowprops=style, zorder=4)

    def picture(self, x: float, y: float, w: float, h: float, values: np.ndarray, cmap: str) -> None:
        self.ax.imshow(values, cmap=cmap, extent=(x, x + w, y, y + h), zorder=4, aspect="auto", interpolation="nearest")
        self.ax.add_patch(Rectangle((x, y), w, h, fill=False, ec=self.INK, lw=0.7, zorder=4))
        self.ax.set(xlim=(0, 100), ylim=(0, 53))


def _before(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """A point a little before the last one, on the way to it."""
    (a, b), (c, d) = points[-2:]
    length = max(np.hypot(c - a, d - b), 1e-9)
    return c - (c - a) / length, d - (d - b) / length


def _draw_features(d: _Drawing, config: ModelConfig, stage_channels: Sequence[int], grid: int, image_size: int) -> None:
    """Left: image, frozen backbone, alignment, and what has to be reconstructed."""
    d.panel(0.8, 3.4, 20.4, 48.8, "Frozen features", d.FROZEN)
    y, x = np.mgrid[-1:1:160j, -1:1:160j]
    ring = 0.25 + 0.5 * (np.hypot(x, y) < 0.8) - 0.45 * (np.hypot(x, y) < 0.5)
    ring[(np.abs(x - 0.45) < 0.1) & (np.abs(y + 0.45) < 0.17)] = 1  # the defect
    d.picture(2.2, 39.6, 8, 8, ring, "gray")
    d.text(10.9, 43.6, f"image\n(B, 3, {image_size}, {image_size})", ha="left")
    n = len(stage_channels)
    step = 15.6 / n
    top = 37.6
    d.arrow((6.2, 39.6), (6.2, top - 0.4))
    for k, channels in enumerate(stage_channels):
        inset = 0.9 * k
        d.box(
            2.2 + inset,
            top - (k + 1) * step + 0.5,
            17.6 - 2 * inset,
            step - 0.9,
            f"stride {2 ** (k + 1)}, {channels} ch.",
            "#f8f8f8",
        )
    low = top - n * step + 0.5
    d.arrow((11, low), (11, 18.9))
    scaled = {"standardised": "standardise channels", "raw": "left raw", "sigmoid": "left raw"}[config.target]
    d.box(2.2, 13.9, 17.6, 5, f"align to {grid} × {grid},\nconcatenate", "#f8f8f8")
    if config.neck == "cbam":
        d.box(2.2, 9.4, 8.1, 3.2, scaled.split()[0], "#f8f8f8")
        d.box(11.7, 9.4, 8.1, 3.2, "CBAM", d.TRAINED, ec=d.LEAK, ls="--", lw=1.4)
        d.arrow((6.2, 13.9), (6.2, 12.6))
        d.arrow((10.3, 11), (11.7, 11))
        d.arrow((15.7, 9.4), (15.7, 6), head=False)
    else:
        d.box(2.2, 9.4, 17.6, 3.2, scaled, "#f8f8f8")
        d.arrow((11, 13.9), (11, 12.6))
        d.arrow((11, 9.4), (11, 6), head=False)
    start = 15.7 if config.neck == "cbam" else 11
    d.arrow((start, 6), (91, 6), (91, 9.2), lw=1.6)
    word = "trained target" if config.neck == "cbam" else "target"
    d.text(55, 7.1, f"{word} (B, C, {grid}, {grid})", size=9)
    d.arrow((30.4, 6), (30.4, 9.6))


def _layers(d: _Drawing, x: float, w: float, count: int, name: str, down: bool) -> list[float]:
    """A column of boxes between y = 19 and 43, at most four of them; returns their middles in the order of reading."""
    shown = list(range(1, count + 1)) if count <= 4 else [1, 2, None, count]
    pitch = 24 / len(shown)
    middles = [19 + pitch * (k + 0.5) for k in range(len(shown))]
    middles = middles[::-1] if down else middles
    for k, (layer, y) in enumerate(zip(shown, middles)):
        if layer is None:
            d.text(x + w / 2, y, "· · ·", size=10)
        else:
            h = min(pitch - 1.6, 5)
            d.box(x, y - h / 2, w, h, f"{name} {layer}", d.TRAINED)
        if k:
            gap = min(pitch - 1.6, 5) / 2
            sign = -1 if down else 1
            d.arrow((x + w / 2, middles[k - 1] + sign * gap), (x + w / 2, y - sign * gap))
    return middles


def _draw_network(d: _Drawing, config: ModelConfig, grid: int) -> None:
    """Middle: encoder up, memories across, decoder down."""
    d.panel(22.2, 8.4, 59.6, 43.8, "Trained reconstruction", "#eef3f8")
    d.box(24.4, 9.6, 12, 3.6, "project to D", d.TRAINED)
    d.text(31.2, 4.6, "tokens (B, N, C)", ha="left")
    encoder = _layers(d, 24.4, 12, config.encoder_layers, "encoder", down=False)
    half = min(24 / len(encoder) - 1.6, 5) / 2
    d.arrow((30.4, 13.2), (30.4, encoder[0] - half))
    d.text(31.1, 16.3, "(B, N, D)", ha="left")
    decoder = _layers(d, 69.4, 11.2, config.decoder_layers, "decoder", down=True)
    below = min(24 / len(decoder) - 1.6, 5) / 2
    d.box(69.4, 9.6, 11.2, 3.6, "project to C", d.TRAINED)
    d.arrow((75, decoder[-1] - below), (75, 13.2))
    d.text(75.7, 16.3, "(B, N, D)", ha="left")
    top = encoder[-1] + half
    d.arrow((30.4, top), (30.4, 45.4), (38.8, 45.4), head=False)  # what the encoder says
    reads, y_read = _draw_memories(d, config, grid)
    leak = config.decoder_reads == "encoder" or not reads
    d.text(34.6, 46.5, "(B, N, D)")
    # the fused read: first input of the decoder, and, as described, what every layer reads
    bus = 66.6
    if reads:
        d.arrow(
            (62.6 if reads > 1 else 57.4, y_read), (bus, y_read), head=False, lw=1.6, color=None if leak else d.QUERY
        )
    else:
        d.arrow((38.8, 45.4), (75, 45.4), (75, decoder[0] + below), color=d.LEAK, ls="--", lw=1.6)
    first = None if leak else d.QUERY
    if reads:
        d.arrow((bus, y_read), (bus, 44.6), (75, 44.6), (75, decoder[0] + below), lw=1.6, color=first)
        d.text(74.6, 45.8, "first input (B, N, D)")
    source, style = (bus, {"color": d.QUERY}) if not leak else (67.8, {"color": d.LEAK, "ls": "--"})
    if leak:
        lane = 48.2 if reads else 45.4
        if reads:
            d.arrow((38.8, 45.4), (38.8, lane), (source, lane), (source, decoder[-1]), head=False, lw=1.6, **style)
        else:
            d.arrow((source, lane), (source, decoder[-1]), head=False, lw=1.6, **style)
    else:
        d.arrow((bus, max(y_read, decoder[0])), (bus, min(y_read, decoder[-1])), head=False, lw=1.6, **style)
    for k, y in enumerate(decoder):
        if config.decoder_layers <= 4 or k != 2:  # the third is the dots
            d.arrow((source, y), (69.4, y), lw=1.6, color=style["color"])
    words = "leak: every layer reads the encoder" if leak else "continuous query: memory in every layer"
    words = words if reads else "no memory: every layer reads the encoder"
    d.text(80.6, 50.4, words, size=9, color=d.LEAK if leak else d.QUERY, weight="bold", ha="right")


def _draw_memories(d: _Drawing, config: ModelConfig, grid: int) -> tuple[int, float]:
    """The memories and their fusion; returns how many there are, and the height at which the read leaves."""
    rng = np.random.default_rng(0)
    middles = {"both": (35.2, 18.2), "channel": (30, None), "spatial": (None, 30), "none": (None, None)}[
        config.memory_mode
    ]
    lanes = [y for y in middles if y is not None]
    if not lanes:
        d.box(41.6, 24, 15.8, 12, "no memory", "none", ec="0.6", ls=":")
        return 0, 30.0
    d.arrow((38.8, 45.4), (38.8, min(lanes)), head=False)
    channel, spatial = middles
    if channel:
        d.box(41.6, channel - 7, 15.8, 14, "", d.MEMORY)
        d.text(49.5, channel + 5.1, "channel memory", size=9.5, weight="bold")
        d.picture(42.8, channel - 3.1, 6.2, 6, rng.normal(size=(7, 10)), "viridis")
        d.text(49.8, channel, f"M = {config.channel_memory_size}\nslots of\nD = {config.hidden_dim}", ha="left")
        d.text(49.5, channel - 5.2, "read by each token")
        d.arrow((38.8, channel), (41.6, channel))
    if spatial:
        released = config.spatial_layout == "released"
        edge = {"ec": d.LEAK, "ls": "--", "lw": 1.4} if released else {}
        d.box(41.6, spatial - 8, 15.8, 16, "", d.MEMORY, **edge)
        d.text(49.5, spatial + 6.1, "spatial memory", size=9.5, weight="bold")
        y, x = np.mgrid[0 : np.pi : grid * 1j, 0 : np.pi : grid * 1j]
        for k, values in enumerate((np.sin(2 * x) + y, np.cos(x) * np.cos(2 * y), np.hypot(x - 1.6, y - 1.6))):
            d.picture(42.6 + 0.9 * k, spatial - 0.9 - 0.9 * k, 4.6, 4.6, values, "viridis")
        d.text(49.8, spatial + 1, f"M = {config.spatial_memory_size}\nslots of\n{grid} × {grid}", ha="left")
        similarity = "SSIM" if config.spatial_similarity == "ssim" else "a dot product"
        words = (
            f"read by rows of {grid * grid}\nnumbers across images"
            if released
            else f"read by each hidden\nmap, through {similarity}"
        )
        d.text(49.5, spatial - 5.6, words, color=d.LEAK if released else d.INK)
        d.arrow((38.8, spatial), (41.6, spatial))
    if len(lanes) == 1:
        d.text(62, lanes[0] + 1.2, "(B, N, D)")
        return 1, lanes[0]
    y = 26.9
    d.box(58.9, y - 2.6, 6.2, 5.2, f"fusion:\n{config.fusion_mode.replace('_', chr(10))}", d.MEMORY)
    for lane, sign in ((channel, 1), (spatial, -1)):
        d.arrow((57.4, lane), (62, lane), (62, y + sign * 2.6))
        d.text(61.6, lane + sign * 1.3, "(B, N, D)")
    return 2, y


def _draw_score(d: _Drawing, config: ModelConfig, grid: int, image_size: int) -> None:
    """Right: difference, anomaly map, score."""
    d.panel(82.8, 3.4, 16.4, 48.8, "Score", d.FROZEN)
    words = "sigmoid of both,\ndifference" if config.target == "sigmoid" else "difference"
    d.box(84.6, 9.2, 12.8, 4.6, words, "#f8f8f8")
    d.arrow((80.6, 11.4), (84.6, 11.4), lw=1.6)
    d.arrow((88, 13.8), (88, 18.2))
    d.text(88.7, 16, f"(B, C, {grid}, {grid})", ha="left")
    d.box(84.6, 18.2, 12.8, 4.6, "L2 norm over\nchannels", "#f8f8f8")
    y, x = np.mgrid[0:grid, 0:grid] / grid - 0.5
    blob = np.exp(-(((x - 0.2) / 0.13) ** 2 + ((y + 0.2) / 0.16) ** 2)) + 0.1 * np.random.default_rng(1).random(x.shape)
    d.arrow((91, 22.8), (91, 27.2))
    d.picture(86.5, 27.2, 9, 9, blob, "magma")
    d.text(91, 38.6, f"anomaly map\n(B, {grid}, {grid})")
    d.arrow((91, 40.6), (91, 43.4))
    d.box(84.2, 43.4, 13.6, 4.8, f"upsample to {image_size},\npool: score (B,)", "#f8f8f8")
