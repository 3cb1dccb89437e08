"""A subject of the template: the template position of every voxel of its head."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from medtrace.data.tracebench.anatomy import BrainGrid
from medtrace.data.tracebench.deformation import anatomy_velocity, smooth_noise
from medtrace.data.tracebench.settings import BrainSettings, Range
from medtrace.fields import exponentiate

BRAIN_MIDDLE_MM = (0.0, -17.0, 5.0)
SQUARINGS = 8
BLUR_VOXELS = 0.65  # the template has 1 mm; coarser grids would alias and lose thin tissue between voxels


def middle_of_grid(random: np.random.Generator, spatial_dims: int, slice_mm: Range) -> tuple[float, float, float]:
    """The center of a case's grid: the brain's, for a slice at a random height in `slice_mm`. RAS mm."""
    x, y, z = BRAIN_MIDDLE_MM
    return (x, y, float(random.uniform(*slice_mm)) if spatial_dims == 2 else z)


def subject_coordinates(random: np.random.Generator, grid: BrainGrid, settings: BrainSettings) -> Tensor:
    """Template position (3, *shape) float64, in mm, of every voxel of a subject's healthy head."""
    spatial_dims = len(grid.shape)
    velocity = anatomy_velocity(random, grid, settings.anatomy_scales_mm, settings.anatomy_amplitudes_mm)
    position = grid.millimeters()
    position[:spatial_dims] += grid.spacing * exponentiate(velocity[None], steps=SQUARINGS)[0]
    if spatial_dims == 2:
        position[2:] += settings.out_of_plane_mm * smooth_noise(random, grid, settings.anatomy_scales_mm[0])
    return turned(grid, position, random_pose(random, settings))


def random_pose(random: np.random.Generator, settings: BrainSettings) -> Tensor:
    """Matrix (3, 3) of a head's random rotation and scaling."""
    angles = np.deg2rad(random.uniform(-1, 1, 3) * settings.rotation_degrees)
    scales = 1 + random.uniform(-1, 1, 3) * settings.scaling
    return torch.from_numpy(rotation_matrix(angles) * scales)


def turned(grid: BrainGrid, position: Tensor, matrix: Tensor) -> Tensor:
    """Positions (3, *shape) in mm under a matrix (3, 3) about the brain's middle, in 2D about the slice's."""
    spatial_dims = len(grid.shape)
    middle = torch.from_numpy(grid.affine[:3, 3].copy())
    middle[:spatial_dims] = torch.tensor(BRAIN_MIDDLE_MM[:spatial_dims], dtype=torch.float64)
    middle = middle.reshape(3, *[1] * spatial_dims)
    return torch.tensordot(matrix, position - middle, dims=1) + middle


def rotation_matrix(angles: np.ndarray) -> np.ndarray:
    """Rotation (3, 3) about the x, then the y, then the z axis, by angles in radians."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        turn = np.eye(3)
        first, second = [other for other in range(3) if other != axis]
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix
