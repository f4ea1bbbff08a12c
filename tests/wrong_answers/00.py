import numpy as np


def pairs(labels, scores, tie=0.5):
    defective, normal = scores[labels == 1][:, None], scores[labels == 0]
    return (defective > normal) + tie * (defective == normal)


def accuracy(labels, scores):
    return max(np.sort(scores), key=lambda t: ((scores > t) == labels).mean())


def apart(labels, scores, of=np.mean):
    return [abs(of(scores[labels == 1] > t) - of(scores[labels == 0] <= t)) for t in np.sort(scores)]


WRONG = {
    "00_1": [
        ("a tie counts one half, not nothing", lambda y, s: pairs(y, s, tie=0).mean()),
        ("a tie counts one half, not one", lambda y, s: pairs(y, s, tie=1).mean()),
        ("the *normal* image scores higher", lambda y, s: pairs(1 - y, s).mean()),
        ("divide it by the number of pairs", lambda y, s: pairs(y, s).sum()),
    ],
    "00_2": [
        ("leaves the two shares", accuracy),
        ("leaves the two shares", lambda y, s: np.sort(s)[len(s) // 2]),
        ("leaves the two shares", lambda y, s: np.sort(s)[np.argmin(apart(y, s, of=np.sum))]),
        ("must be one of the scores", lambda y, s: (s[y == 0].mean() + s[y == 1].mean()) / 2),
        ("leaves the two shares", lambda y, s: int(np.argmin(apart(y, s)))),
    ],
}
