"""The handler that keeps a run's page and sample images up to date while it trains."""

from __future__ import annotations

import os
import shlex
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor

from medtrace.engines import Trainer, writes_tensorboard
from medtrace.engines.assembly import TENSORBOARD
from medtrace.engines.handlers.progress import time_left
from medtrace.report.run_page import SAMPLE, SAMPLES, Progress, State, write_run_page
from medtrace.report.samples import png_of, sample_strip
from medtrace.storage.files import atomic_write, remove
from medtrace.trace import Trace

CASES = 3
"""Number of validation cases that are shown."""
_PAUSE, _SHARE = 5.0, 50.0
"""Minimum seconds between two pages, and minimum as a multiple of the time that a page takes."""


class RunPage:
    """Write `run.html` during a training and when it ends, however it ends, and sample images of validations.

    The first validation cases are kept as `samples/epoch=N.png` (of the newest validation and of the first, second,
    fourth, eighth, ...) and reported to TensorBoard, where that is installed. The page is written at most every few
    seconds, and always at the end. A page that cannot be written does not stop the training. Attach it last.

    Args:
        run: the run folder.
        title: title of the method.
        validator: the evaluator whose cases are shown; None shows none.
    """

    def __init__(self, run: str | os.PathLike, title: str, validator: Engine | None = None) -> None:
        self.run = Path(run)
        self.title = title
        self.validator = validator
        self._cases: list[tuple[Trace, Tensor | None]] = []
        self._validations = 0
        self._due = 0.0
        self._board: Any = None

    def attach(self, engine: Trainer) -> None:
        """Register on a trainer."""
        if self.validator is not None:
            self.validator.add_event_handler(Events.ITERATION_COMPLETED(once=1), self._take)
            self.validator.add_event_handler(Events.STARTED, self._forget)
        engine.when_ready.append(self._begin)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch)

    def _begin(self, engine: Trainer) -> None:
        self._due = 0.0
        for path in self._samples(after=engine.state.epoch):
            remove(path)
        engine.while_running.push(lambda kind, error, trace: self._end(engine, kind, error, trace))
        self._write(engine, "running")

    def _forget(self, validator: Engine) -> None:
        self._cases = []

    def _take(self, validator: Engine) -> None:
        traces = validator.state.output["traces"][:CASES]
        targets = validator.state.batch.get("target", [None] * len(traces))
        self._cases = [
            (trace.to("cpu"), None if target is None else torch.as_tensor(target).detach().cpu())
            for trace, target in zip(traces, targets)
        ]

    def _epoch(self, engine: Trainer) -> None:
        if self._cases:
            with suppress(OSError):
                self._show_cases(engine)
            self._cases = []
        if time.monotonic() >= self._due:
            self._write(engine, "running")

    def _show_cases(self, engine: Trainer) -> None:
        epoch, strip = engine.state.epoch, sample_strip(self._cases)
        atomic_write(self.run / SAMPLES / f"epoch={epoch}.png", png_of(strip), make_parents=True)
        kept = {2**power for power in range(epoch.bit_length())}
        first = min(int(SAMPLE.fullmatch(path.name)[1]) for path in self._samples())  # type: ignore[index]
        for path in self._samples():
            number = int(SAMPLE.fullmatch(path.name)[1])  # type: ignore[index]
            if number != epoch and number / first not in kept:
                remove(path)
        if writes_tensorboard():
            self._tell_board(epoch, strip)

    def _tell_board(self, epoch: int, strip: Any) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if self._board is None:
            self._board = SummaryWriter(str(self.run / TENSORBOARD))
        self._board.add_image("validation cases", strip, epoch, dataformats="HWC")
        self._board.flush()

    def _samples(self, after: int = -1) -> list[Path]:
        result = [(SAMPLE.fullmatch(path.name), path) for path in (self.run / SAMPLES).glob("*.png")]
        return [path for match, path in result if match and int(match[1]) > after]

    def _write(self, engine: Trainer, state: State, reason: str = "") -> None:
        begun, now = time.monotonic(), engine.state
        done = now.iteration // max(1, now.epoch_length or 1)
        progress = Progress(
            self.title,
            state,
            done,
            now.max_epochs,
            left=time_left(engine) if state == "running" else "",
            best="" if engine.best is None else str(engine.best),
            reason=reason,
            resume=f"medtrace train {shlex.quote(engine.method.name)} --out {shlex.quote(str(self.run))} --resume",
        )
        with suppress(OSError):
            write_run_page(self.run, progress)
        self._due = time.monotonic() + max(_PAUSE, _SHARE * (time.monotonic() - begun))

    def _end(
        self,
        engine: Trainer,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._board is not None:
            self._board.close()
            self._board = None
        if kind is None:
            self._write(engine, "stopped early" if engine.stopped_early else "finished")
        elif issubclass(kind, Exception):
            self._write(engine, "failed", str(error) or kind.__name__)
        else:
            self._write(engine, "interrupted", str(error) or f"ended by {kind.__name__}")
