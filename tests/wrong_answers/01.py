import numpy as np
import torch

from dumenet.metrics import auroc


def project(tokens, x, k, before=1, after=1, about=1, axes=lambda vectors, k: vectors[:, -k:]):
    mean = tokens.mean(0)
    centred = tokens - about * mean
    d = axes(torch.linalg.eigh(centred.T @ centred).eigenvectors, k)
    return after * mean + (x - before * mean) @ d @ d.T


def look(scores, labels, half, choose):
    here, there = ([auroc(labels[h], s[h]) for s in scores] for h in (half, ~half))
    return choose(here, there)


WRONG = {
    "01_1": [
        ("smallest variance", lambda t, x, k: project(t, x, k, axes=lambda v, k: v[:, :k])),
        ("must be added again", lambda t, x, k: project(t, x, k, after=0)),
        ("subtract the mean before you project, and add it", lambda t, x, k: project(t, x, k, before=0, after=0)),
        ("subtract the mean before you project", lambda t, x, k: project(t, x, k, before=0)),
        ("the directions, and before you project", lambda t, x, k: project(t, x, k, before=0, after=0, about=0)),
        ("before you look for the directions", lambda t, x, k: project(t, x, k, about=0)),
        ("not that of x", lambda t, x, k: project(t - t.mean(0) + x.mean(0), x, k)),
        ("is right, not", lambda t, x, k: x / 2),
    ],
    "01_2": [
        ("is used on the other half, too", lambda *given: look(*given, lambda here, there: (max(here), max(there)))),
        ("the half that chose comes first", lambda *given: look(*given, lambda h, t: (t[np.argmax(h)], max(h)))),
        ("chosen on `half` alone", lambda *given: look(*given, lambda h, t: (h[np.argmax(t)], max(t)))),
        ("is right, not", lambda *given: look(*given, lambda here, there: (here[-1], there[-1]))),
    ],
}
