import torch

from dumenet.models import ssim


def all_pairs(a, b, size):
    windows = [m.unfold(0, size, 1).unfold(1, size, 1).reshape(-1, size * size) for m in (a, b)]
    return ssim(*windows).mean()


def each_window(a, b, size):
    windows = [m.unfold(0, size, 1).unfold(1, size, 1).reshape(-1, size * size) for m in (a, b)]
    return ssim(*windows).diagonal()


def tiles(a, b, size):
    windows = [m.unfold(0, size, size).unfold(1, size, size).reshape(-1, size * size) for m in (a, b)]
    return ssim(*windows).diagonal().mean()


def whole(a, b, size):
    return ssim(a.reshape(1, -1), b.reshape(1, -1))[0, 0]


def count(B, N, D):
    image = (torch.arange(N * B * D) // D % B).view(B * D, N)
    return (image.amin(1) != image.amax(1)).sum().item()


def unmixed(B, N, D):
    image = (torch.arange(N * B * D) // D % B).view(B * D, N)
    return (image.amin(1) == image.amax(1)).float().mean().item()


def other_order(B, N, D):
    image = (torch.arange(N * B * D) // (N * D)).view(B * D, N)  # as if it were (B, N, D)
    return (image.amin(1) != image.amax(1)).float().mean().item()


def transposed(B, N, D):
    image = (torch.arange(N * B * D) // D % B).view(N, B * D)
    return (image.amin(1) != image.amax(1)).float().mean().item()


def nothing(B, N, D):
    return None


WRONG = {"04_1": [all_pairs, each_window, tiles, whole], "04_2": [count, unmixed, other_order, transposed, nothing]}
