"""The one-dimensional Potts problem, solved exactly on every line of an image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from .geometry import Array

Indices = np.ndarray[Any, np.dtype[np.int64]]


def solve_lines(values: Array, starts: Indices, jump_cost: float) -> Array:
    """Minimise jump_cost · (number of jumps of u) + Σ (u − values)² on each line.

    Dynamic programming over the place of the last jump, exact and O(n²) at worst (Friedrich, Kempe, Liebscher &
    Winkler 2008). A place that can no longer be the last jump is forgotten (Killick, Fearnhead & Eckley 2012), which
    leaves about as many places as a segment is long.

    Args:
        values: (N,) float64, finite; the lines one after the other.
        starts: (lines + 1,) int64, where each line begins, and N.
        jump_cost: of one jump, at least 0, in squared units of `values`.

    Returns:
        (N,) float64: the minimiser, exactly constant between its jumps.
    """
    result: Array = _solve_lines(values, starts, float(jump_cost))
    return result


@njit  # type: ignore[untyped-decorator]
def _solve_lines(values: Any, starts: Any, jump_cost: float) -> Any:
    """Solve line after line with the same working memory."""
    longest = 0
    for line in range(starts.size - 1):
        longest = max(longest, starts[line + 1] - starts[line])
    work = np.zeros((5, longest + 1))
    for length in range(1, longest + 1):
        work[4, length] = 1.0 / length
    places = np.zeros((2, longest + 1), np.int64)
    result = np.empty_like(values)
    for line in range(starts.size - 1):
        first, last = starts[line], starts[line + 1]
        _solve_line(values[first:last], jump_cost, result[first:last], work, places)
    return result


@njit  # type: ignore[untyped-decorator]
def _solve_line(values: Any, jump_cost: float, result: Any, work: Any, places: Any) -> None:
    """Write the minimiser of one line to `result`.

    `least[r]` is the minimum over the first r values, and `begins[r]` where its last segment begins; `least[0]` is
    −jump_cost because the first segment needs no jump.
    """
    sums, squares, least, costs, reciprocals = work[0], work[1], work[2], work[3], work[4]
    begins, candidates = places[0], places[1]
    least[0] = -jump_cost
    count = 0
    for r in range(1, values.size + 1):
        value = values[r - 1]
        sums[r] = sums[r - 1] + value
        squares[r] = squares[r - 1] + value * value
        candidates[count] = r - 1
        count += 1
        best, place = np.inf, 0
        for k in range(count):
            begin = candidates[k]
            total = sums[r] - sums[begin]
            costs[k] = least[begin] + squares[r] - squares[begin] - total * total * reciprocals[r - begin]
            if costs[k] < best:
                best, place = costs[k], begin
        least[r], begins[r] = best + jump_cost, place
        kept = 0
        for k in range(count):
            if costs[k] < least[r]:
                candidates[kept] = candidates[k]
                kept += 1
        count = kept
    end = values.size
    while end > 0:
        begin = begins[end]
        result[begin:end] = (sums[end] - sums[begin]) / (end - begin)
        end = begin
