"""Mapping from one grid to another, through a displacement and two affines."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from medtrace.fields import identity_grid, invert, sample, warp
from medtrace.geometry.grid import Grid

_ONE_GRID = 1e-5
PART = 1 << 20
"""Voxels that are processed together, so that coordinates never take the memory of several volumes."""
INVERSION_WARNING = 0.1
"""Inversion residual, in voxels, above which a trace's maker is warned."""


def pulled_points(ddf: Tensor, to_source: Tensor | None, start: int = 0) -> Tensor:
    """Source voxel coordinates (1, spatial_dims, *spatial) of p + ddf(p); `start` is p's first coordinate."""
    dtype = ddf.dtype if to_source is None else torch.float64
    points = identity_grid(ddf.shape[1:], device=ddf.device, dtype=dtype)
    points[0] += start
    points += ddf
    return (points if to_source is None else transform(to_source, points).to(ddf.dtype))[None]


def pull(source: Tensor, ddf: Tensor, to_source: Tensor | None) -> Tensor:
    """Source resampled at p + ddf(p); `to_source` maps target to source voxels, None for one grid."""
    if to_source is None:
        return warp(source[None], ddf[None])[0]
    if ddf[0].numel() <= PART:
        return sample(source[None], pulled_points(ddf, to_source))[0]
    result = torch.empty(source.shape[0], *ddf.shape[1:], dtype=torch.result_type(source, ddf), device=source.device)
    for part in layers(ddf.shape[1:]):
        result[:, part] = sample(source[None], pulled_points(ddf[:, part], to_source, part.start))[0]
    return result


def layers(shape: Sequence[int]) -> Iterator[slice]:
    """Ranges of a grid's first axis, of about a million voxels each."""
    count = max(1, PART // max(math.prod(shape[1:]), 1))
    for first in range(0, shape[0], count):
        yield slice(first, min(first + count, shape[0]))


def transform(matrix: Tensor, points: Tensor) -> Tensor:
    """A 4x4 matrix on (spatial_dims, *spatial) coordinates; a 2D point lies in its slice."""
    dims = points.shape[0]
    moved = torch.einsum("ij,j...->i...", matrix[:dims, :dims], points)
    return moved + matrix[:dims, 3].reshape(dims, *(1,) * (points.ndim - 1))


def to_voxels(points: Tensor, affine: Tensor) -> Tensor:
    """Voxel coordinates (N, 3) of points (N, 3) in RAS mm."""
    inverse = torch.linalg.inv(affine)
    result: Tensor = points @ inverse[:3, :3].T + inverse[:3, 3]
    return result


def inverse_on_source(ddf: Tensor, source_shape: Sequence[int], to_source: Tensor | None) -> Tensor:
    """Inverse displacement at the source's voxels, in source voxels."""
    inverse = ddf.new_empty(ddf.shape[0], *source_shape)
    residual = 0.0
    for part in layers(source_shape):
        grid = identity_grid((part.stop - part.start, *source_shape[1:]), device=ddf.device, dtype=torch.float64)
        grid[0] += part.start
        points = grid if to_source is None else transform(torch.linalg.inv(to_source), grid)
        result = invert(ddf[None], points=points.to(ddf.dtype)[None])
        residual = max(residual, float(result.residual.max()))
        if to_source is None:
            inverse[:, part] = result.ddf[0]
        else:
            linear = to_source.clone()
            linear[:3, 3] = 0.0
            inverse[:, part] = transform(linear, result.ddf[0].double()).to(ddf.dtype)
    if residual > INVERSION_WARNING:
        warnings.warn(
            f"ddf: its inverse is off by up to {residual:.2f} voxels, and so is locate() there; the field probably"
            " folds (see fields.non_diffeomorphic_fraction): correct it, or pass inverse_ddf",
            stacklevel=3,
        )
    return inverse


def same_grid(source: Tensor, image: Tensor, affine: Tensor, source_affine: Tensor) -> bool:
    """Whether two images are on one grid, every voxel to 1e-5 of its edge."""
    if source.shape[1:] != image.shape[1:] or torch.equal(affine, source_affine):
        return source.shape[1:] == image.shape[1:]
    return Grid.of(image, affine).coincides(Grid.of(source, source_affine), _ONE_GRID)
