"""Settings of StarGAN v2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from medtrace.methods.common.unpaired_settings import UnpairedSettings, unpaired_presets
from medtrace.methods.settings import Count, NonNegative, OptimizerSettings, Preset, TrainingSettings

PUBLISHED: Mapping[str, Any] = {
    "channels": 64,
    "downsamplings": 4,
    "assessing_downsamplings": 6,
    "style_channels": 64,
    "noise_channels": 16,
    "hidden_channels": 512,
}
SMALL: Mapping[str, Any] = {
    "channels": 12,
    "downsamplings": 2,
    "assessing_downsamplings": 4,
    "style_channels": 16,
    "noise_channels": 8,
    "hidden_channels": 64,
}
MINIMAL: Mapping[str, Any] = {
    "channels": 4,
    "downsamplings": 1,
    "assessing_downsamplings": 2,
    "style_channels": 4,
    "noise_channels": 4,
    "hidden_channels": 8,
}
_ADAM = OptimizerSettings(learning_rate=1e-4, betas=(0.0, 0.99), weight_decay=1e-4)
_PAPER: Preset = {
    "diversity_steps": 100_000,
    "optimizer.learning_rate": 1e-4,
    "training.batch_size": 8,
    "training.ema_decay": 0.999,
}
_PRESETS = unpaired_presets(PUBLISHED, SMALL, MINIMAL, paper=_PAPER)
_FEW_STEPS = {"diversity_steps": 640, "training.ema_decay": 0.99}


class StarGANv2Settings(UnpairedSettings):
    """See `UnpairedSettings`, of which these differ: Adam 1e-4 without momentum, batch 8, averaged weights."""

    networks: dict[str, Any] = Field(default_factory=lambda: dict(PUBLISHED))
    style_weight: NonNegative = 1.0
    diversity_weight: NonNegative = 1.0
    diversity_steps: Count = 100_000
    """Steps over which the diversity's weight falls to 0."""
    cycle_weight: NonNegative = 1.0
    penalty_weight: NonNegative = 1.0
    """Weight of R1, the paper's λ_reg."""
    optimizer: OptimizerSettings = _ADAM
    training: TrainingSettings = TrainingSettings(max_epochs=200, batch_size=8, ema_decay=0.999)

    presets: ClassVar[Mapping[str, Preset]] = {
        **_PRESETS,
        "default": {**_PRESETS["default"], **_FEW_STEPS},
        "tracebench": {**_PRESETS["tracebench"], **_FEW_STEPS},
    }
