import numpy as np


def iou(m, t, mask):
    return (mask & (m >= t)).sum() / (mask | (m >= t)).sum()


def shares(difference, channels, of, axis=0):
    sums = np.stack([of(part) for part in np.split(difference, np.cumsum(channels)[:-1])])
    return sums / sums.sum(axis, keepdims=True)


WRONG = {
    "12_1": [
        ("not the IoU itself", lambda m, mask: max(iou(m, t, mask) for t in m.ravel())),
        ("is possible", lambda m, mask: float(np.quantile(m, 1 - mask.mean()))),
        ("is possible", lambda m, mask: float(m[mask].min())),
        ("is possible", lambda m, mask: max(m.ravel(), key=lambda t: mask[m >= t].mean())),
    ],
    "12_2": [
        ("not its root", lambda d, channels: shares(d, channels, lambda p: np.sqrt((p**2).sum(0)))),
        ("do not take the mean", lambda d, channels: shares(d, channels, lambda p: (p**2).mean(0))),
        ("its absolute value", lambda d, channels: shares(d, channels, lambda p: np.abs(p).sum(0))),
        ("sum to 1 over the stages", lambda d, channels: shares(d, channels, lambda p: (p**2).sum(0), (1, 2))),
    ],
}
