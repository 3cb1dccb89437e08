"""The tutorial of Plasticine runs from the first cell to the last on a small setting."""

import pytest

from tests.test_tutorials import executed, outputs_of


@pytest.mark.slow
def test_plasticine_tutorial_runs(tmp_path, monkeypatch):
    notebook, pictures = executed("04_plasticine", tmp_path, monkeypatch)
    assert len(pictures) == 8
    scores, steps = outputs_of(notebook, "text/markdown")
    for row in ("source as it is", "Plasticine", "DDIB"):
        assert f"| {row} |" in scores
    for sampler in ("ancestral", "ddim", "dpm_solver"):
        assert f"| {sampler} |" in steps
    for run in ("Plasticine", "DDIB"):
        assert (tmp_path / "tutorial_out" / run / "checkpoints" / "final.pt").is_file()
    assert (tmp_path / "tutorial_out" / "trace" / "ddf.nii.gz").is_file()
