"""Local correlation and joint histograms in plain torch: the twins of `similarity_loops`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LEAST_WEIGHT = 1e-3
"""As in `similarity_loops`."""


def box_sum(values: Tensor, radius: int) -> Tensor:
    """Sums over windows of 2·radius + 1 voxels along the last three axes, fewer at the borders."""
    for axis in (-3, -2, -1):
        size = values.shape[axis]
        if size == 1:
            continue
        total = values.clone()
        for k in range(1, min(radius, size - 1) + 1):
            total.narrow(axis, k, size - k).add_(values.narrow(axis, 0, size - k))
            total.narrow(axis, 0, size - k).add_(values.narrow(axis, k, size - k))
        values = total
    return values


def local_correlation(
    sums: Sequence[Tensor], centers: Tensor, floor: float
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]:
    """See `lncc_loops.coefficient_planes`: the values v·A²/(B·C), and the coefficients of the derivative.

    Args:
        sums: n, Sy, Syy, Sx, Sxx, Sxy.
        centers: v.
        floor: of the variances.
    """
    count, sum_y, sum_yy, sum_x, sum_xx, sum_xy = sums
    per = 1 / count.clamp_min(LEAST_WEIGHT)
    slack = floor * count.clamp_min(1)
    cross = sum_xy - sum_x * sum_y * per
    of_x = (sum_xx - sum_x * sum_x * per).clamp_min(0) + slack
    of_y = (sum_yy - sum_y * sum_y * per).clamp_min(0) + slack
    fraction = centers * cross / (of_x * of_y)
    slope = 2 * fraction
    by_x, by_y = slope * cross / of_x, slope * cross / of_y
    constants = (slope * sum_y - by_x * sum_x) * per, (slope * sum_x - by_y * sum_y) * per
    return fraction * cross, (slope, by_x, constants[0], by_y, constants[1])


def local_slope(x: Tensor, y: Tensor, weight: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """w·(y·a − x·b − c): the derivative by x, from the window sums of the coefficients."""
    return weight * (y * a - x * b - c)


def histogram(x: Tensor, y: Tensor, weight: Tensor, bins: int) -> Tensor:
    """Joint histogram (bins, bins) float64, y along the first axis; see `similarity_loops.histogram_planes`."""
    rows, up = _bins(y, bins)
    columns, right = _bins(x, bins)
    table = torch.zeros(bins * bins, device=x.device, dtype=torch.float64)
    for i, share_y in ((0, 1 - up), (1, up)):
        for j, share_x in ((0, 1 - right), (1, right)):
            table.index_add_(0, ((rows + i) * bins + columns + j).flatten(), (weight * share_y * share_x).flatten())
    return table.reshape(bins, bins)


def table_slope(x: Tensor, y: Tensor, weight: Tensor, entries: Tensor) -> Tensor:
    """See `similarity_loops.table_slope_planes`."""
    bins = entries.shape[0]
    rows, up = _bins(y, bins)
    columns, _ = _bins(x, bins)
    steps = entries[:, 1:] - entries[:, :-1]
    within = ((x > 0) & (x < 1)) * (bins - 1)
    return weight * within * torch.lerp(steps[rows, columns], steps[rows + 1, columns], up.to(entries.dtype))


def _bins(values: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    scaled = values.clamp(0, 1) * (bins - 1)
    cells = scaled.long().clamp_max(bins - 2)
    return cells, (scaled - cells).double() if values.dtype == torch.float64 else scaled - cells
