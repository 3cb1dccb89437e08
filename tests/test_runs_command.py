"""Runs without their end, chosen checkpoints, and `medtrace runs`."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from medtrace.cli import app
from medtrace.data import sources
from medtrace.engines.checkpoint_choice import using_checkpoint
from medtrace.engines.runs import load_method, read_run
from medtrace.guard.notices import Notice
from medtrace.storage.reservations import locked
from medtrace.workflows.evaluate import evaluate
from medtrace.workflows.train import train
from tests.trainings import SMOKE

EPOCHS = {"training.max_epochs": 3, "training.checkpoint_interval": 1, "training.val_interval": 0}


def invoke(*arguments, **options):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train("unet", out=tmp_path_factory.mktemp("runs") / "unet", presets=SMOKE, settings=EPOCHS, device="cpu")


@pytest.fixture
def unfinished(trained, tmp_path):
    """A run as one that was killed in its last epoch leaves it."""
    run = shutil.copytree(trained, tmp_path / "runs" / "cut")
    for name in ("weights.safetensors", "final.pt", "checkpoint_epoch=3.pt"):
        (run / "checkpoints" / name).unlink()
    return run


def states(run, name):
    return torch.load(run / "checkpoints" / name, weights_only=True)["method"]


def holds(method, expected):
    return all(torch.equal(value, expected[name]) for name, value in method.state_dict().items())


def test_a_run_without_its_end_says_what_it_has_and_how_to_use_it(unfinished):
    with pytest.raises(FileNotFoundError, match=r"\(2 of 3 epochs are done\); resume it .*--checkpoint last"):
        load_method(unfinished, "cpu")


def test_a_chosen_checkpoint_is_loaded_and_told(trained, unfinished):
    with using_checkpoint("last"), pytest.warns(Notice, match=r"checkpoint_epoch=2.pt, after 2 of 3 epochs"):
        assert holds(load_method(unfinished, "cpu"), states(unfinished, "checkpoint_epoch=2.pt"))
    with using_checkpoint("epoch=2"), pytest.warns(Notice, match="--checkpoint epoch=2"):
        assert holds(load_method(trained, "cpu"), states(trained, "checkpoint_epoch=2.pt"))
    shutil.copy(trained / "checkpoints" / "weights.safetensors", unfinished / "checkpoints" / "best.safetensors")
    with using_checkpoint("best"), pytest.warns(Notice, match=r"best.safetensors"):
        assert holds(load_method(unfinished, "cpu"), states(trained, "final.pt"))


@pytest.mark.parametrize(
    ("choice", "message"),
    [("epoch=9", "available epochs: epoch=2"), ("best", "trained without validation"), ("newest", "best, last or")],
)
def test_a_checkpoint_that_is_not_there_is_named(choice, message, unfinished):
    with pytest.raises((FileNotFoundError, ValueError), match=message), using_checkpoint(choice):
        load_method(unfinished, "cpu")


def test_an_unfinished_run_is_evaluated_into_a_folder_of_its_own(unfinished):
    cases = sources(read_run(unfinished).settings).test()
    with using_checkpoint("last"), pytest.warns(Notice):
        evaluate(unfinished, cases, device="cpu", progress=False)
    assert (unfinished / "evaluation" / "test-last" / "method.csv").is_file()
    done = invoke("calibrate", "certificate", "--run", unfinished, "--task", "postop", "--cases", 2, "--size", 32)
    assert done.exit_code == 1
    assert "--checkpoint last" in done.stderr
    done = invoke("calibrate", "certificate", "--run", unfinished, "--task", "postop", "--cases", 2, "--size", 32,
                  "--checkpoint", "last")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "after 2 of 3 epochs (--checkpoint last)" in done.stderr


def test_every_command_that_takes_a_run_takes_a_checkpoint():
    for name in ("evaluate", "traceability", "translate", "register", "certify", "calibrate"):
        assert "--checkpoint" in invoke(name, "--help").stdout


@pytest.fixture
def runs(trained, unfinished):
    """A folder of runs: a finished one, one without its end, and something else."""
    folder = unfinished.parent
    shutil.copytree(trained, folder / "whole")
    (folder / "other").mkdir()
    return folder


def test_runs_are_listed(runs):
    done = invoke("runs", runs)
    assert done.exit_code == 0, done.output
    rows = {line.split("|")[1].strip(): line for line in done.stdout.splitlines() if line.startswith("|")}
    cut, whole = rows[str(runs / "cut")], rows[str(runs / "whole")]
    assert "| unfinished |" in cut
    assert "| finished |" in whole
    assert "3 of 3" in whole
    with locked(runs / "whole"):
        assert "| in use |" in invoke("runs", runs / "whole").stdout


def test_a_broken_run_is_listed_too(runs):
    (runs / "whole" / "run.json").write_text("{")
    done = invoke("runs", runs)
    assert "cannot be read" in done.stdout
    assert "take an intact copy" in done.stderr


def test_runs_are_compared_by_settings_and_scores(runs, tmp_path):
    other = train("unet", out=tmp_path / "wide", presets=SMOKE, settings={**EPOCHS, "channels": [4, 16]}, device="cpu")
    cases = sources(read_run(other).settings).test()
    for run in (other, runs / "whole"):
        evaluate(run, cases, device="cpu", progress=False)
    done = invoke("runs", runs / "whole", other, "--compare")
    assert done.exit_code == 0, done.output
    lines = [line for line in done.stdout.splitlines() if line.startswith("| channels")]
    assert lines == ["| channels | [4, 8] | [4, 16] |"]
    assert "test: mae" in done.stdout
    assert "seed" not in done.stdout
    result = json.loads(invoke("runs", runs / "whole", other, "--compare", "--json").stdout)["result"]
    assert result["settings"]["channels"] == {"whole": "[4, 8]", "wide": "[4, 16]"}
    assert result["scores"]["test: mae"]["wide"]["n"] == len(cases)
    assert "two or more" in invoke("runs", other, "--compare").stderr


def test_runs_are_deleted_only_after_asking(runs):
    kept = invoke("runs", runs, "--delete", "--quiet", "--json", input="n\n")
    assert json.loads(kept.stdout)["lines"][-1] == "nothing removed"
    assert kept.stderr.startswith("Remove 2 runs (")
    assert (runs / "cut").is_dir()
    with locked(runs / "whole"):
        refused = invoke("runs", runs, "--delete", "--yes")
    assert refused.exit_code == 1
    assert f"is in use by process {os.getpid()}" in refused.stderr
    assert (runs / "cut").is_dir()
    assert invoke("runs", runs / "cut", "--delete", input="y\n").exit_code == 0
    assert sorted(path.name for path in runs.iterdir()) == ["other", "whole"]
    assert "1 run (" in invoke("runs", runs, "--delete", "--yes").stdout
    assert [path.name for path in runs.iterdir()] == ["other"]
    assert "holds no run" in invoke("runs", runs).stderr


@pytest.mark.parametrize("options", [("--smoke",), ("--tracebench",), ("--preset", "tracebench")], ids=" ".join)
def test_a_data_set_beside_cases_of_the_settings_is_refused(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset.json").write_text('{"version": 1, "spatial_dims": 2, "training": [], "test": []}')
    done = invoke("train", "unet", "data", *options, "--out", "run")
    assert done.exit_code == 1
    assert "expected none, since the settings train on TraceBench (--tracebench, --smoke or a preset" in done.stderr
    assert not Path("run").exists()
