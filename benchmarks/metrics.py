"""Seconds of all pixel metrics of 83 images of 224 x 224 (MVTec-AD's bottle has as many), beside the common way to compute PRO.

    python benchmarks/metrics.py             # writes data/results/bench-metrics.json and its section of benchmarks/RESULTS.md
    python benchmarks/metrics.py --quick     # a try on few images: prints, writes nothing

The baseline is the loop of many repositories (RD4AD's `compute_pro`, say): 200 thresholds between the least and the largest score,
and for each of them every image, whose mask scikit-image labels anew, and every region, whose pixels are looked up. Beside it stand
the same loop on SciPy's faster labels, the same with the labels kept, and the loop together with scikit-learn's AUROC, AP and F1-max
of all pixels, which is what ours computes: pixel AUROC, AP, F1-max and PRO, from one sort, without thresholds. All are given bool masks.
The difference is also held against the exact integral, a threshold at every score, on a part small enough for that.
"""

import argparse
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterator

import numpy as np
from report import publish, where
from scipy import ndimage
from skimage import measure
from sklearn.metrics import auc

from dumenet.metrics import auroc, average_precision, evaluate_scores, f1_max, pro

NAME, TITLE = "bench-metrics", "Pixel metrics"
LIMIT = 0.3  # largest false positive rate of PRO


def scene(images: int, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Masks with one to three regions on three images of four, and smooth maps that find them more or less."""
    rng = np.random.default_rng(seed)
    masks, maps = np.zeros((images, size, size), bool), np.empty((images, size, size), np.float32)
    for i in range(images):
        for _ in range(rng.integers(1, 4) if i % 4 else 0):
            y, x, h, w = (*rng.integers(0, size - 20, 2), *rng.integers(4, 20, 2))
            masks[i, y : y + h, x : x + w] = True
        noise = ndimage.gaussian_filter(rng.normal(size=(size, size)), 8)
        maps[i] = noise / noise.std() + 2 * ndimage.gaussian_filter(masks[i].astype(float), 6) / 0.5
    return masks, maps


def anew_by_skimage(mask: np.ndarray) -> Iterator[tuple]:
    """Index of the pixels of each region, as published."""
    for region in measure.regionprops(measure.label(mask)):
        yield region.coords[:, 0], region.coords[:, 1]


def anew_by_scipy(mask: np.ndarray) -> Iterator[np.ndarray]:
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    for region in range(1, count + 1):
        yield labels == region


def common_pro(masks: np.ndarray, maps: np.ndarray, thresholds: np.ndarray, regions_of: Callable | None) -> float:
    """PRO by loops over thresholds, images and regions; regions found anew for each threshold, or once (None)."""
    kept = [list(anew_by_scipy(mask)) for mask in masks]
    normal, rates, overlaps = (~masks).sum(), [], []
    for threshold in thresholds:
        above, found = maps >= threshold, []
        for image, mask, regions in zip(above, masks, kept):
            for inside in regions_of(mask) if regions_of else regions:
                found.append(image[inside].mean())
        rates.append((above & ~masks).sum() / normal)
        overlaps.append(np.mean(found))
    x, y = np.array([0.0, *rates]), np.array([0.0, *overlaps])
    inside = x <= LIMIT
    x, y = np.append(x[inside], LIMIT), np.append(y[inside], np.interp(LIMIT, x, y))
    return auc(x, y) / LIMIT


def by_sklearn(masks: np.ndarray, maps: np.ndarray) -> tuple[float, float, float]:
    """Pixel AUROC, AP and F1-max of all pixels together."""
    labels, scores = masks.ravel(), maps.ravel()
    return auroc(labels, scores), average_precision(labels, scores), f1_max(labels, scores)


def timed(job, rounds: int) -> tuple[float, object]:
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        result = job()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), result


def said(ratio: float) -> str:
    return f"{'met' if ratio >= 100 else 'missed'}, {ratio:.0f},"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=83)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5, help="of ours; the loop runs once")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    images, size = (6, 64) if options.quick else (options.images, options.size)
    masks, maps = scene(images, size)
    labels, scores = masks.any((1, 2)).astype(int), maps.max((1, 2))
    one = np.full(images, "one")
    ours, metrics = timed(
        lambda: evaluate_scores(labels, scores, one, masks, maps, n_bootstrap=0)["per_category"]["one"], options.rounds
    )
    thresholds = np.linspace(maps.max(), maps.min(), 200)
    loop, rough = timed(lambda: common_pro(masks, maps, thresholds, anew_by_skimage), 1)
    faster, _ = timed(lambda: common_pro(masks, maps, thresholds, anew_by_scipy), 1)
    kept, _ = timed(lambda: common_pro(masks, maps, thresholds, None), 1)
    pixels, same = timed(lambda: by_sklearn(masks, maps), 1)
    assert np.allclose(same, [metrics[f"pixel_{k}"] for k in ("auroc", "ap", "f1max")]), (
        "scikit-learn's numbers are others"
    )
    part_masks, part_maps = scene(4, 48, seed=1)
    exact = common_pro(part_masks, part_maps, np.sort(np.unique(part_maps))[::-1], None)
    gap = abs(pro(part_masks, part_maps) - exact)
    tracemalloc.start()
    evaluate_scores(labels, scores, one, masks, maps, n_bootstrap=0)
    peak = tracemalloc.get_traced_memory()[1] / maps.size
    tracemalloc.stop()
    ways = {
        "the published loop, 200 thresholds, scikit-image, PRO alone (baseline)": loop, "the same loop, SciPy's labels": faster,
        "the same, each mask labelled once": kept, "the published loop, and scikit-learn's AUROC, AP and F1-max": loop + pixels,
    }  # fmt: skip
    rows = [f"| {way} | {seconds:.2f} | {loop / seconds:.1f} | {rough:.4f} |" for way, seconds in ways.items()]
    rows += [f"| ours: pixel AUROC, AP, F1-max and PRO | {ours:.3f} | {loop / ours:.0f} | {metrics['pro']:.4f} |"]
    text = [
        f"`python benchmarks/metrics.py --rounds {options.rounds}`, {images} images of {size} x {size}, median of {options.rounds} rounds, the loop once; {where(NAME)}",
        "", "| way | seconds | ratio to baseline | PRO |", "|---|---|---|---|", *rows, "",
        f"Against a threshold at every score, on 4 images of 48 x 48, PRO differs by {gap:.1e}. Peak memory {peak:.0f} bytes a pixel. "
        f"Aims: under 2 s ({'met' if ours < 2 else 'missed'}), 100 times the loop ({said(loop / ours)} against the loop and its PRO alone; "
        f"{said((loop + pixels) / ours)} against the same four numbers by the loop and scikit-learn), 1e-4 of the exact value ({'met' if gap <= 1e-4 else 'missed'}).",
    ]  # fmt: skip
    record = {"images": images, "size": size, "seconds": ways | {"ours": ours}, "pro": {"loop": rough, "ours": metrics["pro"]},
              "difference_from_exact": gap, "bytes_a_pixel": peak}  # fmt: skip
    publish(NAME, TITLE, record, text, options.quick)


if __name__ == "__main__":
    main()
