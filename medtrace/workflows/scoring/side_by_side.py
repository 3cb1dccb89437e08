"""Trainings of a study, which share their cases, in sequence or several at a time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from medtrace.data.tracebench import sharing_cases
from medtrace.engines.handlers.progress import one_of_several
from medtrace.engines.runs import default_device
from medtrace.workflows.many.attempts import Outcome, Task
from medtrace.workflows.many.parallel import CasesFailedError, run_cases

PROCESSES = 3
"""Maximum number of simultaneous trainings, even on fewer cores, so that none idles while the longest training ends;
each process keeps its cases in memory."""
_SHARING = contextlib.ExitStack()


def processes_for(rows: int, device: str | None) -> int:
    """The number of simultaneous trainings: one on a GPU, or if there are no threads to divide.

    Args:
        rows: trainings to be done; may be empty.
        device: as it was asked for.

    Example:
        >>> processes_for(1, "cpu")
        1
    """
    if default_device(device).type != "cpu":
        return 1
    return max(1, min(PROCESSES, rows)) if torch.get_num_threads() > 1 else 1


def threads_for(trainings: int, device: str | None) -> int:
    """Threads of each training of a study, independent of how many trainings remain.

    Args:
        trainings: trainings of the study, done or not.
        device: as it was asked for.
    """
    threads = torch.get_num_threads()
    if trainings < 2 or default_device(device).type != "cpu":
        return threads
    return max(1, threads // PROCESSES)


def trained_rows(
    train: Callable[..., Path],
    rows: Mapping[str, Any],
    console: Console,
    *,
    processes: int = 1,
    threads: int,
) -> dict[str, Path]:
    """Train the rows of a study, which share their generated cases.

    Args:
        train: a module's function: (row, what is trained, console) to the run folder.
        rows: row → what is trained.
        console: to print to.
        processes: number of simultaneous trainings, which print lines with names instead of bars.
        threads: threads of each training.

    Returns:
        Row → run folder, in the order of the rows.

    Raises:
        CasesFailedError: if a training of several failed in its process; the others are done and kept.
    """
    if processes == 1:
        with sharing_cases(), _threads(threads):
            return {row: train(row, training, console) for row, training in rows.items()}
    console.print(f"{', '.join(rows)}: training, {processes} at once with {threads} thread(s) each")
    tasks = [Task(row, (train, row, training, threads)) for row, training in rows.items()]

    def tell(outcome: Outcome) -> None:
        console.print(f"{outcome.name}: {outcome.failure or f'trained in {outcome.value[1]:.0f} s'}")

    outcomes = run_cases(_in_worker, tasks, workers=processes, finished=tell)
    failures = [f"{outcome.name}: {outcome.failure}" for outcome in outcomes if outcome.failure]
    if failures:
        raise CasesFailedError(failures, len(tasks), "correct the cause and run the command again; the rest is kept")
    return {outcome.name: outcome.value[0] for outcome in outcomes}


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _in_worker(train: Callable[..., Path], row: str, training: Any, threads: int) -> tuple[Path, float]:
    """A training in a process of its own, which keeps its cases for the next one there."""
    torch.set_num_threads(threads)
    _SHARING.enter_context(sharing_cases())
    started = time.perf_counter()
    with one_of_several(row):
        return train(row, training, Console(quiet=True)), time.perf_counter() - started
