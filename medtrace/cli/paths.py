"""Paths of a command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def at_home(value: Any) -> Any:
    """A path, or a list of paths, with `~` as the home folder, also behind `=` where no shell expands it.

    Args:
        value: of an option; what is not a path stays as it is.

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
        raise ValueError(
            f"{value}: there is no such user, whose home it could be; write ./{value} for a name"
        ) from error
