"""The trainings behind the rows of a table: each in its run folder, done once."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import medtrace
from medtrace.engines.runs import read_run
from medtrace.evaluation.bench.machine import commit
from medtrace.evaluation.bench.running import DONE
from medtrace.methods import MethodSettings, method_class, resolve
from medtrace.storage.files import remove_content, write_json
from medtrace.storage.reservations import locked
from medtrace.workflows.train import train
from medtrace.workflows.training.resuming import flat_settings


def trained_row(
    row: str,
    method: str,
    run: Path,
    *,
    dataset: str | os.PathLike | None = None,
    presets: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    device: str | None = None,
    resume: bool = False,
    console: Console,
) -> Path:
    """The run folder of a row, trained if necessary.

    Args:
        row: name of the row.
        method: its method.
        run: the folder.
        dataset: a prepared folder, where the settings ask for one.
        presets: presets of the method.
        settings: on top.
        device: by default CUDA if available.
        resume: continue an unfinished training, instead of starting over.
        console: to print to.

    Returns:
        The run folder.

    Raises:
        ValueError: if it holds a finished training of other settings; those of a prepared dataset are not compared.
    """
    if (run / DONE).is_file():
        if dataset is None:
            _check_settings(run, resolve(method_class(method).settings_type, tuple(presets), settings))
        console.print(f"{row}: trained before, in {run}")
        return run
    begun = resume and (run / "run.json").is_file()
    if not begun:
        with locked(run):  # held by a running training
            remove_content(run)  # from an unfinished training
    console.print(f"{row}: {'continuing its training' if begun else 'training'}")
    started, spent = time.perf_counter(), _processor_seconds()
    train(method, dataset, run, presets=presets, settings=settings, resume=begun, device=device)
    seconds = round(time.perf_counter() - started, 1)
    spent = round(_processor_seconds() - spent, 1)
    done = {"seconds": seconds, "processor_seconds": spent, "threads": torch.get_num_threads()}
    write_json(run / DONE, {**done, "commit": commit(), "medtrace": medtrace.__version__})
    return run


def _check_settings(run: Path, expected: MethodSettings) -> None:
    found, wanted = flat_settings(read_run(run).settings), flat_settings(expected)
    others = [
        f"{name}={found.get(name)} in place of {wanted.get(name)}"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]
    if others:
        listed = ", ".join(others[:3]) + (", ..." if others[3:] else "")
        raise ValueError(
            f"{run}: was trained with other settings ({listed}); remove it to train again, or use another --out"
        )


def _processor_seconds() -> float:
    """Processor time of this process and its finished children."""
    now = os.times()
    return now.user + now.system + now.children_user + now.children_system
