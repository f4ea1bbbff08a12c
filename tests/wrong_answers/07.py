import numpy as np
from scipy import ndimage


def _overlap(mask, m, t, structure=np.ones((3, 3)), strict=False, none=None):
    r, n = ndimage.label(mask, structure)
    if n == 0:
        return none
    hit = m > t if strict else m >= t
    return float(np.mean([hit[r == k].mean() for k in range(1, n + 1)]))


def _inplace(s, c, t):
    s /= np.array([t.get(x, t["all"]) for x in c])
    return s


WRONG = {
    "07_1": [
        lambda mask, m, t: _overlap(mask, m, t, None),
        lambda mask, m, t: _overlap(mask, m, t, strict=True),
        lambda mask, m, t: _overlap(mask, m, t, none=0.0),
        lambda mask, m, t: float((m[mask == 1] >= t).mean()) if mask.any() else None,
        lambda mask, m, t: float((m >= t).mean()),
        lambda mask, m, t: [float((m[mask == 1] >= t).mean())] * 2,
        lambda mask, m, t: 1.0,
    ],
    "07_2": [
        lambda s, c, t: np.asarray(s) / t["all"],
        lambda s, c, t: np.asarray(s) - np.array([t.get(x, t["all"]) for x in c]),
        lambda s, c, t: np.array([t.get(x, t["all"]) for x in c]) / np.asarray(s),
        lambda s, c, t: np.asarray(s) / np.array([t.get(x, 1.0) for x in c]),
        lambda s, c, t: np.asarray(s) / np.array([t.get(x, t["cap"]) for x in c]),
        lambda s, c, t: (np.asarray(s) / t["all"])[:1],
        _inplace,
        lambda s, c, t: s,
    ],
}
