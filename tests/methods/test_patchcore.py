"""PatchCore: its parts by hand."""

import torch

from dumenet.methods.patchcore import coreset, image_score, patches_of


def test_coreset_takes_the_farthest_each_time():
    points = torch.tensor([[0.0], [1.0], [10.0], [4.0]])
    assert coreset(points, 3, 0).tolist() == [0, 2, 3]  # 10 is farthest from 0; then 4, at 4 from 0, beats 1, at 1


def test_a_patch_is_the_mean_of_its_neighbours():
    x = torch.arange(9.0).view(1, 1, 3, 3)
    rows = patches_of(x).flatten()
    assert rows[4] == 4 and rows[0] == (0 + 1 + 3 + 4) / 4


def test_the_image_score_weighs_lonely_neighbours():
    bank = torch.tensor([[0.0], [0.1], [100.0]])
    crowded = image_score(torch.tensor([1.0]), bank, 1, 2)  # its nearest has a near neighbour
    expected = torch.tensor([0.9, 1.0]).softmax(0)[0]
    assert abs(crowded - float((1 - expected) * 0.9)) < 1e-5
