"""One file per method: its networks, loss terms and weights, and its trace."""

from medtrace.objectives.averaging import WeightAverage
from medtrace.objectives.ddib import DDIBObjective
from medtrace.objectives.diffusion_training import Sampling
from medtrace.objectives.energy import MetamorphicEnergy
from medtrace.objectives.instance import InstanceRegistration, RefinementStep
from medtrace.objectives.metaregnet import MetaRegNetObjective
from medtrace.objectives.objective import Objective, Phase, affines_of, plain
from medtrace.objectives.palette import PaletteObjective
from medtrace.objectives.plasticine import PlasticineObjective
from medtrace.objectives.reggan import CycleConsistency, PairedL1, RegGANObjective, RegistrationCorrection
from medtrace.objectives.registration import RegistrationObjective
from medtrace.objectives.tracetrans import TraceTransObjective
from medtrace.objectives.voxelmorph import VoxelMorphObjective

__all__ = [
    "CycleConsistency",
    "DDIBObjective",
    "InstanceRegistration",
    "MetaRegNetObjective",
    "MetamorphicEnergy",
    "Objective",
    "PairedL1",
    "PaletteObjective",
    "Phase",
    "PlasticineObjective",
    "RefinementStep",
    "RegGANObjective",
    "RegistrationCorrection",
    "RegistrationObjective",
    "Sampling",
    "TraceTransObjective",
    "VoxelMorphObjective",
    "WeightAverage",
    "affines_of",
    "plain",
]
