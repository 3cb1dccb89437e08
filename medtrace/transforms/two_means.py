"""Exact 2-means of numbers, K-means of a few classes, and the range to compare them on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from skimage.filters import threshold_multiotsu

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


def several_means(values: Array, classes: int, bins: int = 256) -> Array:
    """Thresholds of K-means: the upper ends of all classes but the last, ascending.

    Multi-Otsu (Liao, Chen & Chung 2001, scikit-image's `threshold_multiotsu`), which tries all thresholds between bins,
    gives the start; Lloyd's iteration of the numbers themselves then leaves no bins.

    Args:
        values: any shape, finite.
        classes: K, from 2.
        bins: bins between the least and the greatest number, in which multi-Otsu counts.

    Returns:
        K - 1 numbers; fewer where there are fewer than K different numbers, or fewer than K bins hold numbers.
    """
    different: Array = np.unique(values)
    if len(different) <= classes:
        return different[:-1]
    counts, edges = np.histogram(values, bins)
    classes = min(classes, int((counts > 0).sum()))
    if classes == 2:
        return np.array([two_means(values).threshold])
    thresholds: Array = threshold_multiotsu(values, classes, bins) + 0.5 * (
        edges[1] - edges[0]
    )  # given as centers of bins
    for _ in range(100):
        means = [values[group].mean() for group in _groups(values, thresholds) if group.any()]
        halves: Array = (np.array(means[1:]) + means[:-1]) / 2
        if np.array_equal(halves, thresholds):
            break
        thresholds = halves
    return thresholds


def _groups(values: Array, thresholds: Array) -> list[Array]:
    numbers = np.digitize(values, thresholds, right=True)
    return [numbers == number for number in range(len(thresholds) + 1)]


def unit_range(values: Array) -> Array:
    """The values mapped linearly onto [0, 1]; 0 if they are constant."""
    low, high = values.min(), values.max()
    if high == low:
        return np.zeros_like(values)
    scaled: Array = (values - low) / (high - low)
    return scaled
