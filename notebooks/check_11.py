import numpy as np
from check import NotYet, right
from scipy.stats import t as student


def exercise_11_1(answer):
    for gain, spread in ((5.0, 0.1), (0.3, 0.28), (1.0, 1.0), (0.9, 0.3), (0.5, 0.2)):
        half = lambda n, f=2, df=None: student.ppf(0.975, df or 2 * n - 2) * spread * np.sqrt(f / n)  # noqa: E731, B023
        first = lambda below: next(n for n in range(2, 999) if below(n) < gain)  # noqa: E731, B023
        got, true = answer(gain, spread), first(half)
        if np.ndim(got) or int(got) != got:
            raise NotYet(f"the answer is one whole number, not {got!r}.")
        if got != true:
            mistakes = {
                "with few runs the factor is Student's t, not 1.96": first(lambda n: 1.96 * spread * np.sqrt(2 / n)),  # noqa: B023
                "the difference of two means has the variance of both: 2 / n, not 1 / n": first(lambda n: half(n, 1)),  # noqa: B023
                "two groups of n runs leave 2n - 2 degrees of freedom, not n - 1": first(lambda n: half(n, 2, n - 1)),  # noqa: B023
                "one too few: at that n the interval still covers zero": true - 1,
                "one too many: the smallest n is wanted": true + 1,
            }
            why = [text for text, n in mistakes.items() if got == n]
            raise NotYet(f"gain {gain}, spread {spread}: {true} runs, not {got}" + (f"; {why[0]}." if why else "."))
    right("11.1")


def exercise_11_2(answer):
    cases = (
        ({"A": [90.0, 92.0], "B": [80.0, 81.0]}, {"A": 91.0, "B": 80.0}, 0.1, {"B": -0.5}, "two methods"),
        ({"A": [50.0, None, 60.0], "B": [70.0]}, {"A": 56.0, "B": 70.05}, 0.1, {"A": 1.0}, "a dash in a row"),
        ({"A": [None, None], "B": [1.0, 2.0]}, {"A": None, "B": None}, 0.1, {}, "no printed mean"),
        ({"A": [50.0, 51.0]}, {"A": 50.8}, 0.5, {}, "a tolerance of 0.5"),
    )
    for columns, printed, tolerance, expected, what in cases:
        got = answer({k: list(v) for k, v in columns.items()}, dict(printed), tolerance)
        if not isinstance(got, dict):
            raise NotYet(f"a dictionary is wanted, not a {type(got).__name__}.")
        if set(got) != set(expected):
            raise NotYet(f"{what}, tolerance {tolerance}: the methods are {sorted(expected)}, not {sorted(got)}.")
        for method, gap in expected.items():
            if np.isclose(float(got[method]), -gap):
                raise NotYet(f"{what}: the sign is the other way round, printed minus recomputed.")
            if not np.isclose(float(got[method]), gap):
                raise NotYet(f"{what}: method {method} is off by {gap:+.2f}, not {float(got[method]):+.2f}.")
    right("11.2")
