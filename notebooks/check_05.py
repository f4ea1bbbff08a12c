import numpy as np
import torch

from check import NotYet, right


def exercise_05_1(answer):
    torch.manual_seed(0)
    similarity = torch.rand(2, 3, 6) * 2 - 1
    for temperature in (1.0, 0.1, 4.0):
        got, true = answer(similarity.clone(), temperature), (similarity / temperature).exp()
        true = true / true.sum(-1, keepdim=True)
        if getattr(got, "shape", None) != similarity.shape:
            raise NotYet(f"weights have the shape of the similarities, {tuple(similarity.shape)}, not {tuple(getattr(got, 'shape', ()))}.")
        if not torch.allclose(got.sum(-1), torch.ones(2, 3), atol=1e-4):
            raise NotYet("the weights must sum to one over the slots, the last axis.")
        if not torch.allclose(got, true, atol=1e-4):
            raise NotYet(f"temperature {temperature}: the largest weight is {true.max():.3f}, yours {got.max():.3f}. A low temperature is sharp.")
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
            raise NotYet("rows and columns are exchanged." if (got == true.T).all() else f"28 x 28 maps, grid {grid}: a maximum is in the wrong cell.")
    right("05.2")
