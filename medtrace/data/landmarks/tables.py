"""Tables of landmarks: CSV with semicolons, tabs or commas, with or without a header."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

NAMES = ("landmark", "landmarks", "name", "label", "point", "landmark name", "point name", "id", "")
"""Headers of the column of names, in order of preference; the last is a table's own index."""
_ANTS = {"x", "y", "z", "t"}
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+")


class Landmarks(NamedTuple):
    """The content of a file."""

    names: Sequence[str]
    points: Sequence[Sequence[float]]
    """Three coordinates each."""
    space: str
    """RAS, LPS or voxel."""
    rows: Sequence[int]
    """Lines of the file, or entries, for messages."""
    flat: bool = False
    """Whether the file has no third coordinate."""


def read_table(path: Path, text: str, space: str | None) -> Landmarks:
    """Read a table.

    Raises:
        ValueError: if its columns or a number cannot be interpreted, or the axes are not specified.
    """
    rows = table_rows(path, text)
    if not rows:
        raise ValueError(f"{path}: expected landmarks, received a file without a point; add points or leave it out")
    first = rows[0][1]
    titles = {_plain(cell) for cell in first}
    if any(map(_is_number, first)) and not any(pair <= titles for pair in ({"x", "y"}, {"r", "a"}, {"l", "p"})):
        return _without_header(path, rows, space)
    return _with_header(path, [_plain(cell) for cell in first], rows[1:], space)


def table_rows(path: Path, text: str) -> list[tuple[int, list[str]]]:
    """Lines of a table that hold something, with their number; comments before the table are left out."""
    lines = text.splitlines()
    start = next((k for k, line in enumerate(lines) if line.strip() and not line.lstrip().startswith("#")), len(lines))
    head = lines[start] if start < len(lines) else ""
    delimiter = next((sign for sign in "\t;," if sign in head), None)
    try:
        if delimiter is None:
            cells = [line.split() for line in lines[start:]]
        else:
            cells = list(csv.reader(lines[start:], delimiter=delimiter, skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise ValueError(f"{path}: cannot be read as CSV ({error}); write it again") from error
    if len(cells) != len(lines) - start:
        raise ValueError(f"{path}: a quoted text spans several lines; write it on one")
    rows = [(start + k, [cell.strip() for cell in row]) for k, row in enumerate(cells, start=1)]
    return [(line, row) for line, row in rows if any(row)]


def number(path: Path, row: int, column: str, cell: str) -> float:
    """A coordinate.

    Raises:
        ValueError: if it is not a number; the message names the file, the row and the column.
    """
    place = f"{path}: row {row}, {column}"
    if _DECIMAL_COMMA.fullmatch(cell):
        raise ValueError(f"{place}: {cell!r} has a decimal comma; write numbers with a point")
    if not _is_number(cell):
        raise ValueError(f"{place}: expected a number, received {cell!r}; correct the file")
    value = float(cell)
    if not math.isfinite(value):
        raise ValueError(f"{place}: expected a finite number, received {cell!r}; correct or remove the row")
    return value


def _with_header(path: Path, header: list[str], rows: list[tuple[int, list[str]]], space: str | None) -> Landmarks:
    axes, own = _axes(path, header)
    ants = "t" in header and {"x", "y"} <= set(header) and header.count("t") == 1
    names = _name_columns(header, axes, ants)
    chosen = own or space or ("LPS" if ants else "RAS" if names else None)
    if chosen is None:
        raise ValueError(
            f"{path}: columns {', '.join(header)} do not specify the axes; set landmark_space to RAS, LPS or voxel"
        )
    used = max((*axes, *names))
    points, kept = [], []
    for line, row in rows:
        if len(row) > len(header) and any(row[len(header) :]):
            raise ValueError(
                f"{path}: row {line}: expected {len(header)} cells as in the header, received {len(row)}; correct the"
                " file (numbers need decimal points, not commas)"
            )
        if len(row) <= used:
            row = row + [""] * (used + 1 - len(row))
        point = [number(path, line, header[axis] or f"column {axis + 1}", row[axis]) for axis in axes]
        points.append([*point, 0.0][:3])
        kept.append((line, row))
    if ants:
        _check_one_time(path, header.index("t"), kept)
    numbered = [str(k) for k in range(1, len(kept) + 1)]
    labels = numbered
    for column in names:
        labels = [row[column] for _, row in kept]
        if not ants or (all(labels) and len(set(labels)) == len(labels)):
            break
        labels = numbered  # ANTs' labels are numbers that need not be unique
    return Landmarks(labels, points, chosen, [line for line, _ in kept], len(axes) == 2)


def _axes(path: Path, header: list[str]) -> tuple[list[int], str | None]:
    """Columns of the coordinates, and the axes where their names tell them."""
    for letters, own in (("xyz", None), ("ras", "RAS"), ("lps", "LPS"), ("xy", None)):
        if set(letters) <= set(header):
            doubled = [letter for letter in letters if header.count(letter) > 1]
            if doubled:
                raise ValueError(f"{path}: has two columns {doubled[0]!r}; keep one")
            return [header.index(letter) for letter in letters], own
    raise ValueError(
        f"{path}: expected columns Landmark, X, Y, Z (or those of 3D Slicer, ANTs or Learn2Reg), received"
        f" {', '.join(header[:8]) or 'none'}; name the columns"
    )


def _name_columns(header: list[str], axes: list[int], ants: bool) -> list[int]:
    wanted = ("landmark", "name", "comment", "label") if ants else NAMES
    return [header.index(name) for name in wanted if name in header and header.index(name) not in axes]


def _check_one_time(path: Path, column: int, rows: list[tuple[int, list[str]]]) -> None:
    times = {row[column] for _, row in rows if column < len(row)}
    if len(times) > 1:
        raise ValueError(f"{path}: column t holds {len(times)} time points; keep the rows of one")


def _without_header(path: Path, rows: list[tuple[int, list[str]]], space: str | None) -> Landmarks:
    width = len(rows[0][1])
    for line, row in rows:
        if len(row) != width:
            raise ValueError(f"{path}: row {line}: expected {width} cells as in the first, received {len(row)}")
    named = not _is_number(rows[0][1][0])
    if width - named == 6:
        raise ValueError(
            f"{path}: holds six numbers a row, pairs of points of two images; write the first three and the last three"
            " into separate files"
        )
    if width - named not in (2, 3):
        raise ValueError(
            f"{path}: expected x, y, z a row, or a header that names the columns (Landmark, X, Y, Z), received"
            f" {width} cells; name the columns"
        )
    if space is None:
        raise ValueError(f"{path}: has no header that specifies the axes; set landmark_space to RAS, LPS or voxel")
    points = [
        [*(number(path, line, f"column {k}", row[k - 1]) for k in range(1 + named, width + 1)), 0.0][:3]
        for line, row in rows
    ]
    names = [row[0] for _, row in rows] if named else [str(k) for k in range(1, len(rows) + 1)]
    return Landmarks(names, points, space, [line for line, _ in rows], width - named == 2)


def _plain(cell: str) -> str:
    """A header in lower case, without its unit."""
    return re.sub(r"[\s_]*[\[(]?\b(mm)\b[\])]?$", "", cell.strip().strip("#").strip().lower().replace("_mm", " mm"))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell
