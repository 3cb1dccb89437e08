"""What goes wrong in a training: numbers that are not finite, full disks, shared folders, damaged files."""

import csv
import errno
import fcntl
import os
import random
import resource
import signal

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset, MetaTensor
from torch import nn
from torch.utils.data import BatchSampler, RandomSampler, Sampler

from medtrace.checks import check_range
from medtrace.data import DeterministicDataset
from medtrace.engines import Checkpoint, LossHistory, ProgressBar, SkipLimit, Trainer
from medtrace.engines.checkpoint import WITHIN_EPOCH
from medtrace.engines.finite_checks import DivergedError, all_finite
from medtrace.engines.interruption import TrainingInterruptedError
from medtrace.methods.base import Method, Phase
from medtrace.methods.common.averaging import WeightAverage
from medtrace.methods.common.image_pool import ImagePool
from medtrace.storage.files import atomic_write
from medtrace.storage.reservations import locked
from medtrace.storage.workspaces import LOCK


class Twofold(Method):
    """Two phases with all that a step may move: weights, an average, running statistics and a pool."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
        self.second = nn.Conv2d(1, 1, 1)
        self.average = WeightAverage(self.first, 0.5)
        self.pool = ImagePool(2)
        self.phases = (
            Phase("one", ("first",), {"pull": 1.0}),
            Phase("two", ("second",), {"push": 1.0}),
        )

    def one_terms(self, phase, batch, context):
        context["made"] = self.first(batch["source"]).detach()
        return {"pull": self.first(batch["source"]).square().mean()}

    def two_terms(self, phase, batch, context):
        made = self.pool(context["made"])
        return {"push": (self.second(made) * batch["poison"].mean()).square().mean()}

    def after_step(self):
        self.average.update_parameters(self.first)


def batches(poisons):
    """Batches of one case; the second phase's loss is that of the poison."""
    images = torch.randn(len(poisons), 1, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    return [
        {
            "source": MetaTensor(image, meta={"filename_or_obj": [f"/data/scan{number}.nii.gz"]}),
            "poison": torch.tensor([poison]),
            "case": [f"case-{number}"],
        }
        for number, (image, poison) in enumerate(zip(images, poisons))
    ]


def trainer(poisons, epochs=1, handlers=(), **options):
    torch.manual_seed(0)
    method = Twofold()
    optimizers = {phase.name: torch.optim.Adam(method.parameters_of(phase.name)) for phase in method.phases}
    return Trainer("cpu", epochs, batches(poisons), method, optimizers, train_handlers=handlers, seed=3, **options)


def states(made):
    """Everything that a step may move."""
    items = {name: item.state_dict() for name, item in made.checkpoint_items().items() if name != "trainer"}
    return torch.utils._pytree.tree_flatten(items)[0]


def same(first, second):
    return len(first) == len(second) and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(first, second)
    )


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("poison", [NAN, INF, 1e30], ids=["nan", "inf", "overflow"])
def test_a_step_that_is_not_finite_moves_nothing(poison, caplog):
    """The second phase fails; the first one's weights, statistics, average and optimizer stay as well."""
    sound = trainer([1.0, 1.0, 1.0])
    sound.run()
    made = trainer([1.0, 1.0, 1.0, poison])
    made.run()
    assert made.state.skipped_steps == 1
    assert same(states(made), states(sound))
    assert made.method.average.updates == 3
    assert len(made.method.pool.images) == 2
    assert "case-3, /data/scan3.nii.gz" in caplog.text
    assert "iteration 4" in caplog.text


def test_a_gradient_can_fail_beneath_a_finite_loss():
    """The gradient of sqrt is infinite at 0."""
    made = trainer([1.0, 1.0])
    weight = made.method.second.weight

    def terms(_phase, batch, _carried):
        return {"push": (0 * weight).sum().sqrt() if float(batch["poison"]) > 1 else weight.sum()}

    made.method.two_terms = terms
    made.data_loader[1]["poison"] += 1
    before = weight.clone()
    made.run()
    assert made.state.skipped_steps == 1
    assert torch.isfinite(weight).all()
    assert not torch.equal(before, weight)


def test_skipped_steps_show_in_history_and_bar(tmp_path, capsys):
    handlers = [LossHistory(tmp_path / "history.csv"), ProgressBar(disable=False)]
    made = trainer([1.0, NAN, 1.0], epochs=2, handlers=handlers)
    made.run()
    rows = list(csv.DictReader((tmp_path / "history.csv").open()))
    assert [row["skipped_steps"] for row in rows] == ["1", "1"]
    assert all(float(row["loss"]) >= 0 and float(row["push"]) >= 0 for row in rows)
    assert "skipped=2" in capsys.readouterr().err


def test_too_many_in_a_row_end_the_training_with_names():
    made = trainer([1.0, NAN, NAN, 1.0, NAN, NAN, NAN, 1.0], skip_limit=SkipLimit(in_a_row=3))
    with pytest.raises(
        ValueError, match=r"3 steps in a row had to be skipped; .*push nan.*iteration 7, of case-6, /data/scan6"
    ):
        made.run()


def test_too_many_in_all_end_the_training():
    made = trainer([1.0, NAN], epochs=9, skip_limit=SkipLimit(in_all=4))
    with pytest.raises(ValueError, match="but 4 steps of this training had to be skipped"):
        made.run()
    assert made.state.epoch == 4


def test_an_epoch_of_skipped_steps_ends_the_training():
    with pytest.raises(ValueError, match="every step of epoch 1 had to be skipped"):
        trainer([NAN, NAN]).run()


def test_an_image_out_of_range_ends_the_training_with_names():
    made = trainer([1.0])
    made.method.one_terms = lambda *_: check_range("source", torch.tensor([NAN]), -1, 1)
    with pytest.raises(ValueError, match=r"source: expected intensities .*nan.*in the batch of case-0, /data/scan0"):
        made.run()


def test_a_limit_is_a_positive_number():
    with pytest.raises(ValueError, match="in_a_row"):
        SkipLimit(in_a_row=0)


def test_the_count_survives_a_resume(tmp_path):
    trainer([1.0, NAN], epochs=2, handlers=[Checkpoint(tmp_path, interval=1)]).run()
    made = trainer([1.0, NAN], epochs=3, handlers=[Checkpoint(tmp_path, interval=1, resume=True)])
    made.run()
    assert made.state.skipped_steps == 3


def _agree(rank, folder, answers):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    answers.put(all_finite([torch.tensor(NAN if rank == 1 else 1.0)]))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_processes_agree_on_a_step(tmp_path):
    from tests.interrupted_training import PROCESSES

    answers = PROCESSES.Queue()
    processes = [PROCESSES.Process(target=_agree, args=(rank, tmp_path, answers)) for rank in range(2)]
    for process in processes:
        process.start()
    assert [answers.get(timeout=120) for _ in processes] == [False, False]
    for process in processes:
        process.join()


# Checkpoints


def test_the_newest_two_are_kept(tmp_path):
    trainer([1.0], epochs=4, handlers=[Checkpoint(tmp_path, interval=1)]).run()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint_epoch=3.pt",
        "checkpoint_epoch=4.pt",
        "final.pt",
    ]


def test_a_damaged_checkpoint_falls_back_to_the_previous_checkpoint(tmp_path, caplog):
    whole = trainer([1.0, 1.0], epochs=4)
    whole.run()
    trainer([1.0, 1.0], epochs=3, handlers=[Checkpoint(tmp_path, interval=1)]).run()
    (tmp_path / "final.pt").unlink()
    newest = tmp_path / "checkpoint_epoch=3.pt"
    newest.write_bytes(newest.read_bytes()[:500])
    resumed = trainer([1.0, 1.0], epochs=4, handlers=[Checkpoint(tmp_path, interval=1, resume=True)])
    resumed.run()
    assert "checkpoint_epoch=3.pt" in caplog.text
    assert same(states(resumed), states(whole))


class Stop:
    """Ask for the end within a step, as a signal does."""

    def __init__(self, iteration):
        self.iteration = iteration

    def attach(self, engine):
        engine.add_event_handler(Events.ITERATION_STARTED(once=self.iteration), self._ask)

    def _ask(self, engine):
        engine.stop_signal = signal.SIGTERM


@pytest.mark.parametrize("iteration", [1, 4, 5, 6])
def test_a_stopped_training_takes_up_the_next_step(iteration, tmp_path):
    images = [1.0, NAN, 1.0]
    whole = trainer(images, epochs=3, handlers=[LossHistory(tmp_path / "whole.csv")])
    whole.run()

    def handlers():
        return [LossHistory(tmp_path / "history.csv"), Checkpoint(tmp_path, resume=True)]

    stopped = trainer(images, epochs=3, handlers=[*handlers(), Stop(iteration)])
    with pytest.raises(TrainingInterruptedError, match=rf"SIGTERM after step {(iteration - 1) % 3 + 1} of 3 of epoch"):
        stopped.run()
    seen = []
    resumed = trainer(images, epochs=3, handlers=handlers())
    resumed.add_event_handler(Events.ITERATION_STARTED, lambda engine: seen.append(engine.state.iteration))
    resumed.run()
    assert seen == list(range(iteration + 1, 10))
    assert same(states(resumed), states(whole))
    assert (tmp_path / "history.csv").read_text() == (tmp_path / "whole.csv").read_text()
    assert resumed.state.skipped_steps == 3


def test_minutes_between_checkpoints(tmp_path):
    class Watch:
        def attach(self, engine):
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._look)

        def _look(self, engine):
            there = tmp_path / WITHIN_EPOCH
            if there.exists():
                result.append(torch.load(there, weights_only=True)["within_epoch"]["steps"])

    result = []
    trainer([1.0] * 4, epochs=2, handlers=[Checkpoint(tmp_path, minutes=1e-9), Watch()]).run()
    assert result == [1, 2, 3, 3, 1, 2, 3, 3]  # an epoch's last step is its checkpoint's
    assert not (tmp_path / WITHIN_EPOCH).exists()
    with pytest.raises(ValueError, match="minutes: expected 0 or more, received -1"):
        Checkpoint(tmp_path, minutes=-1)


def test_a_state_of_other_batches_begins_its_epoch_again(tmp_path, caplog):
    stopped = trainer([1.0] * 4, epochs=2, handlers=[Checkpoint(tmp_path), Stop(6)])
    with pytest.raises(TrainingInterruptedError):
        stopped.run()
    resumed = trainer([1.0] * 2, epochs=2, handlers=[Checkpoint(tmp_path, resume=True)])
    resumed.run()
    assert resumed.state.iteration == 4
    assert "that epoch starts again" in caplog.text


def test_fewer_epochs_than_were_trained_are_refused(tmp_path):
    trainer([1.0], epochs=3, handlers=[Checkpoint(tmp_path)]).run()
    with pytest.raises(ValueError, match=r"max_epochs: expected at least 3, .* received 2"):
        trainer([1.0], epochs=2, handlers=[Checkpoint(tmp_path, resume=True)]).run()


def test_another_network_is_refused(tmp_path):
    trainer([1.0], handlers=[Checkpoint(tmp_path)]).run()
    made = trainer([1.0], epochs=2, handlers=[Checkpoint(tmp_path, resume=True)])
    made.method.extra = nn.Linear(1, 1)
    with pytest.raises(ValueError, match=r"final.pt: does not fit the configuration .*extra"):
        made.run()


def test_what_a_killed_writer_left_is_removed(tmp_path):
    left = tmp_path / f".medtrace-{'0' * 32}"
    (left / "new").mkdir(parents=True)
    (left / "lock").write_text("process 1 on elsewhere since 2026")
    (left / "new" / "final.pt").write_bytes(b"half")
    (tmp_path / "film.mp4.partial").write_bytes(b"of another program")
    trainer([1.0], handlers=[Checkpoint(tmp_path)]).run()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.mp4.partial", "final.pt"]


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    """The device refuses the second checkpoint while its bytes are written out."""
    calls = []
    flush = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: full() if len(calls) == 2 else (calls.append(file), flush(file)))
    with pytest.raises(OSError, match=r"checkpoint_epoch=2.pt: cannot be written \(No space left on device\)"):
        trainer([1.0], epochs=3, handlers=[Checkpoint(tmp_path, interval=1)]).run()
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint_epoch=1.pt"]
    resumed = trainer([1.0], epochs=3, handlers=[Checkpoint(tmp_path, interval=1, resume=True)])
    resumed.run()
    whole = trainer([1.0], epochs=3)
    whole.run()
    assert same(states(resumed), states(whole))


def test_a_file_that_outgrows_its_limit_is_a_full_disk(tmp_path):
    """The kernel's own limit, so that torch's writer of archives meets the real error."""
    path = tmp_path / "weights.pt"
    atomic_write(path, lambda file: torch.save(torch.zeros(8), file))
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"weights.pt: cannot be written \(File too large\); what was there before"):
            atomic_write(path, lambda file: torch.save(torch.zeros(100_000), file))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_to_says_so(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"checkpoints: cannot be written to \(Not a directory\); permit writing"):
        trainer([1.0], handlers=[Checkpoint(tmp_path / "file" / "checkpoints")]).run()


def _read_only(folder, answers):
    if os.getuid() == 0:
        os.setuid(65534)  # root may write anywhere
    try:
        with locked(folder):
            answers.put("written")
    except OSError as error:
        answers.put(str(error))


@pytest.mark.slow
def test_a_read_only_folder_says_so(tmp_path):
    from tests.interrupted_training import PROCESSES

    parents = [folder for folder in tmp_path.parents if folder.name.startswith(("pytest-", "popen-"))]
    for folder in (tmp_path, *parents):
        folder.chmod(0o555)
    answers = PROCESSES.Queue()
    process = PROCESSES.Process(target=_read_only, args=(tmp_path, answers))
    process.start()
    told = answers.get(timeout=120)
    process.join()
    for folder in (tmp_path, *parents):
        folder.chmod(0o755)
    assert "cannot be written to (Permission denied); permit writing, or choose another folder" in told


# Two trainings in one folder


def test_a_second_user_of_a_folder_is_refused_and_told_whom_to_ask(tmp_path):
    folder = tmp_path / "run"
    with locked(folder), pytest.raises(OSError, match=rf"run: is in use by process {os.getpid()} on \S+ since 20"):
        locked(folder).__enter__()
    assert not folder.exists()


def test_what_a_killed_process_left_locks_nothing(tmp_path):
    (tmp_path / LOCK).write_text("process 1 on elsewhere")
    with locked(tmp_path):
        assert str(os.getpid()) in (tmp_path / LOCK).read_text()
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_is_used_without(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with locked(tmp_path):
        assert (tmp_path / LOCK).exists()


def test_the_folder_of_a_training_is_locked_while_it_runs_and_free_when_it_failed(tmp_path):
    refused = []

    class Second:
        def attach(self, engine):
            engine.add_event_handler(Events.EPOCH_STARTED, self.begin)

        def begin(self, _):
            with pytest.raises(OSError, match="is in use by process") as caught:
                trainer([1.0], handlers=[Checkpoint(tmp_path)]).run()
            refused.append(caught.value)

    with pytest.raises(ValueError, match="every step"):
        trainer([NAN], handlers=[Checkpoint(tmp_path), Second()]).run()
    assert len(refused) == 1
    trainer([1.0], handlers=[Checkpoint(tmp_path)]).run()


# What is drawn


class Draws(Dataset):
    """Items that draw from every global generator."""

    def __getitem__(self, index):
        legacy = float(np.random.rand())  # noqa: NPY002 - transforms of others draw so
        return {"x": torch.tensor([float(index), torch.rand(()).item(), legacy, random.random()])}


def drawn(epoch, workers=0, seed=0):
    items = DeterministicDataset(Draws(list(range(6))), seed)
    items.set_epoch(epoch)
    return torch.cat([batch["x"] for batch in DataLoader(items, batch_size=2, num_workers=workers)])


def test_items_depend_on_seed_epoch_and_index_alone():
    assert torch.equal(drawn(1), drawn(1))
    assert torch.equal(drawn(1), drawn(1, workers=2))
    for other in (drawn(2), drawn(1, seed=1)):
        assert not (drawn(1)[:, 1:] == other[:, 1:]).any()
    assert len(set(drawn(1)[:, 1].tolist())) == 6
    items = DeterministicDataset(Draws(list(range(6))))
    state = torch.get_rng_state()
    items[0]
    assert torch.equal(torch.get_rng_state(), state)


def test_lasting_workers_hear_of_a_new_epoch():
    items = DeterministicDataset(Draws(list(range(4))))
    loader = DataLoader(items, num_workers=1, persistent_workers=True)
    for epoch in (1, 2):
        items.set_epoch(epoch)
        result = torch.cat([batch["x"] for batch in loader])
        assert torch.equal(result, drawn(epoch)[:4])


class Shuffled(Sampler):
    """A user's own sampler, which draws from the global generator."""

    def __iter__(self):
        return iter(torch.randperm(6).tolist())

    def __len__(self):
        return 6


def loader_of(kind, items, workers):
    options = {
        "shuffled": {"shuffle": True, "batch_size": 2},
        "batches of a sampler": {"batch_sampler": BatchSampler(RandomSampler(items), 2, False)},
        "own sampler": {"sampler": Shuffled(), "batch_size": 2},
    }
    return DataLoader(Dataset(items), num_workers=workers, **options[kind])


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", ["shuffled", "batches of a sampler", "own sampler"])
def test_order_and_draws_of_steps_come_from_the_seed_alone(kind, workers):
    class Watched(Twofold):
        def one_terms(self, phase, batch, context):
            seen.append((batch["number"].tolist(), torch.rand(()).item()))
            return super().one_terms(phase, batch, context)

    items = [{"source": torch.rand(1, 4, 4), "poison": 1.0, "number": number} for number in range(6)]
    runs = []
    for state in (1, 2):
        seen = []
        method = Watched()
        optimizers = {phase.name: torch.optim.SGD(method.parameters_of(phase.name)) for phase in method.phases}
        torch.manual_seed(state)
        Trainer("cpu", 2, loader_of(kind, items, workers), method, optimizers, seed=3).run()
        runs.append(seen)
    assert runs[0] == runs[1]
    assert len({tuple(numbers) for numbers, _ in runs[0]}) > 3


def test_a_limit_of_skipped_steps_may_be_infinite():
    limit = SkipLimit(in_a_row=INF, in_all=INF)
    limit.check(10**6, 10**6, "never")


def test_a_seed_is_no_negative_number():
    with pytest.raises(ValueError, match="seed: expected 0 or more, received -1"):
        DeterministicDataset(Draws([0]), -1)


# A loss that grows beyond all measure


def growing(factor, epochs=40, handlers=()):
    """A training whose loss grows by a factor with every step."""
    made = trainer([1.0], epochs=epochs, handlers=handlers)

    def terms(_phase, _batch, _context):
        return {"push": made.method.second.weight.sum() * 0 + factor ** (made.state.iteration - 1)}

    made.method.two_terms = terms
    return made


def test_a_diverged_training_ends_with_the_term_the_step_and_the_remedy(tmp_path):
    made = growing(10.0, handlers=[Checkpoint(tmp_path, interval=1)])
    with pytest.raises(
        DivergedError,
        match=r"diverged: push is 1e\+0[67] at step 1 of 1 of epoch [78] of 40, where the first step .*case-0.*lower"
        r" the learning rate of two \(now 0.001\).*max_gradient_norm; the last good checkpoint is \S+epoch=3.pt,"
        " after 3 epochs: resume",
    ):
        made.run()
    names = {path.name for path in tmp_path.iterdir()}
    assert {"checkpoint_epoch=2.pt", "checkpoint_epoch=3.pt"} <= names
    assert any(name.startswith("diverged_checkpoint_epoch=") for name in names)
    resumed = growing(1.0, epochs=5, handlers=[Checkpoint(tmp_path, interval=1, resume=True)])
    resumed.run()
    assert resumed.state.epoch == 5


def test_a_training_that_begins_beyond_all_measure_has_no_checkpoint(tmp_path):
    made = growing(1.0, handlers=[Checkpoint(tmp_path, interval=1)])
    made.method.two_terms = lambda *_: {"push": made.method.second.weight.sum() * 0 + 2e12}
    with pytest.raises(DivergedError, match=r"push is 2e\+12 at step 1 .*; no checkpoint was written before"):
        made.run()


def test_a_loss_may_grow_a_little():
    made = growing(1.2)
    made.run()
    assert made.state.epoch == 40
