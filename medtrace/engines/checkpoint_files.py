"""The checkpoints in a run folder: their names, how far each got, and which is the newest that can be read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medtrace.engines.finite_checks import LOGGER
from medtrace.guard.weights import load_weights

FINAL = "final.pt"
WITHIN_EPOCH = "within_epoch.pt"
STATE_WITHIN_EPOCH = "within_epoch"
"""The entry of a checkpoint that was written within an epoch."""
_NAME = re.compile(r"checkpoint_epoch=(\d+)\.pt")


def of_epochs(folder: Path) -> list[tuple[int, Path]]:
    """The checkpoints of epochs, newest first."""
    named = [(_NAME.fullmatch(path.name), path) for path in folder.glob("*.pt")]
    return sorted(((int(match[1]), path) for match, path in named if match), reverse=True)


def newest_first(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Checkpoints with their content, of the latest step first; a damaged one is skipped with a warning."""
    named = [path for path in (folder / FINAL, folder / WITHIN_EPOCH) if path.is_file()]
    others = [(path, states) for path in named if (states := _read(path)) is not None]
    others.sort(key=lambda one: -progress_of(one[1]))
    for epoch, path in of_epochs(folder):
        while others and progress_of(others[0][1]) >= epoch:
            yield others.pop(0)
        if (states := _read(path)) is not None:
            yield path, states
    yield from others


def epochs_of(states: dict[str, Any]) -> int:
    """Whole epochs that a checkpoint has seen."""
    trainer = states.get("trainer", {})
    return int(trainer.get("iteration", 0)) // max(1, int(trainer.get("epoch_length") or 1))


def progress_of(states: dict[str, Any]) -> float:
    """Epochs that a checkpoint has seen; a little less where what follows the last one's steps was not done."""
    trainer = states.get("trainer", {})
    done = int(trainer.get("iteration", 0)) / max(1, int(trainer.get("epoch_length") or 1))
    return done - 1e-9 if STATE_WITHIN_EPOCH in states else done


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return load_weights(path)
    except (ValueError, OSError) as error:
        LOGGER.warning("%s; continuing from an earlier checkpoint", error)
        return None
