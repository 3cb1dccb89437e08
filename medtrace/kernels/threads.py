"""Share a loop among as many threads as torch may use."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

_pools: dict[int, ThreadPoolExecutor] = {}


def pieces(count: int, work: int, least: int = 1 << 15) -> list[tuple[int, int]]:
    """Ranges [begin, end) that cover `count` items, one per thread.

    Args:
        count: of items to share.
        work: of them all, in voxels: a thread is not worth its start below `least` of them.
        least: voxels per thread.
    """
    parts = max(1, min(torch.get_num_threads(), count, work // least))
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
