"""Compile loops by numba, kept on disk where that can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz"}}
"""Loops release Python's lock, so that threads share them; sums keep their order, so that bytes repeat."""


def compiled(function: Callable[..., Any]) -> Any:
    """A loop over C-contiguous arrays, compiled at its first call for the types it meets.

    What was compiled is kept beside the source or in the user's cache folder; where neither can be written, every
    process compiles for itself.
    """
    try:
        return njit(cache=True, **OPTIONS)(function)
    except RuntimeError:  # numba found no folder to write
        return njit(**OPTIONS)(function)


def inlined(function: Callable[..., Any]) -> Any:
    """A part of compiled loops, pasted into them: what it writes is then seen to overlap nothing it reads."""
    return njit(forceinline=True, **OPTIONS)(function)
