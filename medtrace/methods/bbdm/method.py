"""BBDM: a diffusion bridge from the source to the target."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

import torch
from torch import Tensor

from medtrace.checks import check_number
from medtrace.methods.bbdm.settings import BBDMSettings
from medtrace.methods.common.bridge import BridgeMethod, BridgeTask
from medtrace.methods.common.diffusion import Sampling
from medtrace.networks.brownian_bridge import bridge, bridge_state
from medtrace.networks.diffusion_sampling import Denoised
from medtrace.networks.noise_estimator import NoiseEstimator


class BBDMMethod(BridgeMethod):
    """Learn what lies between a state of the Brownian bridge and its target, and walk the bridge from the source.

    The term `residual` is mean |ε(x_m, m, x) − (x_m − y)|² = |ε − m(x − y) − √δ_m·noise|² (Li et al. 2023, Algorithm
    1).

    Args:
        networks: takes a state, a time and the source.
        distance: "l2", a mean square, or "l1".
        average_decay: decay of the averaged weights.
        sampling: as for `BridgeMethod`; None has 10 steps.
        variance: s of the bridge's variance 2s(m − m²); 0 samples nothing.

    Raises:
        ValueError: if the variance is below 0.
    """

    name = "bbdm"
    title = "BBDM"
    paper = "Li et al., BBDM: Image-to-Image Translation with Brownian Bridge Diffusion Models (2023)"
    settings_type = BBDMSettings
    term = "residual"

    @classmethod
    def arguments_of(cls, settings: BBDMSettings) -> dict[str, Any]:
        """Arguments of the constructor that settings ask for, by name."""
        return {**super().arguments_of(settings), "variance": settings.variance}

    def __init__(
        self,
        networks: NoiseEstimator,
        distance: Literal["l2", "l1"] | str = "l2",
        average_decay: float = 0.9999,
        sampling: Sampling | None = None,
        variance: float = 1.0,
    ) -> None:
        super().__init__(networks, distance, average_decay, Sampling(steps=10) if sampling is None else sampling)
        check_number("variance", variance)
        if not variance >= 0:
            raise ValueError(f"variance: expected at least 0, received {variance!r}; 0 draws no noise")
        self.variance = variance

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
