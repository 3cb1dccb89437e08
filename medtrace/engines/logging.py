"""Handlers and transforms that show a training's named loss terms."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from torch import Tensor
from tqdm import tqdm

from medtrace.storage.files import atomic_write


def logged_terms(output: Mapping[str, Any]) -> dict[str, float]:
    """Turn a trainer's output into numbers, for `output_transform` of `StatsHandler` and `TensorBoardStatsHandler`."""
    return {name: value.item() for name, value in _scalars(output).items()}


def _scalars(output: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in output.items() if isinstance(value, Tensor) and value.ndim == 0}


class LossHistory:
    """Average every loss term over an epoch: into `engine.state.metrics` under its own name, and into a CSV file.

    Sums stay on the device within an epoch. Steps that were skipped are left out of the averages; where there were any,
    their number stands under "skipped_steps", or "rescaled_steps" where the loss scale was too high. Attach it before
    `StatsHandler` and `TensorBoardStatsHandler`, whose epoch logs then show the averages.

    Args:
        path: the CSV file, with one row per epoch; a file there is continued when the training resumes and
            written anew when it starts at epoch 1. None writes none.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = None if path is None else Path(path)
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
        engine.state.metrics = {
            name: value for name, value in engine.state.metrics.items() if name not in skipped
        } | row
        if self.path is not None:
            _write_row(self.path, {"epoch": engine.state.epoch, **row})


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


class ProgressBar:
    """One bar over the whole training, with the epoch, the mean loss of the last one, and the number of skipped steps.

    Args:
        description: what stands before the bar.
        disable: show nothing; None shows it on a terminal only.
    """

    def __init__(self, description: str = "training", disable: bool | None = None) -> None:
        self.description = description
        self.disable = disable
        self._bar = tqdm(disable=True)

    def attach(self, engine: Engine) -> None:
        """Register on a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._open)  # by then a resumed training knows where it is
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._advance)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._tell)
        engine.add_event_handler(Events.COMPLETED, self._close)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._abandon)

    def _open(self, engine: Engine) -> None:
        if not self._bar.disable:
            return
        self._bar = tqdm(
            total=engine.state.max_epochs * engine.state.epoch_length,
            initial=engine.state.iteration,
            desc=self.description,
            disable=self.disable,
            unit="step",
            mininterval=0.5,
        )

    def _advance(self, engine: Engine) -> None:
        self._bar.update()
        if getattr(engine.state, "step_skipped", False):
            self._tell(engine)

    def _tell(self, engine: Engine) -> None:
        loss = engine.state.metrics.get("loss")
        values: dict[str, Any] = {} if loss is None else {"loss": f"{loss:.4f}"}
        if skipped := getattr(engine.state, "skipped_steps", 0):
            values["skipped"] = skipped
        self._bar.set_postfix(epoch=f"{engine.state.epoch}/{engine.state.max_epochs}", **values, refresh=False)

    def _close(self, engine: Engine) -> None:
        self._bar.close()

    def _abandon(self, engine: Engine, error: BaseException) -> None:
        self._bar.close()
        raise error
