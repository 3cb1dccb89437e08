"""Too little memory: recognized whatever library says it, and what fits instead."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch

Option = TypeVar("Option")
_SAID = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")


class MemoryShortageError(OSError):
    """Something does not fit into the memory of a device; the message says what does."""


def is_shortage(error: BaseException) -> bool:
    """Whether an error, or what it came from, says that memory ran out, on whatever device."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, (MemoryError, torch.OutOfMemoryError)):
            return True
        if isinstance(seen, RuntimeError) and any(said in str(seen).lower() for said in _SAID):
            return True
        seen = seen.__cause__
    return False


def first_that_fits(options: Iterable[Option], attempt: Callable[[Option], object]) -> Option | None:
    """The first of some options whose attempt does not run out of memory; None if every one does.

    Example:
        >>> def attempt(size):
        ...     if size > 2:
        ...         raise MemoryError
        >>> first_that_fits((8, 4, 2, 1), attempt)
        2
    """
    for option in options:
        free_cached()
        try:
            attempt(option)
        except Exception as error:
            if not is_shortage(error):
                raise
            continue
        return option
    return None


def free_cached() -> None:
    """Give back what torch keeps of a CUDA device's memory."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def halves(size: int) -> list[int]:
    """The results of halving a size repeatedly, down to 1."""
    result = []
    while size > 1:
        size //= 2
        result.append(size)
    return result
