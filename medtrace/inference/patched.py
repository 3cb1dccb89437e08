"""When a volume is too large for a network as a whole, and how it is divided then."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from medtrace.data.preparation.rules import Preparation
from medtrace.methods.base import Method
from medtrace.networks.patches import PatchInferer

VOXEL_BUDGET = 10_000_000
"""Largest volume, in voxels of the network's grid, processed whole by default; a 240 x 240 x 155 scan still is."""
PATCH_SIZE = 128
"""Edge of a patch where the training images' grid is not known."""
OVERLAP = 0.25


def patches_for(
    method: Method,
    preparation: Preparation,
    shape: Sequence[int],
    patch_size: int | Sequence[int] | None = None,
) -> PatchInferer | None:
    """The division of a volume into patches; None if it is not divided.

    By default, a volume of more than `VOXEL_BUDGET` voxels is divided into patches of the training volumes' size, which
    is what the network's normalization has seen, or of `PATCH_SIZE`.

    Args:
        method: the method; some take no patches.
        preparation: preparation of the run.
        shape: the network's grid.
        patch_size: edge in voxels, or one number per axis; 0 does not divide, None decides by the number of voxels.

    Raises:
        ValueError: if patches are requested but the run translates slices, or its method takes none.
    """
    asked = patch_size is not None and patch_size != 0
    if preparation.spatial_dims == 2:
        if asked:
            raise ValueError(f"patch_size: expected none, since the run translates slices, received {patch_size}")
        return None
    if asked and not method.patchable:
        raise ValueError(
            f"patch_size: expected none, since {type(method).__name__} takes volumes as a whole, received {patch_size}"
        )
    if asked:
        return PatchInferer(patch_size, OVERLAP)  # type: ignore[arg-type]
    if patch_size == 0 or not method.patchable or math.prod(shape) <= VOXEL_BUDGET:
        return None
    return PatchInferer(preparation.spatial_shape or PATCH_SIZE, OVERLAP)


@contextmanager
def taking_patches(
    method: Method, inferer: PatchInferer | None, progress: Callable[[int, int], Any] | None = None
) -> Iterator[None]:
    """Let a method take volumes to its networks in patches for a while."""
    if inferer is not None:
        inferer.progress = progress
    before, method.inferer = method.inferer, inferer
    try:
        yield
    finally:
        method.inferer = before
