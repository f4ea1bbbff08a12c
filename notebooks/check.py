"""Checks of the exercises: `check.exercise_03_1(your_function)` says "right", or in a sentence what is wrong."""

from functools import wraps
from importlib import import_module
from pathlib import Path

import torch


class NotYet(AssertionError):
    """An answer that is not right yet; a notebook shows its sentence and no traceback."""

    def _render_traceback_(self):
        return [f"Not yet: {self}"]


def right(exercise):
    print(f"Exercise {exercise}: right.")


def kindly(check):
    """The same check, which also says in a sentence when the answer raises an error or returns what cannot be compared.

    The NotImplementedError of an exercise that nobody has begun passes through: its text is the hint.
    """

    @wraps(check)
    def checked(answer):
        if not callable(answer):
            raise NotYet(f"give the function itself, `{check.__name__}(your_function)`, not what it returns.")
        returned = []

        @wraps(answer)
        def asked(*args, **kwargs):
            try:
                returned.append(answer(*args, **kwargs))
            except (NotYet, NotImplementedError):
                raise
            except Exception as error:
                raise NotYet(f"your function raised {_told(error)}") from error
            return returned[-1]

        try:
            check(asked)
        except (NotYet, NotImplementedError):
            raise
        except Exception as error:
            if not returned:  # then it is not the answer's fault
                raise
            if returned[-1] is None:
                raise NotYet("your function returned None: does it end with `return`?") from error
            kind = type(returned[-1]).__name__
            raise NotYet(f"your function returned a {kind} that cannot be compared: {_told(error)}") from error

    return checked


def _told(error):
    """The error as the end of a sentence."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200].rstrip('.')}."


# --- lesson 03


def exercise_03_1(answer):
    slots = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    for token in torch.tensor([[0.0, 0.0], [1.0, -0.5], [-2.0, 3.0], [5.0, 1.0]]):
        read = (slots @ token / 2**0.5).softmax(0) @ slots
        got = torch.as_tensor(answer(read))
        if got.shape != (2,):
            raise NotYet(f"a token has shape (2,), yours has {tuple(got.shape)}.")
        if not torch.allclose(got, token, atol=1e-3):
            if torch.allclose(got * 2**0.5, token, atol=1e-3):
                raise NotYet("your token is too short by sqrt(2): the similarity is the dot product divided by sqrt(D).")
            raise NotYet(f"the read {read.numpy().round(3)} belongs to {token.tolist()}, you say {got.numpy().round(3)}.")
    right("03.1")


def exercise_03_2(answer):
    torch.manual_seed(0)
    queries, keys, values = torch.randn(2, 3, 4), torch.randn(5, 4), torch.randn(5, 4)
    for factor in (1, 10):
        similarity = torch.einsum("bnd,md->bnm", queries, keys) / 2  # sqrt(4)
        true = (factor * similarity).exp() / (factor * similarity).exp().sum(-1, keepdim=True)
        reads, weights = answer(queries, keys, values, factor)
        for name, got, shape in (("reads", reads, (2, 3, 4)), ("weights", weights, (2, 3, 5))):
            if got.shape != shape:
                raise NotYet(f"{name} have shape {tuple(got.shape)}, not {shape}: B = 2, N = 3, D = 4, M = 5.")
        if not torch.allclose(weights.sum(-1), torch.ones(2, 3), atol=1e-4):
            raise NotYet("each token's weights must sum to 1 over the slots, the last axis.")
        if not torch.allclose(weights, true, atol=1e-4):
            raise NotYet(f"at factor {factor} the weights are not the softmax of factor * q k / sqrt(D).")
        if not torch.allclose(reads, true @ values, atol=1e-4):
            raise NotYet("the reads are not the weights times the values.")
    right("03.2")


# --- lesson 04


def exercise_04_1(answer):
    torch.manual_seed(0)
    a, b = torch.rand(5, 6), torch.rand(5, 6)
    for size in (5, 3):
        values = []
        for i in range(5 - size + 1):
            for j in range(6 - size + 1):
                u, v = a[i : i + size, j : j + size].flatten(), b[i : i + size, j : j + size].flatten()
                variance_u, covariance, _, variance_v = torch.cov(torch.stack([u, v])).flatten()
                means = (2 * u.mean() * v.mean() + 0.01) / (u.mean() ** 2 + v.mean() ** 2 + 0.01)
                values.append(means * (2 * covariance + 0.03) / (variance_u + variance_v + 0.03))
        got, true = torch.as_tensor(answer(a, b, size)), torch.stack(values).mean()
        if got.numel() != 1:
            raise NotYet(f"the answer is one number, the mean over the windows; yours has shape {tuple(got.shape)}.")
        if not torch.isclose(got.float(), true, atol=1e-4):
            raise NotYet(f"5 x 6 maps, window {size}, {len(values)} windows: {true:.4f}, not {float(got):.4f}. Is each window compared with its partner only?")
    right("04.1")


def exercise_04_2(answer):
    for B, N, D in ((2, 4, 2), (3, 4, 3), (2, 4, 4), (1, 4, 3), (3, 4, 8)):
        line = [image for _ in range(N) for image in range(B) for _ in range(D)]  # as (N, B, D) lies in memory
        mixed = sum(len(set(line[k : k + N])) > 1 for k in range(0, len(line), N)) / (B * D)
        got = float(answer(B, N, D))
        if abs(got - mixed) > 1e-6:
            kind = "count" if abs(got - mixed * B * D) < 1e-6 else "share"
            raise NotYet(f"B = {B}, N = {N}, D = {D}: a share of {mixed:.3f} of the rows mix images, not a {kind} of {got:.3f}.")
    right("04.2")


# --- end of the lessons

for _path in sorted(Path(__file__).parent.glob("check_[0-9]*.py")):  # while lessons are being written
    globals().update({k: v for k, v in vars(import_module(_path.stem)).items() if k.startswith("exercise_")})
for _name in [name for name in globals() if name.startswith("exercise_")]:
    globals()[_name] = kindly(globals()[_name])
