"""One row of a study, scored by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from monai.data import list_data_collate

from medtrace.checks import check_choice
from medtrace.engines.runs import default_device, load_method
from medtrace.evaluation.bench.cases import Cases
from medtrace.evaluation.bench.drawing import file_name
from medtrace.evaluation.bench.machine import measured_with
from medtrace.evaluation.bench.parameters import parameters_run_through
from medtrace.evaluation.bench.running import DONE
from medtrace.evaluation.bench.stored import StoredRow
from medtrace.evaluation.bench.study import Row, Study
from medtrace.evaluation.tracers import tracer_of
from medtrace.methods import method_class, resolve
from medtrace.methods.settings import MethodSettings


def row_called(study: Study, name: str) -> str:
    """The row or control of a study that is called so, in whatever case, or by its method.

    Raises:
        ValueError: if there is none; the message lists those that exist.
    """
    names = (*study.controls, *study.rows)
    several = [training.method for training in study.rows.values()]
    methods = {training.method: row for row, training in study.rows.items() if several.count(training.method) == 1}
    found = {**methods, **{file_name(row): row for row in names}, **{row: row for row in names}}
    chosen = found.get(name, found.get(file_name(name), name))
    check_choice(f"row of {study.task}, {study.name}", chosen, names)
    return chosen


def cases_settings(study: Study, setting: str, seed: int) -> MethodSettings:
    """Settings whose cases all rows of a study are scored on: those of its first row."""
    training = next(iter(study.rows.values()))
    return resolve(method_class(training.method).settings_type, *training.arguments(setting, seed))


def score_row(
    study: Study,
    name: str,
    run: Path,
    setting: str,
    seed: int,
    *,
    device: str | None = None,
    progress: bool = True,
) -> StoredRow:
    """Score a row or a control.

    Args:
        study: its study.
        name: name of the row.
        run: its run folder; for a control, a folder beside the runs, which need not exist.
        setting: setting of the bench.
        seed: seed of cases and training.
        device: by default CUDA if available.
        progress: show bars.
    """
    cases = Cases(progress, cases_settings(study, setting, seed))
    shown = name if progress else None
    training = study.rows.get(name)
    if training is None:
        row = Row(name, study.controls[name], run, cases, progress=shown)
    else:
        method = load_method(run, device, training.sampling)
        row = Row(name, tracer_of(method), run, cases, method, progress=shown)
    with parameters_run_through(row.method) as count:
        row.tracer(list_data_collate([cases(run)[0]]))
    table = study.scores(row)
    facts: dict[str, Any] = measured_with(default_device(device))
    if training is not None:
        done = json.loads((run / DONE).read_text())
        facts |= {"method": training.method, **count, "trained_at_commit": done["commit"]}
        facts |= {"training_seconds": done["seconds"], "training_processor_seconds": done.get("processor_seconds")}
        facts["training_threads"] = done.get("threads")
    told = {key: str(value) for key, value in facts.items() if value is not None}
    return StoredRow(study.task, study.name, setting, name, seed, table, told)
