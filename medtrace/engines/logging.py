"""The history of a training: its named loss terms, its rates and its validations, by epoch."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from torch import Tensor

from medtrace.storage.files import atomic_write

VALIDATION = "validation_"
"""Prefix of the names of validation metrics in the history."""


def logged_terms(output: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Turn a trainer's output into numbers, for `output_transform` of `StatsHandler` and `TensorBoardStatsHandler`."""
    return {name: value.item() for name, value in _scalars(output).items()}


def _scalars(output: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    return {name: value for name, value in output[0].items() if isinstance(value, Tensor) and value.ndim == 0}


class LossHistory:
    """Average every loss term over an epoch: into `engine.state.metrics` under its own name, and into a CSV file.

    Sums stay on the device within an epoch. Skipped steps are left out of the averages; if there were any, their
    number is under "skipped_steps", or "rescaled_steps" if the loss scale was too high. The rates of the
    epoch's last step are "learning_rate", or "learning_rate_PHASE" if there are several phases, and the metrics of a
    validation are "validation_METRIC". Attach it after `ValidationHandler` and before `StatsHandler` and
    `TensorBoardStatsHandler`, whose epoch logs then show all of these.

    Args:
        path: the CSV file, with one row per epoch; an existing file is continued when the training resumes and
            overwritten when it starts at epoch 1. None writes no file.
        validator: an evaluator whose metrics are added.
    """

    def __init__(self, path: str | Path | None = None, validator: Engine | None = None) -> None:
        self.path = None if path is None else Path(path)
        self.validator = validator
        self._last: set[str] = set()
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        self._before: dict[str, int] = {}

    def attach(self, engine: Engine) -> None:
        """Register on a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        getattr(engine, "kept_within_epoch", {})["history"] = self
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    def state_dict(self) -> dict[str, Any]:
        """The sums of the epoch so far."""
        return {
            "sums": {str(name): value for name, value in self._sums.items()},
            "count": self._count,
            "before": dict(self._before),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue with the sums of a checkpoint."""
        self._sums, self._count, self._before = dict(state["sums"]), state["count"], dict(state["before"])

    def _start(self, engine: Engine) -> None:
        self._sums, self._count = {}, 0
        self._before = self._skipped(engine)

    @staticmethod
    def _skipped(engine: Engine) -> dict[str, int]:
        return {name: getattr(engine.state, name, 0) for name in ("skipped_steps", "rescaled_steps")}

    def _add(self, engine: Engine) -> None:
        if getattr(engine.state, "step_skipped", False):
            return
        for name, value in _scalars(engine.state.output).items():
            self._sums[name] = self._sums[name].to(value) + value if name in self._sums else value.clone()
        self._count += 1

    def _finish(self, engine: Engine) -> None:
        row: dict[str, float] = {name: (total / self._count).item() for name, total in self._sums.items()}
        skipped = {name: count - self._before[name] for name, count in self._skipped(engine).items()}
        row |= {name: count for name, count in skipped.items() if count}
        row |= _rates(engine) | validation_of(self.validator, engine)
        engine.state.metrics = {
            name: value for name, value in engine.state.metrics.items() if name not in self._last
        } | row
        self._last = set(row)
        if self.path is not None:
            _write_row(self.path, {"epoch": engine.state.epoch, **row})


def _rates(engine: Engine) -> dict[str, float]:
    rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in getattr(engine, "optimizers", {}).items()}
    return {"learning_rate" if len(rates) == 1 else f"learning_rate_{name}": rate for name, rate in rates.items()}


def validation_of(validator: Engine | None, engine: Engine) -> dict[str, float]:
    """The metrics of an evaluator that ran in the trainer's epoch, each under "validation_METRIC"."""
    if validator is None or validator.state.epoch != engine.state.epoch:
        return {}
    return {
        f"{VALIDATION}{name}": float(value)
        for name, value in validator.state.metrics.items()
        if isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.numel() == 1)
    }


def _write_row(path: Path, row: Mapping[str, float]) -> None:
    """Put an epoch's row after those of the epochs before it; a later one is from a training that was cut off."""
    rows: list[Mapping[str, Any]] = []
    if path.exists():
        with path.open(newline="") as file:
            rows = [old for old in csv.DictReader(file) if int(old["epoch"]) < row["epoch"]]
    columns = list(dict.fromkeys(name for one in (*rows, row) for name in one))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows([*rows, row])
    atomic_write(path, text.getvalue(), make_parents=True)
