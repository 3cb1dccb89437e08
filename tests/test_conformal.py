"""Conformal radius: the rank, the guarantee, and the coverage on unseen TraceBench subjects."""

import json
import math

import pytest
import torch

from medtrace.data.landmarks.points import write_landmarks
from medtrace.evaluation.certificate.radius import (
    calibrate_radius,
    calibrate_radius_on_landmarks,
    predictor_errors,
    read_subjects,
)
from medtrace.evaluation.conformal import conformal_radius, measure_coverage, subject_score
from medtrace.io import save_trace
from medtrace.trace import Trace


@pytest.mark.parametrize(
    ("n", "coverage", "expected"),
    [(9, 0.9, 9.0), (19, 0.9, 18.0), (99, 0.9, 90.0), (10, 0.5, 6.0), (8, 0.9, math.inf), (1, 0.5, 1.0)],
)
def test_radius_is_the_ranked_score(n, coverage, expected):
    scores = torch.arange(1.0, n + 1)[torch.randperm(n)]
    assert conformal_radius(scores, coverage) == expected


def test_guarantee_over_many_draws():
    """The mean coverage over calibrations is in [0.9, 0.9 + 1 / (n + 1)], whatever the scores' law."""
    held = []
    for _ in range(4000):
        scores = torch.randn(30).exp()
        held.append(float(torch.randn(()).exp() <= conformal_radius(scores[:29], 0.9)))
    assert 0.9 - 0.015 < sum(held) / len(held) < 0.9 + 1 / 30 + 0.015


def test_points_of_one_subject_are_not_exchangeable_but_subjects_are():
    """Errors that all points of a subject share: pooling 1000 points of 10 subjects promises too much."""
    pooled, per_subject = [], []
    for _ in range(1500):
        level = torch.randn(11).exp()
        points = level[:10, None] * (1 + 0.01 * torch.rand(10, 100))
        new = float(level[10])
        pooled.append(new <= conformal_radius(points.flatten(), 0.89))
        per_subject.append(new <= conformal_radius(torch.tensor([subject_score(p) for p in points]), 0.89))
    assert sum(per_subject) / 1500 > 0.89  # 10 / 11
    assert sum(pooled) / 1500 < 0.85  # 9 / 11


def test_scores_of_a_subject():
    errors = torch.tensor([3.0, 1.0, 2.0, 4.0])
    assert subject_score(errors, 0.75) == 3.0
    assert subject_score(errors, 1.0) == 4.0
    drawn = {subject_score(errors, generator=torch.Generator().manual_seed(seed)) for seed in range(40)}
    assert drawn == {1.0, 2.0, 3.0, 4.0}


def test_measured_coverage():
    result = measure_coverage(torch.tensor([True, True, True, False]), torch.tensor([1.0, 0.5, 1.0, 0.5]))
    assert (result.subjects, result.points, result.n) == (0.75, 0.75, 4)
    assert result.standard_error == pytest.approx(math.sqrt(0.75 * 0.25 / 4))


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: conformal_radius([1.0], 0.9), TypeError, "expected a floating-point tensor"),
        (lambda: conformal_radius(torch.ones(2, 3)), ValueError, "one for each subject"),
        (lambda: conformal_radius(torch.tensor([1.0, math.nan])), ValueError, "received NaN"),
        (lambda: conformal_radius(torch.ones(3), 1.0), ValueError, "expected a probability"),
        (lambda: subject_score(torch.ones(0)), ValueError, "leave empty subjects out"),
        (lambda: subject_score(torch.ones(3), 1.5), ValueError, "expected a fraction"),
        (lambda: predictor_errors("none", "postop", (16, 16)), ValueError, "expected one of 'mean'"),
    ],
)
def test_wrong_input(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_on_landmarks(tmp_path):
    """Traces that are off by 1, 2, ... mm; read from files, in LPS."""
    lines = ["trace,source_landmarks,target_landmarks"]
    source = torch.tensor([[4.0, 5.0, 0.0], [8.0, 3.0, 0.0]], dtype=torch.float64)
    for k in range(1, 11):
        image = torch.rand(1, 12, 12)
        save_trace(Trace.build(image, image, torch.zeros(2, 12, 12)), tmp_path / f"trace{k}")
        target = source + torch.tensor([0.0, float(k), 0.0])
        for name, points in (("s", source), ("t", target)):
            write_landmarks(tmp_path / f"{name}{k}.csv", ["a", "b"], points * torch.tensor([-1.0, -1.0, 1.0]))
        lines.append(f"trace{k},s{k}.csv,t{k}.csv")
    (tmp_path / "subjects.csv").write_text("\n".join(lines))
    subjects = read_subjects(tmp_path / "subjects.csv", space="LPS")
    result = calibrate_radius_on_landmarks(subjects, "the ten", coverage=0.8)
    assert result.radius_mm == pytest.approx(9.0)  # the ⌈11 · 0.8⌉-th of 1 ... 10
    assert result.measured.subjects == pytest.approx(0.8)  # without itself the radius is 9 for 9 and 10, 8... for 10
    assert "a random point of its foreground lies within 9 mm" in result.statement
    result.write(tmp_path / "radius.json")
    assert json.loads((tmp_path / "radius.json").read_text())["calibration_subjects"] == 10
    few = calibrate_radius_on_landmarks(subjects[:3], "three")
    with pytest.raises(ValueError, match="at least 9"):
        few.write(tmp_path / "few.json")


@pytest.mark.slow
def test_small_calibration_on_tracebench():
    errors = predictor_errors("noisy", "postop", (16, 16))
    result = calibrate_radius(errors, "noisy", spatial_shape=(16, 16), calibration=40, test=40)
    # a shift with standard deviation 1 mm along two axes: its length has the 90 % quantile sqrt(2 ln 10)
    assert result.radius_mm == pytest.approx(math.sqrt(2 * math.log(10)), rel=0.3)
    assert 0.75 <= result.measured.subjects <= 1.0
    assert result.measured.points == pytest.approx(result.measured.subjects)  # the whole subject is off alike


@pytest.mark.slow
@pytest.mark.parametrize("predictor", ["mean", "noisy"])
@pytest.mark.parametrize("fraction", [None, 0.9])
def test_coverage_within_three_points_of_nominal(predictor, fraction):
    """1000 subjects to calibrate on and 1000 to measure on."""
    errors = predictor_errors(predictor, "postop", (48, 48))
    result = calibrate_radius(errors, predictor, calibration=1000, test=1000, fraction=fraction)
    assert abs(result.measured.subjects - 0.9) < 0.03
    if fraction is None:
        assert abs(result.measured.points - 0.9) < 0.03
