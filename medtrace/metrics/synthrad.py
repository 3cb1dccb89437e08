"""SynthRAD's measures of a synthetic CT with their own conventions, one number per case (Huijben et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medtrace.metrics.case_metric import range_width
from medtrace.metrics.image import check_pair, mean_absolute_error, peak_signal_to_noise_ratio
from medtrace.metrics.multi_scale_ssim import (
    SCALE_WEIGHTS,
    check_scale_weights,
    multi_scale_structural_similarity,
)
from medtrace.metrics.ssim import check_window

HU_RANGE = (-1024.0, 3071.0)
"""The 12-bit range of PSNR and MS-SSIM. The challenge's own code has 3000 at its upper end."""
SYNTHRAD_WINDOW = 7


def synthrad_scores(
    image: Tensor,
    target: Tensor,
    mask: Tensor,
    *,
    data_range: tuple[float, float] = HU_RANGE,
    weights: Sequence[float] = SCALE_WEIGHTS,
    window: int = SYNTHRAD_WINDOW,
) -> dict[str, Tensor]:
    """MAE in HU, PSNR and MS-SSIM of a CT, all within the body's mask.

    MAE and PSNR use the unchanged values. MS-SSIM uses the values clipped to the range, with both images at its lower
    end outside the mask (`multi_scale_structural_similarity`), with a Gaussian window of 7 voxels; where an axis is too
    short for all scales, fewer are used, with their weights divided by their sum; `ms_ssim_scales` reports how many.

    Args:
        image: (B, 1, *spatial) in HU.
        target: the true CT, the same shape.
        mask: (B, 1, *spatial) bool, the body.
        data_range: data range of PSNR and MS-SSIM, in HU.
        weights: exponents of the scales, the finest first.
        window: window of MS-SSIM.

    Returns:
        `mae_hu`, `psnr`, `ms_ssim` and `ms_ssim_scales`, each (B,) float64; if not even one scale fits, `ms_ssim` is
        NaN.

    Example:
        >>> ct = torch.full((1, 1, 16, 16), 40.0)
        >>> scores = synthrad_scores(ct + 10, ct, torch.ones(1, 1, 16, 16, dtype=torch.bool))
        >>> float(scores["mae_hu"]), round(float(scores["psnr"]), 2), float(scores["ms_ssim_scales"])
        (10.0, 52.25, 2.0)
    """
    range_width(data_range)
    check_scale_weights(weights)
    check_window(window, 1.5)
    image, target = check_pair(image, target)
    low, high = data_range
    shortest, scales = min(image.shape[2:]), 0
    while scales < len(weights) and window * 2**scales <= shortest:
        scales += 1
    similarity = torch.full((len(image),), torch.nan, dtype=torch.float64)
    if scales:
        kept = [weight / sum(weights[:scales]) for weight in weights[:scales]]
        first, second = image.clamp(low, high), target.clamp(low, high)
        similarity = multi_scale_structural_similarity(
            first, second, mask, data_range=data_range, weights=kept, window=window
        )
    return {
        "mae_hu": mean_absolute_error(image, target, mask, data_range=data_range),
        "psnr": peak_signal_to_noise_ratio(image, target, mask, data_range=data_range),
        "ms_ssim": similarity,
        "ms_ssim_scales": torch.full((len(image),), float(scales), dtype=torch.float64),
    }
