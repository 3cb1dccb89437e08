"""A training that starts with the weights of an earlier run (`medtrace train --from RUN`)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from medtrace.engines.handlers.tracking import flat
from medtrace.engines.model_folder import MODEL
from medtrace.engines.runs import BEST, WEIGHTS, read_run
from medtrace.guard.weights import load_weights
from medtrace.methods import Method, MethodSettings
from medtrace.storage.cases import content_digest

_SHOWN = 3


def start_of(run: str | os.PathLike, method: str) -> dict[str, Any]:
    """A run folder's record of the run whose weights a training starts with.

    Args:
        run: the earlier run; its final weights are used or, if it has none yet, those of its best validation.
        method: the name of the method to train.

    Raises:
        FileNotFoundError: if it is not a run, or has no weights yet.
        ValueError: if it is of another method.
    """
    record = read_run(run)
    if record.method != method:
        raise ValueError(
            f"from: expected a run of {method}, received {run}, a run of {record.method}; train {record.method}, or"
            " start without --from"
        )
    name = next((name for name in (WEIGHTS, BEST, Path(MODEL)) if (Path(run) / name).is_file()), None)
    if name is None:
        raise FileNotFoundError(
            f"from: {run} has no weights yet, neither {WEIGHTS.name} nor {BEST.name}; resume it first with `medtrace"
            f" train {method} --out {run} --resume`"
        )
    return {
        "run": os.path.abspath(run),
        "weights": str(name),
        "digest": content_digest(Path(run) / name),
        "medtrace": record.medtrace,
    }


def inherited_settings(run: str | os.PathLike, prepared: bool) -> dict[str, Any]:
    """The settings of an earlier run, which replace the defaults in a training that starts with its weights.

    Args:
        run: the earlier run.
        prepared: whether the training has a data set of `medtrace prepare`: the run's TraceBench settings are then
            dropped.
    """
    values = read_run(run).settings.model_dump(mode="json")
    if prepared and values["data"]["kind"] != "prepared":
        del values["data"]
    return values


def load_start(method: Method, settings: MethodSettings, start: Mapping[str, Any]) -> bool:
    """Load the weights that `start_of` found into an untrained method; its optimizers start anew.

    Returns:
        Whether they still exist; a resumed run does not need them.

    Raises:
        ValueError: if they have changed since, or do not fit the settings.
    """
    run, path = Path(start["run"]), Path(start["run"]) / start["weights"]
    if not path.is_file():
        return False
    if content_digest(path) != start["digest"]:
        raise ValueError(
            f"from: {path} has changed since this training began with it; restore the weights it had, or begin"
            " another run"
        )
    states = load_weights(path).get("method", {})
    own = {name: value for name, value in method.state_dict().items() if isinstance(value, Tensor)}
    wrong = sorted(own.keys() ^ states.keys()) + [
        name for name in own.keys() & states.keys() if own[name].shape != states[name].shape
    ]
    if wrong:
        raise ValueError(
            f"from: the weights of {run} do not fit these settings ({_difference(run, settings, wrong)}); leave these"
            " settings as the run has them, prepare the data in the same way, or start without --from"
        )
    method.load_state_dict(states, strict=False)
    return True


def _difference(run: Path, settings: MethodSettings, wrong: list[str]) -> str:
    """The network settings that differ, or a differing weight if none is known."""
    before, now = (
        flat(values.model_dump(mode="json", exclude={"training", "data"}))
        for values in (read_run(run).settings, settings)
    )
    differing = [name for name in now if before.get(name) != now[name] and "optimizer" not in name]
    told = [f"{name} was {before.get(name)}, is {now[name]}" for name in differing[:_SHOWN]]
    return "; ".join(told) or f"{wrong[0]} differs"
