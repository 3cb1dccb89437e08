"""An attempt at one case, here or in a worker: its outcome, or a line about why there is none."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

from medtrace.guard.notices import Notice, collecting


class Task(NamedTuple):
    """A case to work on."""

    name: str
    arguments: tuple[Any, ...]
    """The function's arguments; they are sent to the worker by pickle."""


class Outcome(NamedTuple):
    """The outcome of a case."""

    name: str
    value: Any
    """The function's return value; None for a failure."""
    failure: str | None = None
    """One line about why it failed, or None."""
    notices: tuple[Notice, ...] = ()
    """Notices about decisions on its files; reported by the calling process."""


def attempt(function: Callable[..., Any], task: Task) -> Outcome:
    """Work on one case; an error becomes a line."""
    with collecting(silent=True) as notices:
        try:
            return Outcome(task.name, function(*task.arguments), None, tuple(notices))
        except Exception as error:
            if os.environ.get("MEDTRACE_DEBUG", "") not in ("", "0"):
                traceback.print_exc()
            return Outcome(task.name, None, reason(error), tuple(notices))


def reason(error: BaseException) -> str:
    """One line for an error, with its type unless the input caused it."""
    text = " ".join(str(error).split())
    known = isinstance(error, (OSError, TypeError, ValueError)) and text
    return text if known else f"{type(error).__name__}: {text}".rstrip(": ")
