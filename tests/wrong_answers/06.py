import torch


def norm(gradients):
    return sum(g.square().sum() for g in gradients).sqrt()


def in_place(gradients, limit):
    for g, length in [(g, norm(gradients)) for g in gradients]:
        g *= min(1.0, (limit / length).item())
    return gradients


WRONG = {
    "06_1": [
        ("not one for each", lambda gradients, limit: [g * min(1.0, (limit / g.norm()).item()) for g in gradients]),
        ("below the limit stays as it is", lambda gradients, limit: [g * limit / norm(gradients) for g in gradients]),
        ("turns the direction", lambda gradients, limit: [g.clamp(-limit, limit) for g in gradients]),
        ("the root of the sum", lambda gs, limit: [g * min(1.0, (limit / norm(gs) ** 2).item()) for g in gs]),
        ("a list is wanted, not a torch tensor", lambda gradients, limit: torch.cat([g.flatten() for g in gradients])),
        ("2 results are wanted, not 1", lambda gs, limit: [gs[0] * min(1.0, (limit / norm(gs)).item())]),
        ("changed in place", in_place),
        ("returned None", lambda gradients, limit: None),
        ("is right, not", lambda gradients, limit: list(gradients)),
        ("the sign", lambda gs, limit: [-g * min(1.0, (limit / norm(gs)).item()) for g in gs]),
    ],
    "06_2": [
        ("as often as it has images", lambda gradients, counts: gradients.mean(0)),
        ("the sum over all images", lambda gradients, counts: (gradients * counts[:, None]).sum(0)),
        ("not of parts", lambda gradients, counts: (gradients * counts[:, None]).mean(0)),
        ("of shape (4,) is wanted", lambda gradients, counts: gradients.mean(1)),
        ("is right, not", lambda gradients, counts: (gradients / counts[:, None]).sum(0) / (1 / counts).sum()),
        ("is right, not", lambda gradients, counts: gradients.sum(0)),
    ],
}
