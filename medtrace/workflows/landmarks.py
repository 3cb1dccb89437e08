"""Target registration error of landmarks: estimated versus true origins of the target's points."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medtrace.checks import check_choice
from medtrace.data.landmarks.points import ImageGrid, read_landmarks
from medtrace.metrics import CaseTable
from medtrace.report.figures import SUFFIXES, save_figure
from medtrace.report.landmarks import error_figure
from medtrace.storage.directories import atomic_directory
from medtrace.storage.reservations import reserve_folder, reserving
from medtrace.workflows.transform_arguments import grid_of, read_transforms

QUANTILES = (50, 75, 95)


@dataclass(frozen=True)
class Errors:
    """Distances in mm of pairs of landmarks, in the source."""

    names: tuple[str, ...]
    before: np.ndarray
    """(N,): by the headers of the two images."""
    after: np.ndarray | None
    """(N,): with the transforms; None if there are none."""
    left_out: tuple[str, ...]
    """Names in only one file."""

    @property
    def final(self) -> np.ndarray:
        """After the transforms, or before if there are none."""
        return self.before if self.after is None else self.after

    def as_dict(self) -> dict[str, Any]:
        """For JSON: names, and distances in mm before and after."""
        return {
            "landmarks": list(self.names),
            "before_mm": self.before.tolist(),
            "after_mm": None if self.after is None else self.after.tolist(),
            "left_out": list(self.left_out),
        }

    def lines(self) -> list[str]:
        """What to tell, one line each."""
        result = []
        for name, values in (("before", self.before), ("after", self.after)):
            if values is not None:
                parts = [f"mean {values.mean():.3f}", f"SD {values.std(ddof=1) if len(values) > 1 else 0:.3f}"]
                parts += [f"P{q} {np.percentile(values, q):.3f}" for q in QUANTILES]
                result.append(f"{name}: {', '.join(parts)}, max {values.max():.3f} mm (n = {len(values)})")
        if self.after is not None:
            better = int((self.after < self.before).sum())
            result.append(f"closer than before: {better} of {len(self.names)}")
        if self.left_out:
            result.append(f"left out, since only one file has them: {', '.join(self.left_out)}")
        return result


@reserving(lambda out: reserve_folder(out))
def landmarks(
    source_points: str | os.PathLike,
    target_points: str | os.PathLike,
    out: str | os.PathLike,
    *,
    transforms: Sequence[str | os.PathLike] = (),
    source: str | os.PathLike | None = None,
    target: str | os.PathLike | None = None,
    format: str | None = None,
    space: str | None = None,
    figure: str = ".png",
    say: Callable[[str], object] | None = None,
) -> Errors:
    """Measure the target registration error of landmarks, with a table and a figure.

    The landmarks of the target are brought to the source, as the image is resampled, so that no inverse comes in:
    error = |origin(target point) - source point| in mm.

    Args:
        source_points: of the source (see `medtrace.data.landmarks.points`).
        target_points: the same points in the target, under the same names.
        out: a new folder for `landmarks.csv`, `landmarks.summary.csv` and `landmarks.png`.
        transforms: as for `medtrace.workflows.apply.apply`; without any, the alignment by the headers is measured.
        source: the source's image, for formats defined relative to it, points in voxels, and to check that the points
            are on it.
        target: the target's image, likewise.
        format: format of the transforms, where their content does not tell.
        space: axes of point files that do not specify them: RAS, LPS, voxel.
        figure: file ending of the figure.
        say: receives a line for each assumption.

    Returns:
        The errors.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if one cannot be read, or no name is in both files.
    """
    check_choice("figure", figure, SUFFIXES)
    grids = [None if path is None else grid_of(path) for path in (source, target)]
    found = None
    if transforms:
        found = read_transforms(transforms, grids[0], grids[1], format)
        for note in found.notes:
            if say is not None:
                say(note)
        grids = [grids[0] or found.source, grids[1] or found.target]
    read = []
    for path, image, grid in zip((source_points, target_points), (source, target), grids):
        where = None if grid is None else ImageGrid(grid, image or "the trace's image")
        labels, points = read_landmarks(path, space, where)
        read.append(dict(zip(labels, points)))
    names = tuple(name for name in read[0] if name in read[1])
    if not names:
        raise ValueError(
            f"{target_points}: expected names of {source_points}, received none of them; give the same points one name"
        )
    left_out = tuple(name for name in {**read[0], **read[1]} if name not in names)
    start, end = (np.stack([points[name].numpy() for name in names]) for points in read)
    before = np.linalg.norm(end - start, axis=1)
    after = None if found is None else np.linalg.norm(found.chain.origin(end).numpy() - start, axis=1)
    errors = Errors(names, before, after, left_out)
    table = CaseTable()
    for index, name in enumerate(names):
        row = {"before_mm": float(before[index])}
        table.add(name, {**row, **({} if after is None else {"after_mm": float(after[index])})})
    with atomic_directory(out) as folder:
        table.write_csv(folder / "landmarks.csv")
        table.write_summary(folder / "landmarks.summary.csv")
        save_figure(error_figure(names, before, after), folder / f"landmarks{figure}")
    return errors
