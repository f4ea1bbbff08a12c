import numpy as np
import torch

from check import NotYet, right


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
            raise NotYet(f"with k = {k} the first token should become {true[0].numpy().round(2)}, not {got[0].numpy().round(2)}.")
    right("01.1")


def exercise_01_2(answer):
    labels, half = np.array([0, 0, 1, 1, 0, 0, 1, 1]), np.array([True] * 4 + [False] * 4)
    first = [1, 3, 2, 4, 1, 2, 3, 4]  # AUROC 0.75 on the half, 1 on the other
    second = [1, 2, 3, 4, 3, 4, 2, 1]  # 1 on the half, 0 on the other
    for looks, name in (([first, second], "the second"), ([second, first], "the first")):
        got = tuple(float(v) for v in answer(np.array(looks, float), labels, half))
        if got == (1.0, 1.0):
            raise NotYet("you chose on each half by itself: the look that is best on `half` must be used on the other as well.")
        if got == (0.0, 1.0):
            raise NotYet("the half that chose comes first, the other half second.")
        if not np.allclose(got, (1.0, 0.0)):
            raise NotYet(f"of two looks {name} is best on the half, with AUROC 1 there and 0 on the other half; you say {got}.")
    right("01.2")
