"""Invert a displacement point by point, compiled for the CPU; without a gradient."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from medtrace.kernels import choice, threads
from medtrace.kernels.layout import plain

choice.OPERATIONS["invert"] = "CPU"


@torch.library.custom_op("medtrace::invert", mutates_args=(), device_types="cpu")
def solve(
    ddf: Tensor, points: Tensor | None, iterations: int, plain_iterations: int, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Inverse displacement and what remains of it, by the method of `fields.invert`.

    Args:
        ddf: (B, 2, H, W) or (B, 3, H, W, D) float32 or float64.
        points: (B, spatial_dims, N) of its type, in voxels, or None for every voxel.
        iterations: the maximum number.
        plain_iterations: how many of them are fixed-point iterations; the others are Newton's.
        tolerance: residual in voxels that is small enough.

    Returns:
        (B, spatial_dims, N) and (B, N): the inverse, and its residual in voxels, 0 where the pulled point leaves the
        grid.
    """
    from medtrace.kernels import inversion_loops as loops  # numba takes half a second to import

    # A flat field is a volume of one plane that nothing leaves.
    flat = ddf.ndim == 4
    field = _with_plane(plain(ddf)) if flat else plain(ddf)
    batch = field.shape[0]
    if points is None:
        count = field[0, 0].numel()
        where = np.empty((0, 0, 0), field.numpy().dtype)
    else:
        count = points.shape[2]
        points = plain(points)
        where = (torch.cat([torch.zeros_like(points[:, :1]), points], 1) if flat else points).numpy()
    result = field.new_empty(batch, 3, count)
    missed = field.new_empty(batch, count)
    arrays = field.numpy(), where, result.numpy(), missed.numpy()
    threads.run(
        lambda begin, end: loops.solve(*arrays, iterations, plain_iterations, tolerance, begin, end),
        threads.pieces(count, batch * count, minimum=1 << 12),
    )
    return (result[:, 1:].contiguous() if flat else result), missed


@solve.register_fake
def _(ddf: Tensor, points: Tensor | None, *_: object) -> tuple[Tensor, Tensor]:
    count = ddf[0, 0].numel() if points is None else points.shape[2]
    return ddf.new_empty(*ddf.shape[:2], count), ddf.new_empty(ddf.shape[0], count)


def _with_plane(field: Tensor) -> Tensor:
    """(B, 2, H, W) as (B, 3, 1, H, W), still across the plane."""
    return torch.cat([torch.zeros_like(field[:, :1]), field], 1).unsqueeze(2)
