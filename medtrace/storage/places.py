"""Places of outputs: links, mount points, parents that are missing or cannot be written, and the room that is left."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")
_OCTAL = re.compile(r"\\([0-7]{3})")


def folder_place(path: str | os.PathLike) -> Path:
    """The folder that holds the data of an output: a symbolic link to a folder is followed, and stays.

    Args:
        path: as given.

    Returns:
        An absolute path without links; the folder need not exist.

    Raises:
        FileExistsError: if there is a file.
        FileNotFoundError: if it is a symbolic link to nothing.
    """
    given = Path(path).absolute()
    check_links(path)
    place = Path(os.path.realpath(given))
    if place.exists() and not place.is_dir():
        raise FileExistsError(f"{path}: expected a folder, received a file; choose another name")
    return place


def check_links(path: str | os.PathLike) -> None:
    """Check that neither a path nor a folder above it is a symbolic link to nothing."""
    given = Path(path).absolute()
    for one in (given, *given.parents):
        if one.is_symlink() and not one.exists():
            name = path if one == given else one
            raise FileNotFoundError(
                f"{name}: is a symbolic link to {os.readlink(one)}, which does not exist; make that folder, or remove"
                " the link"
            )


def file_place(path: str | os.PathLike) -> Path:
    """The place of a file, in a folder without links; a link of the file's own name is what will be replaced.

    Raises:
        FileExistsError: if there is a folder, or a file that is mounted there and cannot be replaced.
    """
    given = Path(path).absolute()
    check_links(given.parent)
    place = Path(os.path.realpath(given.parent)) / given.name
    if place.is_dir() and not place.is_symlink():
        raise FileExistsError(f"{path}: expected the name of a file, received a folder; name a file in it")
    if place.is_file() and is_mount_point(place):
        raise FileExistsError(f"{path}: is mounted there as a single file, which cannot be replaced; mount its folder")
    return place


def is_mount_point(path: Path) -> bool:
    """Whether something is mounted at a path, also a part of the same file system (which `os.path.ismount` misses)."""
    if os.path.ismount(path):
        return True
    try:
        lines = os.fsdecode(_MOUNTS.read_bytes()).splitlines()
    except OSError:  # other systems than Linux
        return False
    wanted = os.path.realpath(path)
    return any(_OCTAL.sub(lambda code: chr(int(code[1], 8)), line.split(" ")[4]) == wanted for line in lines)


def stands_alone(folder: str | os.PathLike) -> bool:
    """Whether nothing should be put beside a folder: it is a mount point, or its parent cannot be written."""
    folder = Path(folder).absolute()
    effective = os.access in os.supports_effective_ids
    writable = os.access(folder.parent, os.W_OK | os.X_OK, effective_ids=effective)
    return folder.is_dir() and (is_mount_point(folder) or not writable)


def make_missing(folder: Path) -> list[Path]:
    """Make a folder and those above it that are missing; those that were made, the last one first.

    Raises:
        OSError: if one cannot be made; then none is left.
    """
    missing = []
    for one in (folder, *folder.parents):
        if one.exists():
            break
        missing.append(one)
    made: list[Path] = []
    try:
        for one in reversed(missing):
            one.mkdir(exist_ok=True)
            made.insert(0, one)
    except OSError as error:
        remove_empty(made)
        raise OSError(
            f"{folder}: cannot be written to ({first_reason(error)}); permit writing, or choose another folder"
        ) from error
    return made


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders as far as nothing is in them."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def free_disk(folder: str | os.PathLike) -> int:
    """Free bytes on the disk of a folder; where it does not exist, of the nearest folder above it."""
    asked = Path(os.path.realpath(folder))
    while not asked.is_dir() and asked != asked.parent:
        asked = asked.parent
    return shutil.disk_usage(asked).free


def check_room(folder: str | os.PathLike, size: int, what: str) -> None:
    """Check that a file system has room for what is going to be written.

    Args:
        folder: where; the nearest existing folder above it is checked.
        size: in bytes.
        what: what is written, for the message.

    Raises:
        OSError: if fewer bytes are free; the message states both numbers.
    """
    free = free_disk(folder)
    if free < size:
        raise OSError(
            f"{folder}: {what} needs {_amount(size)}, and {_amount(free)} are free there; make room, or choose"
            " another disk"
        )


def _amount(size: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}" if unit != "bytes" else f"{size:.0f} bytes"
        size /= 1000
    return f"{size:.3g} GB"


def first_reason(error: BaseException) -> str:
    """The operating system's error underlying a library's error."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.strerror:
            return seen.strerror
        seen = seen.__cause__ or seen.__context__
    return str(error).splitlines()[0] if str(error) else type(error).__name__
