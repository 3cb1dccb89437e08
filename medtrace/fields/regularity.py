"""Regularity of displacements: Jacobian determinant, folds and their volume."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from medtrace.checks import check_choice, check_field
from medtrace.fields.resample import identity_grid
from medtrace.kernels import jacobian
from medtrace.kernels.choice import takes_compiled
from medtrace.kernels.greedy import operations

PART = 1 << 20
"""Voxels that are checked for folds together."""


def jacobian_determinant(ddf: Tensor) -> Tensor:
    """Local change of area or volume of p -> p + ddf(p), by central differences (one-sided at the border).

    Args:
        ddf: (B, 2, H, W) or (B, 3, H, W, D), in voxels.

    Returns:
        (B, 1, ...): 1 preserves volume, 0 or less is folded. Central differences miss folds of one voxel;
        count folds with `non_diffeomorphic_fraction`. An axis of length 1 counts as unchanged.

    Raises:
        TypeError: if the field is not a floating tensor.
        ValueError: if its shape is wrong.

    Example:
        >>> stretched = torch.zeros(1, 2, 4, 4)
        >>> stretched[:, 0] = torch.arange(4.0)[:, None]  # twice as far apart along the first axis
        >>> float(jacobian_determinant(stretched).mean())
        2.0
    """
    spatial_dims = check_field("ddf", ddf)
    with torch.autocast(ddf.device.type, enabled=False):
        ddf = ddf if ddf.dtype == torch.float64 else ddf.float()
        if spatial_dims == 3 and not (torch.is_grad_enabled() and ddf.requires_grad) and takes_compiled(ddf):
            result: Tensor = jacobian.determinant(ddf)
            return result
        columns = []
        for axis in range(spatial_dims):
            column = _central_difference(ddf, axis + 2)
            parts = list(column.unbind(1))
            parts[axis] = parts[axis] + 1.0
            columns.append(parts)
        return determinant(columns).unsqueeze(1)


def non_diffeomorphic_fraction(ddf: Tensor) -> Tensor:
    """Fraction of voxels at which the displaced grid is not a digital diffeomorphism.

    Args:
        ddf: (B, 2, H, W) or (B, 3, H, W, D), in voxels.

    Returns:
        (B,): from 0 (none) to 1.

    Raises:
        TypeError: if the field is not a floating tensor.
        ValueError: if its shape is wrong.

    A voxel counts if any of its one-sided determinants is 0 or less: 4 in 2D (forward or backward on each axis); in 3D
    likewise 8, and the 2 tetrahedra inside its forward cell that those leave uncovered (Liu et al., "On finite
    difference Jacobian computation in deformable image registration", IJCV 2024). Voxels at the border have the
    determinants whose neighbors exist, and count in the denominator, which is every voxel of the grid. An axis of
    length 1 counts as unchanged, so a single-slice volume is assessed in its plane.

    Example:
        >>> ddf = torch.zeros(1, 2, 4, 4)
        >>> ddf[:, 0] = -2.0 * torch.arange(4.0)[:, None]  # mirrored: determinant -1
        >>> non_diffeomorphic_fraction(ddf), non_diffeomorphic_fraction(0 * ddf)
        (tensor([1.]), tensor([0.]))
    """
    folded = _folded(ddf).flatten(1)
    count = folded.sum(1).double() / folded.shape[1]
    return count.to(ddf.dtype if ddf.dtype == torch.float64 else torch.float32)


def folded_voxels(ddf: Tensor) -> Tensor:
    """Voxels at which the displaced grid is not a digital diffeomorphism.

    Args:
        ddf: (B, 2, H, W) or (B, 3, H, W, D), in voxels.

    Returns:
        Boolean (B, 1, ...), with the definition of `non_diffeomorphic_fraction`, whose voxels these are.

    Raises:
        TypeError: if the field is not a floating tensor.
        ValueError: if its shape is wrong.

    Example:
        >>> ddf = torch.zeros(1, 2, 4, 4)
        >>> ddf[:, 0] = -2.0 * torch.arange(4.0)[:, None]  # mirrored: determinant -1
        >>> int(folded_voxels(ddf).sum())
        16
    """
    folded, shape = _folded(ddf), ddf.shape[2:]
    if folded.ndim - 1 < len(shape):  # a single slice was assessed in its plane
        folded = folded.unsqueeze(1 + tuple(shape).index(1))
    for axis, size in enumerate(shape, start=1):
        if folded.shape[axis] != size:
            folded = folded.any(axis, keepdim=True)
    return folded.unsqueeze(1)


def non_diffeomorphic_volume(ddf: Tensor, rim: Literal["inside", "padded"] | str = "inside") -> Tensor:
    """Volume (area in 2D) that the displaced grid turns inside out.

    Args:
        ddf: (B, 2, H, W) or (B, 3, H, W, D), in voxels.
        rim: "inside" counts the cells between voxel centers and nothing beyond the outer ones. "padded" is what the
            authors' package (digital-diffeomorphism) counts: every voxel has all its simplices, those at the border
            with neighbors beyond the grid that are displaced as the outermost voxels are.

    Returns:
        (B,): in voxels; differentiable. The paper's tables give it as a percentage of the grid's voxels.

    Raises:
        TypeError: if the field is not a floating tensor.
        ValueError: if its shape is wrong.

    Equation (Liu et al., IJCV 2024): every cell between voxel centers is cut into simplices in its two ways
    (2 × 2 triangles in 2D; 2 × (4 corner tetrahedra + 1 inner one) in 3D) and the absolute negative volumes
    are averaged over the two: sum over cells of 1/2 · sum_i max(-|J_i|, 0) / spatial_dims!.

    Example:
        >>> ddf = torch.zeros(1, 2, 4, 4)
        >>> ddf[:, 0] = -2.0 * torch.arange(4.0)[:, None]  # mirrored: determinant -1
        >>> non_diffeomorphic_volume(ddf), non_diffeomorphic_volume(0 * ddf)
        (tensor([9.]), tensor([0.]))
    """
    check_choice("rim", rim, ["inside", "padded"])
    field = _assessed_field(ddf)
    if rim == "padded":
        field = F.pad(field, [1, 1] * (field.ndim - 2), mode="replicate")
    points = field + _grid_of_part(slice(0, field.shape[2]), field)
    with torch.autocast(points.device.type, enabled=False):
        simplex = 1.0 / 2.0 if points.shape[1] == 2 else 1.0 / 6.0
        total = points.new_zeros(points.shape[0])
        for _, corner, value in _cell_determinants(points):
            if rim == "padded":  # only the simplices whose corner is a voxel of the grid
                own = (slice(1 - bit, size - bit) for bit, size in zip(corner, value.shape[1:]))
                value = value[(slice(None), *own)]
            total = total + (-value).clamp_min(0.0).flatten(1).sum(1)
        return total * (0.5 * simplex)


def _folded(ddf: Tensor) -> Tensor:
    """Boolean (B, ...) on the grid of `_assessed_field`: which voxels have a determinant of 0 or less."""
    with torch.no_grad():
        field = _assessed_field(ddf)
        shape = field.shape[2:]
        if field.dtype == torch.float32 and takes_compiled(field):
            ops = operations(shape)
            return torch.stack(
                [torch.from_numpy(ops.folded(ops.field(one.contiguous()))[0] > 0).reshape(shape) for one in field]
            )
        folded = torch.zeros(field.shape[0], *shape, dtype=torch.bool, device=field.device)
        layers = max(1, PART // max(field[0, 0, 0].numel(), 1))
        for first in range(0, shape[0] - 1, layers):  # for cells, which share their voxels with the next ones
            part = slice(first, min(first + layers + 1, shape[0]))
            points = field[:, :, part] + _grid_of_part(part, field)
            for corner, _, value in _cell_determinants(points):
                folded[:, part][_corner_slices(corner, points.shape[2:])] |= ~(value > 0)  # NaN counts as folded
        return folded


def _central_difference(field: Tensor, dim: int) -> Tensor:
    size = field.shape[dim]
    if size == 1:
        return torch.zeros_like(field)
    first = field.narrow(dim, 1, 1) - field.narrow(dim, 0, 1)
    last = field.narrow(dim, size - 1, 1) - field.narrow(dim, size - 2, 1)
    inner = (field.narrow(dim, 2, size - 2) - field.narrow(dim, 0, size - 2)) * 0.5
    return torch.cat([first, inner, last], dim)


def determinant(columns: list[list[Tensor]]) -> Tensor:
    """Determinant written out; `columns[k][d]` is component d of column k."""
    if len(columns) == 2:
        (a, b), (c, d) = columns
        return a * d - b * c
    (a, b, c), (d, e, f), (g, h, i) = columns
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


def _assessed_field(ddf: Tensor) -> Tensor:
    """The displacement; a single slice becomes 2D, and an axis of length 1 left then is doubled.

    Doubling gives the axis a cell to measure. It would not work for a slice: the inner tetrahedra of doubled cells
    assign folds to voxels whose own triangles are not folded.
    """
    check_field("ddf", ddf)
    field = ddf if ddf.dtype == torch.float64 else ddf.float()
    if field.ndim == 5 and 1 in field.shape[2:]:
        axis = tuple(field.shape[2:]).index(1)
        field = field[:, [k for k in range(3) if k != axis]].squeeze(axis + 2)
    for dim in range(2, field.ndim):
        if field.shape[dim] == 1:
            field = torch.cat([field, field], dim=dim)
    return field


def _grid_of_part(part: slice, field: Tensor) -> Tensor:
    """Voxel coordinates of a range along the first axis."""
    grid = identity_grid((part.stop - part.start, *field.shape[3:]), device=field.device, dtype=field.dtype)
    grid[0] += part.start
    return grid


def _corner_slices(corner: tuple[int, ...], shape: torch.Size) -> tuple[slice, ...]:
    """The voxel at one corner of every cell; the leading axis is the batch."""
    return (slice(None), *(slice(bit, size - 1 + bit) for bit, size in zip(corner, shape)))


def _cell_determinants(points: Tensor) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], Tensor]]:
    """Yield (voxel, corner, determinant (B, *cells)) of every simplex of both ways to cut the cells.

    Identity gives 1 for the simplex at a corner and 2 for the inner tetrahedra. The voxel, by its corner of the cell,
    is the one that a fold is assigned to: for both inner ones the first; the corner belongs to the simplex.
    """
    shape = points.shape[2:]
    spatial_dims = len(shape)

    def corner_points(corner: tuple[int, ...]) -> list[Tensor]:
        slices = _corner_slices(corner, shape)
        return [component[slices] for component in points.unbind(1)]

    def edge(start: tuple[int, ...], end: tuple[int, ...]) -> list[Tensor]:
        return [b - a for a, b in zip(corner_points(start), corner_points(end))]

    for corner in itertools.product((0, 1), repeat=spatial_dims):
        columns = []
        for axis in range(spatial_dims):
            low = (*corner[:axis], 0, *corner[axis + 1 :])
            high = (*corner[:axis], 1, *corner[axis + 1 :])
            columns.append(edge(low, high))
        yield corner, corner, determinant(columns)
    if spatial_dims == 3:
        first = (0, 0, 0)
        yield first, first, determinant([edge(first, (1, 1, 0)), edge(first, (0, 1, 1)), edge(first, (1, 0, 1))])
        last = (1, 1, 1)
        yield first, last, determinant([edge((1, 0, 0), last), edge((0, 1, 0), last), edge((0, 0, 1), last)])
