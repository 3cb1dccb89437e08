"""The table of methods: what each does, in which dimensions, and whose idea it is."""

from __future__ import annotations

import textwrap
from typing import NamedTuple

from medtrace.methods import method_class, method_names

HEADS = ("method", "tasks", "dims", "training", "paper")
NARROWEST = 18
"""Minimum width of the last column."""


class MethodTable(NamedTuple):
    """The table, and the methods that could not be imported."""

    text: str
    failures: list[str]
    """A line for each method of another package that cannot be imported."""
    rows: list[dict[str, str]]
    """A method's cells, keyed by heading."""


def method_table(width: int | None = None) -> MethodTable:
    """List every method, including those of other packages.

    Args:
        width: columns of the terminal, at which papers are wrapped; None keeps each method on one line.

    Example:
        >>> [line.split()[3:5] for line in method_table().text.splitlines() if line.startswith("unet ")]
        [['paired', 'Ronneberger']]
    """
    rows, failures = [HEADS], []
    for name in method_names():
        try:
            kind = method_class(name)
        except Exception as error:  # any error from importing another package
            failures.append(f"{name}: {type(error).__name__}: {error}")
            continue
        able = kind.abilities
        dims = "/".join(f"{dims}D" for dims in able.spatial_dims)
        rows.append((name, ", ".join(able.tasks), dims, "paired" if able.paired else "unpaired", kind.paper))
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADS) - 1)]
    indent = sum(widths) + 2 * len(widths)
    lines = []
    for row in rows:
        first = "".join(cell.ljust(size + 2) for cell, size in zip(row, widths))
        room = None if width is None else max(width - indent, NARROWEST)
        paper = [row[-1]] if room is None else textwrap.wrap(row[-1], room, break_on_hyphens=False) or [""]
        lines += [(first + paper[0]).rstrip(), *(" " * indent + part for part in paper[1:])]
    return MethodTable("\n".join(lines), failures, [dict(zip(HEADS, row)) for row in rows[1:]])
