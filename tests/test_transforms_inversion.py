"""Spatial transforms go back through MONAI's `Invertd`, by the numbers."""

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Flipd, Invertd, allow_missing_keys_mode

from medtrace.data.dataset import DropSliceAxisd
from medtrace.transforms import RandMisalign, RandMisalignd, RegisterPaird, RigidAlignmentd, SliceExtractiond
from tests.test_transforms_misalignment import smooth_image

AFFINE = torch.diag(torch.tensor([1.0, 1.5, 2.0, 1.0], dtype=torch.float64))


def waves(shape):
    """An image that a linear interpolation hardly changes: waves of 24 voxels and more."""
    lines = [torch.linspace(0, size, size) for size in shape]
    grids = torch.meshgrid(*lines, indexing="ij")
    return sum(torch.sin(2 * torch.pi * grid / (24 + 6 * axis) + axis) for axis, grid in enumerate(grids))[None]


def volume(shape=(24, 22, 20), seed=0):
    return MetaTensor(smooth_image(shape, seed=seed), affine=AFFINE)


def inverted(transform, item, keys):
    """What `Invertd` makes of predictions that are the transformed images themselves."""
    names = [f"{key}_pred" for key in keys]
    for key, name in zip(keys, names):
        item[name] = item[key].clone()
    back = Invertd(names, transform, orig_keys=list(keys), nearest_interp=False, to_tensor=True)
    return {key: back(item)[name] for key, name in zip(keys, names)}


@pytest.mark.parametrize("shape", [(24, 26), (22, 20, 18)], ids=["2d", "3d"])
@pytest.mark.parametrize("level", ["3", "nonrigid"])
def test_misalignment_goes_back_where_it_stayed_on_the_grid(shape, level):
    image = MetaTensor(waves(shape), affine=AFFINE)
    chain = Compose(
        [RandMisalignd(["a", "b"], level=level, mode=["bilinear", "nearest"], ddf_key="ddf"), Flipd(["a"], 0)]
    )
    chain.set_random_state(3)
    stripes = torch.arange(shape[0]).reshape(1, -1, *[1] * (len(shape) - 1)) // 4 % 2
    labels = MetaTensor(stripes.float().expand(image.shape).clone(), affine=AFFINE)
    item = chain({"a": image.clone(), "b": labels.clone()})
    back = inverted(chain, item, ("a", "b"))
    inside = (slice(None), *[slice(5, -5)] * len(shape))
    moved = float((item["b"] - labels)[inside].abs().mean())
    assert moved > 0.02
    assert float((back["b"] - labels)[inside].abs().mean()) < 0.5 * moved  # twice the nearest voxel
    unflipped = item["a"].flip(1)
    error, change = (float((one - image)[inside].abs().mean()) for one in (back["a"], unflipped))
    assert change > 0.02
    curvature = sum((2 * torch.pi / (24 + 6 * axis)) ** 2 for axis in range(len(shape)))
    assert error < curvature / 8  # of two linear interpolations, each off by an eighth at most, where the two average
    assert error < 0.35 * change
    assert not back["a"].applied_operations


def test_a_translation_by_whole_voxels_comes_back_exactly():
    from medtrace.transforms import MisalignmentDraw

    image = MetaTensor(torch.rand(1, 20, 20), affine=AFFINE)
    transform = RandMisalign(level=1)
    moved = transform.apply(image, MisalignmentDraw((0.0,), (10.0, -5.0), 1.0))
    torch.testing.assert_close(moved[:, :18, 1:].as_tensor(), image[:, 2:, :19].as_tensor(), atol=1e-6, rtol=0)
    back = transform.inverse(moved)
    torch.testing.assert_close(back[:, 2:, :19].as_tensor(), image[:, 2:, :19].as_tensor(), atol=1e-6, rtol=0)


def test_an_identity_draw_comes_back_bit_for_bit():
    image = volume()
    transform = RandMisalignd(["a"], level=5, prob=0.0)
    item = transform({"a": image})
    assert torch.equal(transform.inverse(item)["a"].as_tensor(), image.as_tensor())


def test_slices_go_back_to_their_place_with_what_was_done_before():
    image = volume()
    chain = Compose([Flipd(["a"], spatial_axis=1), SliceExtractiond(["a"], axis="coronal", indices=[7])])
    (item,) = chain({"a": image})
    assert item["a"].shape == (1, 24, 20)
    back = inverted(chain, item, ("a",))["a"]
    place = back.shape[2] - 1 - 7  # counted after the flip: from posterior, where the affine's second axis now ends
    assert back.shape == image.shape
    torch.testing.assert_close(back.affine, image.affine)
    kept = back.as_tensor().abs().sum((0, 1, 3)).nonzero().flatten().tolist()
    assert len(kept) == 1
    assert kept[0] in (7, place)
    torch.testing.assert_close(back[:, :, kept[0]].as_tensor(), image[:, :, kept[0]].as_tensor())


def test_a_dropped_slice_axis_comes_back():
    image = MetaTensor(torch.rand(1, 6, 5, 1), affine=AFFINE)
    chain = Compose([Flipd(["a"], spatial_axis=0), DropSliceAxisd(["a"])])
    item = chain({"a": image})
    back = inverted(chain, item, ("a",))["a"]
    assert torch.equal(back.as_tensor(), image.as_tensor())


def test_rigid_alignment_goes_back():
    image = MetaTensor(smooth_image((28, 28, 28)), affine=torch.eye(4, dtype=torch.float64))
    moved = MetaTensor(image.roll(2, 1), affine=image.affine)
    chain = Compose([RigidAlignmentd(["a"], fixed_key="fixed")])
    item = chain({"a": moved, "fixed": image})
    with allow_missing_keys_mode(chain):
        back = inverted(chain, item, ("a",))["a"]
    inside = (slice(None), *[slice(6, -6)] * 3)
    change = float((item["a"] - moved)[inside].abs().mean())
    assert float((back - moved)[inside].abs().mean()) < 0.15 * change


def test_registered_pairs_go_back():
    fixed = torch.zeros(1, 48, 48)
    fixed[:, 12:30, 14:36], fixed[:, 16:24, 18:24] = 1.0, 2.0
    fixed = MetaTensor(fixed, affine=torch.eye(4, dtype=torch.float64))
    moving = MetaTensor(fixed.roll(4, 1), affine=fixed.affine)
    transform = RegisterPaird(["moving"], "fixed")
    item = transform({"moving": moving, "fixed": fixed})
    back = inverted(transform, item, ("moving",))["moving"]
    change = float((item["moving"] - moving).abs().mean())
    assert float((back - moving).abs().mean()) < 0.3 * change
