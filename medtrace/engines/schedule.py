"""The learning rate over a training, as a function of the iteration alone, so that resuming needs no state."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

from ignite.engine import Events
from torch.optim import Optimizer

from medtrace.checks import check_choice
from medtrace.engines.trainer import Trainer

Shape = Literal["cosine", "linear", "polynomial"]
SHAPES: Mapping[str, Callable[[float], float]] = {
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "linear": lambda done: 1 - done,
    "polynomial": lambda done: (1 - done) ** 0.9,
}


class WarmupDecay:
    """Raise every optimizer's rate linearly to its own value, then lower it over all of the training.

    With t the fraction of the training that is done, the rate falls as (1 + cos πt)/2 (`cosine`), 1 − t (`linear`) or
    (1 − t)^0.9 (`polynomial`, as in nnU-Net).

    Args:
        shape: shape of the decay.
        warmup: fraction of the training that the rise takes, in [0, 1).
        final: fraction of the rate that is left at the end, in [0, 1].
    """

    def __init__(self, shape: Shape = "cosine", warmup: float = 0.05, final: float = 0.0) -> None:
        check_choice("shape", shape, SHAPES)
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup: expected a fraction in [0, 1), received {warmup!r}")
        if not 0 <= final <= 1:
            raise ValueError(f"final: expected a fraction in [0, 1], received {final!r}")
        self.shape = shape
        self.warmup = warmup
        self.final = final

    def attach(self, engine: Trainer) -> None:
        """Register on a trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self._set)

    def factor(self, done: float) -> float:
        """The rate's factor when the fraction `done` of the training is done."""
        rise = min(1.0, done / self.warmup) if self.warmup else 1.0
        return rise * (self.final + (1 - self.final) * SHAPES[self.shape](done))

    def _set(self, engine: Trainer) -> None:
        factor = self.factor((engine.state.iteration - 1) / (engine.state.max_epochs * engine.state.epoch_length))
        for optimizer in engine.optimizers.values():
            _scale(optimizer, factor)


class WarmupCosine(WarmupDecay):
    """`WarmupDecay` along half a cosine to 0.

    Args:
        warmup: fraction of the training that the rise takes, in [0, 1).
    """

    def __init__(self, warmup: float = 0.05) -> None:
        super().__init__("cosine", warmup)


class LinearWarmup:
    """Raise an optimizer's rate linearly to its own value over its first steps, and leave it there.

    Step n of `steps` uses n/`steps` of the rate.

    Args:
        steps: for each optimizer, by the name of its phase, how many steps the rise takes; 0 means none. Phases that
            the training does not have are skipped, so that one setting serves several methods.
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
