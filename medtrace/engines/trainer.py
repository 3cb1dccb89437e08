"""One trainer for every method: it steps the phases in order and knows no method."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from itertools import islice
from typing import Any

import torch
from ignite.engine import Events
from monai.engines import Trainer as MonaiTrainer
from monai.engines.utils import IterationEvents
from monai.engines.workflow import Workflow
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import RandomSampler, WeightedRandomSampler

from medtrace.checks import DeferredChecks
from medtrace.engines.accumulation import parts_of
from medtrace.engines.evaluator import to_device
from medtrace.engines.finite_checks import (
    DIVERGED,
    DIVERGED_BY,
    DOUBTFUL_BY,
    LOGGER,
    DivergedError,
    ModuleMemory,
    SkipLimit,
    all_finite,
    batch_names,
    finite_and_bounded,
    gradient_norm,
    too_many,
)
from medtrace.engines.interruption import place
from medtrace.engines.pace import Pace
from medtrace.engines.randomness import ORDER, STEPS, derived_seed, seed_generators
from medtrace.engines.within_epoch import restore_within_epoch
from medtrace.methods.base import Method, Phase

COUNTS = ("skipped_steps", "skipped_in_a_row", "rescaled_steps")


class Trainer(MonaiTrainer):
    """Train any `Method`: for each phase zero, forward, sum with weights, backward; then step all; `after_step`.

    While a phase runs, only its own parameters require gradients, so a generator's backward pass fills no
    gradient of a discriminator. `engine.state.output` is [{"loss": sum over phases, term: value, ...}], detached
    and left on the device: a list, as MONAI's handlers expect of a trainer.

    If a loss or a gradient norm of a step is not finite on some process, all phases skip the step: weights, optimizers,
    buffers and what `after_step` moves stay as they were. It is counted in `engine.state.skipped_steps` and reported
    by the logger "medtrace.training"; too many (`skip_limit`), or an epoch with no other steps, end the training. For
    this, and for the checks of intensities, the device is read once per step, after the backward passes of all phases.
    Under loss scaling, an overflow of a finite loss's gradient is part of finding the scale: while the scale is 1 or
    more, it counts in `engine.state.rescaled_steps` instead, without limit.

    Before each epoch the global generators are seeded from (seed, epoch, process), `set_epoch` is called on the
    loader's dataset if it has one (`medtrace.data.DeterministicDataset`), and a new pass over the loader begins: a
    training that is resumed at an epoch continues as if it had not stopped. Within an epoch (`resume_within_epoch`) it
    skips the batches that it has seen, and restores the generators' states.

    Args:
        device: device of the method, to which batches are moved.
        max_epochs: epochs to train.
        train_data_loader: loader of dict batches.
        method: the method.
        optimizers: one optimizer per phase name, over `method.parameters_of(name)`.
        epoch_length: iterations per epoch, by default the loader's length.
        train_handlers: MONAI or ignite handlers (`StatsHandler`, `CheckpointSaver`, `ValidationHandler`, ...).
        max_gradient_norm: clip each phase's gradient to this norm; None does not clip.
        accumulate: pass each batch through the networks in this many parts, whose gradients add up to the batch's: the
            same step with less memory, if a loss is a mean over the batch's items.
        seed: seed of all random draws, 0 or more; None uses the one that torch was seeded with.
        skip_limit: how many skipped steps end the training; None is `SkipLimit()`.
        amp: run forward passes under autocast on the device; float16 on CUDA is loss-scaled.
        amp_kwargs: arguments of `torch.autocast`, such as {"dtype": torch.bfloat16}.
        workflow: `event_names`, `event_to_attr` and other arguments of MONAI's `Workflow`.

    Raises:
        ValueError: if the optimizers' names are not the phases' names, or too many steps had to be skipped.
    """

    def __init__(
        self,
        device: str | torch.device,
        max_epochs: int,
        train_data_loader: Iterable,
        method: Method,
        optimizers: Mapping[str, Optimizer],
        epoch_length: int | None = None,
        train_handlers: Sequence | None = None,
        max_gradient_norm: float | None = None,
        accumulate: int = 1,
        seed: int | None = None,
        skip_limit: SkipLimit | None = None,
        amp: bool = False,
        amp_kwargs: dict | None = None,
        **workflow: Any,
    ) -> None:
        names = [phase.name for phase in method.phases]
        if set(optimizers) != set(names):
            raise ValueError(
                f"optimizers: expected one for each phase {names}, received {sorted(optimizers)}; build each over"
                " method.parameters_of(phase)"
            )
        terms = [term for phase in method.phases for term in phase.weights]
        if len(set(terms)) != len(terms) or Keys.LOSS in terms:
            raise ValueError(f"method: expected distinct term names other than 'loss', received {terms}")
        if accumulate < 1:
            raise ValueError(f"accumulate: expected 1 or more, received {accumulate!r}")
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
        self.method = method
        self.optimizers = dict(optimizers)
        self.max_gradient_norm = max_gradient_norm
        self.accumulate = accumulate
        self.average: Any = None
        """The `WeightAveraging` of this training, if there is one."""
        self.pace = Pace()
        self.best: Any = None
        """The best validation so far, where `BestWeights` looks for it."""
        self.stopped_early = False
        self.when_ready: list[Callable[[Trainer], None]] = []
        """Called when a run has started and what it resumes from is loaded."""
        self.seed = torch.initial_seed() if seed is None else seed
        self.skip_limit = SkipLimit() if skip_limit is None else skip_limit
        dtype = self.amp_kwargs.get("dtype", torch.get_autocast_dtype(self.state.device.type))
        self.loss_scaler = torch.amp.GradScaler(
            self.state.device.type, enabled=amp and self.state.device.type == "cuda" and dtype == torch.float16
        )
        self.while_running = ExitStack()
        """Resources that handlers keep until the run ends, however it ends."""
        self.kept_within_epoch: dict[str, Any] = {}
        """Handlers with `state_dict` and `load_state_dict` that keep something from step to step of an epoch."""
        self.stop_signal: int | None = None
        """The signal that asked the training to end."""
        self.between_epochs = False
        """Whether an epoch's last step is done and the next one's first has not begun."""
        self.step_taken = False
        """Whether the epoch has a step that was not skipped."""
        self._resumed: Mapping[str, Any] | None = None
        self._last_skip = ""
        self._first_loss = 0.0
        self._memory = ModuleMemory(method)
        self.state.step_skipped = False
        for name in COUNTS:
            setattr(self.state, name, 0)
            self.state_dict_user_keys.append(name)
        self.add_event_handler(Events.EPOCH_STARTED, Trainer._begin_epoch)
        self.add_event_handler(Events.EPOCH_COMPLETED, Trainer._check_epoch)
        if train_handlers is not None:
            self._register_handlers(train_handlers)  # they may need what is set above
        self.add_event_handler(Events.STARTED, Trainer._tell_ready)
        self.add_event_handler(Events.STARTED, Trainer._complete_epoch)  # after those of the handlers
        self.add_event_handler(Events.EPOCH_STARTED, Trainer._continue_epoch)
        self.add_event_handler(Events.ITERATION_STARTED, Trainer._between, False)
        self.add_event_handler(Events.COMPLETED, Trainer._between, False)

    def run(self) -> None:
        """Train to `max_epochs`; a second call continues from there.

        The global generators are left as determined by (seed, `max_epochs`, process), even if nothing was trained.
        """
        self.pace = Pace()
        with self.while_running:
            Workflow.run(self)  # MONAI's Trainer.run would create its own CUDA loss scaler
        self._seed_steps(self.state.max_epochs + 1)

    def resume_within_epoch(self, state: Mapping[str, Any]) -> None:
        """Continue at the step behind the one at which `state_within_epoch` was asked; from a handler of STARTED."""
        self._resumed = state
        whole = state["steps"] == state["length"]
        self.state.epoch = state["epoch"] if whole else state["epoch"] - 1
        self.state.iteration = (state["epoch"] - 1) * state["length"] + state["steps"]

    def _complete_epoch(self) -> None:
        """Do what follows an epoch of which all steps were taken before the training stopped."""
        if self._resumed is not None and self._resumed["steps"] == self._resumed["length"]:
            restore_within_epoch(self, self._resumed)
            self._resumed, self.between_epochs = None, True
            self.fire_event(Events.EPOCH_COMPLETED)

    def _continue_epoch(self) -> None:
        """Pass over the batches that the epoch has seen before the training stopped."""
        if self._resumed is not None:
            for _ in islice(self._dataloader_iter, self._resumed["steps"]):
                pass
            self._init_iter = self._resumed["steps"]
            restore_within_epoch(self, self._resumed)
            self._resumed = None

    def _between(self, between: bool) -> None:
        self.between_epochs = between

    def checkpoint_items(self) -> dict[str, Any]:
        """The state needed to resume, as written and read by `Checkpoint`."""
        optimizers = {f"optimizer_{name}": optimizer for name, optimizer in self.optimizers.items()}
        average = {} if self.average is None else {"average": self.average}
        return {"method": self.method, "trainer": self, "loss_scaler": self.loss_scaler, **optimizers, **average}

    def as_used(self) -> AbstractContextManager:
        """The method has within the weights that it is used with: the averaged ones, where the training keeps some."""
        return nullcontext() if self.average is None else self.average.in_place()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the progress from a checkpoint."""
        super().load_state_dict({**dict.fromkeys(COUNTS, 0), **state_dict})

    def _seed_steps(self, epoch: int) -> None:
        seed_generators(derived_seed(self.seed, STEPS, epoch, self.state.rank))

    def _tell_ready(self) -> None:
        for function in self.when_ready:
            function(self)

    def _begin_epoch(self) -> None:
        set_epoch = getattr(getattr(self.data_loader, "dataset", None), "set_epoch", None)
        if set_epoch is not None:
            set_epoch(self.state.epoch)
        self.pace.begin(self.state.iteration)
        self._order_cases()
        self._seed_steps(self.state.epoch)
        self.set_data(self.data_loader)
        self._seed_steps(self.state.epoch)  # new workers drew a number, persistent ones did not
        self.step_taken, self._last_skip = False, "the loss scale was too high"

    def _order_cases(self) -> None:
        """Let torch's samplers draw from (seed, epoch)."""
        batches = getattr(self.data_loader, "batch_sampler", None)
        sampler = getattr(batches, "sampler", getattr(self.data_loader, "sampler", None))
        if isinstance(sampler, (RandomSampler, WeightedRandomSampler)):
            sampler.generator = torch.Generator().manual_seed(derived_seed(self.seed, ORDER, self.state.epoch))

    def _check_epoch(self) -> None:
        if not self.step_taken:
            raise ValueError(too_many(f"every step of epoch {self.state.epoch}", self._last_skip))

    def _autocast(self) -> AbstractContextManager:
        return torch.autocast(self.state.device.type, enabled=self.amp, **self.amp_kwargs)

    def _iteration(self, engine: Any, batchdata: Mapping[str, Any]) -> list[dict[str, Tensor]]:
        batch = to_device(batchdata, self.state.device, self.non_blocking)
        self.method.train()
        self._memory.remember()
        try:
            losses, norms, output = self._go_back(batch)
        except ValueError as error:
            raise ValueError(f"{error} (in the batch of {batch_names(batchdata)})") from error
        finite, bounded = finite_and_bounded([*losses, *norms.values()], losses, self._loss_limit())
        if finite and not bounded:
            raise DivergedError(self._divergence(output, batchdata))
        if finite:
            self._first_loss = self._first_loss or max(1.0, *(abs(float(loss)) for loss in losses))
            self._step(norms)
        else:
            self._skip(losses, output, norms, batchdata)
        engine.state.output = [{Keys.LOSS: torch.stack(losses).sum(), **output}]
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output

    def try_step(self, batchdata: Mapping[str, Any]) -> None:
        """Go forward and back with a batch, without a step of the optimizers; buffers are put back."""
        self.method.train()
        self._memory.remember()
        try:
            self._go_back(to_device(batchdata, self.state.device))
        finally:
            self._memory.recall()

    def _go_back(self, batch: Mapping[str, Any]) -> tuple[list[Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Leave the gradients of all phases; their losses, the norms of their gradients by name, and all terms."""
        output: dict[str, Tensor] = {}
        losses: dict[str, Tensor] = {}
        deferred = DeferredChecks()
        for phase in self.method.phases:
            self.optimizers[phase.name].zero_grad(set_to_none=True)
        for fraction, part in parts_of(batch, self.accumulate):
            context: dict[str, Any] = {}
            for phase in self.method.phases:
                parameters = list(self.method.parameters_of(phase.name))
                shared = [p for path in phase.shared for p in self.method.get_submodule(path).parameters()]
                with _only_these_learn(self.method, [*parameters, *shared]), deferred:
                    terms = self._backward(phase, parameters, part, context, fraction)
                if terms:
                    _add(losses, {phase.name: terms.pop(Keys.LOSS)}, fraction)
                    _add(output, terms, fraction)
        norms = {name: self._clipped(name) for name in losses}
        deferred.look()
        return list(losses.values()), norms, output

    def _backward(
        self,
        phase: Phase,
        parameters: Sequence[nn.Parameter],
        batch: Mapping[str, Any],
        context: dict[str, Any],
        fraction: float,
    ) -> dict[str, Tensor]:
        """A phase's terms and, as "loss", their sum, a fraction of whose gradient is added to the parameters'."""
        with self._autocast():
            terms = self.method.terms(phase.name, batch, context)
            if not terms:
                return {}
            loss = phase.total(terms)
        self.fire_event(IterationEvents.LOSS_COMPLETED)
        # A graph that phases share leads on to other phases' networks: no backward pass goes beyond the phase's own.
        fractions = any(other.shared for other in self.method.phases)
        learning = [parameter for parameter in parameters if parameter.requires_grad] if fractions else None
        self.loss_scaler.scale(loss * fraction if fraction < 1 else loss).backward(
            inputs=learning, retain_graph=bool(phase.shared)
        )
        self.fire_event(IterationEvents.BACKWARD_COMPLETED)
        return {Keys.LOSS: loss.detach(), **{name: value.detach() for name, value in terms.items()}}

    def _clipped(self, phase: str) -> Tensor:
        """Undo the loss scale of a phase's gradient, clip it, and give its norm before clipping."""
        parameters = list(self.method.parameters_of(phase))
        self.loss_scaler.unscale_(self.optimizers[phase])
        norm = gradient_norm(parameters)
        if self.max_gradient_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.max_gradient_norm, norm)
        return norm

    def _step(self, phases: Iterable[str]) -> None:
        for name in phases:
            self.optimizers[name].step()  # the scaler's own step would read from the device again
        self.loss_scaler.update()
        self.method.after_step()
        self.state.skipped_in_a_row = 0
        self.state.step_skipped, self.step_taken = False, True

    def _loss_limit(self) -> float:
        return min(DIVERGED, DIVERGED_BY * self._first_loss) if self._first_loss else DIVERGED

    @property
    def is_doubtful(self) -> bool:
        """Whether the last step's loss is so far above the first one's that its weights are hardly worth keeping."""
        loss = float(self.state.output[0][Keys.LOSS]) if self.state.output else 0.0
        return not abs(loss) < DOUBTFUL_BY * (self._first_loss or DIVERGED)

    def _divergence(self, terms: Mapping[str, Tensor], batch: Mapping[str, Any]) -> str:
        values = {name: value.item() for name, value in terms.items()}
        worst = max(values, key=lambda name: abs(values[name]))
        phase = next(phase.name for phase in self.method.phases if worst in phase.weights)
        rate = self.optimizers[phase].param_groups[0]["lr"]
        before = f", where the first step had a loss of {self._first_loss:.3g} or less" if self._first_loss else ""
        return (
            f"loss: the training has diverged: {worst} is {values[worst]:.3g} at {place(self)}{before} (batch of"
            f" {batch_names(batch)}); lower the learning rate of {phase} (now {rate:.3g}), let it rise over"
            " warmup_steps, or set training.max_gradient_norm"
        )

    def _skip(
        self,
        losses: Sequence[Tensor],
        terms: Mapping[str, Tensor],
        norms: Mapping[str, Tensor],
        batch: Mapping[str, Any],
    ) -> None:
        """Leave everything as it was before the step, and count."""
        self._memory.recall()
        self.state.step_skipped = True
        scaling = self.loss_scaler.is_enabled()
        rescaled = scaling and self.loss_scaler.get_scale() >= 1 and all_finite(losses)
        self.loss_scaler.update()
        if rescaled:
            self.state.rescaled_steps += 1
            return
        self.state.skipped_steps += 1
        self.state.skipped_in_a_row += 1
        values = {name: value.item() for name, value in terms.items()}
        values |= {f"gradient of {name}": norm.item() for name, norm in norms.items()}
        told = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        self._last_skip = f"{told} at iteration {self.state.iteration}, of {batch_names(batch)}"
        LOGGER.warning("step skipped: %s", self._last_skip)
        self.skip_limit.check(self.state.skipped_in_a_row, self.state.skipped_steps, self._last_skip)


def _add(totals: dict[str, Tensor], values: Mapping[str, Tensor], fraction: float) -> None:
    for name, value in values.items():
        part = value * fraction if fraction < 1 else value
        totals[name] = totals[name] + part if name in totals else part


@contextmanager
def _only_these_learn(method: nn.Module, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    own = {id(parameter) for parameter in parameters}
    others = [p for p in method.parameters() if p.requires_grad and id(p) not in own]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)
