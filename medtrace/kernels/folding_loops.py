"""Loops that find the voxels where a displaced grid folds, in any of the simplices between voxel centers."""

from __future__ import annotations

from typing import Any

import numpy as np

from medtrace.kernels.compiling import compiled, inlined


@inlined
def difference(field: Any, c: int, start: Any, end: Any, step: float, line: Any) -> None:
    """Write component c of p -> p + field(p) at the row `end` minus at the row `start`; rows are (x, y, first z)."""
    length = line.size
    low = field[c, start[0], start[1], start[2] : start[2] + length]
    high = field[c, end[0], end[1], end[2] : end[2] + length]
    real = line.dtype.type(step)
    for j in range(length):
        line[j] = high[j] - low[j] + real


@inlined
def unit(c: int) -> Any:
    """Component c of the three unit vectors."""
    return 1.0 if c == 0 else 0.0, 1.0 if c == 1 else 0.0, 1.0 if c == 2 else 0.0


@inlined
def mark(edges: Any, folded: Any) -> None:
    """Set `folded` where the determinant of three rows of edges (axis, component, z) is not above 0."""
    a, b, c = edges[0]
    d, e, f = edges[1]
    g, h, i = edges[2]
    for j in range(folded.size):
        value = a[j] * (e[j] * i[j] - f[j] * h[j])
        value -= b[j] * (d[j] * i[j] - f[j] * g[j])
        value += c[j] * (d[j] * h[j] - e[j] * g[j])
        if not value > 0:
            folded[j] = 1


@inlined
def inner_row(field: Any, x: int, y: int, edges: Any, row: Any) -> None:
    """Mark the cells whose two inner tetrahedra fold."""
    for c in range(3):
        i, j, k = unit(c)
        origin = (x, y, 0)
        difference(field, c, origin, (x + 1, y + 1, 0), i + j, edges[0, c])
        difference(field, c, origin, (x, y + 1, 1), j + k, edges[1, c])
        difference(field, c, origin, (x + 1, y, 1), i + k, edges[2, c])
    mark(edges, row)
    for c in range(3):
        i, j, k = unit(c)
        last = (x + 1, y + 1, 1)
        difference(field, c, (x + 1, y, 0), last, j + k, edges[0, c])
        difference(field, c, (x, y + 1, 0), last, i + k, edges[1, c])
        difference(field, c, (x, y, 1), last, i + j, edges[2, c])
    mark(edges, row)


@compiled
def folded_planes(field: Any, out: Any, begin: int, end: int) -> None:
    """Write 1 where a voxel's one-sided determinants, or those of its forward cell's inner tetrahedra, are not above 0.

    Args:
        field: (3, X, Y, Z), every axis of at least 2 voxels.
        out: (X, Y, Z) uint8.
        begin: first plane.
        end: behind the last one.
    """
    width, height, length = field.shape[1:]
    edges = np.empty((3, 3, length - 1), field.dtype)
    for x in range(begin, end):
        for y in range(height):
            row = out[x, y]
            row[:] = 0
            for side_x in range(2):
                x0 = x - side_x
                if x0 < 0 or x0 + 1 >= width:
                    continue
                for side_y in range(2):
                    y0 = y - side_y
                    if y0 < 0 or y0 + 1 >= height:
                        continue
                    for side_z in range(2):
                        for c in range(3):
                            i, j, k = unit(c)
                            difference(field, c, (x0, y, side_z), (x0 + 1, y, side_z), i, edges[0, c])
                            difference(field, c, (x, y0, side_z), (x, y0 + 1, side_z), j, edges[1, c])
                            difference(field, c, (x, y, 0), (x, y, 1), k, edges[2, c])
                        mark(edges, row[side_z : side_z + length - 1])
            if x + 1 < width and y + 1 < height:
                inner_row(field, x, y, edges, row[: length - 1])


@compiled
def folded_lines(field: Any, out: Any, begin: int, end: int) -> None:
    """As `folded_planes`, of a flat field (2, H, W), for the lines `begin` to `end`."""
    height, length = field.shape[1:]
    one = field.dtype.type(1)
    for x in range(begin, end):
        row = out[x]
        row[:] = 0
        for side_x in range(2):
            x0 = x - side_x
            if x0 < 0 or x0 + 1 >= height:
                continue
            u0, u1, v0, v1 = field[0, x0], field[0, x0 + 1], field[1, x0], field[1, x0 + 1]
            u, v = field[0, x], field[1, x]
            for side_z in range(2):
                for j in range(length - 1):
                    k = j + side_z
                    by_x = u1[k] - u0[k] + one
                    by_z = v[j + 1] - v[j] + one
                    if not by_x * by_z - (v1[k] - v0[k]) * (u[j + 1] - u[j]) > 0:
                        row[k] = 1
