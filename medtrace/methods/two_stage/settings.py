"""Settings of a registration and a translation that are trained separately."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from medtrace.methods.common.diffusion_settings import DiffusionSettings, extended
from medtrace.methods.settings import Channels, Count, NonNegative, OptimizerSettings, Positive, Preset

_NARROW: Preset = {
    "deformation_channels": (16, 32, 64, 64),
    "velocity_downsampling": 2,
    "deformation_optimizer.learning_rate": 1e-3,
}
_WIDE: Preset = {
    "deformation_channels": (64, 128, 256, 512),
    "velocity_downsampling": 0,
    "deformation_optimizer.learning_rate": 2e-4,
}


class TwoStageSettings(DiffusionSettings):
    """Plasticine's networks and optimizers; see `TwoStageMethod`."""

    order: Literal["register_first", "translate_first"] = "register_first"
    """Which of the two is applied to the other's result; only used at inference."""
    deformation_channels: Channels = (64, 128, 256, 512)
    velocity_downsampling: Annotated[int, Field(ge=0, le=6)] = 0
    smoothness_weight: NonNegative = 1.0
    num_bins: Count = 32
    """Of the NMI."""
    structure: Literal["potts", "otsu", "kmeans"] = "potts"
    """How the structure map that the translation preserves is made, see `transforms.StructureMap`."""
    structure_gamma: Positive = 5e-4
    deformation_optimizer: OptimizerSettings = OptimizerSettings(
        learning_rate=2e-4, betas=(0.9, 0.999), warmup_steps=200
    )

    presets: ClassVar[Mapping[str, Preset]] = extended(
        DiffusionSettings.presets,
        {
            "default": _NARROW,
            "gpu": _WIDE,
            "tracebench": {**_NARROW, "structure_gamma": 3e-4},
            "full": {**_WIDE, "structure_gamma": 5e-4},
            "smoke": {
                "deformation_channels": (8, 16),
                "velocity_downsampling": 1,
                "deformation_optimizer.warmup_steps": 2,
            },
        },
    )

    def optimizers(self) -> Mapping[str, OptimizerSettings]:
        return {"noise": self.noise_optimizer, "deformation": self.deformation_optimizer}
