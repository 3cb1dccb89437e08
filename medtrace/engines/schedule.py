"""The learning rate over a training, as a function of the iteration alone, so that resuming needs no state."""

from __future__ import annotations

import math

from ignite.engine import Events

from medtrace.engines.trainer import Trainer


class WarmupCosine:
    """Raise every optimiser's rate linearly to its own value, then lower it to 0 along half a cosine.

    Args:
        warmup: share of the training that the rise takes, in [0, 1).
    """

    def __init__(self, warmup: float = 0.05) -> None:
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup: expected a share in [0, 1), received {warmup!r}")
        self.warmup = warmup

    def attach(self, engine: Trainer) -> None:
        """Register on a trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self._set)

    def factor(self, done: float) -> float:
        """The rate's factor when the share `done` of the training is done."""
        rise = min(1.0, done / self.warmup) if self.warmup else 1.0
        return rise * 0.5 * (1 + math.cos(math.pi * done))

    def _set(self, engine: Trainer) -> None:
        factor = self.factor((engine.state.iteration - 1) / (engine.state.max_epochs * engine.state.epoch_length))
        for optimizer in engine.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
