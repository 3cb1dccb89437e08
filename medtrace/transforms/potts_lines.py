"""The one-dimensional Potts problem, solved exactly on every line of an image."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..kernels.compiling import compiled, inlined

Indices = np.ndarray[Any, np.dtype[np.int64]]

_ONE = np.uint64(1)
"""Type of unsigned indices; an index that might be negative costs a test at each use."""


class Lines(NamedTuple):
    """The lines of an image along one step.

    Attributes:
        firsts: (lines,) int64, flat index of each line's first voxel.
        lengths: (lines,) int64, voxels of each line.
        stride: from one voxel of a line to the next, in the flat image.
    """

    firsts: Indices
    lengths: Indices
    stride: int


def lines_along(shape: tuple[int, ...], step: tuple[int, ...], row: int | None = None) -> Lines:
    """The lines along `step`, which is 0, 1 or -1 on each axis; every voxel is on one of them.

    Args:
        shape: shape of the image.
        step: the direction of the lines.
        row: numbers from one row of the last axis to the next in the flat image; None for `shape[-1]`.
    """
    places = np.indices(shape, sparse=True)
    behind, ahead = [], []
    for place, number, size in zip(places, step, shape, strict=True):
        if number:
            behind.append(place if number > 0 else size - 1 - place)
            ahead.append(size - 1 - behind[-1])
    first = np.zeros((1,) * len(shape), dtype=bool)
    for distance in behind:
        first = first | (distance == 0)
    firsts = np.flatnonzero(np.broadcast_to(first, shape))
    room = ahead[0]
    for other in ahead[1:]:
        room = np.minimum(room, other)
    lengths = np.broadcast_to(room, shape).ravel()[firsts] + 1
    width, stored = shape[-1], (*shape[:-1], row or shape[-1])
    stride = int(np.dot(step, [math.prod(stored[axis + 1 :]) for axis in range(len(shape))]))
    return Lines(firsts // width * stored[-1] + firsts % width, lengths.astype(np.int64), stride)


@compiled
def solve_copy(
    data: Any,
    total: Any,
    copy: Any,
    multiplier: Any,
    coupling: float,
    fraction: float,
    jump_cost: float,
    firsts: Any,
    lengths: Any,
    stride: int,
    begin: int,
    end: int,
) -> None:
    """Replace one copy by the minimizer of jump_cost · (number of jumps) + Σ (u − target)² on lines begin … end − 1.

    The target is (data + (coupling · (total − copy) − multiplier) / 2) / share; `total`, the copies' sum, follows.

    Args:
        data, total, copy, multiplier: (N,) float64, flat images; `total` and `copy` are written.
        coupling, share: of the target.
        jump_cost: of one jump, at least 0, in squared units of the target.
        firsts, lengths, stride: the lines, see `Lines`.
        begin, end: which of the lines.
    """
    longest = 1
    for line in range(begin, end):
        longest = max(longest, lengths[line])
    pieces, starts = np.empty((9, 4 * longest + 8)), np.empty((2, 4 * longest + 8), np.int64)
    reciprocals, sums, begins = np.ones(longest + 1), np.zeros(longest + 1), np.zeros(longest + 1, np.int64)
    for length in range(1, longest + 1):
        reciprocals[length] = 1.0 / length
    target = np.empty(longest)
    for line in range(begin, end):
        count, voxel = lengths[line], firsts[line]
        for place in range(count):
            others = total[voxel] - copy[voxel]
            target[place] = (data[voxel] + (coupling * others - multiplier[voxel]) / 2) / fraction
            voxel += stride
        _cut(target, count, jump_cost, reciprocals, sums, begins, pieces, starts)
        last = count
        while last > 0:
            first = begins[last]
            level = (sums[last] - sums[first]) * reciprocals[last - first]
            for place in range(first, last):
                voxel = firsts[line] + place * stride
                total[voxel] += level - copy[voxel]
                copy[voxel] = level
            last = first


@compiled
def pull_multipliers(copies: Any, multipliers: Any, total: Any, coupling: float, begin: int, end: int) -> float:
    """Add coupling · (S · copy − total) to the multiplier of each of S copies; the greatest |S · copy − total|.

    Args:
        copies, multipliers: (S, N) float64; `multipliers` is written.
        total: (N,), the sum of the copies.
        coupling: μ.
        begin, end: which of the voxels.
    """
    count, apart = copies.shape[0], 0.0
    for number in range(count):
        for voxel in range(begin, end):
            difference = count * copies[number, voxel] - total[voxel]
            apart = max(apart, abs(difference))
            multipliers[number, voxel] += coupling * difference
    return apart


@inlined
def _cut(
    values: Any,
    count: int,
    jump_cost: float,
    reciprocals: Any,
    sums: Any,
    begins: Any,
    pieces: Any,
    starts: Any,
) -> None:
    """Write to `begins` where the minimizer's last segment begins, for the first 1, 2 … `count` values of a line.

    Dynamic programming over the position of the last jump (Friedrich, Kempe, Liebscher & Winkler 2008). The minimum
    energy is kept as a function of the last segment's level: an interval of levels, a piece, for which one start of
    that segment is the best, beside the next. Where the function exceeds its minimum by more than a jump costs, a new
    segment takes over, so that pieces stay few (functional pruning: Rigaill 2010; Maidstone, Hocking, Rigaill &
    Fearnhead 2017). Exact.

    Beyond the pieces, down to the minimum value and up to the maximum, the function is constant (`level`): there the
    new segment begins. It becomes a piece with the next value, and only if it is then below the next level somewhere.

    Energies leave out the sum of squares of the values so far, which all share: a segment after s of r values costs
    base + (r − s) · level² − 2 (sums[r] − sums[s]) · level.
    """
    edges, heights, bases, before, costs = pieces[0], pieces[1], pieces[2], pieces[3], pieces[4]
    origins = starts[0]
    low = high = values[0]
    for place in range(count):
        low, high = min(low, values[place]), max(high, values[place])
        sums[place + 1] = sums[place] + values[place]
    if low == high:
        for r in range(1, count + 1):
            begins[r] = 0
        return
    # Pieces are first … last − 1, in the middle of their row: either end moves out by one at most with each value.
    first = np.uint64(edges.size // 2)
    last = first + _ONE
    edges[first], edges[last] = low, high
    heights[first] = heights[last] = bases[first] = before[first] = level = 0.0
    origins[first] = 0
    for r in range(1, count + 1):
        value, total, past, older = values[r - 1], sums[r], sums[r - 1], level
        twice, outside = 2 * value, older - (total - past) * (total - past)
        best = outside if edges[first] > low or edges[last] < high else np.inf
        chosen = last
        heights[first] += edges[first] * (edges[first] - twice)
        for k in range(first, last):
            heights[k + _ONE] += edges[k + _ONE] * (edges[k + _ONE] - twice)
            inside = total - before[k]
            costs[k] = bases[k] - inside * inside * reciprocals[r - origins[k]]
            chosen = k if costs[k] < best else chosen
            best = min(costs[k], best)
        begins[r] = origins[chosen] if chosen < last else r - 1
        level = best + jump_cost
        reach = level - outside  # squared, of the new segment around its value
        if edges[first] > low and max(value - edges[first], 0.0) ** 2 < reach:
            first -= _ONE
            edges[first], heights[first] = low, older + low * (low - twice)
            bases[first], before[first], costs[first], origins[first] = older, past, outside, r - 1
        if edges[last] < high and max(edges[last] - value, 0.0) ** 2 < reach:
            bases[last], before[last], costs[last], origins[last] = older, past, outside, r - 1
            last += _ONE
            edges[last], heights[last] = high, older + high * (high - twice)
        i, left = first, edges[first]
        while i < last:
            if heights[i] <= level:
                left = edges[i]
                break
            if costs[i] < level:
                scale = reciprocals[r - origins[i]]
                middle = (total - before[i]) * scale
                left = middle - math.sqrt((level - costs[i]) * scale)
                if middle > edges[i] and left < edges[i + _ONE]:
                    left = max(left, edges[i])
                    break
            i += _ONE
        j, right = last - _ONE, edges[last]
        while j >= i:
            if heights[j + _ONE] <= level:
                right = edges[j + _ONE]
                break
            if costs[j] < level:
                scale = reciprocals[r - origins[j]]
                middle = (total - before[j]) * scale
                right = middle + math.sqrt((level - costs[j]) * scale)
                if middle < edges[j + _ONE] and right > edges[j]:
                    right = min(right, edges[j + _ONE])
                    break
            j -= _ONE
        if j < i:  # no jump costs nothing: every level is as good after a jump
            first = np.uint64(edges.size // 2)
            last = first + _ONE
            edges[first], edges[last] = low, high
            heights[first] = heights[last] = bases[first] = level
            before[first], origins[first] = total, r
            continue
        split = False
        for k in range(i + _ONE, j + _ONE):
            split = split or heights[k] > level
        if split:
            first, last = _rebuild(first, last, level, total, r, reciprocals, pieces, starts)
            continue
        first, last = i, j + _ONE
        edges[first], heights[first] = left, min(heights[first], level)
        edges[last], heights[last] = right, min(heights[last], level)


@compiled
def _rebuild(
    first: int, last: int, level: float, total: float, r: int, reciprocals: Any, pieces: Any, starts: Any
) -> tuple[int, int]:
    """Cut pieces at the level where the energy exceeds it between two that stay; the new first and last."""
    edges, heights, bases, before, costs = pieces[0], pieces[1], pieces[2], pieces[3], pieces[4]
    new_edges, new_heights, new_bases, new_before = pieces[5], pieces[6], pieces[7], pieces[8]
    made, opened = 0, False  # pieces so far, and whether the last of them is the new segment's
    new_edges[0], new_heights[0] = edges[first], min(heights[first], level)
    for k in range(first, last):
        left, right = edges[k], edges[k + _ONE]
        stays = heights[k] <= level and heights[k + _ONE] <= level
        if not stays and costs[k] < level:
            scale = reciprocals[r - starts[0, k]]
            middle, reach = (total - before[k]) * scale, math.sqrt((level - costs[k]) * scale)
            if heights[k] > level:
                left = max(left, middle - reach)
            if heights[k + _ONE] > level:
                right = min(right, middle + reach)
            stays = left < right
        if not opened and (left > edges[k] or not stays):
            new_bases[made], new_before[made], starts[1, made] = level, total, r
            made, opened = made + 1, True
        if stays:
            if opened:
                new_edges[made], new_heights[made] = left, min(heights[k], level)
            new_bases[made], new_before[made], starts[1, made] = bases[k], before[k], starts[0, k]
            made, opened = made + 1, False
            new_edges[made], new_heights[made] = right, min(heights[k + _ONE], level)
            if right < edges[k + _ONE]:
                new_bases[made], new_before[made], starts[1, made] = level, total, r
                made, opened = made + 1, True
        if opened:
            new_edges[made], new_heights[made] = edges[k + _ONE], level
    first = last = np.uint64((edges.size - made) // 2)
    for k in range(made):
        edges[last], heights[last] = new_edges[k], new_heights[k]
        bases[last], before[last], starts[0, last] = new_bases[k], new_before[k], starts[1, k]
        last += _ONE
    edges[last], heights[last] = new_edges[made], new_heights[made]
    return first, last
