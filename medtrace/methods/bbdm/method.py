"""BBDM: a diffusion bridge from the source to the target."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Self

import torch
from torch import Tensor

from medtrace.checks import check_number
from medtrace.methods.bbdm.settings import BBDMSettings
from medtrace.methods.common.bridge import BridgeMethod, BridgeTask
from medtrace.networks.brownian_bridge import bridge, bridge_state
from medtrace.networks.diffusion_sampling import Denoised


class BBDMMethod(BridgeMethod):
    """Learn what lies between a state of the Brownian bridge and its target, and walk the bridge from the source.

    The term `residual` is mean |ε(x_m, m, x) − (x_m − y)|² = |ε − m(x − y) − √δ_m·noise|² (Li et al. 2023, Algorithm
    1). Arguments are those of `BridgeMethod`; `variance` is s, by which the bridge's variance is 2s(m − m²), and may be
    changed by a setting only.

    Raises:
        ValueError: if the variance is below 0.
    """

    name = "bbdm"
    title = "BBDM"
    paper = "Li et al., BBDM: Image-to-Image Translation with Brownian Bridge Diffusion Models (2023)"
    settings_type = BBDMSettings
    term = "residual"
    variance: float = 1.0

    @classmethod
    def from_settings(cls, settings: BBDMSettings) -> Self:  # type: ignore[override]
        """Build it from its settings."""
        method = super().from_settings(settings)
        check_number("variance", settings.variance)
        method.variance = settings.variance
        return method

    def task(self, start: Tensor, target: Tensor, time: Tensor) -> BridgeTask:
        """A state of the bridge; the state less the target."""
        state = bridge_state(start, target, time, torch.randn_like(target), self.variance)
        return BridgeTask(state, time, state - target)

    def walk(
        self, estimate: Any, start: Tensor, generators: list[torch.Generator], keep: Collection[int], label: str | None
    ) -> Denoised:
        """The bridge, with new noise in every step but the last."""
        drawn = generators if self.variance else None
        steps = self.sampling.steps
        return bridge(estimate, start, steps, drawn, scale=self.variance, keep=keep, progress=label)
