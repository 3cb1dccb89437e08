"""Framing of a trace on the page: its tissue, the box of each grid that is shown first, and the crosshair's start."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from medtrace.report.view import is_natural
from medtrace.trace import Trace
from medtrace.trace.geometry import layers
from medtrace.trace.tissue import find_tissue

MOVES = 0.25
"""Voxels that tissue moves at least, if a trace is about motion."""
_MARGIN = 0.04
"""Free margin around a box, as a fraction of its edges."""


def is_photograph(trace: Trace) -> bool:
    """Whether a trace is of natural images, which have pixels and no body axes (see `medtrace.data.reading`)."""
    return trace.spatial_dims == 2 and is_natural(trace.affine) and is_natural(trace.source_affine)


def tissue_of(trace: Trace) -> Tensor | None:
    """Where the target's grid has tissue, (1, *spatial) booleans; None if everywhere."""
    tissue = find_tissue(trace.warped, trace.image)
    return None if bool(tissue.all()) or not bool(tissue.any()) else tissue


def box_of(inside: Tensor | None, shape: Sequence[int]) -> list[list[float]]:
    """The first and last voxel that are shown along every axis, three of them.

    Args:
        inside: (1, *spatial) booleans; None for everything.
        shape: the grid's.

    Example:
        >>> inside = torch.zeros(1, 100, 80, dtype=torch.bool)
        >>> inside[0, 25:76, 40:61] = True
        >>> box_of(inside, (100, 80))
        [[23.0, 77.0], [39.0, 61.0], [0.0, 0.0]]
    """
    box = []
    for axis, size in enumerate(shape):
        first, last = 0, size - 1
        if inside is not None:
            along = inside[0].any(dim=tuple(other for other in range(len(shape)) if other != axis)).nonzero()
            first, last = int(along[0]), int(along[-1])
        margin = 0 if inside is None else math.ceil(_MARGIN * (last - first))
        box.append([float(max(0, first - margin)), float(min(size - 1, last + margin))])
    return [*box, [0.0, 0.0]][:3]


def start_of(trace: Trace) -> list[float]:
    """The target's voxel under the crosshair when the page opens: in the lesion, or where most changes.

    A mask is taken as the lesion: its voxel nearest to its center. Without one, the voxel that moves most, weighted
    by its intensity; if nothing moves by `MOVES`, the one whose intensity changes most and, if nothing changes, the
    center of the grid.
    """
    shape = trace.image.shape[1:]
    if trace.mask is not None and bool((trace.mask > 0.5).any()):
        places = (trace.mask[0] > 0.5).nonzero().double()
        nearest = (places - places.mean(0)).square().sum(1).argmin()
        return _three(places[nearest].tolist())
    best, place = 0.0, [(size - 1) / 2 for size in shape]
    moves = float(torch.linalg.vector_norm(trace.ddf, dim=0).max()) >= MOVES
    if not moves and not (trace.same_unit and trace.source.shape[0] == trace.image.shape[0]):
        return _three(place)
    lowest = trace.image.min()
    for part in layers(shape):
        if moves:
            change = torch.linalg.vector_norm(trace.ddf[:, part].double(), dim=0)
            change = change * (trace.image[:, part] - lowest).mean(0).double()
        else:
            change = (trace.image[:, part] - trace.warped[:, part]).abs().mean(0).double()
        if float(change.max()) > best:
            best = float(change.max())
            first, *others = torch.unravel_index(change.argmax(), change.shape)
            place = [float(first) + part.start, *map(float, others)]
    return _three(place)


def _three(place: Sequence[float]) -> list[float]:
    return [*map(float, place), 0.0][:3]
