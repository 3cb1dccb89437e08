"""Settings that the diffusion methods share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from medtrace.methods.presets import BUDGETS, DOMAIN, OWN_TRAINING, POSTOP, TINY, TRAINING_ON_GPU
from medtrace.methods.settings import (
    Channels,
    Count,
    Fraction,
    MethodSettings,
    OptimizerSettings,
    Positive,
    Preset,
    Settings,
    TrainingSettings,
)


class ScheduleSettings(Settings):
    """The noise levels; Plasticine: 2000 steps, β from 1e-6 to 1e-2 on a line."""

    steps: Count = 2000
    first_beta: Positive = 1e-6
    last_beta: Positive = 1e-2


class TimedUNetSettings(Settings):
    """A U-Net that is told a level or a time, see `networks.NoiseEstimator`."""

    channels: Channels = (64, 128, 256, 512)
    residual_blocks: Count = 2
    attention_levels: tuple[bool, ...] | None = None
    head_channels: Count = 32
    norm_groups: Count = 32
    dropout: Fraction = 0.2
    wavelet: bool = False
    """Run it on Haar bands, on half of the grid, as volumes may need."""


class EstimatorSettings(TimedUNetSettings):
    """The noise estimator, see `networks.NoiseEstimator`."""

    prediction: Literal["noise", "velocity"] = "noise"
    """What the network gives: the noise, which is the paper's, or the velocity, which keeps errors bounded at high
    noise."""


class SamplingSettings(Settings):
    """How images are sampled, see `methods.common.diffusion.Sampling`; may differ from the training's."""

    sampler: Literal["ancestral", "ddim", "dpm_solver"] = "ancestral"
    steps: Count = 50
    start: Annotated[float, Field(gt=0, le=1)] | None = None
    """Fraction of the schedule where sampling starts; None is 1, and one half for Plasticine's mode `combination`."""
    spacing: Annotated[float, Field(ge=1)] = 1.0
    """Above 1, steps lie closer together where there is little noise."""
    samples: Count = 1
    clip: tuple[float, float] | None = None
    seed: int = 0
    progress: bool = False
    refinements: Annotated[int, Field(ge=0, le=1000)] = 0
    """Of DDIB's way up to the noise."""


SMALL_ESTIMATOR: Preset = {
    "estimator.channels": (16, 32, 64, 64),
    "estimator.norm_groups": 8,
    "estimator.residual_blocks": 1,
    "average_decay": 0.998,
}
"""For 64 to 96 pixels and trainings of minutes."""
TINY_ESTIMATOR: Preset = {
    "estimator.channels": (8, 16),
    "estimator.residual_blocks": 1,
    "estimator.head_channels": 8,
    "estimator.norm_groups": 8,
}
"""To see that it runs."""
LARGE_ESTIMATOR: Preset = {
    "estimator.channels": (64, 128, 256, 512),
    "estimator.norm_groups": 32,
    "estimator.residual_blocks": 2,
    "average_decay": 0.9999,
}
"""As published."""
SHORT_TRAINING: Preset = {
    **SMALL_ESTIMATOR,
    "estimator.dropout": 0.0,
    # With the noise itself as output, as in the paper, so small a training samples nothing from full noise.
    "estimator.prediction": "velocity",
    "noise_weighting": "velocity",
    "noise_optimizer.learning_rate": 5e-4,
    "sampling.sampler": "ddim",
    "sampling.steps": 25,
    "sampling.spacing": 1.5,
    "sampling.refinements": 1,
}
"""Of the diffusion methods, and how what was trained so is sampled (docs/results/plasticine_domain.md)."""


class DiffusionSettings(MethodSettings):
    """Plasticine's settings of the noise: batch 3, Adam 1e-4 with a linear warm-up over 10000 steps."""

    estimator: EstimatorSettings = EstimatorSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    sampling: SamplingSettings = SamplingSettings()
    noise_weighting: Literal["noise", "velocity"] = "noise"
    average_decay: Annotated[float, Field(ge=0, lt=1)] = 0.9999
    noise_optimizer: OptimizerSettings = OptimizerSettings(learning_rate=1e-4, betas=(0.9, 0.999), warmup_steps=10_000)
    training: TrainingSettings = TrainingSettings(batch_size=3, val_interval=100)

    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": {},
        "default": {**OWN_TRAINING, **SHORT_TRAINING},
        "small": {},
        "gpu": {**TRAINING_ON_GPU, **LARGE_ESTIMATOR, "noise_optimizer.learning_rate": 1e-4},
        "tracebench": {
            **DOMAIN,
            **SHORT_TRAINING,
            "training.max_epochs": 36,
            "training.batch_size": 8,
            "training.schedule": "cosine",
            "training.val_interval": 0,
        },
        "postop": {
            **POSTOP,
            "data.train_cases": 1024,
            "data.pairing": "subject",
            "data.flip": True,
            "training.max_epochs": 6,
        },
        "full": {
            "data.spatial_shape": (256, 256),
            "data.train_cases": 2048,
            "estimator.channels": (64, 128, 256, 512),
            "estimator.residual_blocks": 2,
            "estimator.dropout": 0.2,
            "estimator.prediction": "noise",
            "noise_weighting": "noise",
            "average_decay": 0.9999,
            "noise_optimizer.learning_rate": 1e-4,
            "training.max_epochs": 100,
            "training.batch_size": 3,
            "training.schedule": "constant",
        },
        "smoke": {
            **TINY,
            **TINY_ESTIMATOR,
            "noise_optimizer.warmup_steps": 2,
            "sampling.steps": 3,
        },
    }

    budgets: ClassVar[Mapping[str, int]] = BUDGETS

    def optimizers(self) -> Mapping[str, OptimizerSettings]:
        return {"noise": self.noise_optimizer}


def extended(presets: Mapping[str, Preset], more: Mapping[str, Mapping[str, Any]]) -> dict[str, Preset]:
    """Presets with further values of each."""
    return {name: {**values, **more.get(name, {})} for name, values in presets.items()}
