import numpy as np

from check import NotYet, right


def exercise_00_1(answer):
    rng = np.random.default_rng(0)
    cases = [([0, 0, 1, 1], [1, 2, 3, 4]), ([1, 0, 1, 0, 0], [2, 2, 5, 1, 3]), (rng.permutation(np.arange(30) % 3 == 0), rng.integers(0, 9, 30))]
    for labels, scores in cases:
        labels, scores = np.array(labels, int), np.array(scores, float)
        pairs = [(d > n) + 0.5 * (d == n) for d in scores[labels == 1] for n in scores[labels == 0]]
        got, true = answer(labels, scores), np.mean(pairs)
        if np.ndim(got):
            raise NotYet(f"the answer is one number; yours has shape {np.shape(got)}.")
        if not np.isclose(got, true):
            if np.isclose(got, 1 - true):
                raise NotYet("you count the pairs in which the *normal* image scores higher.")
            what = f"labels {labels.tolist()}, scores {scores.tolist()}" if len(labels) < 9 else "30 images with ties"
            raise NotYet(f"for {what} the AUROC is {true:.3f}, not {got:.3f}. Do ties count one half, and is it divided by the number of pairs?")
    right("00.1")


def exercise_00_2(answer):
    rng = np.random.default_rng(1)
    cases = [([0, 0, 0, 1, 1, 1], [1, 2, 3, 4, 5, 6]), ([0, 1, 0, 1, 0, 0], [5, 8, 1, 2, 3, 6])]
    cases += [(rng.permutation(np.arange(40) % 4 == 0), rng.normal(size=40)) for _ in range(3)]
    for labels, scores in cases:
        labels, scores = np.array(labels, int), np.array(scores, float)
        gap = lambda t: abs((scores[labels == 1] > t).mean() - (scores[labels == 0] <= t).mean())
        got, least = answer(labels, scores), min(gap(t) for t in scores)
        if np.ndim(got):
            raise NotYet(f"the answer is one threshold; yours has shape {np.shape(got)}.")
        if not np.isclose(scores, got).any():
            raise NotYet(f"the threshold must be one of the scores; yours is {float(got):.3f}.")
        if gap(got) > least + 1e-9:
            what = f"labels {labels.tolist()}, scores {scores.tolist()}" if len(labels) < 9 else "40 images"
            raise NotYet(f"for {what} your threshold leaves the two shares {gap(got):.2f} apart; {least:.2f} is possible.")
    right("00.2")
