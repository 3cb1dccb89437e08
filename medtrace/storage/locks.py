"""Locks of the kernel, which end with the process that holds them, however that dies.

The package filelock lacks some of what is needed here. A sweep locks only what exists (filelock creates the file that
it locks), a refusal names the holder, and a file left behind is recognized as ours by its content (filelock writes
nothing). Where a file system has no locks, filelock creates a file that outlives a killed process and then locks for
good, or, told not to, fails; here nothing is locked on such a file system, and `sure` says so.
"""

from __future__ import annotations

import errno
import importlib
import os
import re
import socket
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

msvcrt: Any = importlib.import_module("msvcrt") if os.name == "nt" else None
_FAR = 1 << 30
"""The byte that is locked on Windows, where nobody else can read one that is: behind what the file says."""
HOLDER = re.compile(rb"process \d+ on \S+ since ")
"""The beginning of a file made by `acquire`."""


class Lock(NamedTuple):
    """A lock that this process holds."""

    path: Path
    descriptor: int
    sure: bool
    """Whether the file system knows locks, so that nobody else can have it."""

    def release(self) -> None:
        """Remove the file and let go."""
        if msvcrt is None:
            self.path.unlink(missing_ok=True)
            os.close(self.descriptor)
        else:  # Windows cannot remove an open file: another process that has opened this one by now keeps it
            os.close(self.descriptor)
            with suppress(PermissionError):
                self.path.unlink(missing_ok=True)


def acquire(path: Path, *, create: bool = True) -> Lock:
    """Lock a file of this name at once, or not at all.

    Args:
        path: the file; a symbolic link is not followed.
        create: create it if missing, and write its owner into it.

    Raises:
        BlockingIOError: if another process has it, or this one through another call.
        OSError: if it cannot be opened.
    """
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | (os.O_CREAT if create else 0)
    while True:
        descriptor = os.open(path, flags, 0o644)
        try:
            sure = _lock(descriptor)
            # The previous holder may have removed the file between opening and locking.
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                if create:
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, _name().encode())
                return Lock(path, descriptor, sure)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def holder(path: Path) -> str:
    """Who has the lock, as far as the file says it."""
    try:
        return path.read_text(encoding="utf-8", errors="replace") or "another process"
    except OSError:
        return "another process"


def _lock(descriptor: int) -> bool:
    if msvcrt is not None:
        return _lock_byte(descriptor)
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False  # a file system without locks
    return True


def _lock_byte(descriptor: int) -> bool:
    """As `_lock`, on Windows."""
    os.lseek(descriptor, _FAR, os.SEEK_SET)
    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EDEADLK):
            raise BlockingIOError(errno.EAGAIN, "another process has the lock") from error
        return False  # a file system without locks
    finally:
        os.lseek(descriptor, 0, os.SEEK_SET)
    return True


def _name() -> str:
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    return f"process {os.getpid()} on {socket.gethostname()} since {since}"
