"""Plots draw what they are given, on the axes they are given."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

from dumenet import plots
from dumenet.config import ModelConfig, make_config
from dumenet.errors import DumenetError


@pytest.fixture
def ax():
    yield plt.figure().add_subplot()
    plt.close("all")


@pytest.fixture
def toy():
    """Two images uint8 (32, 32, 3), maps and masks; the first is normal."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    masks = np.zeros((2, 32, 32), bool)
    masks[1, 4:10, 6:20] = True
    return images, rng.random((2, 32, 32)) + masks, masks


def data(image):
    return np.asarray(image.get_array())


def test_heatmap(ax, toy):
    images, maps, masks = toy
    assert plots.heatmap(ax, images[1], maps[1], vmin=0, vmax=3, mask=masks[1]) is ax
    grey, overlay = ax.images
    np.testing.assert_allclose(data(grey), images[1] @ [0.299, 0.587, 0.114], atol=1)
    assert grey.get_clim() == (0, 255)
    np.testing.assert_array_equal(data(overlay), maps[1])
    assert overlay.get_clim() == (0, 3) and overlay.get_alpha() == 0.5
    (outline,) = ax.collections[-1].get_paths()
    assert outline.get_extents().bounds == (5.5, 3.5, 14, 6)  # around columns 6-19, rows 4-9


def test_heatmap_without_defect_has_no_outline(ax, toy):
    images, maps, masks = toy
    plots.heatmap(ax, images[0] / 255, maps[0], mask=masks[0])
    assert not ax.collections
    assert ax.images[0].get_clim() == (0, 1)


def test_sheet_shares_one_scale(toy):
    images, maps, masks = toy
    fig = plots.sheet(images, maps, masks, ["one", "two"])
    axes = np.array(fig.axes[:8]).reshape(2, 4)
    assert [a.get_title() for a in axes[0]] == ["input", "truth", "anomaly map", "overlay"]
    assert [a.get_ylabel() for a in axes[:, 0]] == ["one", "two"]
    limits = {a.images[-1].get_clim() for a in axes[:, 2:].ravel()}
    assert limits == {(maps.min(), maps.max())}
    bar = fig.axes[8]
    assert bar.get_ylabel() == "anomaly score" and bar.get_ylim() == (maps.min(), maps.max())
    np.testing.assert_array_equal(data(axes[1, 1].images[0]), masks[1])
    assert len(plots.sheet(images, maps).axes) == 2 * 3 + 1
    plt.close("all")


def test_score_histogram_counts_each_class_in_common_bins(ax):
    labels, scores = np.array([0, 0, 0, 0, 1, 1]), np.array([0.0, 0.0, 0.1, 1.0, 0.9, 1.0])
    assert plots.score_histogram(ax, labels, scores, threshold=0.5) is ax
    normal, anomalous = (np.array([bar.get_height() for bar in c]) for c in ax.containers)
    assert normal[0] == 0.5 and normal.sum() == pytest.approx(1)
    assert anomalous[-1] == 0.5 and anomalous.sum() == pytest.approx(1)
    assert ax.lines[0].get_xdata()[0] == 0.5
    names = [t.get_text() for t in ax.get_legend().get_texts()]
    assert {"normal (4)", "anomalous (2)", "threshold 0.5"} == set(names)


def test_roc_of_two_methods_and_one_class(ax):
    labels = np.array([0, 0, 1, 1])
    assert plots.roc(ax, labels, np.array([0.1, 0.4, 0.35, 0.8]), "mine") is ax
    plots.roc(ax, labels, np.array([4.0, 3.0, 2.0, 1.0]), "flipped")
    plots.roc(ax, labels * 0, np.arange(4.0), "normal only")
    names = [t.get_text() for t in ax.get_legend().get_texts()]
    assert names == ["mine: 0.750", "flipped: 0.000", "normal only: not defined"]
    mine, flipped = (line for line in ax.lines if line.get_gid() == "roc")
    np.testing.assert_array_equal(mine.get_xydata(), [[0, 0], [0, 0.5], [0.5, 0.5], [0.5, 1], [1, 1]])
    assert mine.get_color() != flipped.get_color() and mine.get_linestyle() != flipped.get_linestyle()


def test_curves_leave_a_gap_for_none(ax):
    assert plots.curves(ax, [0, 10, 20], {"loss": [3, 2, 1], "pro": [None, 0.5, None]}, ylabel="value") is ax
    loss, pro = ax.lines
    np.testing.assert_array_equal(loss.get_xydata(), [[0, 3], [10, 2], [20, 1]])
    np.testing.assert_array_equal(pro.get_ydata(), [np.nan, 0.5, np.nan])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "value")


def test_memory_weights_are_sorted_by_use(ax):
    weights = np.array([[0.1, 0.7, 0.2], [0.2, 0.3, 0.5]])
    assert plots.memory_weights(ax, weights) is ax
    np.testing.assert_array_equal(data(ax.images[0]), weights[:, [1, 2, 0]])


def test_slots_mosaic():
    memory = np.arange(5 * 2 * 3, dtype=float).reshape(5, 2, 3)
    fig = plt.figure()
    ax = plots.slots(fig, memory, columns=2)
    assert ax in fig.axes
    mosaic = np.ma.filled(ax.images[0].get_array(), np.nan)
    assert mosaic.shape == (3 * 3 + 1, 2 * 4 + 1)
    np.testing.assert_array_equal(mosaic[1:3, 1:4], memory[0])
    np.testing.assert_array_equal(mosaic[4:6, 5:8], memory[3])
    assert np.isfinite(mosaic).sum() == memory.size  # the rest is gaps
    assert [t.get_text() for t in ax.get_yticklabels()] == ["0", "2", "4"]
    plt.close("all")


def test_metric_table_writes_numbers_and_dashes(ax):
    assert plots.metric_table(ax, ["a", "b"], ["image AUROC", "PRO"], [[0.25, None], [1, 0.5]]) is ax
    written = {t.get_position(): t.get_text() for t in ax.texts}
    assert written == {(0.5, 0.5): "0.250", (1.5, 0.5): "–", (0.5, 1.5): "1.000", (1.5, 1.5): "0.500"}
    assert [t.get_text() for t in ax.get_xticklabels()] == ["image\nAUROC", "PRO"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]


def test_metric_table_of_nothing_defined(ax):
    plots.metric_table(ax, ["a"], ["PRO"], [[None]])
    assert [t.get_text() for t in ax.texts] == ["–"]


def test_save_is_reproducible_and_leaves_no_other_file(ax, tmp_path):
    plots.score_histogram(ax, np.array([0, 1]), np.array([0.0, 1.0]), threshold=0.5)
    paths = plots.save(ax.figure, "scores", tmp_path / "figures")
    assert [p.name for p in paths] == ["scores.png", "scores.svg"]
    first = [p.read_bytes() for p in paths]
    assert first[0].startswith(b"\x89PNG") and b"<dc:date>" not in first[1]
    again = plots.save(ax.figure, "scores", tmp_path / "again")
    assert [p.read_bytes() for p in again] == first
    assert len(list((tmp_path / "figures").iterdir())) == 2


def test_save_that_cannot(ax, tmp_path):
    (tmp_path / "figures").write_text("a file, not a folder")
    with pytest.raises(DumenetError, match="Cannot write"):
        plots.save(ax.figure, "scores", tmp_path / "figures")


def test_dots_have_rows_intervals_bands_and_seeds(ax):
    plots.dots(
        ax, ["a", "b", "c"], [0.1, None, -0.2], [0.05, None, None], bands=(0.1, 0.3), seeds=[[0.1, 0.2], [], [-0.2]]
    )
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b", "c"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first row on top
    drawn = [c[0].get_xydata()[0].tolist() for c in ax.containers]
    assert drawn == [[0.1, 0], [-0.2, 2]]
    assert sorted(p.get_width() for p in ax.patches) == pytest.approx([0.2, 0.6])
    assert sum(line.get_markerfacecolor() == "none" and len(line.get_xdata()) == 2 for line in ax.lines) == 1


def words(fig):
    """Everything written in the figure, and the colours of its thick lines."""
    (ax,) = fig.axes
    lines = {line.get_color() for line in ax.lines if line.get_linewidth() == 1.6 and line.get_linestyle() == "-"}
    dashed = {line.get_color() for line in ax.lines if line.get_linestyle() == "--"}
    plt.close(fig)
    return [" ".join(t.get_text().split()) for t in ax.texts if t.get_text()], lines, dashed


def test_architecture_writes_layers_shapes_and_symbols():
    fig = plots.architecture(ModelConfig())
    arrows = [t for t in fig.axes[0].texts if not t.get_text() and t.arrow_patch.get_edgecolor()[:3] == plots.NORMAL]
    assert len(arrows) == 4 + 1  # the continuous query into every layer, and the first input
    texts, lines, dashed = words(fig)
    for text in ("channel memory", "spatial memory", "fusion: concat", "stride 16, 112 ch.", "align to 14 × 14, concatenate",
                 "standardise channels", "target (B, C, 14, 14)", "read by each token", "read by each hidden map, through SSIM",
                 "continuous query: memory in every layer", "difference", "project to D", "project to C"):  # fmt: skip
        assert text in texts, text
    assert [t for t in texts if t.startswith("decoder ")] == [f"decoder {k}" for k in (1, 2, 3, 4)]
    (symbols,) = (t for t in texts if t.startswith("B images"))
    assert symbols.endswith(
        "N = 14 × 14 = 196 tokens C = 16 + 24 + 40 + 112 = 192 channels D = 128 hidden M = 256 slots"
    )
    assert plots.NORMAL in lines and not dashed


def test_architecture_shows_the_options():
    texts, lines, dashed = words(plots.architecture(make_config(model__preset="released").model))
    assert {"leak: every layer reads the encoder", "sigmoid of both, difference", "left raw",
            "read by rows of 196 numbers across images"} <= set(texts)  # fmt: skip
    assert plots.NORMAL not in lines and len(dashed) == 1
    texts, _, dashed = words(plots.architecture(ModelConfig(memory_mode="none")))
    assert "no memory" in texts and not {"channel memory", "spatial memory"} & set(texts) and dashed
    assert "slots" not in " ".join(texts) and not [t for t in texts if "fusion" in t]
    texts, *_ = words(plots.architecture(ModelConfig(memory_mode="channel", encoder_layers=1, decoder_layers=6)))
    assert "channel memory" in texts and "spatial memory" not in texts
    assert [t for t in texts if t[:7] in ("encoder", "decoder")] == ["encoder 1", "decoder 1", "decoder 2", "decoder 6"]
    options = ModelConfig(memory_mode="spatial", neck="cbam", spatial_memory_size=64, hidden_dim=64)
    texts, *_ = words(plots.architecture(options, (8, 32), 7, 112))
    assert {
        "spatial memory",
        "CBAM",
        "trained target (B, C, 7, 7)",
        "image (B, 3, 112, 112)",
        "M = 64 slots of 7 × 7",
    } <= set(texts)
    with pytest.raises(DumenetError, match="uniad"):
        plots.architecture(ModelConfig(name="uniad"))


def test_the_committed_drawing_is_the_one_that_the_code_makes(tmp_path):
    from pathlib import Path

    docs = Path(__file__).parents[1] / "docs"
    plots.save(plots.architecture(ModelConfig()), "architecture", tmp_path)
    plt.close("all")
    drawn, kept = ((folder / "architecture.svg").read_text() for folder in (tmp_path, docs))
    comments = lambda svg: [line.strip() for line in svg.splitlines() if line.strip().startswith("<!--")]  # noqa: E731
    assert comments(drawn) == comments(kept)  # the words; their outlines vary with matplotlib's version
    assert all((docs / f"architecture.{suffix}").stat().st_size < 300_000 for suffix in ("png", "svg"))


def test_printed_table_frames_the_means_that_rounding_cannot_explain():
    from dumenet.results import PaperValue, paper_table

    printed = {"right": 50.0, "near": 50.07, "wrong": 51.0}
    paper = [
        PaperValue("t", m, c, "image_auroc", v)
        for m in printed
        for c, v in (("a", 40.0), ("b", 60.0), ("mean", printed[m]))
    ]
    methods, categories, values = paper_table(paper, "t", "image_auroc")
    assert methods == list(printed) and categories == ["a", "b"] and values[-1].tolist() == [50, 50, 50]
    fig, ax = plt.subplots()
    plots.printed_table(ax, methods, categories, values)
    frames = [(p.get_x(), p.get_y(), p.get_linestyle()) for p in ax.patches]
    assert [f[:2] for f in frames] == [(1, 2), (2, 2)] and frames[0][2] != frames[1][2]
    plt.close(fig)
