"""Chains of affines and fields, and the algebra of traces, against SimpleITK's composite transforms."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from medtrace.fields import jacobian_determinant
from medtrace.geometry import Grid
from medtrace.io.composite import linear_transform
from medtrace.io.foreign.linear import affine_transform
from medtrace.io.foreign.point_map import itk_geometry
from medtrace.io.nifti import LPS
from medtrace.io.transforms import displacement_lps, itk_transform
from medtrace.trace import AffinePart, FieldPart, Trace, TransformChain
from tests.passport_cases import AFFINES, affine_of, make_trace, points_within, smooth

SHAPE = (20, 18, 16)


def field(seed, affine, shape=SHAPE, size=1.5):
    return FieldPart(smooth(len(shape), *shape, seed=seed) * size, affine, outside="zero")


def matrix(angles=(4.0, -6.0, 9.0), shift=(3.0, -2.0, 1.5)):
    return affine_of((1.05, 0.97, 1.0), angles, shift)


def as_itk(part):
    if isinstance(part, AffinePart):
        return affine_transform(part.matrix.numpy())
    return itk_transform(*displacement_lps(part.ddf, part.affine))


def by_itk(parts, points):
    composite = sitk.CompositeTransform([as_itk(part) for part in parts][::-1])  # the last is applied first
    moved = [composite.TransformPoint(point) for point in (points.numpy() @ LPS).tolist()]
    return torch.from_numpy(np.array(moved) @ LPS)


@pytest.mark.parametrize("name", AFFINES)
def test_a_chain_moves_points_as_itk_does(name):
    affine = AFFINES[name]
    parts = (
        AffinePart(matrix()),
        field(1, affine),
        AffinePart(matrix((-3.0, 2.0, 5.0), (0.5, 1, -2))),
        field(2, AFFINES["oblique"], size=2.5),
    )
    points = Grid(SHAPE, affine).to_mm(torch.rand(400, 3, generator=torch.Generator().manual_seed(0)) * 17)
    result = TransformChain(parts).origin(points)
    assert float((result - points).norm(dim=1).max()) > 1
    assert float((result - by_itk(parts, points)).abs().max()) < 1e-5


@pytest.mark.parametrize("name", ["plain", "oblique", "flipped", "permuted"])
def test_the_inverse_of_a_field_is_solved_for_to_a_micron(name):
    affine = AFFINES[name]
    chain = TransformChain((AffinePart(matrix()), field(3, affine)))
    inside = Grid(SHAPE, affine).to_mm(4 + 9 * torch.rand(200, 3, generator=torch.Generator().manual_seed(1)))
    back = TransformChain((chain.parts[0],)).inverse().origin(inside)  # so that the field is met within its grid
    moved = chain.origin(back)
    assert float((chain.locate(moved) - back).norm(dim=1).max()) < 1e-5
    assert chain.inverse().inverse().parts[1] is chain.parts[1]


def test_then_is_first_the_first():
    shift = TransformChain((AffinePart(affine_of((1, 1, 1), origin=(5.0, 0, 0))),))
    double = TransformChain((AffinePart(affine_of((2, 1, 1))),))
    # A point of the target goes through the second first.
    assert shift.then(double).origin([[1.0, 0, 0]]).tolist() == [[7.0, 0, 0]]
    assert double.then(shift).origin([[1.0, 0, 0]]).tolist() == [[12.0, 0, 0]]
    assert shift.then(double).matrix[0].tolist() == [2, 0, 0, 5]
    assert shift.then(shift.inverse()).simplified().parts == ()
    assert TransformChain((field(0, AFFINES["plain"]),)).matrix is None


@pytest.mark.parametrize("name", ["oblique", "flipped", "anisotropic"])
def test_an_image_is_interpolated_once(name):
    own, grid = (
        Grid(SHAPE, AFFINES[name]),
        Grid((15, 17, 13), AFFINES[name] @ torch.diag(torch.tensor([1.2, 0.9, 1.1, 1.0])).double()),
    )
    parts = (
        field(4, grid.affine, grid.shape),
        AffinePart(affine_of((1, 1, 1), (2, 1, -2), (0.3, 0.2, 0.1))),
        field(5, own.affine),
    )
    image = smooth(1, *own.shape, seed=6).double()
    result = TransformChain(parts).resample(image, own, grid, fill=-7.0)
    moving = sitk.GetImageFromArray(image[0].numpy().T.copy())
    origin, spacing, direction = itk_geometry(own)
    moving.SetOrigin(origin)
    moving.SetSpacing(spacing)
    moving.SetDirection(direction)
    composite = sitk.CompositeTransform([as_itk(part) for part in parts][::-1])
    reference = sitk.Resample(
        moving, list(grid.shape), composite, sitk.sitkLinear, *itk_geometry(grid), -7.0, sitk.sitkFloat64
    )
    expected = torch.from_numpy(sitk.GetArrayFromImage(reference).T.copy())
    inside = (result[0] != -7) & (expected != -7)
    assert float(inside.double().mean()) > 0.3
    assert int(((result[0] == -7) != (expected == -7)).sum()) <= 3  # on the very edge
    assert float((result[0] - expected).abs()[inside].max()) < 1e-6


@pytest.mark.parametrize("kind", ["2d", "3d"])
@pytest.mark.parametrize("name", ["oblique", "permuted"])
def test_traces_compose_and_invert(kind, name):
    first, second = make_trace(kind, name, elsewhere=True), make_trace(kind, name)
    both = first.then(second)
    points = points_within(second.image.shape[1:], second.affine, margin=5)
    exact = first.chain.then(second.chain).origin(points)
    assert float((first.origin(second.origin(points)) - exact).norm(dim=1).max()) < 2e-5
    at_voxels = Grid.of(second.image, second.affine).to_mm(torch.tensor([[6, 7, 5][: second.spatial_dims]]))
    assert float((both.origin(at_voxels) - first.origin(second.origin(at_voxels))).norm(dim=1).max()) < 1e-4
    assert torch.equal(both.source, first.source)
    assert torch.equal(both.image, second.image)
    back = first.inverse()
    assert torch.equal(back.ddf, first.inverse_ddf)
    assert torch.equal(back.source, first.image)
    assert torch.allclose(back.locate(points), first.origin(points))
    assert torch.equal(back.inverse().ddf, first.ddf)


def test_traces_that_do_not_meet_are_refused():
    trace = make_trace("3d", "plain")
    elsewhere = Trace.build(trace.source, trace.image, trace.ddf, affine=affine_of((1, 1, 1), origin=(500.0, 0, 0)))
    with pytest.raises(ValueError, match="do not overlap"):
        trace.then(elsewhere)
    with pytest.raises(ValueError, match="second: expected a trace in 3D"):
        trace.then(make_trace("2d", "plain"))


def test_partial_volume_keeps_thin_labels_where_nearest_loses_them():
    labels = torch.zeros(1, 24, 24, 24, dtype=torch.int16)
    labels[:, 8:20, 8:20, 8:20] = 3
    labels[:, 8:20, 8:20, 12:15] = 5
    own = Grid(labels.shape[1:], torch.eye(4, dtype=torch.float64))
    coarse = affine_of((4.0, 4.0, 4.0), origin=(1.5, 1.5, 1.5))
    grid = Grid((6, 6, 6), coarse)
    still = TransformChain()
    result = still.resample(labels, own, grid, "partial-volume")
    blocks = labels[0].reshape(6, 4, 6, 4, 6, 4).permute(0, 2, 4, 1, 3, 5).reshape(6, 6, 6, 64)
    assert torch.equal(result[0].long(), torch.mode(blocks.long(), dim=-1).values)
    assert result.dtype == torch.int16
    assert set(result.unique().tolist()) == {0, 3, 5}
    same = still.resample(labels, own, own, "partial-volume")
    assert torch.equal(same, labels)
    assert torch.equal(still.resample(labels, own, own, "nearest"), labels)


def test_a_fold_is_warned_of():
    ddf = torch.zeros(3, *SHAPE)
    ddf[0] = 6 * torch.sin(torch.arange(SHAPE[0]) * 1.2)[:, None, None]
    assert float(jacobian_determinant(ddf[None]).min()) < 0
    chain = TransformChain((FieldPart(ddf, torch.eye(4)),))
    assert linear_transform(np.eye(4)).IsLinear()
    with pytest.warns(UserWarning, match="the field folds there"):
        chain.locate(torch.rand(200, 3) * 15)
