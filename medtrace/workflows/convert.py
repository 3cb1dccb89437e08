"""Conversion of traces and transforms between programs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from medtrace.checks import check_choice
from medtrace.data.reading import is_natural_image
from medtrace.geometry import Grid
from medtrace.io.chain_export import CONVERT_FORMATS, Ends, write_chain
from medtrace.storage.reservations import reserve_folder, reserving
from medtrace.workflows.import_field import pixel_of
from medtrace.workflows.transform_arguments import grid_of, read_transforms

GRIDLESS = ("itk", "tfm", "ants", "matrix")
"""Formats in which a linear transform needs no image."""


@reserving(lambda out: reserve_folder(out))
def convert(
    transforms: Sequence[str | os.PathLike],
    to: str,
    out: str | os.PathLike,
    *,
    source: str | os.PathLike | None = None,
    target: str | os.PathLike | None = None,
    format: str | None = None,
    say: Callable[[str], object] | None = None,
) -> list[Path]:
    """Write traces or transforms of other programs in another program's format, with the inverse.

    Args:
        transforms: as for `medtrace.workflows.apply.apply`; several are written as one.
        to: one of `medtrace.io.chain_export.CONVERT_FORMATS`; the table there reports the files.
        out: a new or empty folder; it appears complete or not at all.
        source: the moving image, by default the trace's.
        target: the fixed image, likewise.
        format: format of the files that are read, where their content does not tell.
        say: receives a line for each assumption.

    Returns:
        The files, sorted.

    Raises:
        FileNotFoundError: if a file is missing.
        FileExistsError: if `out` is in use.
        ValueError: if a file cannot be read, the format cannot hold the transform, or a required image is not named.
    """
    check_choice("to", to, CONVERT_FORMATS)
    given = [None if path is None else grid_of(path) for path in (source, target)]
    pixels = [
        (1.0, 1.0) if path is None or not is_natural_image(Path(path)) else pixel_of(Path(path))
        for path in (source, target)
    ]
    result = read_transforms(transforms, given[0], given[1], format, (pixels[0], pixels[1]))
    ends = [given[0] or result.source, given[1] or result.target]
    if None in ends and result.chain.matrix is not None and to in GRIDLESS:
        somewhere = Grid((1, 1, 1), torch.eye(4))
        ends = [end or somewhere for end in ends]
    grids = [end for end in ends if end is not None]
    if len(grids) != 2:
        name, which = ("source", "moving") if ends[0] is None else ("target", "fixed")
        raise ValueError(
            f"{name}: expected the {which} image, for the grid of the files, received none; name it with --{name}"
        )
    if say is not None:
        for note in result.notes:
            say(note)
    return write_chain(result.chain, Ends(*grids), Path(out), to)
