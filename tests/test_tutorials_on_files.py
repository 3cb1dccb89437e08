"""The tutorials that begin with files, or with a method of one's own, run from the first cell to the last."""

import json

import pytest

from tests.test_tutorials import executed, outputs_of


def printed(notebook):
    """All that the cells print."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return "".join(output.text for cell in cells for output in cell.outputs if output.get("name") == "stdout")


@pytest.mark.slow
def test_own_pair_tutorial_runs(tmp_path, monkeypatch):
    notebook, pictures = executed("05_own_pair", tmp_path, monkeypatch)
    assert len(pictures) == 2
    (scores,) = outputs_of(notebook, "text/markdown")
    assert "| delivered_mae |" in scores
    assert "T2 (a.u.)" in printed(notebook)
    folder = tmp_path / "tutorial_out" / "run" / "evaluation" / "test"
    assert (folder / "evaluation.html").is_file()
    assert (folder / "evaluation.pdf").is_file()


@pytest.mark.slow
def test_register_tutorial_runs(tmp_path, monkeypatch):
    notebook, pictures = executed("06_register", tmp_path, monkeypatch)
    assert len(pictures) == 3
    assert "the registration misses it by" in printed(notebook)
    index = json.loads((tmp_path / "tutorial_out" / "registered" / "trace.json").read_text())
    assert index["metadata"]["verdict"]["verdict"] in ("PASS", "WARN", "FAIL")


@pytest.mark.slow
def test_trace_anything_tutorial_runs(tmp_path, monkeypatch):
    notebook, pictures = executed("07_trace_anything", tmp_path, monkeypatch)
    assert len(pictures) == 1
    assert "mean residual in the spot" in printed(notebook)
    assert (tmp_path / "tutorial_out" / "traced.certificate.json").is_file()


@pytest.mark.slow
def test_own_method_tutorial_runs(tmp_path, monkeypatch):
    notebook, pictures = executed("08_own_method", tmp_path, monkeypatch)
    assert len(pictures) == 2
    assert "the contract holds" in printed(notebook)
    (scores,) = outputs_of(notebook, "text/markdown")
    assert "| Two convolutions |" in scores
