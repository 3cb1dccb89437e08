"""Files and folders of a training that a crash leaves whole."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows, where folders are not locked
    fcntl = None  # type: ignore[assignment]

PARTIAL = ".partial"
LOCK = ".lock"


def write_whole(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Write a file so that at any moment `path` holds all of the old content or all of the new, also after a power cut.

    Args:
        path: the file; its folder is made where it is missing.
        content: what is to be in it, or a function that writes that to an open file.

    Raises:
        OSError: if it cannot be written, such as on a full disk or into a read-only folder; `path` is then as it was.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch's writer of archives turns an OSError into a RuntimeError
        with suppress(OSError):  # the first error says why
            partial.unlink(missing_ok=True)
        raise OSError(
            f"{path}: cannot be written ({_reason(error)}); what was there before is intact: make room or permit"
            " writing, and resume"
        ) from error


def remove_partial_files(folder: Path, names: Sequence[str]) -> None:
    """Remove what a process that was killed while writing has left in a folder of which the caller is the only user.

    Args:
        folder: where it wrote.
        names: patterns of the files that it writes there.
    """
    for name in names:
        for path in folder.glob(name + PARTIAL):
            if path.is_file():
                path.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the only user of a folder, among the processes that ask the same way.

    The lock is the kernel's and ends with the process, however that dies. Where the file system knows no locks, and on
    Windows, nothing is locked.

    Args:
        folder: made where it is missing, and then removed again if nothing is in it at the end.

    Raises:
        OSError: if another process uses the folder, whose host and number the message tells, or the folder cannot be
            written to.
    """
    path = folder / LOCK
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(path)
    except BlockingIOError as error:
        raise OSError(
            f"{folder}: is in use by {_holder(path)}; wait until it has ended, or choose another folder"
        ) from error
    except OSError as error:
        raise OSError(
            f"{folder}: cannot be written to ({_reason(error)}); permit writing, or choose another folder"
        ) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)
        if made:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


def _acquire(path: Path) -> int:
    """Open and lock a file; BlockingIOError says that another process has it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(descriptor)
            # The one who held it may have removed the file between opening and locking.
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                os.ftruncate(descriptor, 0)
                since = datetime.now().astimezone().isoformat(timespec="seconds")
                os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()} since {since}".encode())
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        pass  # a file system without locks


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace") or "another process"
    except OSError:
        return "another process"


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, so that a power cut does not undo a renaming."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: BaseException) -> str:
    """What the operating system said, beneath what torch made of it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.strerror:
            return seen.strerror
        seen = seen.__cause__ or seen.__context__
    return str(error).splitlines()[0] if str(error) else type(error).__name__
