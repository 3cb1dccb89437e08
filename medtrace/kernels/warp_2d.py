"""Loops that read images at positions between their pixels, and their gradients; `warp_3d` in two dimensions."""

from __future__ import annotations

from typing import Any

import numpy as np

from medtrace.kernels.compiling import compiled, inlined


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


@compiled
def read_rows(
    image: Any, field: Any, out: Any, length: int, per_plane: int, move: Any, add: bool, begin: int, end: int
) -> None:
    """As `warp_3d.read_rows`, for (B, C, X, Y) and (B, 2, N); a row is a line of the image."""
    positions = field.shape[2]
    rows = (positions + length - 1) // length
    shape = image.shape[2:]
    dx, dy = steps_of(shape)
    one = field.dtype.type(1)
    cells = np.empty((2, length), np.int32)
    weights = np.empty((2, length), field.dtype)
    line = np.empty(length, field.dtype)
    for row in range(begin, end):
        b = row // rows
        r = row - b * rows
        start = r * length
        count = min(length, positions - start)
        bx = move * field.dtype.type(r // per_plane)
        own = (field[b, 0, start : start + count], field[b, 1, start : start + count])
        locate_row(own, bx, move, shape, cells, weights)
        for c in range(image.shape[1]):
            flat = image[b, c].reshape(-1)
            for j in range(count):
                o = np.uint64(np.uint32(cells[0, j]))
                q = o + dx
                w = weights[1, j]
                u = one - w
                a = flat[o] * u + flat[o + dy] * w
                b_ = flat[q] * u + flat[q + dy] * w
                w = weights[0, j]
                line[j] = a * (one - w) + b_ * w
            if add:
                own_c = field[b, c, start : start + count]
                for j in range(count):
                    line[j] += own_c[j]
            out[b, c, start : start + count] = line[:count]


@inlined
def slope_row(flat: Any, grad: Any, steps: Any, cells: Any, weights: Any, slope: Any) -> None:
    """Add grad times the derivative of the interpolation by the position, per axis, to `slope`."""
    one = flat.dtype.type(1)
    dx, dy = steps
    for j in range(grad.size):
        o = np.uint64(np.uint32(cells[0, j]))
        q = o + dx
        a0, a1, b0, b1 = flat[o], flat[o + dy], flat[q], flat[q + dy]
        wx, wy = weights[0, j], weights[1, j]
        ux, uy = one - wx, one - wy
        g = grad[j]
        slope[0, j] += g * ((b0 * uy + b1 * wy) - (a0 * uy + a1 * wy))
        slope[1, j] += g * ((a1 - a0) * ux + (b1 - b0) * wx)


@inlined
def scatter_row(flat: Any, grad: Any, steps: Any, cells: Any, weights: Any, low: int, high: int) -> None:
    """Add grad times the weights to the four pixels of each cell, as far as their lines lie in [low, high)."""
    one = flat.dtype.type(1)
    dx, dy = steps
    next_line = 1 if dx > 0 else 0
    half = (grad.size + 1) // 2
    for k in range(grad.size):
        # Neighbours add to the same voxels, one waiting for the other; the row's two halves take turns instead.
        j = (k >> 1) + (k & 1) * half
        o = np.uint64(np.uint32(cells[0, j]))
        g = grad[j]
        wx, wy = weights[0, j], weights[1, j]
        g1 = g * wy
        g0 = g * (one - wy)
        line = cells[1, j]
        if low <= line < high:
            flat[o] += g0 * (one - wx)
            flat[o + dy] += g1 * (one - wx)
        line += next_line
        if low <= line < high:
            q = o + dx
            flat[q] += g0 * wx
            flat[q + dy] += g1 * wx


@compiled
def read_rows_backward(
    image: Any,
    field: Any,
    grad: Any,
    grad_image: Any,
    grad_field: Any,
    reach: Any,
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
    for row in range(rows * image.shape[0]):
        b = row // rows
        first = b * shape[0]
        mine = begin <= row < end and grad_field.size > 0
        hit = grad_image.size > 0
        if hit and reach.size > 0:
            hit = first + reach[row, 1] >= low and first + reach[row, 0] < high
        if not (mine or hit):
            continue
        r = row - b * rows
        start = r * length
        count = min(length, positions - start)
        bx = move * field.dtype.type(r // per_plane)
        own = (field[b, 0, start : start + count], field[b, 1, start : start + count])
        locate_row(own, bx, move, shape, cells, weights)
        if mine:
            free_row(own, bx, move, shape, free)
            slope[:] = 0
            for c in range(image.shape[1]):
                slope_row(image[b, c].reshape(-1), grad[b, c, start : start + count], steps, cells, weights, slope)
            for d in range(2):
                for j in range(count):
                    slope[d, j] *= free[d, j]
                result = grad_field[b, d, start : start + count]
                if add:
                    given = grad[b, d, start : start + count]
                    for j in range(count):
                        slope[d, j] += given[j]
                for j in range(count):
                    result[j] += slope[d, j]
        if hit:
            for c in range(image.shape[1]):
                flat = grad_image[b, c].reshape(-1)
                scatter_row(flat, grad[b, c, start : start + count], steps, cells, weights, low - first, high - first)
