"""Self-similarity context: its definition voxel by voxel, invariance, gradient."""

import math

import pytest
import torch

from medtrace.losses import MINDLoss, mind_ssc


def by_hand(image, place):
    """The descriptor of one voxel far from the border, in Python numbers."""
    dims = image.ndim
    neighbors = [[side if axis == own else 0 for axis in range(dims)] for own in range(dims) for side in (-1, 1)]
    offsets = [[]]
    for _ in range(dims):
        offsets = [[*one, step] for one in offsets for step in (-1, 0, 1)]

    def read(*shifts):
        return float(image[tuple(p + sum(steps) for p, steps in zip(place, zip(*shifts)))])

    distances = []
    for k, first in enumerate(neighbors):
        for second in neighbors[k + 1 :]:
            if all(a * b == 0 for a, b in zip(first, second)):
                patch = [(read(first, step) - read(second, step)) ** 2 for step in offsets]
                distances.append(sum(patch) / len(patch))
    shifted = [one - min(distances) for one in distances]
    variance = sum(shifted) / len(shifted)
    return [math.exp(-one / variance) for one in shifted]


@pytest.mark.parametrize(("dims", "pairs"), [(2, 4), (3, 12)])
def test_definition(dims, pairs):
    image = torch.rand(*(9,) * dims, dtype=torch.float64)
    context = mind_ssc(image[None, None])
    assert context.shape == (1, pairs, *image.shape)
    place = (4,) * dims
    expected = by_hand(image, place)
    assert context[(0, slice(None), *place)].tolist() == pytest.approx(expected, rel=1e-9)
    assert float(context.amax(1).min()) == pytest.approx(1)


def test_blind_to_linear_changes_of_intensity():
    image = torch.rand(1, 1, 12, 12, dtype=torch.float64)
    torch.testing.assert_close(mind_ssc(3 - 2 * image), mind_ssc(image))
    assert float(MINDLoss()(image, 3 - 2 * image)) == pytest.approx(0, abs=1e-12)
    assert float(MINDLoss()(image, image.roll(3, 2))) > 0.01


@pytest.mark.parametrize("shape", [(5, 6), (4, 4, 3)])
def test_gradient(shape):
    x, y = (torch.rand(2, 1, *shape, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda a, b: MINDLoss(reduction="none")(a, b), (x, y))


def test_a_constant_image_gives_finite_numbers():
    image = torch.ones(1, 1, 8, 8, requires_grad=True)
    loss = MINDLoss()(image, torch.rand(1, 1, 8, 8))
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert bool(torch.isfinite(image.grad).all())


def test_mask_and_reductions():
    x, y = torch.rand(2, 2, 1, 10, 10)
    mask = torch.zeros(2, 1, 10, 10)
    mask[..., 5:] = 1
    difference = (mind_ssc(x) - mind_ssc(y)).square().mean(1)[..., 5:].flatten(1).mean(1)
    torch.testing.assert_close(MINDLoss(reduction="none")(x, y, mask), difference)
    torch.testing.assert_close(MINDLoss()(x, y, mask), difference.mean())
    with pytest.raises(ValueError, match="expected the shape of pred"):
        MINDLoss()(x, y[..., 1:])
    with pytest.raises(ValueError, match="image: expected 1 channel"):
        mind_ssc(torch.rand(1, 2, 5, 5))
