"""Checks of lesson 09; see check.py."""

import numpy as np
from check import NotYet, right
from scipy.stats import t as student


def exercise_09_1(answer):
    for differences, planned in (([0.02, 0.01, 0.03], 3), ([0.02, 0.01, 0.03], 10), ([-0.3, 0.1, 0.5, 0.2], 5)):
        where = f"for differences {differences} and {planned} seeds"
        got = answer(np.array(differences), planned)
        if np.ndim(got) != 0:
            raise NotYet(f"one number is wanted, {where} came something of shape {np.shape(got)}.")
        s, factor = np.std(differences, ddof=1), student.ppf(0.975, planned - 1)
        expected = factor * s / np.sqrt(planned)
        mistakes = {
            "divide by n - 1 in the standard deviation": factor * np.std(differences) / np.sqrt(planned),
            "divide by the root of the planned number": factor * s,
            "the planned number of seeds decides, not the observed one": student.ppf(0.975, len(differences) - 1)
            * s / np.sqrt(len(differences)),
            "with few seeds the factor is Student's t, not 1.96": 1.96 * s / np.sqrt(planned),
            "an interval of 95 % leaves 2.5 % on each side": student.ppf(0.95, planned - 1) * s / np.sqrt(planned),
            "the half-width is wanted, not the whole width": 2 * expected,
        }
        if not np.isclose(got, expected):
            why = [text for text, wrong in mistakes.items() if np.isclose(got, wrong, rtol=1e-3)]
            raise NotYet(f"{why[0] if why else f'{expected:.4f} is right, not {float(got):.4f}'} ({where}).")
    right("09.1")


def exercise_09_2(answer):
    cases = (
        ([0.01, 0.02, 0.03], [0.03, 0.04, 0.04]), ([0.03, 0.01, 0.02], [0.04, 0.03, 0.04]),
        ([0.9, 0.001, 0.6, 0.3], [1, 0.004, 1, 0.9]), ([0.04], [0.04]),
    )  # fmt: skip
    for p, expected in cases:
        got = np.asarray(answer(np.array(p)), dtype=float)
        if got.shape != (len(p),):
            raise NotYet(f"{len(p)} p values went in, something of shape {got.shape} came out.")
        if np.allclose(got, expected):
            continue
        m = len(p)
        if np.allclose(got, np.minimum(np.array(p) * m, 1)):
            raise NotYet(f"that is Bonferroni's correction; the second smallest is multiplied by m - 1 only (p = {p}).")
        if np.allclose(np.sort(got), np.sort(expected)):
            raise NotYet(f"right values, wrong places: give them back in the order of the input (p = {p}).")
        if (got > 1).any():
            raise NotYet(f"a p value above 1: cut there (p = {p}).")
        order = np.argsort(p)
        if (np.diff(got[order]) < 0).any():
            raise NotYet(f"a larger p value must not end up below a smaller one: take the running maximum (p = {p}).")
        raise NotYet(f"for p = {p} the result is {np.round(got, 4).tolist()}, and {expected} is right.")
    right("09.2")
