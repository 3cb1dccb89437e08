"""Loops that compare an image at points with values that are known there, through an affine map."""

from __future__ import annotations

from typing import Any

import numpy as np

from medtrace.kernels.compiling import compiled
from medtrace.kernels.similarity_loops import bin_row
from medtrace.kernels.warp_3d import free_row, locate_row, steps_of

ROW = 256
"""Points that are worked on together."""


@compiled
def point_tables(
    image: Any,
    share: Any,
    points: Any,
    known: Any,
    weights: Any,
    matrix: Any,
    values: Any,
    slopes: Any,
    counted: Any,
    tables: Any,
    begin: int,
    end: int,
) -> None:
    """Read an image, and its slopes, at points through a map, and fill joint histograms with what is known there.

    Args:
        image: (X, Y, Z), in [0, 1].
        share: (X, Y, Z), how far a voxel of the image counts, or of no voxels if all do.
        points: (3, N), in voxels of another grid.
        known: (N), in [0, 1].
        weights: (N).
        matrix: (3, 4), from those voxels to the image's, in the image's type.
        values: (N) receives the image there.
        slopes: (3, N) receives its derivatives.
        counted: (N) receives the weights times the share.
        tables: (parts, bins, bins) float64, known values along the first bin axis; part t receives the t-th of as many
            equal ranges of points.
        begin: first part.
        end: behind the last one.
    """
    count = points.shape[1]
    parts, bins, _ = tables.shape
    flat, parted = image.reshape(-1), share.reshape(-1)
    dx, dy, dz = steps_of(image.shape)
    real = image.dtype.type
    zero, one = real(0), real(1)
    place = np.empty((3, ROW), image.dtype)
    cells = np.empty((2, ROW), np.int32)
    inner = np.empty((3, ROW), image.dtype)
    free = np.empty((3, ROW), image.dtype)
    bins_of = np.empty((2, ROW), np.int32)
    upper_of = np.empty((2, ROW), image.dtype)
    for part in range(begin, end):
        table = tables[part]
        table[:] = 0
        stop = (part + 1) * count // parts
        for start in range(part * count // parts, stop, ROW):
            size = min(ROW, stop - start)
            a, b, c = points[0, start : start + size], points[1, start : start + size], points[2, start : start + size]
            for axis in range(3):
                line = place[axis]
                by_a, by_b, by_c, shift = matrix[axis, 0], matrix[axis, 1], matrix[axis, 2], matrix[axis, 3]
                for j in range(size):
                    line[j] = by_a * a[j] + by_b * b[j] + by_c * c[j] + shift
            own = (place[0, :size], place[1, :size], place[2, :size])
            locate_row(own, zero, zero, zero, image.shape, cells, inner)
            free_row(own, zero, zero, zero, image.shape, free)
            x, w = values[start : start + size], counted[start : start + size]
            for j in range(size):
                o = np.uint64(np.uint32(cells[0, j]))
                p, q = o + dy, o + dx
                r = q + dy
                a00, a01, a10, a11 = flat[o], flat[o + dz], flat[p], flat[p + dz]
                b00, b01, b10, b11 = flat[q], flat[q + dz], flat[r], flat[r + dz]
                wx, wy, wz = inner[0, j], inner[1, j], inner[2, j]
                a0, a1 = a00 + (a01 - a00) * wz, a10 + (a11 - a10) * wz
                b0, b1 = b00 + (b01 - b00) * wz, b10 + (b11 - b10) * wz
                left, right = a0 + (a1 - a0) * wy, b0 + (b1 - b0) * wy
                x[j] = left + (right - left) * wx
                slopes[0, start + j] = (right - left) * free[0, j]
                slopes[1, start + j] = ((a1 - a0) + ((b1 - b0) - (a1 - a0)) * wx) * free[1, j]
                near = (a01 - a00) + ((a11 - a10) - (a01 - a00)) * wy
                far = (b01 - b00) + ((b11 - b10) - (b01 - b00)) * wy
                slopes[2, start + j] = (near + (far - near) * wx) * free[2, j]
                w[j] = weights[start + j]
                if parted.size > 0:
                    wx, wy, wz = inner[0, j], inner[1, j], inner[2, j]
                    a0 = parted[o] + (parted[o + dz] - parted[o]) * wz
                    a1 = parted[p] + (parted[p + dz] - parted[p]) * wz
                    b0 = parted[q] + (parted[q + dz] - parted[q]) * wz
                    b1 = parted[r] + (parted[r + dz] - parted[r]) * wz
                    left, right = a0 + (a1 - a0) * wy, b0 + (b1 - b0) * wy
                    w[j] *= left + (right - left) * wx
            bin_row(known[start : start + size], bins, bins_of[0], upper_of[0])
            bin_row(x, bins, bins_of[1], upper_of[1])
            for j in range(size):
                row, column, right = bins_of[0, j], bins_of[1, j], upper_of[1, j]
                upper = w[j] * upper_of[0, j]
                lower = w[j] * (one - upper_of[0, j])
                table[row, column] += lower * (one - right)
                table[row, column + 1] += lower * right
                table[row + 1, column] += upper * (one - right)
                table[row + 1, column + 1] += upper * right


@compiled
def point_moments(
    points: Any, known: Any, values: Any, slopes: Any, counted: Any, entries: Any, sums: Any, begin: int, end: int
) -> None:
    """Derivative by the map's matrix of the sum of counted · entries[known, value]; arguments as in `point_tables`.

    Args:
        points: (3, N).
        known: (N).
        values: (N).
        slopes: (3, N).
        counted: (N).
        entries: (bins, bins), known values along the first axis.
        sums: (parts, 3, 4) float64 receives it per range of points.
        begin: first part.
        end: behind the last one.
    """
    count, bins = points.shape[1], entries.shape[0]
    parts = sums.shape[0]
    real = values.dtype.type
    zero, one, scale = real(0), real(1), real(bins - 1)
    bins_of = np.empty((2, ROW), np.int32)
    upper_of = np.empty((2, ROW), values.dtype)
    change = np.empty(ROW, values.dtype)
    for part in range(begin, end):
        total = sums[part]
        total[:] = 0
        stop = (part + 1) * count // parts
        for start in range(part * count // parts, stop, ROW):
            size = min(ROW, stop - start)
            x, w = values[start : start + size], counted[start : start + size]
            bin_row(known[start : start + size], bins, bins_of[0], upper_of[0])
            bin_row(x, bins, bins_of[1], upper_of[1])
            for j in range(size):
                row, column, up = bins_of[0, j], bins_of[1, j], upper_of[0, j]
                lower = entries[row, column + 1] - entries[row, column]
                upper = entries[row + 1, column + 1] - entries[row + 1, column]
                within = scale if x[j] > zero and x[j] < one else zero
                change[j] = w[j] * within * (lower + (upper - lower) * up)
            for axis in range(3):
                slope = slopes[axis, start : start + size]
                by_a = by_b = by_c = whole = 0.0
                for j in range(size):
                    own = float(change[j] * slope[j])
                    by_a += own * points[0, start + j]
                    by_b += own * points[1, start + j]
                    by_c += own * points[2, start + j]
                    whole += own
                total[axis, 0] += by_a
                total[axis, 1] += by_b
                total[axis, 2] += by_c
                total[axis, 3] += whole


@compiled
def normalized_information(tables: Any, spread: Any, floor: float, derivative: bool, by_entry: Any) -> Any:
    """Normalized mutual information of histograms and its derivative, as `information.information` gives them.

    Args:
        tables: (parts, bins, bins) float64 weights, which are summed.
        spread: (bins, bins) float64 that smooths along one axis, a band about the diagonal.
        floor: added to every probability.
        derivative: whether it is requested.
        by_entry: (bins, bins) receives the derivative by the entries, times their sum.

    Returns:
        The information, 0 where nothing counts, and the sum of the weights.
    """
    parts, bins, _ = tables.shape
    table, between, smooth = np.zeros((bins, bins)), np.zeros((bins, bins)), np.zeros((bins, bins))
    given = 0.0
    for i in range(bins):
        for part in range(parts):
            for j in range(bins):
                table[i, j] += tables[part, i, j]
        for j in range(bins):
            given += table[i, j]
    if not given > 0:
        return 0.0, 0.0
    for i in range(bins):
        for k in range(bins):
            weight = spread[i, k]
            if weight > 1e-12:
                for j in range(bins):
                    between[i, j] += weight * table[k, j]
    mass = 0.0
    for i in range(bins):
        for k in range(bins):
            own = between[i, k]
            if own > 0:
                for j in range(bins):
                    smooth[i, j] += own * spread[j, k]
        for j in range(bins):
            mass += smooth[i, j]
    rows, columns = np.zeros(bins), np.zeros(bins)
    for i in range(bins):
        for j in range(bins):
            value = smooth[i, j] / mass + floor
            between[i, j] = value
            rows[i] += value
            columns[j] += value
    joint = apart = 0.0
    for i in range(bins):
        apart -= rows[i] * np.log(rows[i]) + columns[i] * np.log(columns[i])
        rows[i] = np.log(rows[i])
    for j in range(bins):
        columns[j] = np.log(columns[j])
    empty = np.log(floor)
    for i in range(bins):
        for j in range(bins):
            logarithm = empty if smooth[i, j] == 0 else np.log(between[i, j])
            joint -= between[i, j] * logarithm
            between[i, j] = logarithm
    result = apart / joint
    if not derivative:
        return result, given
    mean = 0.0
    for i in range(bins):
        for j in range(bins):
            between[i, j] = (result * (between[i, j] + 1) - rows[i] - columns[j] - 2) / joint
            mean += between[i, j] * smooth[i, j]
    mean /= mass
    smooth[:] = 0
    for i in range(bins):
        for j in range(bins):
            between[i, j] -= mean
    for k in range(bins):
        for i in range(bins):
            weight = spread[k, i]
            if weight > 1e-12:
                for j in range(bins):
                    smooth[i, j] += weight * between[k, j]
    line = np.empty(bins)
    for i in range(bins):
        line[:] = 0
        for k in range(bins):
            own = smooth[i, k] * (given / mass)
            for j in range(bins):
                line[j] += own * spread[k, j]
        for j in range(bins):
            by_entry[i, j] = line[j]
    return result, given


@compiled
def many_values(
    image: Any,
    share: Any,
    points: Any,
    known: Any,
    weights: Any,
    matrices: Any,
    spread: Any,
    floor: float,
    out: Any,
    bins: int,
    parts: int,
    begin: int,
    end: int,
) -> None:
    """Write what each of many maps is worth; arguments as in `point_tables` and `normalized_information`.

    Args:
        image: (X, Y, Z).
        share: likewise, or of no voxels.
        points: (3, N).
        known: (N).
        weights: (N).
        matrices: (maps, 3, 4).
        spread: (bins, bins).
        floor: added to every probability.
        out: (maps) receives the information.
        bins: bins of the histograms.
        parts: histograms that are summed.
        begin: first map.
        end: behind the last one.
    """
    values, counted, slopes = np.empty_like(known), np.empty_like(known), np.empty_like(points)
    tables, nothing = np.empty((parts, bins, bins)), np.empty((0, 0), values.dtype)
    for number in range(begin, end):
        matrix = matrices[number]
        point_tables(image, share, points, known, weights, matrix, values, slopes, counted, tables, 0, parts)
        out[number], _ = normalized_information(tables, spread, floor, False, nothing)
