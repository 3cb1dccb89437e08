"""Which planes of an image the rows of a field read: what lets threads own planes."""

from __future__ import annotations

from typing import Any

from medtrace.kernels.compiling import compiled


@compiled
def reach_of_rows(field: Any, planes: int, length: int, per_plane: int, move: Any, reach: Any) -> None:
    """Lowest and highest plane of the image that each row reads, (rows of the batch, 2)."""
    positions = field.shape[2]
    rows = (positions + length - 1) // length
    zero, last = field.dtype.type(0), field.dtype.type(planes - 1)
    for row in range(rows * field.shape[0]):
        b = row // rows
        r = row - b * rows
        start = r * length
        least, most = last, zero
        for j in range(start, min(start + length, positions)):
            p = field[b, 0, j] + move * field.dtype.type(r // per_plane)
            p = p if p > zero else zero
            p = p if p < last else last
            least = min(least, p)
            most = max(most, p)
        reach[row, 0] = max(int(least) - 1, 0)
        reach[row, 1] = int(most) + 1
