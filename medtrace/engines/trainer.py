"""One trainer for every objective: it steps the phases in order and knows no method."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from monai.engines import Trainer as MonaiTrainer
from monai.engines.utils import IterationEvents
from monai.engines.workflow import Workflow
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor, nn
from torch.optim import Optimizer

from medtrace.engines.evaluator import to_device
from medtrace.objectives import Objective, Phase


class Trainer(MonaiTrainer):
    """Train any `Objective`: for each phase zero, forward, sum with weights, backward, clip, step; then `after_step`.

    While a phase runs, only its own parameters require gradients, so that a generator's backward fills no
    gradient of a discriminator. `engine.state.output` is {"loss": sum over phases, term: value, ...}, detached
    and left on the device.

    Args:
        device: where the objective lies and where batches are moved.
        max_epochs: epochs to train.
        train_data_loader: loader of dict batches.
        objective: the method.
        optimizers: one optimiser per phase name, over `objective.parameters_of(name)`.
        epoch_length: iterations per epoch, by default the loader's length.
        train_handlers: MONAI or ignite handlers (`StatsHandler`, `CheckpointSaver`, `ValidationHandler`, ...).
        max_gradient_norm: clip each phase's gradient to this norm; None leaves it.
        amp: run forwards under autocast on the device; float16 on CUDA is loss-scaled.
        amp_kwargs: arguments of `torch.autocast`, such as {"dtype": torch.bfloat16}.
        workflow: `event_names`, `event_to_attr` and other arguments of MONAI's `Workflow`.

    Raises:
        ValueError: if the optimisers' names are not the phases' names, or a loss is not finite.
    """

    def __init__(
        self,
        device: str | torch.device,
        max_epochs: int,
        train_data_loader: Iterable,
        objective: Objective,
        optimizers: Mapping[str, Optimizer],
        epoch_length: int | None = None,
        train_handlers: Sequence | None = None,
        max_gradient_norm: float | None = None,
        amp: bool = False,
        amp_kwargs: dict | None = None,
        **workflow: Any,
    ) -> None:
        names = [phase.name for phase in objective.phases]
        if set(optimizers) != set(names):
            raise ValueError(
                f"optimizers: expected one for each phase {names}, received {sorted(optimizers)}; build each over"
                " objective.parameters_of(phase)"
            )
        terms = [term for phase in objective.phases for term in phase.weights]
        if len(set(terms)) != len(terms) or Keys.LOSS in terms:
            raise ValueError(f"objective: expected distinct term names other than 'loss', received {terms}")
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            data_loader=train_data_loader,
            epoch_length=epoch_length,
            amp=amp,
            amp_kwargs=amp_kwargs,
            decollate=False,
            **workflow,
        )
        self.objective = objective
        self.optimizers = dict(optimizers)
        self.max_gradient_norm = max_gradient_norm
        dtype = self.amp_kwargs.get("dtype", torch.get_autocast_dtype(self.state.device.type))
        self.loss_scaler = torch.amp.GradScaler(
            self.state.device.type, enabled=amp and self.state.device.type == "cuda" and dtype == torch.float16
        )

        if train_handlers is not None:
            self._register_handlers(train_handlers)  # they may ask for what is set above

    def run(self) -> None:
        """Train to `max_epochs`; a second call goes on from there."""
        Workflow.run(self)  # MONAI's Trainer.run would make a CUDA loss scaler of its own

    def checkpoint_items(self) -> dict[str, Any]:
        """What a checkpoint must hold to resume: pass it to `CheckpointSaver` and `CheckpointLoader`."""
        optimizers = {f"optimizer_{name}": optimizer for name, optimizer in self.optimizers.items()}
        return {"objective": self.objective, "trainer": self, "loss_scaler": self.loss_scaler, **optimizers}

    def _autocast(self) -> AbstractContextManager:
        return torch.autocast(self.state.device.type, enabled=self.amp, **self.amp_kwargs)

    def _iteration(self, engine: Any, batchdata: Mapping[str, Any]) -> dict[str, Tensor]:
        batch = to_device(batchdata, self.state.device, self.non_blocking)
        self.objective.train()
        carried: dict[str, Any] = {}
        output: dict[str, Tensor] = {}
        losses = []
        for phase in self.objective.phases:
            parameters = list(self.objective.parameters_of(phase.name))
            with _only_these_learn(self.objective, parameters):
                terms = self._step(phase, parameters, batch, carried)
            if terms:
                losses.append(terms.pop(Keys.LOSS))
                output.update(terms)
        self.objective.after_step()
        engine.state.output = {Keys.LOSS: torch.stack(losses).sum(), **output}
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output

    def _step(
        self, phase: Phase, parameters: list[nn.Parameter], batch: Mapping[str, Any], carried: dict[str, Any]
    ) -> dict[str, Tensor]:
        optimizer = self.optimizers[phase.name]
        optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            terms = self.objective.terms(phase.name, batch, carried)
            if not terms:
                return {}
            loss = phase.total(terms)
        self.fire_event(IterationEvents.LOSS_COMPLETED)
        if not torch.isfinite(loss):
            values = {name: value.item() for name, value in terms.items()}
            raise ValueError(
                f"loss of phase {phase.name!r}: expected a finite number, received {values} at iteration"
                f" {self.state.iteration}; look for NaN in the images, or lower the learning rate"
            )
        self.loss_scaler.scale(loss).backward()
        self.fire_event(IterationEvents.BACKWARD_COMPLETED)
        if self.max_gradient_norm is not None:
            self.loss_scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(parameters, self.max_gradient_norm)
        self.loss_scaler.step(optimizer)
        self.loss_scaler.update()
        return {Keys.LOSS: loss.detach(), **{name: value.detach() for name, value in terms.items()}}


@contextmanager
def _only_these_learn(objective: nn.Module, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    own = {id(parameter) for parameter in parameters}
    others = [p for p in objective.parameters() if p.requires_grad and id(p) not in own]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)
