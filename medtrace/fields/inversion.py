"""Undo a displacement."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from medtrace.checks import check_field, check_positive, check_whole
from medtrace.fields.regularity import determinant
from medtrace.fields.resample import check_coordinates, identity_grid, inside_grid, sample
from medtrace.kernels.choice import takes_compiled
from medtrace.kernels.inversion import solve

PLAIN_ITERATIONS = 8
"""Fixed-point iterations before Newton's method takes over for the remaining points."""

PART = 1 << 20
"""Points that plain torch processes together."""


class InversionResult(NamedTuple):
    """An inverse displacement and its error."""

    ddf: Tensor
    """(B, spatial_dims, ...) in voxels."""
    residual: Tensor
    """(B,): largest |inverse(p) + ddf(p + inverse(p))| in voxels, over the p whose pulled point is inside."""


def invert(
    ddf: Tensor, iterations: int = 50, tolerance: float = 1e-3, *, points: Tensor | None = None
) -> InversionResult:
    """Inverse displacement: for every p, the v with v + ddf(p + v) = 0.

    Args:
        ddf: (B, spatial_dims, ...) in voxels.
        iterations: maximum number of iterations.
        tolerance: points whose residual is not above this many voxels are done.
        points: (B, spatial_dims, *out) voxel coordinates at which to invert, or None for every voxel of the
            grid.

    Returns:
        The inverse at the points, float32 (float64 for float64), and per batch item its largest residual in
        voxels. Check it. Where a field folds, the result is one of several solutions or none is found. Points whose
        pulled point leaves the grid are not counted: there the result follows the border value of `ddf`, and no true
        inverse exists.

    Raises:
        TypeError: if the field is not a floating tensor.
        ValueError: if its shape is wrong, or iterations or tolerance is not positive.

    Equation: v <- v - (v + ddf(p + v)) (Chen et al., Med Phys 2008) converges only where the displacement's slope is
        below 1, so after 8 iterations the remaining points continue with v <- v - J⁻¹ (v + ddf(p + v)), where J is the
    derivative of the interpolated map. A step that increases the residual is halved. The gradient is that of the
    implicit function, exact to first order where the residual is small; memory does not grow with iterations.

    Example:
        >>> result = invert(torch.full((1, 2, 8, 8), 0.5))
        >>> float(result.ddf[0, 0, 4, 4])
        -0.5
    """
    check_field("ddf", ddf)
    check_whole("iterations", iterations, 1)
    check_positive("tolerance", tolerance)
    with torch.autocast(ddf.device.type, enabled=False):
        ddf = ddf if ddf.dtype == torch.float64 else ddf.float()
        if points is not None:
            check_coordinates("points", points, ddf)
            points = points.to(ddf.dtype)
        given = [ddf] if points is None else [ddf, points]
        where = None if points is None else points.detach().flatten(2)
        if takes_compiled(*given):
            solved, missed = solve(ddf.detach(), where, int(iterations), PLAIN_ITERATIONS, float(tolerance))
            if not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)):
                return InversionResult(solved.reshape(given[-1].shape), _worst(missed))
        if points is None:
            points = identity_grid(ddf.shape[2:], device=ddf.device, dtype=ddf.dtype).expand_as(ddf)
        where = points.flatten(2)
        if not takes_compiled(*given):
            solved = _solve_in_parts(ddf, where, int(iterations), tolerance)
        inverse, worst = _differentiable(ddf, where, solved)
        return InversionResult(inverse.reshape(given[-1].shape), worst)


def _differentiable(ddf: Tensor, points: Tensor, solved: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse at points (B, D, N) with the implicit function's gradient, and the largest residual."""
    mismatch = solved + sample(ddf, points + solved)
    with torch.no_grad():
        inside = inside_grid(points + solved, ddf.shape[2:])
        length = _norm(mismatch)
        missed = torch.where(inside, length, 0.0).where(torch.isfinite(length), torch.inf)
    if mismatch.requires_grad:
        # Zero except for the residual: it carries the implicit function's derivative.
        step = _newton_step(ddf.detach(), (points + solved).detach(), mismatch)
        solved = solved - (step - step.detach())
    return solved, _worst(missed)


def _worst(missed: Tensor) -> Tensor:
    """Largest residual per batch item."""
    return missed.flatten(1).amax(1)


def _solve_in_parts(ddf: Tensor, points: Tensor, iterations: int, tolerance: float) -> Tensor:
    """Inverse displacement (B, D, N), in chunks of points, so that memory does not grow with their number."""
    with torch.no_grad():
        items = [
            [_solve(field[None], part[None], iterations, tolerance) for part in own.split(PART, 1)]
            for field, own in zip(ddf, points)
        ]
        return torch.cat([torch.cat(parts, 2) for parts in items])


def _solve(field: Tensor, points: Tensor, iterations: int, tolerance: float) -> Tensor:
    """Inverse displacement (1, D, N) of one field at points (1, D, N)."""
    result = -sample(field, points)
    open_points = torch.arange(points.shape[2], device=points.device)
    value = result.clone()
    mismatch = value + sample(field, points + value)
    size = _norm(mismatch)
    rate = torch.ones_like(size)
    for iteration in range(iterations):
        left = (size > tolerance)[0, 0].nonzero()[:, 0]
        if len(left) < len(open_points):
            result[:, :, open_points] = value
            open_points, points = open_points[left], points[:, :, left]
            value, mismatch, size, rate = (x[:, :, left] for x in (value, mismatch, size, rate))
        if not len(left):
            break
        plain = iteration < PLAIN_ITERATIONS
        step = mismatch if plain else _newton_step(field, points + value, mismatch)
        trial = value - rate * step
        trial_mismatch = trial + sample(field, points + trial)
        trial_size = _norm(trial_mismatch)
        better = trial_size < size
        value = torch.where(better, trial, value)
        mismatch = torch.where(better, trial_mismatch, mismatch)
        size = torch.where(better, trial_size, size)
        rate = torch.where(better, (rate * 2.0).clamp_max(1.0), rate * 0.5)
        if iteration == PLAIN_ITERATIONS - 1:
            rate = torch.ones_like(rate)
    result[:, :, open_points] = value
    return result


def _newton_step(field: Tensor, position: Tensor, mismatch: Tensor) -> Tensor:
    """J⁻¹ · mismatch at positions (B, D, N), by Cramer's rule; the mismatch itself where J is all but singular."""
    columns = _derivative(field, position)
    whole = determinant(columns)
    usable = whole.abs() > 1e-2
    whole = torch.where(usable, whole, 1.0)
    right = list(mismatch.unbind(1))
    parts = [determinant([*columns[:k], right, *columns[k + 1 :]]) / whole for k in range(len(columns))]
    return torch.where(usable.unsqueeze(1), torch.stack(parts, dim=1), mismatch)


def _derivative(field: Tensor, position: Tensor) -> list[list[Tensor]]:
    """Columns of the derivative of q -> q + field(q), of the multilinear interpolation itself."""
    columns = []
    for axis, size in enumerate(field.shape[2:]):
        coordinate = position[:, axis]
        low = coordinate.floor().clamp(0, max(size - 2, 0))
        ends = []
        for end in (low, low + 1):
            moved = position.clone()
            moved[:, axis] = end
            ends.append(sample(field, moved))
        # Beyond the border the field is constant.
        within = (coordinate >= 0) & (coordinate <= size - 1)
        parts = list(torch.where(within.unsqueeze(1), ends[1] - ends[0], 0.0).unbind(1))
        parts[axis] = parts[axis] + 1.0
        columns.append(parts)
    return columns


def _norm(vectors: Tensor) -> Tensor:
    return vectors.square().sum(1, keepdim=True).sqrt()
