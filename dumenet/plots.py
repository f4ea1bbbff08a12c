"""Figures. Each function takes arrays and an `Axes`, draws, and returns that `Axes`.

Colours are safe for colour-blind readers: magma for anomaly scores, viridis for memories and tables,
seaborn's "colorblind" for classes and lines, and a second cue (line style) where two lines may cross.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from dumenet.metrics import auroc
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


def dots(
    ax: Axes,
    names: Sequence[str],
    values: Sequence[float | None],
    halves: Sequence[float | None] | None = None,
    bands: Sequence[float] = (),
    seeds: Sequence[Sequence[float]] | None = None,
) -> Axes:
    """One row per name, first on top: a dot at its value, an interval of +- its half-width where there is one.

    `bands` are half-widths of grey stripes about zero, for differences; `seeds` the single runs of each row, as
    small rings below the dot. A value of None leaves its row empty.
    """
    rows = np.arange(len(names))
    for band in sorted(bands, reverse=True):
        ax.axvspan(-band, band, color="0.5", alpha=0.18, linewidth=0)
    if bands:
        ax.axvline(0, color="0.4", linewidth=0.8)
    for row, value in zip(rows, values):
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


def save(fig: Figure, name: str, folder: Path = Path("figures")) -> list[Path]:
    """Write `fig` as `folder`/name.png (150 dpi) and name.svg, whole or not at all; returns both paths.

    The same figure gives the same bytes: no date, and element names from a fixed salt.
    """
    paths = []
    for suffix, options in (("png", {"dpi": 150}), ("svg", {"metadata": {"Date": None}})):
        data = io.BytesIO()
        with plt.rc_context({"svg.hashsalt": "dumenet"}):
            fig.savefig(data, format=suffix, bbox_inches="tight", **options)
        paths.append(Path(folder) / f"{name}.{suffix}")
        write_atomic(paths[-1], data.getvalue())
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
