"""The learning rate over a training, as a function of the iteration alone, so that resuming needs no state."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ignite.engine import Events
from torch.optim import Optimizer

from medtrace.engines.trainer import Trainer


class WarmupCosine:
    """Raise every optimizer's rate linearly to its own value, then lower it to 0 along half a cosine.

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
            _scale(optimizer, factor)


class LinearWarmup:
    """Raise an optimizer's rate linearly to its own value over its first steps, and leave it there.

    Step n of `steps` has the rate's n/`steps`.

    Args:
        steps: for each optimizer, by the name of its phase, how many steps the rise takes; 0 is none. Phases that the
            training does not have are skipped, so that one setting serves several methods.
    """

    def __init__(self, steps: Mapping[str, int]) -> None:
        for name, count in steps.items():
            if count < 0:
                raise ValueError(f"steps of {name}: expected 0 or more, received {count!r}")
        self.steps = dict(steps)

    def attach(self, engine: Trainer) -> None:
        """Register on a trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self._set)

    def _set(self, engine: Trainer) -> None:
        for name, count in self.steps.items():
            if name in engine.optimizers and count:
                _scale(engine.optimizers[name], min(1.0, engine.state.iteration / count))


def _scale(optimizer: Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
