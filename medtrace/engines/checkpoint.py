"""Saving a training and going on with it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events

from medtrace.engines.finite_checks import LOGGER
from medtrace.engines.trainer import Trainer
from medtrace.guard.weights import load_weights
from medtrace.storage.encoders import write_states
from medtrace.storage.files import remove
from medtrace.storage.places import check_room
from medtrace.storage.reservations import locked

FINAL = "final.pt"
_NAME = re.compile(r"checkpoint_epoch=(\d+)\.pt")


class Checkpoint:
    """Save the method, optimizers and progress of a `Trainer` after epochs, and resume from the newest.

    A file appears when it is complete and on the disk, so that a crash, a full disk or a read-only folder leaves the
    ones before as they were. What is random is no part of it: the `Trainer` derives it from seed and epoch. In a
    process group rank 0 writes, and every rank reads; while rank 0 trains, no other training can use the folder.

    Args:
        folder: where `checkpoint_epoch=N.pt` (the newest two) and, at the end, `final.pt` are written.
        interval: epochs between checkpoints.
        resume: go on from the newest checkpoint in `folder` that can be read, if there is one.
        kept: how many of `checkpoint_epoch=N.pt` to keep, 1 or more.
    """

    def __init__(self, folder: str | Path, interval: int = 10, resume: bool = False, kept: int = 2) -> None:
        for name, value in (("interval", interval), ("kept", kept)):
            if value < 1:
                raise ValueError(f"{name}: expected 1 or more, received {value!r}")
        self.folder = Path(folder)
        self.interval = interval
        self.resume = resume
        self.kept = kept

    def attach(self, engine: Trainer) -> None:
        """Register on a trainer."""
        engine.add_event_handler(Events.STARTED, self._start)
        if engine.state.rank == 0:
            engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self._save_epoch)
            engine.add_event_handler(Events.COMPLETED, self._save_final)

    def _start(self, engine: Trainer) -> None:
        if engine.state.rank == 0:
            engine.while_running.enter_context(locked(self.folder))
            check_room(
                self.folder, _size([item.state_dict() for item in engine.checkpoint_items().values()]), "a checkpoint"
            )
        if self.resume:
            for path, states in self._readable():
                _restore(engine, states, path)
                return

    def _save_epoch(self, engine: Trainer) -> None:
        self._save(engine, f"checkpoint_epoch={engine.state.epoch}.pt")

    def _save_final(self, engine: Trainer) -> None:
        self._save(engine, FINAL)

    def _save(self, engine: Trainer, name: str) -> None:
        states = {name: item.state_dict() for name, item in engine.checkpoint_items().items()}
        write_states(self.folder / name, states)
        for _, path in self._of_epochs()[self.kept :]:
            remove(path)

    def _of_epochs(self) -> list[tuple[int, Path]]:
        """The checkpoints of epochs, newest first."""
        named = [(_NAME.fullmatch(path.name), path) for path in self.folder.glob("*.pt")]
        return sorted(((int(match[1]), path) for match, path in named if match), reverse=True)

    def _readable(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Checkpoints with their content, of the latest epoch first; a damaged one is skipped with a warning."""
        final = self.folder / FINAL
        content = _read(final) if final.is_file() else None
        for epoch, path in self._of_epochs():
            if content is not None and _epoch(content) >= epoch:
                yield final, content
                content = None
            if (states := _read(path)) is not None:
                yield path, states
        if content is not None:
            yield final, content


def _size(states: Any) -> int:
    """Bytes of all tensors in nested lists and mappings."""
    if isinstance(states, torch.Tensor):
        return states.numel() * states.element_size()
    inner = states.values() if isinstance(states, Mapping) else states if isinstance(states, (list, tuple)) else ()
    return sum(map(_size, inner))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return load_weights(path)
    except (ValueError, OSError) as error:
        LOGGER.warning("%s; going on from an earlier checkpoint", error)
        return None


def _epoch(states: dict[str, Any]) -> int:
    trainer = states.get("trainer", {})
    return int(trainer.get("iteration", 0)) // max(1, int(trainer.get("epoch_length") or 1))


def _restore(engine: Trainer, states: dict[str, Any], path: Path) -> None:
    planned, length = engine.state.max_epochs, engine.state.epoch_length
    done = _epoch(states)
    if done > planned:
        raise ValueError(
            f"max_epochs: expected at least {done}, the epochs that {path} has seen, received {planned}; raise it, or"
            " use the trained run as it is"
        )
    items = engine.checkpoint_items()
    if missing := sorted(set(items) - set(states)):
        raise ValueError(f"{path}: expected {sorted(items)}, lacks {missing}; it is of another method or version")
    try:
        for name, item in items.items():
            item.load_state_dict(states[name])
    except (RuntimeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{path}: does not fit the configuration ({reason}); resume with the settings that it was trained with"
        ) from error
    # The epochs are the checkpoint's, how many to train is the configuration's, and another number of processes or
    # batch size makes epochs of another length.
    engine.state.max_epochs, engine.state.epoch_length = planned, length
    if length is not None:
        engine.state.epoch, engine.state.iteration = done, done * length
