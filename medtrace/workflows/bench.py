"""Train the rows of a study on TraceBench and compare them where the truth is known."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from medtrace.checks import check_choice
from medtrace.evaluation.bench import SETTINGS, STUDIES, Study, Training
from medtrace.evaluation.bench.drawing import file_name
from medtrace.evaluation.bench.registry import MEASUREMENTS
from medtrace.evaluation.bench.row_running import row_called, score_row
from medtrace.evaluation.bench.rows_page import rows_page
from medtrace.evaluation.bench.running import DONE, compare_rows
from medtrace.evaluation.bench.stored import store_row, stored_rows
from medtrace.evaluation.real.tasks import IMAGES, LABELS, TASKS
from medtrace.guard.progress import announce
from medtrace.storage.files import atomic_write
from medtrace.storage.places import free_disk
from medtrace.storage.reservations import locked, reserving
from medtrace.workflows.real_heads.follow_ups import follow_ups
from medtrace.workflows.real_heads.study import real_translation
from medtrace.workflows.scoring.side_by_side import processes_for, threads_for, trained_rows
from medtrace.workflows.scoring.trained import trained_row

REAL = "real"
FOLLOW_UPS = "follow-ups"
DATA = "MEDTRACE_DATA"
PRESETS: dict[str, tuple[str, ...]] = {"demo": ("small",), "full": ()}
"""Of a row's method on top of `default`, on real heads."""


def bench(
    task: str = "postop",
    setting: str = "demo",
    study: str | None = None,
    out: str | os.PathLike = "demo_out",
    *,
    seed: int = 0,
    device: str | None = None,
    progress: bool = True,
    data: str | os.PathLike | None = None,
    row: str | None = None,
    rows: str | os.PathLike | None = None,
) -> dict[str, Any]:
    """Train the rows of a study on TraceBench, score them on unseen subjects and write a table and figures.

    With `rows` only `row` is trained, and stored when it ends; the study's page is made from the stored rows. A table
    can thus grow over days, one method, task and seed at a time.

    Args:
        task: task of TraceBench, one of `STUDIES`, or "real": T1, T2 and FLAIR of heads (`real_translation`).
        setting: "demo" (minutes on two cores for the study `short` of `postop`), "full" or "smoke" (seconds).
        study: one of `STUDIES[task]`; by default the first.
        out: receives `runs/` and, in `<study>/` (of other tasks than `postop` in `<task>/<study>/`), `results.json`,
            `table.md`, per-case CSVs, `figures/` and `traces/`. Runs of the same setting and seed found there are
            reused, even after a change of the code; each row of `results.json` reports the commit that trained it. One
            with other settings is refused.
        seed: seed of data and training.
        device: by default CUDA if available.
        progress: show bars and the table.
        data: folder of real heads, for the task "real" (see `medtrace.evaluation.real.heads`); by default the
            environment variable MEDTRACE_DATA.
        row: row of the study, or a control, or the method of a row; with `rows` only.
        rows: folder of stored rows and of the page `TASK_STUDY.md`; `out` then receives only the runs.

    Returns:
        The content of `results.json`; for the task "real", and with `rows`, the path of the page.

    Raises:
        ValueError: if there is no such task, study or setting.
    """
    check_choice("task", task, (*STUDIES, REAL))
    check_choice("setting", setting, PRESETS if task == REAL else SETTINGS)
    if task == REAL:
        if row is not None or rows is not None:
            raise ValueError(f"rows: expected none with the task {REAL}, whose rows are run together, received {rows}")
        return _real(setting, study, Path(out), seed, device, progress, data)
    if data is not None:
        raise ValueError(f"data: expected none with the task {task!r}, whose cases are simulated, received {data}")
    if row is not None and rows is None:
        raise ValueError(f"rows: expected the folder that the row {row!r} is stored in, received none; give it")
    study = study or next(iter(STUDIES[task]))
    measurements = MEASUREMENTS.get(task, {})
    check_choice(f"study of {task}", study, (*STUDIES[task], *measurements))
    if rows is not None:
        check_choice(f"study of {task} with rows", study, STUDIES[task])
        chosen = STUDIES[task][study]
        page = run_row(chosen, row, setting, Path(out), Path(rows), seed=seed, device=device, progress=progress)
        return {"page": str(page)}
    if study in measurements:
        return measurements[study](setting, Path(out), seed=seed, device=device, progress=progress)
    return run_study(STUDIES[task][study], setting, Path(out), seed=seed, device=device, progress=progress)


def table_of(task: str, study: str | None, out: str | os.PathLike) -> Path:
    """The file of the table that `bench` writes.

    Args:
        task: one of `STUDIES`.
        study: one of `STUDIES[task]`; by default the first.
        out: as of `bench`.
    """
    name = study or next(iter(STUDIES[task]))
    folder = STUDIES[task][name].folder if name in STUDIES[task] else f"{task}/{name}"
    return Path(out) / folder / "table.md"


def _real(
    setting: str,
    study: str | None,
    out: Path,
    seed: int,
    device: str | None,
    progress: bool,
    data: str | os.PathLike | None,
) -> dict[str, Any]:
    """The study on real heads."""
    groups = {"all": (*IMAGES, *LABELS), "images": IMAGES, "labels": LABELS}
    known = {name: tuple(task.name for task in tasks) for name, tasks in groups.items()}
    known.update({name: (name,) for name in TASKS})
    chosen = study or next(iter(known))
    check_choice(f"study of {REAL}", chosen, (*known, FOLLOW_UPS))
    folder = data or os.environ.get(DATA)
    if not folder:
        raise ValueError(
            f"data: expected the folder of the open MS data (github.com/muschellij2/open_ms_data), received none; give"
            f" it, or set {DATA}"
        )
    if seed:
        raise ValueError(f"seed: expected 0, as the best rows of {REAL} are trained with several, received {seed}")
    if chosen == FOLLOW_UPS:
        return {"page": str(follow_ups(folder, out / REAL, progress=progress))}
    page = real_translation(
        folder, out / REAL, tasks=known[chosen], presets=PRESETS[setting], device=device, progress=progress
    )
    return {"page": str(page)}


@reserving(lambda study, out: locked(out / study.folder))
def run_study(
    study: Study, setting: str, out: Path, *, seed: int = 0, device: str | None = None, progress: bool = True
) -> dict[str, Any]:
    """Run a study, whether registered or not; see `bench`."""
    console = Console(stderr=True, quiet=not progress)
    started = time.perf_counter()
    runs = _trained_rows(study, setting, seed, out / "runs", device, console)
    command = f"medtrace bench {study.task} --setting {setting} --study {study.name} --seed {seed}"
    return compare_rows(study, runs, out, command=command, started=started, device=device, progress=progress)


def _trained_rows(
    study: Study, setting: str, seed: int, folder: Path, device: str | None, console: Console
) -> dict[str, Path]:
    """The run folder of every row; rows that share a run are trained once, and waiting rows may train in parallel."""
    first = {training.run: row for row, training in reversed(list(study.rows.items()))}
    trainings = {row: training for row, training in study.rows.items() if first[training.run] == row}
    ended = [(folder / f"{setting}-{seed}" / training.run / DONE).is_file() for training in trainings.values()]
    processes = processes_for(len(ended) - sum(ended), device)
    announce(
        f"{study.task}, {study.name}, setting {setting}: {len(ended) - sum(ended)} trainings on {processes}"
        f" process(es), {sum(ended)} already done, {len(study.rows)} rows",
        takes="each training reports the time that it needs after its first epoch",
        disk=free_disk(folder),
        out=folder.name,
    )
    train = partial(_trained, setting=setting, seed=seed, folder=folder, device=device)
    threads = threads_for(len(trainings), device)
    done = trained_rows(train, trainings, console, processes=processes, threads=threads)
    return {row: done[first[training.run]] for row, training in study.rows.items()}


def run_row(
    study: Study,
    row: str | None,
    setting: str,
    out: Path,
    rows: Path,
    *,
    seed: int = 0,
    device: str | None = None,
    progress: bool = True,
) -> Path:
    """Train, score and store one row of a study, if one is named, and make the page of all stored rows; see
    `bench`.
    """
    console = Console(stderr=True, quiet=not progress)
    if row is not None:
        name = row_called(study, row)
        if missing := study.missing(name):
            raise ValueError(f"row: {missing}; install it, or leave the row out")
        folder = out / "runs"
        if name in study.rows:
            run = _trained(name, study.rows[name], console, setting=setting, seed=seed, folder=folder, device=device)
        else:
            run = folder / f"{setting}-{seed}" / file_name(name)
        stored = score_row(study, name, run, setting, seed, device=device, progress=progress)
        console.print(f"{name}: stored in {store_row(rows, stored)}", markup=False)
    command = f"medtrace bench {study.task} --study {study.name} --setting {setting} --row ROW --rows {rows}"
    text = rows_page(study, stored_rows(rows, study.task, study.name, setting), command)
    return atomic_write(rows / f"{study.task}_{study.name}.md", text, make_parents=True)


def _trained(
    row: str, training: Training, console: Console, *, setting: str, seed: int, folder: Path, device: str | None
) -> Path:
    """The run folder of a row, trained if necessary."""
    presets, settings = training.arguments(setting, seed)
    return trained_row(
        row,
        training.method,
        folder / f"{setting}-{seed}" / training.run,
        presets=presets,
        settings=settings,
        device=device,
        console=console,
    )
