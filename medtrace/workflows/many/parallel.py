"""Many cases, one after the other, in several processes or on a Dask cluster, with the same results.

Nothing heavy is imported here; what a worker process imports depends on the function that it runs.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from typing import Any

from medtrace.guard.notices import tell
from medtrace.workflows.many.attempts import Outcome, Task, attempt

LOST = "its process died, twice (killed, out of memory, or a crash in a library); try it alone, or with fewer workers"


class CasesFailedError(ValueError):
    """Some cases could not be processed; the others are done.

    Attributes:
        failures: one line per case.
    """

    def __init__(self, failures: Sequence[str], total: int, remedy: str) -> None:
        self.failures = list(failures)
        counted = f"{len(self.failures)} of {total} cases failed, the first: " if len(self.failures) > 1 else ""
        super().__init__(f"{counted}{self.failures[0]}; {remedy}")


def many_line(doing: str, cases: int, workers: int, scheduler: str | None) -> str:
    """One line about what will be done with many cases.

    Example:
        >>> many_line("registering", 12, 4, None)
        'registering: 12 cases on 4 processes'
    """
    where = f"on {workers} process{'es' * (workers > 1)}" if scheduler is None else f"on the workers of {scheduler}"
    return f"{doing}: {cases} case{'s' * (cases != 1)} {where}"


def run_cases(
    function: Callable[..., Any],
    tasks: Sequence[Task],
    *,
    workers: int = 1,
    scheduler: str | None = None,
    finished: Callable[[Outcome], Any] | None = None,
    preload: Sequence[str] = (),
) -> list[Outcome]:
    """Call `function(*task.arguments)` for every task; a failing one does not stop the others.

    A worker that dies takes no other case with it: the cases that it may have held are tried once more, each in a
    process of its own, and a case whose process dies again is a failure. The function may therefore be called again for
    a case that it finished just before; it has to recognize its own result.

    Args:
        function: a module's function, so that a worker can import it.
        tasks: with unique names.
        workers: processes; 1 runs the cases in this one.
        scheduler: address of a Dask scheduler, such as "tcp://host:8786", whose workers process the cases instead. They
            must see the same files under the same paths.
        finished: called with each outcome as it arrives, in any order.
        preload: modules that new processes share, if the platform can fork them from a process that has already
            imported them.

    Returns:
        One outcome per task, in the order of the tasks.

    Raises:
        ImportError: if a scheduler is named and Dask is not installed.
        ConnectionError: if the scheduler does not answer.
        ValueError: if `workers` is below 1 or given with a scheduler, or two tasks share a name.
    """
    if workers < 1:
        raise ValueError(f"workers: expected 1 or more, received {workers!r}")
    if scheduler is not None and workers > 1:
        raise ValueError(f"workers: expected none with a scheduler, which has its own, received {workers}")
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise ValueError("tasks: expected distinct names, received some twice")
    if scheduler is not None:
        from medtrace.workflows.many.dask_cluster import on_cluster

        outcomes: Generator[Outcome, None, None] = on_cluster(function, tasks, scheduler)
    elif workers == 1:
        outcomes = (attempt(function, task) for task in tasks)
    else:
        outcomes = _in_processes(function, tasks, min(workers, max(len(tasks), 1)), preload)
    found = {}
    with closing(outcomes):  # so that an interruption ends the workers
        for outcome in outcomes:
            found[outcome.name] = outcome
            for notice in outcome.notices:
                tell(notice)
            if finished is not None:
                finished(outcome)
    return [found[name] for name in names]


def _in_processes(
    function: Callable[..., Any], tasks: Sequence[Task], workers: int, preload: Sequence[str]
) -> Generator[Outcome, None, None]:
    waiting, suspects = deque(tasks), deque[Task]()
    while waiting or suspects:
        alone = bool(suspects)
        queue, size = (suspects, 1) if alone else (waiting, workers)
        running: dict[Future, Task] = {}
        pool = _pool(size, preload)
        try:
            yield from _drain(pool, function, queue, running, size)
        except BrokenProcessPool:
            lost = list(running.values())
            if alone:
                yield from (Outcome(task.name, None, LOST) for task in lost)
            else:
                suspects.extend(lost)
        except BaseException:
            _end_workers(pool)
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _end_workers(pool: ProcessPoolExecutor) -> None:
    """End the processes of a pool in the middle of their cases, whose results nobody waits for any more."""
    processes = list((getattr(pool, "_processes", None) or {}).values())  # Python 3.14 has `terminate_workers`
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(timeout=10)


def _drain(
    pool: ProcessPoolExecutor,
    function: Callable[..., Any],
    queue: deque[Task],
    running: dict[Future, Task],
    size: int,
) -> Generator[Outcome, None, None]:
    """Keep `size` cases running; `running` tracks which, in case the pool breaks."""
    while queue or running:
        while queue and len(running) < size:
            running[pool.submit(attempt, function, queue[0])] = queue[0]
            queue.popleft()
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        whole = [future for future in done if future.exception() is None]
        for future in whole:
            del running[future]
            yield future.result()
        if len(whole) < len(done):
            raise next(error for future in done - set(whole) if (error := future.exception()) is not None)


def _pool(size: int, preload: Sequence[str]) -> ProcessPoolExecutor:
    """Fresh processes: a fork of this one would inherit its threads' locks."""
    methods = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if preload and "forkserver" in methods:
        context.set_forkserver_preload(list(preload))
    return ProcessPoolExecutor(size, mp_context=context, initializer=_take_settings, initargs=(_settings(),))


def _settings() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("MEDTRACE_")}


def _take_settings(settings: dict[str, str]) -> None:
    """Give a worker the current settings, not those at the start of the fork server; Ctrl-C is left to the process that
    waits for it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in _settings():
        del os.environ[name]
    os.environ.update(settings)
