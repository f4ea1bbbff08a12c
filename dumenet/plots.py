"""Figures. Most functions take arrays and an `Axes`, draw, and return that `Axes`.

Colours are safe for colour-blind readers: magma for anomaly scores, viridis for memories and tables,
seaborn's "colorblind" for classes and lines, and a second cue (line style) where two lines may cross.
"""

import base64
import html
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
from matplotlib.patches import Rectangle
from PIL import Image
from sklearn.metrics import roc_curve

from dumenet.files import write_atomic
from dumenet.metrics import METRICS, auroc
from dumenet.overlay import as_uint8, overlay

NORMAL, ANOMALOUS = (sns.color_palette("colorblind")[i] for i in (0, 1))  # blue, orange
STYLES = ("-", "--", "-.", ":")
DPI = 150  # of PNG files


def picture(ax: Axes, image: np.ndarray, mask: np.ndarray | None = None) -> Axes:
    """Image (H, W, 3) or (H, W), uint8, bool or float in 0..1, without ticks; the truth `mask` (H, W) as an outline."""
    ax.imshow(as_uint8(image), cmap="gray", vmin=0, vmax=255)
    ax.set(xticks=[], yticks=[])
    if mask is not None and np.any(mask):
        for colour, width in (("white", 2.4), ("black", 0.9)):
            ax.contour(np.asarray(mask) > 0, levels=[0.5], colors=colour, linewidths=width)
    return ax


def heatmap(
    ax: Axes, image: np.ndarray, anomaly_map: np.ndarray, vmin: float, vmax: float, alpha: float = 0.5,
    mask: np.ndarray | None = None,
) -> Axes:  # fmt: skip
    """`overlay` of an anomaly map (H, W) on its image, colours from score `vmin` to `vmax`, and `mask` (H, W) outlined.

    A colour bar is drawn for ``ax.images[0]``.
    """
    picture(ax, overlay(image, anomaly_map, vmax, vmin, alpha), mask)
    ax.images[0].set(cmap="magma", clim=(vmin, vmax))  # for a colour bar; the picture has its colours already
    return ax


def sheet(
    images: Sequence[np.ndarray], maps: Sequence[np.ndarray], masks: Sequence[np.ndarray] | None = None,
    titles: Sequence[str] = (),
) -> Figure:  # fmt: skip
    """One row per image: input, truth, anomaly map, overlay, on one scale, from the lowest to the highest score shown.

    `images` n of (H, W, 3), `maps` n of (H, W), `masks` n of (H, W) or None, `titles` n row names.
    """
    norm = Normalize(min(np.min(m) for m in maps), max(np.max(m) for m in maps))
    columns = ["input", *(["truth"] if masks is not None else []), "anomaly map", "overlay"]
    size = (1.9 * len(columns) + 0.8, 1.9 * len(images) + 0.3)  # inches
    fig, axes = plt.subplots(len(images), len(columns), figsize=size, squeeze=False, layout="constrained")
    for i, row in enumerate(axes):
        mask = None if masks is None else np.asarray(masks[i]) > 0
        picture(row[0], images[i])
        if mask is not None:
            picture(row[1], mask)
        row[-2].imshow(maps[i], cmap="magma", norm=norm)
        row[-2].set(xticks=[], yticks=[])
        heatmap(row[-1], images[i], maps[i], norm.vmin, norm.vmax, mask=mask)
    for ax, name in zip(axes[:, 0], titles):
        ax.set_ylabel(name, fontsize=9)
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
    """ROC curve of one method, its AUROC in the legend; of one class alone there is none."""
    area = auroc(labels, scores)
    points = ((), ()) if area is None else roc_curve(labels, scores)[:2]
    ax.plot(*points, color=NORMAL, label=f"{name}: " + ("not defined" if area is None else f"{area:.3f}"))
    ax.axline((0, 0), (1, 1), color="0.7", linewidth=0.8, zorder=0)
    limits = {"xlim": (-0.02, 1.02), "ylim": (-0.02, 1.02), "aspect": "equal"}
    ax.set(xlabel="false positive rate", ylabel="true positive rate", **limits)
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
    """Reading weights (N, M), one row per query, each summing to 1; slots sorted by mean use, highest left.

    The colours end at the 99th percentile, and at twice an even read at least: a few large weights would turn
    all others black.
    """
    weights = np.asarray(weights)
    order = np.argsort(-weights.mean(axis=0), kind="stable")
    top = max(np.percentile(weights, 99), 2 / weights.shape[1])
    drawn = ax.imshow(weights[:, order], cmap="viridis", vmin=0, vmax=top, aspect="auto", interpolation="nearest")
    ax.set(xlabel="memory slot, by mean use", ylabel="query")
    ax.figure.colorbar(drawn, ax=ax, label="weight", extend="max" if weights.max() > top else "neither")
    return ax


def metric_table(
    ax: Axes, rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float | None]], digits: int = 3
) -> Axes:
    """A table (rows, columns) of numbers as a heat map with the numbers in it; "–" where it is None."""
    numbers = np.array(values, dtype=float).reshape(len(rows), len(columns))  # None becomes NaN
    labels = {"xticklabels": [name.replace(" ", "\n") for name in columns], "yticklabels": rows}
    limits = {} if np.isfinite(numbers).any() else {"vmin": 0, "vmax": 1}
    sns.heatmap(numbers, ax=ax, annot=True, fmt=f".{digits}f", cmap="viridis", linewidths=0.5, **labels, **limits)
    for i, j in np.argwhere(np.isnan(numbers)):  # seaborn writes nothing in an empty cell
        ax.text(j + 0.5, i + 0.5, "–", ha="center", va="center", color="black")
    ax.tick_params(rotation=0, left=False, bottom=False)
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
    ax: Axes, names: Sequence[str], values: Sequence[float | None], halves: Sequence[float | None] | None = None,
    zero: bool = False, seeds: Sequence[Sequence[float]] | None = None, edge: bool = False,
) -> Axes:  # fmt: skip
    """One row per name, first on top: a dot at its value, an interval of +- its half-width where there is one.

    `zero` draws a line there, for differences; `seeds` are the single runs of each row, as small rings below the dot.
    A value of None leaves its row empty. With `edge` a value that lies far below the others, and would press them
    together, is written at the left edge instead, without its interval and single runs.
    """
    rows, known = np.arange(len(names)), [v for v in values if v is not None]
    low, high = np.percentile(known, [25, 75]) if edge and known else (0, 0)  # Tukey's quartiles
    if zero:
        ax.axvline(0, color="0.4", linewidth=0.8)
    for row, value in zip(rows, values):
        far = value is not None and low < high and value < low - 3 * (high - low)
        if seeds is not None and not far:
            ax.plot(seeds[row], np.full(len(seeds[row]), row + 0.25), "o", ms=3, mfc="none", color="0.4")
        if far:
            style = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 8, "color": ANOMALOUS}
            ax.annotate(f"← {value:.3g}", (0.03, row), **style)
        elif value is not None:
            half = None if halves is None else halves[row]
            ax.errorbar(value, row, xerr=half, fmt="o", ms=4, color=NORMAL, capsize=2, linewidth=1.2)
    ax.set_yticks(rows, labels=names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(axis="y", color="0.9", linewidth=0.6)
    ax.set_axisbelow(True)
    return ax


def table_figure(rows: Sequence[Any]) -> Figure:
    """A table's rows (`dumenet.paper.tables.Row`): a panel for each metric and part, a dot with its interval for each
    method, a cross where the paper prints a value. Of more than four parts only their mean is shown. Where the paper
    prints nothing, a value far below all others is written at the edge.
    """
    metrics = list(dict.fromkeys(r.metric for r in rows))
    parts = sorted(dict.fromkeys(r.part for r in rows), key="mean".__eq__)  # the mean last
    parts = parts if len(parts) <= 5 or "mean" not in parts else ["mean"]
    columns = list(dict.fromkeys(r.column for r in rows))
    names = max(1.5, 0.08 * max(map(len, columns)))  # inches that the longest takes
    size = (2.6 * len(parts) + names, (0.26 * len(columns) + 0.8) * len(metrics))
    fig, axes = plt.subplots(len(metrics), len(parts), figsize=size, squeeze=False, sharey=True, layout="constrained")
    for line, metric in zip(axes, metrics):
        for ax, part in zip(line, parts):
            cells = {r.column: r for r in rows if (r.metric, r.part) == (metric, part)}
            shown = [cells.get(c) for c in columns]
            crosses = [(r.paper, k) for k, r in enumerate(shown) if r and r.paper is not None]
            dots(ax, columns, [r and r.ours for r in shown], [r and r.half for r in shown], edge=not crosses)
            ax.plot(*zip(*crosses) if crosses else ((), ()), "x", ms=5, color=ANOMALOUS, label="paper")
            ax.set_title(f"{part}\n{METRICS[metric]}, %", fontsize=9)
            left, right = ax.get_xlim()  # an interval may pass the highest value there is
            ax.set_xlim(right=min(right, 100 + 0.02 * (right - left)))
    if any(r.paper is not None for r in rows if r.part in parts):
        fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower left", frameon=False, fontsize=8)
    return fig


def save(fig: Figure, name: str, folder: Path = Path("figures"), close: bool = False) -> list[Path]:
    """Write `fig` as `folder`/name.png (of `DPI`) and name.svg, each whole or not at all; then `close` it, if wanted.

    The same figure gives the same bytes: no date, and element names from a fixed salt. Returns both paths;
    DumenetError where the folder cannot be written.
    """
    paths = [Path(folder) / f"{name}.{suffix}" for suffix in ("png", "svg")]
    for path in paths:
        write_atomic(path, _rendered(fig, path.suffix[1:]))
    if close:
        plt.close(fig)
    return paths


def _rendered(fig: Figure, suffix: str) -> bytes:
    """The figure as a file: PNG of `DPI`, or SVG."""
    data, options = io.BytesIO(), {"png": {"dpi": DPI}, "svg": {"metadata": {"Date": None}}}[suffix]
    with plt.rc_context({"svg.hashsalt": "dumenet"}):
        fig.savefig(data, format=suffix, bbox_inches="tight", **options)
    return data.getvalue()


def show(fig: Figure, alt: str, name: str | None = None, folder: Path = Path("figures")) -> None:
    """Show `fig` in a notebook with the text `alt` for those who cannot see it, and close it.

    With `name` the figure is saved as well, see `save`. `alt` says what is drawn and what to see in it. The figure is
    shown as HTML: of an `image/png` neither JupyterLab nor nbconvert shows the text.
    """
    from IPython.display import HTML, display

    data = save(fig, name, folder)[0].read_bytes() if name else _rendered(fig, "png")
    plt.close(fig)  # otherwise the notebook shows it a second time, without its text
    width = round(Image.open(io.BytesIO(data)).width * 96 / DPI)  # a browser's usual size, and sharp when enlarged
    source = "data:image/png;base64," + base64.b64encode(data).decode()
    display(HTML(f'<img alt="{html.escape(alt)}" src="{source}" width="{width}" style="max-width: 100%">'))


def side_by_side(
    ax: Axes, groups: Sequence[str], series: Mapping[str, Sequence[tuple[float | None, Sequence[float] | None]]]
) -> Axes:
    """A row for each group, first on top; in it for each of the `series` a mark with its interval.

    `series`: name -> (value, (low, high)) for each group; a value of None has no mark, an interval of None no line.
    """
    for k, ((name, cells), colour) in enumerate(zip(series.items(), sns.color_palette("colorblind", len(series)))):
        place = np.arange(len(groups)) + 0.8 / len(series) * (k - (len(series) - 1) / 2)
        known = [(row, v, ends or (v, v)) for row, (v, ends) in zip(place, cells) if v is not None]
        rows, values, ends = zip(*known) if known else ((), (), ())
        bars = np.abs(np.reshape(ends, (-1, 2)).T - np.array(values))  # (2, n)
        ax.errorbar(values, rows, xerr=bars, fmt="osD^v"[k % 5], color=colour, ms=4, capsize=2, label=name)
    ax.set_yticks(range(len(groups)), labels=groups)
    ax.set_ylim(len(groups) - 0.5, -0.5)
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return ax


def seed_lines(pairs: Mapping[str, Mapping[str, Sequence[float]]], ticks: Sequence[str]) -> Figure:
    """A panel for each title; in it a line for each seed from its first value to its second, in percent."""
    fig, axes = plt.subplots(1, len(pairs), figsize=(8, 2.6), layout="constrained", squeeze=False)
    for ax, (title, lines) in zip(axes[0], pairs.items()):
        for (label, pair), style in zip(lines.items(), STYLES):
            ax.plot([0, 1], pair, "o" + style, color=NORMAL, label=label)
        ax.set(xlim=(-0.4, 1.4), title=title)
        ax.set_xticks([0, 1], labels=ticks)
    axes[0, 0].set_ylabel("on the test images (%)")
    axes[0, -1].legend(frameon=False, fontsize=8)
    return fig


def panels(
    x: Sequence[float], runs: Mapping[str, Mapping[str, Sequence[Sequence[float]]]], xlabel: str, log: bool = False
) -> Figure:
    """A panel for each y label; in it a curve of the means for each name, and a dot for each run.

    `runs`: y label -> name -> for each x the values of its runs; none leave a gap.
    """
    fig, axes = plt.subplots(1, len(runs), figsize=(8, 3.4), layout="constrained", squeeze=False)
    for ax, (ylabel, named) in zip(axes[0], runs.items()):
        means = {name: [np.mean(v) if len(v) else None for v in cells] for name, cells in named.items()}
        curves(ax, x, means, xlabel, ylabel)
        for line, cells in zip(list(ax.lines), named.values()):
            for at, values in zip(x, cells):
                ax.plot([at] * len(values), values, "o", ms=2, color=line.get_color())
        if log:
            ax.set_xscale("log")
            ax.set_xticks(x, labels=x)
            ax.minorticks_off()
        ax.get_legend().remove()
    handles = axes[0, 0].get_legend_handles_labels()
    fig.legend(*handles, loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    return fig
