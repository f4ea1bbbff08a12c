import numpy as np
import torch

from check import NotYet, right


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
            raise NotYet(f"for layers {layers} (kernel, stride, padding) position 10 sees pixels {true[0]} to {true[1]}, not {got}.")
    right("02.1")


def exercise_02_2(answer):
    rng = np.random.default_rng(0)
    for (h, w), n in (((2, 2), 3), ((7, 7), 3), ((8, 5), 4), ((5, 5), 5)):
        stage = rng.normal(size=(h, w))
        tensor = torch.from_numpy(stage)[None, None]
        true, other = (torch.nn.functional.interpolate(tensor, (n, n), mode="bilinear", align_corners=a)[0, 0].numpy() for a in (True, False))
        got = np.asarray(answer(stage.copy(), n))
        if got.shape != (n, n):
            raise NotYet(f"a map of {h} x {w} aligned to {n} x {n} came out with shape {got.shape}.")
        if not np.allclose(got, true, atol=1e-6):
            if np.allclose(got, other, atol=1e-6):
                raise NotYet("this is bilinear without aligned corners: the last point must lie on the last value, at L - 1.")
            if not np.allclose(got[[0, 0, -1, -1], [0, -1, 0, -1]], stage[[0, 0, -1, -1], [0, -1, 0, -1]]):
                raise NotYet(f"from {h} x {w} to {n} x {n}: the four corners must keep their values.")
            raise NotYet(f"from {h} x {w} to {n} x {n}: the corners are right, but not what lies between.")
    right("02.2")


def exercise_02_3(answer):
    torch.manual_seed(0)
    samples, x = torch.randn(6, 3, dtype=torch.double) @ torch.tensor([[2.0, 1, 0], [0, 1, 1], [0, 0, 0.3]]).double(), torch.randn(4, 3).double()
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
            raise NotYet(f"with 6 samples and s = {s} the first distance is {true[0]:.3f}, not {got[0]:.3f}. Is the covariance divided by n, and is s on its diagonal only?")
    right("02.3")
