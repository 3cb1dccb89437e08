"""Choice of a run's weights: the final ones by default, or the best, the last or those of an epoch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from medtrace.engines.checkpoint_files import WITHIN_EPOCH, newest_first, of_epochs, progress_of
from medtrace.engines.model_folder import own_weights
from medtrace.guard.notices import notify
from medtrace.guard.weights import load_weights

BEST = "best.safetensors"
WEIGHTS = "weights.safetensors"
_EPOCH = re.compile(r"epoch=(\d+)")
_chosen: ContextVar[str | None] = ContextVar("checkpoint", default=None)


@contextmanager
def using_checkpoint(choice: str | None) -> Iterator[None]:
    """Let runs that are loaded in the block have the weights of a checkpoint.

    Args:
        choice: "best" (of the validations), "last" (the newest that can be read) or "epoch=N"; None is the weights at
            the end of training.

    Raises:
        ValueError: if it is none of these.

    Example:
        >>> with using_checkpoint("last"):
        ...     pass  # evaluate("runs/unet", "data")
    """
    if choice is not None and choice not in ("best", "last") and not _EPOCH.fullmatch(choice):
        raise ValueError(f"checkpoint: expected best, last or epoch=N, received {choice!r}")
    token = _chosen.set(choice)
    try:
        yield
    finally:
        _chosen.reset(token)


def chosen_checkpoint() -> str | None:
    """What `using_checkpoint` says."""
    return _chosen.get()


def weights_file(run: Path) -> Path:
    """The file of the weights that a run is used with, which need not be there where nothing was chosen."""
    choice = _chosen.get()
    folder = run / "checkpoints"
    return own_weights(run, folder / WEIGHTS) if choice is None else _states(run, folder, choice)[0]


def run_states(run: Path, method: str, epochs: int) -> tuple[Path, Mapping[str, Any]]:
    """The file of the weights that a run is used with, and its content; a notice where it is not the training's end.

    Args:
        run: the run folder.
        method: the method's name, for the message.
        epochs: number of epochs of the entire training.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        ValueError: if it is damaged.
    """
    folder, choice = run / "checkpoints", _chosen.get()
    if choice is None:
        path = own_weights(run, folder / WEIGHTS)
        if not path.is_file():
            raise FileNotFoundError(_unfinished(run, path, method, epochs))
        if (folder / WITHIN_EPOCH).is_file():
            notify(run, "was trained further after its end; these are the weights of that end (--checkpoint last)")
        return path, load_weights(path)
    path, states = _states(run, folder, choice)
    told = f"uses the weights of {path.name}"
    if "trainer" in states:
        told += f", after {_amount(progress_of(dict(states)))} of {epochs} epochs"
    notify(run, f"{told} (--checkpoint {choice})")
    return path, states


def _states(run: Path, folder: Path, choice: str) -> tuple[Path, Mapping[str, Any]]:
    if choice == "last":
        newest = next(newest_first(folder), None)
        if newest is None:
            raise FileNotFoundError(f"checkpoint: {folder} holds none that can be read; resume the training first")
        return newest
    name = BEST if choice == "best" else f"checkpoint_{choice}.pt"
    path = folder / name
    if path.is_file():
        return path, load_weights(path)
    if choice == "best":
        raise FileNotFoundError(
            f"checkpoint: {path} is missing: {run} was trained without validation, or has had none yet; use last"
        )
    there = ", ".join(f"epoch={epoch}" for epoch, _ in of_epochs(folder)) or "none"
    raise FileNotFoundError(f"checkpoint: {path} is missing; available epochs: {there}; or use last")


def _unfinished(run: Path, path: Path, method: str, epochs: int) -> str:
    message = f"run: {path} is missing: the training has not finished"
    newest = next(newest_first(run / "checkpoints"), None)
    resume = f"resume it with `medtrace train {method} --out {run} --resume`"
    if newest is None:
        return f"{message}; {resume}"
    done = _amount(progress_of(newest[1]))
    return f"{message} ({done} of {epochs} epochs are done); {resume}, or use it as it is with --checkpoint last"


def _amount(done: float) -> str:
    return f"{round(done, 2):g}"
