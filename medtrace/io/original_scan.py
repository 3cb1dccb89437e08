"""Bring a trace from the images a method worked on to the scans as they were given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medtrace.fields import sample
from medtrace.io.composite import motion_matrix
from medtrace.io.nifti import affine_array
from medtrace.trace import Trace
from medtrace.trace.geometry import to_voxels
from medtrace.trace.validation import checked_tensor

_CHUNK = 1 << 20
"""Points that are moved at once, for memory."""


@dataclass(frozen=True)
class _Grid:
    """Shape (two or three axes), voxel to RAS mm, and the motion from the trace's frame to this grid's."""

    shape: tuple[int, ...]
    affine: Tensor
    motion: Tensor


def to_original(
    trace: Trace,
    source: Tensor,
    source_affine: Tensor,
    *,
    source_transform: Tensor | None = None,
    target_shape: Sequence[int] | None = None,
    target_affine: Tensor | None = None,
    target_transform: Tensor | None = None,
    to_units: Callable[[Tensor], Tensor] | None = None,
) -> Trace:
    """The same correspondence between the scans as they were given, points in their own mm.

    For a trace of images that were cropped, padded, resampled, reoriented or cut into slices (as their affines record)
    or rigidly aligned (given as a rigid transform). With x a point of the original target, its origin in the original
    source is source_transform · origin(target_transform⁻¹ · x): no field is resampled twice, each new voxel queries the
    trace.

    Off the trace's grid, points move like its nearest border voxel, as in `Trace.locate`; off the plane of a 2D trace
    by more than half a slice they do not move. Outside the trace's target grid nothing is known about the translated
    image: there it is the warped source.

    Args:
        trace: trace of the images a method worked on.
        source: (C, *spatial), the source scan as given, in its own units. For a 2D trace it may be the volume
            that the slice was cut from; the result is then 3D.
        source_affine: (4, 4) voxel to RAS mm of that scan.
        source_transform: (4, 4), from the trace's source frame to the scan's own, RAS mm; None where they share one.
            Where the scan was the moving image of an alignment, it is `RigidTransform.matrix`.
        target_shape: spatial shape of the target scan as given; None keeps the trace's grid (moved by
            `target_transform`), whose image then is not interpolated.
        target_affine: affine of that scan.
        target_transform: likewise, of the target: `rigid/*.tfm` of a prepared dataset, read by `read_motion`.
        to_units: from the trace's intensities to the source scan's (such as `IntensityMap.inverse`), applied to the
            image; None leaves them, and the ledger then compares unlike units.

    Returns:
        The trace on the original grids, float32 on the CPU; it has no velocity.

    Raises:
        TypeError: if an argument is not a tensor.
        ValueError: if shapes do not fit, or a motion is not an affine.
    """
    trace = trace.to("cpu")
    motions = [
        torch.from_numpy(motion_matrix(name, motion))
        for name, motion in (("source_transform", source_transform), ("target_transform", target_transform))
    ]
    source = checked_tensor("source", source).cpu()
    _check_source(trace, source)
    if (target_shape is None) != (target_affine is None):
        raise ValueError("target_shape: expected together with target_affine, received one of them; give both")
    dims = source.ndim - 1
    kept = target_shape is None
    shape = tuple(trace.image.shape[1:]) if target_shape is None else tuple(int(size) for size in target_shape)
    if len(shape) < dims:
        shape = (*shape, 1)
    if len(shape) != dims:
        raise ValueError(f"target_shape: expected {dims} axes, as the source has, received {shape}")
    affine = motions[1] @ trace.affine if target_affine is None else _affine("target_affine", target_affine)
    source_grid = _Grid(tuple(source.shape[1:]), _affine("source_affine", source_affine), motions[0])
    target_grid = _Grid(shape, affine, motions[1])
    ddf = _displacement(target_grid, source_grid, trace.origin, trace, trace.affine)
    inverse_ddf = _displacement(source_grid, target_grid, trace.locate, trace, trace.source_affine)
    image = trace.image if to_units is None else to_units(trace.image)
    mask = trace.mask
    if kept:
        image = image.reshape(-1, *shape)
        mask = None if mask is None else mask.reshape(-1, *shape)
    else:
        warped = Trace.build(
            source,
            source.new_zeros(1, *shape),
            ddf,
            inverse_ddf=inverse_ddf,
            affine=affine,
            source_affine=source_affine,
        ).warped
        image = _read_on(target_grid, image, trace, warped)
        mask = None if mask is None else _read_on(target_grid, mask, trace, torch.zeros(1, *shape)).clamp(0, 1)
    return Trace.build(
        source,
        image,
        ddf,
        inverse_ddf=inverse_ddf,
        mask=mask,
        affine=affine,
        source_affine=source_grid.affine,
        source_contrasts=trace.source_contrasts,
        contrasts=trace.contrasts,
    )


def _check_source(trace: Trace, source: Tensor) -> None:
    dims = source.ndim - 1
    if dims not in (2, 3) or dims < trace.spatial_dims:
        raise ValueError(
            f"source: expected (channel, *spatial) with {trace.spatial_dims} spatial axes or, for a slice, the volume"
            f" that it was cut from, received {tuple(source.shape)}"
        )


def _affine(name: str, affine: Tensor) -> Tensor:
    return torch.from_numpy(affine_array(name, affine))


def _displacement(
    grid: _Grid, other: _Grid, move: Callable[[Tensor], Tensor], trace: Trace, trace_affine: Tensor
) -> Tensor:
    """Displacement (dims, *shape) on `grid`, in its voxels, of a movement that ends in `other`'s frame."""
    dims = len(grid.shape)
    back, inverse = torch.linalg.inv(grid.motion), torch.linalg.inv(grid.affine)
    parts = []
    for voxels in _voxels(grid.shape):
        points = _apply(back @ grid.affine, voxels)
        moved = move(points)
        if trace.spatial_dims == 2 and dims == 3:
            beside = to_voxels(points, trace_affine)[:, 2].abs() > 0.5
            moved[beside] = points[beside]
        parts.append((_apply(inverse @ other.motion, moved) - voxels)[:, :dims].float())
    return torch.cat(parts).T.reshape(dims, *grid.shape)


def _read_on(grid: _Grid, image: Tensor, trace: Trace, outside: Tensor) -> Tensor:
    """The trace's image (C, *spatial) read linearly at a grid's voxels; `outside` where it does not reach."""
    flat = outside.reshape(outside.shape[0], -1)
    back = torch.linalg.inv(grid.motion)
    parts, start = [], 0
    for voxels in _voxels(grid.shape):
        points = _apply(back @ grid.affine, voxels)
        where = to_voxels(points, trace.affine)[:, : trace.spatial_dims].to(image.dtype)
        values = sample(image[None], where.T[None])[0]
        rest = flat[:, start : start + len(voxels)].expand(len(values), -1)
        parts.append(torch.where(trace.in_target(points), values, rest))
        start += len(voxels)
    return torch.cat(parts, dim=1).reshape(-1, *grid.shape)


def _voxels(shape: Sequence[int]) -> Iterator[Tensor]:
    """Voxel coordinates (N, 3) of a grid, last axis fastest, some at a time."""
    total = int(torch.tensor(shape).prod())
    for start in range(0, total, _CHUNK):
        rest = torch.arange(start, min(start + _CHUNK, total))
        columns = []
        for size in reversed(shape):
            columns.append(rest % size)
            rest = rest // size
        columns = columns[::-1] + [torch.zeros_like(rest)] * (3 - len(shape))
        yield torch.stack(columns, dim=1).double()


def _apply(matrix: Tensor, points: Tensor) -> Tensor:
    return points @ matrix[:3, :3].T + matrix[:3, 3]
