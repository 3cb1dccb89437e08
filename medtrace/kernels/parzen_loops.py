"""Joint histograms with the cubic window and their gradients, as compiled loops over voxels on a CPU."""

from __future__ import annotations

from typing import Any

from medtrace.kernels.compiling import compiled, inlined


@inlined
def _cell(position: float, cells: int) -> int:
    """Bin interval of a position; a position outside, or none at all (NaN), belongs to the nearest or the first."""
    if not position > 0:
        return 0
    if position >= cells:
        return cells - 1
    return int(position)


@inlined
def _within(fraction: float) -> float:
    return min(max(fraction, 0.0), 1.0)


@inlined
def _weights(f: float) -> tuple[float, float, float, float]:
    """Cubic B-spline weights of the four bins around a fractional position."""
    g = 1 - f
    first, last = g * g * g / 6, f * f * f / 6
    return first, 2 / 3 - f * f + 3 * last, 2 / 3 - g * g + 3 * first, last


@inlined
def _slopes(f: float) -> tuple[float, float, float, float]:
    """Derivatives of the weights."""
    g = 1 - f
    return -g * g / 2, (1.5 * f - 2) * f, (2 - 1.5 * g) * g, f * f / 2


@compiled
def add_counts(x: Any, y: Any, mask: Any, low: float, scale: float, histogram: Any) -> None:
    """Add the voxels of x and y (voxels,), weighted by the mask (voxels,) or (0,), to a histogram (bins, bins)."""
    cells = histogram.shape[0] - 3
    for voxel in range(x.size):
        across, along = (x[voxel] - low) * scale, (y[voxel] - low) * scale
        i, j = _cell(across, cells), _cell(along, cells)
        a0, a1, a2, a3 = _weights(_within(across - i))
        b0, b1, b2, b3 = _weights(_within(along - j))
        if mask.size:
            weight = mask[voxel]
            b0, b1, b2, b3 = b0 * weight, b1 * weight, b2 * weight, b3 * weight
        for offset, a in enumerate((a0, a1, a2, a3)):
            histogram[i + offset, j] += a * b0
            histogram[i + offset, j + 1] += a * b1
            histogram[i + offset, j + 2] += a * b2
            histogram[i + offset, j + 3] += a * b3


@compiled
def look_up(x: Any, y: Any, mask: Any, low: float, scale: float, table: Any, slope_x: Any, slope_y: Any) -> None:
    """Write the gradients by x and y, (voxels,) where wanted, else (0,), given that by the histogram (bins, bins)."""
    cells = table.shape[0] - 3
    for voxel in range(x.size):
        across, along = (x[voxel] - low) * scale, (y[voxel] - low) * scale
        i, j = _cell(across, cells), _cell(along, cells)
        f, g = _within(across - i), _within(along - j)
        b0, b1, b2, b3 = _weights(g)
        d0, d1, d2, d3 = _slopes(g)
        by_x, by_y = 0.0, 0.0
        for offset, (weight, slope) in enumerate(zip(_weights(f), _slopes(f))):
            t0, t1, t2, t3 = (
                table[i + offset, j],
                table[i + offset, j + 1],
                table[i + offset, j + 2],
                table[i + offset, j + 3],
            )
            by_x += slope * (t0 * b0 + t1 * b1 + t2 * b2 + t3 * b3)
            by_y += weight * (t0 * d0 + t1 * d1 + t2 * d2 + t3 * d3)
        factor = scale * mask[voxel] if mask.size else scale
        if slope_x.size:
            slope_x[voxel] = by_x * factor
        if slope_y.size:
            slope_y[voxel] = by_y * factor
