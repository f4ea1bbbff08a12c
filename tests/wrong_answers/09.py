import numpy as np


def distances(known, asked):
    return np.linalg.norm(asked[:, None] - known[None], axis=-1)


def ordered(known, asked):
    return np.sort(distances(known, asked), 1)


WRONG = {
    "09_1": [
        ("take the root", lambda k, a, n: (ordered(k, a)[:, :n] ** 2).mean(1)),
        ("not the k-th alone", lambda k, a, n: ordered(k, a)[:, n - 1]),
        ("not their sum", lambda k, a, n: ordered(k, a)[:, :n].sum(1)),
        ("not the first k", lambda k, a, n: distances(k, a)[:, :n].mean(1)),
        ("not the largest", lambda k, a, n: ordered(k, a)[:, -n:].mean(1)),
        ("sum over the channels", lambda k, a, n: (ordered(k, a) / k.shape[1] ** 0.5)[:, :n].mean(1)),
        ("is right, not", lambda k, a, n: ordered(k, a)[:, 1 : n + 1].mean(1)),
    ],
    "09_2": [
        ("not the mean of them", lambda a: (a.mean(), max(a.mean(), 1 - a.mean()))),
        ("the other way round", lambda a: (np.maximum(a, 1 - a).mean(), a.mean())),
        ("only the values below one half", lambda a: (a.mean(), (1 - a).mean())),
        ("these are sums", lambda a: (a.sum(), np.maximum(a, 1 - a).sum())),
        ("is right, not", lambda a: (a.mean(), np.maximum(a, 0.5).mean())),
    ],
}
