"""Train the rows of a study on TraceBench and compare them where the truth is known."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from monai.data import list_data_collate
from rich.console import Console

import medtrace
from medtrace.checks import check_choice
from medtrace.metrics import Summary
from medtrace.report import markdown_table, print_table
from medtrace.storage.files import atomic_write, remove_content
from medtrace.storage.reservations import locked, reserving
from medtrace.workflows.bench.cases import Cases
from medtrace.workflows.bench.drawing import file_name
from medtrace.workflows.bench.machine import commit, measured_with
from medtrace.workflows.bench.parameters import parameters_run_through
from medtrace.workflows.bench.registry import MEASUREMENTS, STUDIES
from medtrace.workflows.bench.study import Outcome, Row, Study, Table, Training
from medtrace.workflows.evaluate import tracer_of, write_json
from medtrace.workflows.runs import default_device, load_method
from medtrace.workflows.train import train

SETTINGS: dict[str, tuple[str, ...]] = {"demo": (), "full": ("full",), "smoke": ("smoke",)}
"""Presets of a row's method on top of its preset for TraceBench."""

DONE = "training.json"
"""Stands in the folder of a run whose training came to its end."""


def bench(
    task: str = "postop",
    setting: str = "demo",
    study: str | None = None,
    out: str | os.PathLike = "demo_out",
    *,
    seed: int = 0,
    device: str | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Train the rows of a study on TraceBench, score them on unseen subjects and write a table and pictures.

    Args:
        task: of TraceBench, one of `STUDIES`.
        setting: "demo" (about five minutes on two cores for the rivals of `postop`), "full" or "smoke" (seconds).
        study: one of `STUDIES[task]`; by default the first.
        out: receives `runs/` and, in `<study>/` (of other tasks than `postop` in `<task>/<study>/`), `results.json`,
            `table.md`, per-case CSVs, `figures/` and `traces/`. Runs of the same setting and seed found there are used
            again, also after a change of the code; each row of `results.json` tells the commit that trained it.
        seed: of data and training.
        device: by default CUDA where there is one.
        progress: show bars and the table.

    Returns:
        What `results.json` holds.

    Raises:
        ValueError: if there is no such task, study or setting.
    """
    check_choice("task", task, STUDIES)
    check_choice("setting", setting, SETTINGS)
    study = study or next(iter(STUDIES[task]))
    measurements = MEASUREMENTS.get(task, {})
    check_choice(f"study of {task}", study, (*STUDIES[task], *measurements))
    if study in measurements:
        return measurements[study](setting, Path(out), seed=seed, device=device, progress=progress)
    return run_study(STUDIES[task][study], setting, Path(out), seed=seed, device=device, progress=progress)


@reserving(lambda study, out: locked(out / study.folder))
def run_study(
    study: Study, setting: str, out: Path, *, seed: int = 0, device: str | None = None, progress: bool = True
) -> dict[str, Any]:
    """Run a study, whether registered or not; see `bench`."""
    console = Console(stderr=True, quiet=not progress)
    started = time.perf_counter()
    runs = {
        row: _trained(row, method, setting, seed, out / "runs", device, console) for row, method in study.rows.items()
    }
    folder = out / study.folder
    cases = Cases(progress)
    shown = _shown(study, runs, cases)
    tables, traces, costs = {}, {}, {}
    for row in _rows(study, runs, cases, device, progress):
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
        "command": f"medtrace bench {study.task} --setting {setting} --study {study.name} --seed {seed}",
        **measured_with(default_device(device)),
        "seconds": round(time.perf_counter() - started, 1),
        "rows": {row: {key: _plain(value) for key, value in cells.items()} for row, cells in rows.items()},
        **totals,
    }
    write_json(folder / "results.json", results)
    for name, values in totals.items():
        for key, value in values.items():
            rows[key][name] = value
    _write_tables(study, folder, rows, console)
    outcome = Outcome(study, folder, rows, tables, runs, shown, traces, console)
    for show in study.show:
        show(outcome)
    console.print(f"Tables, figures and traces: [bold]{folder}[/bold]; trained runs: {out / 'runs'}")
    return results


def _trained(
    row: str, training: Training, setting: str, seed: int, folder: Path, device: str | None, console: Console
) -> Path:
    """The run folder of a row, trained unless it was before."""
    run = folder / f"{setting}-{seed}" / training.run
    if (run / DONE).is_file():
        console.print(f"{row}: trained before, in {run}")
        return run
    with locked(run):  # which a training at work has
        remove_content(run)  # of a training that did not finish
    console.print(f"{row}: training")
    started = time.perf_counter()
    own = training.by_setting.get(setting)
    train(
        training.method,
        out=run,
        presets=("tracebench", *training.presets, *(SETTINGS[setting] if own is None else ())),
        settings={"training.seed": seed, "data.seed": seed, **(own or {}), **training.settings},
        device=device,
    )
    seconds = round(time.perf_counter() - started, 1)
    write_json(run / DONE, {"seconds": seconds, "commit": commit(), "medtrace": medtrace.__version__})
    return run


def _training(run: Path) -> dict[str, Any]:
    training = json.loads((run / DONE).read_text())
    return {"training_seconds": training["seconds"], "trained_at_commit": training["commit"]}


def _shown(study: Study, runs: Mapping[str, Path], cases: Cases) -> Any:
    """The first test cases as a batch; all rows have to name the same ones."""
    first, *others = runs
    test = cases(runs[first])
    for row in others:
        if cases(runs[row]) is not test:
            raise ValueError(
                f"rows of {study.name}: expected the same test cases everywhere, received others in {row!r} than in"
                f" {first!r}; give them the same settings of data"
            )
    return list_data_collate([test[index] for index in range(min(study.shown_cases, len(test)))])


def _rows(study: Study, runs: Mapping[str, Path], cases: Cases, device: str | None, progress: bool) -> Iterator[Row]:
    """The controls and then the trained rows, one network in memory at a time."""
    first = next(iter(runs.values()))
    for name, tracer in study.controls.items():
        yield Row(name, tracer, first, cases, progress=name if progress else None)
    for name, run in runs.items():
        method = load_method(run, device, study.rows[name].sampling)
        yield Row(name, tracer_of(method), run, cases, method, progress=name if progress else None)


def _plain(value: Any) -> Any:
    return value._asdict() if isinstance(value, Summary) else value


def _write_tables(study: Study, folder: Path, rows: Table, console: Console) -> None:
    lines = [{"method": row, **cells} for row, cells in rows.items()]
    atomic_write(folder / "table.md", markdown_table(lines, {"method": "", **study.columns}) + "\n")
    means = [{name: getattr(value, "mean", value) for name, value in line.items()} for line in lines]
    print_table(
        means,
        {"method": "", **study.printed},
        title=f"TraceBench, {study.name}: means over the cases",
        console=console,
    )
