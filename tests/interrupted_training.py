"""Trainings in processes of their own that get a signal at a chosen moment, and what is left of them."""

import csv
import multiprocessing
import os
import random
import signal
import sys
from functools import cache
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

PROCESSES = multiprocessing.get_context("forkserver")

METHODS = {"reggan": {"cycle": True, "pool_size": 2, "data.flip": True}, "metaregnet": {}, "plasticine": {}}
"""A GAN with image pools, a registration and a diffusion model with averaged weights; all with random transforms."""
SIZE = {
    "data.train_cases": 6,
    "training.max_epochs": 3,
    "training.checkpoint_interval": 1,
    "training.val_interval": 2,
}
STEPS = 3


def train_here(method, folder, moment=None, resume=False, **settings):
    """What a child process does: train, be killed at a moment, or leave its generators' states."""
    from medtrace.engines.interruption import TrainingInterruptedError
    from medtrace.workflows.train import train

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # both are ignored where tests run in the background
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if moment is not None:
        _prepare_death(*moment)
    try:
        train(
            method,
            out=folder,
            presets=("tracebench", "smoke"),
            settings=METHODS[method] | SIZE | settings,
            resume=resume,
            device="cpu",
        )
    except TrainingInterruptedError as error:
        print(error, file=sys.stderr)
        sys.exit(128 + error.signal_number)
    legacy = np.random.get_state()  # noqa: NPY002 - transforms of others draw from it
    drawn = [torch.get_rng_state().tolist(), legacy[1].tolist(), legacy[2:], random.getstate()]
    (Path(folder) / "generators").write_text(repr(drawn))


@cache
def warm():
    """From now on a server that has imported everything and made a case forks each training within milliseconds.

    One that other tests had started until now, and that has imported nothing, ends.
    """
    forkserver._forkserver._stop()
    PROCESSES.set_forkserver_preload(["tests.warm_training"])


def start(*args, **kwargs):
    warm()
    process = PROCESSES.Process(target=train_here, args=args, kwargs=kwargs)
    process.start()
    return process


def finish(*args, **kwargs):
    """Train in a child to the end or to its death; how it ended."""
    process = start(*args, **kwargs)
    process.join()
    return process.exitcode


def killed_and_resumed(method, folder, moment, **settings):
    """What is left of a training that was killed at a moment and then resumed."""
    assert finish(method, folder, moment, **settings) == -signal.SIGKILL
    assert finish(method, folder, resume=True, **settings) == 0
    return ending(folder)


def _at_call(owner, name, count, number, before=True, when=lambda *_: True):
    """Get a signal at the given call, of those that `when` is true of, before or after it is done."""
    original, calls = getattr(owner, name), [0]

    def fatal(*args, **kwargs):
        calls[0] += when(*args)
        if calls[0] == count and when(*args) and before:
            os.kill(os.getpid(), number)
        answer = original(*args, **kwargs)
        if calls[0] == count and when(*args) and not before:
            os.kill(os.getpid(), number)
        return answer

    setattr(owner, name, fatal)


def _prepare_death(where, count, number=signal.SIGKILL):
    """`count` says how often the moment passes before: the step's, epoch's or file's number."""
    from medtrace.engines import Evaluator, Trainer
    from medtrace.methods.base import Method

    def checkpoint(_, target):
        return "checkpoint_epoch" in str(target)

    def preparation(_, target):
        return str(target).endswith("preparation.json")

    if where == "forward":
        _at_call(Method, "terms", count, number)
    elif where == "backward":
        _at_call(Tensor, "backward", count, number, before=False)
    elif where == "validation":
        _at_call(Evaluator, "_iteration", count, number)
    elif where == "epoch":
        _at_call(Trainer, "_begin_epoch", count, number)
    elif where == "writing":
        _at_call(torch, "save", count, number)
        torch.save = _half_written(torch.save)
    elif where == "renaming":
        _at_call(os, "replace", count, number, when=checkpoint)
    elif where == "renamed":
        _at_call(os, "replace", count, number, before=False, when=checkpoint)
    elif where == "history":
        _at_call(os, "replace", count, number, when=lambda _, target: "history" in str(target))
    elif where == "preparation":
        _at_call(os, "replace", count, number, before=False, when=preparation)
    elif where == "record":
        _at_call(os, "replace", count, number, before=False, when=lambda _, target: str(target).endswith("run.json"))
    elif where == "weights":
        _at_call(os, "replace", count, number, when=lambda _, target: str(target).endswith("weights.safetensors"))
    else:
        raise ValueError(where)


def _half_written(save):
    """Something is in the file by the time that the process dies."""

    def half(states, file):
        file.write(b"PK" + bytes(1000))
        file.flush()
        file.seek(0)
        save(states, file)

    return half


def ending(folder):
    """All that a training leaves, in a form that two can be compared in."""
    folder = Path(folder)
    states = torch.load(folder / "checkpoints" / "final.pt", weights_only=True)
    return {
        **{f"state {name}": value for name, value in _leaves(states)},
        "random states": (folder / "generators").read_text(),
        "history": (folder / "history.csv").read_bytes(),
        "epochs": [row["epoch"] for row in csv.DictReader((folder / "history.csv").open())],
        "preparation": (folder / "preparation.json").read_bytes(),
        "record": (folder / "run.json").read_bytes(),
        "weights": (folder / "checkpoints" / "weights.safetensors").read_bytes(),
        "tensorboard": _events(folder / "tensorboard"),
        "files": sorted(path.name for path in folder.rglob("*") if not path.name.startswith("events")),
    }


def _leaves(value, name=""):
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _leaves(part, f"{name}/{key}")
    elif isinstance(value, (list, tuple)):
        for number, part in enumerate(value):
            yield from _leaves(part, f"{name}/{number}")
    else:
        yield name, (value.dtype, value.shape, value.numpy().tobytes()) if isinstance(value, Tensor) else value


def _events(folder):
    """Every value that was ever told of a tag and a step; a repeated epoch has to tell the same again."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    told = {}
    for path in folder.glob("events*"):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                told.setdefault((value.tag, event.step), set()).add(value.tensor.SerializeToString())
    return told


def differences(first, second):
    """Names of what two endings differ in."""
    return [name for name in sorted(first.keys() | second.keys()) if first.get(name) != second.get(name)]
