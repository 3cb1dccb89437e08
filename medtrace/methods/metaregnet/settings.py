"""Settings of MetaRegNet; the defaults are the paper's text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from medtrace.methods.common.diffusion_settings import extended
from medtrace.methods.common.registration_settings import RegistrationSettings
from medtrace.methods.settings import Channels, Count, NonNegative, Preset

_SMOOTH: Preset = {"flow_downsampling": 1, "smoothness_weight": 0.02, "masked_gradient": "intensity"}
"""Deviations from the paper: a coarser and smooth flow, without which it registers worse
(docs/results/metaregnet_metamorphic.md), and a lesion that trains only the intensity."""


class MetaRegNetSettings(RegistrationSettings):
    """Seven blocks with their own weights, MSE, weights 1, 1 and 1e-3; see `MetaRegNetMethod`."""

    channels: Channels = (16, 32, 64, 128)
    num_blocks: Count = 7
    share_blocks: bool = False
    integration: Literal["euler", "residual"] = "euler"
    flow_downsampling: Annotated[int, Field(ge=0, le=6)] = 0
    diffusion_weight: NonNegative = 1.0
    folding_weight: NonNegative = 1e-3
    folding_reduction: Literal["sum", "mean"] = "sum"
    folding_measure: Literal["central", "simplices"] = "central"
    smoothness_weight: NonNegative = 0.0
    masked_gradient: Literal["both", "intensity"] = "both"

    presets: ClassVar[Mapping[str, Preset]] = extended(
        RegistrationSettings.presets,
        {
            "default": _SMOOTH,
            "tracebench": _SMOOTH,
            "smoke": {"channels": (4, 8), "num_blocks": 2, "flow_downsampling": 1},
        },
    )
