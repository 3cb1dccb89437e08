"""One trainer and one evaluator for every method."""

from medtrace.engines.acceleration import Acceleration
from medtrace.engines.assembly import (
    autocast_arguments,
    build_evaluator,
    build_optimizers,
    build_trainer,
    leads,
    processes,
    warmup_steps,
)
from medtrace.engines.checkpoint import Checkpoint
from medtrace.engines.evaluator import Evaluator
from medtrace.engines.finite_checks import SkipLimit
from medtrace.engines.logging import LossHistory, ProgressBar, logged_terms
from medtrace.engines.schedule import LinearWarmup, WarmupCosine
from medtrace.engines.trainer import Trainer

__all__ = [
    "Acceleration",
    "Checkpoint",
    "Evaluator",
    "LinearWarmup",
    "LossHistory",
    "ProgressBar",
    "SkipLimit",
    "Trainer",
    "WarmupCosine",
    "autocast_arguments",
    "build_evaluator",
    "build_optimizers",
    "build_trainer",
    "leads",
    "logged_terms",
    "processes",
    "warmup_steps",
]
