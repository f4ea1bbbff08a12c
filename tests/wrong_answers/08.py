import numpy as np
from scipy import ndimage


def overlap(mask, m, t, structure=np.ones((3, 3)), strict=False, none=None, of=np.mean):
    r, n = ndimage.label(mask, structure)
    hit = m > t if strict else m >= t
    return float(of([hit[r == k].mean() for k in range(1, n + 1)])) if n else none


def own(categories, thresholds, other="all"):
    return np.array([thresholds.get(c, thresholds.get(other, 1.0)) for c in categories])


WRONG = {
    "08_1": [
        ("touch at a corner", lambda *given: overlap(*given, structure=None)),
        ("equal to the threshold", lambda *given: overlap(*given, strict=True)),
        ("return None", lambda *given: overlap(*given, none=0.0)),
        ("one vote", lambda mask, m, t: float((m[mask == 1] >= t).mean()) if mask.any() else None),
        ("not their sum", lambda *given: overlap(*given, of=np.sum)),
        ("is right, not", lambda mask, m, t: float((m >= t).mean())),
    ],
    "08_2": [
        ("use the category's own", lambda s, c, t: s / t["all"]),
        ("do not subtract", lambda s, c, t: s - own(c, t)),
        ("larger means less anomalous", lambda s, c, t: own(c, t) / s),
        ("the one named 'all'", lambda s, c, t: s / own(c, t, other="none")),
        ("the one named 'all'", lambda s, c, t: s / own(c, t, other="cap")),
        ("is right, not", lambda s, c, t: s),
    ],
}
