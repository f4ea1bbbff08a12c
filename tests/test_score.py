"""From errors to scores: the length of an error by both measures, image scores, and thresholds that hold what they
promise.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from dumenet.checkpoint import Normal
from dumenet.config import EvalConfig
from dumenet.errors import DumenetError
from dumenet.metrics import POOLINGS, image_score, pool
from dumenet.models import fit_spread
from dumenet.models.spread import RANK
from dumenet.score import Scores, calibrate, evaluated, lengths, of_photographs, score, thresholds, upsample
from dumenet.train import train

STAGES = (3, 5)


@pytest.fixture
def trained(tiny, make_features):
    """The tiny model, calibrated on twelve images of which it was trained on eight."""

    def make(**settings):
        trained = train(tiny(**settings), make_features().subset(range(8)), STAGES, progress=False)
        calibrate(trained, make_features().subset(range(8)), make_features().subset(range(8, 12)))
        return trained

    return make


def errors(n, channels=6, grid=3, seed=0):
    """Errors with another covariance at each position."""
    rng = torch.Generator().manual_seed(seed)
    mixing = torch.randn(grid**2, channels, channels, generator=torch.Generator().manual_seed(99))
    rows = torch.randn(n, grid**2, 1, channels, generator=rng) @ mixing  # (n, N, 1, C)
    return rows.squeeze(2).transpose(1, 2).unflatten(2, (grid, grid))


def matrices(e):
    """Sigma of the module's formula, (N, C, C), in double precision."""
    rows = e.double().flatten(2).permute(2, 0, 1)  # (N, n, C)
    own = rows.transpose(1, 2) @ rows / rows.shape[1]
    return (own + own.mean(0)) / 2


@pytest.mark.parametrize(("n", "channels"), [(50, 6), (12, 30), (12, 40)])  # few go another way; of 40 RANK are kept
def test_the_length_is_the_mahalanobis_length_under_the_spread(n, channels):
    normal, new = errors(n, channels), errors(4, channels, seed=1)
    spread, _ = fit_spread(normal, torch.zeros(n, channels), ["a"] * n)
    rows = new.double().flatten(2).permute(2, 0, 1)  # (N, 4, C)
    expected = torch.einsum("pnc,pcd,pnd->np", rows, torch.linalg.inv(matrices(normal)), rows).sqrt()
    found = spread(new, torch.zeros(4, dtype=torch.long)).flatten(1)
    assert torch.allclose(found.double(), expected, rtol=2e-3)  # factors are rounded to float16
    assert not torch.allclose(new.norm(dim=1).flatten(1) / channels**0.5, found, rtol=0.2)


def test_directions_that_are_not_kept_have_their_mean_variance():
    normal, new = errors(150, 48), errors(4, 48, seed=1).double()
    spread, _ = fit_spread(normal, torch.zeros(150, 48), ["a"] * 150)
    moments = matrices(normal) * 2
    average = moments.mean(0) / 2  # of own + average, the average of which is twice as much
    values, vectors = torch.linalg.eigh(average)
    white = (vectors / values.sqrt()) @ vectors.T
    variances, directions = torch.linalg.eigh(white @ (moments - average) @ white)  # of a position's own, rising
    wide = (variances + 1) / 2
    wide[:, :-RANK] = wide[:, :-RANK].mean(1, keepdim=True)
    along = (new.flatten(2).permute(2, 0, 1) @ white) @ directions  # (N, 4, C)
    expected = (along.square() / wide.unsqueeze(1)).sum(-1).sqrt().T
    assert torch.allclose(
        spread(new.float(), torch.zeros(4, dtype=torch.long)).flatten(1).double(), expected, rtol=1e-3
    )


def test_each_category_has_a_spread_of_its_own():
    normal = torch.cat([errors(20), 10 * errors(20, seed=5)])
    spread, _ = fit_spread(normal, torch.zeros(40, 6), ["a"] * 20 + ["b"] * 20)
    new, apart = errors(2, seed=1), torch.tensor([0, 1])
    both = spread(torch.cat([new[:1], new[:1]]), apart)
    assert spread.categories == ("a", "b") and (both[0] / both[1]).median() == pytest.approx(10, rel=0.5)


@pytest.mark.parametrize(("n", "channels", "change"), [
    (30, 6, lambda e: e), (12, 30, lambda e: e),
    (12, 30, lambda e: e - e.mean(0)),  # of a Gaussian: they span a direction less
    (12, 30, lambda e: torch.cat([e[:1], e[:11]])),  # the same image twice
])  # fmt: skip
def test_leave_one_out_lengths_are_those_of_a_fit_without_the_image(n, channels, change):
    """But for the average over positions, which the closed form keeps."""
    normal = change(errors(n, channels))
    _, found = fit_spread(normal, torch.zeros(n, channels), ["a"] * n)
    for i in (0, 7):
        rest = torch.cat([normal[:i], normal[i + 1 :]])
        rows = rest.double().flatten(2).permute(2, 0, 1)
        own, everywhere = rows.transpose(1, 2) @ rows / (n - 1), normal.double().flatten(2).permute(2, 0, 1)
        average = (everywhere.transpose(1, 2) @ everywhere / n).mean(0)
        e = normal[i].double().flatten(1).T  # (N, C)
        expected = torch.einsum("pc,pcd,pd->p", e, torch.linalg.inv((own + average) / 2), e).sqrt()
        assert torch.allclose(found[i].flatten().double(), expected, rtol=1e-3)


@pytest.mark.parametrize("normal", [errors(1, 40), torch.zeros(5, 40, 3, 3)])
def test_images_that_are_few_or_all_alike_give_a_spread_all_the_same(normal):
    n = len(normal)
    spread, found = fit_spread(normal, torch.zeros(n, 40), ["a"] * n)
    length = spread(errors(3, channels=40, seed=1), torch.zeros(3, dtype=torch.long))
    assert torch.isfinite(length).all() and (length > 0).all() and torch.isfinite(found).all()


def test_errors_that_are_not_finite_are_refused():
    with pytest.raises(DumenetError, match="not finite: did training diverge"):
        fit_spread(torch.full((3, 6, 3, 3), torch.nan), torch.zeros(3, 6), ["a"] * 3)


def test_the_category_is_that_of_the_nearest_mean(trained, make_features):
    made = trained()
    far = {"a": -3.0, "b": 3.0}
    made.spread.centres.copy_(torch.tensor([[far[c]] * 8 for c in made.spread.categories]))
    target = torch.stack([torch.full((8, 4, 4), v) for v in (-1.0, 2.0, 9.0)])
    assert made.spread.find(target).tolist() == [0, 1, 1]


@pytest.mark.parametrize(("error", "align"), [("norm", "bilinear"), ("mahalanobis", "area")])
def test_scores_are_pooled_upsampled_lengths(trained, make_features, error, align):
    made = trained(evaluation__batch_size=4, evaluation__error=error, features__align=align)
    test = make_features(10, seed=5)
    scores = score(made, test)
    with torch.no_grad():
        result = made.model(next(test.batches(10)))
        grids, found = lengths(made, result)
    assert scores.found == [made.spread.categories[k] for k in found.tolist()]
    assert torch.equal(grids, result.anomaly_map) == (error == "norm")
    maps = upsample(grids, 64, align).numpy()
    assert scores.maps.shape == (10, 64, 64) and np.allclose(scores.maps, maps, atol=1e-4)
    assert np.allclose(scores.image, image_score(scores.maps, "max"))
    alone = score(made, test, keep_maps=False)
    assert alone.maps is None and np.array_equal(alone.image, scores.image)
    given = lengths(made, result, torch.tensor([1] * 10))[1]
    assert given.tolist() == [1] * 10


def test_without_a_spread_only_the_norm_is_measured(trained, make_features):
    made = trained()
    made.spread = made.normal = None
    with pytest.raises(DumenetError, match="^This checkpoint holds no spread.*evaluation.error=norm.$"):
        score(made, make_features())
    assert score(evaluated(made, {"evaluation.error": "norm"}), make_features()).found is None


@pytest.mark.parametrize("pooling", POOLINGS)
def test_torch_and_numpy_pool_alike(pooling):
    maps = np.random.default_rng(0).random((3, 20, 24), dtype=np.float32)
    assert np.allclose(pool(torch.tensor(maps), pooling).numpy(), image_score(maps, pooling), rtol=1e-5)


def test_thresholds_hold_what_they_promise():
    """Of many new normal images as many exceed them as the quantile says, for few images too, with and without
    overfitting.
    """
    rng = np.random.default_rng(0)
    for n, held, gain in ((5, 1, 0.0), (20, 2, 0.0), (50, 5, 0.3), (200, 20, 0.3)):
        above = []
        for _ in range(400):
            logs = rng.normal(1, 0.2, n + 1)
            known, new = logs[:-1].copy(), logs[-1]
            known[held:] -= gain  # what the network was trained on scores lower
            normal = Normal(["a"] * n, [i < held for i in range(n)], {"norm max": np.exp(known).tolist()})
            above.append(np.exp(new) > thresholds(normal, EvalConfig(error="norm", quantile=0.9))["a"])
        assert 0.01 < np.mean(above) < 0.15, (n, np.mean(above))


def test_normal_scores_are_those_of_an_evaluation_and_say_what_was_held_out(trained, make_features):
    made = trained()
    assert made.normal.held == [False] * 8 + [True] * 4
    for pooling in ("max", "mean"):
        norm = evaluated(made, {"evaluation.error": "norm", "evaluation.pooling": pooling})
        assert np.allclose(made.normal.scores[f"norm {pooling}"], score(norm, make_features()).image, rtol=1e-4)


def test_a_photograph_has_the_score_and_the_most_frequent_category_of_its_tiles():
    whole = of_photographs(Scores(np.array([1.0, 3, 2, 5, 4, 6]), None, [*"abbaab"]), (1, 3))
    assert whole.image.tolist() == [3, 6] and whole.found == ["b", "a"]


def test_thresholds_follow_error_pooling_and_quantile(trained):
    made = trained()
    assert set(made.thresholds) == {"a", "b", "all"}
    higher = evaluated(made, {"evaluation.quantile": 0.999}).thresholds
    assert all(higher[k] > made.thresholds[k] for k in higher)
    for change in ({"evaluation.error": "norm"}, {"evaluation.pooling": "mean"}):
        assert evaluated(made, change).thresholds["all"] != made.thresholds["all"]
    alone = Normal(["a"], [False], {"norm max": [1.0]})
    assert thresholds(alone, EvalConfig(error="norm")) == {}  # a single image says nothing of others


def test_a_category_with_one_image_has_no_threshold_and_spoils_no_other(trained, make_features):
    made, alone = trained(), make_features(13, seed=3)
    alone.samples[12] = replace(alone.samples[12], category="c")
    calibrate(made, alone, None)
    assert set(made.thresholds) == {"a", "b", "all"}
    assert made.thresholds["all"] < 3 * max(made.thresholds["a"], made.thresholds["b"])
    assert set(evaluated(made, {"evaluation.error": "norm"}).thresholds) == {"a", "b", "all"}


def test_the_bound_of_held_out_images_alone_is_the_textbooks():
    logs = np.random.default_rng(0).normal(size=9)
    found = thresholds(Normal(["a"] * 9, [True] * 9, {"norm max": np.exp(logs).tolist()}), EvalConfig(error="norm"))
    expected = logs.mean() + stats.t.ppf(0.99, 8) * logs.std(ddof=1) * (1 + 1 / 9) ** 0.5
    assert np.log(found["a"]) == pytest.approx(expected)


@pytest.mark.parametrize("gain", [0.5, -0.5])  # what was held out scores higher, or lower, which moves nothing
def test_the_bound_of_images_some_of_which_were_held_out(gain):
    logs, held = np.random.default_rng(0).normal(size=9), np.arange(9) < 3
    logs[held] += gain
    found = thresholds(Normal(["a"] * 9, held.tolist(), {"norm max": np.exp(logs).tolist()}), EvalConfig(error="norm"))
    logs[~held] += max(0, logs[held].mean() - logs[~held].mean())
    expected = logs.mean() + stats.t.ppf(0.99, 8) * logs.std(ddof=1) * (1 + 1 / 9 + 1 / 3) ** 0.5
    assert np.log(found["a"]) == pytest.approx(expected)


def test_a_pooling_that_the_images_are_too_small_for_gets_a_sentence():
    small = Normal(["a"] * 3, [False] * 3, {"norm mean": [1.0, 2.0, 3.0]})
    with pytest.raises(DumenetError, match="max needs images of 16 x 16 pixels or more"):
        thresholds(small, EvalConfig(error="norm", pooling="max"))
