import torch


def no_scale(read):
    a, b = read
    return torch.log(torch.stack([a, b]) / (1 - a - b))


def weights_only(read):
    return 2**0.5 * torch.log(read)


def three(read):
    a, b = read
    return torch.log(torch.stack([a, b, 1 - a - b]))


def linear(read):
    return read * 3


def no_division(queries, keys, values, factor):
    weights = (factor * queries @ keys.T).softmax(-1)
    return weights @ values, weights


def over_tokens(queries, keys, values, factor):
    weights = (factor * queries @ keys.T / queries.shape[-1] ** 0.5).softmax(-2)
    return weights @ values, weights


def afterwards(queries, keys, values, factor):
    weights = factor * (queries @ keys.T / queries.shape[-1] ** 0.5).softmax(-1)
    return weights @ values, weights


def of_keys(queries, keys, values, factor):
    weights = (factor * queries @ keys.T / queries.shape[-1] ** 0.5).softmax(-1)
    return weights @ keys, weights


def swapped(queries, keys, values, factor):
    weights = (factor * queries @ keys.T / queries.shape[-1] ** 0.5).softmax(-1)
    return weights, weights @ values


def divided(queries, keys, values, factor):
    weights = (queries @ keys.T / queries.shape[-1] ** 0.5 / factor).softmax(-1)
    return weights @ values, weights


def reads_only(queries, keys, values, factor):
    return (factor * queries @ keys.T / queries.shape[-1] ** 0.5).softmax(-1) @ values


WRONG = {
    "03_1": [no_scale, weights_only, three, linear],
    "03_2": [no_division, over_tokens, afterwards, of_keys, swapped, divided, reads_only],
}
