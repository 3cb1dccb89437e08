"""The state of a training within an epoch, from which the epoch continues at its next step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from medtrace.engines.randomness import generators_from, generators_to


def state_within_epoch(engine: Any) -> dict[str, Any]:
    """State within an epoch besides weights and optimizers: the position in the epoch, generators, and sums of
    handlers.

    Every process of a group must call it at the same step.
    """
    length = int(engine.state.epoch_length)
    return {
        "epoch": int(engine.state.epoch),
        "steps": int(engine.state.iteration) - (int(engine.state.epoch) - 1) * length,
        "length": length,
        "taken": engine.step_taken,
        "generators": _of_all_processes(generators_to(engine.state.device)),
        "handlers": {name: handler.state_dict() for name, handler in engine.kept_within_epoch.items()},
    }


def fits(engine: Any, state: Mapping[str, Any]) -> bool:
    """Whether a training can continue within the epoch: its epochs and its processes are those of the state."""
    return state["length"] == engine.state.epoch_length and len(state["generators"]) == _processes()


def restore_within_epoch(engine: Any, state: Mapping[str, Any]) -> None:
    """Put back what `state_within_epoch` gave, but the place."""
    engine.step_taken = bool(state["taken"])
    generators_from(state["generators"][engine.state.rank], engine.state.device)
    for name, kept in state["handlers"].items():
        if name in engine.kept_within_epoch:
            engine.kept_within_epoch[name].load_state_dict(kept)


def _processes() -> int:
    return torch.distributed.get_world_size() if _grouped() else 1


def _grouped() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _of_all_processes(own: dict[str, Any]) -> list[dict[str, Any]]:
    if not _grouped():
        return [own]
    gathered: list[Any] = [None] * _processes()
    torch.distributed.all_gather_object(gathered, own)
    return gathered


def agreed(engine: Any, *wishes: bool) -> list[bool]:
    """The requests of any process of a group; without a group, the requests themselves."""
    if not _grouped():
        return list(wishes)
    flags = torch.tensor(wishes, dtype=torch.int32, device=engine.state.device)
    torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
    return [bool(flag) for flag in flags.tolist()]
