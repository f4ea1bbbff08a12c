import torch

from check import NotYet, right


def exercise_06_1(answer):
    for gradients, limit in (([[3.0, 0.0], [[4.0]]], 1.0), ([[0.3], [0.4, 0.0]], 1.0), ([[6.0], [[2.0, 3.0]]], 3.5)):
        given = [torch.tensor(g) for g in gradients]
        norm = sum(g.square().sum() for g in given).sqrt().item()
        got = answer([g.clone() for g in given], limit)
        if got is None or [tuple(g.shape) for g in got] != [tuple(g.shape) for g in given]:
            raise NotYet("give back a list of tensors with the shapes of the gradients.")
        length = sum(g.square().sum() for g in got).sqrt().item()
        if norm <= limit and abs(length - norm) > 1e-4:
            raise NotYet(f"a gradient of norm {norm:g} with limit {limit:g} must stay as it is, yours has norm {length:.3f}.")
        if abs(length - min(norm, limit)) > 1e-3:
            raise NotYet(f"{gradients} together have norm {norm:g}; with limit {limit:g} yours have norm {length:.3f}. One norm for all tensors?")
        if not all(torch.allclose(g, h * min(1, limit / norm), atol=1e-3) for g, h in zip(got, given)):
            raise NotYet(f"{gradients}, limit {limit:g}: the length is right, the direction is not. Scale all by one factor.")
    right("06.1")


def exercise_06_2(answer):
    torch.manual_seed(0)
    images = torch.randn(8, 4)  # one gradient an image
    for counts in ([4, 4], [5, 3], [1, 2, 5]):
        parts = torch.stack([part.mean(0) for part in images.split(counts)])
        got, true = torch.as_tensor(answer(parts.clone(), torch.tensor(counts, dtype=torch.float32))), images.mean(0)
        if got.shape != (4,):
            raise NotYet(f"K = {len(counts)} parts, P = 4 parameters: the gradient has shape (4,), yours has {tuple(got.shape)}.")
        if torch.allclose(got, 8 * true, atol=1e-5):
            raise NotYet("that is the sum over all images; divide by their number.")
        if not torch.allclose(got, true, atol=1e-5):
            raise NotYet(f"parts of {counts} images: not the mean over all 8 images. Does a part count as often as it has images?")
    right("06.2")
