"""Affine maps about a grid's center, and their displacements."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from medtrace.checks import check_floating, check_floating_type, check_shape


def rigid_scale_matrix(
    angles_degrees: float | Sequence[float],
    translation_voxels: Sequence[float],
    scale: float,
    shape: Sequence[int],
    spacing: Sequence[float] | None = None,
) -> Tensor:
    """Homogeneous pull matrix of a rotation, scaling and translation about the center of a grid.

    Args:
        angles_degrees: in 2D one angle, which turns the first axis towards the second; in 3D three, about the
            first, second and third axis, applied in this order.
        translation_voxels: one number per axis, in voxels.
        scale: factor above 0 of the *pull* map: above 1 it reads from farther out, so the image shrinks.
        shape: spatial shape (H, W) or (H, W, D); the center is (shape - 1) / 2.
        spacing: voxel size per axis in mm, so that the rotation is rigid in mm; None for equal sizes.

    Returns:
        (spatial_dims + 1, spatial_dims + 1) float64, voxel to voxel: the result at p is the image at M·p. The
        inverse map is `torch.linalg.inv(M)`; `A @ B` reads like `fields.compose(A, B)`.

    Raises:
        TypeError: if an argument is not a number.
        ValueError: if a length does not fit the shape, a number is not finite or a scale or size is not above 0.

    Equation: M·p = c + scale · S⁻¹·R·S · (p − c) + t, with S = diag(spacing) and R = R₂·R₁·R₀ in 3D.

    Example:
        >>> rigid_scale_matrix(90.0, (0.0, 0.0), 1.0, (5, 5)).round().int()
        tensor([[ 0, -1,  4],
                [ 1,  0,  0],
                [ 0,  0,  1]], dtype=torch.int32)
    """
    dims = check_shape("shape", shape)
    angles = _numbers("angles_degrees", angles_degrees, 1 if dims == 2 else 3, shape)
    translation = _numbers("translation_voxels", translation_voxels, dims, shape)
    size = _numbers("spacing", [1.0] * dims if spacing is None else spacing, dims, shape)
    (factor,) = _numbers("scale", scale, 1, shape)
    for name, value in (("scale", factor), ("spacing", size.min())):
        if not value > 0:
            raise ValueError(f"{name}: expected numbers above 0, received {float(value):g}")
    linear = factor * _rotation(torch.deg2rad(angles)) * size / size.unsqueeze(1)
    center = (torch.tensor(list(shape), dtype=torch.float64) - 1) / 2
    matrix = torch.eye(dims + 1, dtype=torch.float64)
    matrix[:dims, :dims] = linear
    matrix[:dims, dims] = center - linear @ center + translation
    return matrix


def affine_displacement(
    matrix: Tensor,
    shape: Sequence[int],
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Displacement of an affine map on a grid: `ddf(p) = M·p - p`.

    Args:
        matrix: (spatial_dims + 1, spatial_dims + 1) floating, voxel to voxel, last row (0, ..., 0, 1), for
            example of `rigid_scale_matrix`.
        shape: spatial shape (H, W) or (H, W, D) of the grid.
        device: the result's device.
        dtype: its floating type; it is computed in float64.

    Returns:
        (spatial_dims, *shape), pull, in voxels, array-axis order; exactly zero for the identity. Beyond the
        grid the map continues, while `fields.compose` and `fields.invert` read displacements there as at the
        border: multiply or invert matrices, rather than fields, to stay exact.

    Raises:
        TypeError: if the matrix is not a floating tensor, or dtype or shape has another type.
        ValueError: if its shape, its last row or a number is wrong.

    Example:
        >>> shift = torch.eye(3, dtype=torch.float64)
        >>> shift[0, 2] = 2.0
        >>> affine_displacement(shift, (4, 4))[:, 0, 0]
        tensor([2., 0.])
    """
    dims = check_shape("shape", shape)
    check_floating_type("dtype", dtype)
    check_floating("matrix", matrix)
    exact = matrix.detach().to("cpu", torch.float64)
    last = [0.0] * dims + [1.0]
    if exact.shape != (dims + 1, dims + 1) or exact[-1].tolist() != last or not bool(torch.isfinite(exact).all()):
        raise ValueError(
            f"matrix: expected finite numbers of shape ({dims + 1}, {dims + 1}) with last row {last} for the grid"
            f" {tuple(shape)}, received {exact.tolist()}; build it by rigid_scale_matrix"
        )
    change = exact[:dims, :dims] - torch.eye(dims, dtype=torch.float64)
    lines = [
        torch.arange(size, dtype=torch.float64).reshape([-1 if other == axis else 1 for other in range(dims)])
        for axis, size in enumerate(shape)
    ]
    field = torch.empty((dims, *shape), dtype=dtype, device=device)
    for axis in range(dims):
        component = torch.zeros(tuple(shape), dtype=torch.float64)
        for other, line in enumerate(lines):
            component += change[axis, other] * line
        field[axis] = component + exact[axis, dims]
    return field


def _rotation(angles: Tensor) -> Tensor:
    """Rotation matrix of one angle in the plane, or of three about the axes, the first axis's first."""
    if len(angles) == 1:
        return _turn(angles[0], 0, 1, 2)
    return _turn(angles[2], 0, 1, 3) @ _turn(angles[1], 2, 0, 3) @ _turn(angles[0], 1, 2, 3)


def _turn(angle: Tensor, first: int, second: int, dims: int) -> Tensor:
    """Rotation that turns one axis towards another."""
    matrix = torch.eye(dims, dtype=torch.float64)
    matrix[first, first] = matrix[second, second] = torch.cos(angle)
    matrix[second, first], matrix[first, second] = torch.sin(angle), -torch.sin(angle)
    return matrix


def _numbers(name: str, given: Any, count: int, shape: Sequence[int]) -> Tensor:
    """One number, or a sequence of numbers, as a float64 vector of the expected length."""
    values = [given] if isinstance(given, Real) else given
    if not isinstance(values, (Sequence, Tensor)) and not hasattr(values, "__array__"):
        raise TypeError(f"{name}: expected {count} number(s), received {given!r}")
    try:
        vector = torch.tensor([float(value) for value in values], dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: expected {count} number(s), received {given!r}") from error
    if len(vector) != count or not bool(torch.isfinite(vector).all()):
        raise ValueError(
            f"{name}: expected {count} finite number(s) for the grid {tuple(shape)}, received {vector.tolist()}"
        )
    return vector
