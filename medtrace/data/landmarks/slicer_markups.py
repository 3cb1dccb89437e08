"""Landmarks of 3D Slicer: tables (.fcsv) and JSON (.mrk.json), which say their own axes."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medtrace.data.landmarks.tables import Landmarks, number
from medtrace.guard.notices import notify

_SPACES = {"0": "RAS", "1": "LPS", "2": "IJK", "RAS": "RAS", "LPS": "LPS", "IJK": "IJK", "RAS+": "RAS", "LPS+": "LPS"}
_POINTS = ("Fiducial", "Line", "Angle", "Curve", "ClosedCurve")
"""Kinds of markups whose control points are points."""
_UNSET = ("undefined", "preview", "missing")
_SLICER_3 = ["label", "x", "y", "z", "sel", "vis"]


def is_slicer_table(path: Path, text: str) -> bool:
    """Whether a text is an .fcsv of 3D Slicer, of any version."""
    head = text.lstrip()[:200]
    return path.name.lower().endswith(".fcsv") or bool(re.match(r"# (Markups fiducial|Fiducial List) file", head))


def is_markups_json(path: Path, text: str) -> bool:
    """Whether a text is to be JSON."""
    return path.name.lower().endswith(".json") or text.lstrip()[:1] in ("{", "[")


def read_slicer_table(path: Path, text: str, space: str | None) -> Landmarks:
    """Read an .fcsv: comments tell the axes and the columns.

    Raises:
        ValueError: if its axes are not specified or are in voxels, or a row is damaged.
    """
    comments = [line.lstrip("# ").strip() for line in text.splitlines() if line.startswith("#")]
    said = dict(re.split(r"\s*=\s*", line, maxsplit=1) for line in comments if "=" in line)
    columns = [word.strip().lower() for word in said.get("columns", "").split(",") if word.strip()] or _SLICER_3
    missing = [name for name in ("x", "y", "z") if name not in columns]
    if missing:
        raise ValueError(f"{path}: expected the columns x, y, z in '# columns = ...', received {', '.join(columns)}")
    old = "Fiducial List" in text.lstrip()[:200]  # from Slicer 3, which only knew RAS
    own = _axes(path, said.get("CoordinateSystem", "RAS" if old else None), space)
    names, points, rows = [], [], []
    for line, content in enumerate(text.splitlines(), start=1):
        if not content.strip() or content.startswith("#"):
            continue
        try:
            cells = next(csv.reader([content], strict=True))
        except csv.Error as error:
            raise ValueError(f"{path}: row {line}: cannot be read ({error}); write it again") from error
        row = dict(zip(columns, (cell.strip() for cell in cells)))
        points.append([number(path, line, axis, row.get(axis, "")) for axis in "xyz"])
        names.append(row.get("label") or row.get("id") or str(len(points)))
        rows.append(line)
    return Landmarks(names, points, own, rows)


def read_markups_json(path: Path, text: str, space: str | None) -> Landmarks:
    """Read a .mrk.json: the control points of all its lists.

    Raises:
        ValueError: if it is not from 3D Slicer, holds no points, or a list is of another type or in other units.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is not valid JSON ({error}); write it again") from error
    markups = content.get("markups") if isinstance(content, dict) else None
    if not isinstance(markups, list) or not markups or not all(isinstance(markup, dict) for markup in markups):
        raise ValueError(f'{path}: expected "markups" of 3D Slicer, received other JSON; export the landmarks again')
    names: list[str] = []
    points: list[list[float]] = []
    unset: list[str] = []
    for markup in markups:
        own = _checked_axes(path, markup, space)
        entries = markup.get("controlPoints", [])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ValueError(f'{path}: expected a list of "controlPoints"; export the landmarks again')
        for entry in entries:
            name = str(entry.get("label") or entry.get("id") or len(names) + 1)
            if entry.get("positionStatus", "defined") in _UNSET:
                unset.append(name)
                continue
            position = _position(path, name, entry.get("position"))
            names.append(name)
            points.append([-position[0], -position[1], position[2]] if own == "LPS" else position)
    if unset:
        notify(path, f"left out {', '.join(unset)}, which 3D Slicer marks as not set")
    return Landmarks(names, points, "RAS", range(1, len(names) + 1))


def slicer_table(names: Sequence[str], points: Sequence[Sequence[float]]) -> str:
    """The text of an .fcsv of points in RAS mm."""
    text = io.StringIO(newline="")
    text.write("# Markups fiducial file version = 4.11\n# CoordinateSystem = RAS\n")
    text.write("# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n")
    writer = csv.writer(text, lineterminator="\n")
    for number_, (name, point) in enumerate(zip(names, points), start=1):
        writer.writerow([number_, *(f"{value:.10g}" for value in point), 0, 0, 0, 1, 1, 1, 0, name, "", ""])
    return text.getvalue()


def slicer_markups(names: Sequence[str], points: Sequence[Sequence[float]]) -> dict[str, Any]:
    """The content of a .mrk.json of points in RAS mm."""
    control = [
        {"id": str(k), "label": name, "position": [float(value) for value in point], "positionStatus": "defined"}
        for k, (name, point) in enumerate(zip(names, points), start=1)
    ]
    markup = {"type": "Fiducial", "coordinateSystem": "RAS", "coordinateUnits": "mm", "controlPoints": control}
    schema = "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    return {"@schema": f"{schema}markups-schema-v1.0.3.json#", "markups": [markup]}


def _checked_axes(path: Path, markup: Mapping[str, Any], space: str | None) -> str:
    kind = markup.get("type", "Fiducial")
    if kind not in _POINTS:
        raise ValueError(
            f"{path}: holds a markup of type {kind}, which is not a list of points; save only the points from 3D Slicer"
        )
    units = markup.get("coordinateUnits", "mm")
    if units not in ("mm", ["mm", "mm", "mm"]):
        raise ValueError(f"{path}: expected coordinates in mm, received {units!r}; save them in mm")
    return _axes(path, markup.get("coordinateSystem"), space)


def _axes(path: Path, said: Any, space: str | None) -> str:
    """The axes that a file says, or the caller where it says none."""
    if said is None:
        if space not in ("RAS", "LPS"):
            raise ValueError(f"{path}: does not specify its coordinate system; set landmark_space to RAS or LPS")
        return space
    own = _SPACES.get(str(said).strip().upper())
    if own not in ("RAS", "LPS"):
        raise ValueError(
            f"{path}: expected the coordinate system RAS or LPS, received {said!r}; save the landmarks in mm from 3D"
            " Slicer"
        )
    return own


def _position(path: Path, name: str, value: Any) -> list[float]:
    real = isinstance(value, list) and all(type(entry) in (int, float) for entry in value)
    try:
        position = [float(entry) for entry in value] if real else []
    except OverflowError:
        position = []
    if len(position) != 3 or not all(map(math.isfinite, position)):
        raise ValueError(f"{path}: {name!r}: expected a position of three finite numbers, received {str(value)[:80]}")
    return position
