import numpy as np


def _d(k, a):
    return np.sqrt(((a[:, None] - k[None]) ** 2).sum(-1))


def _inplace(a):
    h = a.mean()
    a[a < 0.5] = 1 - a[a < 0.5]
    return h, a.mean()


WRONG = {
    "08_1": [
        lambda k, a, n: np.sort(_d(k, a) ** 2, 1)[:, :n].mean(1),
        lambda k, a, n: np.sort(_d(k, a), 1)[:, n - 1],
        lambda k, a, n: np.sort(_d(k, a), 1)[:, :n].sum(1),
        lambda k, a, n: _d(k, a)[:, :n].mean(1),
        lambda k, a, n: np.sort(_d(k, a), 1)[:, -n:].mean(1),
        lambda k, a, n: np.sort(_d(k, a), 1)[:, 1 : n + 1].mean(1),
        lambda k, a, n: np.sort(_d(a, k), 1)[:, :n].mean(1),
        lambda k, a, n: np.sort(np.sqrt(((a[:, None] - k[None]) ** 2).mean(-1)), 1)[:, :n].mean(1),
        lambda k, a, n: np.sort(np.abs(a[:, None] - k[None]).sum(-1), 1)[:, :n].mean(1),
        lambda k, a, n: np.sort(_d(k, a), 0)[:n].mean(0),
        lambda k, a, n: np.sort(_d(k, a), 1)[:, :n],
    ],
    "08_2": [
        lambda a: (np.mean(a), max(np.mean(a), 1 - np.mean(a))),
        lambda a: (np.maximum(a, 1 - a).mean(), np.mean(a)),
        lambda a: (np.mean(a), (1 - a).mean()),
        lambda a: (np.mean(a), np.maximum(a, 0.5).mean()),
        lambda a: (np.mean(a), np.maximum(a, 1 - a)),
        lambda a: np.maximum(a, 1 - a).mean(),
        lambda a: (np.median(a), np.maximum(a, 1 - a).mean()),
        _inplace,
    ],
}
