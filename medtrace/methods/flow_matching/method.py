"""Flow matching along the straight line from the source to the target."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from medtrace.methods.common.bridge import BridgeMethod, BridgeTask
from medtrace.networks.brownian_bridge import bridge_state, euler
from medtrace.networks.diffusion_sampling import Denoised


class FlowMatchingMethod(BridgeMethod):
    """Learn the velocity of the straight line from each source to its target, and follow it in a few Euler steps.

    The term `velocity` is mean |v(x_t, t, x) − (y − x)|² with x_t on the line between source x and target y (Lipman et
    al. 2023, Eq. 23; Liu et al. 2023, Eq. 1). Arguments are those of `BridgeMethod`. Nothing is sampled at inference:
    `sampling.samples` and `sampling.seed` change nothing.
    """

    name = "flow_matching"
    title = "Flow matching"
    paper = (
        "Lipman et al., Flow Matching for Generative Modeling (2023), from the source as Liu et al., Flow Straight and"
    )
    paper += " Fast (2023)"
    term = "velocity"

    def task(self, start: Tensor, target: Tensor, time: Tensor) -> BridgeTask:
        """A point of the line; the target less the source."""
        return BridgeTask(bridge_state(start, target, time), time, target - start)

    def walk(
        self, estimate: Any, start: Tensor, generators: list[torch.Generator], keep: Collection[int], label: str | None
    ) -> Denoised:
        """Euler's method."""
        return euler(estimate, start, self.sampling.steps, keep=keep, progress=label)
