"""Landmarks: named points in mm, from the files of several programs.

| file | columns | axes |
|---|---|---|
| medtrace's CSV | `Landmark, X, Y, Z` | RAS, or as the caller specifies |
| 3D Slicer's `.fcsv` and `.mrk.json` | their own | as the file specifies |
| CSV of ANTs | `x, y, z, t` | LPS, or as the caller specifies |
| CSV of Learn2Reg, and others without names | `x, y, z`, or no header | as the caller specifies |
| any table | `R, A, S` or `L, P, S` | as the columns specify |
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from medtrace.data.landmarks.slicer_markups import (
    is_markups_json,
    is_slicer_table,
    read_markups_json,
    read_slicer_table,
    slicer_markups,
    slicer_table,
)
from medtrace.data.landmarks.tables import Landmarks, read_table
from medtrace.geometry import Grid
from medtrace.storage.files import atomic_write, write_json

SPACES = ("RAS", "LPS", "voxel")
"""The axes of a file that a caller can specify."""
MARGIN = 0.02
"""Maximum distance of a landmark from an image, as a fraction of the image's diagonal."""
_MARGIN_VOXELS = 4.0
_MOST_BYTES = 64 << 20
_AXIAL = 1e-4


class ImageGrid(NamedTuple):
    """The image on which landmarks are to lie."""

    grid: Grid
    path: str | os.PathLike
    """For messages."""


def read_landmarks(
    path: str | os.PathLike, space: str | None = None, image: ImageGrid | None = None
) -> tuple[list[str], Tensor]:
    """Read landmarks from a file of any kind in the module's table.

    Delimiters are commas, semicolons or tabs; columns are found by name in any case (also label, name, point). Where a
    file has no names, the points are named by their row: "1", "2", ... A file of a natural image or of one axial
    slice may do without the third coordinate.

    Args:
        path: the file.
        space: the file's axes, "RAS" or "LPS" in mm, or "voxel" (array indices of `image`), for files that do not
            specify them; a file's own axes take precedence. None is RAS for the columns `Landmark, X, Y, Z` and LPS for
            ANTs'.
        image: the image that the points belong to.

    Returns:
        Names, and points (N, 3) float64 in RAS mm.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no point, a value is not a number, a name occurs twice, the axes are not specified, or a
            point lies outside the image by more than 2 % of its diagonal and four voxels; the message names the file.

    Warns:
        Notice: if points are left out because 3D Slicer marks them as not set.

    Example:
        >>> import tempfile
        >>> file = tempfile.NamedTemporaryFile("w", suffix=".csv", delete=False)
        >>> _ = file.write("label;x;y;z\\nnose;10;20.5;-30\\n"); file.close()
        >>> read_landmarks(file.name, "LPS")
        (['nose'], tensor([[-10.0000, -20.5000, -30.0000]], dtype=torch.float64))
    """
    path = Path(path)
    if space is not None and space not in SPACES:
        raise ValueError(f"space: expected one of {', '.join(SPACES)}, received {space!r}")
    read = _read(path, space)
    if not read.names:
        raise ValueError(f"{path}: expected landmarks, received a file without a point; add points or leave it out")
    _check_names(path, read.names, read.rows)
    points = torch.tensor(read.points, dtype=torch.float64).reshape(-1, 3)
    if read.flat and image is not None:
        points[:, 2] = _height(path, image) if read.space != "voxel" else 0.0
    if read.space == "voxel":
        if image is None:
            raise ValueError(f"{path}: landmarks in voxels need the image they belong to; give them in mm")
        points = image.grid.to_mm(points)
    elif read.space == "LPS":
        points = points * torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64)
    if image is not None:
        check_on_image(path, read.names, points, image, read.space)
    return list(read.names), points


def write_landmarks(path: str | os.PathLike, names: Sequence[str], points: Tensor) -> None:
    """Write points (N, 3), RAS mm, with the columns `Landmark, X, Y, Z`."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["Landmark", "X", "Y", "Z"])
    writer.writerows([name, *(f"{value:.10g}" for value in point)] for name, point in zip(names, points.tolist()))
    atomic_write(path, text.getvalue())


def write_points(path: str | os.PathLike, names: Sequence[str], points: Tensor) -> None:
    """Write points (N, 3), RAS mm, as the file's ending says: .csv, 3D Slicer's .fcsv or .mrk.json.

    Raises:
        ValueError: if the ending is not one of these.
    """
    path = Path(path)
    lower = path.name.lower()
    if lower.endswith(".fcsv"):
        atomic_write(path, slicer_table(names, points.tolist()))
    elif lower.endswith(".json"):
        write_json(path, slicer_markups(names, points.tolist()))
    elif lower.endswith(".csv"):
        write_landmarks(path, names, points)
    else:
        raise ValueError(f"path: expected a name ending in .csv, .fcsv or .mrk.json for points, received {path.name!r}")


def check_on_image(
    path: str | os.PathLike, names: Sequence[str], points: Tensor, image: ImageGrid, space: str = "RAS"
) -> None:
    """Check that landmarks are on an image, or next to it.

    Args:
        path: path of the landmarks, for the message.
        names: names of the points.
        points: (N, 3) in RAS mm.
        image: the image.
        space: the axes that the file was read with, for the message.

    Raises:
        ValueError: if a point lies outside by more than 2 % of the image's diagonal and four voxels.
    """
    grid = image.grid
    shape, spacing = np.array((*grid.shape, 1)[:3]), grid.affine[:3, :3].norm(dim=0).numpy()
    voxels = grid.to_voxels(points).numpy()
    beyond = np.maximum(np.maximum(-0.5 - voxels, voxels - (shape - 0.5)), 0.0) * spacing
    outside = np.linalg.norm(beyond, axis=1)
    margin = max(MARGIN * float(np.linalg.norm(shape * spacing)), _MARGIN_VOXELS * float(spacing.min()))
    far = int((outside > margin).sum())
    if far:
        worst = int(outside.argmax())
        raise ValueError(
            f"{path}: {names[worst]!r} lies {outside[worst]:.4g} mm outside {image.path} ({far} of {len(names)}"
            f" landmarks do, read as {space}); check that they belong to this image, and their axes (landmark_space)"
        )


def _read(path: Path, space: str | None) -> Landmarks:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check the path")
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{path}: has {path.stat().st_size} bytes; expected a list of landmarks; check the path")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected text in UTF-8, received other bytes; save it as CSV in UTF-8") from error
    if is_markups_json(path, text):
        return read_markups_json(path, text, space)
    if is_slicer_table(path, text):
        return read_slicer_table(path, text, space)
    return read_table(path, text, space)


def _height(path: Path, image: ImageGrid) -> float:
    """Position of a slice along the body's axis, for points that have no third coordinate."""
    axes = image.grid.affine[2, :2] / image.grid.affine[:3, :2].norm(dim=0)
    if (*image.grid.shape, 1)[2] != 1 or float(axes.abs().max()) > _AXIAL:
        raise ValueError(
            f"{path}: expected columns Landmark, X, Y, Z for {image.path}, which is not an axial slice or natural"
            f" image, received"
            " no third coordinate; add it"
        )
    return float(image.grid.affine[2, 3])


def _check_names(path: Path, names: Sequence[str], rows: Sequence[int]) -> None:
    first: dict[str, int] = {}
    for name, row in zip(names, rows):
        if not name:
            raise ValueError(f"{path}: row {row}: expected a name, received none; name every landmark")
        if name in first:
            raise ValueError(
                f"{path}: {name!r} names two landmarks (rows {first[name]} and {row}); give each its own name"
            )
        first[name] = row
