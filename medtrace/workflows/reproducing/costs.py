"""The plan of a reproduction, and its duration on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from medtrace.engines.runs import default_device
from medtrace.guard.shortage import is_shortage
from medtrace.methods import method_class
from medtrace.methods.presets import PAPER
from medtrace.workflows.plan import seconds_per_step
from medtrace.workflows.planning.facts import DatasetFacts
from medtrace.workflows.planning.training import TrainingPlan, plan_training, settings_of_dataset
from medtrace.workflows.reproducing.rows import TableRow


def plan_lines(rows: Sequence[TableRow], device: str | None = None, *, measure: bool = True) -> list[str]:
    """The rows with the steps of their trainings, and the hours of the trainings that are not done.

    Args:
        rows: rows of all tables.
        device: to train on.
        measure: time a few steps of each network.

    Returns:
        A line for each table and row, and one for the total.
    """
    where = torch.device(default_device(device))
    facts = {row.dataset: DatasetFacts.of(row.dataset) for row in rows}
    seconds: dict[Any, float | None] = {}
    hours: dict[Any, float | None] = {}
    lines: list[str] = []
    tables: list[str] = []
    for row in rows:
        if row.table.name not in tables:
            tables.append(row.table.name)
            lines.append(f"table {row.table.number}, {row.table.title}:")
        if not row.row.method:
            lines.append(f"  {row.row.label}: {row.row.missing or 'no training'}")
            continue
        planned = _planned(row, facts[row.dataset])
        told = f"{row.row.method}, {planned.steps} steps"
        if row.trained:
            lines.append(f"  {row.row.label}: {told}, trained")
            continue
        if row.run in hours:
            lines.append(f"  {row.row.label}: {told}, trained for another row")
            continue
        # Networks of one kind on one data set take the same time, whatever the data's misalignment.
        kind = (row.dataset, row.row.method, *(item for item in row.row.settings.items() if item[0][:5] != "data."))
        if measure and kind not in seconds:
            seconds[kind] = _seconds(row, planned, where)
        step = seconds.get(kind)
        hours[row.run] = None if step is None else planned.steps * step / 3600
        cost = "" if step is None else f" of {step:.2g} s, about {hours[row.run]:.1f} hours"
        lines.append(f"  {row.row.label}: {told}{cost}")
    return [*lines, _total(hours, where, measure)]


def _planned(row: TableRow, facts: DatasetFacts) -> TrainingPlan:
    given = {**settings_of_dataset(row.dataset), **row.settings}
    return plan_training(method_class(row.row.method).settings_type, facts, (PAPER,), given)


def _seconds(row: TableRow, planned: TrainingPlan, where: torch.device) -> float | None:
    """Seconds of a step; None if one does not fit into memory."""
    try:
        return seconds_per_step(row.row.method, planned, row.dataset, where)
    except Exception as error:
        if is_shortage(error):
            return None
        raise


def _total(hours: dict[Any, float | None], where: torch.device, measure: bool) -> str:
    known = [value for value in hours.values() if value is not None]
    if not hours:
        return "nothing left to train"
    if not measure:
        return f"{len(hours)} training(s) on {where}"
    lacking = len(hours) - len(known)
    short = f"; {lacking} do not fit into its memory" if lacking else ""
    return f"{len(hours)} training(s), about {sum(known):.1f} hours on {where}, without the measuring{short}"
