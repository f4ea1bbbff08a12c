import numpy as np
import torch


def forwards(layers, p):
    first = last = p
    for kernel, stride, padding in layers:
        first, last = first * stride - padding, last * stride - padding + kernel - 1
    return first, last


def exclusive(layers, p):
    first = last = p
    for kernel, stride, padding in reversed(layers):
        first, last = first * stride - padding, last * stride - padding + kernel - 1
    return first, last + 1


def no_padding(layers, p):
    first = last = p
    for kernel, stride, padding in reversed(layers):
        first, last = first * stride, last * stride + kernel - 1
    return first, last


def adds_kernel(layers, p):
    first = last = p
    for kernel, stride, padding in reversed(layers):
        first, last = first * stride - padding, last * stride - padding + kernel
    return first, last


def halves(stage, n):
    t = torch.from_numpy(stage)[None, None]
    return torch.nn.functional.interpolate(t, (n, n), mode="bilinear", align_corners=False)[0, 0].numpy()


def nearest(stage, n):
    rows, columns = (np.round(np.arange(n) * (s - 1) / (n - 1)).astype(int) for s in stage.shape)
    return stage[rows][:, columns]


def one_axis(stage, n):
    point = np.arange(n) * (stage.shape[0] - 1) / (n - 1)
    left = np.minimum(point.astype(int), stage.shape[0] - 2)
    w = (point - left)[:, None]
    return (1 - w) * stage[left] + w * stage[left + 1]


def pooled(stage, n):
    return torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(stage)[None, None], n)[0, 0].numpy()


def _cov(samples, s, divisor):
    d = samples - samples.mean(0)
    return d.T @ d / divisor + s * torch.eye(samples.shape[1], dtype=samples.dtype)


def squared(x, samples, s):
    d = x - samples.mean(0)
    return (d * torch.linalg.solve(_cov(samples, s, len(samples)), d.T).T).sum(1)


def diagonal(x, samples, s):
    d = x - samples.mean(0)
    return (d**2 / (samples.var(0, correction=0) + s)).sum(1).sqrt()


def unbiased(x, samples, s):
    d = x - samples.mean(0)
    return (d * torch.linalg.solve(_cov(samples, s, len(samples) - 1), d.T).T).sum(1).sqrt()


def all_pairs(x, samples, s):
    d = x - samples.mean(0)
    return (d @ torch.linalg.solve(_cov(samples, s, len(samples)), d.T)).sqrt()


def everywhere(x, samples, s):
    d = x - samples.mean(0)
    c = _cov(samples, 0, len(samples)) + s + 1e-3 * torch.eye(3, dtype=samples.dtype)
    return (d * torch.linalg.solve(c, d.T).T).sum(1).sqrt()


WRONG = {
    "02_1": [forwards, exclusive, no_padding, adds_kernel],
    "02_2": [halves, nearest, one_axis, pooled],
    "02_3": [squared, diagonal, unbiased, all_pairs, everywhere],
}
