"""Smoothness of velocity and displacement fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn.modules.loss import _Loss

from medtrace.checks import check_choice, check_field


def velocity_smoothness(velocity: Tensor, reduction: Literal["mean", "sum"] | str = "mean") -> Tensor:
    """Squared forward differences of a field (TraceTrans, L_smooth below Eq. 13).

    Args:
        velocity: (B, 2, H, W) or (B, 3, H, W, D), in voxels.
        reduction: "sum" is the paper's Σ_p |∇v(p)|²: over voxels, components and axes, averaged over the batch.
            "mean" (VoxelMorph's code): for each axis the mean of the squared differences over batch, components and
            neighboring voxels, then the mean over the axes. Axes of length 1 have no neighbors: they add nothing to
            the sum and do not count in the mean.

    Returns:
        A scalar >= 0; 0 if every axis has length 1. float32 also under autocast; float64 stays.

    Raises:
        TypeError, ValueError: if `velocity` is not a field, or `reduction` is unknown.

    Deviation: the paper writes the sum, whose weight then depends on the image size; the default is the mean.

    Example:
        >>> float(velocity_smoothness(torch.arange(4.0).expand(1, 2, 4, 4), reduction="sum"))
        24.0
    """
    check_field("velocity", velocity)
    check_choice("reduction", reduction, ["mean", "sum"])
    if velocity.dtype != torch.float64:
        velocity = velocity.float()
    steps = [velocity.diff(dim=axis).square() for axis in range(2, velocity.ndim) if velocity.shape[axis] > 1]
    if not steps:
        return velocity.sum() * 0
    if reduction == "sum":
        return torch.stack([step.sum() for step in steps]).sum() / velocity.shape[0]
    return torch.stack([step.mean() for step in steps]).mean()


class VelocitySmoothnessLoss(_Loss):
    """`velocity_smoothness` as a module; `reduction` is "mean" or "sum".

    Example:
        >>> ramp = torch.arange(4.0).expand(1, 2, 4, 4)
        >>> float(VelocitySmoothnessLoss()(ramp))
        0.5
    """

    def __init__(self, reduction: Literal["mean", "sum"] | str = "mean") -> None:
        check_choice("reduction", reduction, ["mean", "sum"])
        super().__init__(reduction=reduction)

    def forward(self, velocity: Tensor) -> Tensor:
        """Smoothness of a field (B, D, *spatial) in voxels."""
        return velocity_smoothness(velocity, self.reduction)

    if TYPE_CHECKING:
        __call__ = forward
