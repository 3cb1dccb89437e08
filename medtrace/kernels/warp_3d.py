"""Loops that read volumes at positions between their voxels, and their gradients.

A row is a run of positions that are worked on together: indices and weights first, which the processor's vector
units compute, then the reads. A whole number of rows lies in a plane of the first axis.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from medtrace.kernels.compiling import compiled, inlined


@inlined
def locate_row(own: tuple[Any, ...], x: Any, y: Any, z: Any, shape: Any, cells: Any, weights: Any) -> None:
    """Cell (offset of its lowest corner, plane) and weights of the positions of a row, clamped to the grid.

    Position j is (x + own[0], y + own[1], z·j + own[2]), `own` being three rows. NaN counts as 0, as in torch's
    grid_sample.
    """
    real = own[0].dtype.type
    zero = real(0)
    sizes = (np.int32(shape[0]), np.int32(shape[1]), np.int32(shape[2]))
    end_x, end_y, end_z = (
        real(shape[0] - 1),
        real(shape[1] - 1),
        real(shape[2] - 1),
    )
    last_x, last_y, last_z = max(sizes[0] - 2, 0), max(sizes[1] - 2, 0), max(sizes[2] - 2, 0)
    stride_y = sizes[2]
    stride_x = np.int32(sizes[1] * sizes[2])
    for j in range(own[0].size):
        px = own[0][j] + x
        py = own[1][j] + y
        pz = own[2][j] + z * real(np.int32(j))
        px = px if px > zero else zero
        py = py if py > zero else zero
        pz = pz if pz > zero else zero
        px = px if px < end_x else end_x
        py = py if py < end_y else end_y
        pz = pz if pz < end_z else end_z
        ix = min(np.int32(px), np.int32(last_x))
        iy = min(np.int32(py), np.int32(last_y))
        iz = min(np.int32(pz), np.int32(last_z))
        weights[0, j] = px - real(ix)
        weights[1, j] = py - real(iy)
        weights[2, j] = pz - real(iz)
        cells[0, j] = ix * stride_x + iy * stride_y + iz
        cells[1, j] = ix


@inlined
def free_row(own: tuple[Any, ...], x: Any, y: Any, z: Any, shape: Any, free: Any) -> None:
    """1 along the axes on which a position lies between the borders, else 0: there the clamp stops the gradient."""
    real = own[0].dtype.type
    one = real(1)
    zero = real(0)
    end_x, end_y, end_z = (
        real(shape[0] - 1),
        real(shape[1] - 1),
        real(shape[2] - 1),
    )
    for j in range(own[0].size):
        px = own[0][j] + x
        py = own[1][j] + y
        pz = own[2][j] + z * real(np.int32(j))
        free[0, j] = one if px > zero and px < end_x else zero
        free[1, j] = one if py > zero and py < end_y else zero
        free[2, j] = one if pz > zero and pz < end_z else zero


@inlined
def steps_of(shape: Any) -> Any:
    """Steps to the next voxel along each axis, 0 where there is none; unsigned: no index counts from the end."""
    step_x = np.uint64(shape[1] * shape[2] if shape[0] > 1 else 0)
    step_y = np.uint64(shape[2] if shape[1] > 1 else 0)
    return step_x, step_y, np.uint64(1 if shape[2] > 1 else 0)


@compiled
def read_rows(
    image: Any, field: Any, out: Any, length: int, per_plane: int, move: Any, add: bool, begin: int, end: int
) -> None:
    """Write `image` at the positions of rows begin to end; `add` adds the field itself, as compositions want.

    Args:
        image: (B, C, X, Y, Z).
        field: (B, 3, N) displacements with move 1, positions with move 0.
        out: (B, C, N).
        length: length of a row.
        per_plane: rows in a plane.
        move: 1 or 0, in the field's type.
        add: whether to add field to the result; C is then 3.
        begin: first row, counted over the batch.
        end: behind the last one.
    """
    positions = field.shape[2]
    rows = (positions + length - 1) // length
    shape = image.shape[2:]
    dx, dy, dz = steps_of(shape)
    one = field.dtype.type(1)
    cells = np.empty((2, length), np.int32)
    weights = np.empty((3, length), field.dtype)
    line = np.empty(length, field.dtype)
    for row in range(begin, end):
        b = row // rows
        r = row - b * rows
        x = r // per_plane
        start = r * length
        count = min(length, positions - start)
        bx, by = move * field.dtype.type(x), move * field.dtype.type(r - x * per_plane)
        own = (
            field[b, 0, start : start + count],
            field[b, 1, start : start + count],
            field[b, 2, start : start + count],
        )
        locate_row(own, bx, by, move, shape, cells, weights)
        for c in range(image.shape[1]):
            flat = image[b, c].reshape(-1)
            for j in range(count):
                o = np.uint64(np.uint32(cells[0, j]))
                p, q = o + dy, o + dx
                r_ = q + dy
                w = weights[2, j]
                u = one - w
                a0 = flat[o] * u + flat[o + dz] * w
                a1 = flat[p] * u + flat[p + dz] * w
                b0 = flat[q] * u + flat[q + dz] * w
                b1 = flat[r_] * u + flat[r_ + dz] * w
                w = weights[1, j]
                u = one - w
                a0 = a0 * u + a1 * w
                b0 = b0 * u + b1 * w
                w = weights[0, j]
                line[j] = a0 * (one - w) + b0 * w
            if add:
                own_c = field[b, c, start : start + count]
                for j in range(count):
                    line[j] += own_c[j]
            out[b, c, start : start + count] = line[:count]


@inlined
def slope_row(flat: Any, grad: Any, steps: Any, cells: Any, weights: Any, slope: Any) -> None:
    """Add grad times the derivative of the interpolation by the position, per axis, to `slope`."""
    one = flat.dtype.type(1)
    dx, dy, dz = steps
    for j in range(grad.size):
        o = np.uint64(np.uint32(cells[0, j]))
        p, q = o + dy, o + dx
        r = q + dy
        a00, a01, a10, a11 = flat[o], flat[o + dz], flat[p], flat[p + dz]
        b00, b01, b10, b11 = flat[q], flat[q + dz], flat[r], flat[r + dz]
        wx, wy, wz = weights[0, j], weights[1, j], weights[2, j]
        ux, uy, uz = one - wx, one - wy, one - wz
        a0, a1 = a00 * uz + a01 * wz, a10 * uz + a11 * wz
        b0, b1 = b00 * uz + b01 * wz, b10 * uz + b11 * wz
        g = grad[j]
        slope[0, j] += g * ((b0 * uy + b1 * wy) - (a0 * uy + a1 * wy))
        slope[1, j] += g * ((a1 - a0) * ux + (b1 - b0) * wx)
        near = (a01 - a00) * uy + (a11 - a10) * wy
        far = (b01 - b00) * uy + (b11 - b10) * wy
        slope[2, j] += g * (near * ux + far * wx)


@inlined
def scatter_row(flat: Any, grad: Any, steps: Any, cells: Any, weights: Any, low: int, high: int) -> None:
    """Add grad times the weights to the eight voxels of each cell, as far as their planes lie in [low, high)."""
    one = flat.dtype.type(1)
    dx, dy, dz = steps
    next_plane = 1 if dx > 0 else 0
    half = (grad.size + 1) // 2
    for k in range(grad.size):
        # Neighbors add to the same voxels, one waiting for the other; the row's two halves take turns instead.
        j = (k >> 1) + (k & 1) * half
        o = np.uint64(np.uint32(cells[0, j]))
        g = grad[j]
        wx, wy, wz = weights[0, j], weights[1, j], weights[2, j]
        g1 = g * wz
        g0 = g * (one - wz)
        g01, g11 = g0 * wy, g1 * wy
        g00, g10 = g0 * (one - wy), g1 * (one - wy)
        plane = cells[1, j]
        if low <= plane < high:
            u = one - wx
            flat[o] += g00 * u
            flat[o + dz] += g10 * u
            flat[o + dy] += g01 * u
            flat[o + dy + dz] += g11 * u
        plane += next_plane
        if low <= plane < high:
            q = o + dx
            flat[q] += g00 * wx
            flat[q + dz] += g10 * wx
            flat[q + dy] += g01 * wx
            flat[q + dy + dz] += g11 * wx


@inlined
def extent(planes: Any, steps: Any) -> Any:
    """First and last plane that the cells of a row touch, which begin on `planes` and end on the next."""
    minimum, most = planes[0], planes[0]
    for j in range(planes.size):
        minimum = min(minimum, planes[j])
        most = max(most, planes[j])
    return minimum, most + (1 if steps[0] > 0 else 0)


@inlined
def clear_planes(planes: Any, low: int, high: int) -> None:
    """Write 0 to the planes low to high of an image (C, X, ...)."""
    for c in range(planes.shape[0]):
        planes[c, low:high] = 0


@inlined
def write_slope(slope: Any, free: Any, given: Any, add: bool, result: Any, together: bool) -> None:
    """Write the gradient by a row of positions; `together` adds it to what its place holds."""
    for j in range(result.size):
        slope[j] *= free[j]
    if add:
        for j in range(result.size):
            slope[j] += given[j]
    if together:
        for j in range(result.size):
            result[j] += slope[j]
    else:
        result[:] = slope[: result.size]


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
    """Write the gradients of `read_rows`: by the field of rows begin to end, by the image of planes low to high.

    A voxel of the image receives its parts in the order of the rows, so that the bytes do not depend on how rows
    and planes are shared.

    Args:
        grad: (B, C, N).
        grad_image: of the image's shape, or empty where it is not asked for.
        grad_field: of the field's shape, or empty.
        together: whether the two are one array, which receives their sum; rows begin to end are then the planes'.
        begin, end, low, high: counted over the batch; the rows are of batch items on whose planes low and high lie.
            The other arguments are those of `read_rows`.
    """
    positions = field.shape[2]
    rows = (positions + length - 1) // length
    shape = image.shape[2:]
    steps = steps_of(shape)
    cells = np.empty((2, length), np.int32)
    weights = np.empty((3, length), field.dtype)
    free = np.empty((3, length), field.dtype)
    slope = np.empty((3, length), field.dtype)
    for b in range(low // shape[0], (high - 1) // shape[0] + 1):
        low_b, high_b = max(low - b * shape[0], 0), min(high - b * shape[0], shape[0])
        if grad_image.size > 0:
            clear_planes(grad_image[b], low_b, high_b)
        for r in range(rows):
            mine = begin <= b * rows + r < end and grad_field.size > 0
            if not (mine or grad_image.size > 0):
                continue
            x = r // per_plane
            start = r * length
            count = min(length, positions - start)
            bx, by = move * field.dtype.type(x), move * field.dtype.type(r - x * per_plane)
            own = (
                field[b, 0, start : start + count],
                field[b, 1, start : start + count],
                field[b, 2, start : start + count],
            )
            locate_row(own, bx, by, move, shape, cells, weights)
            if mine:
                free_row(own, bx, by, move, shape, free)
                slope[:] = 0
                for c in range(image.shape[1]):
                    slope_row(image[b, c].reshape(-1), grad[b, c, start : start + count], steps, cells, weights, slope)
                for d in range(3):
                    given = grad[b, d if add else 0, start : start + count]
                    write_slope(slope[d], free[d], given, add, grad_field[b, d, start : start + count], together)
            minimum, most = extent(cells[1, :count], steps)
            if grad_image.size > 0 and minimum < high_b and most >= low_b:
                for c in range(image.shape[1]):
                    flat = grad_image[b, c].reshape(-1)
                    scatter_row(flat, grad[b, c, start : start + count], steps, cells, weights, low_b, high_b)
