"""Settings of DualGAN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from medtrace.methods.common.unpaired_settings import PooledSettings, unpaired_presets
from medtrace.methods.settings import NonNegative, OptimizerSettings, Positive, Preset

PUBLISHED: Mapping[str, Any] = {
    "channels": [64, 128, 256, 512, 512, 512, 512, 512],
    "discriminator_channels": 64,
    "discriminator_layers": 3,
}
RMSPROP = OptimizerSettings(learning_rate=5e-5, betas=(0.0, 0.99))
"""Adam without momentum: RMSProp with unbiased first averages."""
SMALL: Preset = {
    "channels": [16, 32, 64, 64],
    "dropout": 0.0,
    "discriminator_channels": 16,
    "discriminator_layers": 2,
    "critic_norm": False,
    "curve": True,
}
MINIMAL: Preset = {"channels": [4, 8], "discriminator_channels": 4, "discriminator_layers": 1}
_PAPER: Preset = {
    "optimizer.learning_rate": 5e-5,
    "critic_optimizer.learning_rate": 5e-5,
    "penalty_weight": 0.0,
    "source_weight": 500.0,
    "target_weight": 500.0,
}
_PENALIZED: Preset = {
    "optimizer.learning_rate": 2e-4,
    "critic_optimizer.learning_rate": 1e-3,
    "penalty_weight": 10.0,
    "source_weight": 20.0,
    "target_weight": 20.0,
    "pool_size": 0,
}
"""Critics that see brightness and are ahead of the generators, which otherwise agree on any map that can be undone."""
_PRESETS = unpaired_presets(PUBLISHED, SMALL, MINIMAL, paper=_PAPER)


class DualGANSettings(PooledSettings):
    """See `PooledSettings`, of which these differ."""

    networks: dict[str, Any] = Field(default_factory=lambda: dict(PUBLISHED))
    source_weight: NonNegative = 500.0
    """λ of the source's round trip; 100 to 1000 in the paper."""
    target_weight: NonNegative = 500.0
    """λ of the target's round trip."""
    clip: Positive = 0.01
    """The critics' weights are kept in [-clip, clip]."""
    penalty_weight: NonNegative = 0.0
    """Above 0, of the gradient penalty that holds the critics in place of `clip`."""
    optimizer: OptimizerSettings = RMSPROP
    critic_optimizer: OptimizerSettings = RMSPROP

    presets: ClassVar[Mapping[str, Preset]] = {
        **_PRESETS,
        "tracebench": {**_PRESETS["tracebench"], **_PENALIZED},
        "default": {**_PRESETS["default"], **_PENALIZED},
    }

    def optimizers(self) -> Mapping[str, OptimizerSettings]:
        return {"generator": self.optimizer, "critic": self.critic_optimizer}
