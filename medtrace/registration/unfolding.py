"""Smoothing of a displacement only where it folds."""

from __future__ import annotations

import torch
from torch import Tensor

from medtrace.kernels.greedy import operations

SMOOTHING_VOXELS = 0.7
"""Standard deviation of the Gaussian that smooths a fold; it grows by half every third round."""


def unfold(ddf: Tensor, rounds: int = 10) -> tuple[Tensor, int, int]:
    """Blend a smoothed field in where a simplex between voxel centers folds, until none does.

    Args:
        ddf: (D, *spatial), in voxels.
        rounds: maximum number of rounds.

    Returns:
        The field, and the number of folded voxels before and after (see `fields.folded_voxels`).
    """
    ops = operations(ddf.shape[1:], ddf.device, ddf.dtype if ddf.dtype == torch.float64 else torch.float32)
    field = ops.field(ddf.clone())
    marks, first = ops.folded(field)
    left = first
    for number in range(rounds):
        if not left:
            break
        width = SMOOTHING_VOXELS * 1.5 ** (number // 3)
        dims = ddf.ndim - 1
        fraction, highest = ops.smooth(marks, (1.0 + width,) * dims)
        fraction = (fraction * (4.0 / highest)).clip(0, 1)
        smooth, _ = ops.smooth(ops.field(ops.tensor(field)), (width,) * dims)
        field = field + fraction * (smooth - field)
        marks, left = ops.folded(field)
    return ops.tensor(field), first, left
