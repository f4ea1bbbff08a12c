"""Plots draw what they are given, on the axes they are given."""

import base64
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib import colormaps

from dumenet import plots
from dumenet.config import Config
from dumenet.errors import DumenetError
from dumenet.features import Backbone


@pytest.fixture
def ax():
    return plt.figure().add_subplot()


@pytest.fixture
def toy():
    """Two images uint8 (32, 32, 3), maps and masks; the first is normal."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    masks = np.zeros((2, 32, 32), bool)
    masks[1, 4:10, 6:20] = True
    return images, rng.random((2, 32, 32)) + masks, masks


def labels(ticks):
    return [t.get_text() for t in ticks]


# --- images


@pytest.mark.parametrize(("low", "top", "opacity", "name"), [(0, 2, 0.5, "magma"), (-1, 0.5, 0.2, "viridis")])
def test_overlay_is_grey_under_the_colour_of_the_score(toy, low, top, opacity, name):
    image, scores = toy[0][1], toy[1][1] * 3 - 1  # from below `low` to above `top`
    grey = image @ [0.299, 0.587, 0.114]
    colour = colormaps[name]((scores - low) / (top - low))[..., :3] * 255
    drawn = plots.overlay(image, scores, top, low, opacity, name)
    assert drawn.shape == (32, 32, 3) and drawn.dtype == np.uint8
    assert np.abs(drawn - (grey[..., None] * (1 - opacity) + colour * opacity)).max() < 2
    assert np.array_equal(drawn, plots.overlay(image / 255, scores, top, low, opacity, name))
    flat = plots.overlay(np.full((4, 4), 100, np.uint8), np.zeros((4, 4)), 0.0)
    assert (flat == [50, 50, 51]).all()  # of a flat map the lowest colour, (0, 0, 3)


def test_heatmap_is_an_overlay_with_the_defect_outlined(ax, toy):
    images, maps, masks = toy
    assert plots.heatmap(ax, images[1], maps[1], vmin=0, vmax=3, mask=masks[1]) is ax
    assert np.array_equal(ax.images[0].get_array(), plots.overlay(images[1], maps[1], 3))
    bar = ax.figure.colorbar(ax.images[0])
    assert bar.cmap.name == "magma" and bar.ax.get_ylim() == (0, 3)
    (outline,) = ax.collections[-1].get_paths()
    assert outline.get_extents().bounds == (5.5, 3.5, 14, 6)  # around columns 6-19, rows 4-9


def test_sheet_shares_one_scale(toy):
    images, maps, masks = toy
    fig = plots.sheet(images, maps, masks, ["one", "two"])
    axes = np.array(fig.axes[:8]).reshape(2, 4)
    assert [a.get_title() for a in axes[0]] == ["input", "truth", "anomaly map", "overlay"]
    assert [a.get_ylabel() for a in axes[:, 0]] == ["one", "two"]
    assert {a.images[-1].get_clim() for a in axes[:, 2:].ravel()} == {(maps.min(), maps.max())}
    bar = fig.axes[8]
    assert bar.get_ylabel() == "anomaly score" and bar.get_ylim() == (maps.min(), maps.max())
    assert np.array_equal(axes[1, 1].images[0].get_array() > 0, masks[1])
    assert len(plots.sheet(images, maps).axes) == 2 * 3 + 1


# --- scores and numbers


def test_score_histogram_counts_each_class_in_common_bins(ax):
    truth, scores = np.array([0, 0, 0, 0, 1, 1]), np.array([0.0, 0.0, 0.1, 1.0, 0.9, 1.0])
    plots.score_histogram(ax, truth, scores, threshold=0.5)
    normal, anomalous = (np.array([bar.get_height() for bar in c]) for c in ax.containers)
    assert normal[0] == 0.5 and normal.sum() == pytest.approx(1)
    assert anomalous[-1] == 0.5 and anomalous.sum() == pytest.approx(1)
    assert ax.lines[0].get_xdata()[0] == 0.5
    assert {"normal (4)", "anomalous (2)", "threshold 0.5"} == set(labels(ax.get_legend().get_texts()))


def test_roc_of_a_method_and_of_one_class_alone(ax):
    truth = np.array([0, 0, 1, 1])
    plots.roc(ax, truth, np.array([0.1, 0.4, 0.35, 0.8]), "mine")
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), [[0, 0], [0, 0.5], [0.5, 0.5], [0.5, 1], [1, 1]])
    plots.roc(ax, truth * 0, np.arange(4.0), "normal only")
    assert labels(ax.get_legend().get_texts()) == ["mine: 0.750", "normal only: not defined"]


def test_curves_leave_a_gap_for_none(ax):
    plots.curves(ax, [0, 10, 20], {"loss": [3, 2, 1], "pro": [None, 0.5, None]}, ylabel="value")
    loss, pro = ax.lines
    np.testing.assert_array_equal(loss.get_xydata(), [[0, 3], [10, 2], [20, 1]])
    np.testing.assert_array_equal(pro.get_ydata(), [np.nan, 0.5, np.nan])
    assert loss.get_linestyle() != pro.get_linestyle()
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "value")


def test_metric_table_writes_numbers_and_dashes(ax):
    plots.metric_table(ax, ["a", "b"], ["image AUROC", "PRO"], [[0.25, None], [1, 0.5]])
    written = {t.get_position(): t.get_text() for t in ax.texts}
    assert written == {(0.5, 0.5): "0.250", (1.5, 0.5): "–", (0.5, 1.5): "1.000", (1.5, 1.5): "0.500"}
    assert labels(ax.get_xticklabels()) == ["image\nAUROC", "PRO"] and labels(ax.get_yticklabels()) == ["a", "b"]
    plots.metric_table(ax, ["a"], ["PRO"], [[None]])  # nothing defined: no scale to take from the numbers
    assert ax.texts[-1].get_text() == "–"


def test_printed_table_frames_the_means_that_rounding_cannot_explain(ax):
    values = np.array([[40, 40, 40], [60, 60, 60], [50, 50.07, 51], [50, 50, 50]])  # the last two rows are means
    plots.printed_table(ax, ["right", "near", "wrong"], ["a", "b"], values)
    frames = [(p.get_x(), p.get_y(), p.get_linestyle()) for p in ax.patches]
    assert [f[:2] for f in frames] == [(1, 2), (2, 2)] and frames[0][2] != frames[1][2]


def test_dots_have_rows_intervals_and_seeds(ax):
    rings = [[0.1, 0.2], [], [-0.2]]
    plots.dots(ax, ["a", "b", "c"], [0.1, None, -0.2], [0.05, None, None], zero=True, seeds=rings)
    assert labels(ax.get_yticklabels()) == ["a", "b", "c"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first row on top
    drawn = [c[0].get_xydata()[0].tolist() for c in ax.containers]
    assert drawn == [[0.1, 0], [-0.2, 2]]
    assert any(list(line.get_xdata()) == [0, 0] for line in ax.lines)
    assert sum(line.get_markerfacecolor() == "none" and len(line.get_xdata()) == 2 for line in ax.lines) == 1


# --- memories


def test_memory_weights_are_sorted_by_use_and_a_few_large_ones_leave_the_others_visible(ax):
    weights = np.array([[0.1, 0.7, 0.2], [0.2, 0.3, 0.5]])
    assert plots.memory_weights(ax, weights) is ax
    assert np.array_equal(ax.images[0].get_array(), weights[:, [1, 2, 0]])
    weights = np.full((50, 100), 0.01)
    weights[3, 7] = 0.9
    plots.memory_weights(ax, weights)
    low, top = ax.images[1].get_clim()
    assert low == 0 and 0.3 < 0.01 / top < 0.7  # an even read lies in the middle of the scale
    plots.memory_weights(ax, np.eye(100)[np.arange(50)])  # sharp reads, nearly all weights 0
    assert ax.images[2].get_clim()[1] > 0


# --- files and notebooks


def test_save_is_reproducible_and_leaves_no_other_file(ax, tmp_path):
    ax.set_title("scores")
    paths = plots.save(ax.figure, "scores", tmp_path / "figures")
    assert [p.name for p in paths] == ["scores.png", "scores.svg"]
    first = [p.read_bytes() for p in paths]
    assert first[0].startswith(b"\x89PNG") and b"<dc:date>" not in first[1]
    again = plots.save(ax.figure, "scores", tmp_path / "again", close=True)
    assert [p.read_bytes() for p in again] == first and not plt.get_fignums()
    assert len(list((tmp_path / "figures").iterdir())) == 2
    (tmp_path / "file").write_text("a file, not a folder")
    with pytest.raises(DumenetError, match="Cannot write"):
        plots.save(ax.figure, "scores", tmp_path / "file")


def test_a_shown_figure_has_its_text(ax, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    plots.show(ax.figure, 'AUROC < 0.5: "worse" & odd', "00_toy", tmp_path)
    image = ET.fromstring(shown[0].data.replace('100%">', '100%"/>'))
    assert image.tag == "img" and image.get("alt") == 'AUROC < 0.5: "worse" & odd'
    inside = base64.b64decode(image.get("src").removeprefix("data:image/png;base64,"))
    assert inside == (tmp_path / "00_toy.png").read_bytes()  # drawn once
    width = plt.imread(tmp_path / "00_toy.png").shape[1]
    assert int(image.get("width")) == pytest.approx(width * 96 / 150, abs=1)  # inches as a browser counts them
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00_toy.png", "00_toy.svg"] and not plt.get_fignums()


def test_the_drawing_of_the_network_is_of_the_default_configuration():
    config = Config()
    drawing = ET.parse(Path(__file__).parents[1] / "docs" / "architecture.svg")
    said = [text.text for text in drawing.iter("{http://www.w3.org/2000/svg}text")]
    words, m, f = " ".join(said), config.model, config.features
    for name, count in (("encoder", m.encoder_layers), ("decoder", m.decoder_layers)):
        assert sorted(t for t in said if re.fullmatch(f"{name} \\d+", t)) == [f"{name} {k + 1}" for k in range(count)]
    channels, grid, size = Backbone(f).stage_channels, f.grid, f.image_size
    stages = [f"stride {2 ** (s + 1)}, {c} ch." for s, c in zip(f.stages, channels)]
    assert [t for t in said if t.startswith("stride")] == stages
    for part in (
        f"image (B, 3, {size}, {size})", f"upsample to {size},", f"anomaly map (B, {grid}, {grid})",
        f"target (B, C, {grid}, {grid})", f"align to {grid} × {grid},", f"N = {grid} × {grid} = {grid * grid} tokens",
        f"C = {' + '.join(map(str, channels))} = {sum(channels)} channels", f"D = {m.hidden_dim} hidden",
        f"M = {m.channel_memory_size} slots of D = {m.hidden_dim}", f"fusion: {m.fusion_mode}",
        f"M = {m.spatial_memory_size} slots of {grid} × {grid}",
    ):  # fmt: skip
        assert part in words, part
    drawn = (m.memory_mode, m.decoder_reads, m.spatial_layout, m.spatial_similarity, m.target, m.neck)
    assert drawn == ("both", "memory", "map", "ssim", "standardised", "plain"), "the boxes and arrows show these"
    assert config.evaluation.error == "mahalanobis" and "length in units of its normal spread" in words


def test_a_value_far_below_the_others_is_written_at_the_edge(ax):
    values = [*np.linspace(-1, 1, 19), -60.0]
    seeds = [[v - 1, v + 1] for v in values]
    plots.dots(ax, [f"row {k}" for k in range(20)], values, zero=True, seeds=seeds, edge=True)
    assert [t.get_text() for t in ax.texts] == ["← -60"]
    assert ax.get_xlim()[0] > -3  # neither its dot nor its single runs press the others together


def test_side_by_side_draws_what_is_known(ax):
    plots.side_by_side(ax, ["cap", "new"], {"a": [(0.8, (0.6, 0.9)), (None, None)], "b": [(0.7, None), (1.0, (1, 1))]})
    assert labels(ax.get_yticklabels()) == ["cap", "new"] and ax.get_ylim() == (1.5, -0.5)
    assert [c.get_label() for c in ax.containers] == ["a", "b"]
    values = [container.lines[0].get_xydata() for container in ax.containers]
    np.testing.assert_allclose(values[0], [[0.8, -0.2]])
    np.testing.assert_allclose(values[1], [[0.7, 0.2], [1.0, 1.2]])
    (segment,) = ax.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose(segment[:, 0], [0.6, 0.9])
    plots.side_by_side(ax, ["cap"], {"nothing": [(None, None)]})


def test_panels_draw_means_and_each_run():
    runs = {
        "image (%)": {"a": [[1.0, 3.0], []], "b": [[5.0], [7.0]]},
        "pixel (%)": {"a": [[2.0], [4.0]], "b": [[], []]},
    }
    fig = plots.panels([10, 30], runs, "epochs", log=True)
    first, second = fig.axes
    curve, other, *dots = first.lines
    np.testing.assert_allclose(curve.get_ydata().astype(float), [2, np.nan])
    np.testing.assert_allclose(other.get_ydata().astype(float), [5, 7])
    assert sorted(y for d in dots for y in d.get_ydata()) == [1, 3, 5, 7] and first.get_xscale() == "log"
    assert second.get_ylabel() == "pixel (%)" and [t.get_text() for t in fig.legends[0].texts] == ["a", "b"]


def test_a_line_for_each_seed():
    fig = plots.seed_lines({"PRO": {"seed 0": [80, 82], "seed 1": [81, 79]}}, ["without", "with"])
    (ax,) = fig.axes
    assert [line.get_ydata().tolist() for line in ax.lines] == [[80, 82], [81, 79]] and ax.get_title() == "PRO"
    assert labels(ax.get_xticklabels()) == ["without", "with"]
