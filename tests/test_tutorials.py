"""Tutorials run from the first cell to the last on a small setting, and are stored without outputs."""

import base64
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "tutorials").glob("*.ipynb"))


def outputs_of(notebook, kind):
    return [
        output["data"][kind]
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if kind in output.get("data", {})
    ]


def test_there_are_tutorials():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_stored_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None


def executed(name, tmp_path, monkeypatch):
    """A tutorial after it ran in its small setting, and its pictures."""
    monkeypatch.setenv("MEDTRACE_TUTORIAL", "small")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "tutorials" / f"{name}.ipynb", as_version=4)
    client = NotebookClient(
        notebook,
        timeout=600,
        startup_timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()
    pictures = [base64.b64decode(data) for data in outputs_of(notebook, "image/png")]
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    return notebook, pictures


@pytest.mark.slow
def test_tracetrans_tutorial_runs(tmp_path, monkeypatch):
    notebook, pictures = executed("01_tracetrans", tmp_path, monkeypatch)
    assert len(pictures) == 5
    ledger, scores = outputs_of(notebook, "text/markdown")
    assert "everywhere" in ledger
    assert "in the cavity" in ledger
    for row in ("identity", "oracle field", "TraceTrans"):
        assert f"| {row} |" in scores
    assert (tmp_path / "tutorial_out" / "run" / "checkpoints" / "final.pt").is_file()
    assert (tmp_path / "tutorial_out" / "trace" / "ddf.h5").is_file()


@pytest.mark.slow
def test_reggan_tutorial_runs(tmp_path, monkeypatch):
    notebook, pictures = executed("02_reggan", tmp_path, monkeypatch)
    assert len(pictures) == 6
    scores, ledger, fields = outputs_of(notebook, "text/markdown")
    for row in ("T1 as it is", "Pix2Pix", "RegGAN"):
        assert f"| {row} |" in scores
    assert "the translation" in ledger
    assert "| zero |" in fields
    assert "| found by R |" in fields
    for run in ("Pix2Pix", "RegGAN"):
        assert (tmp_path / "tutorial_out" / run / "checkpoints" / "final.pt").is_file()
    assert (tmp_path / "tutorial_out" / "pair" / "ddf.nii.gz").is_file()
