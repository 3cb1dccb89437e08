"""The grid on which a pair is deformed, both images on it, and the mapping back from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from medtrace.fields import identity_grid, invert, sample
from medtrace.kernels.between_grids import between_grids
from medtrace.kernels.choice import takes_compiled
from medtrace.kernels.greedy import operations
from medtrace.registration.frames import Array, Frame
from medtrace.registration.levels import content_box
from medtrace.registration.scaling import percentiles, scaled

MARGIN = 4
"""Margin in voxels about the content of either image that is also processed."""


class Working(NamedTuple):
    """A pair on one grid, aligned but not yet deformed."""

    moving: Tensor
    """(C, *shape), read through the alignment."""
    fixed: Tensor
    """(C, *shape)."""
    mask: Tensor
    """(1, *shape) in [0, 1]: what is left out of the fixed image, and what has no counterpart on the moving grid."""
    moving_mask: Tensor | None
    affine: Array
    """(D + 1, D + 1) float64: from voxels to the frame's mm."""
    spacing: tuple[float, ...]
    content: Tensor
    """(1, *shape) boolean: where the fixed image differs from its rim."""
    shown: tuple[Tensor, Tensor]
    """Moving and fixed image, scaled (see `scaling.scaled`)."""
    covered: float
    """Fraction of the fixed content whose counterpart is on the moving grid."""


def working_pair(
    images: tuple[Tensor, Tensor],
    masks: tuple[Tensor | None, Tensor | None],
    frame: Frame,
    matrix: Array,
    spacing: float | None,
) -> Working:
    """Resample a pair onto one grid along the fixed image's axes, cropped to the content of either image.

    Args:
        images: moving and fixed, (C, *spatial) each on its own grid.
        masks: likewise, (1, *spatial) or None.
        frame: their frame.
        matrix: (D + 1, D + 1), the alignment of the frame's points.
        spacing: mm of the grid's voxels; None for the fixed image's own.
    """
    moving, fixed = images
    edges = np.linalg.norm(frame.fixed[:-1, :-1], axis=0)
    wanted = edges if spacing is None else np.full(len(edges), float(spacing))
    shape = [max(1, round(size * own / new)) for size, own, new in zip(fixed.shape[1:], edges, wanted)]
    change = np.eye(len(shape) + 1)
    for axis, (old, new) in enumerate(zip(fixed.shape[1:], shape)):
        change[axis, axis], change[axis, -1] = old / new, (old / new - 1) / 2
    still = onto(fixed, shape, change, smooth=True)
    to_moving = np.linalg.inv(frame.moving) @ matrix @ frame.fixed @ change
    moved = onto(moving, shape, to_moving, smooth=True)
    inside = _inside(shape, to_moving, moving.shape[1:])
    shown = [scaled(moved), scaled(still)]
    low, high = _both(*(content_box(one, MARGIN) for one in shown))
    cut = (slice(None), *(slice(a, b) for a, b in zip(low, high)))
    outside = 1 - inside
    mask = outside if masks[1] is None else torch.maximum(outside, onto(masks[1].float(), shape, change, smooth=True))
    carried = None if masks[0] is None else onto(masks[0].float(), shape, to_moving, smooth=True)[cut].contiguous()
    change[:-1, -1] += change[:-1, :-1] @ np.array(low, float)
    content = content_of(still)[cut]
    covered = float(inside[cut][content].mean()) if bool(content.any()) else 0.0
    moved, still, mask = (part[cut].contiguous() for part in (moved, still, mask))
    own = tuple(float(size) for size in np.linalg.norm((frame.fixed @ change)[:-1, :-1], axis=0))
    first, second = (part[cut].contiguous() for part in shown)
    return Working(moved, still, mask, carried, frame.fixed @ change, own, content, (first, second), covered)


def onto(image: Tensor, shape: Sequence[int], matrix: Array, *, smooth: bool = False) -> Tensor:
    """Read an image (C, *spatial) at the voxels of another grid.

    Args:
        image: floating.
        shape: shape of the other grid.
        matrix: (D + 1, D + 1) from its voxels to the image's.
        smooth: whether to filter the image first along axes whose voxels are finer than the other grid's.
    """
    if tuple(shape) == tuple(image.shape[1:]) and np.allclose(matrix, np.eye(len(matrix)), atol=1e-9):
        return image.detach().as_subclass(Tensor).float()
    steps = np.linalg.norm(matrix[:-1, :-1], axis=1)
    own, other = (operations(size, image.device) for size in (image.shape[1:], shape))
    field = other.affine(matrix)
    result = []
    for channel in image.detach().as_subclass(Tensor).float():
        values = own.volume(channel.contiguous().clone())
        if smooth and steps.max() > 1.01:
            values, _ = own.smooth(values, tuple(max(step - 1, 0.0) / 2 for step in steps))
        result.append(other.tensor(other.warp(values, field)[0]))
    return torch.stack(result)


def content_of(image: Tensor) -> Tensor:
    """Where an image (C, *spatial) differs from its rim by a tenth of its range, (1, *spatial)."""
    flat = image.mean(0)
    box_rim = torch.cat(
        [flat.select(axis, side).flatten() for axis, size in enumerate(flat.shape) if size > 1 for side in (0, -1)]
        or [flat.flatten()]
    ).median()
    low, high = percentiles(flat)
    return ((flat - box_rim).abs() > 0.1 * (high - low))[None]


def total_field(ddf: Tensor, working: Array, matrix: Array, fixed: Array, shape: Sequence[int]) -> Tensor:
    """Displacement of alignment and deformation on the fixed grid, in its voxels.

    The moving point is moving⁻¹ · fixed · (p + result(p)), `fixed` and `moving` being affines.

    Args:
        ddf: (D, *working shape), in its voxels.
        working: affine of the working grid.
        matrix: the alignment.
        fixed: affine of the fixed grid.
        shape: shape of the fixed grid.
    """
    first, last = np.linalg.inv(working) @ fixed, np.linalg.inv(fixed) @ matrix @ working
    if takes_compiled(ddf):
        return between_grids(ddf, None, (first, last), shape)
    grid = identity_grid(shape, device=ddf.device, dtype=torch.float64)
    place = _moved(first, grid)
    there = place + sample(ddf[None].double(), place[None])[0]
    return (_moved(last, there) - grid).float()


def total_inverse(
    ddf: Tensor, working: Array, matrix: Array, moving: Array, shape: Sequence[int], guess: Tensor | None = None
) -> Tensor:
    """The inverse displacement on the moving grid, in its voxels; arguments as in `total_field`.

    `guess` (D, *working shape) is an approximate inverse of `ddf`: where it is exact, it is used unchanged.
    """
    first, last = np.linalg.inv(matrix @ working) @ moving, np.linalg.inv(moving) @ working
    if takes_compiled(ddf):
        return between_grids(ddf, -ddf if guess is None else guess, (first, last), shape)
    grid = identity_grid(shape, device=ddf.device, dtype=torch.float64)
    place = _moved(first, grid)
    there = place + invert(ddf[None].double(), points=place[None]).ddf[0]
    return (_moved(last, there) - grid).float()


def _moved(matrix: Array, points: Tensor) -> Tensor:
    """A matrix (D + 1, D + 1) on coordinates (D, *spatial)."""
    given = torch.from_numpy(np.ascontiguousarray(matrix)).to(points.device, points.dtype)
    shift = given[:-1, -1].reshape(-1, *[1] * (points.ndim - 1))
    return torch.tensordot(given[:-1, :-1], points, dims=1) + shift


def _inside(shape: Sequence[int], matrix: Array, sizes: Sequence[int]) -> Tensor:
    """(1, *shape): 1 where a voxel's counterpart lies in a voxel of a grid, else 0."""
    result = torch.ones(tuple(shape), dtype=torch.bool)
    for own, size in zip(coordinates(matrix, shape), sizes):
        result &= (own >= -0.5 - 1e-4) & (own <= size - 0.5 + 1e-4)
    return result.float()[None]


def coordinates(matrix: Array, shape: Sequence[int]) -> list[Tensor]:
    """Where a matrix (D + 1, D + 1) maps the voxels of a grid, per axis of the other grid, float32.

    Args:
        matrix: of voxels.
        shape: shape of the grid.
    """
    lines = [torch.arange(size, dtype=torch.float64) for size in shape]
    result = []
    for row in np.asarray(matrix, float)[:-1]:
        own = torch.full((1,) * len(shape), row[-1], dtype=torch.float64)
        for axis, (line, factor) in enumerate(zip(lines, row)):
            own = own + (line * factor).reshape([-1 if k == axis else 1 for k in range(len(shape))])
            own = own.float() if axis == len(shape) - 2 else own
        result.append(own.float())
    return result


def _both(first: tuple[list[int], list[int]], second: tuple[list[int], list[int]]) -> tuple[list[int], list[int]]:
    lows = [min(a, b) for a, b in zip(first[0], second[0])]
    highs = [max(a, b) for a, b in zip(first[1], second[1])]
    return lows, highs
