"""Coordinate frames with as many axes as the images have."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = Any
PARALLEL = 1e-3
"""Maximum out-of-plane part of a pixel step, as a fraction of a pixel's edge."""


class Frame:
    """Coordinates in mm of as many axes as the images have: RAS for volumes, in the fixed slice's plane for slices.

    Args:
        fixed_affine: (4, 4) voxel to RAS mm of the fixed image.
        moving_affine: likewise of the moving image.
        dims: 2 or 3.

    Raises:
        ValueError: if a moving slice is tilted against the fixed one.
    """

    def __init__(self, fixed_affine: Tensor, moving_affine: Tensor, dims: int) -> None:
        fixed, moving = (np.asarray(one.detach().cpu(), np.float64) for one in (fixed_affine, moving_affine))
        self.dims = dims
        self.rigid = np.eye(4)
        if dims == 2:
            rows = fixed[:3, 0] / np.linalg.norm(fixed[:3, 0])
            across = fixed[:3, 1] - rows * (rows @ fixed[:3, 1])
            across /= np.linalg.norm(across)
            self.rigid[:3, :3] = np.stack([rows, across, np.cross(rows, across)])
            self.rigid[:3, 3] = -self.rigid[:3, :3] @ fixed[:3, 3]
        self.fixed, self.moving = self._flat(fixed), self._flat(moving)
        self.offset = float((self.rigid @ moving)[2, 3]) if dims == 2 else 0.0
        tilt = np.abs((self.rigid @ moving)[2, :2]) / np.linalg.norm(moving[:3, :2], axis=0)
        if dims == 2 and tilt.max() > PARALLEL:
            raise ValueError(
                f"moving_affine: expected a slice parallel to the fixed one, received one tilted by"
                f" {np.degrees(np.arcsin(min(tilt.max(), 1.0))):.2f} degrees; align the volumes, then slice them"
            )

    def to_ras(self, matrix: Array) -> Tensor:
        """A map (D + 1, D + 1) of the frame's points as (4, 4) float64 of RAS points, fixed to moving."""
        dims, whole = self.dims, np.eye(4)
        axes = [*range(dims), 3]
        whole[np.ix_(axes, axes)] = matrix
        if dims == 2:
            whole[2, 3] = self.offset
        return torch.from_numpy(np.linalg.inv(self.rigid) @ whole @ self.rigid)

    def from_ras(self, matrix: Tensor) -> Array:
        """A map (4, 4) of RAS points as one of the frame's points."""
        moved = self.rigid @ matrix.double().cpu().numpy() @ np.linalg.inv(self.rigid)
        axes = [*range(self.dims), 3]
        return moved[np.ix_(axes, axes)]

    def moments_to_ras(self, center: Array, spread: Array) -> tuple[Tensor, Tensor]:
        """Center (D,) and covariance (D, D) of the frame's points as those of RAS points."""
        place, wide = np.zeros(3), np.zeros((3, 3))
        place[: self.dims], wide[: self.dims, : self.dims] = center, spread
        turn = self.rigid[:3, :3].T
        return torch.from_numpy(turn @ (place - self.rigid[:3, 3])), torch.from_numpy(turn @ wide @ turn.T)

    def starting_at(self, voxel: Sequence[int]) -> Frame:
        """The same, with the fixed image cropped to start at a voxel."""
        result = copy(self)
        change = np.eye(self.dims + 1)
        change[:-1, -1] = voxel
        result.fixed = self.fixed @ change
        return result

    def _flat(self, affine: Array) -> Array:
        axes = [*range(self.dims), 3]
        return (self.rigid @ affine)[np.ix_(axes, axes)]
