"""Provenance of an evaluation: command, versions, machine, and the settings of its runs."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medtrace.engines.checkpoint_choice import chosen_checkpoint
from medtrace.engines.runs import read_run
from medtrace.evaluation.bench.machine import measured_with
from medtrace.methods.base import Method


def command_of(
    runs: Sequence[Path], dataset: Path | None, split: str, out: Path | None, options: Mapping[str, Any]
) -> str | None:
    """The command that repeats an evaluation, with folder names only: a path may identify a person.

    Args:
        runs: folders, the first of which is evaluated and the others beside it.
        dataset: the prepared folder; None for cases from elsewhere, for which there is no command.
        split: split of it.
        out: the folder of the tables, if not in the run.
        options: option without dashes → value; True and False are flags, None is left out.
    """
    if dataset is None:
        return None
    first, *others = [run.resolve().name for run in runs]
    words = ["medtrace", "evaluate", first, dataset.resolve().name]
    words += [word for other in others for word in ("--beside", other)]
    words += ["--split", split]
    words += [] if out is None else ["--out", out.resolve().name]
    for name, value in {"checkpoint": chosen_checkpoint(), **options}.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        elif value is not None:
            words += [f"--{name}", str(value)]
    return shlex.join(words)


def options_of(
    batch_size: int,
    patch_size: int | Sequence[int] | None,
    cheap_rows: bool,
    delivered: bool,
    allow_training_subjects: bool,
    unet: bool,
) -> dict[str, Any]:
    """Options of `medtrace evaluate`, for `command_of`; options not given are None."""
    return {
        "batch-size": batch_size,
        "patch-size": patch_size,
        "cheap-rows": cheap_rows,
        "delivered": delivered,
        "allow-training-subjects": allow_training_subjects or None,
        "unet": unet or None,
    }


def made_with(method: Method) -> dict[str, Any]:
    """Versions, commit, device and threads."""
    return measured_with(next(method.parameters()).device)


def settings_of(run: Path) -> dict[str, Any]:
    """A run's method, version and all settings."""
    record = read_run(run)
    return {"method": record.method, "medtrace": record.medtrace, "settings": record.settings.model_dump(mode="json")}
