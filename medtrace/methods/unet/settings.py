"""Settings of U-Net regression."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from medtrace.methods.presets import BUDGETS, DOMAIN, OWN, OWN_ON_GPU, POSTOP, TINY
from medtrace.methods.settings import Channels, Count, Fraction, MethodSettings, NonNegative, OptimizerSettings, Preset

_BUDGET: Preset = {
    "channels": (16, 32, 64, 128),
    "training.max_epochs": 7,
    "training.schedule": "cosine",
    "training.val_interval": 0,
    "optimizer.learning_rate": 1e-3,
}


class UNetSettings(MethodSettings):
    """MONAI's residual U-Net and Adam 2e-4; see `UNetMethod`."""

    channels: Channels = (32, 64, 128, 256, 512)
    num_res_units: Count = 2
    dropout: Fraction = 0.0
    refine: bool = False
    """Compute the image from features and the source at full resolution (`networks.RegressionUNet`)."""
    curve: bool = False
    """Add a learned intensity curve of the source to the network's output (`networks.RegressionUNet`)."""
    structure_weight: NonNegative = 0.0
    """Weight of 1 − SSIM in addition to the L1 of translation and target, as a multiple of the L1's weight."""
    residual_weight: NonNegative = 0.0
    """Weight of the L1 between translation and intensity curve, in addition to the L1 of translation and target; needs
    `curve`."""
    optimizer: OptimizerSettings = OptimizerSettings()

    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": {},
        "default": {**OWN, "channels": (16, 32, 64, 128), "refine": True, "curve": True, "residual_weight": 0.3},
        "small": {},
        "gpu": {**OWN_ON_GPU, "channels": (64, 128, 256, 512, 512)},
        # Without refinement the image comes from features alone, some of which grow without bound and appear in the air
        # as white dashes (postop, 64 pixels: MAE 13.5 against 4.1 with it).
        "tracebench": {**POSTOP, **_BUDGET, "refine": True},
        "full": {"data.train_cases": 2048, "training.max_epochs": 20},
        "domain": {**DOMAIN, "data.pairing": "subject", "training.max_epochs": 20},
        "smoke": {**TINY, "channels": (4, 8)},
    }

    budgets: ClassVar[Mapping[str, int]] = BUDGETS

    def optimizers(self) -> Mapping[str, OptimizerSettings]:
        return {"regression": self.optimizer}
