"""Notices about a reader's decisions on ambiguous files: a line for the user, and an entry for the record."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path


class Notice(UserWarning):
    """A decision that the user ought to know of; the command line shows it in one line.

    Attributes:
        path: the file; names of files may be names of patients, so that a record leaves it out.
        text: the decision, which reads well without the path.
    """

    def __init__(self, path: str | Path, text: str) -> None:
        super().__init__(path, text)  # both travel by pickle
        self.path, self.text = str(path), text

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


class Caution(Notice):
    """A reason to doubt a result; the command line shows it as a warning."""


_collections: ContextVar[tuple[list[Notice], ...]] = ContextVar("collections", default=())
_silent: ContextVar[bool] = ContextVar("silent", default=False)


def notify(path: str | Path, text: str) -> None:
    """Report a decision about a file to the user: a `Notice` as a warning, and in every open collection."""
    tell(Notice(path, text))


def caution(path: str | Path, text: str) -> None:
    """Report a reason to doubt a result to the user: a `Caution` as a warning, and in every open collection."""
    tell(Caution(path, text))


def tell(notice: Notice) -> None:
    """Report a notice, such as one that another process collected."""
    for collection in _collections.get():
        if str(notice) not in map(str, collection):
            collection.append(notice)
    if not _silent.get():
        warnings.warn(notice, stacklevel=3)


@contextmanager
def collecting(silent: bool = False) -> Iterator[list[Notice]]:
    """The notices of the block, each once.

    Args:
        silent: give no warnings; whoever gets the list reports them.

    Example:
        >>> with collecting(silent=True) as notices:
        ...     notify("head.nii", "voxel size taken as 1 mm")
        >>> str(notices[0])
        'head.nii: voxel size taken as 1 mm'
    """
    result: list[Notice] = []
    tokens = _collections.set((*_collections.get(), result)), _silent.set(silent or _silent.get())
    try:
        yield result
    finally:
        _collections.reset(tokens[0])
        _silent.reset(tokens[1])
