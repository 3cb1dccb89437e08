"""One file per method: its networks, loss terms and weights, and its trace."""

from medtrace.objectives.objective import Objective, Phase, affines_of, plain
from medtrace.objectives.reggan import CycleConsistency, PairedL1, RegGANObjective, RegistrationCorrection
from medtrace.objectives.tracetrans import TraceTransObjective

__all__ = [
    "CycleConsistency",
    "Objective",
    "PairedL1",
    "Phase",
    "RegGANObjective",
    "RegistrationCorrection",
    "TraceTransObjective",
    "affines_of",
    "plain",
]
