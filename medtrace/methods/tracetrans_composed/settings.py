"""Settings of TraceTrans composed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from medtrace.methods.presets import BUDGETS, DOMAIN, OWN_ON_GPU, OWN_TRAINING, POSTOP, TINY
from medtrace.methods.settings import (
    Channels,
    Count,
    Indices,
    MethodSettings,
    NonNegative,
    OptimizerSettings,
    Preset,
)

_NARROW: Preset = {"channels": (16, 32, 64, 128), "velocity_downsampling": 2}


class ComposedTraceTransSettings(MethodSettings):
    """See `ComposedTraceTransMethod`; the weights were chosen on TraceBench's `postop`, where a voxel has 2 mm."""

    channels: Channels = (64, 128, 256, 512, 512)
    norm: str | tuple[str, dict[str, Any]] = ("instance", {"affine": True})
    velocity_downsampling: int = 2
    """Number of times that the velocity's grid is halved: coarser, smoother and cheaper."""
    dead_zone: tuple[NonNegative, NonNegative] = (0.15, 0.5)
    """In voxels: velocities shorter than the first are set to zero, those longer than the second are unchanged."""
    inference_dead_zone: tuple[NonNegative, NonNegative] | None = (0.3, 0.6)
    """Likewise for a trained network; None is as in training."""
    inference_reach: Annotated[int, Field(ge=0)] = 0
    """Of the trained network: a velocity counts as long as the longest within so many voxels."""
    image_weight: NonNegative = 0.5
    squared_weight: NonNegative = 2.0
    """Weight of the squared error relative to the absolute one."""
    similarity_weight: NonNegative = 0.5
    bins: Count = 32
    smoothness_weight: NonNegative = 0.5
    motion_weight: NonNegative = 0.01
    change_weight: NonNegative = 0.05
    registered_channels: Indices | None = None
    """For a source of several contrasts, those that are compared with the target; None is channel by channel, or
    all."""
    optimizer: OptimizerSettings = OptimizerSettings()

    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": {},
        "default": {
            **OWN_TRAINING,
            **_NARROW,
            "optimizer.learning_rate": 1e-3,
        },
        "small": {},
        "gpu": {**OWN_ON_GPU, "channels": (64, 128, 256, 512, 512)},
        "tracebench": {
            **POSTOP,
            **_NARROW,
            "training.max_epochs": 7,
            "training.schedule": "cosine",
            "training.val_interval": 0,
            "optimizer.learning_rate": 2e-3,
        },
        "full": {"data.train_cases": 2048, "training.max_epochs": 20},
        "domain": {**DOMAIN, "training.max_epochs": 20},
        "smoke": {
            **TINY,
            "channels": (4, 8),
            "velocity_downsampling": 1,
            "dead_zone": (0.0, 0.0),  # so that one step has a visible effect
            "inference_dead_zone": (0.0, 0.0),
        },
    }

    budgets: ClassVar[Mapping[str, int]] = BUDGETS

    def optimizers(self) -> Mapping[str, OptimizerSettings]:
        return {"generator": self.optimizer}
