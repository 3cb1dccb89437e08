"""The running average of a method's weights over a training, with which it is validated and used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor

from medtrace.engines.trainer import Trainer
from medtrace.methods.base import Method
from medtrace.methods.common.averaging import move_averages

AVERAGE = "average"
"""Key of the average in a checkpoint."""


class WeightAveraging:
    """Keep the exponential moving average of all weights that the phases of a method step (EMA).

    Validation and the weight files that a run is used with have the average; the training itself continues with the
    weights as they are, and a checkpoint holds both. What a method averages itself is left to it. Update
    n = 0, 1, ... moves the average by 1 − min(decay, (1 + n) / (10 + n)) of the way. List it before `Checkpoint`.

    Args:
        decay: fraction of the average that a step keeps, in [0, 1); 0.999 remembers about a thousand steps.
        validator: an evaluator that is to use the average.

    Raises:
        ValueError: if `decay` is outside [0, 1).
    """

    def __init__(self, decay: float = 0.999, validator: Engine | None = None) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay: expected a fraction in [0, 1), received {decay!r}")
        self.decay = decay
        self.validator = validator
        self.updates = 0
        self._weights: dict[str, Tensor] = {}
        self._averages: dict[str, Tensor] = {}
        self._own: dict[str, Tensor] = {}

    def attach(self, engine: Trainer) -> None:
        """Register on a trainer."""
        self._weights = _stepped(engine.method)
        self._averages = {name: weight.detach().clone() for name, weight in self._weights.items()}
        engine.average = self
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._move)
        if self.validator is not None:
            self.validator.add_event_handler(Events.STARTED, self._take_in)
            self.validator.add_event_handler(Events.COMPLETED, self._take_out)

    def state_dict(self) -> dict[str, Any]:
        """The averages and how often they moved."""
        return {"values": dict(self._averages), "updates": self.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the result of `state_dict`."""
        values = state["values"]
        if values.keys() != self._averages.keys():
            raise ValueError("average: expected the weights of this method")
        for name, average in self._averages.items():
            average.copy_(values[name])
        self.updates = int(state["updates"])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The method has the averages within, and its own weights again after."""
        self._take_in()
        try:
            yield
        finally:
            self._take_out()

    @torch.no_grad()
    def _move(self, engine: Engine) -> None:
        if getattr(engine.state, "step_skipped", False):
            return
        move_averages(self.decay, list(self._averages.values()), list(self._weights.values()), self.updates)
        self.updates += 1

    @torch.no_grad()
    def _take_in(self) -> None:
        self._own = {name: weight.detach().clone() for name, weight in self._weights.items()}
        for name, weight in self._weights.items():
            weight.copy_(self._averages[name])

    @torch.no_grad()
    def _take_out(self) -> None:
        for name, own in self._own.items():
            self._weights[name].copy_(own)
        self._own = {}


def usable_states(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict of a checkpoint's method as it is used: with the averaged weights, where there are some."""
    averages = checkpoint.get(AVERAGE, {}).get("values", {})
    return {**checkpoint.get("method", {}), **averages}


def _stepped(method: Method) -> dict[str, Tensor]:
    """Name in the method's state dict → parameter, of all that some phase steps."""
    stepped = {id(weight) for phase in method.phases for weight in method.parameters_of(phase.name)}
    return {name: value for name, value in method.state_dict(keep_vars=True).items() if id(value) in stepped}
