"""Folds: counted by one-sided determinants, measured in volume."""

import itertools

import pytest
import SimpleITK as sitk
import torch
from scipy.spatial import ConvexHull

from medtrace.fields import (
    exponentiate,
    folded_voxels,
    identity_grid,
    jacobian_determinant,
    non_diffeomorphic_fraction,
    non_diffeomorphic_volume,
)


def linear(matrix, shape):
    points = identity_grid(shape, dtype=torch.float64)
    return torch.einsum("ij,j...->i...", matrix - torch.eye(len(shape)), points)[None]


@pytest.mark.parametrize("shape", [(6, 7), (5, 6, 4)])
def test_linear_maps_have_their_matrix_determinant_everywhere(shape):
    matrix = torch.tensor([[1.2, 0.3, 0.1], [-0.4, 0.8, 0.2], [0.0, 0.5, 1.5]], dtype=torch.float64)
    matrix = matrix[: len(shape), : len(shape)]
    ddf = linear(matrix, shape)
    expected = torch.linalg.det(matrix).expand(1, 1, *shape)
    torch.testing.assert_close(jacobian_determinant(ddf), expected)
    assert non_diffeomorphic_fraction(ddf).tolist() == [0.0]
    assert non_diffeomorphic_volume(ddf).tolist() == [0.0]


@pytest.mark.parametrize("shape", [(6, 7), (5, 6, 4)])
def test_mirroring_turns_the_whole_volume_inside_out(shape):
    """Both ways to cut a cell fill it, so that the volume turned over is the grid's, stretched by the map."""
    matrix = torch.eye(len(shape), dtype=torch.float64)
    matrix[0, 0] = -1.0
    matrix[1, 1] = 2.0
    ddf = linear(matrix, shape)
    cells = 1
    for size in shape:
        cells *= size - 1
    torch.testing.assert_close(non_diffeomorphic_volume(ddf), torch.tensor([2.0 * cells], dtype=torch.float64))
    assert non_diffeomorphic_fraction(ddf).tolist() == [1.0]


def test_central_differences_miss_what_one_sided_ones_find():
    """One voxel moved: no central difference at any voxel's own place reads it, and its neighbors stay positive."""
    ddf = torch.zeros(1, 2, 7, 7)
    ddf[0, 0, 3, 3] = 1.5
    assert jacobian_determinant(ddf)[0, 0, 3, 3] == 1
    assert jacobian_determinant(ddf).min() > 0
    # Moved along axis 0 past (4, 3). A corner triangle of the moved point spans its neighbor on axis 0 and one on
    # axis 1: forward on axis 0 gives 1 - 1.5 < 0, backward 1 + 1.5. Of its neighbors' own triangles, those of
    # (4, 3) backward on axis 0 are -0.5, and those of (3, 2) and (3, 4) keep their 1: the shift is along axis 0.
    assert non_diffeomorphic_fraction(ddf).item() == pytest.approx(2 / 49)
    # Triangles with determinant -0.5: two at (3, 3) and two at (4, 3), each of area 0.25; two ways to cut.
    assert non_diffeomorphic_volume(ddf).item() == pytest.approx(4 * 0.25 / 2)


def test_one_voxel_of_a_volume():
    """As above; in 3D the four corner tetrahedra of each of two voxels, and the inner ones that touch them."""
    ddf = torch.zeros(1, 3, 5, 5, 5)
    ddf[0, 0, 2, 2, 2] = 1.5
    assert jacobian_determinant(ddf).min() > 0
    # Corners: 4 at (2, 2, 2) and 4 at (3, 2, 2), each -0.5. An inner tetrahedron (volume 1/3, J = 2) that has the moved
    # point as a vertex has the base x+y+z=2 of its other three, whose height changes as the shift: J = 2 - 1.5 > 0.
    assert non_diffeomorphic_volume(ddf).item() == pytest.approx(8 * 0.5 / 6 / 2)
    assert non_diffeomorphic_fraction(ddf).item() == pytest.approx(2 / 125)


def test_inner_tetrahedra_see_what_all_corners_miss():
    """All eight corner determinants of a cell positive, an inner one negative: ten are needed in 3D."""
    found = None
    generator = torch.Generator().manual_seed(0)
    for _ in range(20000):
        trial = torch.rand(1, 3, 2, 2, 2, generator=generator, dtype=torch.float64) * 1.6 - 0.8
        points = (identity_grid((2, 2, 2), dtype=torch.float64) + trial)[0]
        corners = []
        for corner in itertools.product((0, 1), repeat=3):
            columns = []
            for axis in range(3):
                low, high = list(corner), list(corner)
                low[axis], high[axis] = 0, 1
                columns.append(points[(slice(None), *high)] - points[(slice(None), *low)])
            corners.append(torch.linalg.det(torch.stack(columns, 1)))
        if min(corners) > 0 and non_diffeomorphic_volume(trial) > 0:
            found = trial
            break
    assert found is not None
    assert non_diffeomorphic_fraction(found).item() == pytest.approx(1 / 8)


def test_every_simplex_of_a_cell_against_scipy():
    """A convex cell: each way to cut it fills its hull, so that mirrored the volume is the hull's."""
    generator = torch.Generator().manual_seed(0)
    jitter = torch.rand(1, 2, 2, 2, generator=generator, dtype=torch.float64) * 0.3
    mirrored = jitter.clone()
    points = identity_grid((2, 2), dtype=torch.float64) + jitter[0]
    mirrored[0, 0] = -points[0] - identity_grid((2, 2), dtype=torch.float64)[0]
    hull = ConvexHull(points.reshape(2, -1).T.numpy()).volume
    assert non_diffeomorphic_volume(mirrored).item() == pytest.approx(hull)


def test_jacobian_agrees_with_simpleitk_inside():
    ddf = torch.randn(1, 3, 8, 9, 7, dtype=torch.float64) * 0.3
    image = sitk.GetImageFromArray(ddf[0].numpy().T.copy(), isVector=True)
    theirs = torch.from_numpy(sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(image)).T.copy())
    ours = jacobian_determinant(ddf)[0, 0]
    inner = (slice(1, -1),) * 3
    torch.testing.assert_close(ours[inner], theirs[inner].double(), atol=1e-5, rtol=0)


def test_single_slice_is_assessed_in_its_plane():
    flat = torch.randn(2, 2, 9, 8, dtype=torch.float64) * 0.6
    for axis in range(3):
        order = [k for k in range(3) if k != axis]
        volume = torch.zeros(2, 3, *[1 if k == axis else (9, 8)[order.index(k)] for k in range(3)], dtype=torch.float64)
        volume[:, order] = flat.unsqueeze(2 + axis)
        torch.testing.assert_close(non_diffeomorphic_fraction(volume), non_diffeomorphic_fraction(flat))
        torch.testing.assert_close(jacobian_determinant(volume).flatten(1), jacobian_determinant(flat).flatten(1))
    assert non_diffeomorphic_fraction(flat).min() > 0
    assert non_diffeomorphic_fraction(torch.zeros(1, 3, 1, 1, 1)).tolist() == [0.0]


@pytest.mark.parametrize("axis", [0, 1])
def test_an_image_of_one_row_is_assessed_along_it(axis):
    """0, 1, 2, 3 go to 0, 2.5, 2, 3: the second and third change places, which turns half a voxel over."""
    ddf = torch.zeros(1, 2, 1, 4)
    ddf[0, 1, 0, 1] = 1.5
    if axis == 0:
        ddf = ddf.transpose(2, 3).flip(1)
    assert non_diffeomorphic_volume(ddf).tolist() == [0.5]
    assert non_diffeomorphic_fraction(ddf).tolist() == [0.5]
    assert folded_voxels(ddf).flatten().tolist() == [False, True, True, False]


def test_flow_of_a_smooth_velocity_does_not_fold_and_its_double_addition_does():
    points = identity_grid((48, 48))
    wave = torch.stack([torch.sin(points[0] / 3), torch.cos(points[1] / 3)])[None] * 5
    assert non_diffeomorphic_fraction(exponentiate(wave, 10)).item() == 0
    assert non_diffeomorphic_fraction(wave).item() > 0.1


@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 3)])
def test_gradients(shape):
    ddf = (torch.randn(1, len(shape), *shape, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(jacobian_determinant, ddf)
    assert torch.autograd.gradcheck(non_diffeomorphic_volume, ddf)


def test_autocast_and_shapes():
    ddf = torch.randn(3, 2, 20, 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results = [jacobian_determinant(ddf), non_diffeomorphic_fraction(ddf), non_diffeomorphic_volume(ddf)]
    expected = [jacobian_determinant(ddf), non_diffeomorphic_fraction(ddf), non_diffeomorphic_volume(ddf)]
    for result, plain in zip(results, expected):
        assert result.dtype == torch.float32
        assert torch.equal(result, plain)
    assert [tuple(result.shape) for result in results] == [(3, 1, 20, 20), (3,), (3,)]


@pytest.mark.parametrize("function", [jacobian_determinant, non_diffeomorphic_fraction, non_diffeomorphic_volume])
def test_errors_say_what_was_expected(function):
    with pytest.raises(ValueError, match=r"ddf: expected \(batch, channel, H, W\)"):
        function(torch.zeros(2, 4, 4))
    with pytest.raises(ValueError, match="ddf: expected 3 channels"):
        function(torch.zeros(1, 2, 4, 4, 4))
    with pytest.raises(TypeError, match="ddf: expected a torch tensor, received str"):
        function("field")
