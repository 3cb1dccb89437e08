"""A network whose weights are the running average of another's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class WeightAverage(AveragedModel):
    """Hold the exponential moving average of a network's weights as `module`, and run with it.

    Diffusion models are sampled with averaged weights (SR3 and Palette: decay 0.9999), whose noise estimates vary less
    from step to step. Update n = 0, 1, ... moves the average by 1 − min(decay, (1 + n) / (10 + n)) of the way, so that
    the first weights are soon forgotten; buffers are copied. Average and count are part of the state dict; no
    gradient reaches them. `update_parameters(network)` updates it.

    Args:
        network: copied as it is now.
        decay: fraction of the average that an update keeps, in [0, 1); 0 follows the network without delay.

    Raises:
        ValueError: if `decay` is outside [0, 1).
    """

    def __init__(self, network: nn.Module, decay: float = 0.9999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay: expected a fraction in [0, 1), received {decay!r}")
        super().__init__(network, multi_avg_fn=partial(_move, decay))
        self.decay = decay
        self.module.requires_grad_(False)
        self.n_averaged += 1  # the copy counts: at 0 the first update would copy again

    @property
    def updates(self) -> int:
        """How often the average was moved."""
        return int(self.n_averaged) - 1


def _move(decay: float, averages: Sequence[Tensor], values: Sequence[Tensor], count: Tensor) -> None:
    move_averages(decay, averages, values, int(count) - 1)


def move_averages(decay: float, averages: Sequence[Tensor], values: Sequence[Tensor], updates: int) -> None:
    """Move averages in place by 1 − min(decay, (1 + updates) / (10 + updates)) of the way to the values."""
    fraction = 1 - min(decay, (1 + updates) / (10 + updates))
    for average, value in zip(averages, values, strict=True):
        average.lerp_(value, fraction)
