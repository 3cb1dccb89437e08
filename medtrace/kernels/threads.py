"""Share a loop among threads of medtrace's own: as many as torch may use, or as many as `limit` says."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

from medtrace.checks import check_whole

_pools: dict[int, ThreadPoolExecutor] = {}
_limit: int | None = None
_lock = threading.Lock()
_inside = 0
_before: tuple[int, int | None] = (1, None)


def limit(count: int | None) -> None:
    """Set the number of threads that share a compiled loop, independent of torch's setting; None follows torch again.

    torch's threads spin while they wait for each other, which takes a busy machine's time; medtrace's sleep. With torch
    at one thread and these at several, both run well.

    Raises:
        TypeError, ValueError: if it is not a whole number of at least 1.
    """
    global _limit
    if count is not None:
        check_whole("count", count, 1)
    _limit = count


def current() -> int:
    """Threads that share a compiled loop."""
    return torch.get_num_threads() if _limit is None else _limit


@contextmanager
def own_pool(count: int | None = None) -> Iterator[None]:
    """Keep torch at one thread, and give medtrace's own pool those that torch had; both are as before afterwards.

    torch's threads spin at the end of every small operation until the last one arrives: beside other busy processes
    that is several times slower than one thread. In this context, a loop of compiled and small operations avoids that.
    Also a decorator. Nested blocks, of any thread, have no further effect.

    Args:
        count: threads of the pool; None for as many as torch, or `limit`, allows.

    Raises:
        TypeError, ValueError: if it is not a whole number of at least 1.

    Example:
        >>> with own_pool(2):
        ...     current(), torch.get_num_threads()
        (2, 1)
    """
    global _inside, _before, _limit
    if count is not None:
        check_whole("count", count, 1)
    with _lock:
        if _inside == 0:
            _before = torch.get_num_threads(), _limit
            _limit = current() if count is None else count
            torch.set_num_threads(1)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                threads, _limit = _before
                torch.set_num_threads(threads)


def pieces(count: int, work: int, minimum: int = 1 << 15) -> list[tuple[int, int]]:
    """Ranges [begin, end) that cover `count` items, one per thread.

    Args:
        count: number of items to share.
        work: the total, in voxels: a thread is not worth starting for fewer than `minimum` of them.
        minimum: voxels per thread.
    """
    parts = max(1, min(current(), count, work // minimum))
    return [(part * count // parts, (part + 1) * count // parts) for part in range(parts)]


def run(task: Callable[[int, int], None], ranges: list[tuple[int, int]]) -> None:
    """Call `task(begin, end)` for every range, the last in this thread, and wait for all."""
    *others, last = ranges
    if others:
        futures = [_pool(len(others)).submit(task, *part) for part in others]
        task(*last)
        for future in futures:
            future.result()
    else:
        task(*last)


def _pool(workers: int) -> ThreadPoolExecutor:
    """Threads of this process; plain ones, because numba's own bear neither two callers at once nor a fork."""
    if workers not in _pools:
        _pools[workers] = ThreadPoolExecutor(workers, thread_name_prefix="medtrace")
    return _pools[workers]


os.register_at_fork(after_in_child=_pools.clear)  # a forked child has the pool's record, but not its threads
