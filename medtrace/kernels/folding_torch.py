"""Voxels where a displaced grid folds, in plain torch: the twin of `folding_loops`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

Corner = tuple[int, ...]


def folded(points: Tensor) -> Tensor:
    """Where a voxel's one-sided determinants, or its forward cell's inner tetrahedra, are not above 0.

    Args:
        points: (D, *spatial) displaced voxel centers, D 2 or 3, every axis of at least 2 voxels.

    Returns:
        Boolean (*spatial).
    """
    shape = points.shape[1:]
    result = torch.zeros(shape, dtype=torch.bool, device=points.device)
    for corner, edges in _simplices(len(shape)):
        columns = [_at(points, end) - _at(points, start) for start, end in edges]
        result[_slices(corner, shape)] |= ~(_determinant(columns) > 0)
    return result


def _simplices(dims: int) -> Iterator[tuple[Corner, list[tuple[Corner, Corner]]]]:
    """The voxel that is marked and the edges of every simplex of a cell."""
    for corner in itertools.product((0, 1), repeat=dims):
        pairs = [
            ((*corner[:axis], 0, *corner[axis + 1 :]), (*corner[:axis], 1, *corner[axis + 1 :])) for axis in range(dims)
        ]
        yield corner, pairs
    if dims == 3:
        first, last = (0, 0, 0), (1, 1, 1)
        yield first, [(first, (1, 1, 0)), (first, (0, 1, 1)), (first, (1, 0, 1))]
        yield first, [((1, 0, 0), last), ((0, 1, 0), last), ((0, 0, 1), last)]


def _slices(corner: Corner, shape: torch.Size) -> tuple[slice, ...]:
    return tuple(slice(bit, size - 1 + bit) for bit, size in zip(corner, shape))


def _at(points: Tensor, corner: Corner) -> Tensor:
    return points[(slice(None), *_slices(corner, points.shape[1:]))]


def _determinant(columns: list[Tensor]) -> Tensor:
    if len(columns) == 2:
        (a, b), (c, d) = columns
        return a * d - b * c
    return (columns[0] * torch.linalg.cross(columns[1], columns[2], dim=0)).sum(0)
