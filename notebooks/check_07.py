"""Checks of lesson 07; see check.py."""

import numpy as np
from check import NotYet, right


def exercise_07_1(answer):
    mask = np.array([[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1]])
    score = np.array([[5, 3, 9, 0, 0], [3, 1, 0, 0, 0], [0, 0, 3, 0, 0], [0, 9, 0, 0, 0], [0, 0, 0, 0, 2.0]])
    # Regions: five pixels (the square and the pixel at its corner) with 5, 3, 3, 1, 3, and one pixel with 2.
    for threshold, expected in ((3, 0.4), (2, 0.9), (4, 0.1), (0, 1.0)):
        got = answer(mask, score, threshold)
        where = f"at threshold {threshold} on a 5 x 5 mask"
        if np.ndim(got) != 0:
            raise NotYet(f"one number is wanted, {where} came something of shape {np.shape(got)}.")
        mistakes = {
            "regions that touch at a corner are one region": np.mean([(score[:2, :2] >= threshold).mean(), score[2, 2] >= threshold, score[4, 4] >= threshold]),
            "each region has one vote, whatever its size": (score[mask == 1] >= threshold).mean(),
            "a score equal to the threshold counts as found": np.mean([(score[:3, :3][mask[:3, :3] == 1] > threshold).mean(), score[4, 4] > threshold]),
            "count the pixels of the regions only": (score >= threshold).mean(),
        }  # fmt: skip
        if not np.isclose(got, expected):
            why = [text for text, wrong in mistakes.items() if np.isclose(got, wrong)]
            raise NotYet(f"{why[0] if why else f'{expected} is right, not {float(got):.3f}'} ({where}).")
    if answer(np.zeros((4, 4), int), np.ones((4, 4)), 0.5) is not None:
        raise NotYet("a mask without any region has no overlap: return None.")
    right("07.1")


def exercise_07_2(answer):
    scores, categories = np.array([2.0, 3.0, 8.0, 5.0]), np.array(["cap", "cap", "weave", "new"])
    thresholds = {"cap": 2.0, "weave": 16.0, "all": 10.0}
    got = np.asarray(answer(scores, categories, thresholds), dtype=float)
    if got.shape != (4,):
        raise NotYet(f"four scores went in, something of shape {got.shape} came out.")
    if not np.array_equal(scores, [2, 3, 8, 5]):
        raise NotYet("the scores that went in were changed in place: make a new array.")
    if np.allclose(got, scores / 10):
        raise NotYet("every score was divided by the threshold of 'all': use the category's own where there is one.")
    if np.allclose(got[:3], [0, 1, -8]):
        raise NotYet("divide, do not subtract: a score at its threshold becomes 1, not 0.")
    if np.allclose(got[:3], [1, 2 / 3, 2]):
        raise NotYet("that is threshold / score, so that larger means less anomalous; it is score / threshold.")
    if np.allclose(got[:3], [1, 1.5, 0.5]) and not np.isclose(got[3], 0.5):
        raise NotYet("a category without a threshold of its own is divided by the one named 'all'.")
    if not np.allclose(got, [1, 1.5, 0.5, 0.5]):
        raise NotYet(f"scores {scores.tolist()} with thresholds {thresholds} give [1, 1.5, 0.5, 0.5], not {got.round(3).tolist()}.")
    right("07.2")
