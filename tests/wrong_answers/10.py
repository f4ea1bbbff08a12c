import numpy as np
from scipy.stats import t as student


def half(d, n, ddof=1, root=True, level=0.975, freedom=-1):
    return student.ppf(level, n + freedom) * np.std(d, ddof=ddof) / (np.sqrt(n) if root else 1)


def holm(p, cap=1, back=True, monotone=True, up=False):
    o, factors = np.argsort(p), np.arange(len(p), 0, -1)
    v = p[o] * (factors[::-1] if up else factors)
    v = np.minimum(np.maximum.accumulate(v) if monotone else v, cap)
    return v[np.argsort(o)] if back else v


WRONG = {
    "10_1": [
        ("n - 1 in the standard deviation", lambda d, n: half(d, n, ddof=0)),
        ("divide by the root", lambda d, n: half(d, n, root=False)),
        ("not the observed one", lambda d, n: half(d, len(d))),
        ("not 1.96", lambda d, n: 1.96 * np.std(d, ddof=1) / np.sqrt(n)),
        ("leaves 2.5 % on each side", lambda d, n: half(d, n, level=0.95)),
        ("not the whole width", lambda d, n: 2 * half(d, n)),
        ("is right, not", lambda d, n: half(d, n, freedom=0)),
    ],
    "10_2": [
        ("Bonferroni", lambda p: np.minimum(p * len(p), 1)),
        ("in the order of the input", lambda p: holm(p, back=False)),
        ("above 1", lambda p: holm(p, cap=9)),
        ("running maximum", lambda p: holm(p, monotone=False)),
        ("is right, not", lambda p: holm(p, up=True)),
    ],
}
