"""One file per method: its networks, loss terms and weights, and its trace."""

from medtrace.objectives.objective import Objective, Phase, affines_of, plain
from medtrace.objectives.tracetrans import TraceTransObjective

__all__ = ["Objective", "Phase", "TraceTransObjective", "affines_of", "plain"]
