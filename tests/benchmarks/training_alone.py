"""What a stored row's training takes of one core when nothing else runs, where it took longer beside other work.

    python -m tests.benchmarks.training_alone               every row above the budget; about two minutes a training
    python -m tests.benchmarks.training_alone --task domain
    python -m tests.benchmarks.training_alone --again       also where it is known

Trainings of 1 and 3 epochs, with data and start, extrapolated to the row's epochs, by one thread of an idle machine.
The figure is written into the files of the row, of all its seeds, with the commit; then `medtrace bench TASK --study
methods --rows docs/results/rows` makes the page.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from medtrace.evaluation.bench import methods
from medtrace.evaluation.bench.machine import commit
from medtrace.evaluation.bench.rows_page import ALONE, BUDGET_SECONDS, SPENT
from medtrace.evaluation.bench.running import DONE
from medtrace.evaluation.bench.stored import store_row, stored_rows
from medtrace.workflows.scoring.trained import trained_row

from .harness import ROOT

ROWS = ROOT / "docs" / "results" / "rows"
SETTING = "demo"
EPOCHS = 1, 3


def seconds_alone(task: str, row: str) -> float:
    """Processor seconds of a row's training, extrapolated."""
    entry = methods.ENTRIES[row]
    few, more = (_processor_seconds(task, row, epochs) for epochs in EPOCHS)
    return few + (more - few) / (EPOCHS[1] - EPOCHS[0]) * (entry.epochs - EPOCHS[0])


def _processor_seconds(task: str, row: str, epochs: int) -> float:
    training = methods.training(task, methods.ENTRIES[row]._replace(epochs=epochs))
    presets, settings = training.arguments(SETTING, 0)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        quiet = Console(quiet=True)
        trained_row(row, training.method, run, presets=presets, settings=settings, device="cpu", console=quiet)
        return float(json.loads((run / DONE).read_text())["processor_seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=tuple(methods.TASKS), help="by default all")
    parser.add_argument("--again", action="store_true", help="measure also where it is known")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for task in methods.TASKS if options.task is None else (options.task,):
        stored = [row for row in stored_rows(ROWS, task, methods.NAME, SETTING) if not row.on_gpu]
        measured: dict[str, str] = {}
        slow = [row for row in stored if row.fact(SPENT) > BUDGET_SECONDS and (options.again or ALONE not in row.facts)]
        for name in sorted({row.name for row in slow}):
            run = methods.training(task, methods.ENTRIES[name]).run  # which rows may share
            if run not in measured:
                measured[run] = f"{seconds_alone(task, name):.1f}"
            seconds = measured[run]
            for row in (row for row in stored if row.name == name):
                facts = {**row.facts, ALONE: seconds, f"{ALONE}_at_commit": str(commit())}
                store_row(ROWS, replace(row, facts=facts))
            print(f"{task}, {name}: {seconds} s", flush=True)


if __name__ == "__main__":
    main()
