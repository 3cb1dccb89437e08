"""Checkpoints of a training, and resuming from the newest."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from torch.optim import Optimizer

from medtrace.engines.checkpoint_files import (
    FINAL,
    STATE_WITHIN_EPOCH,
    WITHIN_EPOCH,
    epochs_of,
    newest_first,
    of_epochs,
    progress_of,
)
from medtrace.engines.finite_checks import LOGGER, DivergedError
from medtrace.engines.interruption import TrainingInterruptedError, listening, place
from medtrace.engines.trainer import Trainer
from medtrace.engines.within_epoch import agreed, fits, state_within_epoch
from medtrace.storage.encoders import write_states
from medtrace.storage.files import link_or_copy, remove
from medtrace.storage.places import check_room
from medtrace.storage.reservations import locked


class Checkpoint:
    """Save the method, optimizers and progress of a `Trainer` after epochs and within them, and resume from the newest.

    A file appears only when it is complete and on disk, so a crash, a full disk or a read-only folder leaves earlier
    ones as they were. A checkpoint between epochs holds no random state: the `Trainer` derives it from seed and epoch.
    One within an epoch holds the generators' states. In a process group rank 0 writes, and every rank reads; while
    rank 0 trains, no other training can use the folder.

    SIGINT (Ctrl-C), SIGTERM and SIGHUP end the training once the current step is done and its state is written, with a
    `TrainingInterruptedError`. Attach it after handlers that keep something from step to step.

    Args:
        folder: where `checkpoint_epoch=N.pt` (the newest two), `within_epoch.pt` (until there is a later one) and, at
            the end, `final.pt` are written.
        interval: epochs between checkpoints.
        resume: continue from the newest checkpoint in `folder` that can be read, if there is one.
        kept: how many of `checkpoint_epoch=N.pt` to keep, 1 or more.
        minutes: minutes between checkpoints, at the end of a step; 0 means never.
    """

    def __init__(
        self, folder: str | Path, interval: int = 10, resume: bool = False, kept: int = 2, minutes: float = 0.0
    ) -> None:
        for name, value in (("interval", interval), ("kept", kept)):
            if value < 1:
                raise ValueError(f"{name}: expected 1 or more, received {value!r}")
        if not minutes >= 0:
            raise ValueError(f"minutes: expected 0 or more, received {minutes!r}")
        self.folder = Path(folder)
        self.minutes = minutes
        self._written = time.monotonic()
        self._epoch_end: dict[str, Any] | None = None
        self._doubtful: list[Path] = []
        self.interval = interval
        self.resume = resume
        self.kept = kept

    def attach(self, engine: Trainer) -> None:
        """Register on a trainer."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._end_step)
        if engine.state.rank == 0:
            engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self._save_epoch)
            engine.add_event_handler(Events.COMPLETED, self._save_final)

    def _start(self, engine: Trainer) -> None:
        if engine.state.rank == 0:
            engine.while_running.enter_context(locked(self.folder))
            check_room(
                self.folder, _size([item.state_dict() for item in engine.checkpoint_items().values()]), "a checkpoint"
            )
        engine.while_running.push(lambda _kind, error, _: self._leave(engine, error))
        engine.while_running.enter_context(listening(engine))
        self._written = time.monotonic()
        if self.resume:
            for path, states in newest_first(self.folder):
                _restore(engine, states, path)
                return

    def _end_step(self, engine: Trainer) -> None:
        last = engine.state.iteration == engine.state.epoch * engine.state.epoch_length
        self._epoch_end = state_within_epoch(engine) if last else None
        due = bool(self.minutes) and time.monotonic() - self._written >= 60 * self.minutes
        stop, due = agreed(engine, engine.stop_signal is not None, due)
        if stop:
            self._save_within_epoch(engine, self._epoch_end or state_within_epoch(engine))
            self._epoch_end = None
            raise TrainingInterruptedError(engine.stop_signal or signal.SIGTERM, place(engine))
        if due and not last:
            self._save_within_epoch(engine, state_within_epoch(engine))
        engine.between_epochs = last

    def _leave(self, engine: Trainer, error: BaseException | None) -> None:
        """Keep an epoch whose steps are done although the training is interrupted before what follows them."""
        if isinstance(error, DivergedError):
            error.args = (f"{error}; {self._set_aside()}",)
        if isinstance(error, KeyboardInterrupt) and self._epoch_end is not None and engine.between_epochs:
            self._save_within_epoch(engine, self._epoch_end)

    def _set_aside(self) -> str:
        """Exclude doubtful checkpoints from those to resume from; returns the rest in words."""
        for path in self._doubtful:
            if path.is_file():
                link_or_copy(path, path.with_name(f"diverged_{path.name}"))
                remove(path)
        last = next(newest_first(self.folder), None)
        if last is None:
            return "no checkpoint was written before"
        done = round(progress_of(last[1]), 2)
        return f"the last good checkpoint is {last[0]}, after {done:g} epochs: resume with the lower rate"

    def _save_epoch(self, engine: Trainer) -> None:
        self._save(engine, f"checkpoint_epoch={engine.state.epoch}.pt")

    def _save_final(self, engine: Trainer) -> None:
        self._save(engine, FINAL)

    def _save_within_epoch(self, engine: Trainer, state: Mapping[str, Any]) -> None:
        self._written = time.monotonic()
        if engine.state.rank == 0:
            write_states(self.folder / WITHIN_EPOCH, {**_states(engine), STATE_WITHIN_EPOCH: state})
            if engine.is_doubtful:
                self._doubtful.append(self.folder / WITHIN_EPOCH)

    def _save(self, engine: Trainer, name: str) -> None:
        write_states(self.folder / name, _states(engine))
        self._epoch_end, self._written = None, time.monotonic()
        remove(self.folder / WITHIN_EPOCH)
        if engine.is_doubtful:
            self._doubtful.append(self.folder / name)
            return
        for _, path in of_epochs(self.folder)[self.kept :]:
            remove(path)


def _states(engine: Trainer) -> dict[str, Any]:
    return {name: item.state_dict() for name, item in engine.checkpoint_items().items()}


def _choices(optimizer: Optimizer) -> list[dict[str, Any]]:
    """An optimizer's settings: rate, betas, weight decay."""
    return [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]


def _choose(optimizer: Optimizer, wanted: list[dict[str, Any]]) -> None:
    """Let what the settings say hold, over what a checkpoint had; a rate that a schedule moves stays where it is."""
    for group, choices in zip(optimizer.param_groups, wanted):
        rate = choices.pop("lr")
        if rate != group.get("initial_lr", group["lr"]):
            group["lr"] = rate
            if "initial_lr" in group:
                group["initial_lr"] = rate
        choices.pop("initial_lr", None)
        group.update(choices)


def _size(states: Any) -> int:
    """Bytes of all tensors in nested lists and mappings."""
    if isinstance(states, torch.Tensor):
        return states.numel() * states.element_size()
    inner = states.values() if isinstance(states, Mapping) else states if isinstance(states, (list, tuple)) else ()
    return sum(map(_size, inner))


def _restore(engine: Trainer, states: dict[str, Any], path: Path) -> None:
    planned, length = engine.state.max_epochs, engine.state.epoch_length
    done = epochs_of(states)
    if (begun := math.ceil(progress_of(states))) > planned:
        raise ValueError(
            f"max_epochs: expected at least {begun}, the epochs that {path} has seen, received {planned}; raise it, or"
            " use the trained run as it is"
        )
    items = engine.checkpoint_items()
    if missing := sorted(set(items) - set(states)):
        raise ValueError(f"{path}: expected {sorted(items)}, lacks {missing}; it is from another method or version")
    wanted = {name: _choices(optimizer) for name, optimizer in engine.optimizers.items()}
    try:
        for name, item in items.items():
            item.load_state_dict(states[name])
    except (RuntimeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{path}: does not fit the configuration ({reason}); resume with the settings that it was trained with"
        ) from error
    for name, groups in wanted.items():
        _choose(engine.optimizers[name], groups)
    # The completed epochs are the checkpoint's, the number to train is the configuration's, and another number of
    # processes or batch size gives epochs of another length.
    engine.state.max_epochs, engine.state.epoch_length = planned, length
    if length is not None:
        engine.state.epoch, engine.state.iteration = done, done * length
        within = states.get(STATE_WITHIN_EPOCH)
        if within is not None and fits(engine, within):
            engine.resume_within_epoch(within)
        elif within is not None:
            LOGGER.warning(
                "%s: was written within epoch %d by another number of processes or with other batches; that epoch"
                " starts again, with the weights as they were",
                path,
                within["epoch"],
            )
