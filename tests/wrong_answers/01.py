import numpy as np
import torch

from dumenet.metrics import auroc


def _axes(tokens):
    return torch.linalg.eigh(torch.cov((tokens - tokens.mean(0)).T)).eigenvectors


def smallest(tokens, x, k):
    d, mean = _axes(tokens)[:, :k], tokens.mean(0)
    return mean + (x - mean) @ d @ d.T


def no_mean(tokens, x, k):
    d, mean = _axes(tokens)[:, -k:], tokens.mean(0)
    return (x - mean) @ d @ d.T


def coordinates(tokens, x, k):
    return (x - tokens.mean(0)) @ _axes(tokens)[:, -k:]


def uncentred(tokens, x, k):
    d = torch.linalg.eigh(tokens.T @ tokens).eigenvectors[:, -k:]
    return x @ d @ d.T


def rows(tokens, x, k):
    d, mean = _axes(tokens)[-k:], tokens.mean(0)
    return mean + (x - mean) @ d.T @ d


def each_its_own(scores, labels, half):
    here, there = ([auroc(labels[h], s[h]) for s in scores] for h in (half, ~half))
    return max(here), max(there)


def swapped(scores, labels, half):
    here, there = ([auroc(labels[h], s[h]) for s in scores] for h in (half, ~half))
    return there[int(np.argmax(here))], here[int(np.argmax(here))]


def on_the_other(scores, labels, half):
    here, there = ([auroc(labels[h], s[h]) for s in scores] for h in (half, ~half))
    return here[int(np.argmax(there))], there[int(np.argmax(there))]


def last(scores, labels, half):
    return auroc(labels[half], scores[-1][half]), auroc(labels[~half], scores[-1][~half])


def on_all(scores, labels, half):
    best = int(np.argmax([auroc(labels, s) for s in scores]))
    return auroc(labels[half], scores[best][half]), auroc(labels[~half], scores[best][~half])


WRONG = {
    "01_1": [smallest, no_mean, coordinates, uncentred, rows],
    "01_2": [each_its_own, swapped, on_the_other, last, on_all],
}
