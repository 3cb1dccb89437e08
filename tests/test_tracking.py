"""Trainings followed by MLflow and Weights & Biases: from `medtrace train` and from MONAI's bundle command."""

import csv
import sys

import mlflow
import pytest

from medtrace.engines import Tracking
from medtrace.methods import method_class, resolve
from medtrace.workflows.bundle import bundle
from medtrace.workflows.train import train
from tests.trainings import command

SMOKE = ("tracebench", "smoke")


def epochs(run):
    return list(csv.DictReader((run / "history.csv").open()))


def told_to_mlflow(database, experiment):
    """The metrics of the one run of an experiment, name → {step: value}, and its parameters."""
    client = mlflow.MlflowClient(f"sqlite:///{database}")
    (result,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    metrics = {
        name: {one.step: one.value for one in client.get_metric_history(result.info.run_id, name)}
        for name in result.data.metrics
    }
    return metrics, result.data.params, result.info.status


def check_history(metrics, run):
    rows = epochs(run)
    for tag in ("loss", "learning_rate", "validation_mae"):
        assert metrics[tag] == pytest.approx({int(row["epoch"]): float(row[tag]) for row in rows}), tag


@pytest.mark.slow
def test_mlflow_has_the_history_and_the_settings(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = train("unet", out=tmp_path / "run", presets=SMOKE, settings={"training.tracking": "mlflow"}, device="cpu")
    metrics, parameters, status = told_to_mlflow(run / "mlflow.db", "medtrace")
    check_history(metrics, run)
    assert (parameters["training.tracking"], status) == ('"mlflow"', "FINISHED")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet", "tracetrans"])
def test_the_bundle_command_tracks(name, tmp_path, monkeypatch):
    """`python -m monai.bundle run --tracking mlflow`, whose handler takes the loss of every step from a list."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = bundle(name, tmp_path / "bundle", presets=SMOKE)
    command(folder, "train", run_dir=tmp_path / "run", tracking="mlflow")
    metrics, _, status = told_to_mlflow(folder / "eval" / "mlruns.db", "monai_experiment")
    assert status == "FINISHED"
    rows = epochs(tmp_path / "run")
    steps = len(metrics["train_loss"]) // len(rows)
    means = [sum(metrics["train_loss"][epoch * steps + step + 1] for step in range(steps)) / steps for epoch in (0, 1)]
    assert means == pytest.approx([float(row["loss"]) for row in rows])


@pytest.mark.slow
def test_wandb_works_offline(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    run = train("unet", out=tmp_path / "run", presets=SMOKE, settings={"training.tracking": "wandb"}, device="cpu")
    (record,) = (run / "wandb").glob("offline-run-*/run-*.wandb")
    content = record.read_bytes()
    for tag in (b"loss", b"learning_rate", b"validation_mae", b"max_epochs"):
        assert tag in content


@pytest.mark.parametrize("tool", ["mlflow", "wandb"])
def test_a_tool_that_is_missing_names_the_extra_and_leaves_nothing(tool, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, tool, None)
    with pytest.raises(ValueError, match=rf"training.tracking: .*received {tool} .*`pip install medtrace\[tracking\]`"):
        train("unet", out=tmp_path / "run", presets=SMOKE, settings={"training.tracking": tool}, device="cpu")
    assert not (tmp_path / "run").exists()


def test_tools_that_are_unknown_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"training.tracking: input should be 'auto', 'tensorboard', 'mlflow' or 'wandb'"
    ):
        resolve(method_class("unet").settings_type, (), {"training.tracking": "comet"})
    with pytest.raises(ValueError, match="tool: expected one of"):
        Tracking("comet", tmp_path)
