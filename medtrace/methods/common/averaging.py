"""A network whose weights are the running average of another's."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


class WeightAverage(nn.Module):
    """Hold the exponential moving average of a network's weights, and run with it.

    Diffusion models are sampled with averaged weights (SR3 and Palette: decay 0.9999), whose noise estimates jump less
    from step to step. Update n = 0, 1, ... moves the average by 1 − min(decay, (1 + n) / (10 + n)) of the way, so that
    the first weights are soon forgotten. Average and count are part of the state dict; no gradient reaches them.

    Args:
        network: copied as it is now.
        decay: share of the average that an update keeps, in [0, 1); 0 follows the network without delay.

    Raises:
        ValueError: if `decay` is outside [0, 1).
    """

    updates: Tensor

    def __init__(self, network: nn.Module, decay: float = 0.9999) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay: expected a share in [0, 1), received {decay!r}")
        self.decay = decay
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move on towards the weights of `network`, the one that was copied; its buffers are taken over."""
        count = int(self.updates)
        share = 1 - min(self.decay, (1 + count) / (10 + count))
        for average, value in zip(self.network.parameters(), network.parameters(), strict=True):
            average.lerp_(value, share)
        for kept, buffer in zip(self.network.buffers(), network.buffers(), strict=True):
            kept.copy_(buffer)
        self.updates += 1

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network with the averaged weights."""
        return self.network(*args, **kwargs)
