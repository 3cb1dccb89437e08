"""Loops over volumes for the determinant of a displacement's Jacobian."""

from __future__ import annotations

from typing import Any

import numpy as np

from medtrace.kernels.compiling import compiled, inlined


@inlined
def neighbors(at: int, size: int, real: Any) -> Any:
    """Lower and upper neighbor on an axis, and what their difference is multiplied by."""
    low, high = max(at - 1, 0), min(at + 1, size - 1)
    return low, high, real(0.5 if high - low == 2 else 1.0)


@inlined
def difference_row(values: Any, out: Any) -> None:
    """Central differences along a row, one-sided at its ends, 0 for a row of one."""
    last = values.size - 1
    out[0] = values[min(1, last)] - values[0]
    out[last] = values[last] - values[max(last - 1, 0)]
    half = values.dtype.type(0.5)
    for j in range(1, last):
        out[j] = (values[j + 1] - values[j - 1]) * half


@compiled
def determinant_rows(field: Any, out: Any, begin: int, end: int) -> None:
    """Write the determinants of p -> p + field(p) for the rows begin to end, counted over batch and volume.

    Args:
        field: (B, 3, X, Y, Z).
        out: (B, 1, X, Y, Z).
        begin: first row along the last axis.
        end: behind the last one.
    """
    height, width, length = field.shape[2:]
    real = field.dtype.type
    one = real(1)
    along = np.empty((3, length), field.dtype)
    line = np.empty(length, field.dtype)
    for row in range(begin, end):
        b = row // (height * width)
        x = row // width - b * height
        y = row % width
        x_low, x_high, x_scale = neighbors(x, height, real)
        y_low, y_high, y_scale = neighbors(y, width, real)
        u, v, w = field[b, 0], field[b, 1], field[b, 2]
        difference_row(u[x, y], along[0])
        difference_row(v[x, y], along[1])
        difference_row(w[x, y], along[2])
        ux1, ux0, uy1, uy0 = u[x_high, y], u[x_low, y], u[x, y_high], u[x, y_low]
        vx1, vx0, vy1, vy0 = v[x_high, y], v[x_low, y], v[x, y_high], v[x, y_low]
        wx1, wx0, wy1, wy0 = w[x_high, y], w[x_low, y], w[x, y_high], w[x, y_low]
        for j in range(length):
            ux, uy, uz = one + (ux1[j] - ux0[j]) * x_scale, (uy1[j] - uy0[j]) * y_scale, along[0, j]
            vx, vy, vz = (vx1[j] - vx0[j]) * x_scale, one + (vy1[j] - vy0[j]) * y_scale, along[1, j]
            wx, wy, wz = (wx1[j] - wx0[j]) * x_scale, (wy1[j] - wy0[j]) * y_scale, one + along[2, j]
            line[j] = ux * (vy * wz - vz * wy) - vx * (uy * wz - uz * wy) + wx * (uy * vz - uz * vy)
        out[b, 0, x, y, :] = line
