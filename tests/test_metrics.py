"""Metrics against scikit-learn, plain loops and values known by hand."""

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from dumenet.errors import DumenetError
from dumenet.metrics import (
    METRICS,
    auroc,
    auroc_interval,
    average_precision,
    evaluate_scores,
    f1_max,
    image_score,
    pro,
)


def toy(seed=0, n=6, size=24, levels=None):
    """Masks with touching corners and several regions, and maps with ties when `levels` is given."""
    rng = np.random.default_rng(seed)
    masks = ndimage.gaussian_filter(rng.normal(size=(n, size, size)), (0, 2, 2)) > 0.2
    masks[0] = False  # a normal image
    masks[1, 3, 3] = masks[1, 4, 4] = True
    maps = rng.normal(size=masks.shape) + 1.2 * masks
    if levels:
        maps = np.round(maps * levels) / levels
    return masks, maps.astype(np.float32)


def plain_pro(masks, maps, limit=0.3):
    """PRO as it is defined: a loop over all thresholds and all regions."""
    regions = []
    for mask, anomaly_map in zip(masks, maps):
        numbered, count = ndimage.label(mask, np.ones((3, 3)))
        regions += [anomaly_map[numbered == k] for k in range(1, count + 1)]
    normal = maps[~masks]
    points = [(0.0, 0.0)]
    for t in np.unique(maps)[::-1]:
        points.append(((normal >= t).mean(), np.mean([(r >= t).mean() for r in regions])))
    area = 0.0
    for (x0, y0), (x1, y1) in zip(points, points[1:]):
        if x0 < limit and x1 > x0:
            end = min(x1, limit)
            y_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0)
            area += (end - x0) * (y0 + y_end) / 2
    return area / limit


# Image scores


def test_max_pooling_equals_a_plain_loop():
    maps = np.random.default_rng(0).normal(size=(3, 20, 31)).astype(np.float32)
    windows = [[m[i : i + 16, j : j + 16].astype(float).mean() for i in range(5) for j in range(16)] for m in maps]
    np.testing.assert_allclose(image_score(maps, "max"), np.max(windows, axis=1), rtol=0, atol=1e-12)


def test_max_pooling_uses_whole_windows_only():
    m = np.zeros((1, 40, 40))
    m[0, 0, 0] = 256.0  # in one window only, at the corner: no padding dilutes or repeats it
    assert image_score(m, "max")[0] == 1.0


def test_other_poolings():
    maps = np.arange(2 * 10 * 30, dtype=float).reshape(2, 10, 30) ** 2
    flat = maps.reshape(2, -1)
    np.testing.assert_allclose(image_score(maps, "mean"), flat.mean(1))
    np.testing.assert_allclose(image_score(maps, "std"), flat.std(1))
    np.testing.assert_allclose(image_score(maps, "top1"), np.sort(flat)[:, -3:].mean(1))


def test_image_score_errors():
    with pytest.raises(DumenetError, match="did you mean 'mean'"):
        image_score(np.zeros((1, 20, 20)), "meen")
    with pytest.raises(DumenetError, match="at least 16 x 16"):
        image_score(np.zeros((1, 14, 14)))
    with pytest.raises(DumenetError, match="shape"):
        image_score(np.zeros((20, 20)))
    with pytest.raises(DumenetError, match="NaN"):
        image_score(np.full((1, 20, 20), np.nan))


# Image metrics


def test_by_hand():
    labels, scores = [0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]
    assert auroc(labels, scores) == 0.75
    assert average_precision(labels, scores) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert f1_max(labels, scores) == pytest.approx(0.8)  # all but 0.1: precision 2/3, recall 1


def test_auroc_zero_is_not_flipped():
    assert auroc([0, 0, 1], [2.0, 3.0, 1.0]) == 0.0


def test_constant_scores_are_chance():
    labels, scores = [0, 1, 0, 1, 0], np.zeros(5)
    assert auroc(labels, scores) == 0.5
    assert average_precision(labels, scores) == pytest.approx(0.4)


@pytest.mark.parametrize("metric", [auroc, average_precision, f1_max, auroc_interval])
def test_one_class_is_not_defined(metric):
    assert metric(np.zeros(4), np.arange(4.0)) is None
    assert metric(np.ones(4), np.arange(4.0)) is None


@pytest.mark.parametrize("metric", [auroc, average_precision, f1_max, auroc_interval])
def test_bad_input_is_refused(metric):
    for bad in (np.nan, np.inf):
        with pytest.raises(DumenetError, match="NaN or infinity"):
            metric([0, 1], [bad, 1.0])
    with pytest.raises(DumenetError, match="shape"):
        metric([0, 1, 1], [0.0, 1.0])
    with pytest.raises(DumenetError, match="0 .normal. or 1"):
        metric([0, 2], [0.0, 1.0])


# PRO


@pytest.mark.parametrize("levels", [None, 2, 1])
@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_pro_equals_a_plain_loop(levels, limit):
    masks, maps = toy(levels=levels)
    assert pro(masks, maps, limit) == pytest.approx(plain_pro(masks, maps, limit), abs=1e-9)


def test_pro_of_perfect_inverted_and_constant_maps():
    masks, _ = toy()
    assert pro(masks, masks.astype(float)) == pytest.approx(1.0, abs=1e-12)
    assert pro(masks, 1.0 - masks) == 0.0
    # A constant map has two thresholds, none and all: the diagonal, 0.3 / 2.
    assert pro(masks, np.zeros(masks.shape)) == pytest.approx(0.15)


def test_pro_weighs_regions_equally():
    masks = np.zeros((1, 30, 30), bool)
    masks[0, 0, 0] = True  # 1 pixel, found
    masks[0, 10:20, 10:20] = True  # 100 pixels, missed: below every normal pixel
    maps = np.where(masks, -1.0, 0.0)
    maps[0, 0, 0] = 1.0
    assert pro(masks, maps) == pytest.approx(0.5)


def test_pro_regions_join_over_corners():
    masks = np.zeros((1, 20, 20), bool)
    masks[0, 5, 5] = masks[0, 6, 6] = masks[0, 12, 12] = True  # two regions, not three
    maps = np.where(masks, -1.0, 0.0)
    maps[0, 5, 5] = 1.0  # half of the first region
    assert pro(masks, maps) == pytest.approx(0.25)


def test_pro_not_defined_and_errors():
    none, ones = np.zeros((2, 20, 20), bool), np.ones((2, 20, 20), bool)
    maps = np.random.default_rng(0).normal(size=(2, 20, 20))
    assert pro(none, maps) is None
    assert pro(ones, maps) is None
    assert pro([], []) is None
    with pytest.raises(DumenetError, match="does not fit"):
        pro(none[:, :10], maps)
    with pytest.raises(DumenetError, match="NaN"):
        pro(none, maps * np.nan)
    with pytest.raises(DumenetError, match="limit"):
        pro(none, maps, fpr_limit=0)


# All of them


def evaluate(masks, maps, categories, order=slice(None), **kwargs):
    labels, scores = masks.any(axis=(1, 2)).astype(int), image_score(maps)
    names = np.array(categories)[order]
    return evaluate_scores(labels[order], scores[order], names, masks[order], maps[order], **kwargs)


@pytest.mark.parametrize("levels", [None, 2])
def test_shared_sort_equals_scikit_learn(levels):
    masks, maps = toy(n=8, levels=levels)
    found = evaluate(masks, maps, ["a"] * 8)["pooled"]
    y, s = masks.ravel(), maps.ravel()
    precision, recall, _ = precision_recall_curve(y, s)
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(y, s), abs=1e-9)
    assert found["pixel_ap"] == pytest.approx(average_precision_score(y, s), abs=1e-9)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    assert found["pixel_f1max"] == pytest.approx(f1.max(), abs=1e-9)
    assert found["pixel_f1max"] == pytest.approx(f1_max(y, s), abs=1e-9)
    assert found["pro"] == pytest.approx(plain_pro(masks, maps), abs=1e-9)
    labels = masks.any(axis=(1, 2))
    assert found["image_auroc"] == pytest.approx(roc_auc_score(labels, image_score(maps)))


def two_categories():
    """Images 0-5 "a", 6-11 "b"; each has three normal ones, and all scores of b are shifted by 5."""
    masks, maps = toy(n=12)
    masks[[1, 2, 6, 7, 8]] = False
    maps[6:] += 5
    return masks, maps, ["a"] * 6 + ["b"] * 6


def test_categories_mean_and_pooled():
    masks, maps, names = two_categories()
    found = evaluate(masks, maps, names)
    a, b = found["per_category"]["a"], found["per_category"]["b"]
    assert (a["n_normal"], a["n_anomalous"], b["n_normal"], b["n_anomalous"]) == (3, 3, 3, 3)
    assert b["pixel_auroc"] == pytest.approx(roc_auc_score(masks[6:].ravel(), maps[6:].ravel()))
    for key in METRICS:
        assert found["mean"][key] == pytest.approx((a[key] + b[key]) / 2)
        assert found["mean"]["count"][key] == 2
    # The shift is invisible inside each category, and harms the common threshold.
    assert found["pooled"]["pixel_auroc"] == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()))
    maps[6:] -= 5
    unshifted = evaluate(masks, maps, names)
    assert unshifted["mean"]["pro"] == pytest.approx(found["mean"]["pro"], abs=1e-4)
    assert unshifted["pooled"]["pro"] > found["pooled"]["pro"] + 0.1


def numbers(found):
    """The result as one flat dictionary, for pytest.approx."""
    flat = {("mean", k): v for k, v in found["mean"].items() if k != "count"}
    for name, metrics in {**found["per_category"], "pooled": found["pooled"]}.items():
        flat.update({(name, k): v for k, v in metrics.items() if k != "image_auroc_ci"})
        flat.update({(name, "ci", i): v for i, v in enumerate(metrics["image_auroc_ci"])})
    return flat


def test_order_of_images_changes_nothing():
    masks, maps, names = two_categories()
    order = np.random.default_rng(1).permutation(12)
    shuffled = numbers(evaluate(masks, maps, names, order=order))
    assert shuffled == pytest.approx(numbers(evaluate(masks, maps, names)), abs=1e-12)


def test_monotone_change_of_scores_changes_nothing():
    masks, maps, names = two_categories()
    labels, maps = masks.any(axis=(1, 2)).astype(int), maps.astype(np.float64)
    scores = maps.max(axis=(1, 2))  # the maximum commutes with a monotone map, the average pool does not
    before = evaluate_scores(labels, scores, names, masks, maps)
    after = evaluate_scores(labels, np.exp(scores), names, masks, np.exp(maps))
    assert numbers(after) == pytest.approx(numbers(before), abs=1e-12)


def test_category_without_anomalies_and_without_masks():
    masks, maps, names = two_categories()
    masks[6:] = False
    found = evaluate(masks, maps, names)
    b = found["per_category"]["b"]
    assert all(b[key] is None for key in (*METRICS, "image_auroc_ci"))
    assert found["mean"]["pro"] == found["per_category"]["a"]["pro"]
    assert set(found["mean"]["count"].values()) == {1}
    no_masks = evaluate_scores([0, 1, 1, 0], [0.1, 0.2, 0.3, 0.4], ["c"] * 4)
    assert no_masks["pooled"]["image_auroc"] == 0.5
    assert no_masks["mean"]["pixel_auroc"] is None and no_masks["mean"]["count"]["pixel_auroc"] == 0


def test_memory_map_and_list_of_maps(tmp_path):
    masks, maps, names = two_categories()
    expected = evaluate(masks, maps, names)
    np.save(tmp_path / "maps.npy", maps)
    mapped = np.load(tmp_path / "maps.npy", mmap_mode="r")
    labels, scores = masks.any(axis=(1, 2)), image_score(mapped)
    assert evaluate_scores(labels, scores, names, list(masks), mapped) == expected
    assert evaluate_scores(labels, scores, names, masks.astype(np.uint8) * 255, list(maps)) == expected


def test_blocks_of_images_change_nothing(monkeypatch):
    masks, maps, names = two_categories()
    maps = np.round(maps, 1)  # with ties across blocks
    whole = evaluate(masks, maps, names)
    monkeypatch.setattr("dumenet.metrics.BLOCK", 5)
    assert evaluate(masks, maps, names) == whole


def test_evaluate_errors():
    with pytest.raises(DumenetError, match="2 labels but 3 categories"):
        evaluate_scores([0, 1], [0.0, 1.0], ["a", "b", "c"])
    with pytest.raises(DumenetError, match="Masks without"):
        evaluate_scores([0, 1], [0.0, 1.0], ["a", "a"], masks=np.zeros((2, 4, 4)))


# The interval


def test_interval_contains_the_estimate_and_is_reproducible():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [30, 50])
    scores = np.round(rng.normal(size=80) + labels, 1)  # with ties
    low, high = auroc_interval(labels, scores, seed=3)
    assert low < auroc(labels, scores) < high
    assert auroc_interval(labels, scores, seed=3) == [low, high]
    assert auroc_interval(labels, scores, seed=4) != [low, high]
    assert auroc_interval(labels, scores, n_bootstrap=0) is None
    assert auroc_interval([0, 0, 1, 1], [1.0, 2.0, 3.0, 4.0]) == [1.0, 1.0]


def test_interval_equals_a_plain_bootstrap():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [30, 50])
    scores = np.round(rng.normal(size=80) + labels)  # many ties
    draws = []
    for _ in range(3000):
        s = np.concatenate([rng.choice(scores[:30], 30), rng.choice(scores[30:], 50)])
        draws.append((s[30:, None] > s[:30]).mean() + (s[30:, None] == s[:30]).mean() / 2)
    expected = np.percentile(draws, [2.5, 97.5])
    np.testing.assert_allclose(auroc_interval(labels, scores, 3000), expected, atol=0.01)


def test_of_one_category_the_pooled_numbers_are_its_own_and_those_of_the_same_images_in_two():
    rng = np.random.default_rng(0)
    labels, scores, maps = np.tile([0, 1], 4), rng.random(8), rng.random((8, 20, 20))
    masks = np.zeros((8, 20, 20), bool)
    masks[1::2, 3:9, 3:9] = True
    one, two = (
        evaluate_scores(labels, scores, list(names), masks, maps, n_bootstrap=20) for names in ("aaaaaaaa", "aaaabbbb")
    )
    assert one["pooled"] == one["per_category"]["a"] == two["pooled"]
