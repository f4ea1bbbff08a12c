def norm(gradients):
    return sum(g.square().sum() for g in gradients).sqrt()


WRONG = {
    "07_1": [
        ("not one for each", lambda gradients, limit: [g * min(1.0, (limit / g.norm()).item()) for g in gradients]),
        ("below the limit stays as it is", lambda gradients, limit: [g * limit / norm(gradients) for g in gradients]),
        ("turns the direction", lambda gradients, limit: [g.clamp(-limit, limit) for g in gradients]),
        ("the root of the sum", lambda gs, limit: [g * min(1.0, (limit / norm(gs) ** 2).item()) for g in gs]),
        (
            "not the sum of the tensors' norms",
            lambda gs, limit: [g * min(1, limit / sum(map(norm, zip(gs)))) for g in gs],
        ),
        ("is right, not", lambda gradients, limit: list(gradients)),
    ],
    "07_2": [
        ("as often as it has images", lambda gradients, counts: gradients.mean(0)),
        ("the sum over all images", lambda gradients, counts: (gradients * counts[:, None]).sum(0)),
        ("not of parts", lambda gradients, counts: (gradients * counts[:, None]).mean(0)),
        ("is right, not", lambda gradients, counts: (gradients / counts[:, None]).sum(0) / (1 / counts).sum()),
    ],
}
