"""Averaged weights, batches in parts, and learning-rate schedules of trainings of every method."""

import csv
import json

import pytest
import torch
from safetensors.torch import load_file

from medtrace.data import sources
from medtrace.data.loaders import training_loader
from medtrace.engines import Checkpoint, Trainer, WarmupDecay, WeightAveraging, build_schedule
from medtrace.engines.accumulation import parts_of
from medtrace.engines.averaging import usable_states
from medtrace.engines.runs import BEST, WEIGHTS, load_method
from medtrace.methods import method_class, resolve
from medtrace.workflows.train import train
from tests.test_living_run import Pull
from tests.trainings import check_equal, methods_at_length

SMOKE = ("tracebench", "smoke")


def one_step(name, accumulate, batch):
    """The method's weights after a step of plain gradient descent, whose length is the gradient's."""
    chosen = resolve(method_class(name).settings_type, SMOKE)
    torch.manual_seed(0)
    method = method_class(name).build(chosen)
    optimizers = {phase.name: torch.optim.SGD(method.parameters_of(phase.name), 1.0) for phase in method.phases}
    trainer = Trainer("cpu", 1, [batch], method, optimizers, seed=0, accumulate=accumulate)
    trainer.run()
    terms = {term: float(value) for term, value in trainer.state.output[0].items()}
    return {key: value for key, value in method.state_dict().items() if isinstance(value, torch.Tensor)}, terms


def batch_of(name, size=4):
    kind = method_class(name)
    settings = resolve(kind.settings_type, SMOKE, {"training.batch_size": size})
    data = sources(settings, None, kind.case_transform(settings)).training()
    return next(iter(training_loader(data, settings, torch.device("cpu"))))


# Batches in parts


@pytest.mark.parametrize("name", ["unet", "tracetrans", "metaregnet"])
def test_a_batch_in_parts_gives_the_step_of_the_whole(name):
    batch = batch_of(name)
    single, _ = one_step(name, 1, {key: value[:1] for key, value in batch.items()})
    whole, terms = one_step(name, 1, batch)
    for parts in (2, 3, 4):
        split, split_terms = one_step(name, parts, batch)
        for key, value in whole.items():
            assert torch.allclose(split[key], value, rtol=1e-4, atol=1e-6), (parts, key)
        assert split_terms == pytest.approx(terms, rel=1e-4, abs=1e-6)
    assert any(not torch.allclose(single[key], value, atol=1e-5) for key, value in whole.items())


def test_parts_share_the_items_and_keep_the_rest():
    batch = {"source": torch.arange(5.0)[:, None], "case": list("abcde"), "names": ("x",), "rate": torch.tensor(2.0)}
    parts = list(parts_of(batch, 2))
    assert [fraction for fraction, _ in parts] == [0.4, 0.6]
    assert [part["case"] for _, part in parts] == [["a", "b"], ["c", "d", "e"]]
    assert torch.cat([part["source"] for _, part in parts]).equal(batch["source"])
    assert all(part["names"] == ("x",) and part["rate"] == 2 for _, part in parts)
    assert len(list(parts_of(batch, 9))) == 5
    assert next(iter(parts_of(batch, 1))) == (1.0, batch)


def test_clipping_sees_the_gradient_of_the_whole_batch():
    def gone(accumulate):
        method = Pull()
        optimizers = {"one": torch.optim.SGD(method.parameters(), 1.0)}
        batch = {"source": torch.zeros(4, 1, 2, 2)}
        Trainer("cpu", 1, [batch], method, optimizers, max_gradient_norm=0.5, accumulate=accumulate).run()
        return 1 - method.number.weight.item()

    assert gone(1) == pytest.approx(0.5)
    assert gone(4) == pytest.approx(0.5)


def test_parts_that_cannot_be_are_refused():
    kind = method_class("unet").settings_type
    with pytest.raises(ValueError, match=r"training.accumulate: expected at most training.batch_size, 8, .*received 9"):
        resolve(kind, (), {"training.accumulate": 9})
    with pytest.raises(ValueError, match="accumulate: expected 1 or more, received 0"):
        Trainer("cpu", 1, [], Pull(), {"one": None}, accumulate=0)


# Averaged weights


def test_the_average_by_hand(tmp_path):
    method = Pull()
    average = WeightAveraging(0.5)
    optimizers = {"one": torch.optim.SGD(method.parameters(), 0.1)}
    handlers = [average, Checkpoint(tmp_path, interval=1)]
    batch = {"source": torch.zeros(1, 1, 2, 2)}
    trainer = Trainer("cpu", 3, [batch], method, optimizers, train_handlers=handlers, seed=0)
    trainer.run()
    expected = 1.0
    for update in range(3):
        expected += (1 - min(0.5, (1 + update) / (10 + update))) * (0.8 ** (update + 1) - expected)
    assert method.number.weight.item() == pytest.approx(0.8**3)
    with trainer.as_used():
        assert method.number.weight.item() == pytest.approx(expected)
    assert method.number.weight.item() == pytest.approx(0.8**3)
    states = torch.load(tmp_path / "final.pt", weights_only=True)
    assert usable_states(states)["number.weight"].item() == pytest.approx(expected)
    assert states["method"]["number.weight"].item() == pytest.approx(0.8**3)


@pytest.mark.parametrize("name", methods_at_length())
def test_every_method_can_be_averaged(name):
    method = method_class(name).build(resolve(method_class(name).settings_type, SMOKE))
    optimizers = {phase.name: torch.optim.SGD(method.parameters_of(phase.name), 0.1) for phase in method.phases}
    trainer = Trainer("cpu", 1, [], method, optimizers, train_handlers=[WeightAveraging(0.9)])
    names = trainer.average.state_dict()["values"].keys()
    stepped = {id(weight) for phase in method.phases for weight in method.parameters_of(phase.name)}
    own = {key for key, value in method.state_dict(keep_vars=True).items() if id(value) in stepped}
    assert names == own != set()
    before = {key: value.clone() for key, value in method.state_dict().items() if torch.is_tensor(value)}
    with torch.no_grad():
        for weight in method.parameters():
            weight.add_(1)
    with trainer.as_used():
        check_equal({key: method.state_dict()[key] for key in names}, {key: before[key] for key in names})
    assert all(torch.equal(method.state_dict()[key], before[key] + 1) for key in names)


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    """A training whose average is validated and used."""
    settings = {"training.max_epochs": 2, "training.val_interval": 1, "training.ema_decay": 0.9}
    settings |= {"training.accumulate": 2, "training.schedule": "linear", "training.final_rate": 0.5}
    folder = tmp_path_factory.mktemp("averaged") / "run"
    return train("unet", out=folder, presets=SMOKE, settings=settings, device="cpu")


def test_a_run_is_used_with_its_average(averaged):
    states = torch.load(averaged / "checkpoints" / "final.pt", weights_only=True)
    used = {name.removeprefix("method."): value for name, value in load_file(averaged / WEIGHTS).items()}
    assert all(torch.equal(used[name], value) for name, value in usable_states(states).items() if name in used)
    assert any(not torch.equal(value, states["method"][name]) for name, value in used.items())
    best = load_file(averaged / BEST)  # of the last epoch, as this training gets better with each
    assert all(torch.equal(best[f"method.{name}"], value) for name, value in used.items())
    settings = load_method(averaged, "cpu").state_dict()
    assert all(torch.equal(settings[name], value) for name, value in used.items())


def test_averages_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"training.ema_decay: input should be less than 1"):
        resolve(method_class("unet").settings_type, (), {"training.ema_decay": 1})
    with pytest.raises(ValueError, match=r"decay: expected a fraction in \[0, 1\), received 2"):
        WeightAveraging(2)


# Schedules


def test_the_schedule_is_what_the_settings_say(averaged):
    def schedule(**values):
        settings = resolve(method_class("unet").settings_type, (), {f"training.{k}": v for k, v in values.items()})
        return build_schedule(settings)

    made = schedule(schedule="polynomial", warmup=0.2, final_rate=0.01)
    assert isinstance(made, WarmupDecay)
    assert (made.shape, made.warmup, made.final) == ("polynomial", 0.2, 0.01)
    assert not isinstance(schedule(), WarmupDecay)
    rows = list(csv.DictReader((averaged / "history.csv").open()))
    steps = 4 if len(rows) == 2 else 0
    rate = json.loads((averaged / "run.json").read_text())["settings"]["optimizer"]["learning_rate"]
    expected = [rate * (0.5 + 0.5 * (1 - done / steps)) for done in (1, 3)]
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx(expected)


@pytest.mark.parametrize(("name", "value"), [("schedule", "step"), ("warmup", 1.0), ("final_rate", 1.5)])
def test_schedules_of_settings_are_checked(name, value):
    with pytest.raises(ValueError, match=f"training.{name}: input should be"):
        resolve(method_class("unet").settings_type, (), {f"training.{name}": value})
