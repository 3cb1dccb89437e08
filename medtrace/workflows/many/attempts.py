"""One case tried, here or in a worker: its outcome, or a line that says why there is none."""

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
    """What the function takes; it travels to the worker by pickle."""


class Outcome(NamedTuple):
    """What became of a case."""

    name: str
    value: Any
    """What the function returned; None of a failure."""
    failure: str | None = None
    """One line that says why it failed, or None."""
    notices: tuple[Notice, ...] = ()
    """What was decided about its files; told where the cases were asked for."""


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
    """One line for an error, with its kind where that is not the input's."""
    text = " ".join(str(error).split())
    known = isinstance(error, (OSError, TypeError, ValueError)) and text
    return text if known else f"{type(error).__name__}: {text}".rstrip(": ")
