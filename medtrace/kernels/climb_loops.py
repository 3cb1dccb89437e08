"""Loops that climb from an affine map to the nearest one of the most information at points."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from medtrace.kernels.compiling import compiled
from medtrace.kernels.point_loops import normalized_information, point_moments, point_tables

SCALE = 100.0
"""Of the information, so that its gradient per voxel is about 1."""

ARMIJO = 1e-3
"""Share of the predicted gain that a step must bring."""

LONGEST = 3.0
"""Of a step, in units of the parameters: beyond it what is known of the curvature says nothing."""

SHORTEST = 1e-5
"""Of the largest entry of the gradient, below which a map is at its top."""


@compiled
def rotation(vector: Any, turn: Any, slopes: Any) -> None:
    """Write the rotation matrix of a vector (Rodrigues) and its derivatives (Gallego and Yezzi, 2015).

    Args:
        vector: (3).
        turn: (3, 3).
        slopes: (3, 3, 3), the derivative of entry (a, b) by entry i of the vector in [i, a, b].
    """
    squared = vector[0] ** 2 + vector[1] ** 2 + vector[2] ** 2
    angle = math.sqrt(squared)
    first = 1 - squared / 6 if angle < 1e-4 else math.sin(angle) / angle
    second = 0.5 - squared / 24 if angle < 1e-4 else (1 - math.cos(angle)) / squared
    cross = np.zeros((3, 3))
    cross_of(vector, cross)
    for a in range(3):
        for b in range(3):
            square = vector[a] * vector[b] - (squared if a == b else 0.0)
            turn[a, b] = (1.0 if a == b else 0.0) + first * cross[a, b] + second * square
    own, whole = np.zeros(3), np.zeros((3, 3))
    for i in range(3):
        own[:] = 0
        own[i] = 1
        if squared < 1e-12:
            cross_of(own, slopes[i])
            continue
        left = np.empty(3)  # (I - R) e_i
        for a in range(3):
            left[a] = own[a] - turn[a, i]
        moved = np.array(
            [
                vector[1] * left[2] - vector[2] * left[1],
                vector[2] * left[0] - vector[0] * left[2],
                vector[0] * left[1] - vector[1] * left[0],
            ]
        )
        cross_of(moved, whole)
        for a in range(3):
            for b in range(3):
                total = 0.0
                for c in range(3):
                    total += (vector[i] * cross[a, c] + whole[a, c]) * turn[c, b]
                slopes[i, a, b] = total / squared


@compiled
def cross_of(vector: Any, out: Any) -> None:
    """Write the matrix (3, 3) of the cross product with a vector from the left."""
    out[0, 0] = out[1, 1] = out[2, 2] = 0
    out[0, 1], out[0, 2], out[1, 2] = -vector[2], vector[1], -vector[0]
    out[1, 0], out[2, 0], out[2, 1] = vector[2], -vector[1], vector[0]


@compiled
def map_of(free: Any, where: Any, base: Any, ends: Any, lever: float, edge: float, out: Any, slopes: Any) -> None:
    """Write the map of free parameters, as `climb` has them.

    Args:
        free: (n).
        where: (n) places of `free` among 3 of a rotation vector, or 9 of a matrix, and 3 of a shift.
        base: (3, 3), the linear part that is changed from the right.
        ends: (2, 3), a point and where it is put without a shift.
        lever: of rotation and matrix.
        edge: of the shift.
        out: (4, 4).
        slopes: (3, 3, 3) receives the rotation's derivatives where that is sought.
    """
    rigid = slopes.size > 0
    linear, shift, vector = np.eye(3), np.zeros(3), np.zeros(3)
    first = 3 if rigid else 9
    for n in range(free.size):
        place = where[n]
        if place >= first:
            shift[place - first] = free[n] * edge
        elif rigid:
            vector[place] = free[n] * lever
        else:
            linear[place // 3, place % 3] += free[n] * lever
    if rigid:
        rotation(vector, linear, slopes)
    out[:] = 0
    out[3, 3] = 1
    for a in range(3):
        for b in range(3):
            for c in range(3):
                out[a, b] += base[a, c] * linear[c, b]
        out[a, 3] = ends[1, a] + shift[a]
        for b in range(3):
            out[a, 3] -= out[a, b] * ends[0, b]


@compiled
def chain(by_voxels: Any, where: Any, base: Any, ends: Any, sides: Any, lever: float, edge: float, slopes: Any,
          out: Any) -> None:  # fmt: skip
    """Write the derivative by the free parameters from that by the map between voxels (3, 4); others as in `climb`."""
    rigid = slopes.size > 0
    by_matrix, by_linear = np.zeros((3, 4)), np.zeros((3, 3))
    for a in range(3):
        for b in range(4):
            for c in range(3):
                for d in range(4):
                    by_matrix[a, b] += sides[0, c, a] * by_voxels[c, d] * sides[1, b, d]
    for a in range(3):
        for b in range(3):
            for c in range(3):
                by_linear[a, b] += base[c, a] * (by_matrix[c, b] - by_matrix[c, 3] * ends[0, b])
    first = 3 if rigid else 9
    for n in range(where.size):
        place = where[n]
        if place >= first:
            out[n] = by_matrix[place - first, 3] * edge
        elif rigid:
            out[n] = 0
            for a in range(3):
                for b in range(3):
                    out[n] += slopes[place, a, b] * by_linear[a, b] * lever
        else:
            out[n] = by_linear[place // 3, place % 3] * lever


@compiled
def worth(data: Any, work: Any, sides: Any, frame: Any, free: Any, gradient: Any) -> float:
    """The score of the map of free parameters, times -SCALE; arguments as in `climb`.

    Args:
        data: image, share, points, known, weights, spread, and the floor of the probabilities.
        work: values, counted, slopes, tables, entries, sums, as in `point_tables` and `point_moments`.
        sides: (2, 4, 4).
        frame: where, base, ends, lever, edge, and an array for the rotation's derivatives.
        free: (n).
        gradient: (n) receives the derivative.
    """
    image, share, points, known, weights, spread, floor = data
    values, counted, slopes, tables, entries, sums = work
    where, base, ends, lever, edge, turned = frame
    matrix, between = np.empty((4, 4)), np.empty((3, 4), known.dtype)
    map_of(free, where, base, ends, lever, edge, matrix, turned)
    for a in range(3):
        for b in range(4):
            total = 0.0
            for c in range(4):
                for d in range(4):
                    total += sides[0, a, c] * matrix[c, d] * sides[1, d, b]
            between[a, b] = total
    parts = tables.shape[0]
    point_tables(image, share, points, known, weights, between, values, slopes, counted, tables, 0, parts)
    value, mass = normalized_information(tables, spread, floor, True, entries)
    by_voxels = np.zeros((3, 4))
    if mass > 0:
        point_moments(points, known, values, slopes, counted, entries, sums, 0, parts)
        for part in range(parts):
            for a in range(3):
                for b in range(4):
                    by_voxels[a, b] -= SCALE * sums[part, a, b] / mass
    chain(by_voxels, where, base, ends, sides, lever, edge, turned, gradient)
    return -SCALE * value


@compiled
def climb(data: Any, starts: Any, ends: Any, sides: Any, where: Any, settings: Any, out: Any, scores: Any, begin: int,
          end: int) -> None:  # fmt: skip
    """Climb from each of several maps by BFGS, whose steps are shortened until they bring something.

    Args:
        data: see `worth`.
        starts: (maps, 3, 3), linear parts, which are changed from the right.
        ends: (maps, 2, 3), a point and where the map puts it.
        sides: (2, 4, 4), what is put before and behind a map to lead from the points' voxels to the image's.
        where: (n) places of what is sought, see `map_of`.
        settings: lever, edge, iterations, fraction of its value that an iteration must gain, parts, bins, and 1 where
            a rotation is sought or 0 where a matrix is.
        out: (maps, 4, 4) receives the ends.
        scores: (maps) receives their information.
        begin: first map.
        end: behind the last one.
    """
    known, points = data[3], data[2]
    lever, edge, iterations, tolerance = settings[0], settings[1], int(settings[2]), settings[3]
    parts, bins, rigid = int(settings[4]), int(settings[5]), settings[6] > 0
    histograms = np.empty((parts, bins, bins)), np.empty((bins, bins), known.dtype), np.empty((parts, 3, 4))
    work = (np.empty_like(known), np.empty_like(known), np.empty_like(points), *histograms)
    turned, size = np.empty((3 if rigid else 0, 3, 3)), where.size
    for number in range(begin, end):
        frame = where, starts[number], ends[number], lever, edge, turned
        here, gradient, inverse = np.zeros(size), np.zeros(size), np.eye(size)
        there, next_gradient = np.empty(size), np.empty(size)
        value = worth(data, work, sides, frame, here, gradient)
        asked, fresh = 1, True
        for _ in range(iterations):
            if not np.abs(gradient).max() > SHORTEST:
                break
            direction = downhill(inverse, gradient)
            slope = dot(direction, gradient)
            rate = min(1.0, LONGEST / math.sqrt(dot(direction, direction)))
            rate = min(rate, 1.0 / math.sqrt(dot(gradient, gradient))) if fresh else rate
            found = value
            while True:
                there[:] = here + rate * direction
                found = worth(data, work, sides, frame, there, next_gradient)
                asked += 1
                if found <= value + ARMIJO * rate * slope or asked >= 2 * iterations:
                    break
                # The lowest point of the parabola through both values and the slope.
                rate *= min(max(-0.5 * slope * rate / (found - value - slope * rate), 0.1), 0.6)
            if not found < value:
                break
            fresh = bent(inverse, there - here, next_gradient - gradient, fresh)
            gain = (value - found) / max(abs(value), abs(found), 1.0)
            here[:], gradient[:], value = there, next_gradient, found
            if gain <= tolerance or asked >= 2 * iterations:
                break
        map_of(here, where, starts[number], ends[number], lever, edge, out[number], turned)
        scores[number] = -value / SCALE


@compiled
def dot(first: Any, second: Any) -> float:
    """Sum of products, in order."""
    total = 0.0
    for k in range(first.size):
        total += first[k] * second[k]
    return total


@compiled
def downhill(inverse: Any, gradient: Any) -> Any:
    """Minus an inverse Hessian on a gradient."""
    result = np.zeros(gradient.size)
    for a in range(gradient.size):
        result[a] = -dot(inverse[a], gradient)
    return result


@compiled
def bent(inverse: Any, change: Any, curved: Any, fresh: bool) -> bool:
    """Change an inverse Hessian after a step (Broyden, Fletcher, Goldfarb, Shanno); a fresh one is scaled first.

    Args:
        inverse: (n, n).
        change: (n), the step.
        curved: (n), by which the gradient changed.
        fresh: whether it is the identity yet.

    Returns:
        Whether it still is: what is not convex teaches nothing.
    """
    along = dot(change, curved)
    if not along > 1e-10:
        return fresh
    if fresh:
        inverse *= along / dot(curved, curved)
    turned = -downhill(inverse, curved)
    factor = (1 + dot(curved, turned) / along) / along
    for a in range(change.size):
        for b in range(change.size):
            both = turned[a] * change[b] + change[a] * turned[b]
            inverse[a, b] += factor * change[a] * change[b] - both / along
    return False
