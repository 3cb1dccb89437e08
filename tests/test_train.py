"""Training through `medtrace.workflows.train`: overrides, resuming, and what a failure leaves behind."""

import numpy as np
import pytest
import torch
from PIL import Image

from medtrace.data import TraceBench
from medtrace.data.preparation import Preparation
from medtrace.fields import invert, non_diffeomorphic_fraction
from medtrace.workflows.prepare import prepare
from medtrace.workflows.train import train


def test_an_unknown_override_names_the_entry_that_was_meant(tmp_path):
    with pytest.raises(ValueError, match=r"'max_epoch' is no entry .* did you mean max_epochs\?"):
        train("tracetrans", out=tmp_path / "run", smoke=True, overrides={"max_epoch": 1})
    assert not (tmp_path / "run").exists()


def test_a_false_start_leaves_nothing(tmp_path):
    with pytest.raises(Exception, match="TraceTransMethod"):
        train("tracetrans", out=tmp_path / "run", smoke=True, overrides={"method#alpha": 7})
    assert not (tmp_path / "run").exists()


def test_resuming_keeps_the_runs_settings_and_a_failed_resume_harms_nothing(tmp_path):
    run = train("tracetrans", out=tmp_path / "run", smoke=True, overrides={"max_epochs": 1, "method#alpha": 0.75})
    before = (run / "config.yaml").read_bytes()
    with pytest.raises(Exception, match="trainer"):
        train("tracetrans", out=run, resume=True, overrides={"channels": [4, 16]})
    assert (run / "config.yaml").read_bytes() == before
    train("tracetrans", out=run, resume=True, overrides={"max_epochs": 2})
    text = (run / "config.yaml").read_text()
    assert "alpha: 0.75" in text
    assert (run / "history.csv").read_text().count("\n") == 3


def test_a_tracebench_run_knows_its_voxel_size(tmp_path):
    run = train("tracetrans", out=tmp_path / "run", smoke=True, overrides={"max_epochs": 1})
    preparation = Preparation.load(run / "preparation.json")
    source = TraceBench("postop", (32, 32), cases=1)[0]["source"]
    assert preparation.spacing[0] == pytest.approx(float(source.affine[0, 0]))
    assert preparation.spatial_shape == (32, 32)


def test_a_colour_data_set_settles_the_channels(tmp_path):
    lines = ["subject,source,target"]
    for number in range(4):
        for name in ("before", "after"):
            pixels = np.random.default_rng([number, len(name)]).integers(0, 255, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{name}{number}.png")
        lines.append(f"s{number},before{number}.png,after{number}.png")
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    prepare(tmp_path / "pairs.csv", tmp_path / "data", resize=32, progress=False)
    small = {"channels": [4, 8], "discriminator_channels": 4, "discriminator_layers": 1, "max_epochs": 1}
    run = train("tracetrans", tmp_path / "data", out=tmp_path / "run", overrides=small, device="cpu")
    weights = torch.load(run / "checkpoints" / "final.pt", weights_only=True)["method"]
    assert weights["networks.generator.encoder.levels.0.conv.weight"].shape[1] == 3


def test_a_field_that_is_not_finite_is_no_diffeomorphism():
    field = torch.full((1, 2, 8, 8), float("nan"))
    assert non_diffeomorphic_fraction(field).item() == 1
    assert invert(field).residual.item() == float("inf")


def test_tracebench_is_not_changed_by_what_is_done_to_its_items():
    bench = TraceBench("postop", (32, 32), cases=1)
    bench[0]["source"].fill_(7)
    assert bench[0]["source"].max() <= 1
