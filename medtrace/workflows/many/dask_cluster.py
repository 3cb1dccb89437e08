"""Cases on a Dask cluster."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Generator, Sequence
from typing import Any

from medtrace.workflows.many.attempts import Outcome, Task, attempt, reason

PATIENCE = 60
"""Seconds to wait for the scheduler, and for its first worker."""


def on_cluster(function: Callable[..., Any], tasks: Sequence[Task], scheduler: str) -> Generator[Outcome, None, None]:
    """Let the workers of a Dask scheduler work on cases; outcomes come as they are ready.

    Dask gives the cases of a worker that dies to another one, and abandons a case when several workers in a row died on
    it. If a dead worker had an outcome that was not fetched yet, its case is run again.

    Args:
        function: importable by the workers.
        tasks: see `parallel.run_cases`.
        scheduler: its address, such as "tcp://host:8786".

    Raises:
        ImportError: if Dask is not installed.
        ConnectionError: if the scheduler does not answer, or has no worker.
    """
    try:
        from distributed import Client, as_completed
    except ImportError as error:
        raise ImportError(
            "scheduler: expected Dask, which is not installed; pip install 'medtrace[dask]', or use workers here"
        ) from error
    try:
        client = Client(scheduler, timeout=PATIENCE)
    except (OSError, TimeoutError, ValueError) as error:
        raise ConnectionError(
            f"scheduler: no answer from {scheduler!r} ({reason(error)}); start `dask scheduler`, or correct the address"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except (OSError, TimeoutError) as error:
            raise ConnectionError(
                f"scheduler: {scheduler!r} has no worker; start some with `dask worker {scheduler} --nthreads 1`"
            ) from error
        run = uuid.uuid4().hex
        futures = {client.submit(attempt, function, task, key=f"{task.name}-{run}", pure=False): task for task in tasks}
        for future in as_completed(list(futures)):
            yield _outcome(future, futures.pop(future))
            future.release()


def _outcome(future: Any, task: Task) -> Outcome:
    try:
        return future.result()
    except Exception as error:  # Dask's own errors: the case's errors are returned as outcomes
        return Outcome(task.name, None, reason(error))
