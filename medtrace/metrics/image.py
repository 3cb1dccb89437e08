"""Similarity of two images: MAE, PSNR and NMI, one number per case."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

import torch
from torch import Tensor

from medtrace.checks import (
    check_batched,
    check_choice,
    check_finite,
    check_positive,
    check_same_shape,
    check_whole,
)
from medtrace.losses import mask_weights
from medtrace.metrics.case_metric import CaseMetric, range_width


class NMIConvention(StrEnum):
    """Conventions of normalized mutual information.

    STUDHOLME: (H(X) + H(Y)) / H(X, Y), in [1, 2] (Studholme et al. 1999; TraceTrans, Eq. 7).
    ARITHMETIC: 2·MI / (H(X) + H(Y)), in [0, 1].
    JOINT: MI / H(X, Y), in [0, 1]; STUDHOLME − 1.
    """

    STUDHOLME = "studholme"
    ARITHMETIC = "arithmetic"
    JOINT = "joint"


def check_pair(pred: Any, target: Any) -> tuple[Tensor, Tensor]:
    """Two finite images of one shape, in float64 and without metadata."""
    check_batched("pred", pred)
    check_batched("target", target)
    check_same_shape("pred", pred, "target", target)
    check_finite("pred", pred)
    check_finite("target", target)
    return pred.detach().as_subclass(Tensor).double(), target.detach().as_subclass(Tensor).double()


def region_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean (B,) over the channels and voxels of (B, C, *spatial), weighted by a mask (B, 1, *spatial)."""
    if mask is None:
        return values.flatten(1).mean(1)
    weights = mask_weights(mask, values)
    # where: 0 · NaN outside the mask would corrupt the sum
    kept = torch.where(weights > 0, values * weights, torch.zeros_like(values))
    return kept.flatten(1).sum(1) / (weights.flatten(1).sum(1) * values.shape[1])


def mean_absolute_error(
    pred: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    data_range: tuple[float, float],
    output_range: float | None = None,
) -> Tensor:
    """Mean absolute difference per case.

    Args:
        pred: (B, C, H, W[, D]).
        target: the same shape.
        mask: (B, 1, H, W[, D]) bool or weights; the mean is over its voxels.
        data_range: (low, high) of the intensities' scale; only its width matters here.
        output_range: width of the scale to report on, 255 for the papers' tables; None keeps the images' own units.

    Returns:
        (B,) >= 0, float64.

    Raises:
        TypeError, ValueError: on wrong types, shapes, ranges, non-finite numbers or an empty mask.

    Example:
        >>> mean_absolute_error(torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8), data_range=(-1, 1))
        tensor([1.], dtype=torch.float64)
    """
    pred, target = check_pair(pred, target)
    width = range_width(data_range)
    error = region_mean((pred - target).abs(), mask)
    if output_range is None:
        return error
    check_positive("output_range", output_range)
    return error * (output_range / width)


def peak_signal_to_noise_ratio(
    pred: Tensor, target: Tensor, mask: Tensor | None = None, *, data_range: tuple[float, float]
) -> Tensor:
    """10·log10(width² / MSE) in dB per case, width = high − low; the same on [-1, 1] as on [0, 255].

    Args:
        pred: (B, C, H, W[, D]).
        target: the same shape.
        mask: (B, 1, H, W[, D]) bool or weights; the MSE is over its voxels.
        data_range: (low, high) that the intensities can take.

    Returns:
        (B,) float64; +inf for a case without any error.

    Example:
        >>> pred, target = torch.zeros(1, 1, 8, 8), torch.full((1, 1, 8, 8), 0.1)
        >>> value = peak_signal_to_noise_ratio(pred, target, data_range=(0, 1))
        >>> round(float(value), 3)
        20.0
    """
    pred, target = check_pair(pred, target)
    width = range_width(data_range)
    return 10 * torch.log10(width**2 / region_mean((pred - target).square(), mask))


def normalized_mutual_information_score(
    pred: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    data_range: tuple[float, float],
    num_bins: int = 64,
    convention: NMIConvention | str = NMIConvention.STUDHOLME,
    out_of_range: Literal["error", "clamp"] | str = "error",
) -> Tensor:
    """Normalized mutual information per case, from joint histograms with equal bins over `data_range`.

    Channel c is compared with channel c and the values are averaged over channels. Unlike the loss there is no
    Parzen window, so an image with itself has STUDHOLME exactly 2. Without joint entropy (both constant) STUDHOLME is
    1 and the others are 0.

    Args:
        pred: (B, C, H, W[, D]) in `data_range`; 1e-4 of its width beyond it is taken as round-off.
        target: the same shape.
        mask: (B, 1, H, W[, D]) bool or weights of the voxels counted; the range is checked everywhere.
        data_range: (low, high): the outer edges of the bins.
        num_bins: bins per image.
        convention: which normalization, see `NMIConvention`; papers do not agree.
        out_of_range: "error", or "clamp" to count values outside in the outermost bins.

    Returns:
        (B,) float64.

    Example:
        >>> image = torch.linspace(-1, 1, 256).reshape(1, 1, 16, 16)
        >>> options = {"data_range": (-1, 1), "num_bins": 16, "convention": "arithmetic"}
        >>> score = normalized_mutual_information_score(-image, image, **options)
        >>> round(float(score), 3)
        1.0
    """
    pred, target = check_pair(pred, target)
    width = range_width(data_range)
    check_choice("convention", convention, [str(choice) for choice in NMIConvention])
    check_choice("out_of_range", out_of_range, ["error", "clamp"])
    check_whole("num_bins", num_bins, 2)
    bins_x = _bin_index("pred", pred, data_range, width, num_bins, out_of_range)
    bins_y = _bin_index("target", target, data_range, width, num_bins, out_of_range)
    batch, channels = pred.shape[:2]
    rows = torch.arange(batch * channels, device=pred.device)[:, None] * num_bins**2
    index = (rows + (bins_x * num_bins + bins_y).reshape(batch * channels, -1)).flatten()
    weights = None if mask is None else mask_weights(mask, pred).expand_as(pred).flatten()
    joint = torch.bincount(index, weights, minlength=batch * channels * num_bins**2).double()
    joint = joint.view(batch, channels, num_bins, num_bins)
    joint = joint / joint.sum((-2, -1), keepdim=True)
    apart = _entropy(joint.sum(-1), (-1,)) + _entropy(joint.sum(-2), (-1,))
    both = _entropy(joint, (-2, -1))
    mutual = (apart - both).clamp_min(0)
    divisor = apart / 2 if convention == NMIConvention.ARITHMETIC else both
    ratio = torch.where(divisor > 1e-12, mutual / divisor.clamp_min(1e-12), torch.zeros_like(mutual))
    return (ratio + 1 if convention == NMIConvention.STUDHOLME else ratio).mean(1)


def _bin_index(
    name: str, values: Tensor, data_range: tuple[float, float], width: float, num_bins: int, out_of_range: str
) -> Tensor:
    position = (values - float(data_range[0])) / width
    minimum, most = (float(bound) for bound in torch.aminmax(position))
    if out_of_range == "error" and not (minimum >= -1e-4 and most <= 1 + 1e-4):
        low = float(data_range[0])
        raise ValueError(
            f"{name}: expected values in [{low:g}, {low + width:g}], received [{low + minimum * width:.6g},"
            f" {low + most * width:.6g}]; give the right data_range, or allow out_of_range='clamp'"
        )
    return (position * num_bins).long().clamp(0, num_bins - 1)


def _entropy(probability: Tensor, axes: tuple[int, ...]) -> Tensor:
    result: Tensor = torch.special.entr(probability).sum(axes)
    return result


class MAEMetric(CaseMetric):
    """`mean_absolute_error` of every case.

    Example:
        >>> metric = MAEMetric(data_range=(-1, 1), output_range=255)
        >>> float(metric(torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)))  # half of the range
        127.5
    """

    function = staticmethod(mean_absolute_error)

    def __init__(self, data_range: tuple[float, float], output_range: float | None = None) -> None:
        super().__init__(data_range=data_range, output_range=output_range)


class PSNRMetric(CaseMetric):
    """`peak_signal_to_noise_ratio` of every case; perfect cases are infinite and counted separately.

    Example:
        >>> metric = PSNRMetric(data_range=(0, 1))
        >>> round(float(metric(torch.zeros(1, 1, 8, 8), torch.full((1, 1, 8, 8), 0.1))), 3)
        20.0
    """

    function = staticmethod(peak_signal_to_noise_ratio)

    def __init__(self, data_range: tuple[float, float]) -> None:
        super().__init__(data_range=data_range)


class NMIMetric(CaseMetric):
    """`normalized_mutual_information_score` of every case.

    Example:
        >>> image = torch.linspace(-1, 1, 256).reshape(1, 1, 16, 16)
        >>> round(float(NMIMetric(data_range=(-1, 1), num_bins=16)(-image, image)), 3)
        2.0
    """

    function = staticmethod(normalized_mutual_information_score)

    def __init__(
        self,
        data_range: tuple[float, float],
        num_bins: int = 64,
        convention: NMIConvention | str = NMIConvention.STUDHOLME,
        out_of_range: Literal["error", "clamp"] | str = "error",
    ) -> None:
        check_choice("convention", convention, [str(choice) for choice in NMIConvention])
        super().__init__(data_range=data_range, num_bins=num_bins, convention=convention, out_of_range=out_of_range)
