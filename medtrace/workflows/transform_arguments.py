"""Traces and transforms of other programs as a user lists them, as one chain."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from medtrace.geometry import Grid
from medtrace.io import load_trace
from medtrace.io.foreign import Images, read_point_map
from medtrace.io.foreign.ants import Member, parse_member
from medtrace.io.foreign.chains import chain_of_point_map, with_known_inverse
from medtrace.io.foreign.reading import format_of_file
from medtrace.io.trace_folder import INDEX
from medtrace.trace import Trace, TransformChain

PLACED = ("itk", "ants", "nrrd", "nitransforms", "matrix", "spm", "niftyreg")
"""Formats whose numbers do not depend on the images; the others are relative to the grids of the two images."""
_CHAINED = ("itk", "ants", "nrrd")


class Transforms(NamedTuple):
    """What was listed, as one chain."""

    chain: TransformChain
    """From points of the target to points of the source."""
    source: Grid | None
    """Grid of the source, where the last that was listed is a trace."""
    target: Grid | None
    """Grid of the target, where the first that was listed is a trace."""
    notes: list[str]
    """The assumptions, one line each."""
    names: list[str]
    """In the order in which an image goes through them."""


def read_transforms(
    listed: Sequence[str | os.PathLike],
    source: Grid | None = None,
    target: Grid | None = None,
    format: str | None = None,
    pixels: tuple[tuple[float, float], tuple[float, float]] = ((1.0, 1.0), (1.0, 1.0)),
) -> Transforms:
    """Read traces and files of other programs that are applied one after another.

    Args:
        listed: in the order of antsApplyTransforms: an image goes through the last of them first. `[X,1]` inverts a
            trace or a linear file.
        source: grid of the image that is moved, for formats defined relative to it.
        target: grid that it is resampled onto, likewise.
        format: format of the files of other programs, see `medtrace.io.foreign.read_point_map`; None finds it from the
            content.
        pixels: edges in mm that ITK gives the pixels of source and target, where they are natural images.

    Raises:
        FileNotFoundError: if one is missing.
        ValueError: if one cannot be read, or is relative to a grid that is not given.
    """
    members = [parse_member(os.fspath(each)) for each in listed]
    if not members:
        raise ValueError("transforms: expected a trace or a transform file, received none; name one")
    chain, notes = TransformChain(), []
    traces = [_trace(member) for member in members]
    groups = _groups(members, traces, format)
    for group in groups:
        trace = traces[group[0]]
        if trace is not None:
            own = trace.chain.inverse() if members[group[0]].inverted else trace.chain
        else:
            own, more = _foreign([members[k] for k in group], source, target, format, pixels, alone=len(groups) == 1)
            notes += more
        chain = own.then(chain)
    first, last = traces[0], traces[-1]
    return Transforms(
        chain.simplified(),
        None if last is None else _grids(last)[not members[-1].inverted],
        None if first is None else _grids(first)[members[0].inverted],
        notes,
        [str(member) for member in reversed(members)],
    )


def _trace(member: Member) -> Trace | None:
    path = member.path
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such trace or transform file; check the path")
    if not path.is_dir():
        return None
    if not (path / INDEX).is_file():
        raise ValueError(f"{path}: expected the folder of a trace, or a transform file, received another folder")
    return load_trace(path)


def _grids(trace: Trace) -> tuple[Grid, Grid]:
    """Of the target and of the source."""
    return Grid.of(trace.image, trace.affine), Grid.of(trace.source, trace.source_affine)


def _groups(members: Sequence[Member], traces: Sequence[Trace | None], format: str | None) -> list[list[int]]:
    """Positions of a list, files of ITK and ANTs that follow each other together: ANTs' two files are one transform."""
    groups: list[list[int]] = []
    chained = [
        trace is None and (format or format_of_file(member.path)) in _CHAINED for member, trace in zip(members, traces)
    ]
    for k, together in enumerate(chained):
        if together and groups and chained[groups[-1][-1]]:
            groups[-1].append(k)
        else:
            groups.append([k])
    return groups


def _foreign(
    members: Sequence[Member],
    source: Grid | None,
    target: Grid | None,
    format: str | None,
    pixels: tuple[tuple[float, float], tuple[float, float]],
    alone: bool,
) -> tuple[TransformChain, list[str]]:
    name = format or format_of_file(members[0].path)
    if name not in PLACED:
        if not alone:
            raise ValueError(
                f"{members[0].path}: is from {name}, which counts from the grids of its two images; for a list convert"
                " it to ITK's first: medtrace convert FILE --to itk --source S --target T"
            )
        if source is None or target is None:
            raise ValueError(
                f"{members[0].path}: is from {name}, which counts from the grids of its two images; name the moving one"
                " with --source and the fixed one with --target"
            )
    somewhere = Grid((1, 1, 1), torch.eye(4))
    images = Images(_volume(source or somewhere), _volume(target or somewhere), *pixels)
    try:
        point_map = read_point_map([str_of(member) for member in members], images, format)
        chain, notes = with_known_inverse(chain_of_point_map(point_map), [member.path for member in members])
        return chain, [*(str(note) for note in point_map.notes), *(str(note) for note in notes)]
    except ValueError as error:
        own = str(error).startswith(str(members[0].path.parent))
        raise error if own else ValueError(f"{members[0].path}: {error}") from error


def str_of(member: Member) -> str:
    """The notation of a member in a list."""
    return f"[{member.path},1]" if member.inverted else str(member.path)


def _volume(grid: Grid) -> Grid:
    return grid if grid.spatial_dims == 3 else Grid((*grid.shape, 1), grid.affine)


def grid_of(path: str | os.PathLike, series: str | None = None) -> Grid:
    """The grid of an image's file.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it cannot be read.
    """
    from medtrace.data.reading import read_values

    return Grid.of(read_values(Path(path), series))
