"""One trainer and one evaluator for every method."""

from medtrace.engines.acceleration import Acceleration
from medtrace.engines.assembly import (
    autocast_arguments,
    build_evaluator,
    build_optimizers,
    build_schedule,
    build_trainer,
    leads,
    processes,
    warmup_steps,
)
from medtrace.engines.averaging import WeightAveraging
from medtrace.engines.checkpoint import Checkpoint
from medtrace.engines.evaluator import Evaluator
from medtrace.engines.finite_checks import SkipLimit
from medtrace.engines.handlers.best import BestWeights
from medtrace.engines.handlers.progress import ProgressBar
from medtrace.engines.handlers.tracking import Tracking, writes_tensorboard
from medtrace.engines.logging import LossHistory, logged_terms
from medtrace.engines.schedule import LinearWarmup, WarmupCosine, WarmupDecay
from medtrace.engines.trainer import Trainer

__all__ = [
    "Acceleration",
    "BestWeights",
    "Checkpoint",
    "Evaluator",
    "LinearWarmup",
    "LossHistory",
    "ProgressBar",
    "SkipLimit",
    "Tracking",
    "Trainer",
    "WarmupCosine",
    "WarmupDecay",
    "WeightAveraging",
    "autocast_arguments",
    "build_evaluator",
    "build_optimizers",
    "build_schedule",
    "build_trainer",
    "leads",
    "logged_terms",
    "processes",
    "warmup_steps",
    "writes_tensorboard",
]
