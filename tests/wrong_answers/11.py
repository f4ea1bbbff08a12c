import numpy as np
from scipy.stats import t as student


def _runs(gain, spread, factor=2, normal=False, df=lambda n: 2 * n - 2, start=2):
    n = start
    while (1.96 if normal else student.ppf(0.975, df(n))) * spread * np.sqrt(factor / n) >= gain:
        n += 1
    return n


def _gaps(columns, printed, tolerance, sign=1, keep=None, none=False, signed=False):
    out = {}
    for m, rows in columns.items():
        rows = [(0.0 if v is None else v) for v in rows] if none else [v for v in rows if v is not None]
        if rows and printed[m] is not None:
            out[m] = sign * (printed[m] - sum(rows) / len(rows))
    if keep == "all":
        return out
    return {m: g for m, g in out.items() if (g if signed else abs(g)) > tolerance}


WRONG = {
    "11_1": [
        lambda g, s: _runs(g, s, normal=True),
        lambda g, s: _runs(g, s, factor=1),
        lambda g, s: _runs(g, s, df=lambda n: n - 1),
        lambda g, s: _runs(g, s) + 1,
        lambda g, s: _runs(g, s) - 1,
        lambda g, s: (1.96 * s / g) ** 2 * 2,
        lambda g, s: np.arange(3),
    ],
    "11_2": [
        lambda c, p, t: _gaps(c, p, t, sign=-1),
        lambda c, p, t: _gaps(c, p, t, keep="all"),
        lambda c, p, t: _gaps(c, p, t, none=True),
        lambda c, p, t: _gaps(c, p, 0.1),
        lambda c, p, t: _gaps(c, p, t, signed=True),
        lambda c, p, t: list(_gaps(c, p, t)),
        lambda c, p, t: {},
    ],
}
