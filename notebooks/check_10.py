"""Checks of lesson 10; see check.py."""

import numpy as np
from check import NotYet, right
from scipy.stats import t as student


def exercise_10_1(answer):
    record = lambda v: {"metrics": {"mean": {"pro": v, "image_auroc": 0.5}}}  # noqa: E731
    for values in ([0.9, 0.94, 0.92], [0.1, None, 0.3, 0.7], [0.8], [None]):
        got, where = answer([record(v) for v in values], "pro"), f"for values {values}"
        if not isinstance(got, tuple) or len(got) != 2:
            raise NotYet(f"a pair (mean, half) is wanted, not {got!r} ({where}).")
        kept = np.array([v for v in values if v is not None])
        if not len(kept):
            if got != (None, None):
                raise NotYet(f"without any number both are None, not {got} ({where}).")
            continue
        if got[0] is None or not np.isclose(float(got[0]), kept.mean()):
            raise NotYet(f"the mean is {kept.mean():.4f}, not {got[0]}; None is left out, not zero ({where}).")
        if len(kept) == 1:
            if got[1] is not None:
                raise NotYet(f"one number has no interval: half is None, not {got[1]} ({where}).")
            continue
        n, s = len(kept), kept.std(ddof=1)
        half = student.ppf(0.975, n - 1) * s / np.sqrt(n)
        mistakes = {
            "a standard deviation is no interval": s,
            "a standard error is no interval yet": s / np.sqrt(n),
            "divide by n - 1 in the standard deviation": student.ppf(0.975, n - 1) * kept.std() / np.sqrt(n),
            "with few numbers the factor is Student's t, not 1.96": 1.96 * s / np.sqrt(n),
            "the degrees of freedom are n - 1": student.ppf(0.975, n) * s / np.sqrt(n),
        }
        if got[1] is None or not np.isclose(float(got[1]), half):
            why = [text for text, v in mistakes.items() if got[1] is not None and np.isclose(got[1], v, rtol=1e-3)]
            raise NotYet(f"{why[0] if why else f'the half-width is {half:.4f}, not {got[1]}'} ({where}).")
    right("10.1")


def exercise_10_2(answer):
    def make(heads, seed, **more):
        return {"config": {"model": {"heads": heads, **more}, "train": {"seed": seed, "lr": 0.1}}}

    cases = (
        ([make(8, 0), make(4, 0)], [(0, 1, "model.heads")], "two records that differ in heads"),
        ([make(8, 0), make(8, 0)], [], "two equal records"),
        ([make(8, 0), make(4, 1)], [], "two records that differ in heads and seed"),
        ([make(8, 0), make(8, 1, jitter=0)], [(0, 1, "train.seed")], "a setting that one record lacks"),
        ([make(8, 0, jitter=0), make(8, 1)], [(0, 1, "train.seed")], "a setting that the other record lacks"),
        ([make(8, 0), make(4, 0), make(8, 1)], [(0, 1, "model.heads"), (0, 2, "train.seed")], "three records"),
    )
    for records, expected, what in cases:
        got = [tuple(pair) for pair in answer(records)]
        if got != expected:
            if sorted(got) == expected or sorted(tuple(sorted(p[:2])) + p[2:] for p in got) == sorted(expected * 2):
                raise NotYet(f"each pair once, i < j, in rising order: {expected}, not {got} ({what}).")
            raise NotYet(f"for {what} the answer is {expected}, not {got}.")
    right("10.2")
