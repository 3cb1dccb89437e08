"""The trainer and evaluator with any method: phases, logs, handlers, resuming, autocast."""

import csv
import math

import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset
from monai.handlers import MeanAbsoluteError, StatsHandler, TensorBoardStatsHandler, ValidationHandler, from_engine
from torch import nn

from medtrace.engines import (
    Checkpoint,
    Evaluator,
    LinearWarmup,
    LossHistory,
    ProgressBar,
    Trainer,
    WarmupDecay,
    logged_terms,
)
from medtrace.methods.base import Method, Phase
from medtrace.methods.tracetrans.method import TraceTransMethod
from medtrace.networks import DualDecoderGAN


class Ledger(Method):
    """Two scalars pulled to two numbers by two phases, which note what they see."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.first.weight)
        nn.init.ones_(self.second.weight)
        self.phases = (
            Phase("one", ("first",), {"square": 2.0, "off": 0.0}),
            Phase("two", ("second",), {"product": 1.0}),
        )
        self.seen = []

    def one_terms(self, phase, batch, context):
        context["value"] = self.first.weight.detach().clone()
        self.seen.append(("one", self.first.weight.requires_grad, self.second.weight.requires_grad))
        return {"square": (self.first.weight * self.second.weight).square().sum()}

    def two_terms(self, phase, batch, context):
        self.seen.append(("two", self.first.weight.requires_grad, self.second.weight.requires_grad))
        return {"product": (self.second.weight * context["value"] * batch["source"].mean()).sum()}


def sgd(method, rate=0.1):
    return {phase.name: torch.optim.SGD(method.parameters_of(phase.name), rate) for phase in method.phases}


def loader(count=8, size=32, batch_size=2, shuffle=True):
    generator = torch.Generator().manual_seed(3)
    items = [
        {key: torch.rand(1, size, size, generator=generator) * 1.8 - 0.9 for key in ("source", "target")}
        for _ in range(count)
    ]
    return DataLoader(Dataset(items), batch_size=batch_size, shuffle=shuffle, num_workers=0)


def tracetrans(seed=0):
    torch.manual_seed(seed)
    gan = DualDecoderGAN(2, 1, 1, channels=(8, 16), discriminator_channels=8, discriminator_layers=2)
    return TraceTransMethod(gan)


def adam(method):
    return {phase.name: torch.optim.Adam(method.parameters_of(phase.name), 1e-3) for phase in method.phases}


def test_a_step_by_hand():
    method = Ledger()
    trainer = Trainer("cpu", 1, [{"source": torch.full((1, 1, 2, 2), 3.0)}], method, sgd(method))
    trainer.run()
    # one: d(2·(w1·w2)²)/dw1 = 4; two: d(w2·1·3)/dw2 = 3, on the w1 that phase one carried before its step.
    assert method.first.weight.item() == pytest.approx(1 - 0.1 * 4)
    assert method.second.weight.item() == pytest.approx(1 - 0.1 * 3)
    assert method.seen == [("one", True, False), ("two", False, True)]
    output = logged_terms(trainer.state.output)
    assert output == pytest.approx({"loss": 2 + 3, "square": 1, "product": 3})
    assert all(parameter.requires_grad for parameter in method.parameters())


def test_gradients_are_clipped_by_phase():
    method = Ledger()
    batch = {"source": torch.full((1, 1, 2, 2), 3.0)}
    Trainer("cpu", 1, [batch], method, sgd(method), max_gradient_norm=0.5).run()
    assert method.first.weight.item() == pytest.approx(1 - 0.1 * 0.5)


def test_optimizers_must_be_the_phases():
    method = Ledger()
    with pytest.raises(ValueError, match=r"one for each phase \['one', 'two'\]"):
        Trainer("cpu", 1, [], method, {"one": None})


def test_term_names_must_be_distinct():
    method = Ledger()
    method.phases = (Phase("one", ("first",), {"loss": 1.0}), Phase("two", ("second",), {"product": 1.0}))
    with pytest.raises(ValueError, match="distinct term names"):
        Trainer("cpu", 1, [], method, sgd(method))


def test_a_loss_that_is_not_finite_stops_with_its_terms():
    method = Ledger()
    with pytest.raises(ValueError, match=r"product.*nan.*iteration 1"):
        Trainer("cpu", 1, [{"source": torch.full((1, 1, 2, 2), float("nan"))}], method, sgd(method)).run()


def test_training_lowers_the_loss_and_logs_every_term(tmp_path, capsys):
    method = tracetrans()
    handlers = [
        LossHistory(tmp_path / "history.csv"),
        StatsHandler(iteration_log=False),
        TensorBoardStatsHandler(log_dir=str(tmp_path / "tensorboard"), iteration_log=False),
        ProgressBar(disable=False),
    ]
    Trainer("cpu", 6, loader(), method, adam(method), train_handlers=handlers).run()
    rows = list(csv.DictReader((tmp_path / "history.csv").open()))
    assert [row["epoch"] for row in rows] == list("123456")
    terms = {term for phase in method.phases for term in phase.weights}
    rates = {"learning_rate_generator", "learning_rate_discriminator"}
    assert set(rows[0]) == {"epoch", "loss", *terms, *rates}
    assert float(rows[-1]["translation_l1"]) < float(rows[0]["translation_l1"])
    assert list((tmp_path / "tensorboard").glob("events*"))
    assert "epoch=6/6" in capsys.readouterr().err


def test_validation_gives_the_best_epoch():
    method = tracetrans()
    evaluator = Evaluator(
        "cpu",
        loader(4, shuffle=False),
        method,
        key_val_metric={"mae": MeanAbsoluteError(output_transform=from_engine(["pred", "label"]))},
        metric_cmp_fn=lambda current, best: current < best,
    )
    handlers = [ValidationHandler(validator=evaluator, interval=1, epoch_level=True)]
    Trainer("cpu", 3, loader(), method, adam(method), train_handlers=handlers).run()
    assert evaluator.state.best_metric_epoch >= 1
    batch = next(iter(loader(4, batch_size=4, shuffle=False)))
    expected = torch.stack([t.image for t in method.eval().trace(batch)]).sub(batch["target"]).abs().mean()
    assert evaluator.state.metrics["mae"] == pytest.approx(expected.item(), rel=1e-4)


def test_evaluator_hands_over_the_trace():
    evaluator = Evaluator("cpu", loader(2), tracetrans())
    evaluator.run()
    output = evaluator.state.output
    assert output["ddf"].shape == output["inverse_ddf"].shape == (2, 2, 32, 32)
    assert len(output["traces"]) == 2


@pytest.mark.parametrize("stop", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_resumed_training_ends_with_the_same_weights(tmp_path, stop):
    def fit(epochs, folder, resume):
        method = tracetrans()
        torch.manual_seed(5)
        handlers = [LossHistory(folder / "history.csv"), Checkpoint(folder, interval=1, resume=resume)]
        Trainer("cpu", epochs, loader(), method, adam(method), train_handlers=handlers).run()
        return method.state_dict()

    whole = fit(4, tmp_path / "whole", False)
    fit(stop, tmp_path / "parts", False)
    resumed = fit(4, tmp_path / "parts", True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert (tmp_path / "whole" / "history.csv").read_text() == (tmp_path / "parts" / "history.csv").read_text()
    saved = torch.load(tmp_path / "parts" / "final.pt", weights_only=True)
    assert set(saved) >= {"method", "trainer", "optimizer_generator", "optimizer_discriminator"}


def test_autocast_trains_on_the_cpu():
    method = tracetrans()
    before = method.state_dict()["networks.generator.encoder.levels.1.conv.weight"].clone()
    trainer = Trainer("cpu", 1, loader(2), method, adam(method), amp=True, amp_kwargs={"dtype": torch.bfloat16})
    trainer.run()
    assert torch.isfinite(trainer.state.output[0]["loss"])
    assert not torch.equal(before, method.state_dict()["networks.generator.encoder.levels.1.conv.weight"])


def test_trains_in_three_dimensions():
    gan = DualDecoderGAN(3, 1, 1, channels=(4, 8), discriminator_channels=4, discriminator_layers=1)
    method = TraceTransMethod(gan)
    batch = {key: torch.rand(1, 1, 16, 20, 12) * 1.8 - 0.9 for key in ("source", "target")}
    trainer = Trainer("cpu", 1, [batch] * 2, method, adam(method))
    trainer.run()
    assert torch.isfinite(trainer.state.output[0]["loss"])
    assert method.trace(batch)[0].ddf.shape == (3, 16, 20, 12)


def test_warmup_and_cosine_by_hand():
    schedule = WarmupDecay(warmup=0.25)
    assert schedule.factor(0.0) == 0
    assert schedule.factor(0.125) == pytest.approx(0.5 * 0.5 * (1 + math.cos(math.pi / 8)))
    assert schedule.factor(0.5) == pytest.approx(0.5)
    assert schedule.factor(1.0) == pytest.approx(0)
    with pytest.raises(ValueError, match="warmup"):
        WarmupDecay("cosine", 1.0)


@pytest.mark.parametrize(("shape", "half"), [("cosine", 0.5), ("linear", 0.5), ("polynomial", 0.5**0.9)])
def test_shapes_of_the_decay_by_hand(shape, half):
    schedule = WarmupDecay(shape, warmup=0.0, final=0.1)
    assert [schedule.factor(done) for done in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.1 + 0.9 * half, 0.1])


def test_schedules_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"shape: expected one of .*'polynomial', received 'step'"):
        WarmupDecay("step")
    with pytest.raises(ValueError, match=r"final: expected a fraction in \[0, 1\], received 2"):
        WarmupDecay(final=2)


def test_schedule_sets_the_rate_of_every_phase_and_resumes_exactly(tmp_path):
    rates = []

    def fit(epochs, resume):
        method = Ledger()
        batch = {"source": torch.full((1, 1, 2, 2), 3.0)}
        handlers = [WarmupDecay("cosine", 0.25), Checkpoint(tmp_path, interval=1, resume=resume)]
        trainer = Trainer("cpu", epochs, [batch] * 2, method, sgd(method, 0.1), train_handlers=handlers)
        trainer.add_event_handler(
            Events.ITERATION_COMPLETED,
            lambda engine: rates.append([o.param_groups[0]["lr"] for o in engine.optimizers.values()]),
        )
        trainer.run()

    fit(2, False)
    rates.clear()
    fit(4, True)
    expected = [0.1 * WarmupDecay("cosine", 0.25).factor(step / 8) for step in range(4, 8)]
    assert [rate[0] for rate in rates] == pytest.approx(expected)
    assert all(first == second for first, second in rates)


def test_linear_warmup_has_steps_of_its_own_for_every_phase(tmp_path):
    rates = []

    def fit(epochs, resume):
        method = Ledger()
        batch = {"source": torch.full((1, 1, 2, 2), 3.0)}
        warmup = LinearWarmup({"one": 4, "two": 0, "none": 7})
        handlers = [warmup, Checkpoint(tmp_path, interval=1, resume=resume)]
        trainer = Trainer("cpu", epochs, [batch] * 2, method, sgd(method, 0.1), train_handlers=handlers)
        trainer.add_event_handler(
            Events.ITERATION_COMPLETED,
            lambda engine: rates.append([o.param_groups[0]["lr"] for o in engine.optimizers.values()]),
        )
        trainer.run()

    fit(1, False)
    fit(3, True)
    assert [rate[0] for rate in rates] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])
    assert all(rate[1] == 0.1 for rate in rates)
    with pytest.raises(ValueError, match="steps of one: expected 0 or more, received -1"):
        LinearWarmup({"one": -1})
