"""The explorer's plain functions, on arrays small enough to know the answer, and one session on a tiny data set."""

import numpy as np
import pytest
from sklearn.metrics import jaccard_score, precision_score, recall_score

from dumenet.course.explorer import (
    COLOUR_MAPS,
    Look,
    ReportPainter,
    Session,
    describe,
    draw_heatmap,
    explorer_figure,
    pane,
    pixel_metrics,
    position_report,
    stage_map,
)
from dumenet.errors import DumenetError
from dumenet.experiment import Folders, run


@pytest.fixture
def session(tiny, tree, tmp_path):
    """A network with both memories, one without, and the Gaussian, on two categories of 64 x 64 images."""
    kinds = {"both": {}, "plain": {"model__memory_mode": "none"}, "gaussian": {"model__name": "gaussian"}}
    folders = Folders(tmp_path)
    return Session({k: run(tiny(data__source=str(tree), **v), folders, progress=False) for k, v in kinds.items()})


# --- numbers


@pytest.mark.parametrize("threshold", [-1.0, 0.2, 0.5, 0.9, 2.0])
def test_pixel_metrics_are_sklearns(threshold):
    rng = np.random.default_rng(0)
    heat, mask = rng.random((9, 7)).round(1), rng.random((9, 7)) > 0.7
    marked, truth = (heat >= threshold).ravel(), mask.ravel()
    m = pixel_metrics(heat, mask, threshold)
    assert (m.marked, m.defect) == (marked.sum(), truth.sum())
    assert m.recall == pytest.approx(recall_score(truth, marked))
    assert m.iou == pytest.approx(jaccard_score(truth, marked))
    if marked.any():
        assert m.precision == pytest.approx(precision_score(truth, marked))
    else:
        assert m.precision is None


def test_what_is_not_defined_is_none():
    heat, nothing = np.ones((2, 2)), np.zeros((2, 2), bool)
    assert pixel_metrics(heat, nothing, 1) == (4, 0, 0.0, None, 0.0)
    assert pixel_metrics(heat, nothing, 2) == (0, 0, None, None, None)
    with pytest.raises(DumenetError, match="does not fit"):
        pixel_metrics(heat, np.zeros((3, 2)), 1)


def test_squares_of_the_stages_add_up():
    difference, stages = np.random.default_rng(0).normal(size=(5, 3, 4)), {1: 2, 3: 3}
    whole, parts = stage_map(difference, stages), [stage_map(difference, stages, s) for s in stages]
    assert np.allclose(whole**2, sum(p**2 for p in parts))
    assert np.allclose(parts[1], np.linalg.norm(difference[2:], axis=0))
    lengths = np.ones((3, 4))
    assert np.allclose(sum(stage_map(difference, stages, s, lengths) ** 2 for s in stages), 1)


def look_at(**changes):
    """Two stages of 1 and 2 channels on a 2 x 3 grid, 4 slots, 5 hidden maps."""
    rng = np.random.default_rng(1)
    difference = rng.normal(size=(3, 2, 3))
    difference[:, 1, 2] = 3, 0, 4
    channel, spatial = rng.dirichlet(np.ones(4), 6), rng.dirichlet(np.ones(4), 5)
    channel[5] = 0.1, 0.2, 0.7, 0.0
    gap = np.zeros((5, 6))
    gap[3, 5] = 1
    lengths = 2 * np.linalg.norm(difference, axis=0)  # in other units than the difference
    return Look(difference, lengths, channel, spatial, gap, rng.normal(size=(4, 2, 3)), None)._replace(**changes)


def test_a_position_of_the_channel_memory():
    look = look_at()
    r = position_report(look, {0: 1, 1: 2}, 1, 2)
    assert r.score == pytest.approx(10)
    assert np.allclose(r.channels, [9, 0, 16]) and np.allclose(r.shares, [9 / 25, 16 / 25])
    assert r.slots.tolist() == [2, 1, 0, 3] and np.allclose(r.weights, [0.7, 0.2, 0.1, 0]) and r.count == 4
    assert r.effective == pytest.approx(np.exp(-sum(w * np.log(w) for w in (0.1, 0.2, 0.7))))
    assert np.array_equal(r.where, look.channel_weights[:, 2].reshape(2, 3)) and r.hidden is None


def test_a_position_of_the_spatial_memory():
    look = look_at()
    r = position_report(look, {0: 1, 1: 2}, 1, 2, "spatial")
    assert r.hidden == 3 and np.allclose(r.weights, np.sort(look.spatial_weights[3])[::-1])
    assert np.array_equal(r.where, look.patterns[r.slots[0]])
    assert r.readers[0] == look.spatial_weights[:, r.slots[0]].argmax()
    mean = position_report(look, {0: 1, 1: 2}, 1, 2, "spatial", "mean")
    assert mean.hidden is None and np.allclose(mean.weights, np.sort(look.spatial_weights.mean(0))[::-1])


def test_a_position_without_memory():
    r = position_report(look_at(channel_weights=None), {0: 1, 1: 2}, 0, 0)
    assert r.where is None and len(r.slots) == 0 and r.shares.sum() == pytest.approx(1)


# --- pictures


def test_heatmap_colours_marks_and_outlines():
    image, heat = np.full((20, 20, 3), 100, np.uint8), np.zeros((20, 20))
    heat[:, 10:] = 2
    bare = draw_heatmap(image, side=80)
    assert bare.shape == (80, 80, 3) and (bare == 100).all()
    clear = draw_heatmap(image, heat, opacity=0, side=80)
    assert np.abs(clear.astype(int) - 100).max() <= 1
    full = draw_heatmap(image, heat, opacity=1, side=80)
    assert (full[:, :30] <= [1, 1, 5]).all() and (full[:, 50:] >= [250, 250, 185]).all()  # the ends of magma
    marked = draw_heatmap(image, heat, 1, "magma", 1.0, side=80)
    assert np.array_equal(marked[:, :30], full[:, :30]) and not np.array_equal(marked[:, 50:], full[:, 50:])
    outlined = draw_heatmap(image, truth=heat > 1, side=80)
    assert set(np.unique(outlined)) == {0, 100, 255} and (outlined[30:50, 60:70] == 100).all()
    ringed = draw_heatmap(image, place=(0, 1), side=80)
    assert (ringed[:20, 60:] != 100).any() and (ringed[20:] == 100).all()


def test_panes_show_photograph_map_and_ring(session):
    state = session.state()
    photo, heat, ringed = pane(session, state), pane(session, state, "both"), pane(session, state, "both", ring=True)
    assert photo.shape == heat.shape and (photo != heat).any()
    assert 0 < (heat != ringed).any(-1).mean() < 0.1


@pytest.mark.parametrize("name", COLOUR_MAPS)
def test_colour_maps_rise_in_lightness(name):
    ramp = draw_heatmap(np.zeros((8, 64, 3), np.uint8), np.tile(np.linspace(0, 2, 64), (8, 1)), 1.0, name, side=64)
    light = ramp[4].astype(float) @ [0.299, 0.587, 0.114]
    assert (np.diff(light) >= -1.5).all() and light[-1] - light[0] > 120


def test_the_painter_draws_what_a_fresh_painter_draws():
    stages, look = {0: 1, 1: 2}, look_at()
    painter = ReportPainter(stages, "channel")
    first = painter(position_report(look, stages, 0, 0))
    other = painter(position_report(look, stages, 1, 2))
    assert not np.array_equal(first, other)
    assert np.array_equal(painter(position_report(look, stages, 0, 0)), first), "nothing of the last position stays"


# --- the session


def test_a_session_agrees_with_the_evaluation(session):
    for name, outcome in session.outcomes.items():
        for i, image in enumerate(session.samples):
            heat = session.anomaly_map(name, image) * session.unit(name, session.samples[image].category)
            assert np.allclose(heat, outcome.scores.maps[i], rtol=1e-3, atol=1e-4)
    assert session.unit("both", "bolt") == session.outcomes["both"].trained.thresholds["bolt"]
    assert session.unit("both", "bolt", 0) < session.unit("both", "bolt")
    assert session.images("bolt")[0].startswith("bolt/test/hole"), "defects first"


def test_without_a_threshold_the_median_score_counts_as_one(session):
    outcome = session.outcomes["gaussian"]
    outcome.trained.thresholds.clear()
    mine = [s for s, n in zip(outcome.scores.image, session.samples) if n.startswith("felt")]
    assert session.unit("gaussian", "felt") == pytest.approx(np.median(mine))


def test_states_have_defaults_and_words(session):
    state = session.state(category="felt", other="none")
    assert session.samples[state.image].label and session.samples[state.image].category == "felt"
    assert (state.row, state.column) == session.peak("both", state.image)
    lines = describe(session, session.state(other="gaussian"))
    assert (
        len(lines) == 3
        and "precision" in lines[1]
        and lines[2].startswith("gaussian")
        and "no channel memory" in lines[2]
    )
    normal = session.images("bolt")[-1]
    assert "recall not defined" in describe(session, session.state(image=normal))[1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image": "bolt/test/hole/999.png"}, "image of the explorer"),
        ({"model": "bothh"}, "did you mean 'both'"),
        ({"colour_map": "jet"}, "Known: magma"),
        ({"stage": 9}, "stage of the explorer"),
        ({"category": "nut"}, "category"),
        ({"memory": "spacial"}, "did you mean 'spatial'"),
        ({"row": 4, "column": 0}, "row must lie between 0 and 3"),
        ({"opacity": 1.5}, "opacity must lie"),
        ({"threshold": -1}, "threshold must lie"),
        ({"treshold": 1}, "did you mean 'threshold'"),
    ],
)
def test_bad_values_are_one_sentence(session, values, message):
    with pytest.raises(DumenetError, match=message):
        explorer_figure(session, **values)


def test_models_must_be_comparable(session, tiny, tree, tmp_path):
    alone = run(tiny(data__source=str(tree), data__categories=["bolt"]), Folders(tmp_path), progress=False)
    with pytest.raises(DumenetError, match="compare like with like"):
        Session({**session.outcomes, "alone": alone})
    with pytest.raises(DumenetError, match="one trained model"):
        Session({})


def test_without_masks_there_are_no_pixel_metrics(tiny, tree, tmp_path):
    import shutil

    for category in ("bolt", "felt"):
        shutil.rmtree(tree / category / "ground_truth")
    session = Session({"m": run(tiny(data__source=str(tree)), Folders(tmp_path), progress=False)})
    state = session.state()
    assert session.metrics("m", state) is None and "precision" not in " ".join(describe(session, state))
    explorer_figure(session)


class Ink:
    """Stands in for the picture decoder."""

    def draw(self, features):
        return np.full((len(features), 8, 8, 3), float(features.mean() > 0))


def test_static_twin_with_and_without_decoded_pictures(session):
    plain = explorer_figure(session, other="gaussian", memory="spatial")
    drawn = explorer_figure(Session(session.outcomes, Ink()), other="gaussian", hidden="mean")
    count = lambda fig: len([ax for ax in fig.findobj(lambda a: hasattr(a, "images")) if ax.images])  # noqa: E731
    assert count(drawn) == count(plain) + 3
