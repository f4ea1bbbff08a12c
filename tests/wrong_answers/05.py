import numpy as np


def peaks(maps, grid=14):
    row, column = np.unravel_index(maps.reshape(len(maps), -1).argmax(1), maps.shape[1:])
    count = np.zeros((grid, grid), int)
    np.add.at(count, (row * grid // maps.shape[1], column * grid // maps.shape[2]), 1)
    return count


def fixed_stride(maps, grid=14):
    row, column = np.nonzero(peaks(maps, 14))
    count = np.zeros((grid, grid), int)
    np.add.at(count, (row % grid, column % grid), peaks(maps, 14)[row, column])
    return count


WRONG = {
    "05_1": [
        ("a low one is sharp", lambda similarity, t: (similarity * t).softmax(-1)),
        ("sum to 1 over the slots", lambda similarity, t: similarity.softmax(-1) / t),
        ("sum to 1 over the slots", lambda similarity, t: (similarity / t).softmax(0)),
        ("sum to 1 over the slots", lambda similarity, t: (similarity / t).softmax(1)),
        ("sum to 1 over the slots", lambda similarity, t: similarity / t),
        ("the temperature is not used", lambda similarity, t: similarity.softmax(-1)),
    ],
    "05_2": [
        ("rows and columns are exchanged", lambda maps, grid=14: peaks(maps, grid).T),
        ("in one cell count twice", lambda maps, grid=14: np.minimum(peaks(maps, grid), 1)),
        ("four maps have four maxima", lambda maps, grid=14: peaks(maps.sum(0)[None], grid)),
        ("four maps have four maxima", lambda maps, grid=14: peaks(maps, grid) / len(maps)),
        ("is right, not", fixed_stride),
    ],
}
