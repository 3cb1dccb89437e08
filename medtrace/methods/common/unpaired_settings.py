"""Settings of adversarial translators that learn without pairs, and the presets that they share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from medtrace.methods.presets import BUDGETS, DOMAIN, MISALIGNED, OWN, OWN_ON_GPU, POSTOP, TINY
from medtrace.methods.settings import MethodSettings, NonNegative, OptimizerSettings, Preset, TrainingSettings

Arguments = Mapping[str, Any]
"""Of a method's networks, by name."""

GENERATOR: Arguments = {"channels": 64, "num_blocks": 9, "discriminator_channels": 64, "discriminator_layers": 3}
"""CycleGAN's generator and patch discriminator as published, which most of these methods take over."""
SMALL: Arguments = {"channels": 8, "num_blocks": 4, "discriminator_channels": 8, "discriminator_layers": 2}
"""For two CPU cores: minutes."""
MINIMAL: Arguments = {"channels": 4, "num_blocks": 1, "discriminator_channels": 4, "discriminator_layers": 1}
"""Seconds."""


class UnpairedSettings(MethodSettings):
    """What adversarial translators without pairs have in common: 256 x 256, batch 1, 200 epochs, Adam 2e-4."""

    networks: dict[str, Any] = Field(default_factory=lambda: dict(GENERATOR))
    """Arguments of the method's networks, see their class in `medtrace.networks`."""
    adversarial_weight: NonNegative = 1.0
    optimizer: OptimizerSettings = OptimizerSettings()
    training: TrainingSettings = TrainingSettings(max_epochs=200, batch_size=1)

    budgets: ClassVar[Mapping[str, int]] = BUDGETS

    def optimizers(self) -> Mapping[str, OptimizerSettings]:
        return {"generator": self.optimizer, "discriminator": self.optimizer}


class PooledSettings(UnpairedSettings):
    """Those of them whose discriminators are also shown earlier images."""

    pool_size: Annotated[int, Field(ge=0, le=100_000)] = 50


def unpaired_presets(
    published: Arguments = GENERATOR,
    small: Arguments = SMALL,
    minimal: Arguments = MINIMAL,
    paper: Preset | None = None,
) -> dict[str, Preset]:
    """The presets of a method, which differ in its networks alone; cases and budgets are those of `cyclegan`.

    Args:
        published: arguments of the networks as published.
        small: for two CPU cores.
        minimal: for seconds.
        paper: the paper's settings other than the networks, restored by `full` and `gpu`, which use its widths.

    Example:
        >>> sorted(unpaired_presets())
        ['default', 'domain', 'full', 'gpu', 'paper', 'postop', 'small', 'smoke', 'tracebench']
    """
    own = {name: value for name, value in OWN.items() if name != "structure_weight"}
    return {
        "paper": {},
        "default": {**own, "networks": small},
        "small": {},
        "gpu": {**OWN_ON_GPU, "networks": published, "training.batch_size": 2, **(paper or {})},
        "tracebench": {
            **MISALIGNED,
            "networks": small,
            "training.max_epochs": 5,
            "training.batch_size": 8,
            "training.schedule": "cosine",
            "training.val_interval": 0,
            "optimizer.learning_rate": 1e-3,
        },
        "domain": {**DOMAIN, "training.max_epochs": 20},
        "postop": {**POSTOP, "training.max_epochs": 2},
        "full": {
            "data.spatial_shape": (256, 256),
            "data.train_cases": 8192,
            "data.test_cases": 256,
            "networks": published,
            "training.max_epochs": 80,
            "training.batch_size": 1,
            "training.schedule": "constant",
            "optimizer.learning_rate": 2e-4,
            **(paper or {}),
        },
        "smoke": {**TINY, "networks": minimal},
    }
