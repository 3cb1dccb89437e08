"""Progress lines of long tasks, for registered listeners."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise
from threading import Lock, Timer

EVERY = 30.0
"""Seconds between two lines of one work."""
LONG = 3.0
"""Seconds after which work is long, and what was announced of it is said also where there is no bar."""

Say = Callable[[str], None]


class _Listener:
    """Who gets the lines; without a bar, what is about to be done waits until the work proves long."""

    def __init__(self, say: Say, steps: bool) -> None:
        self.say, self.steps = say, steps
        self.held: list[str] = []
        self.lock = Lock()
        self.timer: Timer | None = None

    def told(self, line: str) -> None:
        """Say what waits, and a line."""
        self.release()
        self.say(line)

    def hold(self, line: str) -> None:
        """Report a line once the task proves long."""
        with self.lock:
            self.held.append(line)
            if self.timer is None or not self.timer.is_alive():
                self.timer = Timer(LONG, self.release)
                self.timer.daemon = True
                self.timer.start()

    def release(self) -> None:
        """Say what waits."""
        with self.lock:
            for line in self.held:
                self.say(line)
            self.held.clear()

    def end(self) -> None:
        """Forget what waits: the work was short."""
        if self.timer is not None:
            self.timer.cancel()
        with self.lock:
            self.held.clear()


_listener: ContextVar[_Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(say: Say, *, steps: bool) -> Iterator[None]:
    """Within, long work reports what it is about to do, and how far it is.

    Args:
        say: gets each line.
        steps: whether there is no bar: it then gets how far the work is, and what was announced before the first such
            line or after `LONG` seconds. Where there is a bar, it gets what is announced at once. So a refusal on a
            pipe stays one line.
    """
    listener = _Listener(say, steps)
    earlier = _listener.set(listener)
    try:
        yield
    finally:
        listener.end()
        _listener.reset(earlier)


def announce(
    text: str,
    *,
    disk: int | None = None,
    out: str | os.PathLike | None = None,
    takes: str | None = None,
    memory: float | None = None,
    room: float | None = None,
) -> None:
    """Report what is about to be done, with the memory that is free, and the disk where the caller knows it.

    Args:
        text: what, and how much of it.
        disk: free bytes where the results go.
        out: where that is.
        takes: how long, in words.
        memory: bytes that it takes at most.
        room: bytes of disk that it takes at most.
    """
    listener = _listener.get()
    if listener is None:
        return
    from medtrace.guard.memory import GIBIBYTE, available_memory  # which loads torch

    free = available_memory() / GIBIBYTE
    parts = [] if takes is None else [takes]
    parts += [] if memory is None else [f"at most {memory / GIBIBYTE:.2g} GiB of memory"]
    parts += [] if free == float("inf") else [f"{free:.1f} GiB of memory free"]
    parts += [] if room is None else [f"at most {room / GIBIBYTE:.2g} GiB of disk"]
    parts += [] if disk is None else [f"{disk / GIBIBYTE:.1f} GiB of disk free for {out}"]
    line = f"{text}; {', '.join(parts)}" if parts else text
    if listener.steps:
        listener.hold(line)
    else:
        listener.say(line)


class Steps:
    """Progress of a task with many steps: a line every 30 seconds, with the remaining time estimated from the steps so
    far.

    Args:
        name: name of the work.
        total: number of steps.

    Example:
        >>> lines = []
        >>> with listening(lines.append, steps=True):
        ...     steps = Steps("translating", 3)
        ...     steps.done()
        >>> lines  # a second is not worth a line
        []
    """

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total, self.count = name, total, 0
        self._begun = self._told = time.monotonic()

    def done(self, count: int = 1) -> None:
        """Note that steps are done."""
        self.count += count
        listener, now = _listener.get(), time.monotonic()
        if listener is None or not listener.steps or now - self._told < EVERY or self.count >= self.total:
            return
        self._told = now
        left = (now - self._begun) / self.count * (self.total - self.count)
        listener.told(f"{self.name}: {self.count} of {self.total}, about {duration(left)} left")


def duration(seconds: float) -> str:
    """A time in the two largest units that it has.

    Example:
        >>> duration(4.2), duration(75), duration(7260), duration(200_000)
        ('4.2 s', '1 min 15 s', '2 h 1 min', '2 d 7 h')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    units = [("d", 86400), ("h", 3600), ("min", 60), ("s", 1)]
    whole = round(seconds)
    for (name, size), (next_name, next_size) in pairwise(units):
        if whole >= size:
            rest = whole % size // next_size
            return f"{whole // size} {name}" + (f" {rest} {next_name}" if rest else "")
    return f"{whole} s"
