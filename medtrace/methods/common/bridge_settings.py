"""Settings of the methods that go from the source to the target in few steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from medtrace.methods.common.diffusion_settings import (
    LARGE_ESTIMATOR,
    SMALL_ESTIMATOR,
    TINY_ESTIMATOR,
    TimedUNetSettings,
)
from medtrace.methods.presets import BUDGETS, DOMAIN, MISALIGNED, OWN_ON_GPU, OWN_TRAINING, POSTOP, TINY
from medtrace.methods.settings import Count, MethodSettings, OptimizerSettings, Preset, Settings, TrainingSettings


class BridgeSamplingSettings(Settings):
    """How an image is made of its source; may differ from the training's."""

    steps: Annotated[int, Field(ge=1, le=1000)] = 5
    samples: Count = 1
    """Draws of which the image is the mean."""
    seed: int = 0
    progress: bool = False


class BridgeSettings(MethodSettings):
    """A U-Net told the time, Adam 1e-4; the networks are Palette's size."""

    estimator: TimedUNetSettings = TimedUNetSettings(dropout=0.0)
    sampling: BridgeSamplingSettings = BridgeSamplingSettings()
    distance: Literal["l2", "l1"] = "l2"
    """Between what is estimated and what is requested."""
    average_decay: Annotated[float, Field(ge=0, lt=1)] = 0.9999
    optimizer: OptimizerSettings = OptimizerSettings(learning_rate=1e-4, betas=(0.9, 0.999))
    training: TrainingSettings = TrainingSettings(batch_size=8, val_interval=100)

    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": {},
        "default": {**OWN_TRAINING, **SMALL_ESTIMATOR, "optimizer.learning_rate": 1e-3},
        "small": {},
        "gpu": {**OWN_ON_GPU, **LARGE_ESTIMATOR},
        "tracebench": {
            **POSTOP,
            **SMALL_ESTIMATOR,
            "optimizer.learning_rate": 1e-3,
            "training.max_epochs": 7,
            "training.schedule": "cosine",
            "training.val_interval": 0,
        },
        "domain": {**DOMAIN, "data.pairing": "subject", "training.max_epochs": 16},
        "misaligned": {**MISALIGNED, "data.train_cases": 512},
        "full": {"data.train_cases": 2048, "training.max_epochs": 20},
        "smoke": {
            **TINY,
            **TINY_ESTIMATOR,
            "sampling.steps": 2,
        },
    }

    budgets: ClassVar[Mapping[str, int]] = BUDGETS

    def optimizers(self) -> Mapping[str, OptimizerSettings]:
        return {"bridge": self.optimizer}
