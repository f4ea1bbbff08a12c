"""Seconds of all pixel metrics of 83 images of 224 x 224, as many as MVTec-AD's bottle has, beside the usual PRO.

    python benchmarks/metrics.py

The baseline is the loop of many repositories (RD4AD's `compute_pro`, say): 200 thresholds between the least and the
largest score, and for each of them every image, whose mask scikit-image labels anew, and every region, whose pixels are
looked up. Beside it stands the same loop with the labels kept. Ours computes pixel AUROC, AP and F1-max too, from one
sort, without thresholds; its PRO is compared with a threshold at every score, on few enough pixels.
"""

import statistics
import tracemalloc

import numpy as np
from report import arguments, in_turn, publish
from scipy import ndimage
from skimage import measure
from sklearn.metrics import auc

from dumenet.metrics import evaluate_scores, pro

FPR_LIMIT = 0.3  # largest false positive rate of PRO
BASELINE = "PRO, a loop over 200 thresholds (baseline)"


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


def regions_of(mask: np.ndarray) -> list[tuple]:
    """Index of the pixels of each region, as published."""
    return [tuple(region.coords.T) for region in measure.regionprops(measure.label(mask))]


def common_pro(masks: np.ndarray, maps: np.ndarray, thresholds: np.ndarray, keep: bool) -> float:
    """PRO by loops over thresholds, images and regions; regions found anew for each threshold, or kept."""
    kept = [regions_of(mask) for mask in masks] if keep else None
    normal, rates, overlaps = (~masks).sum(), [0.0], [0.0]
    for threshold in thresholds:
        above, found = maps >= threshold, []
        for i, image in enumerate(above):
            found += [image[inside].mean() for inside in (kept[i] if kept else regions_of(masks[i]))]
        rates.append((above & ~masks).sum() / normal)
        overlaps.append(np.mean(found))
    x, y = np.array(rates), np.array(overlaps)
    low = x <= FPR_LIMIT
    return auc(np.append(x[low], FPR_LIMIT), np.append(y[low], np.interp(FPR_LIMIT, x, y))) / FPR_LIMIT


def main() -> None:
    args = arguments(__doc__, rounds=5)
    images, size = (4, 48) if args.quick else (83, 224)
    masks, maps = scene(images, size)
    thresholds = np.linspace(maps.max(), maps.min(), 200)
    labels, scores, one = masks.any((1, 2)).astype(int), maps.max((1, 2)), np.full(images, "one")
    found = {}

    def ours() -> None:
        found["ours"] = evaluate_scores(labels, scores, one, masks, maps, n_bootstrap=0)["mean"]["pro"]

    def loop(name: str, keep: bool) -> None:
        found[name] = common_pro(masks, maps, thresholds, keep)

    kept, four = "the same, each mask labelled once", "pixel AUROC, AP, F1-max and PRO, exact"
    seconds = in_turn({BASELINE: lambda: loop(BASELINE, False), kept: lambda: loop(kept, True)}, 1)
    seconds |= in_turn({four: ours}, args.rounds)
    found[four] = found.pop("ours")
    part_masks, part_maps = scene(4, 48, seed=1)
    exact = common_pro(part_masks, part_maps, np.unique(part_maps)[::-1], True)
    tracemalloc.start()
    ours()
    raw = {
        "seconds": seconds, "difference_from_exact": abs(pro(part_masks, part_maps) - exact),
        "bytes_a_pixel": tracemalloc.get_traced_memory()[1] / maps.size,
    }  # fmt: skip
    tracemalloc.stop()
    took = {name: statistics.median(values) for name, values in seconds.items()}
    rows = [
        {"way": name, "seconds": value, "ratio": took[BASELINE] / value, "PRO": found[name]}
        for name, value in took.items()
    ]
    publish("metrics", {"exact": (took[four], took[BASELINE])}, rows, raw, args.quick)


if __name__ == "__main__":
    main()
