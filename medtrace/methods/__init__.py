"""Methods: a folder each, with its class, its settings and its card.

`method_class(name)` finds one, `resolve` makes its settings, `Method.from_settings` builds it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
from medtrace.trace.prediction import Prediction, affines_of
from medtrace.trace.validation import as_tensor

if TYPE_CHECKING:
    from medtrace.methods.common.averaging import WeightAverage
    from medtrace.methods.common.diffusion import Sampling
    from medtrace.methods.common.instance import InstanceRegistration
    from medtrace.methods.common.metamorphic_energy import MetamorphicEnergy
    from medtrace.methods.common.registration import RegistrationMethod
    from medtrace.methods.common.two_domain import CycleConsistency, PairedL1, RegistrationCorrection, TwoDomainMethod
    from medtrace.methods.cyclegan.method import CycleGANMethod
    from medtrace.methods.ddib.method import DDIBMethod
    from medtrace.methods.metaregnet.method import MetaRegNetMethod
    from medtrace.methods.munit.method import MUNITMethod
    from medtrace.methods.nice_gan.method import NICEGANMethod
    from medtrace.methods.palette.method import PaletteMethod
    from medtrace.methods.pix2pix.method import Pix2PixMethod
    from medtrace.methods.plasticine.method import PlasticineMethod
    from medtrace.methods.reggan.method import RegGANMethod
    from medtrace.methods.tracetrans.method import TraceTransMethod
    from medtrace.methods.tracetrans_composed.method import ComposedTraceTransMethod
    from medtrace.methods.unet.method import UNetMethod
    from medtrace.methods.unit.method import UNITMethod
    from medtrace.methods.voxelmorph.method import VoxelMorphMethod

__all__ = [
    "Abilities",
    "Batch",
    "ComposedTraceTransMethod",
    "CycleConsistency",
    "CycleGANMethod",
    "DDIBMethod",
    "InstanceRegistration",
    "MUNITMethod",
    "MetaRegNetMethod",
    "MetamorphicEnergy",
    "Method",
    "MethodSettings",
    "NICEGANMethod",
    "OptimizerSettings",
    "PairedL1",
    "PaletteMethod",
    "Phase",
    "Pix2PixMethod",
    "PlasticineMethod",
    "Prediction",
    "PreparedData",
    "RegGANMethod",
    "RegistrationCorrection",
    "RegistrationMethod",
    "Sampling",
    "Settings",
    "TraceBenchData",
    "TraceTransMethod",
    "TrainingSettings",
    "TwoDomainMethod",
    "UNITMethod",
    "UNetMethod",
    "VoxelMorphMethod",
    "WeightAverage",
    "affines_of",
    "as_tensor",
    "build_method",
    "method_class",
    "method_names",
    "register_method",
    "resolve",
    "settings_of",
]

_PARTS = {
    "CycleConsistency": "common.two_domain",
    "InstanceRegistration": "common.instance",
    "MetamorphicEnergy": "common.metamorphic_energy",
    "PairedL1": "common.two_domain",
    "RegistrationCorrection": "common.two_domain",
    "RegistrationMethod": "common.registration",
    "Sampling": "common.diffusion",
    "TwoDomainMethod": "common.two_domain",
    "WeightAverage": "common.averaging",
    "CycleGANMethod": "cyclegan.method",
    "DDIBMethod": "ddib.method",
    "MUNITMethod": "munit.method",
    "MetaRegNetMethod": "metaregnet.method",
    "NICEGANMethod": "nice_gan.method",
    "PaletteMethod": "palette.method",
    "Pix2PixMethod": "pix2pix.method",
    "PlasticineMethod": "plasticine.method",
    "RegGANMethod": "reggan.method",
    "TraceTransMethod": "tracetrans.method",
    "ComposedTraceTransMethod": "tracetrans_composed.method",
    "UNITMethod": "unit.method",
    "UNetMethod": "unet.method",
    "VoxelMorphMethod": "voxelmorph.method",
}
"""Names that are imported on first access: the methods' classes, and their shared parts."""


def __getattr__(name: str) -> Any:
    if name in _PARTS:
        return getattr(import_module(f"{__name__}.{_PARTS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PARTS})
