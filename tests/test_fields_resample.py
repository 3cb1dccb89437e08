"""Reading images at displaced positions, and vectors in millimeters."""

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from medtrace.fields import identity_grid, inside_grid, mm_to_voxel, sample, voxel_to_mm, warp

SHAPES = {"2d": (7, 9), "3d": (5, 6, 7), "single slice": (6, 7, 1), "single row": (1, 8), "one voxel": (1, 1, 1)}
SCIPY_PADDING = {"border": "nearest", "zeros": "constant", "reflection": "mirror"}


@pytest.mark.parametrize("padding_mode", ["border", "reflection"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_warp_agrees_with_scipy(shape, padding_mode):
    image = torch.rand(2, 3, *shape, dtype=torch.float64)
    ddf = torch.randn(2, len(shape), *shape, dtype=torch.float64) * 2
    result = warp(image, ddf, padding_mode=padding_mode)
    points = identity_grid(shape, dtype=torch.float64) + ddf
    for b in range(2):
        for c in range(3):
            expected = map_coordinates(
                image[b, c].numpy(), points[b].numpy(), order=1, mode=SCIPY_PADDING[padding_mode]
            )
            np.testing.assert_allclose(result[b, c].numpy(), expected, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_zeros_fade_over_one_voxel_on_every_axis_also_of_length_one(shape):
    image = torch.rand(1, 1, *shape, dtype=torch.float64)
    ddf = torch.randn(1, len(shape), *shape, dtype=torch.float64) * 1.5
    padded = np.pad(image[0, 0].numpy(), 3)
    points = (identity_grid(shape, dtype=torch.float64) + ddf)[0].numpy() + 3
    expected = map_coordinates(padded, points, order=1, mode="constant")
    np.testing.assert_allclose(warp(image, ddf, padding_mode="zeros")[0, 0].numpy(), expected, atol=1e-10)


def test_whole_voxel_shift_pulls_the_neighbor():
    image = torch.arange(12.0).reshape(1, 1, 3, 4)
    ddf = torch.zeros(1, 2, 3, 4)
    ddf[:, 0] = 1
    expected = torch.tensor([[4.0, 5, 6, 7], [8, 9, 10, 11], [8, 9, 10, 11]])
    assert torch.equal(warp(image, ddf)[0, 0], expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_labels_stay_labels(dtype):
    labels = torch.tensor([[0, 1, 2**40 if dtype == torch.int64 else 1]], dtype=dtype).reshape(1, 1, 1, 3)
    ddf = torch.zeros(1, 2, 1, 3)
    ddf[:, 1] = 0.8
    result = warp(labels, ddf, mode="nearest")
    assert result.dtype == dtype
    assert torch.equal(result[0, 0, 0], labels[0, 0, 0, [1, 2, 2]])


@pytest.mark.parametrize("shape", [(6, 7), (4, 5, 6)])
def test_sample_at_points_equals_warp(shape):
    image, ddf = torch.rand(2, 3, *shape), torch.randn(2, len(shape), *shape)
    points = identity_grid(shape) + ddf
    flat = sample(image, points.flatten(2))
    assert flat.shape == (2, 3, points[0, 0].numel())
    torch.testing.assert_close(flat.reshape(2, 3, *shape), warp(image, ddf))


def test_sample_reads_a_voxel_by_its_index():
    image = torch.rand(1, 2, 3, 4, 5)
    value = sample(image, torch.tensor([2.0, 1.0, 3.0]).reshape(1, 3, 1))
    torch.testing.assert_close(value[0, :, 0], image[0, :, 2, 1, 3])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_compute_in_float32(dtype):
    image = torch.rand(1, 1, 64, 64).to(dtype)
    ddf = torch.full((1, 2, 64, 64), 0.3)
    expected = warp(image.float(), ddf)
    assert torch.equal(warp(image, ddf), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = warp(image, ddf)
    assert result.dtype == torch.float32
    assert torch.equal(result, expected)
    assert warp(image, ddf.double()).dtype == torch.float64


@pytest.mark.parametrize("padding_mode", ["border", "zeros", "reflection"])
@pytest.mark.parametrize("shape", [(3, 4), (3, 2, 3), (3, 4, 1)])
def test_gradients(shape, padding_mode):
    image = torch.rand(1, 2, *shape, dtype=torch.float64, requires_grad=True)
    ddf = (torch.rand(1, len(shape), *shape, dtype=torch.float64) * 0.4 + 0.2).requires_grad_()
    assert torch.autograd.gradcheck(lambda i, d: warp(i, d, padding_mode=padding_mode), (image, ddf))


def test_inside_grid():
    points = torch.tensor([[0.0, 2.0, 2.5, -0.1, 1.0], [0.0, 0.0, 0.0, 0.0, 0.2]]).reshape(1, 2, 5)
    assert inside_grid(points, (3, 1))[0, 0].tolist() == [True, True, False, False, False]


ROTATED = torch.tensor(
    [[0.0, -2.0, 0.6, 10.0], [1.5, 0.0, 0.0, -20.0], [0.0, 0.5, 3.0, 5.0], [0.0, 0.0, 0.0, 1.0]],
    dtype=torch.float64,
)


def test_millimeters_by_hand():
    ddf = torch.zeros(1, 3, 2, 2, 2)
    ddf[:, 0], ddf[:, 1], ddf[:, 2] = 2.0, -1.0, 0.5
    mm = voxel_to_mm(ddf, ROTATED)[0, :, 0, 0, 0]
    torch.testing.assert_close(mm, torch.tensor([2.3, 3.0, 1.0]))
    flat = voxel_to_mm(ddf[:, :2, :, :, 0], ROTATED)[0, :, 0, 0]
    torch.testing.assert_close(flat, torch.tensor([2.0, 3.0, -0.5]))


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 5)])
def test_millimeters_and_back(shape):
    ddf = torch.randn(2, len(shape), *shape, dtype=torch.float64)
    affines = torch.stack([ROTATED, ROTATED @ ROTATED])
    torch.testing.assert_close(mm_to_voxel(voxel_to_mm(ddf, affines), affines), ddf)
    torch.testing.assert_close(voxel_to_mm(ddf, affines)[1:], voxel_to_mm(ddf[1:], affines[1]))


def test_back_to_2d_drops_what_leaves_the_plane():
    normal = torch.linalg.cross(ROTATED[:3, 0], ROTATED[:3, 1])
    field = normal.reshape(1, 3, 1, 1).expand(1, 3, 2, 2)
    assert mm_to_voxel(field, ROTATED).abs().max() < 1e-12


IMAGE, FIELD = torch.rand(1, 1, 4, 5), torch.zeros(1, 2, 4, 5)


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: warp(IMAGE, FIELD, mode="cubic"), ValueError, "mode: expected one of 'bilinear', 'nearest'"),
        (lambda: warp(IMAGE, FIELD, padding_mode="wrap"), ValueError, "padding_mode: expected one of"),
        (lambda: warp(IMAGE[0], FIELD), ValueError, r"image: expected \(batch, channel, H, W\)"),
        (lambda: warp(IMAGE, FIELD[:, :1]), ValueError, "ddf: expected 2 channels"),
        (lambda: warp(IMAGE[..., :4], FIELD), ValueError, "ddf: expected the batch and grid of image"),
        (lambda: warp(IMAGE.long(), FIELD), TypeError, 'image.*torch.int64; use mode="nearest"'),
        (lambda: warp([[1.0]], FIELD), TypeError, "image: expected a torch tensor, received list"),
        (lambda: warp(IMAGE, FIELD.long()), TypeError, "ddf: expected floating-point"),
        (lambda: sample(IMAGE, torch.zeros(1, 3, 7)), ValueError, r"coordinates: expected \(1, 2\)"),
        (lambda: sample(IMAGE, torch.zeros(1, 2, 7).long()), TypeError, "coordinates: expected a floating"),
        (lambda: voxel_to_mm(FIELD, torch.eye(3)), ValueError, r"affine: expected shape \(4, 4\)"),
        (lambda: voxel_to_mm(FIELD, torch.zeros(4, 4)), ValueError, "affine: expected an invertible"),
        (lambda: voxel_to_mm(FIELD, np.eye(4)), TypeError, "affine: expected a floating-point tensor"),
        (lambda: mm_to_voxel(FIELD, torch.eye(4)), ValueError, "ddf_mm: expected 3 channel"),
    ],
)
def test_errors_say_what_was_expected(call, kind, text):
    with pytest.raises(kind, match=text):
        call()


def test_a_grid_of_symbolic_sizes_can_be_exported():
    class Shifted(torch.nn.Module):
        def forward(self, ddf):
            return identity_grid(ddf.shape[2:], dtype=ddf.dtype) + ddf

    height = torch.export.Dim("height", min=4, max=64)
    exported = torch.export.export(Shifted(), (torch.zeros(2, 2, 8, 8),), dynamic_shapes=({2: height},)).module()
    assert torch.equal(exported(torch.zeros(2, 2, 12, 8))[0], identity_grid((12, 8)))
