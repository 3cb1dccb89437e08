"""Paired comparisons against SciPy, R's known values and arithmetic."""

import math

import numpy as np
import pytest
from scipy import stats

from medtrace.evaluation.paired_rows import compare_rows
from medtrace.metrics import CaseTable
from medtrace.metrics.paired import compare_paired

# Hollander & Wolfe's depression scores, R's example of wilcox.test: V = 40, p = 0.03906 two-sided.
BEFORE = [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]
AFTER = [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]


def test_wilcoxon_is_rs():
    assert compare_paired(BEFORE, AFTER, larger_is_better=False).p == pytest.approx(0.0390625, abs=1e-6)


def test_mean_effect_and_probability_are_those_of_arithmetic():
    result = compare_paired(BEFORE, AFTER, larger_is_better=False)
    apart = np.subtract(BEFORE, AFTER)
    assert result.difference == pytest.approx(apart.mean(), abs=1e-12)
    assert result.effect == pytest.approx(-stats.ttest_rel(BEFORE, AFTER).statistic / 3, abs=1e-6)  # d = t / sqrt(n)
    assert result.probability == pytest.approx(2 / 9)
    assert compare_paired(BEFORE, AFTER, larger_is_better=True).effect == pytest.approx(-result.effect)


def test_the_interval_is_scipys_bootstrap_to_its_noise_and_covers_as_often_as_it_says():
    apart = np.random.default_rng(1).normal(0.3, 1, 60)
    result = compare_paired(apart, np.zeros(60), larger_is_better=True)
    other = stats.bootstrap((apart,), np.mean, method="percentile", n_resamples=10_000, rng=np.random.default_rng(5))
    np.testing.assert_allclose((result.low, result.high), other.confidence_interval, atol=0.015)
    covered = [
        result.low <= 0.5 <= result.high
        for seed in range(100)
        for result in [
            compare_paired(np.random.default_rng(seed).normal(0.5, 1, 40), np.zeros(40), larger_is_better=True)
        ]
    ]
    assert 87 <= sum(covered) <= 100


def test_what_cannot_be_said_is_nan_and_unequal_lengths_are_refused():
    one = compare_paired([1.0, math.nan, math.inf], [2.0, 1.0, 1.0], larger_is_better=True)
    assert (one.n, one.difference, one.probability) == (1, -1.0, 0.0)
    assert math.isnan(one.low)
    assert math.isnan(one.p)
    same = compare_paired([1.0, 2.0], [1.0, 2.0], larger_is_better=True)
    assert (same.difference, same.probability, same.p) == (0.0, 0.5, 1.0)
    with pytest.raises(ValueError, match="expected 2 values, one for each of first, received 1"):
        compare_paired([1.0, 2.0], [1.0], larger_is_better=True)


def test_a_subject_counts_once_however_many_slices_it_has():
    tables = {"method": CaseTable(), "identity": CaseTable()}
    for case, (one, other) in {"a1": (1, 3), "a2": (3, 3), "b1": (5, 4)}.items():
        tables["method"].add(case, {"mae": one, "edge_ssim": 1})
        tables["identity"].add(case, {"mae": other, "edge_ssim": 1})
    result = compare_rows(tables, {"a1": "a", "a2": "a", "b1": "b"})
    assert list(result) == [("mae", "method", "identity")]
    (values,) = result.values()
    assert (values.n, values.difference, values.probability) == (2, 0.0, 0.5)  # a: 2 - 3, b: 5 - 4
