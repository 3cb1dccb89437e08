"""A displacement, or its inverse, as one between the grids of two images, compiled for the CPU; without a gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medtrace.kernels import choice, threads
from medtrace.kernels.greedy_interface import inner_shape
from medtrace.kernels.layout import plain

choice.OPERATIONS["displacement between grids"] = "CPU"


def between_grids(
    ddf: Tensor,
    guess: Tensor | None,
    matrices: tuple[Any, Any],
    shape: Sequence[int],
    iterations: tuple[int, int] = (50, 8),
    tolerance: float = 1e-3,
) -> Tensor:
    """last · (q + v) − p for every voxel p of a grid, q being first · p and v the displacement there, or its inverse.

    Args:
        ddf: (D, *spatial) float32 or float64 on the CPU, in its voxels.
        guess: likewise, approximately its inverse, which is then used (see `fields.invert`); None for the displacement.
        matrices: first and last, (D + 1, D + 1) float64 each.
        shape: shape of the grid of p.
        iterations: maximum number, and how many of them are fixed-point iterations.
        tolerance: residual in voxels that is small enough.

    Returns:
        (D, *shape) float32, in voxels of p's grid and of the one that `last` leads to.
    """
    from medtrace.kernels import inversion_loops as loops  # numba takes half a second to import

    dims = ddf.shape[0]
    axes = [0, 2] if dims == 2 else [0, 1, 2]
    first, last = (np.eye(4)[:3] for _ in range(2))
    for into, given in zip((first, last), matrices):
        into[np.ix_(axes, [*axes, 3])] = given[:-1]
    field = _inner(ddf, axes)
    about = np.empty((3, 0, 0, 0), field.dtype) if guess is None else _inner(guess.to(ddf.dtype), axes)
    out = np.empty((3, *inner_shape(shape)), np.float32)
    arrays = field, about, first, last, *iterations, tolerance, out
    planes = threads.pieces(out.shape[1], out[0].size, minimum=1 << 12)
    threads.run(lambda begin, end: loops.between_grids(*arrays, begin, end), planes)
    return torch.from_numpy(out[axes].reshape(dims, *shape))


def _inner(ddf: Tensor, axes: Sequence[int]) -> Any:
    """A displacement as (3, X, Y, Z)."""
    values = plain(ddf).numpy()
    if len(axes) == 3:
        return values
    result = np.zeros((3, *inner_shape(ddf.shape[1:])), values.dtype)
    result[axes] = values[:, :, None]
    return result
