"""`medtrace train --from RUN`: begin with the weights of another run."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file

from medtrace.engines.runs import BEST, WEIGHTS, read_run
from medtrace.workflows.train import train

SMOKE = ("tracebench", "smoke")
ONE = {"training.max_epochs": 1, "training.val_interval": 1}


def weights(run, name=WEIGHTS):
    return load_file(run / name)


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    settings = {**ONE, "channels": [4, 8], "optimizer.learning_rate": 5e-4}
    return train("unet", out=tmp_path_factory.mktemp("from") / "earlier", presets=SMOKE, settings=settings)


def test_it_begins_with_the_weights_and_settings_of_the_run(earlier, tmp_path):
    tuned = train("unet", out=tmp_path / "run", settings={"optimizer.learning_rate": 1e-12}, start_from=earlier)
    record = read_run(tuned)
    assert (record.settings.channels, record.settings.training.max_epochs) == ((4, 8), 1)
    assert record.settings.optimizer.learning_rate == 1e-12
    assert record.started_from["run"] == str(earlier)
    assert record.started_from["weights"] == str(WEIGHTS)
    before, after = weights(earlier), weights(tuned)
    assert all(torch.allclose(after[name], value, atol=1e-6) for name, value in before.items())
    states = torch.load(tuned / "checkpoints" / "final.pt", weights_only=True)
    optimizer = next(value for name, value in states.items() if name.startswith("optimizer"))
    steps = {float(state["step"]) for state in optimizer["state"].values()}
    assert steps == {states["trainer"]["iteration"]}  # none of the earlier run's
    assert "started_from" not in json.loads((earlier / "run.json").read_text())


def test_what_does_not_fit_is_refused_and_leaves_nothing(earlier, tmp_path):
    with pytest.raises(ValueError, match=r"from: .* do not fit .*channels was \[4, 8\], is \[4, 16\].*--from"):
        train("unet", out=tmp_path / "run", settings={"channels": [4, 16]}, start_from=earlier)
    with pytest.raises(ValueError, match=r"from: expected a run of pix2pix, received .*, a run of unet; train unet"):
        train("pix2pix", out=tmp_path / "run", presets=SMOKE, start_from=earlier)
    with pytest.raises(FileNotFoundError, match=r"run: .* is missing"):
        train("unet", out=tmp_path / "run", start_from=tmp_path / "nowhere")
    bare = tmp_path / "bare"
    shutil.copytree(earlier, bare, ignore=shutil.ignore_patterns("checkpoints"))
    with pytest.raises(FileNotFoundError, match=r"has no weights yet.*--resume"):
        train("unet", out=tmp_path / "run", start_from=bare)
    assert not (tmp_path / "run").exists()


def test_a_run_that_was_stopped_gives_its_best_weights(earlier, tmp_path):
    stopped = tmp_path / "stopped"
    shutil.copytree(earlier, stopped)
    (stopped / WEIGHTS).unlink()
    tuned = train("unet", out=tmp_path / "run", settings={"optimizer.learning_rate": 1e-12}, start_from=stopped)
    assert read_run(tuned).started_from["weights"] == str(BEST)
    best = weights(earlier, BEST)
    assert all(torch.allclose(value, best[name], atol=1e-6) for name, value in weights(tuned).items())


def test_it_resumes_as_if_it_had_not_stopped(earlier, tmp_path):
    two = {"training.max_epochs": 2, "training.checkpoint_interval": 1}
    whole = train("unet", out=tmp_path / "whole", settings=two, start_from=earlier)
    cut = train("unet", out=tmp_path / "cut", settings=two | {"training.max_epochs": 1}, start_from=earlier)
    train("unet", out=cut, resume=True, settings=two)
    assert same(weights(whole), weights(cut))
    assert read_run(cut).started_from == read_run(whole).started_from
    shutil.rmtree(cut / "checkpoints")  # before the first checkpoint it begins with the same weights again
    train("unet", out=cut, resume=True)
    assert same(weights(whole), weights(cut))


def test_a_resumed_run_keeps_what_it_began_with(earlier, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(earlier, moved)
    tuned = train("unet", out=tmp_path / "run", start_from=moved)
    with pytest.raises(ValueError, match=r"from: .* did not begin with the weights of .*resume it without --from"):
        train("unet", out=tuned, start_from=earlier, resume=True)
    os.rename(moved, tmp_path / "elsewhere")
    train("unet", out=tuned, resume=True, settings={"training.max_epochs": 2})  # its checkpoint is enough
    shutil.rmtree(tuned / "checkpoints")
    with pytest.raises(ValueError, match=r"from: .*weights.safetensors is missing, and no checkpoint continues"):
        train("unet", out=tuned, resume=True)
