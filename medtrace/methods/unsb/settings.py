"""Settings of UNSB."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from medtrace.methods.common.unpaired_settings import GENERATOR, MINIMAL, SMALL, UnpairedSettings, unpaired_presets
from medtrace.methods.settings import Count, NonNegative, OptimizerSettings, Positive, Preset

Seed = Annotated[int, Field(ge=0)]
NARROW: Mapping[str, Any] = {**SMALL, "noise_channels": 16, "mlp_channels": 64, "head_features": 64}
TINIEST: Mapping[str, Any] = {**MINIMAL, "noise_channels": 4, "mlp_channels": 8, "head_features": 8}
_PRESETS = unpaired_presets(GENERATOR, NARROW, TINIEST)


class UNSBSettings(UnpairedSettings):
    """See `UnpairedSettings`, of which these differ."""

    networks: dict[str, Any] = Field(default_factory=lambda: dict(GENERATOR))
    steps: Annotated[int, Field(ge=1, le=1000)] = 5
    """Of the bridge."""
    tau: Positive = 0.01
    bridge_weight: NonNegative = 1.0
    nce_weight: NonNegative = 1.0
    temperature: Positive = 0.07
    patches: Count = 256
    seed: Seed = 0
    """Seed of the noise of translations, in addition to the image's own bytes."""

    presets: ClassVar[Mapping[str, Preset]] = {**_PRESETS, "smoke": {**_PRESETS["smoke"], "steps": 2}}

    def optimizers(self) -> Mapping[str, OptimizerSettings]:
        return {**super().optimizers(), "energy": self.optimizer}
