"""Traces and transforms applied to images, label maps and points."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from monai.data import MetaTensor
from torch import Tensor

from medtrace.checks import check_choice
from medtrace.data.landmarks.points import ImageGrid, read_landmarks, write_points
from medtrace.data.reading import is_natural_image, read_values
from medtrace.geometry import Grid
from medtrace.io import write_image
from medtrace.storage.reservations import reserve_file, reserving
from medtrace.trace.chain import INTERPOLATIONS
from medtrace.trace.validation import as_tensor
from medtrace.workflows.import_field import pixel_of
from medtrace.workflows.transform_arguments import Transforms, grid_of, read_transforms

KINDS = ("image", "labels", "points")
POINT_FILES = (".csv", ".tsv", ".txt", ".fcsv", ".json")
FEW_VALUES = 256
"""Maximum number of distinct integers with which an image may be a label map, so that the user must say what it is."""


@dataclass(frozen=True)
class Applied:
    """What applying transforms did."""

    kind: str
    grid: Grid | None
    """Of what was written; None for points."""
    count: int
    """Voxels, or points."""
    inside: float
    """Fraction of the voxels that come from within the image, or of the points that are on the trace's grid."""
    fill: float | None
    notes: tuple[str, ...]
    names: tuple[str, ...]
    """Of the transforms, in the order in which the image goes through them."""


@reserving(lambda out: reserve_file(out))
def apply(
    transforms: Sequence[str | os.PathLike],
    moved: str | os.PathLike,
    out: str | os.PathLike,
    *,
    kind: str | None = None,
    inverse: bool = False,
    grid: str | os.PathLike | None = None,
    source: str | os.PathLike | None = None,
    target: str | os.PathLike | None = None,
    format: str | None = None,
    interpolation: str | None = None,
    fill: float | None = None,
    space: str | None = None,
    say: Callable[[str], object] | None = None,
) -> Applied:
    """Map an image, labels or points from the source of transforms to their target, through all of them at once.

    Args:
        transforms: folders of traces and files of other programs, in the order of antsApplyTransforms: an image goes
            through the last of them first. `[X,1]` inverts one.
        moved: an image or label map on any grid, or points (see `medtrace.data.landmarks.points`).
        out: .nii or .nii.gz; for points .csv, .fcsv or .mrk.json.
        kind: one of `KINDS`; None reports it, and refuses an image that may be either.
        inverse: from the target back to the source.
        grid: an image on whose grid the result is requested; by default that of the trace which it ends in.
        source: the moving image, for formats that do not store a grid; by default `moved`.
        target: the fixed image, likewise; by default `grid`.
        format: format of files of other programs, where their content does not tell.
        interpolation: one of `medtrace.trace.chain.INTERPOLATIONS`; by default linear, for labels nearest.
        fill: value beyond the image; by default 0 for labels, and the minimum of an image.
        space: axes of a point file that does not specify them: RAS, LPS.
        say: receives a line for each assumption.

    Returns:
        What was done.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file cannot be used, or the type of the image or its grid is unclear; the message names the
            remedy.
    """
    out, moved = Path(out), Path(moved)
    kind = _kind(moved, kind)
    if kind == "points":
        return _apply_to_points(
            transforms, moved, out, inverse, (source, target), format, space, (grid, interpolation, fill), say
        )
    if not out.name.endswith((".nii", ".nii.gz")):
        raise ValueError(f"out: expected a name ending in .nii or .nii.gz for an image, received {out.name!r}")
    image = read_values(moved)
    wanted = None if grid is None else grid_of(grid)
    own = Grid.of(image)
    ends = (own, wanted)[:: -1 if inverse else 1]
    ends = (ends[0] if source is None else grid_of(source), ends[1] if target is None else grid_of(target))
    natural_images = [
        path if path is not None and is_natural_image(Path(path)) else None
        for path in (source or moved, target or grid)
    ]
    pixels = [(1.0, 1.0) if path is None else pixel_of(Path(path)) for path in natural_images[:: -1 if inverse else 1]]
    found = read_transforms(transforms, *ends, format, (pixels[0], pixels[1]))
    wanted = _wanted(wanted, found, inverse, own)
    kind = _told(moved, kind, image)
    interpolation = interpolation or ("nearest" if kind == "labels" else "linear")
    check_choice("interpolation", interpolation, INTERPOLATIONS)
    if kind == "image" and interpolation == "partial-volume":
        raise ValueError("interpolation: expected partial-volume with labels, received it with an image; use linear")
    values = as_tensor(image)
    if kind == "labels":
        values = _whole(moved, values)
    fill = (0.0 if kind == "labels" else float(values.min())) if fill is None else fill
    chain = found.chain.inverse() if inverse else found.chain
    result = chain.resample(values, own, wanted, interpolation, fill)
    everywhere = torch.ones(1, *own.shape, dtype=torch.uint8)
    inside = float(chain.resample(everywhere, own, wanted, "nearest", 0).double().mean())
    if inside == 0:
        raise ValueError(
            f"{moved}: no voxel of the resulting grid maps into it; check the transforms' order and direction"
            " (--inverse), and the headers"
        )
    write_image(out, result, wanted.affine)
    _say_all(say, found.notes)
    return Applied(kind, wanted, result[0].numel(), inside, fill, tuple(found.notes), tuple(_order(found, inverse)))


def _apply_to_points(
    transforms: Sequence[str | os.PathLike],
    moved: Path,
    out: Path,
    inverse: bool,
    ends: tuple[str | os.PathLike | None, str | os.PathLike | None],
    format: str | None,
    space: str | None,
    unused: tuple[object, ...],
    say: Callable[[str], object] | None,
) -> Applied:
    for option, value in zip(("grid", "interpolation", "fill"), unused):
        if value is not None:
            raise ValueError(f"{option}: expected with an image or labels, received it with points; leave it out")
    grids = [None if path is None else grid_of(path) for path in ends]
    pixels = [pixel_of(Path(path)) if path is not None else (1.0, 1.0) for path in ends]
    found = read_transforms(transforms, grids[0], grids[1], format, (pixels[0], pixels[1]))
    lying = ends[1] if inverse else ends[0]
    where = (grids[1] or found.target) if inverse else (grids[0] or found.source)
    name = lying or f"the image of {found.names[-1 if inverse else 0]}"
    names, points = read_landmarks(moved, space, None if where is None else ImageGrid(where, name))
    result = found.chain.origin(points) if inverse else found.chain.locate(points)
    write_points(out, names, result)
    notes = list(found.notes)
    arrived = (grids[0] or found.source) if inverse else (grids[1] or found.target)
    inside = 1.0 if arrived is None else float(_on(arrived, result).double().mean())
    _say_all(say, notes)
    return Applied("points", None, len(names), inside, None, tuple(notes), tuple(_order(found, inverse)))


def _kind(path: Path, kind: str | None) -> str | None:
    if kind is not None:
        check_choice("kind", kind, KINDS)
        return kind
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; check the path")
    return "points" if path.name.lower().endswith(POINT_FILES) else None


def _told(path: Path, kind: str | None, image: MetaTensor) -> str:
    """The kind of an image that was not declared to be labels."""
    if kind is not None:
        return kind
    values = image.as_tensor()
    if image.shape[0] == 1 and bool((values == values.round()).all()):
        count = len(torch.unique(values))
        if count <= FEW_VALUES:
            raise ValueError(
                f"{path}: holds {count} different whole numbers, as label maps and 8-bit images do; say which it is"
                " with --as labels or --as image"
            )
    return "image"


def _whole(path: Path, values: Tensor) -> Tensor:
    odd = values != values.round()
    if bool(odd.any()):
        raise ValueError(
            f"{path}: expected labels that are whole numbers, received {float(values[odd][0]):.9g}; use --as image"
        )
    return values.to(torch.int32)


def _wanted(grid: Grid | None, found: Transforms, inverse: bool, own: Grid) -> Grid:
    grid = grid or (found.source if inverse else found.target)
    if grid is None:
        raise ValueError(
            "grid: expected an image whose grid the result is to have, since the transforms do not end in a trace;"
            " name it with --grid"
        )
    if grid.spatial_dims == 2 and own.spatial_dims == 3:
        return Grid((*grid.shape, 1), grid.affine)
    return grid


def _order(found: Transforms, inverse: bool) -> list[str]:
    return [f"{name} backwards" for name in reversed(found.names)] if inverse else found.names


def _on(grid: Grid, points: Tensor) -> Tensor:
    voxels = grid.to_voxels(points)[:, : grid.spatial_dims]
    size = torch.tensor(grid.shape, dtype=torch.float64)
    return ((voxels >= -0.5) & (voxels <= size - 0.5)).all(dim=1)


def _say_all(say: Callable[[str], object] | None, notes: Sequence[str]) -> None:
    if say is not None:
        for note in notes:
            say(note)
