"""Settings of TraceTrans; the defaults are the paper's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from medtrace.methods.presets import BUDGETS, DOMAIN, OWN, OWN_ON_GPU, POSTOP, TINY
from medtrace.methods.settings import (
    Channels,
    Count,
    Fraction,
    Indices,
    MethodSettings,
    NonNegative,
    OptimizerSettings,
    Preset,
)

_OWN: Preset = {
    **OWN,
    # Deviation from the paper: NMI between translation and warped source does not distinguish an image from its
    # negative, and outweighs the L1. With the paper's gamma of 1 a T2 comes out inverted; with 0.25, which suffices for
    # T2, a FLAIR keeps the T1's order of gray and white matter (docs/results/real_translation.md).
    "gamma": 0.0,
    "warp_bins": 32,
    "velocity_downsampling": 2,
    "channels": (16, 32, 64, 128),
    "discriminator_channels": 8,
    "discriminator_layers": 2,
    "curve": True,
    "residual_weight": 0.3,
}

_SMALL: Preset = {
    # A network and a budget for two CPU cores. Deviations from the paper: a smooth velocity, 32 bins for the warped
    # source, and a weaker cross constraint that trains the image only (docs/results/tracetrans_postop.md).
    "channels": (16, 32, 64, 128),
    "velocity_downsampling": 2,
    "discriminator_channels": 8,
    "discriminator_layers": 2,
    "warp_bins": 32,
    "cross_gradient": "image",
    "gamma": 0.25,
    "training.max_epochs": 7,
    "training.schedule": "cosine",
    "training.val_interval": 0,
    "optimizer.learning_rate": 1e-3,
}


class TraceTransSettings(MethodSettings):
    """TraceTrans: 256 x 256, batch 8, 500 epochs, Adam 2e-4; see `TraceTransMethod` and `networks.DualDecoderGAN`."""

    channels: Channels = (64, 128, 256, 512, 512)
    shared_encoder: bool = True
    norm: str | tuple[str, dict[str, Any]] = ("instance", {"affine": True})
    velocity_downsampling: int = 0
    """Number of times that the velocity's grid is halved: coarser, smoother and cheaper."""
    discriminator_channels: Count = 64
    discriminator_layers: Count = 3
    alpha: Fraction = 0.5
    gamma: NonNegative = 1.0
    adversarial_weight: NonNegative = 0.01
    smoothness_weight: NonNegative = 0.2
    smoothness_reduction: Literal["mean", "sum"] = "mean"
    warp_bins: Count = 16
    cross_bins: Count = 32
    cross_gradient: Literal["both", "image"] = "both"
    curve: bool = False
    """Add a learned intensity curve of the warped source to the image (`networks.TraceTrans`)."""
    registered_channels: Indices | None = None
    """For a source of several contrasts, those that are compared with the target; None is channel by channel, or
    all."""
    structure_weight: NonNegative = 0.0
    """Weight of 1 − SSIM in addition to the L1 of translation and target, as a multiple of the L1's weight."""
    residual_weight: NonNegative = 0.0
    """Weight of the L1 between translation and intensity curve, as a multiple of the L1's weight; needs `curve`."""
    optimizer: OptimizerSettings = OptimizerSettings()

    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": {},
        "default": _OWN,
        "small": {},
        "gpu": {
            **OWN_ON_GPU,
            "channels": (64, 128, 256, 512, 512),
            "discriminator_channels": 64,
            "discriminator_layers": 3,
        },
        "pix2pix": {"alpha": 1.0},
        "tracebench": {**POSTOP, **_SMALL},
        "full": {"data.train_cases": 2048, "training.max_epochs": 20},
        "domain": {**DOMAIN, "training.max_epochs": 20},
        "smoke": {
            **TINY,
            "channels": (4, 8),
            "velocity_downsampling": 1,
            "discriminator_channels": 4,
            "discriminator_layers": 1,
        },
    }

    budgets: ClassVar[Mapping[str, int]] = BUDGETS

    def optimizers(self) -> Mapping[str, OptimizerSettings]:
        return {"generator": self.optimizer, "discriminator": self.optimizer}
