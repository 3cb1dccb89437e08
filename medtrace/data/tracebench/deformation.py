"""Smooth random fields and the velocities of TraceBench. Lengths are mm; velocities are voxels of the grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from medtrace.data.tracebench.anatomy import BrainGrid


def smooth_noise(random: np.random.Generator, grid: BrainGrid, scale_mm: float, channels: int = 1) -> Tensor:
    """A Gaussian random field of zero mean and unit variance at every voxel.

    Cubic B-splines on a lattice of independent normal coefficients, so its distribution does not depend on the spacing.

    Args:
        random: where the coefficients come from.
        grid: where to evaluate it.
        scale_mm: distance between the lattice's knots.
        channels: independent fields.

    Returns:
        (channels, *grid.shape) float64.
    """
    weights = [_spline_weights(size, grid.spacing / scale_mm, random.uniform()) for size in grid.shape]
    values = torch.from_numpy(random.standard_normal((channels, *(w.shape[1] for w in weights))))
    for weight in weights:
        # The new axis comes last, so the next axis of knots is always axis 1.
        values = torch.tensordot(values, torch.from_numpy(weight), dims=([1], [1]))
    return values.contiguous()


def _spline_weights(size: int, step: float, offset: float) -> np.ndarray:
    """Cubic B-spline weights (size, knots), every row of unit length, at positions offset + step·i."""
    position = offset + step * np.arange(size)
    knots = np.arange(-1, int(position[-1]) + 3)
    distance = np.abs(position[:, None] - knots[None])
    near = (4 - 6 * distance**2 + 3 * distance**3) / 6
    far = np.clip(2 - distance, 0, None) ** 3 / 6
    weights = np.where(distance < 1, near, far)
    return weights / np.sqrt((weights**2).sum(1, keepdims=True))


def anatomy_velocity(
    random: np.random.Generator, grid: BrainGrid, scales_mm: Sequence[float], amplitudes_mm: Sequence[float]
) -> Tensor:
    """Stationary velocity of a subject's anatomy: the sum of smooth noise at several scales.

    Args:
        random: source of randomness.
        grid: where to evaluate it.
        scales_mm: knot distance of every scale.
        amplitudes_mm: standard deviation of every scale's displacement.

    Returns:
        (D, *grid.shape) float64, voxels.
    """
    velocity = torch.zeros(len(grid.shape), *grid.shape, dtype=torch.float64)
    for scale, amplitude in zip(scales_mm, amplitudes_mm):
        velocity += amplitude / grid.spacing * smooth_noise(random, grid, scale, len(grid.shape))
    return velocity


def random_rotation(random: np.random.Generator, spatial_dims: int) -> Tensor:
    """A uniformly random rotation matrix (D, D) float64."""
    matrix, upper = np.linalg.qr(random.standard_normal((spatial_dims, spatial_dims)))
    matrix = matrix * np.sign(np.diag(upper))
    if np.linalg.det(matrix) < 0:
        matrix[:, 0] = -matrix[:, 0]
    return torch.from_numpy(matrix)


def ellipsoidal_radius(grid: BrainGrid, center: Sequence[int], axes_mm: Sequence[float], rotation: Tensor) -> Tensor:
    """Distance from `center` in units of an ellipsoid's semi-axes: 1 on its surface.

    Args:
        grid: where to evaluate it.
        center: voxel index of the center.
        axes_mm: semi-axes.
        rotation: (D, D) from the ellipsoid's axes to the grid's.

    Returns:
        (*grid.shape) float64.
    """
    offset = _from_center(grid, center)
    local = torch.tensordot(rotation.T, offset, dims=1)
    scale = torch.tensor(list(axes_mm), dtype=torch.float64).reshape(-1, *[1] * len(grid.shape))
    return (local / scale).square().sum(0).sqrt()


def mass_velocity(
    grid: BrainGrid,
    center: Sequence[int],
    radius: Tensor,
    size_mm: float,
    peak_mm: float,
    reach_mm: float,
    freedom: Tensor,
) -> Tensor:
    """Stationary pull velocity v of a growing mass: healthy ∘ exp(v) is the anatomy it has pushed outwards.

    v = −peak · (x − c)/size · 2/(1 + s²) · (1 − (|x − c|/reach)²)²₊ · freedom with s the ellipsoidal radius: rising
    from the center, largest near the lesion's border (s = 1), falling like the flow around a source and
    zero beyond the reach.

    Args:
        grid: where to evaluate it.
        center: voxel index of the center.
        radius: (*shape) ellipsoidal radius s.
        size_mm: mean semi-axis.
        peak_mm: velocity near the border.
        reach_mm: where it ends.
        freedom: (*shape) in [0, 1], how free tissue is to move (0 at the skull).

    Returns:
        (D, *grid.shape) float64, voxels.
    """
    offset = _from_center(grid, center)
    distance = offset.square().sum(0).sqrt()
    fall = 2 / (1 + radius.square()) * (1 - (distance / reach_mm).square()).clamp_min(0).square()
    return -(peak_mm / grid.spacing) * offset / size_mm * fall * freedom


def _from_center(grid: BrainGrid, center: Sequence[int]) -> Tensor:
    position = grid.plane_mm()
    return position - torch.stack([axis[tuple(center)] for axis in position]).reshape(-1, *[1] * len(grid.shape))
