import numpy as np
import torch


def span(layers, p, padded=1, end=-1, least=-99, order=reversed):
    first = last = p
    for kernel, stride, padding in order(layers):
        first, last = max(first, least), max(last, least)
        first, last = first * stride - padded * padding, last * stride - padded * padding + kernel + end
    return first, last


def resized(stage, n, **options):
    return torch.nn.functional.interpolate(torch.from_numpy(stage)[None, None], (n, n), **options)[0, 0].numpy()


def nearest(stage, n):
    rows, columns = (np.round(np.arange(n) * (s - 1) / (n - 1)).astype(int) for s in stage.shape)
    return stage[rows][:, columns]


def pooled(stage, n):
    return torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(stage)[None, None], n)[0, 0].numpy()


def mahalanobis(x, samples, s, divisor=0, everywhere=False, about=1, before=1):
    d, x = samples - about * samples.mean(0), x - before * samples.mean(0)
    c = d.T @ d / (len(samples) - divisor) + (s if everywhere else s * torch.eye(3, dtype=x.dtype))
    return (x @ torch.linalg.solve(c, x.T)).diagonal().sqrt()


def diagonal(x, samples, s):
    return ((x - samples.mean(0)) ** 2 / (samples.var(0, correction=0) + s)).sum(1).sqrt()


WRONG = {
    "02_1": [
        ("do not cut them at 0", lambda layers, p: (max(span(layers, p)[0], 0), span(layers, p)[1])),
        ("do not cut them at 0", lambda layers, p: tuple(max(end, 0) for end in span(layers, p, least=0))),
        ("do not cut them at 0 between", lambda layers, p: span(layers, p, least=0)),
        ("one too far", lambda layers, p: (span(layers, p)[0], span(layers, p)[1] + 1)),
        ("the padding is missing", lambda layers, p: span(layers, p, padded=0)),
        ("kernel - 1 more", lambda layers, p: span(layers, p, end=0)),
        ("subtracted, not added", lambda layers, p: span(layers, p, padded=-1)),
        ("from the last to the first", lambda layers, p: span(layers, p, order=list)),
        ("is right, not", lambda layers, p: (p, p)),
        ("one number is wanted, not a str", lambda layers, p: ("0", 1)),
        ("a tuple of 2 is wanted, not a list", lambda layers, p: list(span(layers, p))),
        ("is right, not", lambda layers, p: (span(layers, p)[0], None)),
    ],
    "02_2": [
        ("bilinear without aligned corners", lambda stage, n: resized(stage, n, mode="bilinear")),
        ("the corners are right", nearest),
        ("four corners must keep their values", pooled),
        (
            "a numpy array of shape (3, 3) is wanted, not a torch tensor",
            lambda *given: torch.from_numpy(pooled(*given)),
        ),
        ("a numpy array of shape (3, 3) is wanted, not a list", lambda *given: pooled(*given).tolist()),
        ("not a numpy array of complex128", lambda *given: pooled(*given) * 1j),
        ("of shape (4, 4)", lambda stage, n: pooled(stage, n + 1)),
        ("not a number (NaN)", lambda stage, n: pooled(stage, n) / 0 * 0),
    ],
    "02_3": [
        ("take the root", lambda *given: mahalanobis(*given) ** 2),
        ("use the whole covariance", diagonal),
        ("by n, not by n - 1", lambda *given: mahalanobis(*given, divisor=1)),
        ("on the diagonal only", lambda x, samples, s: mahalanobis(x, samples, s, everywhere=True)),
        ("s is missing", lambda x, samples, s: mahalanobis(x, samples, 0)),
        ("divide by n", lambda x, samples, s: mahalanobis(x, samples, s, divisor=len(samples) - 1)),
        ("subtract the mean of the samples from x", lambda *given: mahalanobis(*given, before=0)),
        ("for the covariance and from x", lambda *given: mahalanobis(*given, before=0, about=0)),
        ("for the covariance, too", lambda *given: mahalanobis(*given, about=0)),
        ("not of x", lambda x, samples, s: mahalanobis(x - x.mean(0) + samples.mean(0), samples, s)),
        ("everything is 100 times too large", lambda *given: 100 * mahalanobis(*given)),
        ("not a torch tensor of complex64", lambda *given: mahalanobis(*given).to(torch.complex64)),
        ("is right, not", lambda *given: mahalanobis(*given).bfloat16() + 1),
        ("a torch tensor of shape (4,) is wanted, not a list", lambda *given: mahalanobis(*given).tolist()),
    ],
}
