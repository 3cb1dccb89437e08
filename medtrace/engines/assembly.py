"""Optimizers, loaders, trainer and evaluator of a method from its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.data import DataLoader
from monai.handlers import MeanAbsoluteError, TensorBoardStatsHandler, ValidationHandler, from_engine
from torch.optim import Adam, Optimizer

from medtrace.engines.acceleration import Acceleration
from medtrace.engines.averaging import WeightAveraging
from medtrace.engines.checkpoint import Checkpoint
from medtrace.engines.evaluator import Evaluator
from medtrace.engines.handlers.best import BestWeights
from medtrace.engines.handlers.progress import LOG, ProgressBar
from medtrace.engines.handlers.tracking import Tracking, writes_tensorboard
from medtrace.engines.logging import LossHistory
from medtrace.engines.schedule import LinearWarmup, WarmupDecay
from medtrace.engines.trainer import Trainer
from medtrace.methods.base import Method
from medtrace.methods.settings import MethodSettings, OptimizerSettings

Units = Callable[[torch.Tensor], torch.Tensor]
HISTORY = "history.csv"
TENSORBOARD = "tensorboard"
CHECKPOINTS = "checkpoints"


def build_optimizer(method: Method, phase: str, settings: OptimizerSettings) -> Adam:
    """Adam over the parameters that a phase steps, in groups by the fraction of the rate that they learn at."""
    return Adam(
        _groups(method, phase, settings.learning_rate),
        lr=settings.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        fused=settings.fused,
    )


def _groups(method: Method, phase: str, rate: float) -> list[dict[str, Any]]:
    """Those at the whole rate first, then one group for each entry of the phase's `rates`."""
    rates = method.phase(phase).rates
    slower = {id(p): path for path in rates for p in method.get_submodule(path).parameters()}
    groups: dict[str, list[torch.nn.Parameter]] = {"": [], **{path: [] for path in rates}}
    for parameter in method.parameters_of(phase):
        groups[slower.get(id(parameter), "")].append(parameter)
    return [{"params": params, "lr": rate * rates.get(path, 1.0)} for path, params in groups.items()]


def build_optimizers(method: Method, settings: MethodSettings) -> dict[str, Optimizer]:
    """One optimizer per phase."""
    return {phase: build_optimizer(method, phase, chosen) for phase, chosen in settings.optimizers().items()}


def autocast_arguments(settings: MethodSettings) -> dict[str, Any]:
    """Arguments of `torch.autocast` that settings ask for."""
    dtype = settings.training.amp_dtype
    return {} if dtype is None else {"dtype": getattr(torch, dtype)}


def warmup_steps(settings: MethodSettings) -> dict[str, int]:
    """Steps over which each phase's rate rises."""
    return {phase: optimizer.warmup_steps for phase, optimizer in settings.optimizers().items()}


def build_schedule(settings: MethodSettings) -> LinearWarmup | WarmupDecay:
    """The handler that sets the learning rates."""
    training = settings.training
    if training.schedule == "constant":
        return LinearWarmup(warmup_steps(settings))
    return WarmupDecay(training.schedule, training.warmup, training.final_rate)


def build_trainer(
    method: Method,
    settings: MethodSettings,
    loader: DataLoader,
    optimizers: Mapping[str, Optimizer],
    run_dir: str | Path,
    device: torch.device,
    *,
    resume: bool = False,
    validator: Evaluator | None = None,
    handlers: tuple[Any, ...] = (),
) -> Trainer:
    """The trainer of a run, with its handlers.

    Args:
        method: on its device.
        settings: settings of the training.
        loader: loader of training batches.
        optimizers: phase → optimizer.
        run_dir: receives `history.csv`, `tensorboard/` and `checkpoints/`.
        device: device of the method.
        resume: continue from the newest checkpoint.
        validator: run every `training.val_interval` epochs.
        handlers: further handlers, after the others.
    """
    run_dir, training = Path(run_dir), settings.training
    validates = validator is not None and training.val_interval > 0
    chosen: list[Any] = []
    if training.ema_decay is not None:
        chosen.append(WeightAveraging(training.ema_decay, validator))
    if validates:
        chosen.append(ValidationHandler(training.val_interval, validator, epoch_level=True))
        chosen.append(BestWeights(run_dir, validator, training.early_stopping))
    if leads():
        chosen.append(LossHistory(run_dir / HISTORY, validator))
        if writes_tensorboard():
            board = TensorBoardStatsHandler(log_dir=str(run_dir / TENSORBOARD), iteration_log=False, epoch_log=True)
            chosen.append(board)
        chosen.append(ProgressBar(method.title or type(method).__name__, log=run_dir / LOG))
        chosen.append(Tracking(training.tracking, run_dir, settings.model_dump(mode="json")))
    chosen.append(
        Checkpoint(run_dir / CHECKPOINTS, training.checkpoint_interval, resume, minutes=training.checkpoint_minutes)
    )
    chosen.append(build_schedule(settings))
    chosen.append(Acceleration(channels_last=training.channels_last, compile=training.compile))
    return Trainer(
        device=device,
        max_epochs=training.max_epochs,
        train_data_loader=loader,
        method=method,
        optimizers=optimizers,
        train_handlers=[*chosen, *handlers],
        max_gradient_norm=training.max_gradient_norm,
        accumulate=training.accumulate,
        seed=training.seed,
        amp=training.amp,
        amp_kwargs=autocast_arguments(settings),
        non_blocking=True,
    )


def build_evaluator(
    method: Method,
    settings: MethodSettings,
    loader: DataLoader,
    device: torch.device,
    handlers: tuple[Any, ...] = (),
    units: Units | None = None,
) -> Evaluator:
    """An evaluator whose key metric is the mean absolute error, in the target's units.

    Args:
        method: on its device.
        settings: settings of the training.
        loader: loader of validation batches.
        device: device of the method.
        handlers: further handlers.
        units: maps an image (C, *spatial) in [-1, 1] to the target's units; None measures on [-1, 1].
    """
    return Evaluator(
        device=device,
        val_data_loader=loader,
        method=method,
        key_val_metric={"mae": MeanAbsoluteError(output_transform=_compared(units))},
        metric_cmp_fn=_smaller,
        val_handlers=handlers,
        amp=settings.training.amp,
        amp_kwargs=autocast_arguments(settings),
        non_blocking=True,
    )


def _compared(units: Units | None) -> Callable[[Any], Any]:
    """Predictions and targets of a batch, in units."""
    read = from_engine(["pred", "label"])
    if units is None:
        return read
    return lambda output: tuple([units(image) for image in images] for images in read(output))


def processes() -> int:
    """Number of processes that train together."""
    return torch.distributed.get_world_size() if _grouped() else 1


def leads() -> bool:
    """Whether this process logs and writes: alone, or the first of its group."""
    return not _grouped() or torch.distributed.get_rank() == 0


def _grouped() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _smaller(current: float, best: float) -> bool:
    return current < best
