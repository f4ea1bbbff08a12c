"""Checks of the exercises: `check.exercise_03_1(your_function)` says "right", or in a sentence what is wrong."""

from functools import wraps

import numpy as np
import torch
from scipy.stats import t as student


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
        except NotYet:
            raise
        except NotImplementedError as hint:  # where it was raised helps nobody
            raise hint.with_traceback(None) from None
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


# --- lesson 00


def exercise_00_1(answer):
    rng = np.random.default_rng(0)
    cases = [
        ([0, 0, 1, 1], [1, 2, 3, 4]),
        ([1, 0, 1, 0, 0], [2, 2, 5, 1, 3]),
        (rng.permutation(np.arange(30) % 3 == 0), rng.integers(0, 9, 30)),
    ]
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
            raise NotYet(
                f"for {what} the AUROC is {true:.3f}, not {got:.3f}. Do ties count one half, and is it divided by the number of pairs?"
            )
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
            raise NotYet(
                f"for {what} your threshold leaves the two shares {gap(got):.2f} apart; {least:.2f} is possible."
            )
    right("00.2")


# --- lesson 01


def exercise_01_1(answer):
    torch.manual_seed(0)
    tokens, x = torch.randn(200, 4) * torch.tensor([3.0, 1.0, 0.3, 2.0]) + 5, torch.randn(6, 4) + 5
    mean = tokens.mean(0)
    axes = torch.linalg.svd(tokens - mean, full_matrices=False).Vh  # largest variance first
    for k in (1, 2, 4):
        got, true = answer(tokens, x, k), mean + (x - mean) @ axes[:k].T @ axes[:k]
        if tuple(got.shape) != (6, 4):
            raise NotYet(f"6 tokens of 4 features are rebuilt to shape (6, 4), not {tuple(got.shape)}.")
        if not torch.allclose(got, true, atol=1e-3):
            if torch.allclose(got, mean + (x - mean) @ axes[-k:].T @ axes[-k:], atol=1e-3):
                raise NotYet("these are the directions of smallest variance: eigh sorts upwards, take the last k.")
            if torch.allclose(got + mean, true, atol=1e-3):
                raise NotYet("the mean is missing: what was subtracted must be added again.")
            raise NotYet(
                f"with k = {k} the first token should become {true[0].numpy().round(2)}, not {got[0].numpy().round(2)}."
            )
    right("01.1")


def exercise_01_2(answer):
    labels, half = np.array([0, 0, 1, 1, 0, 0, 1, 1]), np.array([True] * 4 + [False] * 4)
    first = [1, 3, 2, 4, 1, 2, 3, 4]  # AUROC 0.75 on the half, 1 on the other
    second = [1, 2, 3, 4, 3, 4, 2, 1]  # 1 on the half, 0 on the other
    for looks, name in (([first, second], "the second"), ([second, first], "the first")):
        got = tuple(float(v) for v in answer(np.array(looks, float), labels, half))
        if got == (1.0, 1.0):
            raise NotYet(
                "you chose on each half by itself: the look that is best on `half` must be used on the other as well."
            )
        if got == (0.0, 1.0):
            raise NotYet("the half that chose comes first, the other half second.")
        if not np.allclose(got, (1.0, 0.0)):
            raise NotYet(
                f"of two looks {name} is best on the half, with AUROC 1 there and 0 on the other half; you say {got}."
            )
    right("01.2")


# --- lesson 02


def exercise_02_1(answer):
    for layers in ([(3, 1, 1)], [(3, 2, 1), (5, 1, 2)], [(5, 1, 0), (3, 3, 1), (2, 2, 0)]):
        x = torch.zeros(1, 1, 150, requires_grad=True)
        out = x
        for kernel, stride, padding in layers:
            out = torch.nn.functional.conv1d(out, torch.ones(1, 1, kernel), stride=stride, padding=padding)
        out[0, 0, 10].backward()
        seen = np.flatnonzero(x.grad[0, 0].numpy())
        got, true = tuple(answer(list(layers), 10)), (int(seen[0]), int(seen[-1]))
        if got == (true[0], true[1] + 1):
            raise NotYet(f"for layers {layers}, position 10, the last pixel is off by one: the one that is still seen.")
        if got != true:
            raise NotYet(
                f"for layers {layers} (kernel, stride, padding) position 10 sees pixels {true[0]} to {true[1]}, not {got}."
            )
    right("02.1")


def exercise_02_2(answer):
    rng = np.random.default_rng(0)
    for (h, w), n in (((2, 2), 3), ((7, 7), 3), ((8, 5), 4), ((5, 5), 5)):
        stage = rng.normal(size=(h, w))
        tensor = torch.from_numpy(stage)[None, None]
        true, other = (
            torch.nn.functional.interpolate(tensor, (n, n), mode="bilinear", align_corners=a)[0, 0].numpy()
            for a in (True, False)
        )
        got = np.asarray(answer(stage.copy(), n))
        if got.shape != (n, n):
            raise NotYet(f"a map of {h} x {w} aligned to {n} x {n} came out with shape {got.shape}.")
        if not np.allclose(got, true, atol=1e-6):
            if np.allclose(got, other, atol=1e-6):
                raise NotYet(
                    "this is bilinear without aligned corners: the last point must lie on the last value, at L - 1."
                )
            if not np.allclose(got[[0, 0, -1, -1], [0, -1, 0, -1]], stage[[0, 0, -1, -1], [0, -1, 0, -1]]):
                raise NotYet(f"from {h} x {w} to {n} x {n}: the four corners must keep their values.")
            raise NotYet(f"from {h} x {w} to {n} x {n}: the corners are right, but not what lies between.")
    right("02.2")


def exercise_02_3(answer):
    torch.manual_seed(0)
    samples, x = (
        torch.randn(6, 3, dtype=torch.double) @ torch.tensor([[2.0, 1, 0], [0, 1, 1], [0, 0, 0.3]]).double(),
        torch.randn(4, 3).double(),
    )
    for s in (0.01, 1.0):
        centred = samples.numpy() - samples.numpy().mean(0)
        inverse = np.linalg.inv(centred.T @ centred / 6 + s * np.eye(3))
        deviation = x.numpy() - samples.numpy().mean(0)
        true = np.sqrt([d @ inverse @ d for d in deviation])
        got = np.asarray(answer(x, samples, s))
        if got.shape != (4,):
            raise NotYet(f"4 vectors have 4 distances, shape (4,); yours has shape {got.shape}.")
        if not np.allclose(got, true, rtol=1e-4):
            if np.allclose(got, true**2, rtol=1e-4):
                raise NotYet("these are squared distances: take the root.")
            if np.allclose(got, np.sqrt((deviation**2 / ((centred**2).mean(0) + s)).sum(1)), rtol=1e-4):
                raise NotYet("this is the diagonal Gaussian: use the whole covariance.")
            raise NotYet(
                f"with 6 samples and s = {s} the first distance is {true[0]:.3f}, not {got[0]:.3f}. Is the covariance divided by n, and is s on its diagonal only?"
            )
    right("02.3")


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
                raise NotYet(
                    "your token is too short by sqrt(2): the similarity is the dot product divided by sqrt(D)."
                )
            raise NotYet(
                f"the read {read.numpy().round(3)} belongs to {token.tolist()}, you say {got.numpy().round(3)}."
            )
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
            raise NotYet(
                f"5 x 6 maps, window {size}, {len(values)} windows: {true:.4f}, not {float(got):.4f}. Is each window compared with its partner only?"
            )
    right("04.1")


def exercise_04_2(answer):
    for B, N, D in ((2, 4, 2), (3, 4, 3), (2, 4, 4), (1, 4, 3), (3, 4, 8)):
        line = [image for _ in range(N) for image in range(B) for _ in range(D)]  # as (N, B, D) lies in memory
        mixed = sum(len(set(line[k : k + N])) > 1 for k in range(0, len(line), N)) / (B * D)
        got = float(answer(B, N, D))
        if abs(got - mixed) > 1e-6:
            kind = "count" if abs(got - mixed * B * D) < 1e-6 else "share"
            raise NotYet(
                f"B = {B}, N = {N}, D = {D}: a share of {mixed:.3f} of the rows mix images, not a {kind} of {got:.3f}."
            )
    right("04.2")


# --- lesson 05


def exercise_05_1(answer):
    torch.manual_seed(0)
    similarity = torch.rand(2, 3, 6) * 2 - 1
    for temperature in (1.0, 0.1, 4.0):
        got, true = answer(similarity.clone(), temperature), (similarity / temperature).exp()
        true = true / true.sum(-1, keepdim=True)
        if getattr(got, "shape", None) != similarity.shape:
            raise NotYet(
                f"weights have the shape of the similarities, {tuple(similarity.shape)}, not {tuple(getattr(got, 'shape', ()))}."
            )
        if not torch.allclose(got.sum(-1), torch.ones(2, 3), atol=1e-4):
            raise NotYet("the weights must sum to one over the slots, the last axis.")
        if not torch.allclose(got, true, atol=1e-4):
            raise NotYet(
                f"temperature {temperature}: the largest weight is {true.max():.3f}, yours {got.max():.3f}. A low temperature is sharp."
            )
    right("05.1")


def exercise_05_2(answer):
    maps = np.zeros((4, 28, 28))
    for image, row, column in ((0, 27, 0), (1, 27, 1), (2, 5, 20), (3, 0, 27)):
        maps[image, row, column] = image + 1
    for grid, cells in ((14, ((13, 0), (13, 0), (2, 10), (0, 13))), (4, ((3, 0), (3, 0), (0, 2), (0, 3)))):
        got, true = np.asarray(answer(maps.copy(), grid)), np.zeros((grid, grid))
        for cell in cells:
            true[cell] += 1
        if got.shape != (grid, grid):
            raise NotYet(f"the counts have shape ({grid}, {grid}), yours {got.shape}.")
        if got.sum() != 4:
            raise NotYet(f"four maps have four maxima, two of them in one cell; your counts sum to {got.sum():g}.")
        if (got != true).any():
            raise NotYet(
                "rows and columns are exchanged."
                if (got == true.T).all()
                else f"28 x 28 maps, grid {grid}: a maximum is in the wrong cell."
            )
    right("05.2")


# --- lesson 06


def exercise_06_1(answer):
    for gradients, limit in (([[3.0, 0.0], [[4.0]]], 1.0), ([[0.3], [0.4, 0.0]], 1.0), ([[6.0], [[2.0, 3.0]]], 3.5)):
        given = [torch.tensor(g) for g in gradients]
        norm = sum(g.square().sum() for g in given).sqrt().item()
        got = answer([g.clone() for g in given], limit)
        if got is None or [tuple(g.shape) for g in got] != [tuple(g.shape) for g in given]:
            raise NotYet("give back a list of tensors with the shapes of the gradients.")
        length = sum(g.square().sum() for g in got).sqrt().item()
        if norm <= limit and abs(length - norm) > 1e-4:
            raise NotYet(
                f"a gradient of norm {norm:g} with limit {limit:g} must stay as it is, yours has norm {length:.3f}."
            )
        if abs(length - min(norm, limit)) > 1e-3:
            raise NotYet(
                f"{gradients} together have norm {norm:g}; with limit {limit:g} yours have norm {length:.3f}. One norm for all tensors?"
            )
        if not all(torch.allclose(g, h * min(1, limit / norm), atol=1e-3) for g, h in zip(got, given)):
            raise NotYet(
                f"{gradients}, limit {limit:g}: the length is right, the direction is not. Scale all by one factor."
            )
    right("06.1")


def exercise_06_2(answer):
    torch.manual_seed(0)
    images = torch.randn(8, 4)  # one gradient an image
    for counts in ([4, 4], [5, 3], [1, 2, 5]):
        parts = torch.stack([part.mean(0) for part in images.split(counts)])
        got, true = torch.as_tensor(answer(parts.clone(), torch.tensor(counts, dtype=torch.float32))), images.mean(0)
        if got.shape != (4,):
            raise NotYet(
                f"K = {len(counts)} parts, P = 4 parameters: the gradient has shape (4,), yours has {tuple(got.shape)}."
            )
        if torch.allclose(got, 8 * true, atol=1e-5):
            raise NotYet("that is the sum over all images; divide by their number.")
        if not torch.allclose(got, true, atol=1e-5):
            raise NotYet(
                f"parts of {counts} images: not the mean over all 8 images. Does a part count as often as it has images?"
            )
    right("06.2")


# --- lesson 07


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
        raise NotYet(
            f"scores {scores.tolist()} with thresholds {thresholds} give [1, 1.5, 0.5, 0.5], not {got.round(3).tolist()}."
        )
    right("07.2")


# --- lesson 08


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
            raise NotYet(
                f"{why[0] if why else f'the first score should be {ordered[0, :k].mean():.4f}, not {got[0]:.4f}'} ({where})."
            )
    right("08.1")


def exercise_08_2(answer):
    for values, flipped in (
        ([0.9, 0.3, 0.6], 2.2 / 3),
        ([0.2], 0.8),
        ([0.5, 0.75], 0.625),
        ([0.1, 0.2, 0.4, 0.9], 0.8),
    ):
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


# --- lesson 09


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
            * s
            / np.sqrt(len(differences)),
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


# --- lesson 10


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


# --- lesson 11


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


# --- lesson 12


def exercise_12_1(answer):
    rng = np.random.default_rng(0)
    iou = lambda m, t, mask: (mask & (m >= t)).sum() / (mask | (m >= t)).sum()  # noqa: E731
    for shape, levels in (((6, 7), 1000), ((8, 5), 6), ((9, 9), 30)):  # the second and third with many ties
        mask = np.zeros(shape, bool)
        mask[1:4, 2:5] = True
        m = rng.integers(0, levels, shape) / levels + 0.6 * mask + rng.normal(0, 1e-3)
        best = max(iou(m, t, mask) for t in m.ravel())
        got = np.asarray(answer(m.copy(), mask.copy()))
        if got.size != 1:
            raise NotYet(f"the answer is one number, yours has shape {got.shape}.")
        if best - iou(m, float(got), mask) > 1e-9:
            kind = (
                "the IoU itself, not the threshold"
                if abs(float(got) - best) < 1e-9
                else f"a threshold with IoU {iou(m, float(got), mask):.3f}"
            )
            raise NotYet(
                f"on a {shape[0]} x {shape[1]} map with {len(np.unique(m))} distinct scores you return {kind}; {best:.3f} is possible."
            )
    right("12.1")


def exercise_12_2(answer):
    rng = np.random.default_rng(0)
    for channels, size in (([2, 3], (4, 5)), ([1, 4, 2], (3, 3))):
        x = rng.normal(size=(sum(channels), *size))
        true = np.zeros((len(channels), *size))
        for c, stage in enumerate(np.repeat(np.arange(len(channels)), channels)):
            true[stage] += x[c] ** 2 / (x**2).sum(0)
        got = np.asarray(answer(x.copy(), list(channels)))
        if got.shape != true.shape:
            raise NotYet(
                f"{len(channels)} stages on {size[0]} x {size[1]} positions: shape {true.shape}, not {got.shape}."
            )
        if not np.allclose(got.sum(0), 1):
            raise NotYet("the shares must sum to 1 over the stages at each position, not over the image.")
        if not np.allclose(got, true):
            raise NotYet(
                f"channels {channels}: {true[:, 0, 0].round(3)} at the first position, not {got[:, 0, 0].round(3)}. Squared? A sum, not a mean or a norm?"
            )
    right("12.2")


# --- end of the lessons

for _name in [name for name in globals() if name.startswith("exercise_")]:
    globals()[_name] = kindly(globals()[_name])
