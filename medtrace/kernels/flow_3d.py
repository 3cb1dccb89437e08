"""Loops of scaling and squaring in 3D, on fields whose vectors lie together: (B, voxels, 4), the fourth number 0."""

from __future__ import annotations

from typing import Any

import numpy as np

from medtrace.kernels.compiling import compiled, inlined
from medtrace.kernels.quads import add_to_face, read_cell, slopes_of_cell
from medtrace.kernels.warp_3d import extent, steps_of


@compiled
def pack(velocity: Any, factor: Any, out: Any, begin: int, end: int) -> None:
    """Write velocity (B, 3, voxels) times a factor to out (B, voxels, 4), for the voxels begin to end."""
    for b in range(velocity.shape[0]):
        for j in range(begin, end):
            for d in range(3):
                out[b, j, d] = velocity[b, d, j] * factor
            out[b, j, 3] = 0


@compiled
def unpack(flow: Any, factor: Any, out: Any, begin: int, end: int) -> None:
    """Write flow (B, voxels, 4) times a factor to out (B, 3, voxels), for the voxels begin to end."""
    for b in range(flow.shape[0]):
        for d in range(3):
            for j in range(begin, end):
                out[b, d, j] = flow[b, j, d] * factor


@inlined
def locate_row(own: Any, x: Any, y: Any, shape: Any, cells: Any, planes: Any, weights: Any) -> None:
    """As `warp_3d.locate_row`, of a row of displacements that lie together, (length, 4)."""
    zero = own.dtype.type(0)
    sizes = (np.int32(shape[0]), np.int32(shape[1]), np.int32(shape[2]))
    end_x, end_y, end_z = own.dtype.type(shape[0] - 1), own.dtype.type(shape[1] - 1), own.dtype.type(shape[2] - 1)
    last_x, last_y, last_z = max(sizes[0] - 2, 0), max(sizes[1] - 2, 0), max(sizes[2] - 2, 0)
    stride_y = sizes[2]
    stride_x = np.int32(sizes[1] * sizes[2])
    for j in range(own.shape[0]):
        px = own[j, 0] + x
        py = own[j, 1] + y
        pz = own[j, 2] + own.dtype.type(np.int32(j))
        px = px if px > zero else zero
        py = py if py > zero else zero
        pz = pz if pz > zero else zero
        px = px if px < end_x else end_x
        py = py if py < end_y else end_y
        pz = pz if pz < end_z else end_z
        ix = min(np.int32(px), np.int32(last_x))
        iy = min(np.int32(py), np.int32(last_y))
        iz = min(np.int32(pz), np.int32(last_z))
        weights[0, j] = px - own.dtype.type(ix)
        weights[1, j] = py - own.dtype.type(iy)
        weights[2, j] = pz - own.dtype.type(iz)
        cells[j] = ix * stride_x + iy * stride_y + iz
        planes[j] = ix


@inlined
def free_row(own: Any, x: Any, y: Any, shape: Any, free: Any) -> None:
    """1 along the axes on which a position lies between the borders, else 0: there the clamp stops the gradient."""
    one = own.dtype.type(1)
    zero = own.dtype.type(0)
    end_x, end_y, end_z = own.dtype.type(shape[0] - 1), own.dtype.type(shape[1] - 1), own.dtype.type(shape[2] - 1)
    for j in range(own.shape[0]):
        px = own[j, 0] + x
        py = own[j, 1] + y
        pz = own[j, 2] + own.dtype.type(np.int32(j))
        free[0, j] = one if px > zero and px < end_x else zero
        free[1, j] = one if py > zero and py < end_y else zero
        free[2, j] = one if pz > zero and pz < end_z else zero


@compiled
def square(flow: Any, shape: Any, out: Any, begin: int, end: int) -> None:
    """Write flow(p) + flow(p + flow(p)) to out for the rows begin to end.

    Args:
        flow: (B, voxels, 4).
        shape: the grid's.
        out: of the flow's shape.
        begin: first row (along the last axis), counted over the batch.
        end: behind the last one.
    """
    length = shape[2]
    rows = shape[0] * shape[1]
    four = np.uint64(4)
    dx, dy, dz = steps_of(shape)
    dx, dy, dz = dx * four, dy * four, dz * four
    cells, planes = np.empty(length, np.int32), np.empty(length, np.int32)
    weights = np.empty((3, length), flow.dtype)
    line = np.empty((length, 4), flow.dtype)
    line_flat = line.reshape(-1)
    for row in range(begin, end):
        b = row // rows
        r = row - b * rows
        x = r // shape[1]
        own = flow[b, r * length : (r + 1) * length]
        flat = flow[b].reshape(-1)
        bx, by = flow.dtype.type(x), flow.dtype.type(r - x * shape[1])
        locate_row(own, bx, by, shape, cells, planes, weights)
        for j in range(length):
            cell = np.uint64(np.uint32(cells[j])) * four
            at = np.uint64(j) * four
            read_cell(flat, cell, dx, dy, dz, weights[0, j], weights[1, j], weights[2, j], line_flat, at)
        for j in range(length):
            for d in range(4):
                line[j, d] += own[j, d]
        out[b, r * length : (r + 1) * length] = line


@inlined
def slopes_row(flat: Any, steps: Any, cells: Any, weights: Any, slopes: Any) -> None:
    """Derivatives by the position of what is read at the positions of a row, (length, 3, 4)."""
    dx, dy, dz = steps
    out = slopes.reshape(-1)
    for j in range(cells.size):
        cell, at = np.uint64(np.uint32(cells[j])) * np.uint64(4), np.uint64(j) * np.uint64(12)
        slopes_of_cell(flat, cell, dx, dy, dz, weights[0, j], weights[1, j], weights[2, j], out, at)


@inlined
def scatter_row(flat: Any, steps: Any, given: Any, cells: Any, planes: Any, weights: Any, low: int, high: int) -> None:
    """Add the vectors times the weights to the corners of each cell, as far as their planes lie in [low, high)."""
    dx, dy, dz = steps
    one = flat.dtype.type(1)
    next_plane = 1 if dx > 0 else 0
    half = (cells.size + 1) // 2
    for k in range(cells.size):
        j = (k >> 1) + (k & 1) * half  # as in warp_3d.scatter_row
        cell, at = np.uint64(np.uint32(cells[j])) * np.uint64(4), np.uint64(j) * np.uint64(4)
        wx, wy, wz = weights[0, j], weights[1, j], weights[2, j]
        if low <= planes[j] < high:
            add_to_face(flat, cell, dy, dz, one - wx, wy, wz, given, at)
        if low <= planes[j] + next_plane < high:
            add_to_face(flat, cell + dx, dy, dz, wx, wy, wz, given, at)


@compiled
def square_backward(flow: Any, shape: Any, grad: Any, out: Any, low: int, high: int) -> None:
    """Write the gradient of `square` by the flow to the planes low to high of out.

    Args:
        flow: (B, voxels, 4), what was squared.
        shape: the grid's.
        grad: of its shape, by the result.
        out: of its shape; a voxel receives its parts in the order of the rows.
        low, high: planes, counted over the batch.
    """
    length = shape[2]
    voxels = shape[0] * shape[1] * length
    dx, dy, dz = steps_of(shape)
    steps = (dx * np.uint64(4), dy * np.uint64(4), dz * np.uint64(4))
    cells, planes = np.empty(length, np.int32), np.empty(length, np.int32)
    weights, free = np.empty((3, length), flow.dtype), np.empty((3, length), flow.dtype)
    slopes = np.empty((length, 3, 4), flow.dtype)
    line = np.zeros((length, 4), flow.dtype)
    for b in range(low // shape[0], (high - 1) // shape[0] + 1):
        low_b, high_b = max(low - b * shape[0], 0), min(high - b * shape[0], shape[0])
        out[b, low_b * (voxels // shape[0]) : high_b * (voxels // shape[0])] = 0
        for r in range(shape[0] * shape[1]):
            x = r // shape[1]
            bx, by = flow.dtype.type(x), flow.dtype.type(r - x * shape[1])
            own = flow[b, r * length : (r + 1) * length]
            g = grad[b, r * length : (r + 1) * length]
            locate_row(own, bx, by, shape, cells, planes, weights)
            if low_b <= x < high_b:
                free_row(own, bx, by, shape, free)
                slopes_row(flow[b].reshape(-1), steps, cells, weights, slopes)
                for j in range(length):
                    for d in range(3):
                        slope = slopes[j, d, 0] * g[j, 0] + slopes[j, d, 1] * g[j, 1] + slopes[j, d, 2] * g[j, 2]
                        line[j, d] = g[j, d] + slope * free[d, j]
                result = out[b, r * length : (r + 1) * length]
                for j in range(length):
                    for d in range(4):
                        result[j, d] += line[j, d]
            least, most = extent(planes, steps)
            if least < high_b and most >= low_b:
                scatter_row(out[b].reshape(-1), steps, g.reshape(-1), cells, planes, weights, low_b, high_b)
