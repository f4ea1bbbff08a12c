import torch


def each_alone(gradients, limit):
    return [g * min(1.0, (limit / g.norm()).item()) for g in gradients]


def up_as_well(gradients, limit):
    norm = sum(g.square().sum() for g in gradients).sqrt()
    return [g * limit / norm for g in gradients]


def by_value(gradients, limit):
    return [g.clamp(-limit, limit) for g in gradients]


def no_root(gradients, limit):
    norm = sum(g.square().sum() for g in gradients)
    return [g * min(1.0, (limit / norm).item()) for g in gradients]


def flat(gradients, limit):
    g = torch.cat([g.flatten() for g in gradients])
    return g * min(1.0, (limit / g.norm()).item())


def in_place_nothing(gradients, limit):
    torch.nn.utils.clip_grad_norm_([torch.nn.Parameter(g) for g in gradients], limit)


def unchanged(gradients, limit):
    return gradients


def sign_lost(gradients, limit):
    norm = sum(g.square().sum() for g in gradients).sqrt()
    return [-g * min(1.0, (limit / norm).item()) for g in gradients]


def plain_mean(gradients, counts):
    return gradients.mean(0)


def total(gradients, counts):
    return (gradients * counts[:, None]).sum(0)


def by_count(gradients, counts):
    return (gradients * counts[:, None]).mean(0)


def wrong_axis(gradients, counts):
    return gradients.mean(1)


def inverse(gradients, counts):
    share = (1 / counts) / (1 / counts).sum()
    return (gradients * share[:, None]).sum(0)


def summed(gradients, counts):
    return gradients.sum(0)


WRONG = {
    "06_1": [each_alone, up_as_well, by_value, no_root, flat, in_place_nothing, unchanged, sign_lost],
    "06_2": [plain_mean, total, by_count, wrong_axis, inverse, summed],
}
