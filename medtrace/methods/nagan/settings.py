"""Settings of NAGAN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from medtrace.methods.common.unpaired_settings import GENERATOR, PooledSettings, unpaired_presets
from medtrace.methods.settings import NonNegative, Preset

LAYERED: Mapping[str, Any] = {**GENERATOR, "discriminator_layers": 4}


class NAGANSettings(PooledSettings):
    """See `PooledSettings`, of which these differ."""

    networks: dict[str, Any] = Field(default_factory=lambda: dict(LAYERED))
    style_weight: NonNegative = 1.0
    """Weight of the distance of Gram matrices."""
    content_weight: NonNegative = 10.0
    """Weight of the distance of the content discriminator's deepest features."""

    presets: ClassVar[Mapping[str, Preset]] = unpaired_presets(
        LAYERED, minimal={"channels": 4, "num_blocks": 1, "discriminator_channels": 4, "discriminator_layers": 2}
    )
