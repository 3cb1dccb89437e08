"""From one grid to another, through a displacement and two affines."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from medtrace.fields import identity_grid, invert, sample, warp
from medtrace.geometry.grid import Grid

_ONE_GRID = 1e-5
INVERSION_WARNING = 0.1
"""Inversion residual, in voxels, above which a trace's maker is warned."""


def pulled_points(ddf: Tensor, to_source: Tensor | None) -> Tensor:
    """Source voxel coordinates (1, spatial_dims, *spatial) of p + ddf(p)."""
    if to_source is None:
        return (identity_grid(ddf.shape[1:], device=ddf.device, dtype=ddf.dtype) + ddf)[None]
    points = identity_grid(ddf.shape[1:], device=ddf.device, dtype=torch.float64) + ddf
    return transform(to_source, points).to(ddf.dtype)[None]


def pull(source: Tensor, ddf: Tensor, to_source: Tensor | None) -> Tensor:
    """Source resampled at p + ddf(p); `to_source` leads from target to source voxels, None for one grid."""
    if to_source is None:
        return warp(source[None], ddf[None])[0]
    return sample(source[None], pulled_points(ddf, to_source))[0]


def transform(matrix: Tensor, points: Tensor) -> Tensor:
    """A 4x4 matrix on (spatial_dims, *spatial) coordinates; a 2D point lies in its slice."""
    dims = points.shape[0]
    moved = torch.einsum("ij,j...->i...", matrix[:dims, :dims], points)
    return moved + matrix[:dims, 3].reshape(dims, *(1,) * (points.ndim - 1))


def to_voxels(points: Tensor, affine: Tensor) -> Tensor:
    """Voxel coordinates (N, 3) of points (N, 3) in RAS mm."""
    inverse = torch.linalg.inv(affine)
    return points @ inverse[:3, :3].T + inverse[:3, 3]


def inverse_on_source(ddf: Tensor, source_shape: Sequence[int], to_source: Tensor | None) -> Tensor:
    """Inverse displacement at the source's voxels, in source voxels."""
    points = None
    if to_source is not None:
        grid = identity_grid(source_shape, device=ddf.device, dtype=torch.float64)
        points = transform(torch.linalg.inv(to_source), grid).to(ddf.dtype)[None]
    result = invert(ddf[None], points=points)
    residual = float(result.residual.max())
    if residual > INVERSION_WARNING:
        warnings.warn(
            f"ddf: its inverse misses by up to {residual:.2f} voxels, so locate() is off by as much there; the field"
            " probably folds (see fields.non_diffeomorphic_fraction), or pass inverse_ddf",
            stacklevel=3,
        )
    if to_source is None:
        return result.ddf[0]
    linear = to_source.clone()
    linear[:3, 3] = 0.0
    return transform(linear, result.ddf[0].double()).to(ddf.dtype)


def same_grid(source: Tensor, image: Tensor, affine: Tensor, source_affine: Tensor) -> bool:
    """Whether two images lie on one grid, every voxel to 1e-5 of its edge."""
    if source.shape[1:] != image.shape[1:] or torch.equal(affine, source_affine):
        return source.shape[1:] == image.shape[1:]
    return Grid.of(image, affine).coincides(Grid.of(source, source_affine), _ONE_GRID)
