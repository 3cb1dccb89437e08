"""Settings of Plasticine; the defaults are the paper's, which does not say how long it trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from medtrace.methods.common.diffusion_settings import DiffusionSettings, extended
from medtrace.methods.settings import (
    Channels,
    Count,
    Indices,
    NonNegative,
    OptimizerSettings,
    Positive,
    PreparedData,
    Preset,
    Settings,
)
from medtrace.transforms.structure_map import MOST_CLASSES

_NARROW: Preset = {
    "deformation.channels": (16, 32, 64, 64),
    "deformation.velocity_downsampling": 2,
    "deformation_optimizer.learning_rate": 1e-3,
    # Not the paper's: without them only the alignment prepares the module for a source without a target.
    "surrogate_similarity_weight": 1.0,
    "surrogate_smoothness_weight": 1.0,
}
_WIDE: Preset = {
    "deformation.channels": (64, 128, 256, 512),
    "deformation.velocity_downsampling": 0,
    "deformation_optimizer.learning_rate": 2e-4,
}


class DeformationSettings(Settings):
    """The deformation module, see `networks.DeformationModule`."""

    channels: Channels = (64, 128, 256, 512)
    inverse: Literal["negated", "predicted"] = "negated"
    """exp(-v), or exp of a second velocity; the paper writes both."""
    use_noise: bool = True
    """Whether the module sees the estimated noise (Table V)."""
    velocity_downsampling: Annotated[int, Field(ge=0, le=6)] = 0


class StructureSettings(Settings):
    """The structure map, see `transforms.StructureMap`."""

    method: Literal["potts", "otsu", "kmeans"] = "potts"
    gamma: Positive = 5e-4
    classes: Annotated[int, Field(ge=2, le=MOST_CLASSES)] = 2
    """From dark to bright; the paper's are two."""


class PlasticineSettings(DiffusionSettings):
    """Plasticine: 256 x 256, batch 3, Adam 1e-4 (noise) and 2e-4 (deformation); see `PlasticineMethod`."""

    mode: Literal["joint", "combination"] = "joint"
    """`combination` deforms the source and then translates it (Table IV); it differs at inference only."""
    deformation: DeformationSettings = DeformationSettings()
    structure: StructureSettings = StructureSettings()
    binary_structure: bool = True
    smoothness_weight: NonNegative = 1.0
    """The paper takes 0.1 for retinal OCT, 1 for chest and heart."""
    smoothness_reduction: Literal["mean", "sum"] = "mean"
    alignment_weight: NonNegative = 1.0
    alignment_gradient: Literal["surrogate", "both"] = "surrogate"
    surrogate_similarity_weight: NonNegative = 0.0
    surrogate_smoothness_weight: NonNegative = 0.0
    inverse_consistency_weight: NonNegative = 0.0
    num_bins: Count = 32
    registered_channels: Indices | None = None
    """For a source of several contrasts, those that are compared with the target; None is channel by channel, or
    all."""
    partner_pose: bool = False
    """Bring random partners into the pose and the relative size of their sources before comparing them."""
    deformation_optimizer: OptimizerSettings = OptimizerSettings(
        learning_rate=2e-4, betas=(0.9, 0.999), warmup_steps=200
    )

    presets: ClassVar[Mapping[str, Preset]] = extended(
        DiffusionSettings.presets,
        {
            "default": _NARROW,
            "gpu": _WIDE,
            # At the map's usual smoothness the ventricles are lost on such a coarse grid.
            "tracebench": {**_NARROW, "structure.gamma": 3e-4},
            "full": {**_WIDE, "structure.gamma": 5e-4},
            "smoke": {
                "deformation.channels": (8, 16),
                "deformation.velocity_downsampling": 1,
                "deformation_optimizer.warmup_steps": 2,
            },
        },
    )

    @model_validator(mode="after")
    def _whole_bodies(self) -> PlasticineSettings:
        if self.partner_pose and isinstance(self.data, PreparedData) and self.data.patch is not None:
            raise ValueError(
                f"partner_pose: expected entire images, whose bodies have a pose, received data.patch"
                f" {self.data.patch}; leave one of them out"
            )
        return self

    def optimizers(self) -> Mapping[str, OptimizerSettings]:
        return {"noise": self.noise_optimizer, "deformation": self.deformation_optimizer}
