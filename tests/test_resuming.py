"""What is set on resuming holds, what cannot be changed is refused, and data are known by their content."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from medtrace.engines.runs import read_run
from medtrace.guard.notices import Notice
from medtrace.methods import method_class
from medtrace.methods.registry import _IN_PROCESS
from medtrace.workflows.prepare import prepare
from medtrace.workflows.train import train
from tests.interrupted_training import PROCESSES, warm
from tests.trainings import SMOKE

ONCE = {"training.max_epochs": 1}
PREPARED = {"data": {"kind": "prepared"}, "training.max_epochs": 1, "training.val_interval": 0}


def resumed(run, **settings):
    names = {name.replace("__", "."): value for name, value in settings.items()}
    return train("tracetrans", out=run, resume=True, settings=names, device="cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train("tracetrans", out=tmp_path_factory.mktemp("run") / "run", presets=SMOKE, settings=ONCE, device="cpu")


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def optimizers(run):
    states = torch.load(run / "checkpoints" / "final.pt", weights_only=True)
    return {name: state["param_groups"][0] for name, state in states.items() if name.startswith("optimizer_")}


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_rate_that_is_set_on_resuming_is_the_optimizers(schedule, run):
    name = next(name for name in optimizers(run)).removeprefix("optimizer_")
    settings = read_run(run).settings
    field = next(key for key, value in settings if value is settings.optimizers()[name])
    resumed(run, training__max_epochs=3, training__schedule=schedule)
    resumed(run, **{f"{field}.learning_rate": 0.125, f"{field}.betas": [0.25, 0.5], "training.max_epochs": 4})
    group = optimizers(run)[f"optimizer_{name}"]
    assert group.get("initial_lr", group["lr"]) == 0.125
    assert (group["lr"] == 0.125) == (schedule == "constant")
    assert 0 < group["lr"] <= 0.125
    assert tuple(group["betas"]) == (0.25, 0.5)
    assert read_run(run).settings.optimizers()[name].learning_rate == 0.125


def test_a_preset_that_is_given_on_resuming_holds(run):
    train("tracetrans", out=run, resume=True, presets=SMOKE, settings={"training.max_epochs": 2}, device="cpu")
    assert read_run(run).settings.training.max_epochs == 2


@pytest.mark.parametrize(("name", "value"), [("channels", [4, 16]), ("data.train_cases", 3), ("data.seed", 5)])
def test_what_cannot_be_changed_is_refused(name, value, run):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=rf"{name}: expected .*, with which \S+ was trained, received .*leave it"):
        resumed(run, **{name: value, "training.max_epochs": 2})
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_table_of_a_method_cannot_be_changed_behind_its_checkpoint(tmp_path, monkeypatch):
    """A buffer that a setting decides would silently be put back by the checkpoint."""
    kind = method_class("unet")

    class Tabled(kind):
        name = "tabled"

        @classmethod
        def from_settings(cls, settings):
            method = super().from_settings(settings)
            method.register_buffer("table", torch.tensor(settings.dropout))
            return method

    monkeypatch.setitem(_IN_PROCESS, "tabled", Tabled)
    run = train("tabled", out=tmp_path / "run", presets=SMOKE, settings=ONCE, device="cpu")
    with pytest.raises(
        ValueError, match=r"dropout: expected 0.0, with which \S+ was trained, received 0.5; a checkpoint"
    ):
        train("tabled", out=run, resume=True, settings={"dropout": 0.5, "training.max_epochs": 2}, device="cpu")


def dataset(folder, subjects=4, seed=0):
    folder.mkdir()
    lines = ["subject,source,target,split"]
    for number in range(subjects):
        for name in ("before", "after"):
            pixels = np.random.default_rng([seed, number, len(name)]).integers(0, 255, (32, 32), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{name}{number}.png")
        lines.append(f"s{number},before{number}.png,after{number}.png,{'test' if number == 0 else 'training'}")
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    prepare(folder / "pairs.csv", folder / "data", resize=32, progress=False)
    return folder / "data"


def _train(*arguments, **options):
    torch.set_num_threads(1)
    train(*arguments, **options)


def in_process(*arguments, **options):
    warm()
    process = PROCESSES.Process(target=_train, args=arguments, kwargs=options)
    process.start()
    process.join()
    return process.exitcode


@pytest.fixture(scope="module")
def on_data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    data = dataset(folder / "one")
    run = train("unet", data, folder / "run", presets=SMOKE, settings=PREPARED, device="cpu")
    return run, data


@pytest.fixture
def moved(on_data, tmp_path):
    """A run, and its data set, which lies elsewhere now."""
    run, data = (shutil.copytree(path, tmp_path / path.name) for path in on_data)
    record = json.loads((run / "run.json").read_text())
    record["training_data"]["dataset"] = str(tmp_path / "gone")
    (run / "run.json").write_text(json.dumps(record))
    return run, data


def test_a_data_set_that_moved_is_the_same_by_its_content(moved):
    run, data = moved
    with pytest.raises(FileNotFoundError, match=r"gone, which \S+ was trained on, is no longer there; name the folder"):
        train("unet", out=run, resume=True, settings={"training.max_epochs": 2}, device="cpu")
    assert in_process("unet", data, run, resume=True, settings={"training.max_epochs": 2}, device="cpu") == 0
    assert read_run(run).training_data["dataset"] == str(data)
    assert read_run(run).settings.training.max_epochs == 2
    assert in_process("unet", out=run, resume=True, settings={"training.max_epochs": 3}, device="cpu") == 0


def test_another_data_set_is_refused_unless_it_is_meant(moved, tmp_path):
    run, _ = moved
    other = dataset(tmp_path / "two", subjects=3, seed=9)
    options = {"out": run, "resume": True, "settings": {"training.max_epochs": 2}, "device": "cpu"}
    before = (run / "run.json").read_bytes()
    with pytest.raises(ValueError, match=r"of 3 training cases 3 are missing and 2 are new .*--other-data"):
        train("unet", other, **options)
    assert (run / "run.json").read_bytes() == before
    with pytest.warns(Notice, match="is not the data set that"):
        train("unet", other, **options, other_data=True)
    cases = read_run(run).training_data["training"]
    assert [case.get("earlier", False) for case in cases] == [False] * 2 + [True] * 3
    options["settings"] = {"training.max_epochs": 3}
    train("unet", **options)  # it is the run's own now
    assert len(read_run(run).training_data["training"]) == 5


def test_a_data_set_that_changed_in_its_place_is_another(moved):
    run, data = moved
    index = json.loads((data / "dataset.json").read_text())
    first, second = index["training"][:2]
    first["source"], second["source"] = second["source"], first["source"]
    (data / "dataset.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="of 3 training cases 2 are missing and 2 are new"):
        train("unet", data, out=run, resume=True, device="cpu")
