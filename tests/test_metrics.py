"""Metrics against scikit-learn, plain loops and values known by hand."""

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from dumenet.errors import DumenetError
from dumenet.metrics import METRICS, auroc, auroc_interval, average_precision, evaluate_scores, f1_max, image_score, pro


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
    maps[0, 0, 0] = 256.0  # at the corner: no padding dilutes or repeats it
    windows = [[m[i : i + 16, j : j + 16].astype(float).mean() for i in range(5) for j in range(16)] for m in maps]
    np.testing.assert_allclose(image_score(maps, "max"), np.max(windows, axis=1), rtol=0, atol=1e-12)


def test_other_poolings():
    maps = np.arange(2 * 10 * 30, dtype=float).reshape(2, 10, 30) ** 2
    flat = maps.reshape(2, -1)
    np.testing.assert_allclose(image_score(maps, "mean"), flat.mean(1))
    np.testing.assert_allclose(image_score(maps, "std"), flat.std(1))
    np.testing.assert_allclose(image_score(maps, "top1"), np.sort(flat)[:, -3:].mean(1))


# Image metrics


def test_by_hand():
    labels, scores = [0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]
    assert auroc(labels, scores) == 0.75
    assert average_precision(labels, scores) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert f1_max(labels, scores) == pytest.approx(0.8)  # all but 0.1: precision 2/3, recall 1


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
    assert pro([], []) is None


def test_pro_weighs_regions_equally_and_joins_them_over_corners():
    masks = np.zeros((1, 30, 30), bool)
    masks[0, 0, 0] = True  # 1 pixel, found
    masks[0, 10:20, 10:20] = True  # 100 pixels, missed: below every normal pixel
    maps = np.where(masks, -1.0, 0.0)
    maps[0, 0, 0] = 1.0
    assert pro(masks, maps) == pytest.approx(0.5)
    masks[0, 10:20, 10:20] = False
    masks[0, 1, 1] = masks[0, 12, 12] = True  # two regions, not three
    maps = np.where(masks, -1.0, 0.0)
    maps[0, 0, 0] = 1.0  # half of the first region
    assert pro(masks, maps) == pytest.approx(0.25)


# What is refused

NORMAL, MAPS = np.zeros((2, 20, 20), bool), np.random.default_rng(0).normal(size=(2, 20, 20))
BAD = [
    ("did you mean 'mean'", lambda: image_score(MAPS, "meen")),
    ("at least 16 x 16", lambda: image_score(MAPS[:, :14, :14])),
    ("shape", lambda: image_score(MAPS[0])),
    ("NaN", lambda: image_score(MAPS * np.nan)),
    ("does not fit", lambda: pro(NORMAL[:, :10], MAPS)),
    ("NaN", lambda: pro(NORMAL, MAPS * np.nan)),
    ("limit", lambda: pro(NORMAL, MAPS, fpr_limit=0)),
    ("2 labels but 3 categories", lambda: evaluate_scores([0, 1], [0.0, 1.0], ["a", "b", "c"])),
    ("Masks without", lambda: evaluate_scores([0, 1], [0.0, 1.0], ["a", "a"], masks=NORMAL)),
    ("NaN or infinity", lambda: auroc([0, 1], [np.inf, 1.0])),
    ("0 .normal. or 1", lambda: auroc([0, 2], [0.0, 1.0])),
]
for metric in (auroc, average_precision, f1_max, auroc_interval):
    BAD.append(("shape", lambda metric=metric: metric([0, 1, 1], [0.0, 1.0])))


@pytest.mark.parametrize(("says", "call"), BAD)
def test_bad_input_is_refused(says, call):
    with pytest.raises(DumenetError, match=says):
        call()


# All of them


def evaluate(masks, maps, categories):
    return evaluate_scores(masks.any(axis=(1, 2)).astype(int), image_score(maps), categories, masks, maps)


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
    one = evaluate(masks, maps, ["a"] * 12)
    assert one["pooled"] == one["per_category"]["a"] == found["pooled"]
    maps[6:] -= 5
    unshifted = evaluate(masks, maps, names)
    assert unshifted["mean"]["pro"] == pytest.approx(found["mean"]["pro"], abs=1e-4)
    assert unshifted["pooled"]["pro"] > found["pooled"]["pro"] + 0.1


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


def test_numbers_do_not_depend_on_how_maps_are_held_or_cut_into_blocks(tmp_path, monkeypatch):
    masks, maps, names = two_categories()
    maps = np.round(maps, 1)  # with ties across blocks
    expected = evaluate(masks, maps, names)
    np.save(tmp_path / "maps.npy", maps)
    mapped = np.load(tmp_path / "maps.npy", mmap_mode="r")
    labels, scores = masks.any(axis=(1, 2)), image_score(mapped)
    assert evaluate_scores(labels, scores, names, list(masks), mapped) == expected
    assert evaluate_scores(labels, scores, names, masks.astype(np.uint8) * 255, list(maps)) == expected
    monkeypatch.setattr("dumenet.metrics.BLOCK", 5)
    assert evaluate(masks, maps, names) == expected


# The interval


def test_interval_is_reproducible():
    rng = np.random.default_rng(0)
    labels, scores = np.repeat([0, 1], [30, 50]), rng.normal(size=80)
    assert auroc_interval(labels, scores, seed=3) == auroc_interval(labels, scores, seed=3)
    assert auroc_interval(labels, scores, seed=4) != auroc_interval(labels, scores, seed=3)
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
