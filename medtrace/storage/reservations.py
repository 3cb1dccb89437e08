"""Places of outputs, checked and reserved before the work that fills them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from contextvars import ContextVar
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

from medtrace.storage.locks import acquire, holder
from medtrace.storage.places import file_place, first_reason, folder_place, make_missing, remove_empty
from medtrace.storage.workspaces import LOCK, Workspace, sweep, visible, workspace

P = ParamSpec("P")
R = TypeVar("R")
Contents = Callable[[str | os.PathLike, Sequence[str]], None]
"""Takes an output as it was named and the names in it, and raises FileExistsError if it may not be replaced."""


class Reservation(NamedTuple):
    """A place that this process has for itself, and where it is filled."""

    place: Path
    space: Workspace
    thread: int


_held: dict[Path, Reservation] = {}


NEW_OR_EMPTY = "is in use: expected a new or empty folder; choose another"
"""Ending of the refusal."""
_replacing: ContextVar[bool] = ContextVar("replacing", default=False)


@contextmanager
def replacing(on: bool = True) -> Iterator[None]:
    """Within, an output that is to be new may take the place of an earlier one of the same files (`check_replaced`)."""
    earlier = _replacing.set(on)
    try:
        yield
    finally:
        _replacing.reset(earlier)


def is_replacing() -> bool:
    """Whether this is within `replacing`."""
    return _replacing.get()


def new_or_empty(given: str | os.PathLike, names: Sequence[str]) -> None:
    """Contents of an output that replaces nothing but, within `replacing`, an earlier one."""
    if names and not is_replacing():
        raise FileExistsError(f"{given}: {NEW_OR_EMPTY}")


def check_replaced(given: str | os.PathLike, there: Sequence[str], new: Sequence[str]) -> None:
    """Refuse to replace a folder that holds any file that its new content does not.

    Args:
        given: the folder.
        there: paths of its files, from it.
        new: those of the new content.
    """
    if foreign := sorted(set(there) - set(new)):
        raise FileExistsError(
            f"{given}: is in use by something else, such as {foreign[0]!r}, not part of this result; choose another"
            " folder"
        )


@contextmanager
def reserve_folder(
    path: str | os.PathLike, contents: Contents = new_or_empty, *, make_parents: bool = False
) -> Iterator[Reservation]:
    """Have the place of an output folder, from before the work until it is there (`atomic_directory`).

    It may be a mount point, a symbolic link to a folder, or a folder whose parent cannot be written.

    Args:
        path: the folder; it need not exist.
        contents: what may be in it; `new_or_empty` by default.
        make_parents: make the folder's parents where they are missing; they are removed again if they stay empty.

    Raises:
        FileExistsError: if there is a file, or `contents` says so.
        FileNotFoundError: if its parent does not exist, or it is a symbolic link to nothing.
        OSError: if another process has it, or it cannot be written.
    """
    place = folder_place(path)
    if (held := _mine(place, path)) is not None:
        yield held
        return
    sweep(place)
    contents(path, visible(place))
    with ExitStack() as stack:
        if not place.exists():
            stack.enter_context(_parents(place.parent, make_parents))
        parent, key = (place, "") if place.is_dir() else (place.parent, place.name)
        sweep(parent)
        space = stack.enter_context(workspace(parent, key, path))
        contents(path, visible(place))  # its previous holder may just have left it
        yield stack.enter_context(_registered(place, space))


@contextmanager
def reserve_file(path: str | os.PathLike, *, make_parents: bool = False) -> Iterator[Reservation]:
    """Have the place of an output file, from before the work until it is written (`atomic_file`).

    Args:
        path: the file; one that is there is replaced, and so is a link, not what it leads to.
        make_parents: as of `reserve_folder`.

    Raises:
        FileExistsError: if there is a folder.
        FileNotFoundError: if its folder does not exist.
        OSError: if another process has it, or its folder cannot be written.
    """
    place = file_place(path)
    if (held := _mine(place, path)) is not None:
        yield held
        return
    with ExitStack() as stack:
        stack.enter_context(_parents(place.parent, make_parents))
        sweep(place.parent)
        space = stack.enter_context(workspace(place.parent, place.name, path))
        yield stack.enter_context(_registered(place, space))


@contextmanager
def reserve_files(*paths: str | os.PathLike | None, make_parents: bool = False) -> Iterator[None]:
    """`reserve_file` of several at once; None is none."""
    with ExitStack() as stack:
        for path in paths:
            if path is not None:
                stack.enter_context(reserve_file(path, make_parents=make_parents))
        yield


@contextmanager
def locked(folder: str | os.PathLike) -> Iterator[None]:
    """Be the only user of a folder that several files go into one by one, among the processes that ask the same way.

    Hidden leftovers of dead processes in it are removed. Where the file system has no locks, and on Windows, nothing is
    locked.

    Args:
        folder: created if missing, and then removed again if nothing is in it at the end.

    Raises:
        OSError: if another process uses the folder, whose host and number the message states, or the folder cannot be
            written to.
    """
    place = folder_place(folder)
    made = make_missing(place)
    try:
        lock = acquire(place / LOCK)
    except BlockingIOError as error:
        raise OSError(
            f"{folder}: is in use by {holder(place / LOCK)}; wait until it has ended, or choose another folder"
        ) from error
    except OSError as error:
        with suppress(OSError):
            if made:
                (place / LOCK).unlink(missing_ok=True)
        remove_empty(made)
        raise OSError(
            f"{folder}: cannot be written to ({first_reason(error)}); permit writing, or choose another folder"
        ) from error
    try:
        sweep(place)
        yield
    finally:
        with suppress(OSError):
            lock.release()
        remove_empty(made)


def reserving(places: Callable[..., AbstractContextManager[Any]]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Have a function's outputs reserved while it runs.

    Args:
        places: gives the reservations, from those arguments of the function that it names.
    """
    wanted = tuple(signature(places).parameters)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        own = signature(function)

        @wraps(function)
        def reserved(*args: P.args, **kwargs: P.kwargs) -> R:
            given = own.bind(*args, **kwargs)
            given.apply_defaults()
            with places(**{name: given.arguments[name] for name in wanted}):
                return function(*args, **kwargs)

        return reserved

    return decorate


def held_at(place: Path) -> Reservation | None:
    """The reservation of a place by this thread, if it has one."""
    held = _held.get(place)
    return held if held is not None and held.thread == threading.get_ident() else None


def _mine(place: Path, given: str | os.PathLike) -> Reservation | None:
    held = _held.get(place)
    if held is not None and held.thread != threading.get_ident():
        raise OSError(f"{given}: is in use by this process; wait until it has ended, or choose another place")
    return held


@contextmanager
def _registered(place: Path, space: Workspace) -> Iterator[Reservation]:
    _held[place] = Reservation(place, space, threading.get_ident())
    try:
        yield _held[place]
    finally:
        del _held[place]


@contextmanager
def _parents(folder: Path, make: bool) -> Iterator[None]:
    if not make and not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; make it first")
    made = make_missing(folder)
    try:
        yield
    finally:
        remove_empty(made)
