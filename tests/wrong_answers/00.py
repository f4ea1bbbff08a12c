import numpy as np


def ties_lose(labels, scores):
    return (scores[labels == 1][:, None] > scores[labels == 0][None, :]).mean()


def ties_win(labels, scores):
    return (scores[labels == 1][:, None] >= scores[labels == 0][None, :]).mean()


def turned(labels, scores):
    d, n = scores[labels == 1][:, None], scores[labels == 0][None, :]
    return ((d < n) + 0.5 * (d == n)).mean()


def not_divided(labels, scores):
    d, n = scores[labels == 1][:, None], scores[labels == 0][None, :]
    return ((d > n) + 0.5 * (d == n)).sum()


def for_each(labels, scores):
    d, n = scores[labels == 1][:, None], scores[labels == 0][None, :]
    return ((d > n) + 0.5 * (d == n)).mean(1)


def accuracy(labels, scores):
    t = np.sort(scores)
    return t[int(np.argmax([((scores > x) == labels).mean() for x in t]))]


def middle(labels, scores):
    return (scores[labels == 0].mean() + scores[labels == 1].mean()) / 2


def median(labels, scores):
    return np.sort(scores)[len(scores) // 2]


def counts(labels, scores):
    t = np.sort(scores)
    return t[int(np.argmin([abs((scores[labels == 1] > x).sum() - (scores[labels == 0] <= x).sum()) for x in t]))]


def index(labels, scores):
    t = np.sort(scores)
    return int(np.argmin([abs((scores[labels == 1] > x).mean() - (scores[labels == 0] <= x).mean()) for x in t]))


WRONG = {
    "00_1": [ties_lose, ties_win, turned, not_divided, for_each],
    "00_2": [accuracy, middle, median, counts, index],
}
