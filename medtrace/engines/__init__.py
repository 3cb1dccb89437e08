"""One trainer and one evaluator for every method."""

from medtrace.engines.acceleration import Acceleration
from medtrace.engines.checkpoint import Checkpoint
from medtrace.engines.evaluator import Evaluator
from medtrace.engines.logging import ProgressBar, TermHistory, logged_terms
from medtrace.engines.schedule import LinearWarmup, WarmupCosine
from medtrace.engines.soundness import SkipLimit
from medtrace.engines.trainer import Trainer

__all__ = [
    "Acceleration",
    "Checkpoint",
    "Evaluator",
    "LinearWarmup",
    "ProgressBar",
    "SkipLimit",
    "TermHistory",
    "Trainer",
    "WarmupCosine",
    "logged_terms",
]
