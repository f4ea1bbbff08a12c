"""The explorer's plain functions, on arrays small enough to know the answer, and one session on a tiny data set."""

import copy
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import jaccard_score, precision_score, recall_score

from dumenet.course.explorer import (
    COLOUR_MAPS,
    ERRORS,
    SIDE,
    Look,
    Session,
    State,
    describe,
    draw_heatmap,
    explorer_figure,
    pixel_metrics,
    position_report,
    report_picture,
    stage_map,
)
from dumenet.errors import DumenetError
from dumenet.score import evaluated, score


@pytest.fixture(scope="module")
def session(outcomes):
    """A network with both memories, one without, and the Gaussian, on two categories of 64 x 64 images."""
    return Session(outcomes)


# --- numbers


@pytest.mark.parametrize("threshold", [-1.0, 0.2, 0.5, 0.9, 2.0])
def test_pixel_metrics_are_sklearns(threshold):
    rng = np.random.default_rng(0)
    heat, mask = rng.random((9, 7)).round(1), rng.random((9, 7)) > 0.7
    marked, truth = (heat >= threshold).ravel(), mask.ravel()
    m = pixel_metrics(heat, mask, threshold)
    assert (m.marked, m.defect) == (marked.sum(), truth.sum())
    assert m[3:] == pytest.approx((recall_score(truth, marked), jaccard_score(truth, marked)))
    assert m.precision == (pytest.approx(precision_score(truth, marked)) if marked.any() else None)


def test_what_is_not_defined_is_none():
    heat, nothing = np.ones((2, 2)), np.zeros((2, 2), bool)
    assert pixel_metrics(heat, nothing, 1) == (4, 0, 0.0, None, 0.0)
    assert pixel_metrics(heat, nothing, 2) == (0, 0, None, None, None)


def look_at(**changes):
    """Two stages of 1 and 2 channels on a 2 x 3 grid, 4 slots, 5 hidden maps."""
    rng = np.random.default_rng(1)
    error = rng.normal(size=(3, 2, 3))
    error[:, 1, 2] = 3, 0, 4
    channel, spatial = rng.dirichlet(np.ones(4), 6), rng.dirichlet(np.ones(4), 5)
    channel[5] = 0.1, 0.2, 0.7, 0.0
    gap = np.zeros((5, 6))
    gap[3, 5] = 1
    return Look(error, {}, channel, spatial, gap, rng.normal(size=(4, 2, 3)), None)._replace(**changes)


STAGES, PLACE = {0: 1, 1: 2}, State("image", "model", row=1, column=2)


def test_a_position_of_the_channel_memory():
    look = look_at()
    r = position_report(look, STAGES, PLACE)
    assert np.allclose(r.channels, [9, 0, 16]) and np.allclose(r.shares, [9 / 25, 16 / 25])
    assert r.slots.tolist() == [2, 1, 0, 3] and np.allclose(r.weights, [0.7, 0.2, 0.1, 0]) and r.count == 4
    assert r.effective == pytest.approx(np.exp(-sum(w * np.log(w) for w in (0.1, 0.2, 0.7))))
    assert np.array_equal(r.where, look.channel_weights[:, 2].reshape(2, 3)) and r.hidden is None


def test_a_position_of_the_spatial_memory():
    look, spatial = look_at(), replace(PLACE, memory="spatial")
    r = position_report(look, STAGES, spatial)
    assert r.hidden == 3 and np.allclose(r.weights, np.sort(look.spatial_weights[3])[::-1])
    assert np.array_equal(r.where, look.patterns[r.slots[0]])
    mean = position_report(look, STAGES, replace(spatial, hidden="mean"))
    assert mean.hidden is None and np.allclose(mean.weights, np.sort(look.spatial_weights.mean(0))[::-1])


def test_a_report_is_drawn_for_each_position_and_without_memory():
    bare = position_report(look_at(channel_weights=None), STAGES, PLACE)
    assert bare.where is None and len(bare.slots) == 0 and bare.shares.sum() == pytest.approx(1)
    reports = [bare, *(position_report(look_at(), STAGES, p) for p in (PLACE, replace(PLACE, row=0), PLACE))]
    none, one, other, same = (report_picture(STAGES, report) for report in reports)
    assert (one != none).any() and (one != other).any() and np.array_equal(one, same)


# --- pictures


def test_heatmap_colours_marks_and_outlines():
    image, heat, half = np.full((20, 20, 3), 100, np.uint8), np.zeros((20, 20)), SIDE // 2
    heat[:, 10:] = 2
    left, right = np.s_[:, : half - 20], np.s_[:, half + 20 :]

    def draw(heat=None, truth=None, **how):
        return draw_heatmap(image, heat, truth, replace(PLACE, **how), (0, 2))

    assert draw().shape == (SIDE, SIDE, 3) and (draw() == 100).all()
    assert np.abs(draw(heat, opacity=0, threshold=9).astype(int) - 100).max() <= 1
    full, marked = draw(heat, opacity=1, threshold=9), draw(heat, opacity=1, threshold=1)
    assert (full[left] <= [1, 1, 5]).all() and (full[right] >= [250, 250, 185]).all()  # the ends of magma
    assert np.array_equal(marked[left], full[left]) and not np.array_equal(marked[right], full[right])
    outlined = draw(truth=heat > 1)
    assert set(np.unique(outlined)) == {0, 100, 255} and (outlined[right] == 100).all()


def test_colour_maps_rise_in_lightness():
    black, heat = np.zeros((8, 64, 3), np.uint8), np.tile(np.linspace(0, 2, 64), (8, 1))
    for name in COLOUR_MAPS:
        ramp = draw_heatmap(black, heat, None, replace(PLACE, opacity=1.0, colour_map=name, threshold=9), (0, 2))
        light = ramp[4].astype(float) @ [0.299, 0.587, 0.114]
        assert (np.diff(light) >= -1.5).all() and light[-1] - light[0] > 120, name


# --- the session


@pytest.mark.parametrize("error", ERRORS)
def test_a_map_of_all_stages_is_that_of_the_evaluation(session, error):
    for name, outcome in session.outcomes.items():
        scores = score(evaluated(outcome.trained, {"evaluation.error": error}), outcome.test)
        for image, expected in list(zip(session.samples, scores.maps))[::5]:
            heat = session.anomaly_map(name, image, error=error) * session.unit(name, image, error=error)
            assert np.allclose(heat, expected, rtol=1e-5, atol=1e-5)


def test_a_stage_is_measured_by_its_norm_whatever_the_error(session):
    image = session.images("bolt")[0]
    norm, spread = (session.anomaly_map("both", image, 1, error) for error in ("norm", "mahalanobis"))
    look, parts = session.look("both", image), []
    assert np.array_equal(norm, spread)
    for stage in session.stage_channels:
        parts.append(stage_map(look.error, session.stage_channels, stage))
    assert np.allclose(sum(p**2 for p in parts), look.lengths["norm"] ** 2, rtol=1e-4)
    units = [session.unit("both", image, stage, "norm") for stage in session.stage_channels]
    assert sum(u**2 for u in units) == pytest.approx(session.unit("both", image, error="norm") ** 2)


def test_one_is_the_threshold_of_the_category_that_is_found(session):
    outcome, image = session.outcomes["both"], session.images("bolt")[0]
    assert image.startswith("bolt/test/hole"), "defects first"
    for category in ("bolt", "felt"):
        scores = replace(outcome.scores, found=[category] * len(session.samples))
        other = Session({"both": replace(outcome, scores=scores)})
        assert other.unit("both", image) == outcome.trained.thresholds[category]
    assert "taken for felt" in describe(other, other.state(image=image))[1]


def test_states_have_defaults_and_words(session):
    state = session.state(category="felt", other="none")
    assert session.samples[state.image].label and session.samples[state.image].category == "felt"
    assert (state.row, state.column) == session.peak("both", state.image)
    lines = describe(session, session.state(other="gaussian"))
    assert len(lines) == 3 and "precision" in lines[1] and "spread" in lines[0]
    assert lines[2].startswith("gaussian") and "no channel memory" in lines[2]
    for values in ({"error": "norm"}, {"stage": 2}):
        assert "L2 norm" in describe(session, session.state(**values))[0]
    normal = session.images("bolt")[-1]
    assert "recall not defined" in describe(session, session.state(image=normal))[1]


def test_it_opens_on_the_defect_that_is_marked_best(session, outcomes):
    def iou(image):
        return pixel_metrics(session.anomaly_map("both", image), session.truth(image), 1).iou

    defects = [name for name, sample in session.samples.items() if sample.label]
    assert session.state().image == session.opening() and iou(session.opening()) == max(map(iou, defects))
    assert session.opening("felt").startswith("felt/test/hole")
    outcome, scores = outcomes["both"], outcomes["both"].scores
    unseen = replace(outcome, scores=replace(scores, image=np.arange(len(defects) * 2.0), maps=None))
    bare = replace(outcome.dataset, test=[replace(s, mask=None) for s in outcome.dataset.test])
    assert Session({"m": replace(unseen, dataset=bare)}).opening("felt") == session.images("felt")[2], (
        "no mask: its score"
    )


def test_the_scale_spans_the_scores_in_sight_and_reaches_1(session):
    state = session.state(other="gaussian")
    maps = [session.anomaly_map(model, state.image) for model in ("both", "gaussian")]
    assert session.scale(state) == (min(m.min() for m in maps), max(1, *(m.max() for m in maps)))
    calm = Session({"both": session.outcomes["both"]})
    calm.anomaly_map = lambda *_: np.array([[0.2, 0.4]])
    assert calm.scale(state.__class__(state.image, "both")) == (0.2, 1.0)


BAD = {
    "image of the explorer": {"image": "bolt/test/hole/999.png"},
    "did you mean 'both'": {"model": "bothh"},
    "Known: magma": {"colour_map": "jet"},
    "error of the explorer": {"error": "l2"},
    "stage of the explorer": {"stage": 9},
    "Unknown category": {"category": "nut"},
    "row of the explorer '4': .*Known: 0, 1, 2, 3": {"row": 4, "column": 0},
    "opacity must lie between 0 and 1": {"opacity": 1.5},
    "threshold must lie": {"threshold": -1},
    "did you mean 'threshold'": {"treshold": 1},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_values_are_one_sentence(session, message):
    with pytest.raises(DumenetError, match=message):
        session.state(**BAD[message])


def test_models_must_be_comparable(outcomes):
    both, plain = outcomes["both"], outcomes["plain"]
    some, silent = replace(plain), copy.copy(plain.method)
    vars(some)["test"] = plain.test.subset(range(6))
    with pytest.raises(DumenetError, match="compare like with like"):
        Session({"all": both, "some": some})
    with pytest.raises(DumenetError, match="one trained model"):
        Session({})
    with pytest.raises(DumenetError, match="'plain' has no threshold"):
        silent.trained = replace(plain.trained, thresholds={})
        Session({"both": both, "plain": replace(plain, method=silent)})


def test_without_masks_there_are_no_pixel_metrics(outcomes):
    whole = outcomes["both"]
    bare = replace(whole.dataset, test=[replace(s, mask=None) for s in whole.dataset.test])
    session = Session({"m": replace(whole, dataset=bare)})
    state = session.state()
    assert session.truth(state.image) is None and "precision" not in " ".join(describe(session, state))


class Ink:
    """Stands in for the picture decoder."""

    def draw(self, features):
        return np.full((len(features), 8, 8, 3), float(features.mean() > 0))


def test_static_twin_with_and_without_decoded_pictures(session):
    plain = explorer_figure(session, other="gaussian", memory="spatial")
    drawn = explorer_figure(Session(session.outcomes, Ink()), other="gaussian", hidden="mean")
    count = lambda fig: len([ax for ax in fig.findobj(lambda a: hasattr(a, "images")) if ax.images])  # noqa: E731
    assert count(drawn) == count(plain) + 3
