"""Loops of compositional registration: reads with slopes, composition, window sums and smoothing of volumes.

Volumes are (X, Y, Z) and fields (3, X, Y, Z), in voxels; an image of two axes is a volume (H, 1, W). Every loop works
on the planes `begin` to `end` of the first axis and writes what no other plane writes, so that threads share it and
the bytes do not depend on their number.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from medtrace.kernels.compiling import compiled, inlined
from medtrace.kernels.warp_3d import free_row, locate_row, steps_of


@compiled
def warp_planes(image: Any, field: Any, out: Any, slopes: Any, begin: int, end: int) -> None:
    """Write image(p + field(p)) and the derivative of the interpolated image there, 0 along an axis outside the grid.

    Args:
        image: on a grid of any size.
        field: (3, X, Y, Z).
        out: (X, Y, Z).
        slopes: (3, X, Y, Z).
        begin: first plane.
        end: behind the last one.
    """
    _, height, length = field.shape[1:]
    flat = image.reshape(-1)
    dx, dy, dz = steps_of(image.shape)
    real = image.dtype.type
    cells = np.empty((2, length), np.int32)
    weights = np.empty((3, length), image.dtype)
    free = np.empty((3, length), image.dtype)
    for x in range(begin, end):
        for y in range(height):
            own = (field[0, x, y], field[1, x, y], field[2, x, y])
            locate_row(own, real(x), real(y), real(1), image.shape, cells, weights)
            free_row(own, real(x), real(y), real(1), image.shape, free)
            line, by_x, by_y, by_z = out[x, y], slopes[0, x, y], slopes[1, x, y], slopes[2, x, y]
            if image.shape[1] == 1:
                for j in range(length):
                    o = np.uint64(np.uint32(cells[0, j]))
                    q = o + dx
                    a0, a1, b0, b1 = flat[o], flat[o + dz], flat[q], flat[q + dz]
                    wx, wz = weights[0, j], weights[2, j]
                    a = a0 + (a1 - a0) * wz
                    b = b0 + (b1 - b0) * wz
                    line[j] = a + (b - a) * wx
                    by_x[j] = (b - a) * free[0, j]
                    by_y[j] = 0
                    by_z[j] = ((a1 - a0) + ((b1 - b0) - (a1 - a0)) * wx) * free[2, j]
            else:
                for j in range(length):
                    o = np.uint64(np.uint32(cells[0, j]))
                    p, q = o + dy, o + dx
                    r = q + dy
                    a00, a01, a10, a11 = flat[o], flat[o + dz], flat[p], flat[p + dz]
                    b00, b01, b10, b11 = flat[q], flat[q + dz], flat[r], flat[r + dz]
                    wx, wy, wz = weights[0, j], weights[1, j], weights[2, j]
                    a0, a1 = a00 + (a01 - a00) * wz, a10 + (a11 - a10) * wz
                    b0, b1 = b00 + (b01 - b00) * wz, b10 + (b11 - b10) * wz
                    a, b = a0 + (a1 - a0) * wy, b0 + (b1 - b0) * wy
                    line[j] = a + (b - a) * wx
                    by_x[j] = (b - a) * free[0, j]
                    by_y[j] = ((a1 - a0) + ((b1 - b0) - (a1 - a0)) * wx) * free[1, j]
                    near = (a01 - a00) + ((a11 - a10) - (a01 - a00)) * wy
                    far = (b01 - b00) + ((b11 - b10) - (b01 - b00)) * wy
                    by_z[j] = (near + (far - near) * wx) * free[2, j]


@compiled
def compose_planes(field: Any, update: Any, out: Any, begin: int, end: int) -> None:
    """Write update(p) + field(p + update(p)), read to the nearest voxel beyond the border; all (3, X, Y, Z)."""
    _, height, length = field.shape[1:]
    shape = field.shape[1:]
    dx, dy, dz = steps_of(shape)
    real = field.dtype.type
    cells = np.empty((2, length), np.int32)
    weights = np.empty((3, length), field.dtype)
    for x in range(begin, end):
        for y in range(height):
            own = (update[0, x, y], update[1, x, y], update[2, x, y])
            locate_row(own, real(x), real(y), real(1), shape, cells, weights)
            for c in range(3):
                flat, moved, line = field[c].reshape(-1), update[c, x, y], out[c, x, y]
                if height == 1:
                    for j in range(length):
                        o = np.uint64(np.uint32(cells[0, j]))
                        q = o + dx
                        wx, wz = weights[0, j], weights[2, j]
                        a = flat[o] + (flat[o + dz] - flat[o]) * wz
                        b = flat[q] + (flat[q + dz] - flat[q]) * wz
                        line[j] = moved[j] + a + (b - a) * wx
                else:
                    for j in range(length):
                        o = np.uint64(np.uint32(cells[0, j]))
                        p, q = o + dy, o + dx
                        r = q + dy
                        wx, wy, wz = weights[0, j], weights[1, j], weights[2, j]
                        a0 = flat[o] + (flat[o + dz] - flat[o]) * wz
                        a1 = flat[p] + (flat[p + dz] - flat[p]) * wz
                        b0 = flat[q] + (flat[q + dz] - flat[q]) * wz
                        b1 = flat[r] + (flat[r + dz] - flat[r]) * wz
                        a, b = a0 + (a1 - a0) * wy, b0 + (b1 - b0) * wy
                        line[j] = moved[j] + a + (b - a) * wx


@inlined
def sum_rows(rows: Any, middle: int, y: int, radius: int, out: Any) -> None:
    """Write the sum of the rows [middle ± radius, y], as many as there are."""
    last = rows.shape[0] - 1
    if radius == 2 and middle >= 2 and middle <= last - 2:  # the usual window, in one pass
        a, b, c, d, e = (
            rows[middle - 2, y],
            rows[middle - 1, y],
            rows[middle, y],
            rows[middle + 1, y],
            rows[middle + 2, y],
        )
        for j in range(out.size):
            out[j] = a[j] + b[j] + c[j] + d[j] + e[j]
        return
    low, high = max(middle - radius, 0), min(middle + radius, last)
    first = rows[low, y]
    for j in range(out.size):
        out[j] = first[j]
    for k in range(low + 1, high + 1):
        row = rows[k, y]
        for j in range(out.size):
            out[j] += row[j]


@compiled
def box_in_planes(values: Any, radius: int, out: Any, begin: int, end: int) -> None:
    """Write sums over windows of 2·radius + 1 voxels along the last two axes, fewer at the borders."""
    _, height, length = values.shape
    padded = np.zeros(length + 2 * radius, values.dtype)
    plane = np.empty((height, 1, length), values.dtype)
    for x in range(begin, end):
        for y in range(height):
            padded[radius : radius + length] = values[x, y]
            line = plane[y, 0]
            if radius == 2:
                for j in range(length):
                    line[j] = padded[j] + padded[j + 1] + padded[j + 2] + padded[j + 3] + padded[j + 4]
            else:
                line[:] = padded[:length]
                for k in range(1, 2 * radius + 1):
                    moved = padded[k : k + length]
                    for j in range(length):
                        line[j] += moved[j]
        if height == 1:
            out[x, 0] = plane[0, 0]
        else:
            for y in range(height):
                sum_rows(plane, y, 0, radius, out[x, y])


@compiled
def box_across_planes(values: Any, radius: int, out: Any, begin: int, end: int) -> None:
    """Write sums over windows along the first axis; `out` is another array than `values`."""
    for x in range(begin, end):
        for y in range(values.shape[1]):
            sum_rows(values, x, y, radius, out[x, y])


@inlined
def filter_rows(rows: Any, middle: int, y: int, kernel: Any, out: Any) -> None:
    """Write the weighted sum of the rows [middle ± k, y]; the border row stands for those beyond it."""
    last = rows.shape[0] - 1
    weight, row = kernel[0], rows[middle, y]
    begin = kernel.size % 2
    if begin:
        for j in range(out.size):
            out[j] = row[j] * weight
    else:
        before, after, next_weight = rows[max(middle - 1, 0), y], rows[min(middle + 1, last), y], kernel[1]
        for j in range(out.size):
            out[j] = row[j] * weight + (before[j] + after[j]) * next_weight
        begin = 2
    for k in range(begin, kernel.size, 2):  # two at once: the sums are written half as often
        a, b, weight = rows[max(middle - k, 0), y], rows[min(middle + k, last), y], kernel[k]
        c, d, next_weight = rows[max(middle - k - 1, 0), y], rows[min(middle + k + 1, last), y], kernel[k + 1]
        for j in range(out.size):
            out[j] += (a[j] + b[j]) * weight + (c[j] + d[j]) * next_weight


@compiled
def smooth_in_planes(field: Any, along_y: Any, along_z: Any, out: Any, begin: int, end: int) -> None:
    """Filter (C, X, Y, Z) along the last two axes by symmetric kernels, given from their middle on."""
    channels, _, height, length = field.shape
    reach = along_z.size - 1
    padded = np.empty(length + 2 * reach, field.dtype)
    plane = np.empty((height, 1, length), field.dtype)
    for c in range(channels):
        for x in range(begin, end):
            for y in range(height):
                own, line = field[c, x, y], plane[y, 0]
                padded[:reach] = own[0]
                padded[reach : reach + length] = own
                padded[reach + length :] = own[length - 1]
                weight, first = along_z[0], along_z.size % 2
                if first:
                    for j in range(length):
                        line[j] = own[j] * weight
                else:
                    before, after = padded[reach - 1 : reach - 1 + length], padded[reach + 1 : reach + 1 + length]
                    next_weight = along_z[1]
                    for j in range(length):
                        line[j] = own[j] * weight + (before[j] + after[j]) * next_weight
                    first = 2
                for k in range(first, reach + 1, 2):
                    p, q = padded[reach - k : reach - k + length], padded[reach + k : reach + k + length]
                    r, s = (
                        padded[reach - k - 1 : reach - k - 1 + length],
                        padded[reach + k + 1 : reach + k + 1 + length],
                    )
                    weight, next_weight = along_z[k], along_z[k + 1]
                    for j in range(length):
                        line[j] += (p[j] + q[j]) * weight + (r[j] + s[j]) * next_weight
            for y in range(height):
                filter_rows(plane, y, 0, along_y, out[c, x, y])


@compiled
def smooth_across_planes(field: Any, along_x: Any, out: Any, lengths: Any, begin: int, end: int) -> None:
    """Filter (C, X, Y, Z) along the first axis; `lengths[x]` receives the longest squared vector of plane x."""
    channels, _, height, length = field.shape
    longest = np.empty(length, field.dtype)
    squared = np.empty(length, field.dtype)
    for x in range(begin, end):
        longest[:] = 0
        for y in range(height):
            squared[:] = 0
            for c in range(channels):
                line = out[c, x, y]
                filter_rows(field[c], x, y, along_x, line)
                for j in range(length):
                    squared[j] += line[j] * line[j]
            for j in range(length):
                longest[j] = max(longest[j], squared[j])
        most = longest[0]
        for j in range(1, length):
            most = max(most, longest[j])
        lengths[x] = most


@compiled
def scale_planes(field: Any, factor: Any, begin: int, end: int) -> None:
    """Multiply the planes of (C, X, Y, Z) by a number."""
    for c in range(field.shape[0]):
        for x in range(begin, end):
            for y in range(field.shape[2]):
                line = field[c, x, y]
                for j in range(line.size):
                    line[j] *= factor


@compiled
def affine_planes(matrix: Any, out: Any, begin: int, end: int) -> None:
    """Write the displacements of an affine map, matrix (3, 4) from voxels to voxels, to (3, X, Y, Z)."""
    real = out.dtype.type
    for c in range(3):
        for x in range(begin, end):
            for y in range(out.shape[2]):
                line = out[c, x, y]
                own = float(x if c == 0 else (y if c == 1 else 0))
                start = real(matrix[c, 0] * x + matrix[c, 1] * y + matrix[c, 3] - own)
                step = real(matrix[c, 2] - (1.0 if c == 2 else 0.0))
                for j in range(line.size):
                    line[j] = start + step * real(np.int32(j))
