"""PatchSVDD: its parts by hand."""

import pytest
import torch

from dumenet.methods.patchsvdd import BIG, LATTICE, SIDES, SMALL, Encoder, crops, pairs, spread


def test_a_pixel_is_the_mean_of_the_patches_over_it():
    got = spread(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), patch=4, step=2, size=7)[0]
    assert got.shape == (7, 7)
    assert got[0, 0] == 1 and got[0, 2] == 1.5 and got[3, 0] == 2 and got[2, 3] == 2.5 and got[5, 5] == 4
    assert (got[6] == got[5]).all()  # no patch reaches the last row


def test_one_pass_over_the_image_is_patch_by_patch():
    torch.manual_seed(0)
    encoder, image = Encoder(8), torch.rand(1, 3, 128, 128)
    for patch, vectors in encoder.lattice(image).items():
        h = (128 - patch) // LATTICE[patch] + 1
        assert vectors.shape == (1, 8, h, h)
        at = torch.tensor([[0, 0], [1, 2], [h - 1, h - 1]])
        single = encoder(crops(image, torch.zeros(3).long(), at * LATTICE[patch], patch))
        assert torch.allclose(single, vectors[0, :, at[:, 0], at[:, 1]].T, atol=1e-5)


@pytest.mark.parametrize("patch", [BIG, SMALL])
def test_neighbours_lie_on_their_side_and_inside(patch):
    near, far = 3 * patch // 4, patch - 1
    first, second, side = pairs(2000, 128, patch, near, far, torch.Generator().manual_seed(0))
    offset = second - first
    assert torch.equal(offset.sign(), SIDES[side]) and len(side.unique()) == 8
    steps = offset[offset != 0].abs()
    assert steps.min() == near and steps.max() == far
    for corners in (first, second):
        assert corners.min() == 0 and corners.max() == 128 - patch
