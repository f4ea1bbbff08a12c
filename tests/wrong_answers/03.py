import torch


def reread(queries, keys, values, factor, root=True, axis=-1):
    weights = (factor * queries @ keys.T / (queries.shape[-1] ** 0.5 if root else 1)).softmax(axis)
    return weights @ values, weights


def afterwards(queries, keys, values, factor):
    weights = factor * reread(queries, keys, values, 1)[1]
    return weights @ values, weights


def of_keys(queries, keys, values, factor):
    weights = reread(queries, keys, values, factor)[1]
    return weights @ keys, weights


WRONG = {
    "03_1": [
        ("too short by sqrt(2)", lambda read: torch.log(read / (1 - read.sum()))),
        ("divide each weight by the third one", lambda read: 2**0.5 * torch.log(read)),
        ("too long by sqrt(2)", lambda read: 2 * torch.log(read / (1 - read.sum()))),
        ("is right, not", lambda read: read * 3),
    ],
    "03_2": [
        ("divide by sqrt(D)", lambda *given: reread(*given, root=False)),
        ("sum to 1 over the slots", lambda *given: reread(*given, axis=-2)),
        ("sum to 1 over the slots", afterwards),
        ("the reads are not the weights times the values", of_keys),
        ("a torch tensor of shape (2, 3, 5) is wanted, not None", lambda *given: (reread(*given)[0], None)),
        ("is wanted, not a numpy array", lambda *given: tuple(part.numpy() for part in reread(*given))),
        ("a torch tensor of shape (2, 3, 4) is wanted, not a torch", lambda *given: reread(*given)[::-1]),
        ("do not divide", lambda q, k, v, factor: reread(q, k, v, 1 / factor)),
    ],
}
