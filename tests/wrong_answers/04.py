import torch

from dumenet.models import ssim


def windowed(a, b, size, stride=1):
    windows = [m.unfold(0, size, stride).unfold(1, size, stride).reshape(-1, size * size) for m in (a, b)]
    return ssim(*windows)


def mixed(image, rows):
    image = image.view(rows, -1)
    return (image.amin(1) != image.amax(1)).float()


def images(B, N, D):
    return torch.arange(N * B * D) // D % B


WRONG = {
    "04_1": [
        ("with its partner only", lambda *given: windowed(*given).mean()),
        ("is right, not", lambda *given: windowed(*given, stride=given[2]).diagonal().mean()),
        ("SSIM of the whole maps", lambda a, b, size: ssim(a.reshape(1, -1), b.reshape(1, -1))[0, 0]),
        ("the sum over the windows", lambda *given: windowed(*given).diagonal().sum()),
    ],
    "04_2": [
        ("not their number", lambda B, N, D: mixed(images(B, N, D), B * D).sum().item()),
        ("hold one image only", lambda B, N, D: 1 - mixed(images(B, N, D), B * D).mean().item()),
        ("is right, not", lambda B, N, D: mixed(torch.arange(B * N * D) // (N * D), B * D).mean().item()),
    ],
}
