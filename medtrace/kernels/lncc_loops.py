"""Loops of the squared local correlation of two volumes: each pass sums windows along the way, and keeps them in cache.

Planes as in `greedy_loops`: what a pass writes in a plane, the next one reads in the planes about it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from medtrace.kernels.compiling import compiled, inlined
from medtrace.kernels.greedy_loops import sum_rows
from medtrace.kernels.similarity_loops import LEAST_WEIGHT


@inlined
def sum_along(padded: Any, radius: int, out: Any) -> None:
    """Write sums over windows of 2·radius + 1 along a row, which has `radius` zeros at either end."""
    length = out.size
    if radius == 2:
        for j in range(length):
            out[j] = padded[j] + padded[j + 1] + padded[j + 2] + padded[j + 3] + padded[j + 4]
    else:
        for j in range(length):
            out[j] = padded[j]
        for k in range(1, 2 * radius + 1):
            moved = padded[k : k + length]
            for j in range(length):
                out[j] += moved[j]


@compiled
def product_planes(x: Any, y: Any, weight: Any, radius: int, out: Any, begin: int, end: int) -> None:
    """Write w·x, w·x² and w·x·y, summed over windows along the last two axes.

    Args:
        x: (X, Y, Z).
        y: likewise.
        weight: likewise.
        radius: radius of the windows.
        out: (3, X, Y, Z).
        begin: first plane.
        end: behind the last one.
    """
    _, height, length = x.shape
    padded = np.zeros((3, length + 2 * radius), x.dtype)
    plane = np.empty((3, height, 1, length), x.dtype)
    p, q, r = (padded[0, radius : radius + length], padded[1, radius : radius + length],
               padded[2, radius : radius + length])  # fmt: skip
    for i in range(begin, end):
        for k in range(height):
            a, b, w = x[i, k], y[i, k], weight[i, k]
            for j in range(length):
                t = a[j] * w[j]
                p[j] = t
                q[j] = t * a[j]
                r[j] = t * b[j]
            for c in range(3):
                sum_along(padded[c], radius, plane[c, k, 0])
        for c in range(3):
            for k in range(height):
                sum_rows(plane[c], k, 0, radius, out[c, i, k])


@compiled
def coefficient_planes(
    sums: Any,
    count: Any,
    sum_y: Any,
    sum_yy: Any,
    centers: Any,
    floor: Any,
    radius: int,
    used: int,
    out: Any,
    totals: Any,
    begin: int,
    end: int,
) -> None:
    """Squared local correlation, and the coefficients of its derivative, summed over windows along the last two axes.

    With n the window's weight, A = Sxy − Sx·Sy/n, B and C the sums of squares about the mean of y and x, each plus
    floor · max(n, 1), and v the center's weight: the value is v·A²/(B·C), and a = 2vA/(BC), b = aA/C, d = aA/B.

    Args:
        sums: (3, X, Y, Z) of `product_planes`, summed here along the first axis.
        count: n, (X, Y, Z).
        sum_y: window sums.
        sum_yy: likewise.
        centers: v.
        floor: of the variances, in squared intensities.
        radius: radius of the windows.
        used: 5, 3 if no derivative by y is requested, or 0 if none is.
        out: (5, X, Y, Z) receives a, b, (a·Sy − b·Sx)/n, d, (a·Sx − d·Sy)/n, as many as are used.
        totals: (X) float64 receives the sum of the values per plane.
        begin: first plane.
        end: behind the last one.
    """
    _, height, length = count.shape
    real = count.dtype.type
    one, zero, minimum = real(1), real(0), real(LEAST_WEIGHT)
    line = np.empty(length, count.dtype)
    own = np.empty((3, length), count.dtype)
    padded = np.zeros((5, length + 2 * radius), count.dtype)
    plane = np.empty((5, height, 1, length), count.dtype)
    sx, sxx, sxy = own[0], own[1], own[2]
    a, b, c = (padded[0, radius : radius + length], padded[1, radius : radius + length],
               padded[2, radius : radius + length])  # fmt: skip
    d, e = padded[3, radius : radius + length], padded[4, radius : radius + length]
    for i in range(begin, end):
        line[:] = 0
        for k in range(height):
            n, v, sy, syy = count[i, k], centers[i, k], sum_y[i, k], sum_yy[i, k]
            for part in range(3):
                sum_rows(sums[part], i, k, radius, own[part])
            for j in range(length):
                per = one / max(n[j], minimum)
                slack = floor * max(n[j], one)
                cross = sxy[j] - sx[j] * sy[j] * per
                of_x = max(sxx[j] - sx[j] * sx[j] * per, zero) + slack
                of_y = max(syy[j] - sy[j] * sy[j] * per, zero) + slack
                fraction = v[j] * cross / (of_x * of_y)
                line[j] += fraction * cross
                slope = fraction + fraction
                by_x = slope * cross / of_x
                a[j] = slope
                b[j] = by_x
                c[j] = (slope * sy[j] - by_x * sx[j]) * per
                by_y = slope * cross / of_y
                d[j] = by_y
                e[j] = (slope * sx[j] - by_y * sy[j]) * per
            for part in range(used):
                sum_along(padded[part], radius, plane[part, k, 0])
        for part in range(used):
            for k in range(height):
                sum_rows(plane[part], k, 0, radius, out[part, i, k])
        totals[i] = line.sum()


@compiled
def slope_planes(
    x: Any, y: Any, weight: Any, coefficients: Any, radius: int, used: int, by_x: Any, by_y: Any, begin: int, end: int
) -> None:
    """Write w·(y·a − x·b − c), the derivative by x, and, with 5 used, w·(x·a − y·d − e), that by y.

    Args:
        x: (X, Y, Z).
        y: likewise.
        weight: likewise.
        coefficients: (5, X, Y, Z) of `coefficient_planes`, summed here along the first axis.
        radius: radius of the windows.
        used: 3, or 5 to write `by_y` too.
        by_x: (X, Y, Z).
        by_y: likewise.
        begin: first plane.
        end: behind the last one.
    """
    _, height, length = x.shape
    own = np.empty((5, length), x.dtype)
    a, b, c, d, e = own[0], own[1], own[2], own[3], own[4]
    for i in range(begin, end):
        for k in range(height):
            for part in range(used):
                sum_rows(coefficients[part], i, k, radius, own[part])
            m, f, w, line = x[i, k], y[i, k], weight[i, k], by_x[i, k]
            for j in range(length):
                line[j] = w[j] * (f[j] * a[j] - m[j] * b[j] - c[j])
            if used == 5:
                other = by_y[i, k]
                for j in range(length):
                    other[j] = w[j] * (m[j] * a[j] - f[j] * d[j] - e[j])


@compiled
def sign_planes(
    sums: Any,
    count: Any,
    sum_y: Any,
    sum_yy: Any,
    centers: Any,
    floor: Any,
    radius: int,
    totals: Any,
    begin: int,
    end: int,
) -> None:
    """Local correlations A/√(B·C), weighted by v and summed with their signs and without; see `coefficient_planes`.

    Args:
        sums, count, sum_y, sum_yy, centers, floor, radius: as there.
        totals: (2, X) float64 receives both sums per plane.
        begin: first plane.
        end: behind the last one.
    """
    _, height, length = count.shape
    real = count.dtype.type
    one, zero, minimum = real(1), real(0), real(LEAST_WEIGHT)
    signed, whole = np.empty(length, count.dtype), np.empty(length, count.dtype)
    own = np.empty((3, length), count.dtype)
    sx, sxx, sxy = own[0], own[1], own[2]
    for i in range(begin, end):
        signed[:], whole[:] = 0, 0
        for k in range(height):
            n, v, sy, syy = count[i, k], centers[i, k], sum_y[i, k], sum_yy[i, k]
            for part in range(3):
                sum_rows(sums[part], i, k, radius, own[part])
            for j in range(length):
                per = one / max(n[j], minimum)
                slack = floor * max(n[j], one)
                of_x = max(sxx[j] - sx[j] * sx[j] * per, zero) + slack
                of_y = max(syy[j] - sy[j] * sy[j] * per, zero) + slack
                value = v[j] * (sxy[j] - sx[j] * sy[j] * per) / np.sqrt(of_x * of_y)
                signed[j] += value
                whole[j] += abs(value)
        totals[0, i], totals[1, i] = signed.sum(), whole.sum()
