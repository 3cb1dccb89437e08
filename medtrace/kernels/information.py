"""Mutual information of a joint histogram, and its derivative by every entry."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

SMOOTHING_BINS = 1.0
"""Standard deviation of the Gaussian that smooths a histogram, in bins."""

FLOOR = 1e-7
"""Added to every probability, so that no logarithm of 0 is taken."""


class Information(NamedTuple):
    """Information of two images, and what an entry of their histogram adds to it."""

    value: float
    """Mutual information in nats, or normalized, in [1, 2]."""
    by_entry: Any
    """(bins, bins) float64: derivative by the entries of the unsmoothed histogram, times its sum."""


def information(table: Any, normalized: bool) -> Information:
    """Mutual information of a smoothed joint histogram.

    MI = Σ p·log(p / (p_x·p_y)); normalized (H_x + H_y) / H_xy (Studholme et al., 1999).

    Args:
        table: (bins, bins) weights of at least 0, not all 0.
        normalized: which of the two.

    Returns:
        Value and derivative; a constant added to all entries of the derivative changes nothing, since the
        probabilities sum to 1.
    """
    spread = smoothing_matrix(table.shape[0])
    smooth = spread @ table @ spread.T
    mass = smooth.sum()
    joint = smooth / mass + FLOOR
    rows, columns = joint.sum(1, keepdims=True), joint.sum(0, keepdims=True)
    of_joint, of_rows, of_columns = np.log(joint), np.log(rows), np.log(columns)
    if normalized:
        entropy = -float((joint * of_joint).sum())
        apart = -float((rows * of_rows).sum() + (columns * of_columns).sum())
        value = apart / entropy
        slope = (value * (of_joint + 1) - of_rows - of_columns - 2) / entropy
    else:
        value = float((joint * (of_joint - of_rows - of_columns)).sum())
        slope = of_joint - of_rows - of_columns - 1
    slope = slope - (slope * smooth).sum() / mass
    return Information(value, spread.T @ slope @ spread * (table.sum() / mass))


def smoothing_matrix(bins: int) -> Any:
    """Matrix that smooths along one axis and keeps the sum of what it smooths."""
    places = np.arange(bins)
    weights = np.exp(-0.5 * ((places[:, None] - places[None]) / SMOOTHING_BINS) ** 2)
    return weights / weights.sum(0, keepdims=True)
