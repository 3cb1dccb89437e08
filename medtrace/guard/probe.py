"""Read a file once in a forked process, so that a reader in C that crashes, hangs or fills the memory does it there.

HDF5 and ITK's transforms are read by libraries that end the whole program on some damaged files.
"""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECONDS = 60
"""Of computing; ten times as long on the wall."""
_ROOM = 1 << 30
_ROOM_PER_BYTE = 64


def probe(read: Callable[[str], Any], path: Path, kind: str) -> None:
    """Call `read` on a file in a forked process with little memory and time; the result is thrown away.

    Where a process cannot be forked (Windows), nothing is done.

    Args:
        read: takes the path; has to raise an exception if it fails.
        path: the file.
        kind: what it should be, for the message.

    Raises:
        ValueError: if `read` failed, died or took too long; the message names the file and the reason.
    """
    if not hasattr(os, "fork"):
        return
    told, tell = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the fork calls nothing that other threads may hold
        child = os.fork()
    if child == 0:
        _perform(read, path, tell)
    os.close(tell)
    with os.fdopen(told, "rb") as answers:
        reason = answers.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        reason = "its reader does not finish" if name in ("SIGALRM", "SIGXCPU") else f"its reader crashes on it, {name}"
    if status != 0:
        raise ValueError(f"{path}: cannot be read as {kind} ({reason or 'its reader gave up'}); write it again")


def _perform(read: Callable[[str], Any], path: Path, tell: int) -> None:
    code = 1
    try:
        import resource

        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        room = used + _ROOM + _ROOM_PER_BYTE * path.stat().st_size
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        if hard == resource.RLIM_INFINITY or room < hard:
            resource.setrlimit(resource.RLIMIT_AS, (room, hard))
    except (ImportError, OSError, ValueError):
        pass  # systems without such limits
    try:
        import resource

        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(10 * SECONDS)
        spent = int(sum(os.times()[:2]))
        resource.setrlimit(resource.RLIMIT_CPU, (spent + SECONDS, resource.getrlimit(resource.RLIMIT_CPU)[1]))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        read(str(path))
        code = 0
    except BaseException as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[-1] if lines else type(error).__name__
        if isinstance(error, MemoryError) or "alloc" in reason:
            reason = "it claims more memory than a file of its size can need"
        os.write(tell, reason.encode()[:500])
    finally:
        os._exit(code)
