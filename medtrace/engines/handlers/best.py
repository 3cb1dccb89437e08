"""The weights of the best validation, and the end of a training that gets no better."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import NamedTuple

from ignite.engine import Engine, Events
from safetensors import SafetensorError, safe_open

from medtrace.engines.runs import BEST, save_weights
from medtrace.engines.trainer import Trainer
from medtrace.storage.files import remove

_FACTS = "best"


class Best(NamedTuple):
    """The validation that no other was better than."""

    metric: str
    value: float
    epoch: int

    def __str__(self) -> str:
        return f"{self.metric} {self.value:.4g}, epoch {self.epoch}"


class BestWeights:
    """Write the weights of the best validation so far to `checkpoints/best.safetensors`; stop when none gets better.

    The validator's key metric and its `metric_cmp_fn` decide which is best. The file records the metric, value and
    epoch of its weights; a resumed training continues from this record. Attach it after `ValidationHandler`
    and before `Checkpoint`. In a process group rank 0 writes, and all ranks stop together.

    Args:
        run: the run folder.
        validator: the evaluator.
        patience: epochs without a better validation after which the training ends; None never ends it.
    """

    def __init__(self, run: str | os.PathLike, validator: Engine, patience: int | None = None) -> None:
        if patience is not None and patience < 1:
            raise ValueError(f"patience: expected 1 or more, received {patience!r}")
        self.run = Path(run)
        self.validator = validator
        self.patience = patience

    def attach(self, engine: Trainer) -> None:
        """Register on a trainer."""
        engine.when_ready.append(self._start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._look)

    def _start(self, engine: Trainer) -> None:
        engine.best = best_of(self.run) if engine.state.epoch else None
        engine.stopped_early = False
        if engine.best is None and engine.state.rank == 0:
            remove(self.run / BEST)
        self._stop_if_no_better(engine)

    def _look(self, engine: Trainer) -> None:
        state = self.validator.state
        if state.epoch == engine.state.epoch:
            name = state.key_metric_name
            value = float(state.metrics[name])
            better = engine.best is None or self.validator.metric_cmp_fn(value, engine.best.value)
            if better and math.isfinite(value):
                engine.best = Best(name, value, engine.state.epoch)
                if engine.state.rank == 0:
                    with engine.as_used():
                        save_weights(engine.method, self.run, BEST, {_FACTS: json.dumps(engine.best._asdict())})
        self._stop_if_no_better(engine)

    def _stop_if_no_better(self, engine: Trainer) -> None:
        if self.patience is None or engine.best is None:
            return
        if engine.state.epoch - engine.best.epoch >= self.patience:
            engine.stopped_early = True
            engine.terminate()


def best_of(run: str | os.PathLike) -> Best | None:
    """The record stored with a run's best weights; None if there are none that can be read."""
    try:
        with safe_open(Path(run) / BEST, "pt") as file:
            facts = json.loads((file.metadata() or {})[_FACTS])
        return Best(str(facts["metric"]), float(facts["value"]), int(facts["epoch"]))
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        return None
