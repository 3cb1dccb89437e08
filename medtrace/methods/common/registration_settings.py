"""Settings that the methods which register pairs share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from medtrace.methods.presets import BUDGETS, METAMORPHIC, OWN_ON_GPU, OWN_TRAINING, TINY
from medtrace.methods.settings import Count, MethodSettings, NonNegative, OptimizerSettings, Preset


class RegistrationSettings(MethodSettings):
    """Adam 1e-4; MetaRegNet's paper names neither batch size nor epochs."""

    similarity: Literal["mse", "l1"] = "mse"
    similarity_levels: Count = 1
    """Of the similarity's pyramid."""
    bending_weight: NonNegative = 0.0
    """Of the field's squared second derivatives, in voxels."""
    optimizer: OptimizerSettings = OptimizerSettings(learning_rate=1e-4, betas=(0.9, 0.999))

    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": {},
        "default": {**OWN_TRAINING, "optimizer.learning_rate": 2e-3},
        "small": {},
        "gpu": OWN_ON_GPU,
        "tracebench": {
            **METAMORPHIC,
            "training.max_epochs": 36,
            "training.batch_size": 8,
            "training.schedule": "cosine",
            "training.val_interval": 0,
            "optimizer.learning_rate": 2e-3,
        },
        "full": {"data.spatial_shape": (96, 96), "data.train_cases": 1024, "training.max_epochs": 60},
        "smoke": TINY,
    }

    budgets: ClassVar[Mapping[str, int]] = BUDGETS

    def optimizers(self) -> Mapping[str, OptimizerSettings]:
        return {"registration": self.optimizer}
