import numpy as np


def hotter(similarity, temperature):
    return (similarity * temperature).softmax(dim=-1)


def after(similarity, temperature):
    return similarity.softmax(dim=-1) / temperature


def first_axis(similarity, temperature):
    return (similarity / temperature).softmax(dim=0)


def middle_axis(similarity, temperature):
    return (similarity / temperature).softmax(dim=1)


def no_softmax(similarity, temperature):
    return similarity / temperature


def unchanged(similarity, temperature):
    return similarity.softmax(dim=-1)


def mean(similarity, temperature):
    return (similarity / temperature).softmax(dim=-1).mean(-1)


def nothing(*_):
    return None


def transposed(maps, grid=14):
    return right_one(maps, grid).T


def right_one(maps, grid):
    row, column = np.unravel_index(maps.reshape(len(maps), -1).argmax(1), maps.shape[1:])
    count = np.zeros((grid, grid), int)
    np.add.at(count, (row * grid // maps.shape[1], column * grid // maps.shape[2]), 1)
    return count


def once(maps, grid=14):
    row, column = np.unravel_index(maps.reshape(len(maps), -1).argmax(1), maps.shape[1:])
    count = np.zeros((grid, grid), int)
    count[row * grid // maps.shape[1], column * grid // maps.shape[2]] += 1  # a cell twice counts once
    return count


def full_size(maps, grid=14):
    return right_one(maps, maps.shape[1])


def one_image(maps, grid=14):
    return right_one(maps.sum(0)[None], grid)


def share(maps, grid=14):
    return right_one(maps, grid) / len(maps)


def fixed_stride(maps, grid=14):
    row, column = np.unravel_index(maps.reshape(len(maps), -1).argmax(1), maps.shape[1:])
    count = np.zeros((grid, grid), int)
    np.add.at(count, ((row // 2) % grid, (column // 2) % grid), 1)
    return count


WRONG = {
    "05_1": [hotter, after, first_axis, middle_axis, no_softmax, unchanged, mean, nothing],
    "05_2": [transposed, once, full_size, one_image, share, fixed_stride, nothing],
}
