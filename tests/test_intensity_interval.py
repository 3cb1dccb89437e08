"""Intervals of intensities: the factor, coverage of unseen subjects, marks of planted lesions, members of a trace."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from medtrace.evaluation.conformal import conformal_factor
from medtrace.evaluation.intensity.features import CONSTANT, fit_scale, unexplained_change
from medtrace.evaluation.intensity.interval import (
    FILE,
    IntensityInterval,
    Known,
    calibrate_interval,
    measure_interval,
)
from medtrace.evaluation.intensity.planted import ADDED, CLEAN, Answered, draw_lesion, draw_source_lesion, planted_table
from medtrace.guard.notices import Caution
from medtrace.io import load_trace, save_trace
from medtrace.io.digest import sha256
from medtrace.io.nifti import write_image
from medtrace.trace import Trace
from medtrace.trace.tissue import find_tissue
from medtrace.workflows import calibrate
from medtrace.workflows.calibrate import calibrated_intervals, hallucinations_table, intensity_text
from medtrace.workflows.intensity import interval_of
from medtrace.workflows.translate import translate

SIZE = 32
AFFINE = torch.diag(torch.tensor([3.0, 3.0, 3.0, 1.0], dtype=torch.float64))


def case(number: int) -> Known:
    """A translation by inversion, whose errors are three times as large where the source is bright."""
    random = np.random.default_rng(number)
    texture = ndimage.gaussian_filter(random.normal(size=(SIZE, SIZE)), 3.0)
    texture = texture / texture.std() * 0.25
    grid = np.hypot(*np.meshgrid(*[np.linspace(-1, 1, SIZE)] * 2, indexing="ij"))
    source = np.where(grid < 0.8, texture.clip(-0.9, 0.9), -1.0).astype(np.float32)
    blurred = ndimage.gaussian_filter(random.normal(size=source.shape), 1.0) * 0.05
    image = np.where(grid < 0.8, blurred - source, -1.0).astype(np.float32)
    noise = random.normal(size=source.shape) * np.where(source > 0, 0.09, 0.03) * (grid < 0.8)
    parts = [torch.from_numpy(one)[None] for one in (source, image, (image + noise).astype(np.float32))]
    trace = Trace.build(parts[0], parts[1], torch.zeros(2, SIZE, SIZE), affine=AFFINE)
    return Known(f"subject {number}", trace, parts[2])


@pytest.fixture(scope="module")
def interval() -> IntensityInterval:
    return calibrate_interval([case(number) for number in range(48)], "test cases")


def test_factor_counts_every_subject_alike():
    """A subject of many points weighs as one of few: nine subjects at 1 and one at 9, which reaches 90 % only at 9."""
    scores = [torch.ones(5)] * 8 + [torch.ones(500)] + [torch.full((7,), 9.0)]
    assert conformal_factor(scores, 0.8) == 1.0
    assert conformal_factor(scores, 0.9) == 9.0
    assert math.isinf(conformal_factor(scores[:8], 0.9))


def test_factor_refuses_what_it_cannot_count():
    with pytest.raises(ValueError, match="leave empty subjects out"):
        conformal_factor([torch.ones(3), torch.empty(0)])
    with pytest.raises(ValueError, match="coverage"):
        conformal_factor([torch.ones(3)], 1.0)


def test_scale_finds_the_weights_that_made_the_errors():
    random = np.random.default_rng(0)
    features = {CONSTANT: np.ones(2000), "edges": random.uniform(0, 2, 2000)}
    scale = fit_scale([features], [0.1 + 0.5 * features["edges"]], (CONSTANT, "edges"), (0.0, 1.0))
    assert scale.weights[CONSTANT] == pytest.approx(0.1, abs=0.03)
    assert scale.weights["edges"] == pytest.approx(0.5, abs=0.03)


def test_unseen_subjects_are_covered_as_promised_by_intervals_that_follow_the_errors(interval):
    measured = measure_interval(interval, [case(number) for number in range(1000, 1024)])
    assert measured["subjects"] == 24
    assert abs(measured["covered"] - 0.9) < 0.05
    assert measured["half_width"] < 0.95 * measured["constant_half_width"]
    assert measured["marked"] <= 0.1


def test_interval_is_wider_where_errors_are_larger(interval):
    one = case(2000)
    half = interval.half_width(one.trace)[0]
    inside = torch.from_numpy(unexplained_change(one.trace.image, one.trace.warped).tissue)
    source = one.trace.source[0]
    assert float(half[inside & (source > 0.2)].mean()) > 2 * float(half[inside & (source < -0.2)].mean())


def test_planted_lesion_is_marked_where_it_is(interval):
    found = []
    for number in range(3000, 3012):
        trace = case(number).trace
        tissue = find_tissue(trace.warped, trace.image)
        lesion = draw_lesion(trace.image, tissue, AFFINE, np.random.default_rng(number))
        painted = Trace.build(trace.source, lesion.painted(trace.image), trace.ddf, affine=AFFINE)
        found.append(bool(((interval.excess(painted) > 1) & (lesion.weight > 0.5)).any()))
    assert np.mean(found) >= 0.95


def test_a_lesion_in_a_source_of_another_grid_lies_in_its_tissue():
    """The source's grid has half the spacing, and the field moves by five voxels of the target's."""
    grid = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, SIZE)] * 2, indexing="ij"))
    image = torch.where((grid - 0.2).norm(dim=0) < 0.5, 0.4 * torch.sin(9 * grid[0]), -1.0)[None]
    ddf = torch.full((2, SIZE, SIZE), -5.0)
    fine = torch.diag(torch.tensor([1.5, 1.5, 3.0, 1.0], dtype=torch.float64))
    moved = image.roll((-5, -5), (1, 2))
    source = moved.repeat_interleave(2, 1).repeat_interleave(2, 2)
    trace = Trace.build(source, -image, ddf, affine=AFFINE, source_affine=fine)
    for seed in range(4):
        lesion = draw_source_lesion(trace, find_tissue(trace.warped, trace.image), np.random.default_rng(seed))
        inside = lesion.weight > 0.5
        assert inside.shape == source.shape
        assert float((source[inside] > -1).float().mean()) > 0.9
        span = np.percentile(source[source > -1].numpy(), (2, 98))
        assert abs(lesion.level - float(source[inside].mean())) > 0.2 * (span[1] - span[0])


def test_interval_is_read_as_it_was_written(interval, tmp_path):
    path = interval.write(tmp_path / FILE)
    read = IntensityInterval.read(path)
    trace = case(5).trace
    torch.testing.assert_close(read.half_width(trace), interval.half_width(trace))
    torch.testing.assert_close(read.excess(trace), interval.excess(trace))
    assert "exchangeable" in json.loads(path.read_text())["statement"]
    path.write_text(path.read_text().replace("medtrace intensity", "another"))
    with pytest.raises(ValueError, match="calibrate intensity"):
        IntensityInterval.read(path)


def test_too_few_subjects_promise_nothing(tmp_path):
    few = calibrate_interval([case(number) for number in range(6)], "few")
    with pytest.raises(ValueError, match="guarantee nothing at 90 %"):
        few.write(tmp_path / FILE)
    slices = calibrate_interval([case(number) for number in range(6)], "few", unit="case")
    assert "guarantee nothing for a new one" in slices.statement
    slices.write(tmp_path / FILE)


def test_table_counts_and_bounds():
    answers = [Answered(CLEAN, str(k), k == 0, k == 0) for k in range(50)]
    answers += [Answered(ADDED, str(k), True, k > 0) for k in range(50)]
    lines = planted_table(answers).splitlines()
    assert "| 50 | 1 [0, 10 %] |  |" in lines[2]
    assert "| 50 | 50 [93, 100 %] | 49 [90, 100 %] |" in lines[3]


def test_members_of_a_trace_are_saved_and_checked(interval, tmp_path):
    trace = case(7).trace
    full = replace(trace, interval=interval.half_width(trace), unexplained=torch.zeros(1, SIZE, SIZE))
    read = load_trace(save_trace(full, tmp_path / "trace"))
    torch.testing.assert_close(read.interval, full.interval)
    assert not read.unexplained.any()
    with pytest.raises(ValueError, match="half widths of at least 0"):
        replace(trace, interval=-full.interval)
    with pytest.raises(ValueError, match="unexplained: expected shape"):
        replace(trace, unexplained=torch.zeros(1, SIZE, SIZE - 1))


def test_unit_is_one_of_two(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="did you mean 'subject'"):
        calibrate_interval([], "few", unit="subjects")
    monkeypatch.setattr(calibrate, "RunCases", None)
    with pytest.raises(ValueError, match="unit: expected one of"):
        calibrated_intervals(tmp_path, unit="slice")


def make_weights(run, text="weights"):
    (run / "checkpoints").mkdir(exist_ok=True)
    path = run / "checkpoints" / "weights.safetensors"
    path.write_text(text)
    return path


def test_interval_of_other_weights_is_left_out(interval, tmp_path):
    weights = make_weights(tmp_path)
    replace(interval, weights_sha256=sha256(weights)).write(tmp_path / FILE)
    assert interval_of(tmp_path).factor == interval.factor
    make_weights(tmp_path, "of another training")
    with pytest.warns(Caution, match="calibrate again"):
        assert interval_of(tmp_path) is None
    with pytest.raises(ValueError, match="calibrate again"):
        hallucinations_table(tmp_path)
    interval.write(tmp_path / FILE)  # of nobody knows which weights
    with pytest.warns(Caution, match="left out"):
        assert interval_of(tmp_path) is None


class Cases:
    """Six cases in the place of a run's."""

    population = "few"

    def __init__(self, *_given, **_settings):
        pass

    def known(self, split):
        assert split == "validation"  # the test subjects are not translated for nothing
        return [case(number) for number in range(6)]


def test_calibration_that_cannot_be_kept_ends_early(monkeypatch, tmp_path):
    make_weights(tmp_path)
    monkeypatch.setattr(calibrate, "RunCases", Cases)
    with pytest.raises(ValueError, match="guarantee nothing at 90 %"):
        calibrated_intervals(tmp_path)
    assert not (tmp_path / FILE).exists()
    monkeypatch.setattr(calibrate, "RunCases", None)
    with pytest.raises(FileNotFoundError, match="missing"):
        calibrated_intervals(tmp_path, out=tmp_path / "missing" / "interval.json")


def test_hallucinations_are_planted_in_unseen_subjects_alone(interval, monkeypatch, tmp_path):
    replace(interval, weights_sha256=sha256(make_weights(tmp_path))).write(tmp_path / FILE)
    monkeypatch.setattr(calibrate, "RunCases", Cases)

    def reviewed(_run, _dataset, split, _allowed):
        raise ValueError(f"{split}: a training subject")

    monkeypatch.setattr(calibrate, "reviewed", reviewed)
    with pytest.raises(ValueError, match="a training subject"):
        hallucinations_table(tmp_path, dataset=tmp_path)


@pytest.mark.slow
def test_run_is_calibrated_and_translate_applies_it(smoke_run, tmp_path):
    text = intensity_text(*calibrated_intervals(smoke_run, subjects=20, coverage=0.8, out=tmp_path / "interval.json"))
    assert "measured on 20 unseen subjects" in text
    run = tmp_path / "run"
    shutil.copytree(smoke_run, run)
    shutil.copy(tmp_path / "interval.json", run / FILE)
    assert "lesion added" in hallucinations_table(run, cases=4)
    scan = case(1).trace.source[..., None].expand(1, SIZE, SIZE, 4) + 1
    write_image(tmp_path / "scan.nii.gz", scan.contiguous(), AFFINE)
    trace = translate(run, tmp_path / "scan.nii.gz", tmp_path / "out", progress=False)
    assert trace.interval.shape == trace.image.shape
    assert float(trace.interval.max()) > 0
    assert (
        "least 80 %" in json.loads((tmp_path / "out" / "trace.json").read_text())["metadata"]["interval"]["statement"]
    )
