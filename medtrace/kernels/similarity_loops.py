"""Loops of similarities between two volumes and of their derivatives by every voxel; planes as in `greedy_loops`."""

from __future__ import annotations

from typing import Any

import numpy as np

from medtrace.kernels.compiling import compiled, inlined

LEAST_WEIGHT = 1e-3
"""Weight of a window below which it counts as this much, so that an empty one gives no 0/0."""


@compiled
def difference_planes(x: Any, y: Any, weight: Any, out: Any, totals: Any, begin: int, end: int) -> None:
    """Write w·(y − x), the derivative of −½·w·(y − x)² by x; `totals[i]` receives the sum of w·(y − x)² of plane i."""
    line = np.empty(x.shape[2], x.dtype)
    for i in range(begin, end):
        line[:] = 0
        for k in range(x.shape[1]):
            m, f, w, result = x[i, k], y[i, k], weight[i, k], out[i, k]
            for j in range(m.size):
                difference = f[j] - m[j]
                result[j] = w[j] * difference
                line[j] += result[j] * difference
        totals[i] = line.sum()


@inlined
def bin_row(values: Any, bins: int, cells: Any, fractions: Any) -> None:
    """Lower bin of every intensity in [0, 1] and the fraction of the upper one; what lies outside counts as the end."""
    real = values.dtype.type
    zero, one = real(0), real(1)
    scale = real(bins - 1)
    for j in range(values.size):
        value = values[j]
        value = value if value > zero else zero
        value = (value if value < one else one) * scale
        cell = min(np.int32(value), np.int32(bins - 2))
        cells[j] = cell
        fractions[j] = value - real(cell)


@compiled
def histogram_planes(x: Any, y: Any, weight: Any, tables: Any, begin: int, end: int) -> None:
    """Add the weights of planes to joint histograms, each shared linearly between neighboring bins.

    Args:
        x: (X, Y, Z), in [0, 1].
        y: likewise.
        weight: (X, Y, Z).
        tables: (parts, bins, bins) float64, y along the first bin axis; part t receives the planes of the t-th of as
            many equal ranges.
        begin: first part.
        end: behind the last one.
    """
    planes, height, length = x.shape
    parts, bins, _ = tables.shape
    cells = np.empty((2, length), np.int32)
    fractions = np.empty((2, length), x.dtype)
    one = x.dtype.type(1)
    for part in range(begin, end):
        table = tables[part]
        table[:] = 0
        for i in range(part * planes // parts, (part + 1) * planes // parts):
            for k in range(height):
                bin_row(y[i, k], bins, cells[0], fractions[0])
                bin_row(x[i, k], bins, cells[1], fractions[1])
                w = weight[i, k]
                for j in range(length):
                    row, column = cells[0, j], cells[1, j]
                    upper = w[j] * fractions[0, j]
                    lower = w[j] * (one - fractions[0, j])
                    right = fractions[1, j]
                    table[row, column] += lower * (one - right)
                    table[row, column + 1] += lower * right
                    table[row + 1, column] += upper * (one - right)
                    table[row + 1, column + 1] += upper * right


@compiled
def table_slope_planes(x: Any, y: Any, weight: Any, entries: Any, out: Any, begin: int, end: int) -> None:
    """Write the derivative by x of the sum of w · entries[y, x], interpolated between bins; 0 where x leaves [0, 1].

    Args:
        x: (X, Y, Z).
        y: likewise.
        weight: likewise.
        entries: (bins, bins), y along the first axis.
        out: (X, Y, Z).
        begin: first plane.
        end: behind the last one.
    """
    _, height, length = x.shape
    bins = entries.shape[0]
    cells = np.empty((2, length), np.int32)
    fractions = np.empty((2, length), x.dtype)
    real = x.dtype.type
    zero, one = real(0), real(1)
    scale = real(bins - 1)
    for i in range(begin, end):
        for k in range(height):
            bin_row(y[i, k], bins, cells[0], fractions[0])
            bin_row(x[i, k], bins, cells[1], fractions[1])
            w, own, line = weight[i, k], x[i, k], out[i, k]
            for j in range(length):
                row, column, up = cells[0, j], cells[1, j], fractions[0, j]
                lower = entries[row, column + 1] - entries[row, column]
                upper = entries[row + 1, column + 1] - entries[row + 1, column]
                within = scale if own[j] > zero and own[j] < one else zero
                line[j] = w[j] * within * (lower + (upper - lower) * up)


@compiled
def force_planes(
    slope: Any, slopes: Any, fixed_slope: Any, fixed_slopes: Any, alpha: Any, add: bool, out: Any, begin: int, end: int
) -> None:
    """Write (1 − α)·dE/dm·∇m − α·dE/df·∇f to (3, X, Y, Z), or add it; with α = 0 nothing of the fixed image is read."""
    keep = out.dtype.type(1) - alpha
    for c in range(3):
        for i in range(begin, end):
            for k in range(out.shape[2]):
                m, g, line = slope[i, k], slopes[c, i, k], out[c, i, k]
                if alpha > 0:
                    f, h = fixed_slope[i, k], fixed_slopes[c, i, k]
                    if add:
                        for j in range(line.size):
                            line[j] += keep * m[j] * g[j] - alpha * f[j] * h[j]
                    else:
                        for j in range(line.size):
                            line[j] = keep * m[j] * g[j] - alpha * f[j] * h[j]
                elif add:
                    for j in range(line.size):
                        line[j] += m[j] * g[j]
                else:
                    for j in range(line.size):
                        line[j] = m[j] * g[j]
