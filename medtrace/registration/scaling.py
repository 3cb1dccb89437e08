"""Intensities from 0 to 1 between the extremes of tissue."""

from __future__ import annotations

import torch
from torch import Tensor


def scaled(image: Tensor, weight: Tensor | None = None) -> Tensor:
    """An image from 0 to 1 between the .5 and 99.5 percentiles, per channel, of what lies above its least value.

    Args:
        image: (C, *spatial).
        weight: (1, *spatial): voxels at and below one half do not count.
    """
    values = image.detach().as_subclass(Tensor).float()
    result = torch.empty_like(values)
    for channel, own in enumerate(values):
        inside = own if weight is None else own[weight[0] > 0.5]
        tissue = inside[inside > own.min()]
        low, high = _percentiles(tissue) if tissue.numel() > 1 else (0.0, 1.0)
        result[channel] = (own - low) / max(high - low, 1e-12)
    return result


def _percentiles(values: Tensor) -> tuple[float, float]:
    order = values.flatten().sort().values
    last = order.numel() - 1
    return float(order[round(0.005 * last)]), float(order[round(0.995 * last)])
