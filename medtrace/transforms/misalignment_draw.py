"""Random misalignments: bounds, the levels of RegGAN, and one sample with its exact map and inverse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..checks import check_choice, check_floating_type, check_shape
from ..fields import affine_displacement, identity_grid, rigid_scale_matrix

Array = np.ndarray[Any, np.dtype[np.float64]]

# Below it the smooth part is one-to-one in 3D (and 2D): see Misalignment.
_LARGEST_PRODUCT = 100 / 6
_CHUNK = 2**16
_TOLERANCE = 1e-7


@dataclass(frozen=True)
class Misalignment:
    """Bounds of a random misalignment; every number is drawn uniformly between minus and plus its bound.

    Attributes:
        rotation_degrees: ± in the plane; in 3D ± about each axis.
        translation_percent: ± per axis, in percent of the axis's number of voxels.
        scale_percent: the factor is sampled from 1 ± this percentage, one for all axes.
        nonrigid_percent: ± of the control points of a smooth displacement, in percent of the axis's number of
            voxels; 0 for none. Cubic B-splines: no displacement exceeds it.
        nonrigid_intervals: intervals between control points along each axis.

    The product nonrigid_percent · nonrigid_intervals must stay below 100/6: then every derivative of the smooth
    displacement, in extents, is below 1/3 (neighboring control points differ by at most twice the bound), so that it
    is a contraction and the map is one-to-one for certain.

    Raises:
        TypeError: if a bound is not a number.
        ValueError: if it is negative, not finite or too large.

    Example:
        >>> draw = Misalignment(rotation_degrees=3, translation_percent=6).draw(np.random.default_rng(0), 2)
        >>> draw.displacement((8, 8)).shape, abs(draw.angles_degrees[0]) <= 3
        (torch.Size([2, 8, 8]), True)
    """

    rotation_degrees: float = 0.0
    translation_percent: float = 0.0
    scale_percent: float = 0.0
    nonrigid_percent: float = 0.0
    nonrigid_intervals: int = 4

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{field.name}: expected a number, received {value!r}")
            if not (value >= 0 and np.isfinite(float(value))):
                raise ValueError(f"{field.name}: expected a finite bound of at least 0, received {value!r}")
        for name, largest in (("rotation_degrees", 180), ("translation_percent", 100), ("scale_percent", 99)):
            if getattr(self, name) > largest:
                raise ValueError(f"{name}: expected at most {largest}, received {getattr(self, name)!r}")
        if not isinstance(self.nonrigid_intervals, int):
            raise TypeError(f"nonrigid_intervals: expected a whole number, received {self.nonrigid_intervals!r}")
        if self.nonrigid_intervals < 1:
            raise ValueError(f"nonrigid_intervals: expected at least 1, received {self.nonrigid_intervals}")
        if not self.nonrigid_percent * self.nonrigid_intervals < _LARGEST_PRODUCT:
            raise ValueError(
                "nonrigid_percent: expected nonrigid_percent · nonrigid_intervals below 100/6, which keeps the map"
                f" one-to-one, received {self.nonrigid_percent} · {self.nonrigid_intervals}; lower one of them"
            )

    def draw(self, random: np.random.RandomState | np.random.Generator, spatial_dims: int) -> MisalignmentDraw:
        """One misalignment within the bounds.

        The same state of `random` gives the same directions at every level, only longer, so levels can be compared on
        paired samples. Control points are sampled last, and only if they may move.

        Args:
            random: source of random numbers.
            spatial_dims: 2 or 3.

        Returns:
            The draw.

        Raises:
            ValueError: if spatial_dims is neither 2 nor 3.
        """
        check_choice("spatial_dims", spatial_dims, (2, 3))
        angles = self.rotation_degrees * random.uniform(-1, 1, 1 if spatial_dims == 2 else 3)
        translation = self.translation_percent * random.uniform(-1, 1, spatial_dims)
        scale = 1 + self.scale_percent / 100 * float(random.uniform(-1, 1))
        control = None
        if self.nonrigid_percent > 0:
            lattice = (self.nonrigid_intervals + 3,) * spatial_dims
            control = self.nonrigid_percent * random.uniform(-1, 1, (spatial_dims, *lattice))
        return MisalignmentDraw(tuple(angles.tolist()), tuple(translation.tolist()), scale, control)


def _levels() -> dict[str, Misalignment]:
    table2 = {str(level): Misalignment(level, 2 * level, 2 * level) for level in range(6)}
    return {**table2, "table1": Misalignment(5, 5, 5), "nonrigid": Misalignment(2, 4, 4, nonrigid_percent=4)}


MISALIGNMENT_LEVELS: Mapping[str, Misalignment] = MappingProxyType(_levels())
"""Bounds by name: "0" to "5", the noise levels k of RegGAN's Table 2 (±k°, ±2k % translation, ±2k % scaling);
"table1", the setting of its Section 4.2 (±5°, ±5 %, ±5 %); and "nonrigid", medtrace's own: level 2 and a smooth part
of ±4 % of the extent with 4 intervals of control points."""


class MisalignmentDraw(NamedTuple):
    """One sampled misalignment, for any grid: its pull map takes p on the result to A·(p + n(p)) on the image.

    A scales and rotates about the grid's center, then translates; n is the smooth part. The numbers are those of
    the pull map: at scale 1.1 the image appears 1/1.1 as large.

    Attributes:
        angles_degrees: one in 2D, three in 3D, as for `fields.rigid_scale_matrix`.
        translation_percent: per axis, in percent of the axis's number of voxels.
        scale: factor.
        control: control points of the smooth part (spatial_dims, K + 3, ...), in percent like the translation;
            None for none.
    """

    angles_degrees: tuple[float, ...]
    translation_percent: tuple[float, ...]
    scale: float
    control: Array | None = None

    @classmethod
    def identity(cls, spatial_dims: int) -> MisalignmentDraw:
        """The identity, which moves nothing."""
        return cls((0.0,) * (1 if spatial_dims == 2 else 3), (0.0,) * spatial_dims, 1.0)

    def matrix(self, shape: Sequence[int], spacing: Sequence[float] | None = None) -> Tensor:
        """The affine part A on a grid.

        Args:
            shape: spatial shape, of as many axes as the draw.
            spacing: voxel size in mm, so that the rotation is rigid in mm; None for equal sizes.

        Returns:
            (spatial_dims + 1, spatial_dims + 1) float64 pull matrix, voxel to voxel.

        Raises:
            ValueError: if the shape has another number of axes.
        """
        self._check_shape(shape)
        translation = [percent / 100 * size for percent, size in zip(self.translation_percent, shape)]
        return rigid_scale_matrix(self.angles_degrees, translation, self.scale, shape, spacing)

    def displacement(
        self, shape: Sequence[int], spacing: Sequence[float] | None = None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """The whole map as one displacement, exact at every voxel.

        Args:
            shape: spatial shape of the grid.
            spacing: as for `matrix`.
            dtype: floating type of the result; it is computed in float64.

        Returns:
            (spatial_dims, *shape) pull, in voxels; exactly zero for the identity.
        """
        check_floating_type("dtype", dtype)
        matrix = self.matrix(shape, spacing)
        field = affine_displacement(matrix, shape, dtype=torch.float64)
        if self.control is not None:
            lines = [torch.arange(size, dtype=torch.float64) for size in shape]
            smooth = torch.as_tensor(self.control, dtype=torch.float64)
            for weights in self._weights(lines, shape):
                # The new axis comes last, so the next axis of control points is always axis 1.
                smooth = torch.tensordot(smooth, weights, dims=([1], [1]))
            smooth = smooth * _extent(shape).reshape(-1, *(1,) * len(shape)) / 100
            field = field + torch.tensordot(matrix[:-1, :-1], smooth, dims=1)
        return field.to(dtype)

    def pull(self, points: Tensor, shape: Sequence[int], spacing: Sequence[float] | None = None) -> Tensor:
        """Where points of the result are read in the image.

        Args:
            points: (spatial_dims, *any) in voxels; beyond the grid n continues as at its border.
            shape: spatial shape of the grid.
            spacing: as for `matrix`.

        Returns:
            The image's points, of the same shape, float64.
        """
        flat = points.detach().double().flatten(1)
        return _affine(self.matrix(shape, spacing), flat + self._smooth(flat, shape)).reshape(points.shape)

    def push(self, points: Tensor, shape: Sequence[int], spacing: Sequence[float] | None = None) -> Tensor:
        """Where points of the image go: the inverse of `pull`, exact to 1e-5 voxel.

        Args:
            points: (spatial_dims, *any) in voxels of the image.
            shape: spatial shape of the grid.
            spacing: as for `matrix`.

        Returns:
            The result's points, of the same shape, float64.
        """
        start = _affine(torch.linalg.inv(self.matrix(shape, spacing)), points.detach().double().flatten(1))
        result = start
        if self.control is not None:
            change = torch.inf
            while change > _TOLERANCE:  # ends: n is a contraction
                following = start - self._smooth(result, shape)
                change, result = float((following - result).abs().max()), following
        return result.reshape(points.shape)

    def _smooth(self, points: Tensor, shape: Sequence[int]) -> Tensor:
        """n at points (spatial_dims, N), in voxels."""
        if self.control is None:
            return torch.zeros_like(points)
        control = torch.as_tensor(self.control, dtype=torch.float64)
        equation = "dab,na,nb->dn" if len(shape) == 2 else "dabc,na,nb,nc->dn"
        # In chunks: the contraction's intermediate has a lattice's worth of numbers per point.
        parts = [
            torch.einsum(equation, control, *self._weights(list(chunk), shape)) for chunk in points.split(_CHUNK, 1)
        ]
        return torch.cat(parts, 1) * _extent(shape).unsqueeze(1) / 100

    def _weights(self, coordinates: Sequence[Tensor], shape: Sequence[int]) -> list[Tensor]:
        """Cubic B-spline weights (N, K + 3) of the control points at N voxel coordinates, for every axis."""
        if self.control is None:
            return []
        weights = []
        for line, size in zip(coordinates, shape):
            count = self.control.shape[1]
            intervals = count - 3
            position = (line * intervals / size).clamp(0, intervals)
            distance = (position[:, None] - torch.arange(-1, count - 1, dtype=torch.float64)).abs()
            near = (4 - 6 * distance**2 + 3 * distance**3) / 6
            far = (2 - distance).clamp_min(0) ** 3 / 6
            weights.append(torch.where(distance < 1, near, far))
        return weights

    def _check_shape(self, shape: Sequence[int]) -> None:
        check_shape("shape", shape)
        if len(shape) != len(self.translation_percent):
            raise ValueError(
                f"shape: expected {len(self.translation_percent)} axes, as the misalignment was drawn for, received"
                f" {tuple(shape)}; draw one for this dimension"
            )


class MisalignmentFields(NamedTuple):
    """The displacements that align a misaligned pair.

    Attributes:
        ddf: (spatial_dims, *shape) on the target's grid: R = S⁻¹∘T, pulls the source onto the target.
        inverse_ddf: the same on the source's grid: T⁻¹∘S.
    """

    ddf: Tensor
    inverse_ddf: Tensor


def misalignment_between(
    source: MisalignmentDraw,
    target: MisalignmentDraw,
    shape: Sequence[int],
    spacing: Sequence[float] | None = None,
    dtype: torch.dtype = torch.float32,
) -> MisalignmentFields:
    """The displacements between two images of one anatomy that were pulled by S (source) and T (target).

    Exact at every voxel, even where a map leaves the grid, unlike `fields.invert` and `fields.compose`.

    Args:
        source: S.
        target: T.
        shape: spatial shape of both grids.
        spacing: as for `MisalignmentDraw.matrix`.
        dtype: floating type of the result; it is computed in float64.

    Returns:
        The displacement and its inverse, in voxels.

    Example:
        >>> still, moved = MisalignmentDraw.identity(2), MisalignmentDraw((0.0,), (25.0, 0.0), 1.0)
        >>> fields = misalignment_between(still, moved, (8, 8))
        >>> [float(value) for value in fields.ddf[:, 4, 4]]
        [2.0, 0.0]
    """
    for name, draw in (("source", source), ("target", target)):
        if not isinstance(draw, MisalignmentDraw):
            raise TypeError(f"{name}: expected a MisalignmentDraw, received {type(draw).__name__}")
    check_floating_type("dtype", dtype)
    grid = identity_grid(shape, dtype=torch.float64)
    forward = source.push(target.pull(grid, shape, spacing), shape, spacing) - grid
    backward = target.push(source.pull(grid, shape, spacing), shape, spacing) - grid
    return MisalignmentFields(forward.to(dtype), backward.to(dtype))


def _affine(matrix: Tensor, points: Tensor) -> Tensor:
    return matrix[:-1, :-1] @ points + matrix[:-1, -1:]


def _extent(shape: Sequence[int]) -> Tensor:
    return torch.tensor(list(shape), dtype=torch.float64)
