"""Transforms of other programs as chains of affines and fields, which keep each part as exact as its file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from medtrace.fields import mm_to_voxel
from medtrace.io.foreign.ants import inverse_beside
from medtrace.io.foreign.point_map import Note, PointMap
from medtrace.io.foreign.vectors import read_itk_vectors, read_vector_file
from medtrace.io.nifti import LPS
from medtrace.io.transforms import image_affine
from medtrace.trace.chain import AffinePart, FieldPart, Part, TransformChain

UNDONE_VOXELS = 0.5
"""Median distance by which a warp and the one beside it may miss each other's inverse."""
SAMPLED = 9
"""Points of an axis at which that is looked at."""
_FLIP = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=torch.float64))


@dataclass(frozen=True, eq=False)
class ItkPart:
    """A transform of ITK that is neither affine nor a field, such as a B-spline, as ITK computes it.

    Args:
        transform: in 3D, on points in LPS mm.
        point_map: that it is part of, whose target's grid its inverse is sampled on.
    """

    transform: sitk.Transform
    point_map: PointMap

    def move(self, points: Tensor) -> Tensor:
        moved = [self.transform.TransformPoint(point) for point in (points.numpy() @ LPS).tolist()]
        return torch.from_numpy(np.reshape(np.array(moved, dtype=np.float64), (-1, 3)) @ LPS)

    def inverse(self) -> Part:
        grid = self.point_map.images.target
        own = PointMap(self.transform, self.point_map.images, self.point_map.format)
        return FieldPart(own.displacement(grid), grid.affine, outside="zero").inverse()


def chain_of_point_map(point_map: PointMap) -> TransformChain:
    """A transform that was read, taken apart: linear parts as matrices, fields as fields on their own grids.

    Raises:
        ValueError: if a 2D transform holds a part that is neither linear nor a field, or a linear one is singular.
    """
    dims = point_map.dimensions
    parts = [_part(transform, point_map) for transform in _flat(point_map.transform)]
    if dims == 2:
        images = point_map.images
        into = torch.diag(torch.tensor([*images.target_pixel, 1.0, 1.0], dtype=torch.float64))
        out = torch.diag(torch.tensor([*(1 / edge for edge in images.source_pixel), 1.0, 1.0], dtype=torch.float64))
        out[2, 3] = float(images.source.affine[2, 3] - images.target.affine[2, 3])
        parts = [AffinePart(into), *parts, AffinePart(out)]
    return TransformChain(tuple(parts)).simplified()


def with_known_inverse(chain: TransformChain, files: Sequence[Path]) -> tuple[TransformChain, list[Note]]:
    """A chain of ANTs' files whose warp takes the warp of the other direction, beside it, for its inverse.

    Args:
        chain: of the files.
        files: that it was read from.

    Returns:
        The chain, unchanged where there is not one warp with one beside it or the two do not undo each other, and the
        notes.
    """
    fields = [k for k, part in enumerate(chain.parts) if isinstance(part, FieldPart)]
    warps = [(file, beside) for file in files if (beside := inverse_beside(file)) is not None and beside not in files]
    if len(fields) != 1 or len(warps) != 1:
        return chain, []
    file, beside = warps[0]
    own = chain.parts[fields[0]]
    vectors = read_vector_file(beside)
    transform, _ = read_itk_vectors(vectors)
    back = _field(sitk.DisplacementFieldTransform(transform).GetDisplacementField())
    assert isinstance(own, FieldPart)
    apart = _undone(own, back)
    name = beside.name
    if back.ddf.shape[0] != own.ddf.shape[0] or apart > UNDONE_VOXELS:
        text = f"{name} beside it does not undo it ({apart:.2g} voxels off in the middle), so its inverse is computed"
        return chain, [Note(file.name, text)]
    parts = list(chain.parts)
    parts[fields[0]] = replace(own, known_inverse=back)
    return TransformChain(tuple(parts)), [Note(file.name, f"{name} beside it is taken as its inverse")]


def _undone(there: FieldPart, back: FieldPart) -> float:
    """Median distance in voxels by which two fields miss each other's inverse, over points of the first's grid."""
    grid = there.grid
    steps = [torch.linspace(0.1 * (n - 1), 0.9 * (n - 1), min(n, SAMPLED)) for n in grid.shape]
    points = grid.to_mm(torch.cartesian_prod(*steps).double().reshape(-1, grid.spatial_dims))
    missed = (back.move(there.move(points)) - points).norm(dim=1)
    return float(missed.median()) / min(grid.spacing)


def _flat(transform: sitk.Transform) -> list[sitk.Transform]:
    """The transforms of a composite in the order in which a point goes through them."""
    if transform.GetTransformEnum() != sitk.sitkComposite:
        return [transform]
    composite = sitk.CompositeTransform(transform)
    count = composite.GetNumberOfTransforms()
    return [part for k in reversed(range(count)) for part in _flat(composite.GetNthTransform(k))]


def _part(transform: sitk.Transform, point_map: PointMap) -> Part:
    if transform.IsLinear():
        return AffinePart(matrix_of(transform))
    if transform.GetTransformEnum() == sitk.sitkDisplacementField:
        return _field(sitk.DisplacementFieldTransform(transform).GetDisplacementField())
    if transform.GetDimension() != 3:
        raise ValueError(
            f"transform: expected linear parts and displacement fields in 2D, received {transform.GetName()}; turn it"
            " into a field by SimpleITK.TransformToDisplacementField"
        )
    return ItkPart(transform, point_map)


def matrix_of(transform: sitk.Transform) -> Tensor:
    """A linear transform, in 2D or 3D, as (4, 4) float64 on points in RAS mm."""
    dims = transform.GetDimension()
    corner = np.array(transform.TransformPoint((0.0,) * dims))
    columns = [np.array(transform.TransformPoint(tuple(unit))) - corner for unit in np.eye(dims).tolist()]
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:dims, :dims] = torch.from_numpy(np.stack(columns, axis=1))
    matrix[:dims, 3] = torch.from_numpy(corner)
    return _FLIP @ matrix @ _FLIP


def _field(image: sitk.Image) -> FieldPart:
    vectors = np.zeros((3, *image.GetSize()))
    dims, affine = image.GetDimension(), torch.from_numpy(image_affine(image))
    vectors[:dims] = sitk.GetArrayFromImage(image).T * np.diag(LPS)[:dims].reshape(-1, *(1,) * dims)
    return FieldPart(mm_to_voxel(torch.from_numpy(vectors)[None], affine)[0], affine, outside="zero")
