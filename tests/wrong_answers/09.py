import numpy as np
from scipy.stats import t as student


def _holm(p, cap=True, back=True, monotone=True, factors=None):
    p = np.asarray(p, float)
    o = np.argsort(p)
    v = p[o] * (np.arange(len(p), 0, -1) if factors is None else factors(len(p)))
    v = np.maximum.accumulate(v) if monotone else v
    v = np.minimum(v, 1) if cap else v
    if not back:
        return v
    out = np.empty(len(p))
    out[o] = v
    return out


WRONG = {
    "09_1": [
        lambda d, n: student.ppf(0.975, n - 1) * np.std(d) / np.sqrt(n),
        lambda d, n: student.ppf(0.975, n - 1) * np.std(d, ddof=1),
        lambda d, n: student.ppf(0.975, len(d) - 1) * np.std(d, ddof=1) / np.sqrt(len(d)),
        lambda d, n: 1.96 * np.std(d, ddof=1) / np.sqrt(n),
        lambda d, n: student.ppf(0.95, n - 1) * np.std(d, ddof=1) / np.sqrt(n),
        lambda d, n: 2 * student.ppf(0.975, n - 1) * np.std(d, ddof=1) / np.sqrt(n),
        lambda d, n: student.ppf(0.975, n) * np.std(d, ddof=1) / np.sqrt(n),
        lambda d, n: np.asarray(d) * 0,
    ],
    "09_2": [
        lambda p: np.minimum(np.asarray(p) * len(p), 1),
        lambda p: _holm(p, back=False),
        lambda p: _holm(p, cap=False),
        lambda p: _holm(p, monotone=False),
        lambda p: _holm(p, factors=lambda m: np.arange(1, m + 1)),
        lambda p: np.asarray(p),
        lambda p: float(np.min(p)),
    ],
}
