"""The change of intensity that contrast alone explains."""

from __future__ import annotations

import torch
from torch import Tensor

from medtrace.checks import check_same_shape

CONTRAST_BINS = 64
"""Equal-width bins of the warped source's range in which the change of contrast is averaged."""


def contrast_change(warped: Tensor, image: Tensor, bins: int = CONTRAST_BINS) -> Tensor:
    """Change of intensity that contrast alone explains: E[image | warped] - warped, per channel.

    Args:
        warped: (C, *spatial), any intensity range.
        image: of the same shape.
        bins: equal-width bins between the channel's least and greatest warped intensity.

    Returns:
        (C, *spatial). In every bin that holds voxels, image - warped is averaged and placed at the bin's mean
        intensity; between those points it runs linearly, beyond the outermost it stays. A linear change of
        contrast is so reproduced but for half of an outermost bin; a constant warped image gives the mean
        difference.
    """
    check_same_shape("warped", warped, "image", image)
    return torch.stack([_regress(x, y - x, bins) for x, y in zip(warped, image)])


def _regress(values: Tensor, response: Tensor, bins: int) -> Tensor:
    """E[response | values] by a histogram of values, read at values."""
    x, y = values.flatten().double(), response.flatten().double()
    low, high = x.min(), x.max()
    if bool(high == low):
        return y.mean().to(values.dtype).expand(values.shape).clone()
    index = ((x - low) / (high - low) * bins).long().clamp_(max=bins - 1)
    count = torch.bincount(index, minlength=bins)
    filled = count > 0
    knots_x = (torch.bincount(index, weights=x, minlength=bins)[filled] / count[filled]).contiguous()
    knots_y = torch.bincount(index, weights=y, minlength=bins)[filled] / count[filled]
    right = torch.searchsorted(knots_x, x).clamp_(1, len(knots_x) - 1)
    width = knots_x[right] - knots_x[right - 1]
    part = ((x - knots_x[right - 1]) / width).clamp_(0.0, 1.0)
    result = torch.lerp(knots_y[right - 1], knots_y[right], part)
    return result.to(values.dtype).reshape(values.shape)
