"""Sharpness of a translated image relative to its target, one number per case: mean squared errors reward blur."""

from __future__ import annotations

import torch
from torch import Tensor

from medtrace.checks import check_positive
from medtrace.losses import mask_weights
from medtrace.metrics.case_metric import CaseMetric, range_width
from medtrace.metrics.edges import sobel_magnitude
from medtrace.metrics.image import check_pair, region_mean

STABILITY = 170.0 / 255**2
"""GMSD's constant, of squares of a range of width 1 (Xue et al. 2014)."""


def sharpness_ratio(
    pred: Tensor, target: Tensor, mask: Tensor | None = None, *, data_range: tuple[float, float]
) -> Tensor:
    """Sum of an image's edge strengths over that of its target's, per case: below 1 the image is blurred.

    Edge strength is the magnitude of the Sobel gradient. A blur lowers it at every edge, whether or not the edge is at
    its true position; noise raises it, so the ratio is meaningless without an error measure.

    Args:
        pred: (B, C, H, W[, D]).
        target: the same shape.
        mask: (B, 1, H, W[, D]) bool or weights of the voxels that count.
        data_range: (low, high) of the intensities' scale; the ratio does not depend on it.

    Returns:
        (B,) >= 0, float64; NaN where the target has no edge.

    Example:
        >>> target = torch.zeros(1, 1, 8, 8)
        >>> target[..., 4:] = 1.0
        >>> round(float(sharpness_ratio(target / 2, target, data_range=(0, 1))), 6)
        0.5
    """
    range_width(data_range)
    pred, target = check_pair(pred, target)
    strengths = (region_mean(sobel_magnitude(value), mask) for value in (pred, target))
    own, true = strengths
    return torch.where(true > 0, own / true, torch.nan)


def gradient_magnitude_similarity_deviation(
    pred: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    data_range: tuple[float, float],
    stability: float = STABILITY,
) -> Tensor:
    """GMSD per case (Xue et al. 2014): how unevenly edge strengths agree; 0 where they agree everywhere.

    At every voxel (2·a·b + c) / (a² + b² + c) of the gradient magnitudes of the two images on a range of width 1, here
    Sobel's in intensity per voxel, in 2D and 3D (the authors': Prewitt's, of the halved 2D image, so that numbers are
    not comparable with theirs); the result is the standard deviation over voxels. Blur removes edges but not flat
    parts, so it causes a large deviation.

    Args:
        pred: (B, C, H, W[, D]).
        target: the same shape.
        mask: (B, 1, H, W[, D]) bool or weights of the voxels that count.
        data_range: (low, high) that the intensities can take.
        stability: the constant c.

    Returns:
        (B,) >= 0, float64.

    Example:
        >>> image = torch.rand(1, 1, 16, 16)
        >>> float(gradient_magnitude_similarity_deviation(image, image, data_range=(0, 1)))
        0.0
    """
    width = range_width(data_range)
    check_positive("stability", stability)
    pred, target = check_pair(pred, target)
    a, b = (sobel_magnitude(value / width) for value in (pred, target))
    similarity = (2 * a * b + stability) / (a.square() + b.square() + stability)
    weights = None if mask is None else mask_weights(mask, similarity)
    mean = region_mean(similarity, weights).reshape(-1, *[1] * (similarity.ndim - 1))
    return region_mean((similarity - mean).square(), weights).sqrt()


class SharpnessRatioMetric(CaseMetric):
    """`sharpness_ratio` of every case.

    Example:
        >>> image = torch.rand(1, 1, 8, 8)
        >>> round(float(SharpnessRatioMetric(data_range=(0, 1))(image, image)), 6)
        1.0
    """

    function = staticmethod(sharpness_ratio)

    def __init__(self, data_range: tuple[float, float]) -> None:
        super().__init__(data_range=data_range)


class GMSDMetric(CaseMetric):
    """`gradient_magnitude_similarity_deviation` of every case.

    Example:
        >>> image = torch.rand(1, 1, 8, 8)
        >>> float(GMSDMetric(data_range=(0, 1))(image, image))
        0.0
    """

    function = staticmethod(gradient_magnitude_similarity_deviation)

    def __init__(self, data_range: tuple[float, float], stability: float = STABILITY) -> None:
        super().__init__(data_range=data_range, stability=stability)
