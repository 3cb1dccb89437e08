"""Handlers of an `Evaluator` that write what it finds: scores per case, and traces."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from medtrace.io import save_trace
from medtrace.metrics import CaseTable
from medtrace.storage.files import make_directory
from medtrace.trace import Trace
from medtrace.workflows.scoring import score


class CaseScores:
    """Score every case of an evaluation, as `medtrace evaluate` does.

    At the end `cases.csv` has one row per case and `summary.csv` n, mean, SD and median of every column (see
    `medtrace.workflows.scoring.score_cases`); the means are in `engine.state.metrics` too.

    Args:
        folder: where the tables go.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        self.table = CaseTable()

    def attach(self, engine: Engine) -> None:
        """Register on an evaluator."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    def _start(self, engine: Engine) -> None:
        self.table = CaseTable()

    def _add(self, engine: Engine) -> None:
        batch = engine.state.batch
        if "target" not in batch:
            raise ValueError("batch: expected a 'target' to score against, received none; evaluate on pairs")
        for item, (name, trace) in enumerate(_named_traces(engine)):
            truth = batch["ddf"][item] if "ddf" in batch else None
            self.table.add(name, score(trace.to("cpu"), batch["target"][item], truth))

    def _finish(self, engine: Engine) -> None:
        self.table.write_csv(self.folder / "cases.csv")
        self.table.write_summary(self.folder / "summary.csv")
        for column, summary in self.table.summary().items():
            engine.state.metrics.setdefault(column, summary.mean)


class TraceSaver:
    """Save the trace of every case into a folder of its own (see `medtrace.io.save_trace`).

    Args:
        folder: the folders' parent, made where it is missing; a case is called by its entry "case" or counted.
        method: name of the method, kept with the trace.
        overwrite: replace traces of an earlier run.
    """

    def __init__(self, folder: str | os.PathLike, method: str | None = None, overwrite: bool = False) -> None:
        self.folder = Path(folder)
        self.method = method
        self.overwrite = overwrite

    def attach(self, engine: Engine) -> None:
        """Register on an evaluator."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._save)

    def _save(self, engine: Engine) -> None:
        make_directory(self.folder)
        for name, trace in _named_traces(engine):
            if Path(name).name != name:
                raise ValueError(f"case: expected a name that can be a folder's, received {name!r}; rename the case")
            save_trace(trace.to("cpu"), self.folder / name, method=self.method, overwrite=self.overwrite)


def _named_traces(engine: Engine) -> list[tuple[str, Trace]]:
    batch: Mapping[str, Any] = engine.state.batch
    traces: Sequence[Trace] = engine.state.output["traces"]
    first = (engine.state.iteration - 1) * engine.state.dataloader.batch_size if "case" not in batch else 0
    names = batch.get("case", [f"case-{first + item:04d}" for item in range(len(traces))])
    return list(zip(map(str, names), traces))
