"""Settings of VoxelMorph, with or without cost-function masking."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field

from medtrace.methods.common.diffusion_settings import extended
from medtrace.methods.common.registration_settings import RegistrationSettings
from medtrace.methods.settings import Channels, NonNegative, Preset


class VoxelMorphSettings(RegistrationSettings):
    """MONAI's network, integrated at half the resolution; see `VoxelMorphMethod`."""

    channels: Channels = (16, 32, 32, 32, 32, 32)
    velocity_downsampling: Annotated[int, Field(ge=0, le=6)] = 1
    masking: bool = True
    """Leave the pathology out of the comparison (VM-CFM)."""
    smoothness_weight: NonNegative = 0.01

    presets: ClassVar[Mapping[str, Preset]] = extended(
        RegistrationSettings.presets, {"smoke": {"channels": (4, 4, 4, 4)}}
    )
