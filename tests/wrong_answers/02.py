import numpy as np
import torch


def span(layers, p, padded=1, end=-1):
    first = last = p
    for kernel, stride, padding in reversed(layers):
        first, last = first * stride - padded * padding, last * stride - padded * padding + kernel + end
    return first, last


def resized(stage, n, **options):
    return torch.nn.functional.interpolate(torch.from_numpy(stage)[None, None], (n, n), **options)[0, 0].numpy()


def nearest(stage, n):
    rows, columns = (np.round(np.arange(n) * (s - 1) / (n - 1)).astype(int) for s in stage.shape)
    return stage[rows][:, columns]


def pooled(stage, n):
    return torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(stage)[None, None], n)[0, 0].numpy()


def mahalanobis(x, samples, s, divisor=0, everywhere=False):
    d, x = samples - samples.mean(0), x - samples.mean(0)
    c = d.T @ d / (len(samples) - divisor) + (s if everywhere else s * torch.eye(3, dtype=x.dtype))
    return (x @ torch.linalg.solve(c, x.T)).diagonal().sqrt()


def diagonal(x, samples, s):
    return ((x - samples.mean(0)) ** 2 / (samples.var(0, correction=0) + s)).sum(1).sqrt()


WRONG = {
    "02_1": [
        ("do not cut them at 0", lambda layers, p: (max(span(layers, p)[0], 0), span(layers, p)[1])),
        ("one too far", lambda layers, p: (span(layers, p)[0], span(layers, p)[1] + 1)),
        ("the padding is missing", lambda layers, p: span(layers, p, padded=0)),
        ("is right, not", lambda layers, p: span(layers, p, end=0)),
    ],
    "02_2": [
        ("bilinear without aligned corners", lambda stage, n: resized(stage, n, mode="bilinear")),
        ("the corners are right", nearest),
        ("four corners must keep their values", pooled),
    ],
    "02_3": [
        ("take the root", lambda *given: mahalanobis(*given) ** 2),
        ("use the whole covariance", diagonal),
        ("by n, not by n - 1", lambda *given: mahalanobis(*given, divisor=1)),
        ("on the diagonal only", lambda x, samples, s: mahalanobis(x, samples, s, everywhere=True)),
    ],
}
