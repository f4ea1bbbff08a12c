import numpy as np
from scipy.stats import t as student


def t(n, freedom=-1):
    return student.ppf(0.975, n + freedom)


def mean(records, metric="pro", factor=t, ddof=1, root=True, zero=False, one=None):
    v = [r["metrics"]["mean"][metric] for r in records]
    v = [x or 0.0 for x in v] if zero else [x for x in v if x is not None]
    if len(v) < 2:
        return (v[0], one) if v else (None, None)
    return np.mean(v), factor(len(v)) * np.std(v, ddof=ddof) / (np.sqrt(len(v)) if root else 1)


def pairs(records, both=False, any_number=False, missing=False, name=True):
    out = []
    for i, r in enumerate(records):
        for j, q in enumerate(records):
            if j > i or both and j != i:
                a, b = ({(s, k): v for s in ("model", "train") for k, v in x["config"][s].items()} for x in (r, q))
                d = [k for k in sorted(a | b) if (k in a and k in b or missing) and a.get(k) != b.get(k)]
                if len(d) == 1 or any_number and d:
                    out.append((i, j, ".".join(d[0]) if name else d[0][1]))
    return out


WRONG = {
    "10_3": [
        ("not 1.96", lambda r, m: mean(r, factor=lambda n: 1.96)),
        ("a standard error is no interval", lambda r, m: mean(r, factor=lambda n: 1.0)),
        ("a standard deviation is no interval", lambda r, m: mean(r, factor=lambda n: 1.0, root=False)),
        ("n - 1 in the standard deviation", lambda r, m: mean(r, ddof=0)),
        ("the degrees of freedom are n - 1", lambda r, m: mean(r, factor=lambda n: t(n, freedom=0))),
        ("not counted as zero", lambda r, m: mean(r, zero=True)),
        ("half is None", lambda r, m: mean(r, one=0.0)),
        ("is right, not", lambda r, m: mean(r, "image_auroc")),
    ],
    "10_4": [
        ("each pair once", lambda r: pairs(r, both=True)),
        ("exactly one setting", lambda r: pairs(r, any_number=True)),
        ("section.key", lambda r: pairs(r, name=False)),
        ("rising order", lambda r: pairs(r)[::-1]),
        ("is right, not", lambda r: pairs(r, missing=True)),
    ],
}
