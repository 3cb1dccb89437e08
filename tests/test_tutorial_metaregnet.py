"""The tutorial of MetaRegNet runs from the first cell to the last on a small setting."""

import pytest

from tests.test_tutorials import executed, outputs_of


@pytest.mark.slow
def test_metaregnet_tutorial_runs(tmp_path, monkeypatch):
    notebook, pictures = executed("03_metaregnet", tmp_path, monkeypatch)
    assert len(pictures) == 5
    scores, ledger, errors = outputs_of(notebook, "text/markdown")
    for row in ("identity", "MetaRegNet", "VM-CFM"):
        assert f"| {row} |" in scores
    assert "| a mask |" in ledger
    assert "| instance optimization |" in errors
    for run in ("MetaRegNet", "VM-CFM"):
        assert (tmp_path / "tutorial_out" / run / "checkpoints" / "final.pt").is_file()
    assert (tmp_path / "tutorial_out" / "pair" / "ddf.nii.gz").is_file()
