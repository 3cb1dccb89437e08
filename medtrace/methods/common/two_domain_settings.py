"""Settings of the methods that translate between two domains, on any translation backbone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from medtrace.methods.presets import BUDGETS, DOMAIN, MISALIGNED, OWN, OWN_ON_GPU, POSTOP, TINY
from medtrace.methods.settings import (
    Channels,
    MethodSettings,
    NonNegative,
    OptimizerSettings,
    Preset,
    TrainingSettings,
)

Backbone = Literal["cyclegan", "munit", "unit", "nice_gan"]

PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "cyclegan": {"channels": 64, "num_blocks": 9, "discriminator_channels": 64, "discriminator_layers": 3},
    "munit": {"channels": 64, "num_blocks": 4, "discriminator_channels": 64, "discriminator_layers": 3},
    "unit": {"channels": 64, "num_blocks": 4, "discriminator_channels": 64, "discriminator_layers": 3},
    "nice_gan": {"channels": 64, "num_blocks": 6, "discriminator_channels": 64},
}
"""The backbones as published."""

SMALL: Mapping[str, Mapping[str, Any]] = {
    "cyclegan": {"channels": 8, "num_blocks": 4, "discriminator_channels": 8, "discriminator_layers": 2},
    "munit": {
        "channels": 8,
        "num_blocks": 3,
        "mlp_channels": 64,
        "discriminator_channels": 8,
        "discriminator_layers": 2,
        "discriminator_scales": 2,
    },
    "unit": {
        "channels": 8,
        "num_blocks": 3,
        "discriminator_channels": 8,
        "discriminator_layers": 2,
        "discriminator_scales": 2,
    },
    "nice_gan": {"channels": 8, "num_blocks": 4, "discriminator_channels": 8},
}
"""For two CPU cores: minutes."""

SHARP: Mapping[str, Mapping[str, Any]] = {
    **SMALL,
    "cyclegan": {
        "channels": 16,
        "num_blocks": 3,
        "downsamplings": 1,
        "discriminator_channels": 8,
        "discriminator_layers": 2,
        "curve": True,
    },
}
"""As `SMALL`, but a generator that works at half resolution, as one at a quarter blurs what lies voxel on voxel."""

MINIMAL: Mapping[str, Mapping[str, Any]] = {
    "cyclegan": {"channels": 4, "num_blocks": 1, "discriminator_channels": 4, "discriminator_layers": 1},
    "munit": {
        "channels": 4,
        "num_blocks": 1,
        "mlp_channels": 8,
        "discriminator_channels": 4,
        "discriminator_layers": 1,
        "discriminator_scales": 2,
    },
    "unit": {
        "channels": 4,
        "num_blocks": 1,
        "discriminator_channels": 4,
        "discriminator_layers": 1,
        "discriminator_scales": 2,
    },
    "nice_gan": {"channels": 4, "num_blocks": 1, "discriminator_channels": 4},
}
"""Seconds."""


class TwoDomainSettings(MethodSettings):
    """RegGAN's settings: 256 x 256, batch 1, 80 epochs, Adam 1e-4 with weight decay 1e-4."""

    backbone: Backbone = "cyclegan"
    cycle: bool = False
    """Cycle consistency (the modes C and C+R)."""
    correction: bool = False
    """A registration network that takes the misalignment of pairs (C+R and NC+R)."""
    paired: bool = False
    """Pixel-wise L1 and a discriminator that sees the source (Pix2Pix); on the backbone cyclegan."""
    networks: dict[str, dict[str, Any]] = Field(default_factory=lambda: _as_dict(PUBLISHED))
    """Arguments of each backbone, see its class in `medtrace.networks`."""
    registration_channels: Channels = (32, 64, 64, 64, 64, 64, 64)
    registration_downsampling: Annotated[int, Field(ge=0, le=6)] = 0
    """How often the grid of the correction's displacement is halved."""
    cycle_weight: NonNegative = 10.0
    correction_weight: NonNegative = 20.0
    smoothness_weight: NonNegative = 10.0
    mean_displacement_weight: NonNegative = 0.0
    """Above the paper's 0, the correction's displacements are held to zero on average."""
    paired_weight: NonNegative = 100.0
    structure_weight: NonNegative = 0.0
    """Of 1 − SSIM beside the L1 to the target (`paired`, `correction`), as a multiple of the L1's weight."""
    adversarial_loss: Literal["least_squares", "log"] = "least_squares"
    adversarial_weight: NonNegative = 1.0
    internal_weights: dict[str, NonNegative] | None = None
    """Of the backbone's own terms; None takes the published ones, {} switches them off."""
    pool_size: Annotated[int, Field(ge=0, le=100_000)] = 50
    optimizer: OptimizerSettings = OptimizerSettings(learning_rate=1e-4, weight_decay=1e-4)
    training: TrainingSettings = TrainingSettings(max_epochs=80, batch_size=1)

    @model_validator(mode="after")
    def _possible(self) -> TwoDomainSettings:
        if self.paired and self.backbone != "cyclegan":
            raise ValueError(f"backbone: expected cyclegan with paired, received {self.backbone!r}; choose one of them")
        if self.paired and self.cycle:
            raise ValueError("paired: expected cycle off, received both; the paired discriminator sees one direction")
        return self

    def optimizers(self) -> Mapping[str, OptimizerSettings]:
        return {"generator": self.optimizer, "discriminator": self.optimizer}

    budgets: ClassVar[Mapping[str, int]] = BUDGETS
    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": {},
        "default": {
            **OWN,
            "networks": SHARP,
            "registration_channels": (8, 16, 32, 32, 32, 32),
            "registration_downsampling": 2,
            "mean_displacement_weight": 1.0,
        },
        "small": {},
        "gpu": {
            **OWN_ON_GPU,
            "networks": PUBLISHED,
            "registration_channels": (32, 64, 64, 64, 64, 64, 64),
            "registration_downsampling": 0,
            "training.batch_size": 2,
        },
        "tracebench": {
            **MISALIGNED,
            "networks": SMALL,
            "registration_channels": (8, 16, 32, 32, 32, 32),
            "registration_downsampling": 2,
            # Not in the paper: misalignments are zero on average, which leaves no common shift to the generator.
            "mean_displacement_weight": 1.0,
            "training.max_epochs": 5,
            "training.batch_size": 8,
            "training.schedule": "cosine",
            "training.val_interval": 0,
            "optimizer.learning_rate": 1e-3,
        },
        # Heads of one domain are smaller than those of the other: the mean displacement need not be zero.
        "domain": {**DOMAIN, "training.max_epochs": 20, "mean_displacement_weight": 0.0},
        # Tissue moves where surgery was, not equally to all sides.
        "postop": {**POSTOP, "training.max_epochs": 2, "mean_displacement_weight": 0.0},
        "full": {
            "data.spatial_shape": (256, 256),
            "data.train_cases": 8192,
            "data.test_cases": 256,
            "networks": PUBLISHED,
            "registration_channels": (32, 64, 64, 64, 64, 64, 64),
            "registration_downsampling": 0,
            "mean_displacement_weight": 0.0,
            "training.max_epochs": 80,
            "training.batch_size": 1,
            "training.schedule": "constant",
            "optimizer.learning_rate": 1e-4,
        },
        "smoke": {**TINY, "networks": MINIMAL, "registration_channels": (4, 8, 8)},
    }


def _as_dict(networks: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: dict(arguments) for name, arguments in networks.items()}
