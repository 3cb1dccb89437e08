"""`medtrace trace`: the trace of an image that any program translated; `medtrace landmarks`."""

import csv
import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from medtrace.cli import app
from medtrace.data import TraceBench
from medtrace.data.landmarks.points import write_points
from medtrace.evaluation.certificate.radius import predictor_errors
from medtrace.evaluation.tracing import lines_of
from medtrace.io import load_trace, save_trace, write_image
from medtrace.registration import register_images
from medtrace.workflows.landmarks import landmarks
from medtrace.workflows.trace import trace_translation
from tests.passport_cases import affine_of, make_trace, points_within

AFFINE = affine_of((2.5, 2.5, 2.5), (0.0, 0.0, 20.0), (10.0, -30, 5))


@pytest.fixture(scope="module")
def translated(tmp_path_factory):
    """A head, and what a translator made of it: deformed by a known field, in other contrast."""
    folder = tmp_path_factory.mktemp("translated")
    case = TraceBench("metamorphic", (64, 64), 1, seed=3)[0]
    for name in ("source", "target"):
        write_image(folder / f"{name}.nii.gz", torch.as_tensor(case[name]), AFFINE)
    return folder, case


def test_an_image_of_any_program_gets_a_trace(translated):
    folder, case = translated
    made = trace_translation(folder / "source.nii.gz", folder / "target.nii.gz", folder / "out", threads=1)
    head = torch.as_tensor(case["head"])[0] > 0
    truth = torch.as_tensor(case["ddf"])
    error = (made.trace.ddf - truth).norm(dim=0)[head].mean()
    assert float(error) < 0.4 * float(truth.norm(dim=0)[head].mean())
    assert made.grade in ("PASS", "WARN")
    assert made.verdict.grade != "FAIL"
    saved = load_trace(folder / "out")
    assert torch.equal(saved.image, made.trace.image)
    record = json.loads((folder / "out" / "trace.json").read_text())["metadata"]
    assert record["verdict"]["grade"] == made.verdict.grade
    assert any("no conformal radius" in line for line in record["assumed"])
    assert json.loads((folder / "out.certificate.json").read_text())["verdict"] == str(made.certificate.verdict)
    page = (folder / "out.html").read_text()
    assert "registration: similarity" in page
    assert made.ledger.explained_fraction > 0.5
    assert "held-out blocks" in page
    assert made.verdict.figures["displacement_mm"] > 0


def test_where_nothing_moves_nothing_is_claimed(translated):
    """Another scanner's noise and contrast about the same anatomy: no field is the truth."""
    _, case = translated
    source = torch.as_tensor(case["source"])
    generator = torch.Generator().manual_seed(1)
    image = (0.8 * source + 0.1 + 0.08 * torch.randn(source.shape, generator=generator)).clamp(-1, 1)
    eye = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0])).double()
    options = {"alignment": "none", "check_starts": False}
    free = register_images(source, image, eye, eye, **options)
    kept = register_images(source, image, eye, eye, held_out=True, **options)
    head = torch.as_tensor(case["head"])[0] > 0
    lengths = [float(result.ddf.norm(dim=0)[head].mean()) for result in (free, kept)]
    assert lengths[1] < 0.3 * lengths[0]
    assert kept.evidence.gain < 2 * kept.evidence.error or lengths[1] < 0.1
    said = lines_of(kept)[-1]
    assert said.topic == "held-out blocks"
    assert ("nothing moves measurably" in said.text) == (lengths[1] == 0)


def test_what_moves_is_kept(translated):
    _, case = translated
    source, target, truth = (torch.as_tensor(case[key]) for key in ("source", "target", "ddf"))
    kept = register_images(source, target, AFFINE, AFFINE, alignment="none", check_starts=False, held_out=True)
    head = torch.as_tensor(case["head"])[0] > 0
    error, still = (float((field - truth).norm(dim=0)[head].mean()) for field in (kept.ddf, 0 * truth))
    assert error < 0.4 * still
    assert kept.evidence.grade == "PASS"
    assert kept.evidence.kept > 0.5


def test_many_are_traced_and_listed(translated, tmp_path):
    folder, _ = translated
    for side, names in (("before", ("a", "b")), ("after", ("a", "b"))):
        (tmp_path / side).mkdir()
        for name in names:
            file = "source" if side == "before" else "target"
            (tmp_path / side / f"{name}.nii.gz").write_bytes((folder / f"{file}.nii.gz").read_bytes())
    (tmp_path / "after" / "b.nii.gz").write_bytes(b"no image")
    listed = ["trace", str(tmp_path / "before"), str(tmp_path / "after"), "-o", str(tmp_path / "out"), "--no-report"]
    done = CliRunner().invoke(app, listed)
    assert done.exit_code == 1, done.output
    rows = list(csv.DictReader((tmp_path / "out" / "cases.csv").open()))
    assert [row["case"] for row in rows] == ["b", "a"]
    assert rows[0]["status"] == "error"
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.index(">b<") < page.index(">a<")
    assert 'src="a/thumbnail.png"' in page
    first = (tmp_path / "out" / "a" / "trace" / "trace.json").stat().st_mtime_ns
    assert CliRunner().invoke(app, listed).exit_code == 1
    assert (tmp_path / "out" / "a" / "trace" / "trace.json").stat().st_mtime_ns == first
    (tmp_path / "after" / "b.nii.gz").unlink()
    done = CliRunner().invoke(app, [*listed[:4], str(tmp_path / "none")])
    assert done.exit_code == 1
    assert "expected an image named 'b'" in done.output


@pytest.mark.slow
def test_another_contrast_and_grid_are_accounted_for_in_its_units(translated):
    folder, case = translated
    inverted = 900 - 400 * torch.as_tensor(case["target"])
    inverted[torch.as_tensor(case["head"]) == 0] = 0
    write_image(folder / "ct.nii.gz", inverted, AFFINE)
    options = {"source_contrast": "t1", "image_contrast": "pd=a.u.", "report": False, "threads": 1}
    made = trace_translation(folder / "source.nii.gz", folder / "ct.nii.gz", folder / "pd", **options)
    assert not made.trace.same_unit
    assert made.trace.contrasts[0].name == "pd"
    assert made.ledger.change is None
    head = torch.as_tensor(case["head"])[0] > 0
    truth = torch.as_tensor(case["ddf"])
    error = (made.trace.ddf - truth).norm(dim=0)[head].mean()
    assert made.grade == "FAIL" or float(error) < 0.6 * float(truth.norm(dim=0)[head].mean())


@pytest.mark.slow
def test_what_cannot_be_traced_fails(translated):
    folder, _ = translated
    noise = torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(0))
    write_image(folder / "noise.nii.gz", noise, AFFINE)
    done = CliRunner().invoke(
        app,
        ["trace", str(folder / "source.nii.gz"), str(folder / "noise.nii.gz"), "-o", str(folder / "no"), "--no-report"],
    )
    assert done.exit_code == 3, done.output
    assert done.output.startswith("FAIL: ")
    assert (folder / "no" / "trace.json").is_file()
    air = torch.full((1, 64, 64), -1000.0)
    air[:, 20:40, 20:40] = 60 + 900 * noise[:, 20:40, 20:40]
    write_image(folder / "hu.nii.gz", air, AFFINE)
    with pytest.raises(ValueError, match="like a CT in HU"):
        trace_translation(folder / "source.nii.gz", folder / "hu.nii.gz", folder / "never")
    assert not (folder / "never").exists()


@pytest.mark.parametrize("kind", ["3d", "2d"])
def test_landmarks_tell_the_error_in_mm(tmp_path, kind):
    trace = make_trace(kind, "anisotropic", elsewhere=True)
    save_trace(trace, tmp_path / "trace", precise=True)
    target = points_within(trace.image.shape[1:], trace.affine, count=12, margin=5)
    offset = torch.tensor([0.6, 0.8, 0.0], dtype=torch.float64)
    source = trace.origin(target) + offset
    write_points(tmp_path / "source.csv", [f"p{k}" for k in range(12)], source)
    write_points(tmp_path / "target.fcsv", [f"p{k}" for k in range(1, 12)] + ["other"], target[[*range(1, 12), 0]])
    errors = landmarks(
        tmp_path / "source.csv", tmp_path / "target.fcsv", tmp_path / "out", transforms=[tmp_path / "trace"]
    )
    assert np.allclose(errors.after, 1.0, atol=1e-4)
    assert np.allclose(errors.before, (target - source).norm(dim=1)[1:], atol=1e-6)
    assert set(errors.left_out) == {"p0", "other"}
    with open(tmp_path / "out" / "landmarks.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == list(errors.names)
    assert float(rows[0]["after_mm"]) == pytest.approx(1.0, abs=1e-4)
    assert (tmp_path / "out" / "landmarks.png").stat().st_size > 5000
    listed = ["landmarks", str(tmp_path / "source.csv"), str(tmp_path / "target.fcsv"), "-o", str(tmp_path / "bare")]
    done = CliRunner().invoke(app, listed)
    assert done.exit_code == 0, done.output
    assert "before: mean" in done.output
    assert "after" not in done.output


@pytest.mark.slow
def test_a_radius_of_such_traces_can_be_calibrated():
    result, none = (predictor_errors(name, "metamorphic", (48, 48)) for name in ("registration", "zero"))
    case = TraceBench("metamorphic", (48, 48), 1, seed=4)[0]
    assert float(result(case).mean()) < 0.5 * float(none(case).mean())
