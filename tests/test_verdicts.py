"""What an evaluation says of a comparison in words."""

import math

import pytest

from medtrace.evaluation.paired_rows import compare_rows, larger_is_better
from medtrace.evaluation.verdicts import LEAST_SUBJECTS, comparison_table, verdicts
from medtrace.metrics import CaseTable
from medtrace.metrics.paired import bootstrap_interval, compare_paired


def table(values, name="mae"):
    result = CaseTable()
    for case, value in enumerate(values):
        result.add(str(case), {name: value})
    return result


def said(own, other, column="mae"):
    compared = compare_rows({"run": table(own, column), "patch ridge": table(other, column)}, {})
    (line,) = verdicts(compared, ["run"], ["identity", "patch ridge"])
    return line


def test_a_run_beats_a_row_only_surely_and_of_subjects_enough():
    many = [1.0, 1.2, 0.9, 1.1, 1.0, 1.3]
    assert len(many) == LEAST_SUBJECTS
    assert said(many, [2.0] * 6) == "run beats patch ridge: better in mae"
    assert said(many, [2.0] * 6, "ssim") == "run does NOT beat patch ridge: not better in ssim"
    assert said(many, [1.0] * 6) == "run does NOT beat patch ridge: not better in mae"
    mixed = [1.9, 2.4, 1.2, 2.2, 1.5, 2.3]
    assert said(mixed, [2.0] * 6) == (
        "run is ahead of, but not surely better than, patch ridge: ahead in mae, but their intervals contain 0"
    )
    assert said(many[:3], [2.0] * 3).endswith("patch ridge: ahead in mae, but 3 subject(s) are too few to be sure")
    assert said([1.0] * 6, [1.0] * 6) == "run does NOT beat patch ridge: not better in mae"


def test_measures_under_a_convention_have_their_better_end():
    assert larger_is_better("nmae_symmetric_whole") is False
    assert larger_is_better("ssim_unit_foreground") is True
    assert larger_is_better("ssim_of_something_else") is None
    assert larger_is_better("training_subject") is None


def test_the_table_shows_the_interval_of_the_comparison():
    own, other = [1.0, 1.5, 2.5], [2.0, 2.0, 2.0]
    compared = compare_rows({"run": table(own), "identity": table(other)}, {})
    one = compare_paired(own, other, larger_is_better=False)
    (_, _, line) = comparison_table(compared).splitlines()
    assert f"{one.difference:+.4g} [{one.low:+.4g}, {one.high:+.4g}] | 67%" in line
    alone = compare_rows({"run": table([1.0]), "identity": table([2.0])}, {})
    assert "| -1 | 100% | – | – | 1 |" in comparison_table(alone)


def test_one_interval_serves_a_mean_and_a_difference():
    values = [3.0, 1.0, 4.0, 1.0, 5.0]
    compared = compare_paired(values, [0.0] * 5, larger_is_better=False)
    assert (compared.low, compared.high) == bootstrap_interval(values)
    assert all(math.isnan(end) for end in bootstrap_interval([1.0]))
    assert bootstrap_interval(values, seed=1) == pytest.approx(bootstrap_interval(values), abs=0.1)
