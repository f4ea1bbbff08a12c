import numpy as np
from scipy.stats import t as student


def _mean(records, metric, factor=None, ddof=1, root=True, none="skip", one=None, pair=True):
    v = [r["metrics"]["mean"][metric] for r in records]
    v = [0.0 if x is None else x for x in v] if none == "zero" else [x for x in v if x is not None]
    if not v:
        return None, None
    v = np.array(v)
    n = len(v)
    if n == 1:
        return v.mean(), one
    f = student.ppf(0.975, n - 1) if factor is None else factor(n)
    half = f * v.std(ddof=ddof) / (np.sqrt(n) if root else 1)
    return (v.mean(), half) if pair else v.mean()


def _pairs(records, both=False, any_number=False, missing=False, name=True, models_only=False):
    out = []
    for i, r in enumerate(records):
        for j, q in enumerate(records):
            if j <= i and not (both and j != i):
                continue
            a, b = r["config"], q["config"]
            sections = ["model"] if models_only else list(a)
            d = []
            for s in sections:
                for k in sorted(set(a[s]) | set(b[s])):
                    inside = k in a[s] and k in b[s]
                    if (inside and a[s][k] != b[s][k]) or (missing and not inside):
                        d.append(f"{s}.{k}" if name else k)
            if len(d) == 1 or (any_number and d):
                out.append((i, j, d[0]))
    return out


WRONG = {
    "10_1": [
        lambda r, m: _mean(r, m, factor=lambda n: 1.96),
        lambda r, m: _mean(r, m, factor=lambda n: 1.0),
        lambda r, m: _mean(r, m, factor=lambda n: 1.0, root=False),
        lambda r, m: _mean(r, m, ddof=0),
        lambda r, m: _mean(r, m, factor=lambda n: student.ppf(0.975, n)),
        lambda r, m: _mean(r, m, none="zero"),
        lambda r, m: _mean(r, m, one=0.0),
        lambda r, m: _mean(r, m, pair=False),
        lambda r, m: _mean(r, "image_auroc"),
    ],
    "10_2": [
        lambda r: _pairs(r, both=True),
        lambda r: _pairs(r, any_number=True),
        lambda r: _pairs(r, missing=True),
        lambda r: _pairs(r, name=False),
        lambda r: _pairs(r, models_only=True),
        lambda r: _pairs(r)[::-1],
        lambda r: [],
    ],
}
