"""Structural similarity over several scales, one number per case."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from medtrace.checks import check_number
from medtrace.losses import mask_weights
from medtrace.losses.structure import gaussian_taps, similarity_maps
from medtrace.metrics.case_metric import CaseMetric, range_width
from medtrace.metrics.image import check_pair, region_mean
from medtrace.metrics.ssim import WINDOW, check_window, inner_weights

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the scales, the finest first (Wang et al. 2003)."""


def multi_scale_structural_similarity(
    pred: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    data_range: tuple[float, float],
    weights: Sequence[float] = SCALE_WEIGHTS,
    window: int = WINDOW,
    sigma: float = 1.5,
) -> Tensor:
    """MS-SSIM per case (Wang, Simoncelli and Bovik 2003): contrast and structure at every scale, luminance at the last.

    Each scale halves the images by means of 2 voxels along every axis (a last odd one is left out). The mean of a scale
    is over the voxels whose window is on the grid; a negative one counts as 0. With several channels, their values are
    averaged. With a mask, voxels outside it are set to `low` in both images first, as SynthRAD's masked metric does,
    and the mean of a scale is over the voxels of which half or more is in the mask.

    Args:
        pred: (B, C, H, W[, D]).
        target: the same shape.
        mask: (B, 1, H, W[, D]) bool.
        data_range: (low, high) that the intensities can take.
        weights: exponents of the scales, the finest first; their number is that of the scales.
        window: side of the window, odd.
        sigma: standard deviation of the window, in voxels.

    Returns:
        (B,) in [0, 1], float64.

    Raises:
        ValueError: also if an axis is shorter than `window` at the last scale, or the mask is empty there.

    Example:
        >>> image = torch.rand(1, 1, 48, 48)
        >>> values = multi_scale_structural_similarity(image, image, data_range=(0, 1), weights=(0.4, 0.6))
        >>> round(float(values), 6)
        1.0
    """
    pred, target = check_pair(pred, target)
    width = range_width(data_range)
    check_window(window, sigma)
    check_scale_weights(weights)
    needed = window * 2 ** (len(weights) - 1)
    if min(pred.shape[2:]) < needed:
        raise ValueError(
            f"pred: expected axes of at least {needed} voxels for {len(weights)} scales and a window of {window},"
            f" received {tuple(pred.shape[2:])}; pass fewer weights or a smaller window"
        )
    channels, dims = pred.shape[1], pred.ndim - 2
    region = None if mask is None else (mask_weights(mask, pred) > 0).double().repeat_interleave(channels, 0)
    x, y = (value.flatten(0, 1)[:, None] - float(data_range[0]) for value in (pred, target))
    if region is not None:
        x, y = (torch.where(region > 0, value, 0.0) for value in (x, y))
    taps, halve = gaussian_taps(window, sigma), F.avg_pool2d if dims == 2 else F.avg_pool3d
    result = torch.ones(len(x), dtype=torch.float64, device=x.device)
    for scale, weight in enumerate(weights):
        luminance, structure = similarity_maps(x, y, width, taps)
        last = scale == len(weights) - 1
        inner = None if region is None else inner_weights((region >= 0.5).double(), window)
        mean = region_mean(luminance * structure if last else structure, inner)
        result = result * mean.clamp_min(0) ** weight
        if not last:
            x, y = halve(x, 2), halve(y, 2)
            region = None if region is None else halve(region, 2)
    return result.reshape(-1, channels).mean(1)


def check_scale_weights(weights: Sequence[float]) -> None:
    """Check the exponents of scales.

    Raises:
        TypeError: if they are not a tuple or list of numbers.
        ValueError: if there is none, or one is negative or not finite.
    """
    if not isinstance(weights, (tuple, list)):
        raise TypeError(f"weights: expected a tuple or list of exponents, received {type(weights).__name__}")
    for weight in weights:
        check_number("weights", weight)
    if not weights or not all(0 <= weight < math.inf for weight in weights):
        raise ValueError(f"weights: expected a finite exponent of at least 0 for each scale, received {tuple(weights)}")


class MultiScaleSSIMMetric(CaseMetric):
    """`multi_scale_structural_similarity` of every case.

    Example:
        >>> image = torch.rand(1, 1, 48, 48)
        >>> metric = MultiScaleSSIMMetric(data_range=(0, 1), weights=(0.4, 0.6))
        >>> round(float(metric(image, image)), 6)
        1.0
    """

    function = staticmethod(multi_scale_structural_similarity)

    def __init__(
        self,
        data_range: tuple[float, float],
        weights: Sequence[float] = SCALE_WEIGHTS,
        window: int = WINDOW,
        sigma: float = 1.5,
    ) -> None:
        super().__init__(data_range=data_range, weights=weights, window=window, sigma=sigma)
