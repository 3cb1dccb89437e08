"""The loop that inverts a displacement point by point, in float64."""

from __future__ import annotations

import math
from typing import Any

from medtrace.kernels.compiling import compiled, inlined

SLACK = 1e-4
"""How far outside the grid, in voxels, a point still counts as inside; that of `fields.inside_grid`."""


@inlined
def cell_of(position: float, size: int) -> Any:
    """Lower and upper voxel on one axis and the upper one's weight, clamped to the grid; NaN counts as 0."""
    p = position if position > 0.0 else 0.0
    p = p if p < size - 1.0 else size - 1.0
    low = min(int(p), max(size - 2, 0))
    return low, min(low + 1, size - 1), p - low


@inlined
def value_at(values: Any, x: Any, y: Any, z: Any) -> float:
    """Number of a volume (X, Y, Z) interpolated in the cells x, y, z of `cell_of`."""
    a, b, w = z
    x0, x1, wx = x
    y0, y1, wy = y
    a0 = values[x0, y0, a] * (1.0 - w) + values[x0, y0, b] * w
    a1 = values[x0, y1, a] * (1.0 - w) + values[x0, y1, b] * w
    b0 = values[x1, y0, a] * (1.0 - w) + values[x1, y0, b] * w
    b1 = values[x1, y1, a] * (1.0 - w) + values[x1, y1, b] * w
    return (a0 * (1.0 - wy) + a1 * wy) * (1.0 - wx) + (b0 * (1.0 - wy) + b1 * wy) * wx


@inlined
def slopes_at(values: Any, x: Any, y: Any, z: Any) -> Any:
    """Derivatives of `value_at` by x, y and z."""
    a, b, w = z
    x0, x1, wx = x
    y0, y1, wy = y
    a00, a01, a10, a11 = values[x0, y0, a], values[x0, y0, b], values[x0, y1, a], values[x0, y1, b]
    b00, b01, b10, b11 = values[x1, y0, a], values[x1, y0, b], values[x1, y1, a], values[x1, y1, b]
    a0, a1 = a00 * (1.0 - w) + a01 * w, a10 * (1.0 - w) + a11 * w
    b0, b1 = b00 * (1.0 - w) + b01 * w, b10 * (1.0 - w) + b11 * w
    by_x = (b0 - a0) * (1.0 - wy) + (b1 - a1) * wy
    by_y = (a1 - a0) * (1.0 - wx) + (b1 - b0) * wx
    near = (a01 - a00) * (1.0 - wy) + (a11 - a10) * wy
    far = (b01 - b00) * (1.0 - wy) + (b11 - b10) * wy
    return by_x, by_y, near * (1.0 - wx) + far * wx


@inlined
def determinant(a: float, b: float, c: float, d: float, e: float, f: float, g: float, h: float, i: float) -> float:
    """Determinant of the columns (a, b, c), (d, e, f), (g, h, i)."""
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


@inlined
def inside(position: float, size: int) -> bool:
    """Whether a position is on an axis's voxels."""
    return position >= -SLACK and position <= size - 1 + SLACK


@inlined
def mismatch_at(field: Any, position: Any, v: Any) -> Any:
    """v + field(position + v), and its length."""
    shape = field.shape[1:]
    x = cell_of(position[0] + v[0], shape[0])
    y = cell_of(position[1] + v[1], shape[1])
    z = cell_of(position[2] + v[2], shape[2])
    m0 = v[0] + value_at(field[0], x, y, z)
    m1 = v[1] + value_at(field[1], x, y, z)
    m2 = v[2] + value_at(field[2], x, y, z)
    return (m0, m1, m2), math.sqrt(m0 * m0 + m1 * m1 + m2 * m2)


@inlined
def newton_step(field: Any, position: Any, v: Any, m: Any) -> Any:
    """J⁻¹ · m by Cramer's rule, J being the derivative of q -> q + field(q); m itself where J is all but singular."""
    shape = field.shape[1:]
    px, py, pz = position[0] + v[0], position[1] + v[1], position[2] + v[2]
    x, y, z = cell_of(px, shape[0]), cell_of(py, shape[1]), cell_of(pz, shape[2])
    # Beyond the border the field is constant.
    on_x = 1.0 if px >= 0.0 and px <= shape[0] - 1.0 else 0.0
    on_y = 1.0 if py >= 0.0 and py <= shape[1] - 1.0 else 0.0
    on_z = 1.0 if pz >= 0.0 and pz <= shape[2] - 1.0 else 0.0
    ux, uy, uz = slopes_at(field[0], x, y, z)
    vx, vy, vz = slopes_at(field[1], x, y, z)
    wx, wy, wz = slopes_at(field[2], x, y, z)
    a, b, c = 1.0 + ux * on_x, vx * on_x, wx * on_x
    d, e, f = uy * on_y, 1.0 + vy * on_y, wy * on_y
    g, h, i = uz * on_z, vz * on_z, 1.0 + wz * on_z
    whole = determinant(a, b, c, d, e, f, g, h, i)
    if not abs(whole) > 1e-2:
        return m
    return (
        determinant(m[0], m[1], m[2], d, e, f, g, h, i) / whole,
        determinant(a, b, c, m[0], m[1], m[2], g, h, i) / whole,
        determinant(a, b, c, d, e, f, m[0], m[1], m[2]) / whole,
    )


@inlined
def solved(field: Any, position: Any, v: Any, iterations: int, plain: int, tolerance: float) -> Any:
    """The inverse at a position from a first guess v, and what remains; arguments as in `solve`."""
    m, size = mismatch_at(field, position, v)
    rate = 1.0
    for iteration in range(iterations):
        if not size > tolerance:
            break
        step = m if iteration < plain else newton_step(field, position, v, m)
        trial = (v[0] - rate * step[0], v[1] - rate * step[1], v[2] - rate * step[2])
        trial_m, trial_size = mismatch_at(field, position, trial)
        if trial_size < size:
            v, m, size = trial, trial_m, trial_size
            rate = min(rate * 2.0, 1.0)
        else:
            rate *= 0.5
        if iteration == plain - 1:
            rate = 1.0
    return v, size


@compiled
def solve(
    field: Any, points: Any, out: Any, missed: Any, iterations: int, plain: int, tolerance: float, begin: int, end: int
) -> None:
    """Write the inverse at the points begin to end of every batch item, by the method of `fields.invert`.

    Args:
        field: (B, 3, X, Y, Z).
        points: (B, 3, N) in voxels, or (0, 0, 0) for every voxel.
        out: (B, 3, N).
        missed: (B, N), what remains in voxels: 0 where the pulled point is outside, infinite if it is not a number.
        iterations: the most to run.
        plain: so many of them are fixed-point iterations, the others Newton's.
        tolerance: in voxels.
        begin: first point.
        end: behind the last one.
    """
    shape = field.shape[2:]
    for b in range(field.shape[0]):
        own = field[b]
        for n in range(begin, end):
            if points.size > 0:
                position = (float(points[b, 0, n]), float(points[b, 1, n]), float(points[b, 2, n]))
            else:
                line = n // shape[2]
                position = (float(line // shape[1]), float(line % shape[1]), float(n % shape[2]))
            start, _ = mismatch_at(own, position, (0.0, 0.0, 0.0))
            v, size = solved(own, position, (-start[0], -start[1], -start[2]), iterations, plain, tolerance)
            out[b, 0, n], out[b, 1, n], out[b, 2, n] = v
            within = inside(position[0] + v[0], shape[0]) and inside(position[1] + v[1], shape[1])
            within = within and inside(position[2] + v[2], shape[2])
            missed[b, n] = size if within else 0.0
            if not math.isfinite(size):
                missed[b, n] = math.inf


@inlined
def moved(matrix: Any, x: float, y: float, z: float) -> Any:
    """A matrix (3, 4) on a point."""
    return (
        matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] * z + matrix[0, 3],
        matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] * z + matrix[1, 3],
        matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2] * z + matrix[2, 3],
    )


@compiled
def between_grids(
    field: Any, guess: Any, first: Any, last: Any, iterations: int, plain: int, tolerance: float, out: Any, begin: int,
    end: int,
) -> None:  # fmt: skip
    """Write last · (q + v) − p for every voxel p of a grid, q being first · p and v the field there or its inverse.

    Args:
        field: (3, X, Y, Z), in its voxels.
        guess: of its size, about its inverse, to write that; or (3, 0, 0, 0) to write the field.
        first: (3, 4) float64, from voxels p to the field's.
        last: (3, 4) float64, from the field's voxels to those of p's grid.
        iterations: as in `solve`.
        plain: likewise.
        tolerance: likewise.
        out: (3, X', Y', Z'), voxels p.
        begin: first plane.
        end: behind the last one.
    """
    shape = field.shape[1:]
    for i in range(begin, end):
        for k in range(out.shape[2]):
            for j in range(out.shape[3]):
                position = moved(first, float(i), float(k), float(j))
                x = cell_of(position[0], shape[0])
                y = cell_of(position[1], shape[1])
                z = cell_of(position[2], shape[2])
                if guess.size > 0:
                    v = (value_at(guess[0], x, y, z), value_at(guess[1], x, y, z), value_at(guess[2], x, y, z))
                    v, _ = solved(field, position, v, iterations, plain, tolerance)
                else:
                    v = (value_at(field[0], x, y, z), value_at(field[1], x, y, z), value_at(field[2], x, y, z))
                there = moved(last, position[0] + v[0], position[1] + v[1], position[2] + v[2])
                out[0, i, k, j] = there[0] - i
                out[1, i, k, j] = there[1] - k
                out[2, i, k, j] = there[2] - j
