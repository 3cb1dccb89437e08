"""Methods: a folder each, with its class, its settings and its card.

`method_class(name)` finds one, `resolve` makes its settings, `Method.from_settings` builds it.
"""

from medtrace.methods.base import Abilities, Batch, Method, Phase
from medtrace.methods.registry import build_method, method_class, method_names, register_method, settings_of
from medtrace.methods.settings import (
    MethodSettings,
    OptimizerSettings,
    PreparedData,
    Settings,
    TraceBenchData,
    TrainingSettings,
    resolve,
)
from medtrace.trace.prediction import Prediction, affines_of, plain

__all__ = [
    "Abilities",
    "Batch",
    "Method",
    "MethodSettings",
    "OptimizerSettings",
    "Phase",
    "Prediction",
    "PreparedData",
    "Settings",
    "TraceBenchData",
    "TrainingSettings",
    "affines_of",
    "build_method",
    "method_class",
    "method_names",
    "plain",
    "register_method",
    "resolve",
    "settings_of",
]
