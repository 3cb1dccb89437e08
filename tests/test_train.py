"""Training through `medtrace.workflows.train`: settings, resuming, and what a failure leaves behind."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from medtrace.data import TraceBench
from medtrace.data.preparation.rules import Preparation
from medtrace.engines.runs import read_run
from medtrace.fields import invert, non_diffeomorphic_fraction
from medtrace.workflows.prepare import prepare
from medtrace.workflows.train import train

SMOKE = ("tracebench", "smoke")
ONCE = {"training.max_epochs": 1}


def test_an_unknown_setting_names_the_one_that_was_meant(tmp_path):
    with pytest.raises(ValueError, match=r"training.max_epoch: is not a setting.*did you mean training.max_epochs\?"):
        train("tracetrans", out=tmp_path / "run", presets=SMOKE, settings={"training.max_epoch": 1})
    assert not (tmp_path / "run").exists()


def test_a_false_start_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="alpha: input should be less than or equal to 1"):
        train("tracetrans", out=tmp_path / "run", presets=SMOKE, settings={"alpha": 7})
    assert not (tmp_path / "run").exists()
    # Told by the method itself, which the settings let pass.
    with pytest.raises(ValueError, match="registered_channels: expected different numbers from 0 to 0"):
        train("tracetrans", out=tmp_path / "run", presets=SMOKE, settings={"registered_channels": [1]})
    assert not (tmp_path / "run").exists()


def test_resuming_keeps_the_runs_settings_and_a_failed_resume_harms_nothing(tmp_path):
    run = train("tracetrans", out=tmp_path / "run", presets=SMOKE, settings={**ONCE, "alpha": 0.75})
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="does not fit the configuration"):
        train("tracetrans", out=run, resume=True, settings={"channels": [4, 16], "training.max_epochs": 2})
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert {path: after[path] for path in before} == before
    with pytest.raises(ValueError, match="expected tracetrans, whose run"):
        train("unet", out=run, resume=True)
    train("tracetrans", out=run, resume=True, settings={"training.max_epochs": 2})
    assert json.loads((run / "run.json").read_text())["settings"]["alpha"] == 0.75
    assert read_run(run).settings.channels == (4, 8)
    assert (run / "history.csv").read_text().count("\n") == 3


def test_a_resumed_run_that_had_ended_has_its_weights(tmp_path):
    """Even if it was stopped after its last checkpoint, before `weights.safetensors` was written."""
    run = train("unet", out=tmp_path / "run", presets=SMOKE, settings=ONCE)
    written = run / "checkpoints" / "weights.safetensors"
    before = written.read_bytes()
    written.unlink()
    train("unet", out=run, resume=True)
    assert written.read_bytes() == before


def test_a_tracebench_run_knows_its_voxel_size(tmp_path):
    run = train("tracetrans", out=tmp_path / "run", presets=SMOKE, settings=ONCE)
    preparation = Preparation.load(run / "preparation.json")
    source = TraceBench("postop", (32, 32), cases=1)[0]["source"]
    assert preparation.spacing[0] == pytest.approx(float(source.affine[0, 0]))
    assert preparation.spatial_shape == (32, 32)


def test_a_color_data_set_settles_the_channels(tmp_path):
    lines = ["subject,source,target"]
    for number in range(4):
        for name in ("before", "after"):
            pixels = np.random.default_rng([number, len(name)]).integers(0, 255, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{name}{number}.png")
        lines.append(f"s{number},before{number}.png,after{number}.png")
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    prepare(tmp_path / "pairs.csv", tmp_path / "data", resize=32, progress=False)
    small = {"channels": [4, 8], "velocity_downsampling": 0, "discriminator_channels": 4, "discriminator_layers": 1}
    run = train("tracetrans", tmp_path / "data", out=tmp_path / "run", settings={**small, **ONCE}, device="cpu")
    weights = torch.load(run / "checkpoints" / "final.pt", weights_only=True)["method"]
    assert weights["networks.generator.encoder.levels.0.conv.weight"].shape[1] == 3
    remembered = read_run(run).training_data
    assert remembered["dataset"] == str((tmp_path / "data").absolute())
    assert {len(entry["source"]) > 30 for entry in remembered["training"]} == {True}
    index = json.loads((tmp_path / "data" / "dataset.json").read_text())
    assert [entry["subject"] for entry in remembered["training"]] == [
        entry["subject"] for entry in index["training"]
    ]  # fmt: skip


def test_a_field_that_is_not_finite_is_no_diffeomorphism():
    field = torch.full((1, 2, 8, 8), float("nan"))
    assert non_diffeomorphic_fraction(field).item() == 1
    assert invert(field).residual.item() == float("inf")


def test_tracebench_is_not_changed_by_what_is_done_to_its_items():
    bench = TraceBench("postop", (32, 32), cases=1)
    bench[0]["source"].fill_(7)
    assert bench[0]["source"].max() <= 1
