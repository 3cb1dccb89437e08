"""Paired comparison of two methods on the same cases: size, certainty and frequency of the advantage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

RESAMPLES = 10_000
"""Of the bootstrap."""
LEVEL = 0.95
"""Of its interval."""


class PairedComparison(NamedTuple):
    """Summary of the differences of two methods on the same cases.

    `n` counts the cases where both are finite. `difference` is the mean of A − B and `low` and `high` its 95 % interval
    (percentiles of the paired bootstrap). `probability` is the fraction of cases where A is better, ties counted half.
    `effect` is Cohen's d of paired differences, mean over standard deviation (n − 1), signed so that above 0 A is
    better. `p` is Wilcoxon's signed-rank test of a median difference of 0, two-sided. Values that n does not allow are
    NaN.
    """

    n: int
    difference: float
    low: float
    high: float
    probability: float
    effect: float
    p: float

    def __str__(self) -> str:
        return (
            f"{self.difference:+.4g} [{self.low:+.4g}, {self.high:+.4g}], better in {self.probability:.0%} of {self.n},"
            f" d={self.effect:.2f}, p={self.p:.2g}"
        )


def bootstrap_interval(values: Sequence[float], *, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of a mean: percentiles of the bootstrap over values that are independent of each other.

    Args:
        values: finite numbers, one per subject or case.
        seed: seed of the resampling.

    Returns:
        Its ends; NaN for fewer than two values.

    Example:
        >>> low, high = bootstrap_interval([1.0, 2.0, 3.0])
        >>> 1 <= low < 2 < high <= 3
        True
    """
    given = np.asarray(values, dtype=np.float64).ravel()
    if len(given) < 2:
        return float("nan"), float("nan")
    draws = np.random.default_rng(seed).integers(0, len(given), (RESAMPLES, len(given)))
    low, high = np.quantile(given[draws].mean(1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def compare_paired(
    first: Sequence[float], second: Sequence[float], *, larger_is_better: bool, seed: int = 0
) -> PairedComparison:
    """Compare method A with method B, case by case.

    Args:
        first: values of A, one per case.
        second: values of B on the same cases, in the same order.
        larger_is_better: whether a higher value is the better one.
        seed: seed of the bootstrap.

    Returns:
        The comparison; cases where a value is not finite are left out of it.

    Raises:
        ValueError: if the numbers of cases differ.

    Example:
        >>> found = compare_paired([1.0, 2.0, 3.0, 4.0], [2.0, 2.5, 3.0, 6.0], larger_is_better=False)
        >>> found.difference, found.probability
        (-0.875, 0.875)
    """
    values = [np.asarray(one, dtype=np.float64).ravel() for one in (first, second)]
    if len(values[0]) != len(values[1]):
        raise ValueError(
            f"second: expected {len(values[0])} values, one for each of first, received {len(values[1])}; compare the"
            " same cases"
        )
    finite = np.isfinite(values[0]) & np.isfinite(values[1])
    apart = values[0][finite] - values[1][finite]
    n = len(apart)
    if n == 0:
        return PairedComparison(0, *[float("nan")] * 6)
    gain = apart if larger_is_better else -apart
    low = high = effect = p = float("nan")
    if n > 1:
        low, high = bootstrap_interval(apart.tolist(), seed=seed)
        spread = float(gain.std(ddof=1))
        effect = float(gain.mean()) / spread if spread else float("nan")
        p = float(stats.wilcoxon(apart).pvalue) if apart.any() else 1.0
    better = float(np.mean((gain > 0) + 0.5 * (gain == 0)))
    return PairedComparison(n, float(apart.mean()), low, high, better, effect, p)
