"""Normalized mutual information as a loss."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn.modules.loss import _Loss

from medtrace.checks import (
    check_batched,
    check_choice,
    check_extremes,
    check_floating,
    check_number,
    check_positive,
    check_same_shape,
)
from medtrace.losses.masking import mask_weights
from medtrace.losses.parzen import ParzenKernel, ParzenWindow, joint_histogram

RANGE_TOLERANCE = 1e-4
"""Part of the range by which round-off may leave it, on either side."""

OutOfRange = Literal["error", "clamp"]


def _window(num_bins: int, value_range: tuple[float, float], kernel: str, sigma: float) -> ParzenWindow:
    check_choice("kernel", kernel, [str(choice) for choice in ParzenKernel])
    if isinstance(num_bins, bool) or not isinstance(num_bins, int):
        raise TypeError(f"num_bins: expected a whole number, received {num_bins!r}")
    if not isinstance(value_range, (tuple, list)) or len(value_range) != 2:
        raise TypeError(f"value_range: expected (low, high), received {value_range!r}")
    for bound in value_range:
        check_number("value_range", bound)
    low, high = (float(bound) for bound in value_range)
    if not (low < high and high - low < float("inf")):
        raise ValueError(f"value_range: expected (low, high) with low < high, both finite, received {value_range!r}")
    check_positive("sigma", sigma)
    window = ParzenWindow(num_bins, (low, high), ParzenKernel(kernel), float(sigma))
    if window.cells < 1:
        raise ValueError(
            f"num_bins: expected at least {2 * window.radius} for the {kernel} kernel (its padding included),"
            f" received {num_bins}; take more bins"
        )
    return window


def _within_range(name: str, value: Tensor, value_range: tuple[float, float], out_of_range: str) -> Tensor:
    clamp = out_of_range == "clamp"
    check_extremes(value, partial(_assess_extremes, name, value_range, clamp))
    return value.clamp(*value_range) if clamp else value


def _assess_extremes(name: str, value_range: tuple[float, float], clamp: bool, minimum: float, most: float) -> None:
    if not (abs(minimum) < float("inf") and abs(most) < float("inf")):
        raise ValueError(
            f"{name}: expected finite numbers, received values in [{minimum}, {most}]; look for NaN or inf"
        )
    low, high = value_range
    slack = RANGE_TOLERANCE * (high - low)
    if not clamp and not (low - slack <= minimum and most <= high + slack):
        raise ValueError(
            f"{name}: expected values in [{low:g}, {high:g}], received [{minimum:.6g}, {most:.6g}]; rescale the image,"
            " pass value_range=(minimum, maximum), or allow saturation with out_of_range='clamp'"
        )


def _negative_entropy(probability: Tensor, axes: tuple[int, ...]) -> Tensor:
    # p·log p tends to 0 with p; the floor keeps the logarithm, and so the gradient of an empty bin, finite
    return (probability * probability.clamp_min(1e-30).log()).sum(axes)


def normalized_mutual_information(joint: Tensor) -> Tensor:
    """NMI = (H(X) + H(Y)) / H(X, Y) of joint probabilities (TraceTrans, Eq. 7; Studholme et al. 1999).

    Args:
        joint: tables (..., bins, bins) that each sum to 1.

    Returns:
        (...) in [1, 2]; 1 where the joint entropy is zero (all mass in one bin), the value of a constant pair.

    Raises:
        TypeError: if `joint` is not a floating tensor.
        ValueError: if it is not a table.

    Example:
        >>> joint = torch.stack([torch.eye(4) / 4, torch.full((4, 4), 1 / 16)])  # the same, independent
        >>> normalized_mutual_information(joint)
        tensor([2., 1.])
    """
    check_floating("joint", joint)
    if joint.ndim < 2 or 0 in joint.shape:
        raise ValueError(f"joint: expected tables (..., bins, bins), received shape {tuple(joint.shape)}")
    both = -_negative_entropy(joint, (-2, -1))
    apart = -_negative_entropy(joint.sum(-1), (-1,)) - _negative_entropy(joint.sum(-2), (-1,))
    degenerate = both <= 1e-12
    ratio = apart / torch.where(degenerate, torch.ones_like(both), both)
    return torch.where(degenerate, torch.ones_like(ratio), ratio)


def parzen_nmi(
    x: Tensor,
    y: Tensor,
    *,
    num_bins: int = 32,
    value_range: tuple[float, float] = (-1.0, 1.0),
    kernel: Literal["cubic", "gaussian"] | str = "cubic",
    sigma: float = 0.5,
    mask: Tensor | None = None,
    out_of_range: OutOfRange | str = "error",
) -> Tensor:
    """Normalized mutual information (H(X) + H(Y)) / H(X, Y) from Parzen windows, differentiable in both images.

    Both images get the window (Thévenaz & Unser use a box for the second one), so that both gradients are exact.
    `num_bins` counts the padding: bins have unit spacing, `value_range` covers the `num_bins − 3` intervals between
    bin 1 and bin num_bins − 2 (cubic, and Gaussian with the default sigma), and one bin at each end catches the
    window's tail. Reference values: independent images tend to 1 from above as voxels grow; an image with itself
    stays below 2 because windows blur, and rises with the number of bins (uniform noise: 1.47 at 32, 1.64 at 256). If
    either image is constant the value is 1 and both gradients are 0.

    Args:
        x: (B, C, H, W[, D]), intensities in `value_range`; 1e-4 of the range beyond it is taken as round-off.
        y: the same shape; channel c of x is paired with channel c of y.
        num_bins: bins per image, at least 4 (cubic).
        value_range: lowest and highest intensity, for both images.
        kernel: "cubic" (B-spline, support 4 bins) or "gaussian" (truncated at ⌈3σ⌉ bins each side and normalized per
            voxel; its value jumps by about e^(−⌈3σ⌉²/2σ²) where the support shifts).
        sigma: standard deviation of the Gaussian window in bins; unused by "cubic".
        mask: (B, 1, H, W[, D]) bool or weights >= 0 of the voxels; the range is still checked everywhere.
        out_of_range: "error", or "clamp" to saturate values outside the range (their gradient is then 0).

    Returns:
        (B, C) values, float32, or float64 for float64 images. Computed in float64 whatever autocast says.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: on unequal shapes (channel counts included), non-finite numbers, values outside the range, an
            empty mask.

    Example:
        >>> image = torch.linspace(-1, 1, 256).reshape(1, 1, 16, 16)
        >>> shuffled = image.flatten()[torch.randperm(256)].reshape(image.shape)
        >>> bool(parzen_nmi(image, -image) > 1.3), bool(parzen_nmi(image, shuffled) < 1.1)
        (True, True)
    """
    check_batched("x", x)
    check_batched("y", y)
    check_same_shape("x", x, "y", y)
    check_choice("out_of_range", out_of_range, ["error", "clamp"])
    window = _window(num_bins, value_range, kernel, sigma)
    dtype = torch.float64 if torch.float64 in (x.dtype, y.dtype) else torch.float32
    # as_subclass: MONAI's MetaTensor would carry its metadata through every small step
    x = _within_range("x", x.as_subclass(Tensor).to(dtype), window.value_range, out_of_range)
    y = _within_range("y", y.as_subclass(Tensor).to(dtype), window.value_range, out_of_range)
    batch, channels = x.shape[:2]
    weights = None if mask is None else mask_weights(mask, x).flatten(1).repeat_interleave(channels, dim=0)
    flat = (batch * channels, -1)
    joint = joint_histogram(x.reshape(flat), y.reshape(flat), window, weights)
    return normalized_mutual_information(joint).view(batch, channels).to(dtype)


class ParzenDNMILoss(_Loss):
    """Minus the differentiable normalized mutual information (TraceTrans, Eq. 7 and the text below it).

    Several channels: channel c of the prediction is compared with channel c of the target, and the NMIs are averaged
    over channels. Images with unequal channel counts have no such pairing and raise a ValueError.

    Args:
        num_bins: bins per image, padding included.
        value_range: lowest and highest intensity of both images.
        kernel: "cubic" or "gaussian".
        reduction: "mean" or "sum" over the batch, or "none" for one value per item (B,).
        sigma: standard deviation of the Gaussian window, in bins.
        out_of_range: "error" (default) or "clamp"; see `parzen_nmi`.

    Example:
        >>> image = torch.linspace(-1, 1, 256).reshape(1, 1, 16, 16)
        >>> shuffled = image.flatten()[torch.randperm(256)].reshape(image.shape)
        >>> loss = ParzenDNMILoss(num_bins=16)
        >>> bool(loss(-image, image) < loss(shuffled, image))  # an inverted contrast says as much as the same
        True
    """

    def __init__(
        self,
        num_bins: int = 32,
        value_range: tuple[float, float] = (-1.0, 1.0),
        kernel: Literal["cubic", "gaussian"] | str = "cubic",
        reduction: Literal["mean", "sum", "none"] | str = "mean",
        sigma: float = 0.5,
        out_of_range: OutOfRange | str = "error",
    ) -> None:
        check_choice("reduction", reduction, ["mean", "sum", "none"])
        check_choice("out_of_range", out_of_range, ["error", "clamp"])
        _window(num_bins, value_range, kernel, sigma)
        super().__init__(reduction=reduction)
        self.num_bins = num_bins
        self.value_range = value_range
        self.kernel = kernel
        self.sigma = sigma
        self.out_of_range = out_of_range

    def forward(self, pred: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """Minus NMI of two images (B, C, H, W[, D]), within the optional mask (B, 1, H, W[, D])."""
        values = -parzen_nmi(
            pred,
            target,
            num_bins=self.num_bins,
            value_range=self.value_range,
            kernel=self.kernel,
            sigma=self.sigma,
            mask=mask,
            out_of_range=self.out_of_range,
        ).mean(1)
        if self.reduction == "none":
            return values
        return values.mean() if self.reduction == "mean" else values.sum()

    if TYPE_CHECKING:
        __call__ = forward

    def extra_repr(self) -> str:
        return f"num_bins={self.num_bins}, value_range={self.value_range}, kernel={str(self.kernel)!r}"
