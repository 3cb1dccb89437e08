"""The certificate: what it must fail, what it must pass, and what it says."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from medtrace.cli import app
from medtrace.data import TraceBench
from medtrace.evaluation.certificate import Certificate, Check, Limit, Status, Thresholds, certify_trace
from medtrace.evaluation.certificate import figures as measure
from medtrace.evaluation.certificate.calibration import assess_corrupted, assessment_table, wrongness
from medtrace.evaluation.certificate.checks import independent_field, trace_checks
from medtrace.evaluation.certificate.corruption import SPOILERS, moved_voxel, true_trace
from medtrace.evaluation.certificate.crossed import crossed_case, crossed_contrasts
from medtrace.evaluation.certificate.probes import equivariance, identical_pair_check, translator_checks
from medtrace.evaluation.certificate.record import assessed
from medtrace.evaluation.certificate.run_calibration import answer_table, question_run
from medtrace.fields import exponentiate, warp
from medtrace.io import save_trace, write_image
from medtrace.report.certificate import certificate_html, certificate_of, read_certificate
from medtrace.trace import Trace
from medtrace.workflows.certify import certify
from medtrace.workflows.register import register
from medtrace.workflows.report import report
from medtrace.workflows.train import train
from medtrace.workflows.translate import translate
from tests.standins import shift_run, tiny_tracetrans

pytestmark = pytest.mark.usefixtures("standin_methods")

SMALL = (48, 48)


@pytest.fixture(scope="module")
def cases():
    return [TraceBench("postop", SMALL, cases=2)[index] for index in range(2)]


@pytest.fixture(scope="module")
def truth(cases):
    return true_trace(cases[0])


@pytest.fixture(scope="module")
def reference(truth):
    return independent_field(truth, Thresholds())


def velocity(shape, amplitude=2.0, seed=0):
    return measure.smooth_displacement(shape, amplitude, seed, wavelength=8)


# --- measures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(20, 18), pytest.param((12, 11, 10), marks=pytest.mark.slow)])
def test_a_moved_voxel_is_the_largest_jump(shape):
    ddf = velocity(shape)
    quiet = measure.largest_jump(ddf)
    assert quiet < 0.6
    center = tuple(size // 2 for size in shape)
    moved = ddf.clone()
    moved[(0, *center)] += 1.5
    assert measure.largest_jump(moved) > 1.5 - quiet
    assert measure.fold_figures(moved).volume_voxels > 0
    assert measure.fold_figures(ddf).volume_voxels == 0


def test_linear_fields_have_no_jump():
    grid = torch.stack(torch.meshgrid(torch.arange(6.0), torch.arange(5.0), torch.arange(4.0), indexing="ij"))
    assert measure.largest_jump(0.3 * grid.flip(0) + 2) < 1e-5
    assert measure.largest_jump(torch.rand(3, 2, 2, 1)) == 0.0  # nothing has two neighbors


@pytest.mark.parametrize("same_grid", [True, False])
def test_round_trip_keeps_interior_and_border_apart(same_grid):
    shape = (24, 20)
    ddf, inverse = exponentiate(torch.stack([velocity(shape), -velocity(shape)]))
    affine = torch.diag(torch.tensor([2.0, 2.0, 5.0, 1.0], dtype=torch.float64))
    other = affine.clone()
    if not same_grid:
        other[:3, 3] = torch.tensor([4.0, -2.0, 0.0])
    trace = Trace.build(
        torch.rand(1, *shape),
        torch.rand(1, *shape),
        ddf,
        inverse_ddf=inverse if same_grid else None,
        affine=affine,
        source_affine=other,
    )
    interior, border = measure.round_trip(trace)
    assert interior.max_voxels < 0.1
    assert border.points > 0
    if same_grid:
        assert interior.points + border.points <= 24 * 20
        corrupted = replace(trace, inverse_ddf=trace.inverse_ddf + torch.tensor([1.0, 0.0]).reshape(2, 1, 1))
        interior, _ = measure.round_trip(corrupted)
        assert interior.max_voxels > 0.9
        assert interior.mean_mm == pytest.approx(2.0, abs=0.2)


def test_residual_outside_a_mask():
    source = torch.zeros(1, 8, 8)
    source[:, :, 4:] = 1.0
    image = source.clone()
    image[0, 1, 1] += 0.5
    image[0, 6, 6] += 0.5
    region = torch.ones(1, 8, 8, dtype=torch.bool)
    mask = torch.zeros(1, 8, 8)
    mask[0, 6, 6] = 1
    trace = Trace.build(source, image, torch.zeros(2, 8, 8), mask=mask)
    variance = float((image - image.mean()).square().sum())
    assert measure.residual_share(trace, region) == pytest.approx(0.25 / variance, rel=1e-5)
    whole = Trace.build(source, image, torch.zeros(2, 8, 8), mask=torch.ones(1, 8, 8))
    assert measure.residual_share(whole, region) == 0.0


def test_similarity_and_range():
    natural_image = torch.rand(1, 16, 16)
    region = torch.ones(1, 16, 16, dtype=torch.bool)
    assert measure.similarity(natural_image, 3 - 2 * natural_image, region) == pytest.approx(2.0, abs=0.05)
    assert measure.similarity(natural_image, torch.rand(1, 16, 16), region) < 1.5
    assert measure.outside_range(torch.tensor([0.0, 1.04, 1.06, -0.06]), torch.tensor([0.0, 1.0])) == 0.5
    assert measure.contrast_loss(0.5 * natural_image, natural_image) == pytest.approx(0.5)


def test_disagreement_is_told_by_its_95th_percentile():
    """Distances of 0, 1, ... 100 voxels of 2 mm: mean and median are 100 mm, and 95 of 100 lie below 190 mm."""
    claimed, independent = torch.zeros(2, 101, 1), torch.zeros(2, 101, 1)
    claimed[0, :, 0] = torch.arange(101.0)
    figures = measure.agreement(
        claimed, independent, torch.diag(torch.tensor([2.0, 3.0, 1.0, 1.0])), torch.ones(1, 101, 1, dtype=torch.bool)
    )
    assert tuple(figures) == (100.0, 190.0, 100.0, 0.0)


def test_smooth_displacement_is_small_smooth_and_still_at_the_border():
    for shape in ((30, 26), (16, 14, 12), (20, 18, 1)):
        field = measure.smooth_displacement(shape, 2.0, seed=1)
        assert torch.linalg.vector_norm(field, dim=0).max() == pytest.approx(2.0, abs=1e-5)
        assert field[:, 0].abs().max() == 0
        assert measure.fold_figures(field).volume_voxels == 0


# --- verdicts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_one_voxel_moved_one_and_a_half_voxels_fails(truth, cases, reference, seed):
    corrupted = moved_voxel(truth, cases[1], np.random.default_rng(seed))
    assert int(((corrupted.ddf - truth.ddf) != 0).any(0).sum()) == 1
    certificate = certify_trace(corrupted, reference=reference)
    assert certificate.verdict == Status.FAIL
    assert certificate.check("folding").status == Status.FAIL
    assert certificate.check("smoothness").status == Status.FAIL


def test_one_voxel_moved_fails_in_3d_and_where_space_expands():
    shape = (16, 15, 14)
    ddf, inverse = exponentiate(torch.stack([velocity(shape), -velocity(shape)]))
    source = torch.rand(1, *shape)
    trace = Trace.build(source, warp(source[None], ddf[None])[0], ddf, inverse_ddf=inverse)
    assert certify_trace(trace, reference=ddf).check("folding").status == Status.PASS
    corrupted = moved_voxel(trace, {}, np.random.default_rng(0))
    assert certify_trace(corrupted, reference=ddf).verdict == Status.FAIL
    grid = torch.stack(torch.meshgrid(*[torch.arange(float(size)) for size in shape], indexing="ij"))
    expanding = 2.0 * (grid - 7)  # three times as far apart: 1.5 voxels more fold nothing
    expanding[:, 8, 8, 8] += torch.tensor([1.5, 0.0, 0.0])
    assert measure.fold_figures(expanding).volume_voxels == 0
    assert measure.largest_jump(expanding) > Thresholds().largest_jump_voxels.fail


def test_the_truth_is_not_failed(truth, reference):
    certificate = certify_trace(truth, reference=reference)
    assert certificate.verdict != Status.FAIL, [c for c in certificate.checks if c.status == Status.FAIL]
    assert certificate.check("equivariance").status == Status.SKIPPED
    assert "--run" in certificate.check("equivariance").reason


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        ("local fold", "folding"),
        ("constant 3 voxels added", "field against image"),
        ("inverse wrong", "inverse consistency"),
        ("warped not of this field", "account"),
        ("bright region invented", "residual"),
        ("image out of range", "intensity"),
        ("image without contrast", "intensity"),
    ],
)
def test_corrupted_traces_fail_by_the_check_that_is_about_it(truth, cases, reference, kind, check):
    corruption = SPOILERS[kind]
    corrupted = corruption.apply(truth, cases[1], np.random.default_rng(0))
    result = {c.name: c for c in trace_checks(corrupted, Thresholds(), reference if corruption.same_pair else None)}
    assert result[check].status == Status.FAIL
    assert "above" in result[check].reason


def test_a_registration_is_assessed_against_its_target(truth, reference):
    """An image that is the warped source bears out any field; the target does not."""
    field = truth.ddf + torch.tensor([3.0, 0.0]).reshape(2, 1, 1)
    warped = warp(truth.source[None], field[None])[0]
    trace = Trace.build(truth.source, warped, field, affine=truth.affine)
    assert certify_trace(trace).check("field against image").status == Status.SKIPPED
    result = certify_trace(trace, target=truth.image, reference=reference)
    assert result.check("field against image").status == Status.FAIL
    assert result.check("zero-field control").status == Status.FAIL
    with pytest.raises(ValueError, match="target: expected the image's grid"):
        certify_trace(trace, target=truth.image[:, 1:])


def test_a_3d_slice_is_registered_in_its_plane(truth):
    flat = independent_field(truth, Thresholds())
    volume = Trace.build(
        truth.source[..., None],
        truth.image[..., None],
        torch.cat([truth.ddf, torch.zeros_like(truth.ddf[:1])])[..., None],
        affine=truth.affine,
    )
    result = independent_field(volume, Thresholds())
    torch.testing.assert_close(result[:2, ..., 0], flat, atol=1e-3, rtol=0)
    assert result[2].abs().max() == 0


def test_two_grids_and_channels():
    affine = torch.diag(torch.tensor([1.0, 1.0, 1.0, 1.0], dtype=torch.float64))
    other = torch.diag(torch.tensor([0.5, 0.5, 1.0, 1.0], dtype=torch.float64))
    source = torch.zeros(3, 40, 40)
    source[:, 10:30, 12:28] = torch.rand(3, 20, 16)
    small = torch.nn.functional.avg_pool2d(source, 2)
    trace = Trace.build(source, small, torch.zeros(2, 20, 20), affine=affine, source_affine=other)
    certificate = certify_trace(trace)
    assert certificate.check("account").status == Status.PASS
    assert certificate.check("inverse consistency").status == Status.PASS
    gray = Trace.build(source, small[:1], torch.zeros(2, 20, 20), affine=affine, source_affine=other)
    assert certify_trace(gray).check("residual").status == Status.SKIPPED


def test_constant_images_are_no_crash():
    still = Trace.build(torch.ones(1, 12, 12), torch.ones(1, 12, 12), torch.zeros(2, 12, 12))
    assert certify_trace(still).check("field against image").status == Status.SKIPPED


# --- asking the method again ------------------------------------------------------------------------------------------


def brighten(source):
    return Trace.build(source, source * 0.8 + 0.1, torch.zeros(2, *source.shape[1:]))


def ignore(source):
    """A method that paints its image where it likes, whatever it is shown."""
    memory = torch.rand(source.shape, generator=torch.Generator().manual_seed(3))
    return Trace.build(source, memory, torch.zeros(2, *source.shape[1:]))


def test_equivariance_of_a_method_that_follows_and_one_that_ignores(truth):
    probe = measure.smooth_displacement(SMALL, 2.0)
    follows = equivariance(brighten, brighten(truth.source), probe)
    assert follows.ratio < 1e-4
    assert follows.field_voxels < 1e-6
    ignores = equivariance(ignore, ignore(truth.source), probe)
    assert ignores.ratio == pytest.approx(1.0)
    moving = brighten(truth.source)
    moving = replace(moving, ddf=moving.ddf + 1.0)
    constant = equivariance(lambda source: replace(brighten(source), ddf=moving.ddf), moving, probe)
    assert constant.field_voxels > 0.01  # a shift does not commute with a varying deformation


def test_translator_checks(truth):
    checks = {c.name: c for c in translator_checks(brighten, brighten(truth.source), Thresholds())}
    assert {c.status for c in checks.values()} == {Status.PASS}
    other = replace(brighten(truth.source), image=truth.source)
    assert translator_checks(brighten, other, Thresholds())[0].status == Status.FAIL  # another image than it makes
    assert translator_checks(ignore, ignore(truth.source), Thresholds())[1].status != Status.PASS


def test_identical_pair():
    still = Trace.build(torch.rand(1, 12, 12), torch.rand(1, 12, 12), torch.zeros(2, 12, 12))
    assert identical_pair_check(still, Thresholds()).status == Status.PASS
    assert identical_pair_check(replace(still, ddf=still.ddf + 2), Thresholds()).status == Status.FAIL


@pytest.fixture(scope="module")
def head():
    """A volume with something to see in it."""
    grid = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, size) for size in (30, 28, 4)], indexing="ij"))
    body = torch.sigmoid(20 * (0.7 - grid[:2].norm(dim=0)))
    return (body * (400 + 200 * torch.sin(7 * grid[0]) * torch.cos(6 * grid[1])))[None]


@pytest.mark.parametrize("slice_count", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_a_translating_run_is_asked_again(head, tmp_path, slice_count):
    affine = torch.diag(torch.tensor([-1.0, 1.5, 3.0, 1.0], dtype=torch.float64))
    write_image(tmp_path / "scan.nii.gz", head[..., :slice_count], affine)
    run = shift_run(tmp_path / "run", [0.0, 1.0])
    translate(run, tmp_path / "scan.nii.gz", tmp_path / "trace", progress=False, report=False)
    result = certify(tmp_path / "trace", run=run, source=tmp_path / "scan.nii.gz")
    assert result.check("reproduction").status == Status.PASS
    assert result.check("equivariance").figures["equivariance_ratio"] < 0.1
    assert result.check("identical pair").status == Status.SKIPPED
    assert result.check("provenance").status == Status.PASS
    assert len(result.provenance["run"]["weights_sha256"]) == 64
    other = shift_run(tmp_path / "other", [0.0, 1.0], gain=0.5)
    again = certify(tmp_path / "trace", run=other)
    assert again.check("reproduction").status == Status.FAIL


@pytest.fixture(scope="module")
def registering_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("registration") / "run"
    settings = {"training.max_epochs": 1}
    return train("metaregnet", out=out, presets=["tracebench", "smoke"], settings=settings, device="cpu")


@pytest.mark.slow
def test_a_registering_run_is_shown_identical_images(head, registering_run, tmp_path):
    run = registering_run
    write_image(tmp_path / "scan.nii.gz", head[..., :1], torch.eye(4, dtype=torch.float64))
    register(tmp_path / "scan.nii.gz", tmp_path / "scan.nii.gz", tmp_path / "trace", run=run, progress=False)
    result = certify(tmp_path / "trace", run=run)
    assert result.check("field against image").status == Status.SKIPPED  # its image is the warped source
    assert "--target" in result.check("field against image").reason
    beside = certify(tmp_path / "trace", target=tmp_path / "scan.nii.gz")
    assert beside.check("field against image").status != Status.SKIPPED
    write_image(tmp_path / "wrong.nii.gz", head[..., :1], 2 * torch.eye(4, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"wrong\.nii\.gz: lies up to 39\.6 mm off .* image"):
        certify(tmp_path / "trace", target=tmp_path / "wrong.nii.gz")
    assert result.check("identical pair").status != Status.SKIPPED
    assert result.check("identical pair").figures["identical_pair_voxels"] >= 0
    assert result.check("equivariance").status == Status.SKIPPED


# --- thresholds, files, commands --------------------------------------------------------------------------------------


def test_thresholds_from_yaml(tmp_path):
    file = tmp_path / "limits.yaml"
    file.write_text("largest_jump_voxels: {warn: 0.1, fail: null}\nprobes: 3\n")
    limits = Thresholds.load(file)
    assert limits.largest_jump_voxels == Limit(0.1, float("inf"))
    assert limits.probes == 3
    assert limits.folded_volume_voxels == Thresholds().folded_volume_voxels
    assert Thresholds().changed(limits.as_dict()) == limits


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing: {warn: 1, fail: 2}", "'nothing' is not a limit"),
        ("residual_share: 1", "residual_share: expected {warn: number, fail: number}"),
        ("residual_share: {warn: 2, fail: 1}", "expected warn at most fail"),
        ("residual_share: {warn: -1, fail: 1}", "expected a number of at least 0"),
        ("probes: 1.5", "expected a whole number"),
        ("[1, 2]", "expected names and limits"),
        ("{", "cannot be read as YAML"),
    ],
)
def test_wrong_thresholds(tmp_path, text, message):
    (tmp_path / "limits.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        Thresholds.load(tmp_path / "limits.yaml")


@pytest.mark.parametrize("order", [1, -1])
def test_a_status_only_worsens(order):
    """The jump fails (above 1), the round trip at the border warns (above .5), whichever is assessed first."""
    figures = {"largest_jump_voxels": 2.0, "border_p95_voxels": 0.75, "interior_p95_voxels": 0.05}
    check = assessed("field", dict(list(figures.items())[::order]), Thresholds(), "well")
    assert check.status == Status.FAIL
    assert sorted(check.reason.split("; ")) == [
        "border_p95_voxels is 0.75, above 0.5",
        "largest_jump_voxels is 2, above 1",
    ]


@pytest.mark.parametrize(
    ("value", "status"),
    [(0.5, Status.PASS), (0.5001, Status.WARN), (1.0, Status.WARN), (1.0001, Status.FAIL), (float("nan"), Status.FAIL)],
)
def test_limits_are_the_last_values_that_are_well(value, status):
    assert assessed("field", {"largest_jump_voxels": value}, Thresholds(), "well").status == status


def test_verdict_is_the_worst_check():
    checks = [Check("a", Status.PASS, ""), Check("b", Status.SKIPPED, "")]
    assert Certificate("c", tuple(checks)).verdict == Status.PASS
    assert Certificate("c", (*checks, Check("w", Status.WARN, ""))).verdict == Status.WARN
    assert Certificate("c", (Check("w", Status.WARN, ""), Check("f", Status.FAIL, ""), *checks)).verdict == Status.FAIL


def test_certify_a_folder(truth, tmp_path):
    save_trace(truth, tmp_path / "case", method="truth")
    write_image(tmp_path / "input.nii.gz", truth.source, truth.affine)
    certificate = certify(tmp_path / "case", source=tmp_path / "input.nii.gz", out=tmp_path / "case.json")
    written = read_certificate(tmp_path / "case.json")
    assert written == json.loads(json.dumps(certificate.as_dict()))
    assert len(written["provenance"]["trace_sha256"]["ddf.nii.gz"]) == 64
    assert certificate.check("provenance").status == Status.SKIPPED
    assert "run" in certificate.check("provenance").reason
    write_image(tmp_path / "other.nii.gz", truth.source + 1, truth.affine)
    other = certify(tmp_path / "case", source=tmp_path / "other.nii.gz")
    assert other.check("provenance").status == Status.FAIL
    page = certificate_html(written)
    for check in written["checks"]:
        assert check["name"] in page
    assert f"{written['verdict']}</span>" in page
    assert "<script" not in certificate_html({**written, "case": "<script>"})


def test_command(truth, cases, tmp_path):
    save_trace(truth, tmp_path / "good")
    save_trace(moved_voxel(truth, cases[1], np.random.default_rng(0)), tmp_path / "bad")
    radius = {"format": "medtrace conformal radius", "radius_mm": 1.5, "coverage": 0.9, "statement": "within 1.5 mm"}
    (tmp_path / "radius.json").write_text(json.dumps(radius))
    arguments = ["certify", str(tmp_path / "good"), str(tmp_path / "bad"), "--radius", str(tmp_path / "radius.json")]
    files = ["--out", str(tmp_path / "out"), "--html", str(tmp_path / "page.html")]
    result = CliRunner().invoke(app, [*arguments, *files])
    assert result.exit_code == 3, result.output
    assert "bad: FAIL" in result.output
    assert "good: FAIL" not in result.output
    assert "within 1.5 mm" in result.output
    assert read_certificate(tmp_path / "out" / "bad.json")["verdict"] == "FAIL"
    assert (tmp_path / "page.html").read_text().count("<section") == 2
    wrong = CliRunner().invoke(app, ["certify", str(tmp_path / "none")])
    assert wrong.exit_code == 1
    assert "no such file" in wrong.output


def test_a_certificate_lies_beside_its_trace_and_reaches_the_page(truth, tmp_path):
    save_trace(truth, tmp_path / "case", metadata={"file": "SECRET^NAME.nii"})
    result = CliRunner().invoke(app, ["certify", str(tmp_path / "case")])
    assert (tmp_path / "case.certificate.json").is_file(), result.output
    page = report([tmp_path / "case"], tmp_path / "page.html").read_text()
    scene = json.loads(re.search(r'id="scene">(.*?)</script>', page, re.DOTALL)[1])
    shown = scene["cases"][0]["certificate"]
    assert shown["verdict"] == read_certificate(tmp_path / "case.certificate.json")["verdict"]
    assert "field against image" in shown["html"]
    assert not shown["stale"]
    assert "SECRET" not in page
    save_trace(replace(truth, ddf=truth.ddf + 1), tmp_path / "case", overwrite=True)
    assert certificate_of(tmp_path / "case")["stale"]
    (tmp_path / "case.certificate.json").unlink()
    assert certificate_of(tmp_path / "case") is None


@pytest.mark.parametrize("change", [{"verdict": "FINE"}, {"checks": [{}]}, {"format": "other"}, {"checks": None}])
def test_a_file_that_is_no_certificate(tmp_path, change):
    check = Check("folding", Status.FAIL, "folds", {"folded": 1.0}, {"folded": {"warn": 0.0, "fail": 0.5}})
    content = Certificate("case", (check,)).as_dict()
    (tmp_path / "good.json").write_text(json.dumps(content))
    assert "folded 1" in certificate_html(read_certificate(tmp_path / "good.json"))
    (tmp_path / "bad.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(ValueError, match="expected a medtrace certificate"):
        read_certificate(tmp_path / "bad.json")


# --- calibration ------------------------------------------------------------------------------------------------------


def test_what_the_truth_calls_wrong(truth, cases):
    assert wrongness(truth, truth) == ()
    random = np.random.default_rng(0)
    corrupt = {kind: SPOILERS[kind].apply(truth, cases[1], random) for kind in SPOILERS}
    assert "folds" in wrongness(corrupt["one voxel moved 1.5 voxels"], truth)
    assert "field" in wrongness(corrupt["constant 3 voxels added"], truth)
    assert "warped" in wrongness(corrupt["warped not of this field"], truth)
    assert "image" in wrongness(corrupt["image of another case"], truth)
    assert wrongness(corrupt["inverse wrong"], truth) in ((), ("inverse",))


def test_calibration_table():
    assessments = assess_corrupted(("postop",), 2, (32, 32))
    assert len(assessments) == 2 * len(SPOILERS)
    table = assessment_table(assessments)
    assert len(table.splitlines()) == len(SPOILERS) + 3
    moved = [j for j in assessments if j.kind == "one voxel moved 1.5 voxels"]
    assert all(j.right and j.certificate.verdict == Status.FAIL for j in moved)


@pytest.mark.parametrize("contrast", [pytest.param("T2", marks=pytest.mark.slow), "CT"])
def test_calibration_across_contrasts(contrast):
    """The truth does not fail, and what is wrong whatever the contrast does not pass."""
    verdicts = {
        one.kind: one.certificate.verdict
        for one in assess_corrupted(("postop",), 2, (32, 32), target_contrast=contrast)
    }
    assert verdicts["truth"] != Status.FAIL
    for kind in ("one voxel moved 1.5 voxels", "inverse wrong", "warped not of this field", "image out of range"):
        assert verdicts[kind] == Status.FAIL, kind
    source, target = crossed_contrasts(contrast, "postop", (32, 32))
    assert (source.unit, target.unit) == ("a.u.", {"T2": "a.u.", "CT": "HU"}[contrast])
    case = crossed_case(TraceBench("postop", (32, 32), cases=1, split="test")[0], (source, target))
    trace = true_trace(case)
    assert not trace.same_unit
    assert float(trace.image.min()) == {"T2": 0.0, "CT": -1000.0}[contrast]
    with pytest.raises(ValueError, match="target_contrast: expected one of T2, CT, received 'PET'"):
        crossed_contrasts("PET", "postop", (32, 32))


@pytest.mark.slow
@pytest.mark.parametrize("contrast", ["T2", "CT"])
def test_no_field_is_not_passed_across_contrasts(contrast):
    """Where tissue moved the zero field is warned of, and the true one does not fail; not the cases of the choice."""
    assessments = assess_corrupted(("postop",), 4, (96, 96), target_contrast=contrast)
    zero, truth = ([one for one in assessments if one.kind == kind] for kind in ("field zero", "truth"))
    assert all(one.wrong for one in zero)
    assert sum(one.certificate.verdict == Status.PASS for one in zero) <= 1
    assert all(one.certificate.verdict != Status.FAIL for one in truth)
    figures = truth[0].certificate.check("field against image").figures
    assert {"similarity_shortfall_across", "disagreement_voxels_across"} <= figures.keys()
    assert not {"similarity_shortfall", "disagreement_voxels"} & figures.keys()
    assert all(one.certificate.verdict == Status.PASS for one in truth)


def test_a_run_and_its_controls_are_asked(tmp_path):
    torch.manual_seed(0)
    answers = question_run(tiny_tracetrans(tmp_path / "run"), "postop", 2, (32, 32))
    figures = {(answer.check, answer.asked): answer.figure for answer in answers}
    assert 0 < figures["reproduction", "the run"] < 1e-3  # gray levels of a file
    assert figures["reproduction", "weights off by 10 %"] > figures["reproduction", "weights off by 1 %"] > 0
    assert figures["equivariance", "all of it remembered"] == pytest.approx(1.0, abs=0.01)
    assert len(answer_table(answers).splitlines()) == 2 + 6
    with pytest.raises(ValueError, match="cases: expected at least 2"):
        question_run(tmp_path / "run", cases=1)


def test_a_registration_and_its_controls_are_asked(registering_run):
    answers = question_run(registering_run, "metamorphic", 2, (32, 32))
    figures = {answer.asked: answer.figure for answer in answers}
    assert figures["deformed by up to 2 voxels"] > 1.5
    assert figures["shifted by 1 voxel"] - figures["the run"] == pytest.approx(1.0, abs=0.2)
    assert {answer.check for answer in answers} == {"identical pair"}
