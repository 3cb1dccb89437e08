"""Compare the trained rows of a study and its controls where the truth is known: tables, figures, traces."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from monai.data import list_data_collate
from rich.console import Console

from medtrace.engines.runs import default_device, load_method
from medtrace.evaluation.bench.cases import Cases
from medtrace.evaluation.bench.drawing import file_name
from medtrace.evaluation.bench.machine import measured_with
from medtrace.evaluation.bench.parameters import parameters_run_through
from medtrace.evaluation.bench.study import Outcome, Row, Study, Table
from medtrace.evaluation.paired_rows import Comparisons, write_comparison
from medtrace.evaluation.paired_rows import compare_rows as compare_by_subject
from medtrace.evaluation.tracers import tracer_of
from medtrace.evaluation.verdicts import ABOUT, comparison_table
from medtrace.metrics import Summary
from medtrace.report import markdown_table, print_table
from medtrace.storage.files import atomic_write, write_json

DONE = "training.json"
"""Stands in the folder of a run whose training came to its end."""


def compare_rows(
    study: Study,
    runs: Mapping[str, Path],
    out: Path,
    *,
    command: str,
    started: float,
    device: str | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Score the controls and the trained rows of a study; write its tables, figures and traces.

    Args:
        study: what is compared.
        runs: run folder of every row.
        out: receives the study's folder.
        command: the command that does all this again.
        started: when the study began, by `time.perf_counter`.
        device: by default CUDA if available.
        progress: show bars and the table.

    Returns:
        The content of `results.json`.
    """
    console = Console(stderr=True, quiet=not progress)
    folder = out / study.folder
    cases = Cases(progress)
    shown = _shown(study, runs, cases)
    tables, traces, costs = {}, {}, {}
    for row in _rows(study, runs, cases, device, console):
        with parameters_run_through(row.method) as count:
            traces[row.name] = list(row.tracer(shown))
        if row.method is not None:
            costs[row.name] = {**count, **_training(row.run)}
        tables[row.name] = study.scores(row)
        tables[row.name].write_csv(folder / "cases" / f"{file_name(row.name)}.csv")
        for show_row in study.show_row:
            show_row(row, folder)
    totals = study.totals(tables)
    rows: Table = {row: {**table.summary(), **costs.get(row, {})} for row, table in tables.items()}
    results = {
        "command": command,
        **measured_with(default_device(device)),
        "seconds": round(time.perf_counter() - started, 1),
        "rows": {row: {key: _plain(value) for key, value in cells.items()} for row, cells in rows.items()},
        **totals,
    }
    write_json(folder / "results.json", results)
    for name, values in totals.items():
        for key, value in values.items():
            rows[key][name] = value
    comparisons = compare_by_subject({**{name: tables[name] for name in runs}, **tables}, {})
    write_comparison(folder, comparisons)
    _write_tables(study, folder, rows, _compared(study, comparisons, runs), console)
    outcome = Outcome(study, folder, rows, tables, runs, shown, traces, console)
    for show in study.show:
        show(outcome)
    console.print(f"Tables, figures and traces: [bold]{folder}[/bold]; trained runs: {out / 'runs'}")
    return results


def _training(run: Path) -> dict[str, Any]:
    training = json.loads((run / DONE).read_text())
    known = {f"training_{key}": training[key] for key in ("threads", "processor_seconds") if key in training}
    return {"training_seconds": training["seconds"], **known, "trained_at_commit": training["commit"]}


def _shown(study: Study, runs: Mapping[str, Path], cases: Cases) -> Any:
    """The first test cases as a batch; all rows have to name the same ones."""
    first, *others = runs
    test = cases(runs[first])
    for row in others:
        if cases(runs[row]) is not test:
            raise ValueError(
                f"rows of {study.name}: expected the same test cases everywhere, received others in {row!r} than in"
                f" {first!r}; give them the same data settings"
            )
    return list_data_collate([test[index] for index in range(min(study.shown_cases, len(test)))])


def _rows(study: Study, runs: Mapping[str, Path], cases: Cases, device: str | None, console: Console) -> Iterator[Row]:
    """The controls and then the trained rows, one network in memory at a time."""
    progress = not console.quiet
    first = next(iter(runs.values()))
    for name, tracer in study.controls.items():
        if missing := study.missing(name):
            console.print(missing, markup=False)
            continue
        yield Row(name, tracer, first, cases, progress=name if progress else None)
    for name, run in runs.items():
        method = load_method(run, device, study.rows[name].sampling)
        yield Row(name, tracer_of(method), run, cases, method, progress=name if progress else None)


def _plain(value: Any) -> Any:
    return value._asdict() if isinstance(value, Summary) else value


def _compared(study: Study, comparisons: Comparisons, runs: Mapping[str, Path]) -> str:
    """The trained rows beside each other and beside the controls, in the table's columns; every case of TraceBench is
    a subject of its own."""
    own = {names: one for names, one in comparisons.items() if names[0] in study.columns and names[1] in runs}
    table = comparison_table(own)
    return f"\n{ABOUT}\n\n{table}\n" if table else ""


def _write_tables(study: Study, folder: Path, rows: Table, compared: str, console: Console) -> None:
    lines = [{"method": row, **cells} for row, cells in rows.items()]
    table = markdown_table(lines, {"method": "", **study.columns})
    atomic_write(folder / "table.md", f"{table}\n{compared}")
    means = [{name: getattr(value, "mean", value) for name, value in line.items()} for line in lines]
    print_table(
        means,
        {"method": "", **study.printed},
        title=f"TraceBench, {study.name}: means over the cases",
        console=console,
    )
