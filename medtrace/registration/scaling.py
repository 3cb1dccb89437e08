"""Scaling of intensities to [0, 1] between the extremes of tissue."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

GAP = 0.25
"""Maximum distance of an outside background from the tissue's range, as a fraction of that range."""


ENOUGH = 500_000
"""Approximate maximum number of voxels for percentiles."""


def scaled(image: Tensor, weight: Tensor | None = None) -> Tensor:
    """An image from 0 to 1 between the .5 and 99.5 percentiles of its tissue, per channel.

    Tissue is what differs from a background: a value that most of the border has, or else the minimum. A background
    outside those percentiles is kept separate: it becomes 0 or 1 itself, and the tissue gets the rest, at least four
    fifths of the range.

    Args:
        image: (C, *spatial).
        weight: (1, *spatial): voxels at and below one half do not count.
    """
    values = image.detach().as_subclass(Tensor).float()
    result = torch.empty_like(values)
    for channel, own in enumerate(values):
        inside = own if weight is None else own[weight[0] > 0.5]
        background = _background(own)
        inside = inside.flatten()
        inside = inside[:: 1 + inside.numel() // ENOUGH]
        tissue = inside[inside > own.min()] if background is None else inside[inside != background]
        low, high = percentiles(tissue) if tissue.numel() > 1 else (0.0, 1.0)
        if background is not None:
            low, high, own = _apart(own, background, low, high)
        result[channel] = (own - low) / max(high - low, 1e-12)
    return result


def _background(image: Tensor) -> float | None:
    """The value that most of the border's voxels have, or None."""
    faces = [
        image.select(axis, side).flatten() for axis, size in enumerate(image.shape) if size > 1 for side in (0, -1)
    ]
    if not faces:
        return None
    border = torch.cat(faces)
    middle = border.median()
    return float(middle) if float((border == middle).float().mean()) > 0.5 else None


def _apart(image: Tensor, background: float, low: float, high: float) -> tuple[float, float, Tensor]:
    """Limits that enclose the background, and the image with the empty range between it and the tissue shortened."""
    gap = GAP * (high - low)
    if background < low:
        edge = max(background, low - gap)
        return edge, high, image.clamp_min(edge)
    if background > high:
        edge = min(background, high + gap)
        return low, edge, image.clamp_max(edge)
    return low, high, image


def percentiles(values: Tensor) -> tuple[float, float]:
    """The .5 and 99.5 percentiles of at least one value."""
    last = values.numel() - 1
    places = round(0.005 * last), round(0.995 * last)
    if values.device.type == "cpu":  # finds two numbers without sorting the others
        low, high = np.partition(values.flatten().numpy(), places)[list(places)]
        return float(low), float(high)
    order = values.flatten().sort().values
    return float(order[places[0]]), float(order[places[1]])
