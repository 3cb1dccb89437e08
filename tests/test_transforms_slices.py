"""Slices along anatomical axes: geometry on every storage order and oblique grids, choice, dictionary form, errors."""

from itertools import permutations, product

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, list_data_collate
from monai.transforms import Compose, ScaleIntensityd
from nibabel.affines import apply_affine
from nibabel.orientations import aff2axcodes

from medtrace.transforms import SliceExtraction, SliceExtractiond

SHAPE = (5, 6, 7)
TO_RAS = torch.tensor([[1.0, 0.1, 0.05, -3], [-0.1, 1.5, 0.1, 4], [-0.05, -0.1, 2.0, 5], [0, 0, 0, 1]]).double()

LARGER = TO_RAS @ torch.diag(torch.tensor([2.0, 2, 2, 1])).double()


def volume(affine=TO_RAS, shape=SHAPE, name="head.nii.gz"):
    """A volume whose three channels are the RAS mm of each voxel."""
    affine = torch.as_tensor(affine, dtype=torch.float64)
    voxels = torch.stack(torch.meshgrid(*(torch.arange(n).double() for n in shape), indexing="ij"))
    world = torch.einsum("ij,j...->i...", affine[:3, :3], voxels) + affine[:3, 3].reshape(3, 1, 1, 1)
    return MetaTensor(world, affine=affine, meta={"filename_or_obj": name})


def stored(order, flips):
    """The same volume in another storage order."""
    image = volume()
    step = torch.zeros(4, 4).double()
    step[3, 3] = 1
    for new, old in enumerate(order):
        step[old, new] = -1 if flips[new] else 1
        step[old, 3] = SHAPE[old] - 1 if flips[new] else 0
    values = image.as_tensor().permute(0, *(1 + axis for axis in order))
    values = values.flip([1 + axis for axis in range(3) if flips[axis]])
    return MetaTensor(values, affine=image.affine @ step)


STORAGES = [(order, flips) for order in permutations(range(3)) for flips in product((False, True), repeat=3)]


def coordinates(piece):
    """RAS mm of every pixel according to the slice's affine."""
    pixels = np.stack(np.meshgrid(*(np.arange(n) for n in piece.shape[1:]), [0], indexing="ij"), -1)
    return np.moveaxis(apply_affine(piece.affine.numpy(), pixels)[:, :, 0], -1, 0)


@pytest.mark.parametrize("canonical", [True, False])
@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal", "I", "P", "L"])
def test_affine_tells_where_each_pixel_is(axis, canonical):
    for order, flips in STORAGES:
        for piece in SliceExtraction(axis, count=2, canonical=canonical)(stored(order, flips)):
            np.testing.assert_allclose(coordinates(piece), piece.numpy(), atol=1e-9)


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal", "I", "P", "L"])
def test_storage_does_not_matter(axis):
    expected = SliceExtraction(axis, count=2)(volume())
    for order, flips in STORAGES:
        result = SliceExtraction(axis, count=2)(stored(order, flips))
        for one, other in zip(expected, result, strict=True):
            torch.testing.assert_close(one.as_tensor(), other.as_tensor(), atol=1e-9, rtol=0)
            torch.testing.assert_close(one.affine, other.affine, atol=1e-9, rtol=0)
            assert one.meta["slice_index"] == other.meta["slice_index"]


@pytest.mark.parametrize(("axis", "codes"), [("axial", "RAS"), ("coronal", "RSA"), ("sagittal", "ASR")])
def test_orientation_in_the_plane(axis, codes):
    piece = SliceExtraction(axis, count=1)(stored((2, 0, 1), (True, False, True)))[0]
    assert "".join(aff2axcodes(piece.affine.numpy())) == codes


def test_own_axes_are_kept():
    image = stored((2, 0, 1), (True, False, True))
    piece = SliceExtraction("axial", indices=[3], canonical=False)(image)[0]
    assert torch.equal(piece.as_tensor(), image.as_tensor()[:, SHAPE[2] - 1 - 3])
    assert piece.meta["slice_array_axis"] == 0
    assert piece.meta["slice_array_index"] == 3


def indices(transform, image=None, mask=None):
    return [piece.meta["slice_index"] for piece in transform(volume() if image is None else image, mask)]


def test_central_window():
    assert indices(SliceExtraction("axial", count=3)) == [2, 3, 4]
    assert indices(SliceExtraction("axial", count=2)) == [2, 3]
    assert indices(SliceExtraction("axial")) == list(range(7))
    assert indices(SliceExtraction("coronal", count=6)) == list(range(6))
    heights = [piece.affine[2, 3].item() for piece in SliceExtraction("S", count=2)(volume())]
    assert heights == [piece.affine[2, 3].item() for piece in SliceExtraction("I", count=2)(volume())][::-1]


def test_chosen_slices_keep_their_order():
    assert indices(SliceExtraction("S", indices=[4, 0, -1])) == [4, 0, 6]
    up, down = SliceExtraction("S", indices=[1])(volume()), SliceExtraction("I", indices=[5])(volume())
    assert torch.equal(up[0].as_tensor(), down[0].as_tensor())


def test_center_of_foreground_and_mask():
    image = torch.zeros(1, *SHAPE)
    image[:, 2, 2, 0:3] = 1
    assert indices(SliceExtraction("S", count=1, center="foreground"), image) == [1]
    assert indices(SliceExtraction("I", count=1, center="foreground"), image) == [5]
    mask = torch.zeros(1, *SHAPE)
    mask[:, 2, 2, 6] = 1
    assert indices(SliceExtraction("S", count=3, center="foreground"), image, mask) == [4, 5, 6]


def test_pipeline_state():
    image = volume()
    image.applied_operations = [{"class": "Spacing", "extra_info": {"shape": [9]}}]
    piece = SliceExtraction(count=1)(image)[0]
    assert piece.shape == (3, 5, 6)
    assert piece.affine.shape == (4, 4)
    assert piece.affine.dtype == torch.float64
    assert [one["class"] for one in piece.applied_operations] == ["Spacing", "SliceExtraction"]
    piece.applied_operations[0]["extra_info"]["shape"].append(1)
    assert image.applied_operations[0]["extra_info"]["shape"] == [9]
    assert piece.meta["filename_or_obj"] == "head.nii.gz"
    piece[:] = 0
    assert image.abs().sum() > 0
    assert len(image.applied_operations) == 1
    assert SliceExtraction(count=1)(image.numpy())[0].shape == (3, 5, 6)


def test_dictionary_in_a_pipeline():
    items = [{"image": volume(), "label": volume() > 4, "age": 7, "history": [1]} for _ in range(2)]
    pipeline = Compose([SliceExtractiond(["image", "label"], "coronal", count=3), ScaleIntensityd("image")])
    pieces = pipeline(items[0])
    assert len(pieces) == 3
    assert all(piece["age"] == 7 and piece["label"].shape == (3, 5, 7) for piece in pieces)
    pieces[0]["history"].append(2)
    assert items[0]["history"] == pieces[1]["history"] == [1]
    torch.testing.assert_close(pieces[1]["image"].affine, pieces[1]["label"].affine)
    batch = next(iter(DataLoader(Dataset(items, pipeline), batch_size=2, collate_fn=list_data_collate)))
    assert batch["image"].shape == (6, 3, 5, 7)


def test_dictionary_mask_and_missing_keys():
    mask = torch.zeros(1, *SHAPE)
    mask[..., 6] = 1
    transform = SliceExtractiond("image", count=1, center="foreground", mask_key="mask")
    pieces = transform({"image": volume(), "mask": mask})
    assert pieces[0]["image"].meta["slice_index"] == 6
    transform = SliceExtractiond(["image", "absent"], count=2, allow_missing_keys=True)
    assert len(transform({"image": volume()})) == 2
    with pytest.raises(KeyError, match="absent"):
        SliceExtractiond(["image", "absent"])({"image": volume()})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SliceExtraction("transverse"), "axis: expected one of 'axial'"),
        (lambda: SliceExtraction(center="brain"), "center: expected one of"),
        (lambda: SliceExtraction(count=0), "expected at least 1 slice"),
        (lambda: SliceExtraction(count=1, indices=[1]), "expected one of them"),
        (lambda: SliceExtraction(indices=[]), "expected at least one slice"),
        (
            lambda: SliceExtraction(count=8)(volume()),
            r"at most 7 slices, all that img \(head\.nii\.gz\) has along S",
        ),
        (lambda: SliceExtraction(indices=[7])(volume()), r"in \[0, 6\] along S, received \[7\]"),
        (lambda: SliceExtraction()(torch.ones(1, 5, 5)), r"expected a volume \(C, H, W, D\), received shape"),
        (lambda: SliceExtraction()(volume(), torch.ones(1, *SHAPE)), "set center='foreground'"),
        (lambda: SliceExtraction(count=1, center="foreground")(torch.zeros(1, *SHAPE)), "foreground voxels"),
        (
            lambda: SliceExtraction(count=1, center="foreground")(volume(), torch.ones(1, 2, 2, 2)),
            "image's grid",
        ),
        (lambda: SliceExtraction()(volume(torch.zeros(4, 4))), "expected an invertible 4x4"),
        (lambda: SliceExtractiond("x", mask_key="mask"), "set center"),
        (
            lambda: SliceExtractiond(["a", "b"])({"a": volume(), "b": volume(LARGER)}),
            "b: expected the grid of 'a'",
        ),
        (lambda: SliceExtractiond("a", allow_missing_keys=True)({}), "add a volume"),
        (
            lambda: SliceExtractiond("a", center="foreground", mask_key="m")({"a": volume()}),
            "mask_key: expected 'm' in the item",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("call", [lambda: SliceExtraction(count=1.5), lambda: SliceExtraction(indices="12")])
def test_kinds(call):
    with pytest.raises(TypeError, match="whole number"):
        call()


@pytest.mark.real_data
def test_real_oblique_volume(real_data):
    from monai.transforms import LoadImage

    path = real_data / "open_ms" / "longitudinal" / "patient01" / "study1_FLAIR.nii.gz"
    image = LoadImage(image_only=True, ensure_channel_first=True)(path)
    pieces = SliceExtraction("axial", count=5)(image)
    heights = [float(apply_affine(p.affine.numpy(), [p.shape[1] / 2, p.shape[2] / 2, 0])[2]) for p in pieces]
    assert np.all(np.diff(heights) > 0)
    index, axis = pieces[2].meta["slice_array_index"], pieces[2].meta["slice_array_axis"]
    expected = image.as_tensor().select(1 + axis, index)
    assert np.allclose(sorted(expected.flatten()), sorted(pieces[2].as_tensor().flatten()))
    assert aff2axcodes(pieces[2].affine.numpy()) == ("R", "A", "S")
