"""How good are the scores? Arrays in, numbers out; this module knows no file and no model.

An *image score* is one number per image, larger is more anomalous; an *anomaly map* is one number
per pixel. Labels are 0 normal, 1 anomalous. A metric that is not defined is `None`, never 0 or NaN:
AUROC needs both classes, PRO needs a defect region. No value is flipped: an AUROC of 0.1 stays 0.1.

Protocols: image score and pixel AUROC as in UniAD (You et al., 2022) and DuMeNet; PRO as in
"Uninformed Students" (Bergmann et al., 2020) and "The MVTec AD dataset" (Bergmann et al., 2021).
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage, special

from dumenet.errors import DumenetError, unknown

METRICS = {  # key in the results -> printable title
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "image_f1max": "image F1-max",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pixel_f1max": "pixel F1-max",
    "pro": "PRO",
}
POOLINGS = ("max", "mean", "std", "top1")
WINDOW = 16  # pixels, side of the average pool before the maximum
BLOCK = 256  # images whose normal pixels are sorted at a time


def image_score(maps: np.ndarray, pooling: str = "max") -> np.ndarray:
    """Image scores (n,) float64 from anomaly maps (n, H, W).

    `pooling`: "max", the maximum of a 16 x 16 average pool with stride 1 and no padding (UniAD and
    DuMeNet on MVTec-AD); "mean" (the same papers on CIFAR-10); "std"; "top1", the mean of the
    highest 1 % of the pixels, rounded up.

    >>> maps = np.zeros((1, 32, 32))
    >>> maps[0, :16, :8] = 1.0
    >>> [image_score(maps, pooling).item() for pooling in ("max", "mean", "top1")]
    [0.5, 0.125, 1.0]

    Raises:
        DumenetError: unknown name, a map under 16 pixels, NaN.
    """
    if pooling not in POOLINGS:
        raise unknown("pooling", pooling, POOLINGS)
    for m in maps:
        if m.ndim != 2:
            raise DumenetError(f"Anomaly maps must have shape (n, H, W); one of them has shape {m.shape}.")
        if pooling == "max" and min(m.shape) < WINDOW:
            raise DumenetError(
                f"Pooling 'max' needs maps of at least {WINDOW} x {WINDOW} pixels, not {m.shape}: set another pooling."
            )
    # Map by map, so that maps on disk are never all in memory.
    return np.array([pool(_finite(m).astype(np.float64)[None], pooling)[0] for m in maps], dtype=np.float64)


def pool(maps: Any, pooling: str) -> Any:
    """`image_score` of NumPy or torch maps (n, H, W) alike, unchecked, of their type; exported graphs hold it."""
    torch = not isinstance(maps, np.ndarray)
    if pooling == "mean":
        return maps.mean((1, 2))
    if pooling == "std":
        return ((maps - maps.mean((1, 2))[:, None, None]) ** 2).mean((1, 2)) ** 0.5
    if pooling == "top1":
        count, flat = math.ceil(maps[0].shape[0] * maps[0].shape[1] / 100), maps.reshape(maps.shape[0], -1)
        top = flat.topk(count).values if torch else np.partition(flat, -count, axis=1)[:, -count:]
        return top.mean(1)
    for step in (1, 2, 4, 8):  # sums over 2, 4, 8, 16 rows and columns: no rounding from differences
        maps = maps[:, :-step] + maps[:, step:]
        maps = maps[:, :, :-step] + maps[:, :, step:]
    return (maps.amax((1, 2)) if torch else maps.max((1, 2))) / WINDOW**2  # maps: (n, H - 15, W - 15)


def auroc(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Area under the ROC curve, 0 to 1: P(anomalous scores above normal), a tie counts half.

    `labels` 0/1 and `scores` of one common shape; None when only one class is present.

    >>> auroc([0, 0, 1, 1], [0.1, 0.4, 0.4, 0.9])  # of four pairs three are in order and one is a tie
    0.875
    """
    from sklearn.metrics import roc_auc_score  # here, as below: half a second, and a verdict needs none of it

    labels, scores = _checked(labels, scores)
    return float(roc_auc_score(labels, scores)) if _two_classes(labels) else None


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Sum of precision x gain in recall over all thresholds, 0 to 1; None with one class only."""
    from sklearn.metrics import average_precision_score

    labels, scores = _checked(labels, scores)
    return float(average_precision_score(labels, scores)) if _two_classes(labels) else None


def f1_max(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Largest F1 over all thresholds, 0 to 1; None with one class only.

    The threshold is chosen with the labels, so this is an upper bound of what a deployed detector gets.
    """
    from sklearn.metrics import precision_recall_curve

    labels, scores = _checked(labels, scores)
    if not _two_classes(labels):
        return None
    precision, recall, _ = precision_recall_curve(labels, scores)
    return float((2 * precision * recall / np.maximum(precision + recall, 1e-300)).max())


def pro(masks: Iterable[np.ndarray], maps: Iterable[np.ndarray], fpr_limit: float = 0.3) -> float | None:
    r"""Per-region overlap: the area under PRO(FPR) for FPR up to `fpr_limit`, divided by it; 0 to 1.

    At threshold t, :math:`PRO(t) = \frac{1}{K} \sum_k |\{p \in R_k : a_p \ge t\}| / |R_k|` over all
    K connected regions (8 neighbours) of all masks, small and large alike; FPR is the share of
    normal pixels, of all images, with a score of at least t. Exact: every score is a threshold.

    `masks` (n, H, W) and `maps` (n, H, W), or two iterables of (H, W) arrays. None without a defect
    region or without a normal pixel.

    >>> mask = np.array([[True, False, False, True]])  # two defects of one pixel
    >>> pro([mask], [np.array([[0.9, 0.1, 0.2, 0.8]])]), pro([mask], [np.array([[0.9, 0.1, 0.2, 0.0]])])
    (1.0, 0.5)
    """
    pairs = list(zip(masks, maps, strict=True))
    return _pro_area(_pixel_counts(lambda: pairs), fpr_limit)


class _PixelCounts(NamedTuple):
    """Pixels at or above each of the T distinct scores of the anomalous pixels, highest first.

    Nothing but false positives happens between two such scores. That is all the four pixel metrics
    need, so one sort serves them all. The many normal pixels are sorted by blocks of images, in place, without indices.
    """

    true: np.ndarray  # (T,) anomalous pixels at or above the score
    false: np.ndarray  # (T,) normal pixels at or above
    false_above: np.ndarray  # (T,) normal pixels strictly above
    overlap: np.ndarray  # (T,) PRO at the score
    n_normal: int
    n_anomalous: int


def _pixel_counts(pairs: Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]) -> _PixelCounts:
    """Counts of the masks and maps that `pairs` gives; it is called twice, so that they need not fit into memory."""
    anomalous, weight, n_regions, n_normal = [], [], 0, 0
    for mask, anomaly_map in pairs():
        mask, anomaly_map = np.asarray(mask), _finite(anomaly_map)
        if mask.shape != anomaly_map.shape or mask.ndim != 2:
            raise DumenetError(f"A mask of shape {mask.shape} does not fit a map of shape {anomaly_map.shape}.")
        mask = mask > 0
        n_normal += mask.size - np.count_nonzero(mask)
        if mask.any():
            regions, count = ndimage.label(mask, structure=np.ones((3, 3)))
            region = regions[mask]  # region number of each anomalous pixel
            anomalous.append(anomaly_map[mask])
            weight.append(1.0 / np.bincount(region)[region])
            n_regions += count
    if not n_regions:
        empty = np.zeros(0)
        return _PixelCounts(empty, empty, empty, empty, n_normal, 0)
    scores, level, size = np.unique(np.concatenate(anomalous), return_inverse=True, return_counts=True)
    overlap = np.bincount(level, np.concatenate(weight)) / n_regions  # what each level adds to PRO
    below, up_to = np.zeros(len(scores), np.int64), np.zeros(len(scores), np.int64)
    again = iter(pairs())
    while block := [np.asarray(m)[~(np.asarray(mask) > 0)] for mask, m in itertools.islice(again, BLOCK)]:
        normal = np.concatenate(block)
        normal.sort()
        below += np.searchsorted(normal, scores, side="left")
        up_to += np.searchsorted(normal, scores, side="right")
    return _PixelCounts(
        true=size[::-1].cumsum(),
        false=(n_normal - below)[::-1],
        false_above=(n_normal - up_to)[::-1],
        overlap=overlap[::-1].cumsum(),
        n_normal=n_normal,
        n_anomalous=int(size.sum()),
    )


def _pro_area(counts: _PixelCounts, fpr_limit: float) -> float | None:
    from scipy.integrate import trapezoid

    if not 0 < fpr_limit <= 1:
        raise DumenetError(f"The FPR limit of PRO must lie in (0, 1], not {fpr_limit}.")
    if not counts.n_anomalous or not counts.n_normal:
        return None
    # Two points per level: before it, and at it. A tie of normal and anomalous pixels gives a slope.
    x = np.stack([counts.false_above, counts.false], axis=1).ravel() / counts.n_normal
    y = np.stack([np.append(0.0, counts.overlap[:-1]), counts.overlap], axis=1).ravel()
    x, y = np.concatenate([[0.0], x, [1.0]]), np.concatenate([[0.0], y, [1.0]])
    inside = x <= fpr_limit
    x, y = np.append(x[inside], fpr_limit), np.append(y[inside], np.interp(fpr_limit, x, y))
    return float(trapezoid(y, x) / fpr_limit)


def _pixel_metrics(pairs: Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]) -> dict[str, float | None]:
    """All four pixel metrics from one sort; equal to the functions above on the flattened arrays."""
    c = _pixel_counts(pairs)
    if not c.n_anomalous or not c.n_normal:
        return dict.fromkeys(("pixel_auroc", "pixel_ap", "pixel_f1max", "pro"))
    gain = np.diff(c.true, prepend=0)  # anomalous pixels at each level
    beaten = c.n_normal - (c.false + c.false_above) / 2  # normal pixels below each level, ties half
    return {
        "pixel_auroc": float(gain @ beaten / c.n_anomalous / c.n_normal),
        "pixel_ap": float(gain @ (c.true / (c.true + c.false)) / c.n_anomalous),
        "pixel_f1max": float((2 * c.true / (c.true + c.false + c.n_anomalous)).max()),
        "pro": _pro_area(c, 0.3),
    }


def auroc_interval(
    labels: np.ndarray, scores: np.ndarray, n_bootstrap: int = 1000, seed: int = 0
) -> list[float] | None:
    """95 % interval [low, high] of the AUROC: percentile bootstrap over images within each class.

    It tells what another draw of test images would change, not what another training run would.
    None with one class only or without resamples.
    """
    labels, scores = _checked(labels, scores)
    if not _two_classes(labels) or n_bootstrap < 1:
        return None
    normal, anomalous = np.sort(scores[labels == 0]), np.sort(scores[labels == 1])
    rng = np.random.default_rng(seed)
    # A resample is how often each image was drawn; B resamples of n images: (B, n).
    drawn0 = rng.multinomial(len(normal), np.full(len(normal), 1 / len(normal)), size=n_bootstrap)
    drawn1 = rng.multinomial(len(anomalous), np.full(len(anomalous), 1 / len(anomalous)), size=n_bootstrap)
    below = np.pad(drawn0.cumsum(axis=1), ((0, 0), (1, 0)))  # (B, n0 + 1): drawn among the k lowest
    left, right = (np.searchsorted(normal, anomalous, side=side) for side in ("left", "right"))
    beaten = (below[:, left] + below[:, right]) / 2  # (B, n1), ties half
    areas = (drawn1 * beaten).sum(axis=1) / (len(normal) * len(anomalous))
    return [float(v) for v in np.percentile(areas, [2.5, 97.5])]


def seed_interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean over seeds, and the half-width of its 95 % interval (Student's t); None where it is not defined.

    >>> mean, half = seed_interval([97.0, 98.0, 99.0])
    >>> f"{mean:.1f} ± {half:.1f}"
    '98.0 ± 2.5'
    """
    n = len(values)
    half = float(special.stdtrit(n - 1, 0.975) * np.std(values, ddof=1) / math.sqrt(n)) if n > 1 else None
    return (float(np.mean(values)), half) if n else (None, None)


def evaluate_scores(
    labels: np.ndarray,
    scores: np.ndarray,
    categories: Sequence[str],
    masks: Sequence[np.ndarray] | None = None,
    maps: Sequence[np.ndarray] | None = None,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> dict:
    """Every metric, per category, as the mean over categories, and over all images pooled.

    `labels` (n,) 0/1, `scores` (n,), `categories` (n,) names; `masks` and `maps` are indexed by image:
    (n, H, W) arrays, or sequences that read one (H, W) array at a time; an image whose mask is None is left out of the
    pixel metrics, which are None where no mask is left.

    Returns ``{"per_category": {name: metrics}, "mean": ..., "pooled": metrics}``, where metrics has
    the keys of METRICS and image_auroc_ci, n_normal, n_anomalous. "mean" has the keys of METRICS, and
    under "count" the number of categories that each mean is over. "pooled" is one threshold for all
    categories: the mean hides that scores of two categories may not be comparable.
    """
    labels, scores = _checked(labels, scores)
    categories = np.asarray(categories, dtype=str)
    if masks is not None and maps is None:
        raise DumenetError("Masks without anomaly maps: pass both, or neither.")
    for name, given in (("categories", categories), ("masks", masks), ("maps", maps)):
        if given is not None and len(given) != len(labels):
            raise DumenetError(f"{len(labels)} labels but {len(given)} {name}: pass one for each image.")

    def metrics(index: np.ndarray) -> dict:
        y, s = labels[index], scores[index]
        marked = [i for i in index if masks is not None and masks[i] is not None]
        return {
            "image_auroc": auroc(y, s),
            "image_ap": average_precision(y, s),
            "image_f1max": f1_max(y, s),
            **_pixel_metrics(lambda: ((masks[i], maps[i]) for i in marked)),
            "image_auroc_ci": auroc_interval(y, s, n_bootstrap, seed),
            "n_normal": int((y == 0).sum()),
            "n_anomalous": int((y == 1).sum()),
        }

    per_category = {str(c): metrics(np.flatnonzero(categories == c)) for c in np.unique(categories)}
    mean, count = {}, {}
    for key in METRICS:
        defined = [m[key] for m in per_category.values() if m[key] is not None]
        mean[key], count[key] = (float(np.mean(defined)) if defined else None), len(defined)
    pooled = dict(*per_category.values()) if len(per_category) == 1 else metrics(np.arange(len(labels)))
    return {"per_category": per_category, "mean": {**mean, "count": count}, "pooled": pooled}


def _checked(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flat labels and scores, or a DumenetError."""
    labels, scores = np.asarray(labels), _finite(scores)
    if labels.shape != scores.shape:
        raise DumenetError(f"Labels of shape {labels.shape} do not fit scores of shape {scores.shape}.")
    if not np.isin(labels, (0, 1)).all():
        raise DumenetError("Labels must be 0 (normal) or 1 (anomalous).")
    return labels.ravel().astype(np.int8), scores.ravel()


def _two_classes(labels: np.ndarray) -> bool:
    return 0 < labels.sum(dtype=np.int64) < len(labels)


def _finite(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores)
    if not np.isfinite(scores).all():
        raise DumenetError("Scores contain NaN or infinity: did training diverge? Lower the learning rate.")
    return scores
