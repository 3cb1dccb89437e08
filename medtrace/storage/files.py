"""Files that appear complete or not at all: the one way in which medtrace writes them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, BinaryIO

from medtrace.storage.places import file_place, first_reason, make_missing, remove_empty
from medtrace.storage.reservations import held_at
from medtrace.storage.workspaces import LOCK, being_made, shown, sweep, sync, visible, workspace

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_FULL = 1 << 16
"""Bytes; a disk with less is full, and a file that comes so near to the limit of a file's size has met it."""


@contextmanager
def atomic_file(path: str | os.PathLike, *, make_parents: bool = False) -> Iterator[Path]:
    """A temporary path of the same name that takes the place of `path` when all went well, also after a power cut.

    Only what writes the file belongs in the `with` block. A symbolic or hard link in the place of the file is
    replaced, and never written through. In a folder that is being made (`atomic_directory`) it is the path itself.

    Args:
        path: the file.
        make_parents: make its folder where it is missing.

    Raises:
        FileExistsError: if there is a folder of this name.
        FileNotFoundError: if its folder does not exist.
        OSError: if it cannot be written, such as on a full disk or into a read-only folder; `path` is then as it was.
    """
    path = Path(path)
    if being_made(path.absolute()):
        if make_parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        with _told(shown(path.absolute()), path):
            yield path
        return
    place = file_place(path)
    made = make_missing(place.parent) if make_parents else []
    if not place.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder; make it first")
    held = held_at(place)
    try:
        with nullcontext(held.space) if held else workspace(place.parent, None, path) as space:
            temporary = space.new(place.name)
            with _told(path, temporary):
                yield temporary
                sync(temporary)
                os.replace(temporary, place)
                sync(place.parent)
    finally:
        remove_empty(made)


def atomic_write(
    path: str | os.PathLike,
    content: bytes | str | Iterable[str] | Callable[[BinaryIO], object],
    *,
    make_parents: bool = False,
) -> Path:
    """Write a file so that at any moment `path` holds all of the old content or all of the new; see `atomic_file`.

    Args:
        path: the file.
        content: what is to be in it, text as UTF-8; or pieces of text; or a function that writes to an open file.
        make_parents: make its folder where it is missing.

    Returns:
        The path.
    """
    with atomic_file(path, make_parents=make_parents) as temporary, temporary.open("wb") as file:
        if callable(content):
            content(file)
        elif isinstance(content, bytes):
            file.write(content)
        else:
            for piece in [content] if isinstance(content, str) else content:
                file.write(piece.encode("utf-8"))
    return Path(path)


def make_executable(path: str | os.PathLike) -> None:
    """Let all who may read a file run it."""
    mode = Path(path).stat().st_mode
    Path(path).chmod(mode | (mode & 0o444) >> 2)


def write_json(path: str | os.PathLike, content: Mapping[str, Any]) -> Path:
    """Write a JSON file laid out for people, and its folder where that is missing; see `atomic_write`."""
    return atomic_write(path, json.dumps(content, indent=2) + "\n", make_parents=True)


def make_directory(path: str | os.PathLike) -> Path:
    """Make a folder, and those above it, where it is missing.

    Raises:
        OSError: if it cannot be made.
    """
    make_missing(Path(path).absolute())
    return Path(path)


def remove(path: str | os.PathLike) -> None:
    """Remove a file, a link, or a folder with all that is in it, if it is there."""
    path = Path(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_content(folder: str | os.PathLike) -> None:
    """Remove all that is in a folder, but what is hidden there by a lock."""
    for name in visible(Path(folder)):
        if name != LOCK:
            remove(Path(folder) / name)


def link_or_copy(file: Path, path: Path) -> None:
    """Give a file another name in a folder that is being made; a copy where the file system has no links."""
    make_directory(path.parent)
    try:
        os.link(file, path)
    except OSError:
        with _told(shown(path), path):
            shutil.copyfile(file, path)


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """A folder for intermediate files where the system has such; gone at the end, or at the next call after a kill."""
    import tempfile

    parent = Path(tempfile.gettempdir())
    sweep(parent)
    with workspace(parent, None, parent) as space:
        folder = space.new("scratch")
        folder.mkdir()
        yield folder


@contextmanager
def _told(path: Path, temporary: Path) -> Iterator[None]:
    """Report in one line which file cannot be written, and why."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # libraries in C++ turn what the system says into a RuntimeError
        raise OSError(
            f"{path}: cannot be written ({_reason(error, temporary)}); what was there before is intact: make room or"
            " permit writing, and try again"
        ) from error


def _reason(error: BaseException, temporary: Path) -> str:
    reason: Any = first_reason(error)
    if any(isinstance(one, OSError) and one.strerror for one in _chain(error)):
        return reason
    with suppress(OSError):
        if shutil.disk_usage(temporary.parent).free < _FULL:
            return "No space left on device"
    with suppress(OSError):
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0] if resource else -1
        if 0 <= limit <= temporary.stat().st_size + _FULL:
            return "File too large"
    return reason


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
