"""Speed of a training, and its remaining time."""

from __future__ import annotations

import time
from collections import deque

_REMEMBERED = 20


class Pace:
    """Seconds per step over the last epochs of this process, what comes between steps included.

    The first epoch, in which caches fill and code is compiled, counts only until the second is done.
    """

    def __init__(self) -> None:
        self._marks: deque[tuple[int, float]] = deque(maxlen=_REMEMBERED + 1)

    def begin(self, iteration: int) -> None:
        """Note the time at the start of an epoch.

        Args:
            iteration: number of completed steps.
        """
        self._marks.append((iteration, time.monotonic()))

    def seconds_per_step(self, iteration: int) -> float | None:
        """Recent speed; None before the first step."""
        if not self._marks or iteration <= self._marks[0][0]:
            return None
        first, begun = self._marks[1 if len(self._marks) > 2 else 0]
        return (time.monotonic() - begun) / (iteration - first)

    def seconds_left(self, iteration: int, planned: int) -> float | None:
        """Until `planned` steps are done, if it continues so; None before the first step."""
        pace = self.seconds_per_step(iteration)
        return None if pace is None else pace * max(0, planned - iteration)
