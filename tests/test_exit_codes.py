"""Exit codes: 0 done, 1 refused or broken, 2 a line that cannot be parsed, 3 a verdict is FAIL, 130 interrupted."""

import importlib
import json
import pkgutil
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from medtrace import workflows
from medtrace.cli import app
from medtrace.data import TraceBench
from medtrace.io import load_trace, save_trace
from medtrace.trace import Trace
from medtrace.workflows.doctor import Finding
from tests.standins import shift_run

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.usefixtures("standin_methods")

# A command line of each command that asks for files that are not there.
ABSENT = {
    "prepare": ["none.csv", "--out", "out"],
    "train": ["tracetrans", "none", "--out", "out"],
    "bundle": ["no_such_method", "--out", "out"],
    "evaluate": ["none", "none"],
    "traceability": ["none", "--out", "out"],
    "reproduce": ["reggan", "--data", "none", "--out", "out"],
    "bench": ["no_such_task", "--out", "out"],
    "translate": ["none", "none.nii", "--out", "out"],
    "register": ["none.nii", "none.nii", "--out", "out"],
    "report": ["none", "--out", "page.html"],
    "certify": ["none"],
    "calibrate": ["certificate", "--run", "none"],
    "export": ["none", "--format", "itk", "--out", "out"],
    "import": ["none.nii", "--source", "none.nii", "--target", "none.nii", "--out", "out"],
    "dicom": ["none", "none", "--out", "out"],
    "bids": ["none", "--out", "out"],
    "card": ["none", "--license", "mit", "--out", "out"],
    "export-model": ["none", "--out", "model.onnx"],
    "runs": ["none"],
    "apply": ["none", "none.nii", "--out", "out.nii"],
    "convert": ["none", "--to", "itk", "--out", "out"],
    "landmarks": ["none.csv", "none.csv", "--out", "out"],
    "plan": ["none"],
    "trace": ["none.nii", "none.nii", "--out", "out"],
}
WITHOUT_FILES = {"methods", "doctor", "demo", "slicer-modules"}
COMMANDS = sorted(typer.main.get_command(app).commands)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    """Folders of a true trace, and of one whose field folds."""
    folder = tmp_path_factory.mktemp("traces")
    case = TraceBench("postop", (48, 48), cases=1)[0]
    noise = 4 * torch.randn(case["ddf"].shape, generator=torch.Generator().manual_seed(0))
    for name, ddf in (("good", case["ddf"]), ("bad", noise)):
        inverse = None if name == "good" else torch.zeros_like(ddf)
        trace = Trace.build(case["source"], case["target"], ddf, inverse_ddf=inverse, affine=case["source"].affine)
        save_trace(trace, folder / name)
    return folder


def test_every_command_is_tried():
    assert set(COMMANDS) == set(ABSENT) | WITHOUT_FILES


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_option_ends_with_2(command):
    assert run(command, "--no-such-option").exit_code == 2


@pytest.mark.parametrize("command", sorted(ABSENT))
def test_what_is_refused_ends_with_1_and_writes_nothing(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(command, *ABSENT[command])
    assert done.exit_code == 1, done.output
    assert done.stderr.startswith("medtrace: error: ")
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".")]


@pytest.mark.parametrize(
    "arguments",
    [
        ["no_such_command"],
        ["train"],
        ["prepare", "a.csv", "--out", "b", "--dims", "4"],
        ["prepare", "a.csv", "--out", "b", "--seed", "many"],
        ["train", "unet", "--smoke", "--out", "x", "--set", "alpha"],
        ["train", "unet", "--smoke", "--out", "x", "--set", "training={"],
        ["calibrate", "everything"],
    ],
    ids=" ".join,
)
def test_a_line_that_cannot_be_parsed_ends_with_2(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments).exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_setting_that_does_not_exist_ends_with_1(tmp_path):
    done = run("train", "unet", "--smoke", "--out", tmp_path / "run", "--set", "learning=3")
    assert done.exit_code == 1
    assert "learning: is not a setting" in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_an_interruption_ends_with_130(command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    command_of_typer = typer.main.get_command(app).commands[command].callback
    source = importlib.import_module(command_of_typer.__module__)
    functions = re.findall(r"from (medtrace\.\S+) import (\w+)", _body(source, command_of_typer))
    assert functions

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    for found in pkgutil.walk_packages(workflows.__path__, "medtrace.workflows."):
        importlib.import_module(found.name)  # a module that is first imported below would keep `interrupted` for good
    for module, name in functions:
        value = getattr(importlib.import_module(module), name)
        if callable(value) and not isinstance(value, type):
            monkeypatch.setattr(f"{module}.{name}", interrupted)
        elif not callable(value) and hasattr(value, "certificate_table"):
            monkeypatch.setattr(value, "certificate_table", interrupted)
    done = run(command, *ABSENT.get(command, []))
    assert done.exit_code == 130, done.output
    assert "medtrace: interrupted" in done.stderr


def _body(module, function):
    text = Path(module.__file__).read_text(encoding="utf-8")
    return re.search(rf"^def {function.__name__}\(.*?(?=^@|\Z)", text, re.S | re.M)[0]


def test_a_failed_certificate_ends_with_3_after_it_is_written(traces, tmp_path):
    done = run("certify", traces / "good", traces / "bad", "--out", tmp_path / "out")
    assert done.exit_code == 3, done.output
    assert "bad: FAIL" in done.stdout
    assert "good: PASS" in done.stdout
    verdicts = {path.stem: json.loads(path.read_text())["verdict"] for path in (tmp_path / "out").iterdir()}
    assert verdicts == {"good": "PASS", "bad": "FAIL"}


@pytest.mark.parametrize(
    ("residual", "verdict"), [("{warn: 0.5, fail: 0.8}", "PASS"), ("{warn: 0.0, fail: 0.9}", "WARN")]
)
def test_a_certificate_that_passes_or_warns_ends_with_0(traces, tmp_path, residual, verdict):
    limits = tmp_path / "limits.yaml"
    limits.write_text(f"residual_share: {residual}\n")
    done = run("certify", traces / "good", "--out", tmp_path / "one.json", "--thresholds", limits)
    assert f"good: {verdict}" in done.stdout
    assert done.exit_code == 0, done.output


def test_one_failed_case_of_several_ends_with_1_and_the_others_are_written(tmp_path):
    values = np.random.default_rng(0).random((24, 24, 1), dtype=np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "good.nii")
    (tmp_path / "bad.nii").write_bytes(b"bad")
    method = shift_run(tmp_path / "run", [1.0, 0.0])
    done = run("translate", method, tmp_path / "good.nii", tmp_path / "bad.nii", "--no-report", "--out", tmp_path / "o")
    assert done.exit_code == 1, done.output
    assert "1 translated, 0 kept from before, 1 failed" in done.stdout
    assert load_trace(tmp_path / "o" / "good" / "trace").ddf.isfinite().all()


def test_doctor_ends_with_1_only_where_a_required_package_is_missing(monkeypatch):
    examine = importlib.import_module("medtrace.workflows.doctor")
    assert run("doctor").exit_code == 0  # what is optional may be missing
    monkeypatch.setattr(examine, "_package", lambda name: Finding(name, "not installed", missing=True))
    done = run("doctor")
    assert done.exit_code == 1
    assert "- torch" in done.stdout


def test_the_page_of_conventions_has_the_codes():
    text = (ROOT / "docs" / "conventions.md").read_text(encoding="utf-8").split("## Exit codes")[1]
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", text, re.M)] == [0, 1, 2, 3, 130]
