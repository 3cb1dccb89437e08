"""A scan that is too large for a device's memory: which batch or patch fits, found with one part of the scan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from medtrace.data.preparation.rules import Preparation
from medtrace.guard.notices import notify
from medtrace.guard.shortage import MemoryShortageError, first_that_fits, halves, is_shortage
from medtrace.methods.base import Method

PATCHES = (192, 160, 128, 96, 64, 48, 32)
"""Edges of the patches that are tried, in voxels."""


class Division(NamedTuple):
    """The batch or patches with which a scan is passed through the networks."""

    batch_size: int
    patch_size: Any


class _EnoughError(Exception):
    """The first part of a scan is done."""


class _FirstPart:
    """A progress bar that ends the work when the networks have answered once."""

    def __init__(self) -> None:
        self._advances = 0
        self.tasks = [self]
        self.total = 1

    def add_task(self, *_: Any, **__: Any) -> int:
        """Begin."""
        return 0

    def advance(self, *_: Any) -> None:
        """Empty slices come first, then the first batch."""
        self._advances += 1
        if self._advances > 1:
            raise _EnoughError

    def update(self, *_: Any, **__: Any) -> None:
        """The first patch, or the volume."""
        raise _EnoughError


def translate_fitting(
    translate: Callable[[Division, Any], Any],
    method: Method,
    preparation: Preparation,
    asked: Division,
    fit: bool,
    bar: Any,
    image: Any,
) -> Any:
    """Translate as asked; where memory runs out, as it fits (`fit`), or say what would.

    Args:
        translate: takes a division and a progress bar.
        method: method of the run.
        preparation: preparation of the run.
        asked: the requested division.
        fit: use what fits.
        bar: the progress bar.
        image: the image's file, for the message.

    Raises:
        MemoryShortageError: if memory runs out and `fit` is off, or nothing fits.
    """
    try:
        return translate(asked, bar)
    except Exception as error:
        if not is_shortage(error):
            raise
        reason = error
    slices = preparation.spatial_dims == 2
    options = [Division(size, asked.patch_size) for size in halves(asked.batch_size)] if slices else []
    if not slices and method.patchable:
        largest = asked.patch_size if isinstance(asked.patch_size, int) and asked.patch_size else PATCHES[0] + 1
        options = [Division(asked.batch_size, size) for size in PATCHES if size < largest]

    def attempt(option: Division) -> None:
        try:
            translate(option, _FirstPart())
        except _EnoughError:
            return

    result = first_that_fits(options, attempt)
    if result is None:
        remedy = "use the CPU (--device cpu), a device with more memory, or a run with a smaller network"
        raise MemoryShortageError(
            f"{image}: does not fit into the device's memory, however it is divided; {remedy}"
        ) from (reason)
    told = f"batch size {result.batch_size}" if slices else f"patch size {result.patch_size}"
    option = f"--batch-size {result.batch_size}" if slices else f"--patch-size {result.patch_size}"
    if not fit:
        raise MemoryShortageError(
            f"{image}: does not fit into the device's memory as requested; {told} does: pass {option} or --fit"
        ) from reason
    notify(image, f"did not fit into the device's memory as requested; processed with {told}")
    return translate(result, bar)
