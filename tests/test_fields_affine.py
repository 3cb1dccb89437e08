"""Affine maps about a grid's center and their displacements."""

import math

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy.ndimage import affine_transform

from medtrace.fields import (
    affine_displacement,
    compose,
    identity_grid,
    jacobian_determinant,
    rigid_scale_matrix,
    sample,
    warp,
)

CASES = {
    "2d": (12.0, (1.5, -2.25), 1.07, (15, 12)),
    "3d": ((5.0, -8.0, 11.0), (0.5, 1.25, -1.0), 0.93, (9, 11, 10)),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@each_case
def test_agrees_with_scipy(case):
    matrix, shape = rigid_scale_matrix(*case), case[3]
    image = torch.rand(1, 1, *shape, dtype=torch.float64)
    result = warp(image, affine_displacement(matrix, shape, dtype=torch.float64)[None])
    expected = affine_transform(image[0, 0].numpy(), matrix.numpy(), order=1, mode="nearest")
    np.testing.assert_allclose(result[0, 0].numpy(), expected, atol=1e-12)


@each_case
def test_points_agree_with_simpleitk(case):
    angles, translation, scale, shape = case
    dims = len(shape)
    center = [(size - 1) / 2 for size in shape]
    reference = sitk.Similarity2DTransform() if dims == 2 else sitk.Euler3DTransform()
    reference.SetCenter(center)
    reference.SetTranslation(translation)
    if dims == 2:
        reference.SetScale(scale)
        reference.SetAngle(math.radians(angles))
    else:
        scale = 1.0
        reference.SetComputeZYX(True)
        reference.SetRotation(*np.radians(angles).tolist())
    ddf = affine_displacement(rigid_scale_matrix(angles, translation, scale, shape), shape, dtype=torch.float64)
    for index in [(0,) * dims, (3, 7, 2)[:dims], tuple(size - 1 for size in shape)]:
        moved = np.array(index) + ddf[(slice(None), *index)].numpy()
        np.testing.assert_allclose(moved, reference.TransformPoint([float(i) for i in index]), atol=1e-10)


@each_case
def test_inverse_matrix_composes_to_zero(case):
    matrix, shape = rigid_scale_matrix(*case), case[3]
    forward = identity_grid(shape, dtype=torch.float64) + affine_displacement(matrix, shape, dtype=torch.float64)
    inverse = torch.linalg.inv(matrix)
    back = torch.einsum("ij,j...->i...", inverse[:-1, :-1], forward) + inverse[:-1, -1].reshape(-1, *(1,) * len(shape))
    torch.testing.assert_close(back, identity_grid(shape, dtype=torch.float64), atol=1e-11, rtol=0)
    # and the two fields undo each other where nothing is read beyond the grid
    ddf, inverse_ddf = (affine_displacement(m, shape, dtype=torch.float64)[None] for m in (matrix, inverse))
    center = (slice(None), slice(None), *(slice(size // 2 - 1, size // 2 + 2) for size in shape))
    assert float(compose(ddf, inverse_ddf)[center].abs().max()) < 1e-10


@each_case
def test_matrices_multiply_as_fields_compose(case):
    shape = case[3]
    outer = rigid_scale_matrix(*case)
    inner = rigid_scale_matrix(3.0 if len(shape) == 2 else (3.0, 1.0, -2.0), (0.5,) * len(shape), 0.9, shape)
    first, second = (affine_displacement(m, shape, dtype=torch.float64)[None] for m in (outer, inner))
    both = affine_displacement(outer @ inner, shape, dtype=torch.float64)
    center = (slice(None), *(slice(size // 2 - 1, size // 2 + 2) for size in shape))
    torch.testing.assert_close(compose(first, second)[0][center], both[center], atol=1e-10, rtol=0)


@each_case
def test_volume_changes_by_the_scale(case):
    shape, scale = case[3], case[2]
    determinant = jacobian_determinant(affine_displacement(rigid_scale_matrix(*case), shape, dtype=torch.float64)[None])
    torch.testing.assert_close(determinant, torch.full_like(determinant, scale ** len(shape)))


def test_quarter_turn_and_scale_by_hand():
    ddf = affine_displacement(rigid_scale_matrix(90, (0, 0), 1, (3, 3)), (3, 3))
    image = torch.arange(9.0).reshape(1, 1, 3, 3)
    # the first axis turns towards the second: (1, 0) from the center reads (0, 1), so [2, 1] reads [1, 2]
    expected = torch.tensor([[6.0, 3, 0], [7, 4, 1], [8, 5, 2]])
    torch.testing.assert_close(warp(image, ddf[None])[0, 0], expected)
    shrunk = affine_displacement(rigid_scale_matrix(0, (0, 0), 2, (5, 5)), (5, 5))
    assert shrunk[:, 3, 1].tolist() == [1.0, -1.0]


def test_the_identity_is_exactly_zero():
    for shape in [(6, 7), (4, 5, 6)]:
        angles = 0.0 if len(shape) == 2 else (0, 0, 0)
        assert not affine_displacement(rigid_scale_matrix(angles, (0,) * len(shape), 1, shape), shape).any()


def test_spacing_makes_the_rotation_rigid_in_mm():
    shape, spacing = (8, 9, 5), torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
    linear = rigid_scale_matrix((10, 20, -15), (0, 0, 0), 1.1, shape, spacing.tolist())[:3, :3]
    in_mm = torch.diag(spacing) @ linear @ torch.diag(1 / spacing)
    torch.testing.assert_close(in_mm @ in_mm.T, 1.21 * torch.eye(3, dtype=torch.float64))


def test_an_axis_of_length_one_and_whole_shift():
    ddf = affine_displacement(rigid_scale_matrix((0, 0, 0), (2, 0, 0), 1, (5, 4, 1)), (5, 4, 1))
    image = torch.rand(1, 1, 5, 4, 1)
    assert torch.equal(warp(image, ddf[None])[:, :, :3], image[:, :, 2:])
    assert torch.equal(sample(image, (identity_grid((5, 4, 1)) + ddf)[None])[:, :, :3], image[:, :, 2:])


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        (((1, 2), (0, 0), 1, (5, 5)), ValueError, "angles_degrees: expected 1"),
        ((1, (0, 0, 0), 1, (5, 5)), ValueError, "translation_voxels: expected 2"),
        ((1, (0, 0), 0, (5, 5)), ValueError, "scale: expected numbers above 0"),
        ((1, (0, 0), 1, (5, 5), (1, -1)), ValueError, "spacing: expected numbers above 0"),
        ((float("nan"), (0, 0), 1, (5, 5)), ValueError, "angles_degrees: expected 1 finite"),
        (("a", (0, 0), 1, (5, 5)), TypeError, "angles_degrees"),
        ((1, (0, 0), 1, (5,)), ValueError, "shape: expected"),
    ],
)
def test_errors_of_the_matrix(arguments, kind, text):
    with pytest.raises(kind, match=text):
        rigid_scale_matrix(*arguments)


def test_errors_of_the_displacement():
    with pytest.raises(TypeError, match="matrix: expected a floating-point tensor"):
        affine_displacement(np.eye(3), (4, 4))
    with pytest.raises(ValueError, match=r"matrix: expected finite numbers of shape \(4, 4\)"):
        affine_displacement(torch.eye(3), (4, 4, 4))
    projective = torch.eye(3)
    projective[2, 0] = 0.1
    with pytest.raises(ValueError, match="last row"):
        affine_displacement(projective, (4, 4))
