import numpy as np

from check import NotYet, right


def exercise_12_1(answer):
    rng = np.random.default_rng(0)
    iou = lambda m, t, mask: (mask & (m >= t)).sum() / (mask | (m >= t)).sum()  # noqa: E731
    for shape, levels in (((6, 7), 1000), ((8, 5), 6), ((9, 9), 30)):  # the second and third with many ties
        mask = np.zeros(shape, bool)
        mask[1:4, 2:5] = True
        m = rng.integers(0, levels, shape) / levels + 0.6 * mask + rng.normal(0, 1e-3)
        best = max(iou(m, t, mask) for t in m.ravel())
        got = np.asarray(answer(m.copy(), mask.copy()))
        if got.size != 1:
            raise NotYet(f"the answer is one number, yours has shape {got.shape}.")
        if best - iou(m, float(got), mask) > 1e-9:
            kind = "the IoU itself, not the threshold" if abs(float(got) - best) < 1e-9 else f"a threshold with IoU {iou(m, float(got), mask):.3f}"
            raise NotYet(f"on a {shape[0]} x {shape[1]} map with {len(np.unique(m))} distinct scores you return {kind}; {best:.3f} is possible.")
    right("12.1")


def exercise_12_2(answer):
    rng = np.random.default_rng(0)
    for channels, size in (([2, 3], (4, 5)), ([1, 4, 2], (3, 3))):
        x = rng.normal(size=(sum(channels), *size))
        true = np.zeros((len(channels), *size))
        for c, stage in enumerate(np.repeat(np.arange(len(channels)), channels)):
            true[stage] += x[c] ** 2 / (x**2).sum(0)
        got = np.asarray(answer(x.copy(), list(channels)))
        if got.shape != true.shape:
            raise NotYet(f"{len(channels)} stages on {size[0]} x {size[1]} positions: shape {true.shape}, not {got.shape}.")
        if not np.allclose(got.sum(0), 1):
            raise NotYet("the shares must sum to 1 over the stages at each position, not over the image.")
        if not np.allclose(got, true):
            raise NotYet(f"channels {channels}: {true[:, 0, 0].round(3)} at the first position, not {got[:, 0, 0].round(3)}. Squared? A sum, not a mean or a norm?")
    right("12.2")
