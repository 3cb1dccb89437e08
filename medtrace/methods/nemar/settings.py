"""Settings of NeMAR."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from medtrace.methods.presets import BUDGETS, DOMAIN, MISALIGNED, OWN_ON_GPU, OWN_TRAINING, POSTOP, TINY
from medtrace.methods.settings import (
    Channels,
    Count,
    MethodSettings,
    NonNegative,
    OptimizerSettings,
    Preset,
    TrainingSettings,
)

_NARROW: Preset = {
    "registration_channels": (8, 16, 32, 32, 32, 32),
    "registration_downsampling": 2,
    "discriminator_channels": 8,
    "discriminator_layers": 2,
}


class NeMARSettings(MethodSettings):
    """See `NeMARMethod`; the networks are CycleGAN's and RegGAN's as published."""

    channels: Count = 64
    num_blocks: Count = 9
    downsamplings: Annotated[int, Field(ge=0, le=6)] = 2
    registration_channels: Channels = (32, 64, 64, 64, 64, 64, 64)
    registration_downsampling: Annotated[int, Field(ge=0, le=6)] = 0
    discriminator_channels: Count = 64
    discriminator_layers: Count = 3
    l1_weight: NonNegative = 100.0
    """Weight of the L1 to the target in either order."""
    smoothness_weight: NonNegative = 1.5
    """Weight of the field's first differences, in voxels, a mean over axes; not checked against the paper's, see the
    card."""
    edge_sensitivity: NonNegative = 0.0
    """α by which edges of the target allow the field to change, exp(−α·|difference|); 0 weights all voxels equally."""
    adversarial_loss: Literal["least_squares", "log"] = "least_squares"
    adversarial_weight: NonNegative = 1.0
    optimizer: OptimizerSettings = OptimizerSettings()
    training: TrainingSettings = TrainingSettings(max_epochs=200, batch_size=1)

    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": {},
        "default": {
            **OWN_TRAINING,
            **_NARROW,
            "channels": 16,
            "num_blocks": 3,
            "downsamplings": 1,
            "optimizer.learning_rate": 1e-3,
        },
        "small": {},
        "gpu": {
            **OWN_ON_GPU,
            "channels": 64,
            "num_blocks": 9,
            "downsamplings": 2,
            "registration_channels": (32, 64, 64, 64, 64, 64, 64),
            "registration_downsampling": 0,
            "discriminator_channels": 64,
            "discriminator_layers": 3,
            "training.batch_size": 2,
        },
        "tracebench": {
            **MISALIGNED,
            **_NARROW,
            "channels": 8,
            "num_blocks": 4,
            "training.max_epochs": 5,
            "training.batch_size": 8,
            "training.schedule": "cosine",
            "training.val_interval": 0,
            "optimizer.learning_rate": 1e-3,
        },
        "domain": {**DOMAIN, "data.pairing": "subject", "training.max_epochs": 20},
        "postop": {**POSTOP, "training.max_epochs": 2},
        "full": {"data.train_cases": 2048, "training.max_epochs": 20},
        "smoke": {
            **TINY,
            "channels": 4,
            "num_blocks": 1,
            "registration_channels": (4, 8, 8),
            "registration_downsampling": 1,
            "discriminator_channels": 4,
            "discriminator_layers": 1,
        },
    }

    budgets: ClassVar[Mapping[str, int]] = BUDGETS

    def optimizers(self) -> Mapping[str, OptimizerSettings]:
        return {"generator": self.optimizer, "discriminator": self.optimizer}
