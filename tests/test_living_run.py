"""Reports and files of a training: progress, log, history, page, best weights, early stopping."""

import csv
import logging
import os
import random
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser

import pytest
import torch
from ignite.engine import Engine, Events
from safetensors.torch import load_file
from torch import nn

from medtrace.engines import BestWeights, Checkpoint, LossHistory, ProgressBar, Trainer
from medtrace.engines.handlers.best import Best, best_of
from medtrace.engines.handlers.progress import LOG
from medtrace.engines.pace import Pace
from medtrace.engines.runs import BEST
from medtrace.methods import method_class, resolve
from medtrace.methods.base import Method, Phase
from medtrace.report.line_chart import line_chart
from medtrace.report.run_page import PAGE, Progress, write_run_page
from medtrace.workflows.train import train

SMOKE = ("tracebench", "smoke")
SMALL = {"training.max_epochs": 4, "training.val_interval": 2, "training.checkpoint_interval": 1}


class Pull(Method):
    """One number that is pulled to 0."""

    name = "pull"

    def __init__(self):
        super().__init__()
        self.number = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.number.weight)
        self.phases = (Phase("one", ("number",), {"square": 1.0}),)

    def one_terms(self, phase, batch, context):
        return {"square": self.number.weight.square().sum()}


class Told(Engine):
    """A validator whose metric is reported beforehand, by epoch."""

    def __init__(self, values):
        super().__init__(lambda *_: None)
        self.values = values
        self.state.key_metric_name = "mae"

    @staticmethod
    def metric_cmp_fn(current, best):
        return current < best

    def attach(self, engine):
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.validate)

    def validate(self, engine):
        if engine.state.epoch in self.values:
            self.state.epoch, self.state.metrics = engine.state.epoch, {"mae": self.values[engine.state.epoch]}


def fit(folder, values, epochs=6, patience=None, resume=False, handlers=(), steps=1):
    method, validator = Pull(), Told(values)
    optimizers = {"one": torch.optim.SGD(method.parameters(), 0.1)}
    chosen = [
        validator,
        BestWeights(folder, validator, patience),
        LossHistory(folder / "history.csv", validator),
        *handlers,
        Checkpoint(folder / "checkpoints", 1, resume),
    ]
    batch = {"source": torch.zeros(1, 1, 2, 2)}
    trainer = Trainer("cpu", epochs, [batch] * steps, method, optimizers, train_handlers=chosen, seed=0)
    trainer.run()
    return trainer


def best_number(folder):
    return load_file(folder / BEST)["method.number.weight"].item()


# The best weights, and early stopping


def test_the_weights_of_the_best_validation_are_kept_and_say_whose_they_are(tmp_path):
    trainer = fit(tmp_path, {1: 0.5, 2: 0.25, 3: 0.75, 5: float("nan")})
    assert best_of(tmp_path) == trainer.best == Best("mae", 0.25, 2)
    assert best_number(tmp_path) == pytest.approx(0.8**2)  # a step takes a fifth of the number
    assert trainer.method.number.weight.item() == pytest.approx(0.8**6)


def test_without_a_better_validation_the_training_ends_early(tmp_path):
    trainer = fit(tmp_path, {1: 0.5, 2: 0.25, 3: 0.3, 4: 0.25, 5: 0.1}, patience=2)
    assert (trainer.state.epoch, trainer.stopped_early) == (4, True)
    assert (tmp_path / "checkpoints" / "final.pt").is_file()


def test_a_training_that_ended_early_is_over_when_it_is_resumed(tmp_path):
    values = {1: 0.5, 2: 0.25, 3: 0.3, 4: 0.25, 5: 0.1}
    fit(tmp_path, values, patience=2)
    assert fit(tmp_path, values, patience=2, resume=True).state.epoch == 4
    resumed = fit(tmp_path, values, patience=3, resume=True)
    assert (resumed.state.epoch, resumed.best) == (6, Best("mae", 0.1, 5))


def test_a_resumed_training_knows_its_best_and_a_new_one_forgets_it(tmp_path):
    fit(tmp_path, {1: 0.5, 2: 0.25}, epochs=3)
    resumed = fit(tmp_path, {4: 0.3, 5: 0.4}, resume=True)
    assert resumed.best == best_of(tmp_path) == Best("mae", 0.25, 2)
    assert fit(tmp_path, {3: 0.9}).best == Best("mae", 0.9, 3)


def test_settings_of_early_stopping_that_cannot_work_are_refused():
    kind = method_class("unet").settings_type
    with pytest.raises(ValueError, match=r"training.early_stopping: expected a training that validates.*--split"):
        resolve(kind, (), {"training.early_stopping": 5, "training.val_interval": 0})
    with pytest.raises(ValueError, match=r"training.early_stopping: input should be greater than or equal to 1"):
        resolve(kind, (), {"training.early_stopping": 0})
    with pytest.raises(ValueError, match="patience: expected 1 or more, received 0"):
        BestWeights("run", None, 0)


# History


def test_the_history_has_rates_and_validations_of_their_epochs_only(tmp_path):
    fit(tmp_path, {2: 0.25, 4: 0.125}, epochs=4)
    rows = list(csv.DictReader((tmp_path / "history.csv").open()))
    assert set(rows[0]) == {"epoch", "loss", "square", "learning_rate", "validation_mae"}
    assert [row["validation_mae"] for row in rows] == ["", "0.25", "", "0.125"]
    assert {row["learning_rate"] for row in rows} == {"0.1"}


# Progress and log


def test_on_a_pipe_there_is_a_line_per_epoch(tmp_path, capsys):
    fit(tmp_path, {2: 0.25, 3: 0.5}, epochs=3, patience=9, handlers=[ProgressBar("Pull", log=tmp_path / LOG)])
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Pull: 3 epochs of 1 steps on cpu"
    epochs = [line for line in lines if line.startswith("epoch")]
    assert [line.split()[1] for line in epochs] == ["1/3", "2/3", "3/3"]
    assert "validation" not in epochs[0]
    assert "validation mae 0.5 (best 0.25, epoch 2)" in epochs[2]
    assert re.search(r"loss [\d.]+  .*rate 0.1  [\d.]+ s per epoch, 0.0 s left$", epochs[2])
    assert lines[-1] == "done after epoch 3; best validation: mae 0.25, epoch 2 (checkpoints/best.safetensors)"
    assert not any("\r" in line or "%" in line for line in lines)  # no bar


def test_a_long_epoch_tells_how_far_it_is(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("medtrace.engines.handlers.progress.QUIET", -1.0)
    fit(tmp_path, {}, epochs=1, steps=3, handlers=[ProgressBar("Pull")])
    told = [line for line in capsys.readouterr().err.splitlines() if " step " in line]
    assert [re.search(r"step (\d/\d)  loss", line)[1] for line in told] == ["1/3", "2/3", "3/3"]


def test_the_log_grows_has_the_warnings_and_says_how_it_ended(tmp_path):
    def warn(engine):
        logging.getLogger("medtrace.training").warning("something odd in epoch %d", engine.state.epoch)
        if engine.state.epoch == 2:
            raise KeyboardInterrupt

    class Warns:
        def attach(self, engine):
            engine.add_event_handler(Events.EPOCH_COMPLETED, warn)

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, {}, handlers=[ProgressBar("Pull", disable=True, log=tmp_path / LOG), Warns()])
    lines = (tmp_path / LOG).read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ (INFO|WARNING|ERROR) ", line) for line in lines)
    assert [line.split(maxsplit=3)[3] for line in lines[2::2]] == [
        "something odd in epoch 1",
        "something odd in epoch 2",
    ]
    assert "ended by KeyboardInterrupt" in lines[-1]
    before = logging.getLogger("medtrace").handlers
    fit(tmp_path, {}, resume=True, handlers=[ProgressBar("Pull", disable=True, log=tmp_path / LOG)])
    assert "resumed after epoch" in (tmp_path / LOG).read_text().splitlines()[len(lines)]
    assert logging.getLogger("medtrace").handlers == before


def test_a_reader_that_is_gone_ends_no_training(tmp_path, monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        monkeypatch.setattr("sys.stderr", closed)
        trainer = fit(tmp_path, {}, handlers=[ProgressBar("Pull")])
        monkeypatch.undo()
        assert trainer.state.epoch == 6
        with pytest.raises(BrokenPipeError):  # what is left to write goes with the pipe
            closed.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), closed.fileno())


def test_the_pace_leaves_out_the_first_epoch(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("medtrace.engines.pace.time.monotonic", lambda: now[0])
    pace = Pace()
    assert pace.seconds_left(0, 10) is None
    for begun, iteration in ((0.0, 0), (100.0, 2), (104.0, 4)):
        now[0] = begun
        pace.begin(iteration)
    now[0] = 108.0
    assert pace.seconds_left(6, 10) == pytest.approx(4 * 8 / 4)


# The page


class Checked(HTMLParser):
    """That a page is whole: every element is closed, and nothing comes from elsewhere."""

    VOID = ("meta", "link", "img", "line", "circle", "polyline", "br")

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.addresses = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "action", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def check_page(path):
    text = path.read_text()
    checked = Checked(text)
    assert checked.open == []
    assert text.endswith("</html>\n")
    assert all(address.startswith("data:") for address in checked.addresses)
    assert re.search("https?://|@import", text) is None
    return text, checked


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train("unet", out=tmp_path_factory.mktemp("living") / "run", presets=SMOKE, settings=SMALL, device="cpu")


def test_a_run_has_its_page_history_samples_and_log(run):
    text, page = check_page(run / PAGE)
    assert {"finished", "epoch 4 of 4"} == {part for part in ("finished", "epoch 4 of 4", "http-equiv") if part in text}
    assert page.seen.count("svg") >= 3
    assert {path.name for path in (run / "samples").iterdir()} == {"epoch=2.png", "epoch=4.png"}
    assert page.seen.count("img") == 2
    rows = list(csv.DictReader((run / "history.csv").open()))
    assert [bool(row["validation_mae"]) for row in rows] == [False, True, False, True]
    best = best_of(run)
    assert best.value == pytest.approx(min(float(row["validation_mae"]) for row in rows if row["validation_mae"]))
    assert f"{best.metric} {best.value:.4g}, epoch {best.epoch}" in text
    assert (run / LOG).read_text().count("epoch 4/4") == 1


def test_tensorboard_has_the_same_values_and_the_images(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    rows = list(csv.DictReader((run / "history.csv").open()))
    for tag in ("loss", "learning_rate", "validation_mae"):
        told = {event.step: event.value for event in board.Scalars(tag)}
        assert told == pytest.approx({int(row["epoch"]): float(row[tag]) for row in rows if row[tag]})
    assert [event.step for event in board.Images("validation cases")] == [2, 4]


def test_the_page_of_a_training_that_failed_says_why_and_how_to_go_on(tmp_path):
    write_run_page(tmp_path, Progress("A <b>", "failed", 3, 10, reason="no <room>", resume="medtrace train x --resume"))
    text, _ = check_page(tmp_path / PAGE)
    for part in ("A &lt;b&gt;", "no &lt;room&gt;", "continue with: medtrace train x --resume"):
        assert part in text
    write_run_page(tmp_path, Progress("A", "running", 3, 10, left="2 min left"))
    text, _ = check_page(tmp_path / PAGE)
    for part in ('http-equiv="refresh"', "2 min left", "width:30.0%"):
        assert part in text


def test_a_chart_by_hand():
    chart = line_chart("loss", {"a": [(1, 0.0), (2, float("nan")), (3, 1.0)]})
    assert re.search(r'points="52.0,166.0 330.0,26.0"', chart)  # from the lower left to the upper right corner
    assert line_chart("loss", {"a": [(1, float("inf"))]}) == ""
    long = line_chart("loss", {"a": [(x, x) for x in range(100_000)]})
    assert len(re.search(r'points="([^"]*)"', long)[1].split()) <= 501
    assert long.endswith("</svg>")


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_page_is_whole_whatever_signal_ends_the_training(sign, tmp_path):
    """A real process, at a moment of chance after its second epoch."""
    settings = [f"--set=training.{name}" for name in ("max_epochs=5000", "val_interval=1", "checkpoint_interval=1")]
    line = [sys.executable, "-m", "medtrace", "train", "unet", "--smoke", "--device", "cpu", *settings]
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}  # ignored in the background
    with subprocess.Popen([*line, "--out", tmp_path / "run"], stderr=subprocess.PIPE, text=True, **heard) as process:
        for told in process.stderr:
            if told.startswith("epoch 3/"):
                break
        time.sleep(random.Random(int(sign)).uniform(0.0, 0.5))
        process.send_signal(sign)
        process.stderr.read()
    assert process.returncode != 0
    text, _ = check_page(tmp_path / "run" / PAGE)
    epochs = len(list(csv.DictReader((tmp_path / "run" / "history.csv").open())))
    assert epochs >= 3
    assert (tmp_path / "run" / LOG).read_text().count("epoch 3/5000") == 1
    if sign == signal.SIGINT:
        assert "interrupted" in text


@pytest.mark.slow
def test_what_follows_a_training_resumes_bit_for_bit(tmp_path):
    from tests.interrupted_training import differences, ending, finish

    settings = {"training.ema_decay": 0.9, "training.accumulate": 2, "training.schedule": "polynomial"}
    settings |= {"training.val_interval": 1, "training.early_stopping": 9}

    def whole(folder):
        return ending(folder) | {"best": (folder / BEST).read_bytes(), "page": check_page(folder / PAGE)[1].seen}

    assert finish("reggan", tmp_path / "whole", **settings) == 0
    for number, moment in enumerate((("forward", 9), ("epoch", 2), ("writing", 2), ("history", 2))):
        folder = tmp_path / str(number)
        assert finish("reggan", folder, moment, **settings) == -signal.SIGKILL
        assert finish("reggan", folder, resume=True, **settings) == 0
        assert differences(whole(tmp_path / "whole"), whole(folder)) == []
