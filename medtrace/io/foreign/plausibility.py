"""Whether a transform can lead between two images: where it puts the target's voxels, and how far it moves them."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import SimpleITK as sitk
import torch
from torch import Tensor

from medtrace.fields import identity_grid
from medtrace.geometry import Grid
from medtrace.io.foreign.point_map import Images, Note, PointMap
from medtrace.io.transforms import image_affine

FEW = 0.1
"""Fraction of the target's voxels below which coming from the source is worth a line."""
_SAMPLES = 48


def check_plausible(path: Path, point_map: PointMap, ddf: Tensor) -> list[Note]:
    """Check a map, as the displacement of the target's voxels, against the two images.

    Args:
        path: the file, for messages.
        point_map: whose images are meant.
        ddf: (3, *target shape) in voxels of the target.

    Returns:
        What is worth a note: few voxels that come from the source, a field that does not cover the target.

    Raises:
        ValueError: if a number is not finite, no voxel comes from the source, or a displacement is longer than both
            images together.
    """
    if not bool(torch.isfinite(ddf).all()):
        raise ValueError(f"{path}: gives displacements that are NaN or infinite; check the file")
    images = point_map.images
    source, target = images.source, images.target
    steps = [max(1, size // _SAMPLES) for size in target.shape]
    cut = (slice(None), *(slice(None, None, step) for step in steps))
    voxels = identity_grid(target.shape, dtype=torch.float64)[cut].reshape(3, -1)
    moved = ddf.double()[cut].reshape(3, -1)
    furthest = float((target.affine[:3, :3] @ moved).norm(dim=0).max())
    span = _span(images)
    if furthest > 2 * span:
        raise ValueError(
            f"{path}: moves voxels by {furthest:.4g} mm, where source and target together span {span:.4g} mm; check its"
            " --format and units, and that the images are the ones it was made for"
        )
    inside = float(_inside(source, target.to_mm((voxels + moved).T)).double().mean())
    if inside == 0:
        raise ValueError(
            f"{path}: puts no voxel of the target into the source; check its --format, whether --source and --target"
            " are exchanged, and that the images are the ones it was made for"
        )
    notes = []
    if inside < FEW:
        notes.append(Note(path.name, f"only {inside:.1%} of the target's voxels come from within the source"))
    field = _first_field(point_map.transform)
    if field is not None:
        beside = 1 - float(_inside(field, target.to_mm(voxels.T)).double().mean())
        if beside > 0:
            text = f"{beside:.1%} of the target's voxels lie outside its field, where it moves nothing"
            notes.append(Note(path.name, text))
    return notes


def _span(images: Images) -> float:
    """Diagonal in mm of the box round both images."""
    edges = []
    for grid in (images.source, images.target):
        corners = list(product(*((-0.5, size - 0.5) for size in grid.shape)))
        edges.append(grid.to_mm(corners))
    both = torch.cat(edges)
    return float((both.amax(dim=0) - both.amin(dim=0)).norm())


def _inside(grid: Grid, points: Tensor) -> Tensor:
    voxels = grid.to_voxels(points)
    size = torch.tensor(grid.shape, dtype=torch.float64)
    return ((voxels >= -0.501) & (voxels <= size - 0.499)).all(dim=1)


def _first_field(transform: sitk.Transform) -> Grid | None:
    """The grid of the 3D field that a point goes through first, if that is what it goes through first."""
    if transform.GetDimension() != 3:
        return None
    while transform.GetTransformEnum() == sitk.sitkComposite:
        composite = sitk.CompositeTransform(transform)
        transform = composite.GetNthTransform(composite.GetNumberOfTransforms() - 1)
    if transform.GetTransformEnum() != sitk.sitkDisplacementField:
        return None
    field = sitk.DisplacementFieldTransform(transform).GetDisplacementField()
    return Grid(field.GetSize(), torch.from_numpy(image_affine(field)))
