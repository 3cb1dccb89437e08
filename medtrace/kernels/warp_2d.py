"""Loops that read images at positions between their pixels, and their gradients; `warp_3d` in two dimensions.

The four pixels of a position are two pairs of neighbors on two lines. A row's pairs are copied side by side first,
so that the vector units compute on them; its gradients are made as pairs likewise, and then added.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from medtrace.kernels.compiling import compiled, inlined
from medtrace.kernels.warp_3d import clear_planes, extent, write_slope

STREAMS = 16
"""Parts of a row that add their pairs in turns: neighbors overlap, and one would wait for the other's memory."""


@inlined
def locate_row(own: tuple[Any, ...], x: Any, y: Any, shape: Any, cells: Any, weights: Any) -> None:
    """Cell (offset of its lowest corner, line of the image) and weights of the positions of a row, clamped to the grid.

    Position j is (x + own[0], y·j + own[1]), `own` being two rows. NaN counts as 0, as in torch's grid_sample.
    """
    real = own[0].dtype.type
    zero = real(0)
    end_x, end_y = real(shape[0] - 1), real(shape[1] - 1)
    last_x, last_y = np.int32(max(shape[0] - 2, 0)), np.int32(max(shape[1] - 2, 0))
    stride_x = np.int32(shape[1])
    for j in range(own[0].size):
        px = own[0][j] + x
        py = own[1][j] + y * real(np.int32(j))
        px = px if px > zero else zero
        py = py if py > zero else zero
        px = px if px < end_x else end_x
        py = py if py < end_y else end_y
        ix = min(np.int32(px), last_x)
        iy = min(np.int32(py), last_y)
        weights[0, j] = px - real(ix)
        weights[1, j] = py - real(iy)
        cells[0, j] = ix * stride_x + iy
        cells[1, j] = ix


@inlined
def free_row(own: tuple[Any, ...], x: Any, y: Any, shape: Any, free: Any) -> None:
    """1 along the axes on which a position lies between the borders, else 0: there the clamp stops the gradient."""
    real = own[0].dtype.type
    one = real(1)
    zero = real(0)
    end_x, end_y = real(shape[0] - 1), real(shape[1] - 1)
    for j in range(own[0].size):
        px = own[0][j] + x
        py = own[1][j] + y * real(np.int32(j))
        free[0, j] = one if px > zero and px < end_x else zero
        free[1, j] = one if py > zero and py < end_y else zero


@inlined
def steps_of(shape: Any) -> Any:
    """Steps to the next pixel along each axis; 0 where there is none."""
    return np.uint64(shape[1] if shape[0] > 1 else 0), np.uint64(1 if shape[1] > 1 else 0)


@inlined
def gather_row(flat: Any, steps: Any, cells: Any, near: Any, far: Any) -> None:
    """Copy the pairs of pixels on the two lines of each cell side by side."""
    dx, dy = steps
    two, one = np.uint64(2), np.uint64(1)
    for j in range(cells.size):
        o = np.uint64(np.uint32(cells[j]))
        at = np.uint64(j) * two
        near[at], near[at + one] = flat[o], flat[o + dy]
        far[at], far[at + one] = flat[o + dx], flat[o + dx + dy]


@compiled
def read_rows(
    image: Any, field: Any, out: Any, length: int, per_plane: int, move: Any, add: bool, begin: int, end: int
) -> None:
    """As `warp_3d.read_rows`, for (B, C, X, Y) and (B, 2, N); a row is a line of the image."""
    positions = field.shape[2]
    rows = (positions + length - 1) // length
    shape = image.shape[2:]
    steps = steps_of(shape)
    one = field.dtype.type(1)
    cells = np.empty((2, length), np.int32)
    weights = np.empty((2, length), field.dtype)
    near, far = np.empty(2 * length, field.dtype), np.empty(2 * length, field.dtype)
    for row in range(begin, end):
        b = row // rows
        r = row - b * rows
        start = r * length
        count = min(length, positions - start)
        bx = move * field.dtype.type(r // per_plane)
        own = (field[b, 0, start : start + count], field[b, 1, start : start + count])
        locate_row(own, bx, move, shape, cells, weights)
        for c in range(image.shape[1]):
            gather_row(image[b, c].reshape(-1), steps, cells[0, :count], near, far)
            line = out[b, c, start : start + count]
            for j in range(count):
                wx, wy = weights[0, j], weights[1, j]
                a = near[2 * j] * (one - wy) + near[2 * j + 1] * wy
                b_ = far[2 * j] * (one - wy) + far[2 * j + 1] * wy
                line[j] = a * (one - wx) + b_ * wx
            if add:
                own_c = field[b, c, start : start + count]
                for j in range(count):
                    line[j] += own_c[j]


@inlined
def slope_row(grad: Any, weights: Any, near: Any, far: Any, slope: Any) -> None:
    """Add grad times the derivative of the interpolation by the position, per axis, to `slope`."""
    one = grad.dtype.type(1)
    for j in range(grad.size):
        a0, a1, b0, b1 = near[2 * j], near[2 * j + 1], far[2 * j], far[2 * j + 1]
        wx, wy = weights[0, j], weights[1, j]
        ux, uy = one - wx, one - wy
        g = grad[j]
        slope[0, j] += g * ((b0 * uy + b1 * wy) - (a0 * uy + a1 * wy))
        slope[1, j] += g * ((a1 - a0) * ux + (b1 - b0) * wx)


@inlined
def parts_row(grad: Any, weights: Any, near: Any, far: Any) -> None:
    """Write grad times the weights of the four pixels of each cell, as pairs."""
    one = grad.dtype.type(1)
    for j in range(grad.size):
        wx, wy = weights[0, j], weights[1, j]
        g1 = grad[j] * wx
        g0 = grad[j] * (one - wx)
        near[2 * j] = g0 * (one - wy)
        near[2 * j + 1] = g0 * wy
        far[2 * j] = g1 * (one - wy)
        far[2 * j + 1] = g1 * wy


@inlined
def scatter_row(flat: Any, steps: Any, cells: Any, near: Any, far: Any) -> None:
    """Add the pairs to the pixels of each cell."""
    dx = steps[0]
    two, one = np.uint64(2), np.uint64(1)
    part = (cells.size + STREAMS - 1) // STREAMS
    for k in range(part):
        for j in range(k, cells.size, part):
            o, at = np.uint64(np.uint32(cells[j])), np.uint64(j) * two
            q = o + dx
            a, b = flat[o] + near[at], flat[o + one] + near[at + one]
            flat[o], flat[o + one] = a, b
            a, b = flat[q] + far[at], flat[q + one] + far[at + one]
            flat[q], flat[q + one] = a, b


@inlined
def scatter_some(flat: Any, steps: Any, cells: Any, near: Any, far: Any, low: int, high: int) -> None:
    """As `scatter_row`, in its order, as far as the pixels' lines lie in [low, high); also for lines of one pixel."""
    dx, dy = steps
    next_line = 1 if dx > 0 else 0
    count = cells.shape[1]
    part = (count + STREAMS - 1) // STREAMS
    for k in range(part):
        for j in range(k, count, part):
            o = np.uint64(np.uint32(cells[0, j]))
            line = cells[1, j]
            if low <= line < high:
                flat[o] += near[2 * j]
                flat[o + dy] += near[2 * j + 1]
            if low <= line + next_line < high:
                flat[o + dx] += far[2 * j]
                flat[o + dx + dy] += far[2 * j + 1]


@compiled
def read_rows_backward(
    image: Any,
    field: Any,
    grad: Any,
    grad_image: Any,
    grad_field: Any,
    together: bool,
    length: int,
    per_plane: int,
    move: Any,
    add: bool,
    begin: int,
    end: int,
    low: int,
    high: int,
) -> None:
    """As `warp_3d.read_rows_backward`, for images; a plane is a line of the image."""
    positions = field.shape[2]
    rows = (positions + length - 1) // length
    shape = image.shape[2:]
    steps = steps_of(shape)
    cells = np.empty((2, length), np.int32)
    weights = np.empty((2, length), field.dtype)
    free = np.empty((2, length), field.dtype)
    slope = np.empty((2, length), field.dtype)
    near, far = np.empty(2 * length, field.dtype), np.empty(2 * length, field.dtype)
    for b in range(low // shape[0], (high - 1) // shape[0] + 1):
        low_b, high_b = max(low - b * shape[0], 0), min(high - b * shape[0], shape[0])
        if grad_image.size > 0:
            clear_planes(grad_image[b], low_b, high_b)
        for r in range(rows):
            mine = begin <= b * rows + r < end and grad_field.size > 0
            if not (mine or grad_image.size > 0):
                continue
            start = r * length
            count = min(length, positions - start)
            bx = move * field.dtype.type(r // per_plane)
            own = (field[b, 0, start : start + count], field[b, 1, start : start + count])
            locate_row(own, bx, move, shape, cells, weights)
            minimum, most = extent(cells[1, :count], steps)
            hit = grad_image.size > 0 and minimum < high_b and most >= low_b
            whole = minimum >= low_b and most < high_b and shape[1] > 1
            if mine:
                free_row(own, bx, move, shape, free)
                slope[:] = 0
            for c in range(image.shape[1]):
                given = grad[b, c, start : start + count]
                if mine:
                    gather_row(image[b, c].reshape(-1), steps, cells[0, :count], near, far)
                    slope_row(given, weights, near, far, slope)
                if hit:
                    parts_row(given, weights, near, far)
                    flat = grad_image[b, c].reshape(-1)
                    if whole:
                        scatter_row(flat, steps, cells[0, :count], near, far)
                    else:
                        scatter_some(flat, steps, cells[:, :count], near, far, low_b, high_b)
            if mine:
                for d in range(2):
                    given = grad[b, d if add else 0, start : start + count]
                    result = grad_field[b, d, start : start + count]
                    write_slope(slope[d], free[d], given, add, result, together)
