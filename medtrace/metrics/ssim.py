"""Structural similarity, one number per case."""

from __future__ import annotations

from torch import Tensor

from medtrace.checks import check_positive, check_whole
from medtrace.losses import mask_weights
from medtrace.losses.structure import gaussian_taps, similarity_maps
from medtrace.metrics.case_metric import CaseMetric, range_width
from medtrace.metrics.image import check_pair, region_mean

WINDOW = 11
"""Voxels of an image's shortest axis from which on its structural similarity is defined by default."""


def structural_similarity(
    pred: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    data_range: tuple[float, float],
    window: int = WINDOW,
    sigma: float = 1.5,
) -> Tensor:
    """SSIM per case with a Gaussian window (Wang et al. 2004), k1 = .01, k2 = .03.

    Intensities are shifted so that `low` is 0, as the definition on [0, L] has it: the value is then the same on
    [-1, 1] as on [0, 255]. The mean is over the voxels whose window is on the grid (and, with a mask, over those of
    them in the mask), and over channels. Population variances, as in scikit-image with
    `gaussian_weights=True, use_sample_covariance=False`.

    The value is that of MONAI's `SSIMMetric` on shifted images. The window is applied axis by axis in float64, which
    at 64³ takes a few per cent of the time of the full 11³ convolution.

    Args:
        pred: (B, C, H, W[, D]), every axis at least `window` long.
        target: the same shape.
        mask: (B, 1, H, W[, D]) bool or weights.
        data_range: (low, high) that the intensities can take.
        window: side of the window, odd.
        sigma: standard deviation of the window, in voxels.

    Returns:
        (B,) in [-1, 1], float64.

    Raises:
        ValueError: also if an axis is shorter than the window, or the mask lies only at the border.

    Example:
        >>> import torch
        >>> image = torch.rand(1, 1, 16, 16)
        >>> bool(structural_similarity(1 - image, image, data_range=(0, 1)) < 0.5)
        True
    """
    pred, target = check_pair(pred, target)
    width = range_width(data_range)
    check_window(window, sigma)
    if min(pred.shape[2:]) < window:
        raise ValueError(
            f"pred: expected axes of at least {window} voxels for this window, received {tuple(pred.shape[2:])};"
            " pass a smaller window, or a single slice as a 2D image"
        )
    low = float(data_range[0])
    luminance, structure = similarity_maps(pred - low, target - low, width, gaussian_taps(window, sigma))
    inner = None if mask is None else inner_weights(mask_weights(mask, pred), window)
    return region_mean(luminance * structure, inner)


def check_window(window: int, sigma: float) -> None:
    """Check the side and the standard deviation of a window."""
    check_positive("sigma", sigma)
    check_whole("window", window, 1)
    if window % 2 == 0:
        raise ValueError(f"window: expected an odd number, received {window!r}")


def inner_weights(weights: Tensor, window: int) -> Tensor:
    """Weights (B, 1, *spatial) of the voxels whose window is on the grid.

    Raises:
        ValueError: if an item has none of them.
    """
    margin = window // 2
    for axis, size in enumerate(weights.shape[2:], start=2):
        weights = weights.narrow(axis, margin, size - 2 * margin)
    if bool((weights.flatten(1).sum(1) == 0).any()):
        raise ValueError(
            f"mask: expected voxels at least {margin} from the border in every item; pass a smaller window"
        )
    return weights


class SSIMMetric(CaseMetric):
    """`structural_similarity` of every case.

    Example:
        >>> import torch
        >>> image = torch.rand(1, 1, 16, 16)
        >>> round(float(SSIMMetric(data_range=(0, 1))(image, image)), 4)
        1.0
    """

    function = staticmethod(structural_similarity)

    def __init__(self, data_range: tuple[float, float], window: int = 11, sigma: float = 1.5) -> None:
        super().__init__(data_range=data_range, window=window, sigma=sigma)
