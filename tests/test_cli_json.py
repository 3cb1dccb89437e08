"""JSON of commands that make files: what a script wants to know; options that a calibration does not look at."""

import json
import types
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medtrace.cli import app
from medtrace.evaluation.certificate.radius import Radius
from medtrace.workflows.export_model import ExportedModel
from medtrace.workflows.plan import Proposal


def run(*arguments):
    return CliRunner().invoke(app, [str(one) for one in arguments])


def result_of(*arguments):
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)["result"]


@pytest.mark.parametrize("words", [("export", "--format"), ("convert", "--to")], ids=" ".join)
def test_written_files_are_named(words, tmp_path, monkeypatch):
    command, option = words
    monkeypatch.setattr(f"medtrace.workflows.{command}.{command}", lambda *_, **__: [tmp_path / "out" / "ddf.h5"])
    result = result_of(command, tmp_path, option, "itk", "--out", tmp_path / "out")
    assert result["format"] == "itk"
    assert result["files"] == [str(tmp_path / "out" / "ddf.h5")]


def test_landmarks_have_their_errors(tmp_path):
    for name, shift in (("source", 0), ("target", 3)):
        (tmp_path / f"{name}.csv").write_text(f"name,x,y,z\na,{shift},0,0\nb,10,{shift},0\n")
    points = (tmp_path / "source.csv", tmp_path / "target.csv")
    result = result_of("landmarks", *points, "--space", "RAS", "--out", tmp_path / "out")
    assert result["landmarks"] == ["a", "b"]
    assert result["before_mm"] == pytest.approx([3, 3])
    assert result["after_mm"] is None


def test_a_radius_has_coverage_and_path(tmp_path, monkeypatch):
    radius = Radius(1.5, 0.9, None, "zero", "postop", 9, None)
    monkeypatch.setattr("medtrace.workflows.calibrate.calibrated_radius", lambda *_, **__: radius)
    result = result_of("calibrate", "radius", "--out", tmp_path / "radius.json")
    assert result["path"] == str(tmp_path / "radius.json")
    assert (result["coverage"], result["radius_mm"]) == (0.9, 1.5)


def test_an_interval_has_coverage_and_path(tmp_path, monkeypatch):
    interval = types.SimpleNamespace(measured={"covered": 0.91})
    workflow = "medtrace.workflows.calibrate"
    monkeypatch.setattr(f"{workflow}.calibrated_intervals", lambda *_, **__: (tmp_path / "interval.json", interval))
    monkeypatch.setattr(f"{workflow}.intensity_text", lambda *_: "as promised")
    result = result_of("calibrate", "intensity", "--run", tmp_path)
    assert result["path"] == str(tmp_path / "interval.json")
    assert (result["coverage"], result["measured"]) == (0.9, {"covered": 0.91})


def test_a_plan_has_method_and_hours(tmp_path, monkeypatch):
    settings = types.SimpleNamespace(training=types.SimpleNamespace(max_epochs=5))
    made = types.SimpleNamespace(presets=("small",), steps=7200, resolved=settings)
    monkeypatch.setattr(
        "medtrace.workflows.plan.plan", lambda *_, **__: Proposal("unet", made, 0.5, ("medtrace train",))
    )
    result = result_of("plan", tmp_path)
    assert (result["method"], result["hours"], result["epochs"]) == ("unet", 1.0, 5)
    assert result["command"] == "medtrace train"


def test_an_exported_model_has_size_and_difference(tmp_path, monkeypatch):
    model = ExportedModel(tmp_path / "model.onnx", (64, 64), 1e-6)
    monkeypatch.setattr("medtrace.workflows.export_model.export_model", lambda *_, **__: model)
    result = result_of("export-model", tmp_path, "--out", tmp_path / "model.onnx")
    assert result["size"] == [64, 64]
    assert result["difference"] == 1e-6


def test_import_and_dicom_name_what_they_wrote(tmp_path, monkeypatch):
    monkeypatch.setattr("medtrace.workflows.import_field.import_field", lambda *_, **__: None)
    scans = ("--source", tmp_path / "s.nii", "--target", tmp_path / "t.nii")
    assert result_of("import", "field.h5", *scans, "--out", tmp_path / "t") == {"trace": str(tmp_path / "t")}
    (tmp_path / "d" / "image").mkdir(parents=True)
    (tmp_path / "d" / "image" / "1.dcm").touch()
    monkeypatch.setattr("medtrace.io.dicom_export.export_dicom", lambda _, out, *__, **___: Path(out))
    result = result_of("dicom", tmp_path, tmp_path, "--out", tmp_path / "d")
    assert result == {"dicom": str(tmp_path / "d"), "files": [str(tmp_path / "d" / "image" / "1.dcm")]}


@pytest.mark.parametrize("what", ["intensity", "hallucinations"])
@pytest.mark.parametrize("option", ["--task=postop", "--size=32", "--dims=2", "--thresholds=limits.yaml"])
def test_options_that_a_calibration_does_not_look_at_are_refused(what, option):
    done = run("calibrate", what, "--run", "none", option)
    assert done.exit_code == 2
    assert f"{option.partition('=')[0]}: expected with certificate, " in done.stderr
    assert f"received with {what}; leave it out" in done.stderr
