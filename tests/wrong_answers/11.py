import numpy as np
from scipy.stats import t as student


def runs(gain, spread, factor=2, quantile=lambda n: student.ppf(0.975, 2 * n - 2)):
    return next(n for n in range(2, 999) if quantile(n) * spread * np.sqrt(factor / n) < gain)


def gaps(columns, printed, tolerance, sign=1, zero=False, size=abs):
    out = {}
    for m, rows in columns.items():
        rows = [v or 0.0 for v in rows] if zero else [v for v in rows if v is not None]
        if rows and printed[m] is not None:
            out[m] = sign * (printed[m] - sum(rows) / len(rows))
    return {m: g for m, g in out.items() if size(g) > tolerance}


WRONG = {
    "11_1": [
        ("not 1.96", lambda g, s: runs(g, s, quantile=lambda n: 1.96)),
        ("not 1 / n", lambda g, s: runs(g, s, factor=1)),
        ("2n - 2 degrees", lambda g, s: runs(g, s, quantile=lambda n: student.ppf(0.975, n - 1))),
        ("the smallest n", lambda g, s: runs(g, s) + 1),
        ("one too few", lambda g, s: runs(g, s) - 1),
        ("a whole number is wanted", lambda g, s: (1.96 * s / g) ** 2 * 2),
    ],
    "11_2": [
        ("the sign is the other way round", lambda *given: gaps(*given, sign=-1)),
        ("larger than the tolerance", lambda c, p, t: gaps(c, p, -1)),
        ("the absolute gap", lambda *given: gaps(*given, size=lambda g: g)),
        ("None is left out", lambda *given: gaps(*given, zero=True)),
        ("not their sum", lambda c, p, t: gaps({m: [sum(v or 0 for v in r)] for m, r in c.items() if any(r)}, p, t)),
        ("is right, not", lambda c, p, t: dict.fromkeys(gaps(c, p, t), 0.5)),
    ],
}
