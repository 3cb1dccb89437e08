"""Progress output of a training: a bar on a terminal, a line per epoch everywhere, a log in its folder."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import Any

from ignite.engine import Events
from tqdm import tqdm

from medtrace.engines.logging import VALIDATION
from medtrace.engines.trainer import Trainer
from medtrace.guard.progress import duration
from medtrace.storage.logs import LineLog

LOG = "train.log"
QUIET = 60.0
"""Seconds after which a long epoch reports its progress, if no bar does."""
_ONE_OF_SEVERAL: ContextVar[str] = ContextVar("name of one of several trainings", default="")


@contextmanager
def one_of_several(name: str) -> Iterator[None]:
    """Within, a training is one of several at once: its lines begin with its name, and it has no bar."""
    earlier = _ONE_OF_SEVERAL.set(f"{name}: ")
    try:
        yield
    finally:
        _ONE_OF_SEVERAL.reset(earlier)


class ProgressBar:
    """Show a training: steps, epoch, loss, validation, learning rate, time left, and the number of skipped steps.

    On a terminal, a bar moves below one line per epoch; in a pipe or a file there are only the lines, with another one
    each minute of a long epoch. Everything goes to stderr. A pipe that is no longer read ends the output, not the
    training. Attach it after `LossHistory` and `BestWeights`.

    Args:
        description: text in front of the bar.
        disable: show nothing; None shows the bar on a terminal only.
        log: file for the lines with their time, the warnings of medtrace's loggers, and how the training ended; lines
            are appended to an existing file. None writes no file.
    """

    def __init__(
        self, description: str = "training", disable: bool | None = None, log: str | Path | None = None
    ) -> None:
        self.description = description
        self.disable = disable
        self.log = None if log is None else Path(log)
        self._bar = tqdm(disable=True)
        self._file: LineLog | None = None
        self._told = 0.0

    def attach(self, engine: Trainer) -> None:
        """Register on a trainer."""
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.EPOCH_STARTED, self._open)  # by then a resumed training knows where it is
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._advance)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._tell_epoch)
        engine.add_event_handler(Events.COMPLETED, self._end)

    def _begin(self, engine: Trainer) -> None:
        self._opened = False
        engine.while_running.push(self._leave)
        if self.log is not None:
            self._file = LineLog(self.log)
            logging.getLogger("medtrace").addHandler(self._file)

    def _open(self, engine: Trainer) -> None:
        if self._opened:
            return
        self._opened, self._told = True, time.monotonic()
        state = engine.state
        resumed = f", resumed after epoch {state.epoch - 1}" if state.epoch > 1 else ""
        count = f"{state.max_epochs} epochs of {state.epoch_length} steps"
        self._say(f"{self.description}: {count} on {state.device}{resumed}")
        self._bar = tqdm(
            total=state.max_epochs * state.epoch_length,
            initial=state.iteration,
            desc=self.description,
            disable=True if _ONE_OF_SEVERAL.get() else self.disable,
            unit="step",
            mininterval=0.5,
        )

    def _advance(self, engine: Trainer) -> None:
        self._bar.update()
        if engine.state.step_skipped:
            self._tell(engine)
        if self._bar.disable and time.monotonic() - self._told > QUIET:
            step = engine.state.iteration - (engine.state.epoch - 1) * engine.state.epoch_length
            loss = float(engine.state.output[0]["loss"])
            self._say(
                f"epoch {engine.state.epoch}/{engine.state.max_epochs}  step {step}/{engine.state.epoch_length}"
                f"  loss {loss:.4g}  {time_left(engine)}"
            )

    def _tell(self, engine: Trainer) -> None:
        loss = engine.state.metrics.get("loss")
        values: dict[str, Any] = {} if loss is None else {"loss": f"{loss:.4f}"}
        if engine.state.skipped_steps:
            values["skipped"] = engine.state.skipped_steps
        self._bar.set_postfix(epoch=f"{engine.state.epoch}/{engine.state.max_epochs}", **values, refresh=False)

    def _tell_epoch(self, engine: Trainer) -> None:
        self._open(engine)  # a training that stopped after the last step of an epoch resumes at its end
        self._tell(engine)
        self._say(epoch_line(engine))

    def _end(self, engine: Trainer) -> None:
        if engine.stopped_early and engine.best is not None:
            self._say(
                f"stopped early after epoch {engine.state.epoch}: no validation was better than that of epoch"
                f" {engine.best.epoch}; training.early_stopping sets how long to wait"
            )
        best = "" if engine.best is None else f"; best validation: {engine.best} (checkpoints/best.safetensors)"
        self._say(f"done after epoch {engine.state.epoch}{best}")

    def _say(self, line: str) -> None:
        self._told = time.monotonic()
        self._note(logging.INFO, line)
        if not self.disable:
            with suppress(OSError, ValueError):  # the pipe is no longer read
                tqdm.write(_ONE_OF_SEVERAL.get() + line, file=sys.stderr)
                sys.stderr.flush()

    def _note(self, level: int, line: str) -> None:
        if self._file is not None:
            self._file.handle(logging.LogRecord("medtrace.training", level, "", 0, line, None, None))

    def _leave(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """However the training ends."""
        with suppress(OSError, ValueError):
            self._bar.close()
        if kind is not None:
            self._note(logging.ERROR, f"ended by {kind.__name__}" + (f": {error}" if str(error) else ""))
        if self._file is not None:
            logging.getLogger("medtrace").removeHandler(self._file)
            self._file.close()
            self._file = None


def epoch_line(engine: Trainer) -> str:
    """An epoch in one line: loss, validation and the best so far, rate, time."""
    state = engine.state
    parts = [f"epoch {state.epoch}/{state.max_epochs}"]
    if (loss := state.metrics.get("loss")) is not None:
        parts.append(f"loss {loss:.4g}")
    for name, value in state.metrics.items():
        if name.startswith(VALIDATION):
            best = "" if engine.best is None else f" (best {engine.best.value:.4g}, epoch {engine.best.epoch})"
            parts.append(f"validation {name.removeprefix(VALIDATION)} {value:.4g}{best}")
    rates = {f"{rate:.3g}": None for name, rate in state.metrics.items() if name.startswith("learning_rate")}
    if rates:
        parts.append(f"rate {' '.join(rates)}")
    if state.skipped_steps:
        parts.append(f"{state.skipped_steps} steps skipped")
    return "  ".join([*parts, time_left(engine)])


def time_left(engine: Trainer) -> str:
    """Pace and time left in words."""
    state = engine.state
    pace = engine.pace.seconds_per_step(state.iteration)
    if pace is None:
        return ""
    left = engine.pace.seconds_left(state.iteration, state.max_epochs * state.epoch_length)
    return f"{duration(pace * state.epoch_length)} per epoch, {duration(left or 0.0)} left"
