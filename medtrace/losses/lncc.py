"""Local normalized cross-correlation as a loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn.modules.loss import _Loss

from medtrace.checks import check_batched, check_choice, check_finite, check_positive, check_same_shape, check_whole
from medtrace.kernels.lncc import local_correlations
from medtrace.losses.masking import mask_weights


def lncc(x: Tensor, y: Tensor, *, radius: int = 2, floor: float = 1e-5, mask: Tensor | None = None) -> Tensor:
    """Mean squared local correlation of two images, differentiable in both (Avants et al., MedIA 2008).

    About every voxel the squared correlation coefficient of the two images in a window of 2·radius + 1 voxels an
    axis, in [0, 1]: blind to any linear change of intensity, including its sign.

    Args:
        x: (B, C, H, W[, D]), finite, any range.
        y: the same shape; channel c of x is compared with channel c of y.
        radius: radius of the windows, which end at the image's border.
        floor: added to each variance, in squared intensities: where both images vary less than this, they count as
            constant, with correlation 0. Below the rounding of the images' squares (1e-7 of them in float32) it cannot
            detect constant regions.
        mask: (B, 1, H, W[, D]) bool or weights >= 0: for voxels in the windows and for windows in the mean, so that
            masked voxels have no influence at all.

    Returns:
        (B, C): Σ v·LNCC² / Σ v with v the mask or 1; float32, or float64 for float64 images. Computed without autocast.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: on unequal shapes, non-finite numbers or an empty mask.
        RuntimeError: from torch, when a second derivative is requested (there is none).

    Equation: with window sums S of weight n, A = Sxy − Sx·Sy/n, B = Sxx − Sx²/n + floor·max(n, 1), C likewise of y:
    LNCC² = A²/(B·C). `medtrace.kernels.use` chooses between compiled loops (float32 on the CPU) and plain torch.

    Example:
        >>> x = torch.rand(1, 1, 16, 16)
        >>> float(lncc(x, 3.0 - 2.0 * x, floor=1e-9)) > 0.999
        True
    """
    check_batched("x", x)
    check_batched("y", y)
    check_same_shape("x", x, "y", y)
    check_whole("radius", radius, 1)
    check_positive("floor", floor)
    dtype = torch.float64 if torch.float64 in (x.dtype, y.dtype) else torch.float32
    x, y = (image.as_subclass(Tensor).to(dtype) for image in (x, y))  # without MONAI's metadata
    for name, image in (("x", x), ("y", y)):
        check_finite(name, image)
    batch, channels, *spatial = x.shape
    weight = torch.ones_like(x[:, :1]) if mask is None else mask_weights(mask, x)
    rows = weight.expand(-1, channels, *spatial).reshape(-1, *spatial)
    sums = local_correlations(x.reshape(-1, *spatial), y.reshape(-1, *spatial), rows, radius, float(floor))
    means = sums.view(batch, channels) / weight.flatten(1).sum(1, dtype=torch.float64, keepdim=True)
    return means.clamp(0, 1).to(dtype)  # rounding may exceed the range


class LNCCLoss(_Loss):
    """Minus the mean squared local correlation, see `lncc`; channels are averaged.

    Equal to MONAI's LocalNormalizedCrossCorrelationLoss away from the border; at the border MONAI's windows include
    zeros beyond it, and its floor is a minimum of the variance rather than added to it.

    Args:
        radius: radius of the windows.
        floor: added to each variance, in squared intensities.
        reduction: "mean" or "sum" over the batch, or "none" for one value per item (B,).

    Example:
        >>> image = torch.rand(1, 1, 16, 16)
        >>> round(float(LNCCLoss()(2 * image + 1, image)), 2)
        -1.0
    """

    def __init__(
        self,
        radius: int = 2,
        floor: float = 1e-5,
        reduction: Literal["mean", "sum", "none"] | str = "mean",
    ) -> None:
        check_choice("reduction", reduction, ["mean", "sum", "none"])
        check_whole("radius", radius, 1)
        check_positive("floor", floor)
        super().__init__(reduction=reduction)
        self.radius = radius
        self.floor = floor

    def forward(self, pred: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """Minus LNCC² of two images (B, C, H, W[, D]), within the optional mask (B, 1, H, W[, D])."""
        values = -lncc(pred, target, radius=self.radius, floor=self.floor, mask=mask).mean(1)
        if self.reduction == "none":
            return values
        return values.mean() if self.reduction == "mean" else values.sum()

    if TYPE_CHECKING:
        __call__ = forward

    def extra_repr(self) -> str:
        return f"radius={self.radius}, floor={self.floor:g}"
