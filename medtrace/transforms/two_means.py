"""Exact 2-means of numbers, and the range to compare them on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .geometry import Array


class TwoMeans(NamedTuple):
    """Two classes of numbers.

    Attributes:
        threshold: the largest number of the lower class.
        contrast: difference of the two classes' means, above 0.
    """

    threshold: float
    contrast: float


def two_means(values: Array) -> TwoMeans:
    """Divide numbers into two classes with the minimum sum of squared distances to the classes' means.

    In one dimension the classes are intervals, so that trying all thresholds is exact; minimum distance within classes
    is maximum weighted contrast between them, n₀ n₁ (m₁ − m₀)² (Otsu 1979).

    Args:
        values: any shape, finite, at least two different numbers.

    Returns:
        The threshold and the contrast; of equally good thresholds the lowest.
    """
    levels, counts = np.unique(values, return_counts=True)
    below = np.cumsum(counts)[:-1]
    above = values.size - below
    sums = np.cumsum(levels * counts)
    contrast = (sums[-1] - sums[:-1]) / above - sums[:-1] / below
    best = int(np.argmax(contrast * contrast * below * above))
    return TwoMeans(float(levels[best]), float(contrast[best]))


def unit_range(values: Array) -> Array:
    """The values mapped linearly onto [0, 1]; 0 if they are constant."""
    low, high = values.min(), values.max()
    if high == low:
        return np.zeros_like(values)
    scaled: Array = (values - low) / (high - low)
    return scaled
