"""Checks of the exercises: `check.exercise_03_1(your_function)` says whether it is right, wrong (and why) or not done.

And of each lesson's quiz: `check.quiz_03(q1="a", q2="c", q3="b")`; the reasons are in `quiz/03.yaml`.
`check.hint("03.1")` gives the hints of an exercise, one at a time; a class's copy of a lesson brings them.

Each exercise is some arguments, and a function of these that returns what is right and what usual mistakes return:
{sentence: value}. A wrong answer gets the sentence that explains all of its results, and the first wrong one of them.
"""

import copy
import inspect
import warnings
from collections import Counter
from functools import wraps
from pathlib import Path

import numpy as np
import torch
import yaml
from scipy.stats import t as student

from dumenet.metrics import auroc
from dumenet.models import ssim


class NotYet(AssertionError):
    """A wrong answer; a notebook shows its sentence and no traceback."""

    def _render_traceback_(self):
        return [f"Not yet: {self}"]


class NotDone(NotImplementedError):
    """What an exercise raises that nobody has begun: its number. A cell that needs the exercise shows one line."""

    def _render_traceback_(self):
        return [f"This cell waits for {f'exercise {self}' if self.args else 'an exercise'}."]


HINTS = {}  # "03.1": [a hint, one that says nearly everything]
given_hints = Counter()


def hint(number):
    """Print the next hint of an exercise such as "03.1"; after the last one, the last one again."""
    print(
        next_hint(number) or f"There is no hint for {number!r}; some exercises with hints: {', '.join(HINTS) or '-'}."
    )


def next_hint(number):
    """The next hint as a sentence; nothing where there is none."""
    if not (hints := HINTS.get(number)):
        return ""
    k = min(given_hints[number], len(hints) - 1)
    given_hints[number] += 1
    more = " (Run this again for a second hint.)" if k + 1 < len(hints) else ""
    return f"Hint{f' {k + 1}' if k else ''}: {hints[k]}{more}"


def exercise(*cases):
    """Make the check of an answer from tuples of arguments and a function of them: (right, {sentence: wrong}).

    `right` may be a function of a number: what is wrong with it, or None. A `wrong` may be a function that says whether
    a wrong result comes from this mistake.
    """

    def decorate(solve):
        number = solve.__name__.removeprefix("exercise_").replace("_", ".")

        @wraps(solve)
        def check(answer, strict=False):  # strict: an exercise that is not done is an error, which costs its points
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    grade(answer, solve, cases)
            except NotImplementedError:
                if strict:
                    raise
                print(f"Exercise {number} is not done yet. {next_hint(number)}".rstrip())
            else:
                print(f"Exercise {number}: right.")

        return check

    return decorate


def grade(answer, solve, cases):
    """Raises NotYet with a sentence where `answer` does not return for all cases what `solve` says."""
    if not callable(answer):
        raise NotYet(f"give the function itself, `check.{solve.__name__}(your_function)`, not what it returns.")
    results, faults = [], []
    for given in cases:
        right, mistakes = solve(*given)
        where = ", ".join(f"{name} {shown(v)}" for name, v in zip(inspect.signature(solve).parameters, given))
        passed = copy.deepcopy(given)
        try:
            got = answer(*passed)
        except (NotYet, NotImplementedError):
            raise
        except Exception as error:
            said = " ".join(str(error).split())[:200].rstrip(".")
            raise NotYet(f"your function raised {type(error).__name__}: {said} (for {where}).") from error
        spoilt = "" if same(passed, given) else "what went in was changed in place: make a new one"
        if complaint := spoilt or misfit(got, right):
            raise NotYet(f"{complaint} (for {where}).")
        fault = right(float(got)) if callable(right) else contrast(got, right)
        general = {} if callable(right) else {said: scaled(right, by) for said, by in GENERAL.items()}
        results.append((got, fault is None, general | mistakes))
        faults += [f"{fault} (for {where})."] if fault else []
    if faults:
        reasons = dict.fromkeys(reason for *_, mistakes in results for reason in mistakes)
        raise NotYet(": ".join([*[r for r in reasons if explains(r, results)][:1], faults[0]]))


GENERAL = {"the sign is the other way round": -1, "everything is 100 times too large, as if in percent": 100}


def explains(reason, results):
    """Whether the mistake gives each of the results; where a case does not know it, the result must be right."""
    for got, good, mistakes in results:
        wrong = mistakes.get(reason, lambda got: False)
        if not (good or wrong(got) if callable(wrong) else same(got, wrong)):
            return False
    return True


def plain(value):
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()  # numpy has no bfloat16
    return value


def same(a, b):
    """Equal up to rounding: numbers, arrays, texts, None, and sequences and dictionaries of them."""
    if isinstance(b, dict):
        return isinstance(a, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in b)
    if isinstance(b, (tuple, list)):
        return isinstance(a, (tuple, list)) and len(a) == len(b) and all(map(same, a, b))
    try:
        return np.shape(a) == np.shape(b) and np.allclose(plain(a), plain(b), rtol=1e-3, atol=1e-5)
    except (TypeError, ValueError):  # texts, None
        return np.array_equal(a, b)


def scaled(value, by):
    if isinstance(value, dict):
        return {k: scaled(v, by) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(scaled(v, by) for v in value)
    return value if isinstance(value, (str, type(None))) else value * by


def form(value):
    """What a value is, as a sentence says it."""
    if isinstance(value, (int, float, np.number, np.bool_, torch.Tensor, np.ndarray)):
        kind = "torch tensor" if isinstance(value, torch.Tensor) else "numpy array"
        if (array := np.asarray(plain(value))).dtype.kind not in "biuf":  # complex numbers, texts, objects
            return f"a {kind} of {array.dtype}"
        return f"a {kind} of shape {tuple(value.shape)}" if np.ndim(value) else "one number"
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    return "None" if value is None else f"a {type(value).__name__}"


def misfit(got, right, inside=False):
    """Why `got` cannot be compared with `right`, as the beginning of a sentence; None where it can."""
    if got is None and right is not None and not inside:
        return "your function returned None: does it end with `return`?"
    wanted, found = "one number" if callable(right) else form(right), form(got)
    if wanted != found:
        return None if right is None else f"{wanted} is wanted, not {found}"
    if isinstance(right, (tuple, list, dict)):
        pairs = [(got[k], right[k]) for k in right if k in got] if isinstance(right, dict) else zip(got, right)
        pairs = [
            (g, r) for g, r in pairs if g is not None or np.ndim(plain(r))
        ]  # in the place of a number None is wrong
        return next((why for g, r in pairs if (why := misfit(g, r, inside=True))), None)
    if ("number" in wanted or "shape" in wanted) and np.isnan(plain(got)).any():
        return "a result is not a number (NaN): is something divided by zero?"
    return None


def shown(value):
    """A value as a sentence shows it: rounded, and only as a shape if it is large."""
    if isinstance(value := plain(value), np.ndarray):
        return f"of shape {value.shape}" if value.size > 8 else shown(value.tolist())
    if isinstance(value, (tuple, list)):
        text = ", ".join(map(shown, value))
        text = f"({text})" if isinstance(value, tuple) else f"[{text}]"
    elif isinstance(value, dict):
        text = f"{{{', '.join(f'{k!r}: {shown(v)}' for k, v in value.items())}}}"
    else:
        text = f"{value:.4g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= 160 else f"a {type(value).__name__} of {len(value)}"


def contrast(got, right):
    """Where the two differ first; None where they are the same."""
    if same(got, right):
        return None
    if isinstance(right, (tuple, list)) and any(np.ndim(plain(r)) for r in right if hasattr(r, "shape")):
        differ = (f"result {k}: {why}" for k, pair in enumerate(zip(got, right), 1) if (why := contrast(*pair)))
        return next(differ, f"{len(right)} results are wanted, not {len(got)}")
    if hasattr(right, "shape") and np.size(plain(right)) > 4 and np.shape(got) == np.shape(right):
        place = tuple(int(i[0]) for i in np.nonzero(~np.isclose(plain(got), plain(right), rtol=1e-3, atol=1e-5)))
        return f"at {list(place)} {float(right[place]):.4g} is right, not {float(got[place]):.4g}"
    return f"{shown(right)} is right, not {shown(got)}"


QUIZZES = Path(__file__).parent / "quiz"


def __getattr__(name):
    """`quiz_NN`, for each lesson that has a file in `quiz/`."""
    path = QUIZZES / f"{name.removeprefix('quiz_')}.yaml"
    if not (name.startswith("quiz_") and path.is_file()):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def quiz(q1=None, q2=None, q3=None):
        questions = yaml.safe_load(path.read_text(encoding="utf-8"))
        for number, answer in enumerate((q1, q2, q3), 1):
            print(f"Question {number}: {verdict(questions[number], answer)}")

    return quiz


def verdict(question, answer):
    """What is said of an answer; `question` holds the letter that is `right` and a reason for each letter."""
    if answer is None:
        return "no answer yet."
    letters, given = sorted(question.keys() - {"right"}), str(answer).strip().lower()
    if given not in letters:
        return f"{answer!r} is none of the options; answer with one of the letters {', '.join(letters)}, in quotes."
    return f"{'right' if given == question['right'] else 'not yet'}. {question[given]}"


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def tensor(values):
    return torch.as_tensor(values, dtype=torch.float32)


@exercise(
    (np.array([0, 0, 1, 1]), np.array([1.0, 2, 3, 4])),
    (np.array([1, 0, 1, 0, 0]), np.array([2.0, 2, 5, 1, 3])),
    ((np.arange(30) % 3 == 0).astype(int), np.random.default_rng(0).integers(0, 9, 30).astype(float)),
)
def exercise_00_1(labels, scores):
    right, defective, good = auroc(labels, scores), scores[labels == 1][:, None], scores[labels == 0]
    return right, {
        "you count the pairs in which the *normal* image scores higher": 1 - right,
        "a tie counts one half, not nothing": (defective > good).mean(),
        "a tie counts one half, not one": (defective >= good).mean(),
        "this is the sum; divide it by the number of pairs": right * defective.size * good.size,
    }


@exercise(
    (np.array([0, 0, 0, 1, 1, 1]), np.array([1.0, 2, 3, 4, 5, 6])),
    (np.array([0, 1, 0, 1, 0, 0]), np.array([5.0, 8, 1, 2, 3, 6])),
    *(((np.arange(40) % 4 == 0).astype(int), normal(seed, 40)) for seed in range(3)),
)
def exercise_00_2(labels, scores):
    gap = lambda t: abs((scores[labels == 1] > t).mean() - (scores[labels == 0] <= t).mean())  # noqa: E731
    least = min(map(gap, scores))

    def fault(t):
        if not np.isclose(scores, t).any():
            return f"the threshold must be one of the scores, which {t:.4g} is not"
        apart = gap(t)
        return f"{t:.4g} leaves the two shares {apart:.2f} apart; {least:.2f} is possible" if apart > least else None

    return fault, {}


@exercise(*((tensor(normal(0, 200, 4) * [3, 1, 0.3, 2] + 5), tensor(normal(1, 6, 4) + 5), k) for k in (1, 2, 4)))
def exercise_01_1(tokens, x, k):
    mean = tokens.mean(0)
    axes = torch.linalg.svd(tokens - mean, full_matrices=False).Vh  # (C, C), largest variance first
    largest, smallest = axes[:k].T @ axes[:k], axes[-k:].T @ axes[-k:]
    from_zero = torch.linalg.svd(tokens, full_matrices=False).Vh[:k]
    from_zero = from_zero.T @ from_zero
    return mean + (x - mean) @ largest, {
        "these are the directions of smallest variance: eigh sorts upwards": mean + (x - mean) @ smallest,
        "the mean is missing: what was subtracted must be added again": (x - mean) @ largest,
        "subtract the mean before you project, and add it again after": x @ largest,
        "subtract the mean before you project": mean + x @ largest,
        "subtract the tokens' mean before you look for the directions, and before you project": x @ from_zero,
        "subtract the tokens' mean before you look for the directions": mean + (x - mean) @ from_zero,
        "subtract the mean of the tokens, not that of x": x.mean(0) + (x - x.mean(0)) @ largest,
    }


HALVES = np.array([0, 0, 1, 1, 0, 0, 1, 1]), np.array([True] * 4 + [False] * 4)
LOOKS = np.array([[1.0, 3, 2, 4, 1, 2, 3, 4], [1, 2, 3, 4, 3, 4, 2, 1]])  # AUROC on the halves: 0.75 and 1, 1 and 0


@exercise((LOOKS, *HALVES), (LOOKS[::-1].copy(), *HALVES))
def exercise_01_2(scores, labels, half):
    here, there = ([auroc(labels[h], s[h]) for s in scores] for h in (half, ~half))
    best, other = np.argmax(here), np.argmax(there)
    return (here[best], there[best]), {
        "the look that is best on `half` is used on the other half, too": (max(here), max(there)),
        "the half that chose comes first, the other half second": (there[best], here[best]),
        "the look must be chosen on `half` alone": (here[other], there[other]),
    }


LAYERS = [(3, 1, 1)], [(3, 2, 1), (5, 1, 2)], [(5, 1, 0), (3, 3, 1), (2, 2, 0)]


@exercise(*((layers, p) for layers in LAYERS for p in (10, 0)))
def exercise_02_1(layers, p):
    def span(order=layers[::-1], pad=1, end=-1, least=-np.inf):
        first = last = p
        for kernel, stride, padding in order:
            first, last = max(first, least), max(last, least)
            first, last = first * stride - pad * padding, last * stride - pad * padding + kernel + end
        return first, last

    first, last = span()
    return (first, last), {
        "numbers below 0 are padding: do not cut them at 0": (max(first, 0), max(last, 0)),
        "numbers below 0 are padding: do not cut them at 0 between the layers": span(least=0),
        "the last pixel is one too far: the one that is still seen": (first, last + 1),
        "a kernel reads its first position and kernel - 1 more, not kernel more": span(end=0),
        "the padding is missing": span(pad=0),
        "the padding is subtracted, not added": span(pad=-1),
        "go through the layers from the last to the first": span(layers),
    }


@exercise(*((normal(h * w, h, w), n) for h, w, n in ((2, 2, 3), (7, 7, 3), (8, 5, 4), (5, 5, 5))))
def exercise_02_2(stage, n):
    size = {"size": (n, n), "mode": "bilinear"}
    right, other = (
        torch.nn.functional.interpolate(torch.from_numpy(stage)[None, None], **size, align_corners=aligned)[
            0, 0
        ].numpy()
        for aligned in (True, False)
    )
    corners = lambda m: m[[0, 0, -1, -1], [0, -1, 0, -1]]  # noqa: E731
    return right, {
        "bilinear without aligned corners: the last point must lie on the last value, at L - 1": other,
        "the four corners must keep their values": lambda got: not same(corners(got), corners(stage)),
        "the corners are right, but not what lies between": lambda got: same(corners(got), corners(stage)),
    }


SAMPLES = torch.from_numpy(normal(0, 6, 3) @ [[2, 1, 0], [0, 1, 1], [0, 0, 0.3]])


@exercise(*((torch.from_numpy(normal(1, 4, 3)), SAMPLES, s) for s in (0.01, 1.0)))
def exercise_02_3(x, samples, s):
    deviation, ridge = x - samples.mean(0), s * torch.eye(3, dtype=x.dtype)
    covariance = torch.cov(samples.T, correction=0)
    squared = lambda c, d=deviation: torch.einsum("bi,ij,bj->b", d, torch.linalg.inv(c), d)  # noqa: E731
    from_zero = samples.T @ samples / len(samples)
    return squared(covariance + ridge).sqrt(), {
        "these are squared distances: take the root": squared(covariance + ridge),
        "this is the diagonal Gaussian: use the whole covariance": squared(covariance.diag().diag() + ridge).sqrt(),
        "divide the covariance by n, not by n - 1": squared(torch.cov(samples.T) + ridge).sqrt(),
        "s belongs on the diagonal only": squared(covariance + s).sqrt(),
        "s is missing on the diagonal": squared(covariance).sqrt(),
        "this is the sum of the products, no covariance yet: divide by n": squared(
            covariance * len(samples) + ridge
        ).sqrt(),
        "subtract the mean of the samples from x": squared(covariance + ridge, x).sqrt(),
        "subtract the mean of the samples, for the covariance and from x": squared(from_zero + ridge, x).sqrt(),
        "subtract the mean of the samples for the covariance, too": squared(from_zero + ridge).sqrt(),
        "the mean to subtract is that of the samples, not of x": squared(covariance + ridge, x - x.mean(0)).sqrt(),
        "multiply by the inverse of the covariance, not by the covariance": squared(
            torch.linalg.inv(covariance + ridge)
        ).sqrt(),
    }


SLOTS, TOY_TOKENS = tensor([[1, 0], [0, 1], [0, 0]]), tensor([[0.5, 0.5], [1, -0.5], [-2, 3], [5, 1]])
READS = (TOY_TOKENS @ SLOTS.T / 2**0.5).softmax(1) @ SLOTS


@exercise(*((read,) for read in READS))
def exercise_03_1(read):
    token = TOY_TOKENS[(READS - read).norm(dim=1).argmin()]
    return token, {
        "the token is too short by sqrt(2): the similarity is the dot product divided by sqrt(D)": token / 2**0.5,
        "the token is too long by sqrt(2): multiply by sqrt(2) once": token * 2**0.5,
        "divide each weight by the third one before the logarithm": 2**0.5 * torch.log(read),
    }


@exercise(*((tensor(normal(0, 2, 3, 4)), tensor(normal(1, 5, 4)), tensor(normal(2, 5, 4)), f) for f in (1, 10)))
def exercise_03_2(queries, keys, values, factor):
    similarity = torch.einsum("bnd,md->bnm", queries, keys) / 2  # sqrt(4)
    weights = (factor * similarity).softmax(-1)
    both = lambda w: (w @ values, w)  # noqa: E731
    return both(weights), {
        "the weights are the softmax of factor * q k / sqrt(D): divide by sqrt(D)": both(
            (2 * factor * similarity).softmax(-1)
        ),
        "the weights sum to 1 over the slots, the last axis": lambda got: not same(got[1].sum(-1), torch.ones(2, 3)),
        "multiply by the factor, do not divide": both((similarity / factor).softmax(-1)),
        "the reads are not the weights times the values": lambda got: same(got[1], weights),
    }


@exercise(*((*tensor(np.random.default_rng(0).random((2, 5, 6))), size) for size in (5, 3)))
def exercise_04_1(a, b, size):
    u, v = (m.unfold(0, size, 1).unfold(1, size, 1).reshape(-1, size * size) for m in (a, b))  # (windows, size^2)
    each = ssim(u, v).diagonal()
    return each.mean().item(), {
        "each window is compared with its partner only": ssim(u, v).mean().item(),
        "this is the SSIM of the whole maps, without windows": ssim(a.reshape(1, -1), b.reshape(1, -1)).item(),
        "this is the sum over the windows, not their mean": each.sum().item(),
    }


@exercise((2, 4, 2), (3, 4, 3), (2, 4, 4), (1, 4, 3), (3, 4, 8))
def exercise_04_2(B, N, D):
    line = [image for _ in range(N) for image in range(B) for _ in range(D)]  # as (N, B, D) lies in memory
    mixed = sum(len(set(line[k : k + N])) > 1 for k in range(0, len(line), N))
    return mixed / (B * D), {
        "the share of the rows is wanted, not their number": mixed,
        "this is the share of the rows that hold one image only": 1 - mixed / (B * D),
    }


@exercise(*((tensor(normal(0, 2, 3, 6)).tanh(), temperature) for temperature in (1.0, 0.1, 4.0)))
def exercise_05_1(similarity, temperature):
    return (similarity / temperature).softmax(-1), {
        "divide by the temperature: a low one is sharp": (similarity * temperature).softmax(-1),
        "the temperature is not used": similarity.softmax(-1),
        "the weights must sum to 1 over the slots, the last axis": lambda got: not same(got.sum(-1), torch.ones(2, 3)),
    }


MAPS = np.zeros((4, 28, 28))
MAPS[range(4), [27, 27, 5, 0], [0, 1, 20, 27]] = 1, 2, 3, 4


@exercise((MAPS, 14), (MAPS, 4))
def exercise_05_2(maps, grid):
    count = np.zeros((grid, grid), int)
    for _, row, column in zip(*np.nonzero(maps)):
        count[row * grid // 28, column * grid // 28] += 1
    return count, {
        "rows and columns are exchanged": count.T,
        "two maxima in one cell count twice": np.minimum(count, 1),
        "four maps have four maxima": lambda got: np.sum(got) != 4,
    }


def mean_square(errors):
    """Second moments over the first axis: (n, ..., C) to (..., C, C)."""
    return (errors[..., :, None] * errors[..., None, :]).mean(0)


def length(error, spread):
    """Lengths (...,) of errors (..., C) under spreads (..., C, C)."""
    return np.sqrt((error * np.linalg.solve(spread, error[..., None])[..., 0]).sum(-1))


@exercise(*((normal(n, n, 3) * [2, 1, 0.5] + [0.5, 0, 1], normal(1, 4, 3), ridge) for n, ridge in ((6, 0.1), (9, 2.0))))
def exercise_06_1(errors, new, ridge):
    moment, unit = mean_square(errors), np.eye(3)
    level = ridge * np.trace(moment) / 3
    right, centred = length(new, moment + level * unit), mean_square(errors - errors.mean(0))
    return right, {
        "these are squared lengths: take the root": right**2,
        "the mean of the errors is taken as 0: do not subtract it": length(
            new, centred + ridge * np.trace(centred) / 3 * unit
        ),
        "the ridge is missing": length(new, moment),
        "the ridge is times the *mean* variance, the mean of the diagonal": length(new, moment + ridge * unit),
        "the mean variance is wanted, not the sum of the variances": length(new, moment + 3 * level * unit),
        "the ridge belongs on the diagonal only": length(new, moment + level),
        "divide by the number of images, n": right * np.sqrt(1 - 1 / len(errors)),
        "this is the diagonal alone: use the whole matrix": length(new, (moment + level) * unit),
        "this is the norm": np.linalg.norm(new, axis=-1),
    }


@exercise(*((normal(seed, n, 3) * [1.5, 1, 0.5] + [0, 0.5, 0],) for seed, n in enumerate((5, 8))))
def exercise_06_2(errors):
    n, every, unit = len(errors), mean_square(errors), np.eye(3)
    others = (n * every - errors[:, :, None] * errors[:, None, :]) / (n - 1)  # (n, C, C)
    centred = np.stack([np.cov(np.delete(errors, i, 0).T, ddof=0) for i in range(n)])
    right = length(errors, (others + unit) / 2)
    return right, {
        "an error must not take part in its own spread: leave it out": length(errors, (every + unit) / 2),
        "n - 1 others are left: divide by their number": length(errors, (others * (n - 1) / n + unit) / 2),
        "these are squared lengths: take the root": right**2,
        "the mean of the errors is taken as 0: do not subtract it": length(errors, (centred + unit) / 2),
        "half of the spread is the unit matrix": length(errors, others),
        "half of each: this is the sum of the two": length(errors, others + unit),
    }


@exercise(
    *(([tensor(a), tensor(b)], c) for a, b, c in (([3, 0], [[4]], 1), ([0.3], [0.4, 0], 1), ([6], [[2, 3]], 3.5)))
)
def exercise_07_1(gradients, limit):
    norm = float(sum(g.square().sum() for g in gradients)) ** 0.5
    return [g * min(1, limit / norm) for g in gradients], {
        "one norm for all tensors together, not one for each": [g * min(1, limit / g.norm().item()) for g in gradients],
        "a norm below the limit stays as it is": [g * limit / norm for g in gradients],
        "scale all by one factor: cutting single numbers turns the direction": [
            g.clamp(-limit, limit) for g in gradients
        ],
        "one root of all squares together, not the sum of the tensors' norms": [
            g * min(1, limit / sum(g.norm().item() for g in gradients)) for g in gradients
        ],
        "the norm is the root of the sum of the squares": [g * min(1, limit / norm**2) for g in gradients],
    }


IMAGES = tensor(normal(0, 8, 4))  # one gradient an image


@exercise(*((torch.stack([p.mean(0) for p in IMAGES.split(n)]), tensor(n)) for n in ([4, 4], [5, 3], [1, 2, 5])))
def exercise_07_2(gradients, counts):
    return IMAGES.mean(0), {
        "a part counts as often as it has images": gradients.mean(0),
        "this is the sum over all images; divide by their number": IMAGES.sum(0),
        "divide by the number of images, not of parts": IMAGES.sum(0) / len(counts),
    }


MASK = np.array([[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1]])
HEAT = np.array([[5, 3, 9, 0, 0], [3, 1, 0, 0, 0], [0, 0, 3, 0, 0], [0, 9, 0, 0, 0], [0, 0, 0, 0, 2.0]])


@exercise(*((MASK, HEAT, threshold) for threshold in (3, 2, 4, 0)), (MASK * 0, HEAT, 3))
def exercise_08_1(mask, anomaly_map, threshold):
    if not mask.any():
        return None, {"a mask without any region has no overlap: return None": lambda got: got is not None}
    inside = mask == 1
    shares = lambda hit: [hit[:3, :3][inside[:3, :3]].mean(), hit[4, 4]]  # of the two regions  # noqa: E731
    found = anomaly_map >= threshold
    return np.mean(shares(found)), {
        "regions that touch at a corner are one region": np.mean([found[:2, :2].mean(), found[2, 2], found[4, 4]]),
        "each region has one vote, whatever its size": found[inside].mean(),
        "a score equal to the threshold counts as found": np.mean(shares(anomaly_map > threshold)),
        "the mean over the regions is wanted, not their sum": np.sum(shares(found)),
    }


CATEGORIES, THRESHOLDS = np.array(["cap", "cap", "weave", "new"]), {"cap": 2.0, "weave": 16.0, "all": 10.0}


@exercise((np.array([2.0, 3.0, 8.0, 5.0]), CATEGORIES, THRESHOLDS))
def exercise_08_2(scores, categories, thresholds):
    own = np.array([2.0, 2.0, 16.0, 10.0])
    return scores / own, {
        "every score was divided by the threshold of 'all': use the category's own where there is one": scores / 10,
        "divide, do not subtract: a score at its threshold becomes 1, not 0": scores - own,
        "this is threshold / score, so that larger means less anomalous": own / scores,
        "a category without a threshold of its own is divided by the one named 'all'": lambda got: got[2] == 0.5,
    }


@exercise(*((normal(n, n, c), normal(m, m, c), k) for n, m, c, k in ((6, 4, 3, 2), (5, 7, 2, 1), (9, 3, 4, 9))))
def exercise_09_1(known, asked, k):
    distance = np.array([[np.linalg.norm(a - b) for b in known] for a in asked])  # (m, n)
    ordered = np.sort(distance, axis=1)
    return ordered[:, :k].mean(1), {
        "take the root: the distances came out squared": (ordered[:, :k] ** 2).mean(1),
        "the mean of the k nearest is wanted, not the k-th alone": ordered[:, k - 1],
        "the mean of the k nearest is wanted, not their sum": ordered[:, :k].sum(1),
        "the nearest, not the first k of the training images": distance[:, :k].mean(1),
        "the nearest are the smallest distances, not the largest": ordered[:, -k:].mean(1),
        "sum over the channels, not their mean": ordered[:, :k].mean(1) / np.sqrt(known.shape[1]),
    }


@exercise(*((np.array(a),) for a in ([0.9, 0.3, 0.6], [0.2], [0.5, 0.75], [0.1, 0.2, 0.4, 0.9])))
def exercise_09_2(aurocs):
    mean, flipped = aurocs.mean(), np.maximum(aurocs, 1 - aurocs).mean()
    return (mean, flipped), {
        "first the mean as it is, then the flipped one: they are the other way round": (flipped, mean),
        "flip each value, not the mean of them": (mean, max(mean, 1 - mean)),
        "flip only the values below one half": (mean, 1 - mean),
        "these are sums; divide by the number of values": (aurocs.sum(), flipped * len(aurocs)),
    }


def half_width(values, n, ddof=1, level=0.975):
    return student.ppf(level, n - 1) * np.std(values, ddof=ddof) / np.sqrt(n)


@exercise(
    *((np.array(d), n) for d, n in (([0.02, 0.01, 0.03], 3), ([0.02, 0.01, 0.03], 10), ([-0.3, 0.1, 0.5, 0.2], 5)))
)
def exercise_10_1(differences, planned):
    right = half_width(differences, planned)
    return right, {
        "divide by n - 1 in the standard deviation": half_width(differences, planned, ddof=0),
        "divide by the root of the planned number": right * np.sqrt(planned),
        "the planned number of seeds decides, not the observed one": half_width(differences, len(differences)),
        "with few seeds the factor is Student's t, not 1.96": 1.96 * np.std(differences, ddof=1) / np.sqrt(planned),
        "an interval of 95 % leaves 2.5 % on each side": half_width(differences, planned, level=0.95),
        "the half-width is wanted, not the whole width": 2 * right,
    }


@exercise(*((np.array(p),) for p in ([0.01, 0.02, 0.03], [0.03, 0.01, 0.02], [0.9, 0.001, 0.6, 0.3], [0.04])))
def exercise_10_2(p):
    order = np.argsort(p)
    raised = p[order] * np.arange(len(p), 0, -1)
    running, back = np.maximum.accumulate(raised), np.argsort(order)
    return np.minimum(running, 1)[back], {
        "this is Bonferroni's correction; the second smallest is multiplied by m - 1 only": np.minimum(p * len(p), 1),
        "right values, wrong places: give them back in the order of the input": np.minimum(running, 1),
        "no p value is above 1: cut there": running[back],
        "a larger p value must not end up below a smaller one: take the running maximum": np.minimum(raised, 1)[back],
    }


@exercise((5.0, 0.1), (0.3, 0.28), (1.0, 1.0), (0.9, 0.3), (0.5, 0.2))
def exercise_11_1(gain, deviation):
    def first(factor=2, quantile=lambda n: student.ppf(0.975, 2 * n - 2)):
        return next(n for n in range(2, 999) if quantile(n) * deviation * np.sqrt(factor / n) < gain)

    return first(), {
        "with few runs the factor is Student's t, not 1.96": first(quantile=lambda n: 1.96),
        "the difference of two means has the variance of both: 2 / n, not 1 / n": first(factor=1),
        "two groups of n runs leave 2n - 2 degrees of freedom": first(quantile=lambda n: student.ppf(0.975, n - 1)),
        "one too few: at that n the interval still covers zero": first() - 1,
        "one too many: the smallest n is wanted": first() + 1,
        "a whole number is wanted": lambda got: got != int(got),
    }


@exercise(
    ({"A": [90.0, 92.0], "B": [80.0, 81.0]}, {"A": 91.0, "B": 80.0}, 0.1),
    ({"A": [50.0, None, 60.0], "B": [70.0]}, {"A": 56.0, "B": 70.05}, 0.1),
    ({"A": [None, None], "B": [1.0, 2.0]}, {"A": None, "B": None}, 0.1),
    ({"A": [50.0, 51.0]}, {"A": 50.8}, 0.5),
)
def exercise_11_2(columns, printed, tolerance):
    rows = {m: [v for v in column if v is not None] for m, column in columns.items()}
    gaps = {m: printed[m] - np.mean(row) for m, row in rows.items() if row and printed[m] is not None}
    right = {m: gap for m, gap in gaps.items() if abs(gap) > tolerance}
    sums = {m: printed[m] - np.sum(rows[m]) for m in gaps}
    zeros = {m: printed[m] - np.mean([v or 0 for v in columns[m]]) for m in columns if printed[m] is not None}
    return right, {
        "keep a method only if its gap is larger than the tolerance": gaps,
        "a printed mean that is too low counts, too: take the absolute gap": {m: g for m, g in right.items() if g > 0},
        "the mean of the rows is wanted, not their sum": {m: g for m, g in sums.items() if abs(g) > tolerance},
        "None is left out, not counted as zero": {m: g for m, g in zeros.items() if abs(g) > tolerance},
    }


def tied_map(shape, levels):
    mask = np.zeros(shape, bool)
    mask[1:4, 2:5] = True
    return np.random.default_rng(levels).integers(0, levels, shape) / levels + 0.6 * mask, mask


@exercise(tied_map((6, 7), 1000), tied_map((8, 5), 6), tied_map((9, 9), 30))  # the last two have many ties
def exercise_12_1(anomaly_map, mask):
    iou = lambda t: (mask & (anomaly_map >= t)).sum() / (mask | (anomaly_map >= t)).sum()  # noqa: E731
    best = max(map(iou, anomaly_map.ravel()))

    def fault(t):
        return f"at {t:.4g} the IoU is {iou(t):.3f}; {best:.3f} is possible" if iou(t) < best - 1e-9 else None

    return fault, {"return the threshold, not the IoU itself": best}


@exercise((normal(0, 5, 4, 5), [2, 3]), (normal(1, 7, 3, 3), [1, 4, 2]))
def exercise_12_2(difference, channels):
    parts = [difference[end - n : end] for n, end in zip(channels, np.cumsum(channels))]
    share = lambda sums: np.stack(sums) / np.sum(sums, axis=0)  # noqa: E731
    return share([(part**2).sum(0) for part in parts]), {
        "the shares sum to 1 over the stages at each position": lambda got: not np.allclose(got.sum(0), 1),
        "sum over a stage's channels, do not take the mean": share([(part**2).mean(0) for part in parts]),
        "share the squared error, not its root": share([np.sqrt((part**2).sum(0)) for part in parts]),
        "square the difference, do not take its absolute value": share([np.abs(part).sum(0) for part in parts]),
    }
