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
    numbers, places = np.zeros((5, longest + 1)), np.zeros((2, longest + 1), np.int64)
    for length in range(1, longest + 1):
        numbers[0, length] = 1.0 / length
    result = np.empty_like(values)
    for line in range(starts.size - 1):
        first, last = starts[line], starts[line + 1]
        _solve_line(values[first:last], jump_cost, result[first:last], numbers, places)
    return result


@njit  # type: ignore[untyped-decorator]
def _solve_line(values: Any, jump_cost: float, result: Any, numbers: Any, places: Any) -> None:
    """Write the minimiser of one line to `result`.

    A segment [begin, r) adds its sum of squares less (its sum)² / length. `least` is the minimum over the first r
    values less their sum of squares, which all candidates share; `begins[r]` is where the last segment begins
    there. What belongs to the candidates lies side by side, for speed.
    """
    reciprocals, sums, costs, candidate_least, candidate_sums = (
        numbers[0],
        numbers[1],
        numbers[2],
        numbers[3],
        numbers[4],
    )
    begins, candidates = places[0], places[1]
    least = -jump_cost  # the first segment needs no jump
    count = 0
    for r in range(1, values.size + 1):
        candidates[count], candidate_least[count], candidate_sums[count] = r - 1, least, sums[r - 1]
        count += 1
        sums[r] = sums[r - 1] + values[r - 1]
        best, place = np.inf, 0
        for k in range(count):
            total = sums[r] - candidate_sums[k]
            costs[k] = candidate_least[k] - total * total * reciprocals[r - candidates[k]]
            if costs[k] < best:
                best, place = costs[k], k
        begins[r] = candidates[place]
        least = best + jump_cost
        kept = 0
        for k in range(count):
            if costs[k] < least:
                kept += 1
        if kept < count:
            count = _keep(costs, least, count, candidates, candidate_least, candidate_sums)
    end = values.size
    while end > 0:
        begin = begins[end]
        result[begin:end] = (sums[end] - sums[begin]) / (end - begin)
        end = begin


@njit  # type: ignore[untyped-decorator]
def _keep(costs: Any, least: float, count: int, candidates: Any, candidate_least: Any, candidate_sums: Any) -> int:
    """Forget the candidates whose cost is not below `least`; return how many stay."""
    kept = 0
    for k in range(count):
        if costs[k] < least:
            candidates[kept], candidate_least[kept], candidate_sums[kept] = (
                candidates[k],
                candidate_least[k],
                candidate_sums[k],
            )
            kept += 1
    return kept
