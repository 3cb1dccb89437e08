"""Smoothness of an intensity change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn.modules.loss import _Loss

from medtrace.checks import check_batched, check_choice


def intensity_diffusion(intensity: Tensor, reduction: Literal["mean", "sum"] | str = "mean") -> Tensor:
    """|∇(q·M)|²: squared forward differences of a masked intensity change (MetaRegNet, Eq. 4).

    Args:
        intensity: q·M, (B, C, H, W) or (B, C, H, W, D), in the unit of the images. In units of [-1, 1] the result is
            four times that of the paper's [0, 1].
        reduction: "mean" over batch, channels and neighboring voxels of each axis, then over the axes; "sum" over
            all of them, averaged over the batch. Axes of length 1 have no neighbors and do not count.

    Returns:
        A scalar >= 0; 0 if every axis has length 1. float32 also under autocast; float64 stays.

    Raises:
        TypeError: if `intensity` is not a floating tensor.
        ValueError: if its shape is wrong or `reduction` is unknown.

    The differences across the mask's edge count, as in the equation: q is drawn to 0 towards it. MONAI's
    `DiffusionLoss` takes displacements only (as many channels as axes).

    Example:
        >>> float(intensity_diffusion(torch.arange(4.0).expand(1, 1, 4, 4), reduction="sum"))
        12.0
    """
    check_batched("intensity", intensity)
    check_choice("reduction", reduction, ("mean", "sum"))
    values = intensity if intensity.dtype == torch.float64 else intensity.float()
    steps = [values.diff(dim=axis).square() for axis in range(2, values.ndim) if values.shape[axis] > 1]
    if not steps:
        return values.sum() * 0
    if reduction == "sum":
        return torch.stack([step.sum() for step in steps]).sum() / values.shape[0]
    return torch.stack([step.mean() for step in steps]).mean()


class IntensityDiffusionLoss(_Loss):
    """`intensity_diffusion` as a module; `reduction` is "mean" or "sum".

    Example:
        >>> ramp = torch.arange(4.0).expand(1, 1, 4, 4)
        >>> float(IntensityDiffusionLoss()(ramp))
        0.5
    """

    def __init__(self, reduction: Literal["mean", "sum"] | str = "mean") -> None:
        check_choice("reduction", reduction, ("mean", "sum"))
        super().__init__(reduction=reduction)

    def forward(self, intensity: Tensor) -> Tensor:
        """Diffusion of an intensity change (B, C, *spatial)."""
        return intensity_diffusion(intensity, self.reduction)

    if TYPE_CHECKING:
        __call__ = forward
