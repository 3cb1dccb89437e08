"""Paths of a command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

RUNS = frozenset({"run", "runs", "beside", "start_from"})
"""Parameters of commands that name trained runs, which may be models of the Hugging Face Hub."""


def as_given(name: str, value: Any) -> Any:
    """The value of a command's parameter, with `~` expanded and runs of the Hub fetched.

    Args:
        name: name of the parameter.
        value: as it was parsed.

    Raises:
        ModuleNotFoundError, OSError, ValueError: see `at_home` and `medtrace.workflows.handing_on.hub.local_run`.
    """
    if name not in RUNS or value is None:
        return at_home(value)
    if isinstance(value, (list, tuple)):
        return type(value)(as_given(name, one) for one in value)
    if not str(value).startswith("hf:"):
        return at_home(value)
    from medtrace.workflows.handing_on.hub import local_run

    return local_run(value)


def at_home(value: Any) -> Any:
    """A path, or a list of paths, with `~` as the home folder, also after `=`, where no shell expands it.

    Args:
        value: the value of an option; anything that is not a path is unchanged.

    Raises:
        ValueError: if there is no user of that name.
    """
    if isinstance(value, (list, tuple)):
        return type(value)(at_home(one) for one in value)
    if not isinstance(value, Path):
        return value
    try:
        return value.expanduser()
    except RuntimeError as error:
        raise ValueError(f"{value}: there is no user of this name; write ./{value} for a file of this name") from error
