"""Landmarks: named points in mm, as CSV with the columns `Landmark, X, Y, Z`."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence

import torch
from torch import Tensor

from medtrace.storage.files import atomic_write


def read_landmarks(path: str | os.PathLike, space: str = "RAS") -> tuple[list[str], Tensor]:
    """Read points from a CSV file with the columns `Landmark, X, Y, Z` in mm.

    Args:
        path: the file.
        space: "RAS" or "LPS", the file's axes.

    Returns:
        Names, and points (N, 3) float64 in RAS mm.

    Raises:
        ValueError: if a column is missing or a number is none.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, skipinitialspace=True))
        names = [row["Landmark"] for row in rows]
        points = torch.tensor([[float(row[axis]) for axis in "XYZ"] for row in rows], dtype=torch.float64)
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise ValueError(
            f"{path}: expected columns Landmark, X, Y, Z with numbers in mm ({error!r}); correct the file"
        ) from error
    points = points.reshape(-1, 3)
    if not bool(torch.isfinite(points).all()):
        raise ValueError(f"{path}: expected finite numbers in mm, received NaN or infinity; correct the file")
    return names, points * torch.tensor([-1.0, -1.0, 1.0]) if space == "LPS" else points


def write_landmarks(path: str | os.PathLike, names: Sequence[str], points: Tensor) -> None:
    """Write points (N, 3), RAS mm."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["Landmark", "X", "Y", "Z"])
    writer.writerows([name, *(f"{value:.6f}" for value in point)] for name, point in zip(names, points.tolist()))
    atomic_write(path, text.getvalue())
