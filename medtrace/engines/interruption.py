"""Signals that ask a training to end: heard at the end of the current step, when its state is on the disk."""

from __future__ import annotations

import multiprocessing
import multiprocessing.util
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
"""Ctrl-C, what schedulers and containers send, and a terminal that is closed."""
AT_ONCE_AFTER = 1.0
"""Seconds after which a second Ctrl-C does not wait for the step."""


class TrainingInterruptedError(KeyboardInterrupt):
    """A training ended because a signal asked it to; what it had learned is in its newest checkpoint.

    Attributes:
        signal_number: such as `signal.SIGTERM`.
        place: the epoch and step that were done, in words.
    """

    def __init__(self, signal_number: int, place: str) -> None:
        name = "Ctrl-C" if signal_number == signal.SIGINT else signal.Signals(signal_number).name
        super().__init__(f"ended by {name} after {place}; resume to continue from there")
        self.signal_number = signal_number
        self.place = place
        self.name = name


@contextmanager
def listening(engine: Any) -> Iterator[None]:
    """Let signals ask an engine to stop (`engine.stop_signal`) instead of ending the process in the middle of a step.

    Between the last step of an epoch and the first of the next, where validations run, the training ends at once. A
    signal that the process ignores stays ignored; outside the main thread no signal is handled.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    first = 0.0

    def stop(number: int, _: Any) -> None:
        nonlocal first
        if engine.stop_signal is not None:
            if number == signal.SIGINT and time.monotonic() - first > AT_ONCE_AFTER:
                raise KeyboardInterrupt
            return
        first = time.monotonic()
        engine.stop_signal = number
        if engine.between_epochs:
            raise TrainingInterruptedError(number, place(engine))

    numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    heard = [number for number in numbers if before[number] not in (signal.SIG_IGN, None)]
    for number in heard:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in heard:
            signal.signal(number, before[number])


def place(engine: Any) -> str:
    """The current position of a training, in words."""
    length = engine.state.epoch_length or 1
    step = engine.state.iteration - (engine.state.epoch - 1) * length
    return f"step {step} of {length} of epoch {engine.state.epoch} of {engine.state.max_epochs}"


class LoaderWorker:
    """The beginning of a loader's worker: signals that are sent to a whole group of processes do not end it.

    The training ends its workers itself, once its step is done. Pass it to a loader as `worker_init_fn`.

    Args:
        begin: further initialization of a worker; called with its number.
    """

    def __init__(self, begin: Callable[[int], object]) -> None:
        self._begin = begin
        self._ending = multiprocessing.Event()
        # Before the interpreter ends its children by SIGTERM, it tells them that this one is meant for them.
        multiprocessing.util.Finalize(None, self._ending.set, exitpriority=100)

    def __call__(self, number: int) -> None:
        """Begin a worker."""
        self._begin(number)
        for name in set(SIGNALS) - {"SIGTERM"}:
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._end)

    def _end(self, number: int, _: Any) -> None:
        if self._ending.is_set():
            os._exit(128 + number)
