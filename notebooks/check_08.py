"""Checks of lesson 08; see check.py."""

import numpy as np
from check import NotYet, right


def exercise_08_1(answer):
    rng = np.random.default_rng(8)
    for n, m, c, k in ((6, 4, 3, 2), (5, 7, 2, 1), (9, 3, 4, 9)):
        known, asked = rng.normal(size=(n, c)), rng.normal(size=(m, c))
        distance = np.array([[np.linalg.norm(a - b) for b in known] for a in asked])  # (m, n)
        ordered = np.sort(distance, axis=1)
        got, where = np.asarray(answer(known, asked, k), dtype=float), f"for {n} known, {m} asked and k = {k}"
        if got.shape == (n,) != (m,):
            raise NotYet(f"one score for each row of asked, ({m},), not for each row of known, ({n},) ({where}).")
        if got.shape != (m,):
            raise NotYet(f"{m} rows were asked, something of shape {got.shape} came out ({where}).")
        mistakes = {
            "take the root: the distances came out squared": np.sort(distance**2, axis=1)[:, :k].mean(1),
            "the mean of the k nearest is wanted, not the k-th alone": ordered[:, k - 1],
            "the mean of the k nearest is wanted, not their sum": ordered[:, :k].sum(1),
            "the nearest, not the first k of the training images": distance[:, :k].mean(1),
            "the nearest are the smallest distances, not the largest": ordered[:, -k:].mean(1),
            "sum over the channels, not their mean": ordered[:, :k].mean(1) / np.sqrt(c),
        }
        if not np.allclose(got, ordered[:, :k].mean(1)):
            why = [text for text, wrong in mistakes.items() if np.allclose(got, wrong)]
            raise NotYet(f"{why[0] if why else f'the first score should be {ordered[0, :k].mean():.4f}, not {got[0]:.4f}'} ({where}).")
    right("08.1")


def exercise_08_2(answer):
    for values, flipped in (([0.9, 0.3, 0.6], 2.2 / 3), ([0.2], 0.8), ([0.5, 0.75], 0.625), ([0.1, 0.2, 0.4, 0.9], 0.8)):
        given = np.array(values)
        got = np.asarray(answer(given), dtype=float)
        where = f"for {values}"
        if got.shape != (2,):
            raise NotYet(f"two numbers are wanted, {where} came something of shape {got.shape}.")
        if not np.array_equal(given, values):
            raise NotYet("the values that went in were changed in place: make a new array.")
        honest = np.mean(values)
        if np.isclose(got[0], flipped) and np.isclose(got[1], honest) and not np.isclose(honest, flipped):
            raise NotYet(f"first the mean as it is, then the flipped one: they are the other way round ({where}).")
        if not np.isclose(got[0], honest):
            raise NotYet(f"the first number is the plain mean, {honest:.4f}, not {got[0]:.4f} ({where}).")
        if not np.isclose(got[1], flipped) and np.isclose(got[1], max(honest, 1 - honest)):
            raise NotYet(f"flip each value, not the mean of them ({where}).")
        if not np.isclose(got[1], flipped) and np.isclose(got[1], 1 - honest):
            raise NotYet(f"flip only the values below one half ({where}).")
        if not np.isclose(got[1], flipped):
            raise NotYet(f"the second number should be {flipped:.4f}, not {got[1]:.4f} ({where}).")
    right("08.2")
