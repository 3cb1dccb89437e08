"""Train the rows of a study on TraceBench and compare them where the truth is known."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from medtrace.checks import check_choice
from medtrace.evaluation.bench import SETTINGS, STUDIES, Study, Training
from medtrace.evaluation.bench.registry import MEASUREMENTS
from medtrace.evaluation.bench.running import compare_rows
from medtrace.evaluation.real.tasks import IMAGES, LABELS, TASKS
from medtrace.storage.reservations import locked, reserving
from medtrace.workflows.real_heads.follow_ups import follow_ups
from medtrace.workflows.real_heads.study import real_translation
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
) -> dict[str, Any]:
    """Train the rows of a study on TraceBench, score them on unseen subjects and write a table and figures.

    Args:
        task: of TraceBench, one of `STUDIES`, or "real": T1, T2 and FLAIR of heads (`real_translation`).
        setting: "demo" (about five minutes on two cores for the rivals of `postop`), "full" or "smoke" (seconds).
        study: one of `STUDIES[task]`; by default the first.
        out: receives `runs/` and, in `<study>/` (of other tasks than `postop` in `<task>/<study>/`), `results.json`,
            `table.md`, per-case CSVs, `figures/` and `traces/`. Runs of the same setting and seed found there are used
            again, also after a change of the code; each row of `results.json` reports the commit that trained it.
        seed: of data and training.
        device: by default CUDA where there is one.
        progress: show bars and the table.
        data: folder of real heads, for the task "real" (see `medtrace.evaluation.real.heads`); by default the
            environment variable MEDTRACE_DATA.

    Returns:
        What `results.json` holds; of the task "real" where its page is.

    Raises:
        ValueError: if there is no such task, study or setting.
    """
    check_choice("task", task, (*STUDIES, REAL))
    check_choice("setting", setting, PRESETS if task == REAL else SETTINGS)
    if task == REAL:
        return _real(setting, study, Path(out), seed, device, progress, data)
    if data is not None:
        raise ValueError(f"data: expected none with the task {task!r}, whose cases are made, received {data}")
    study = study or next(iter(STUDIES[task]))
    measurements = MEASUREMENTS.get(task, {})
    check_choice(f"study of {task}", study, (*STUDIES[task], *measurements))
    if study in measurements:
        return measurements[study](setting, Path(out), seed=seed, device=device, progress=progress)
    return run_study(STUDIES[task][study], setting, Path(out), seed=seed, device=device, progress=progress)


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
    runs = {
        row: _trained(row, method, setting, seed, out / "runs", device, console) for row, method in study.rows.items()
    }
    command = f"medtrace bench {study.task} --setting {setting} --study {study.name} --seed {seed}"
    return compare_rows(study, runs, out, command=command, started=started, device=device, progress=progress)


def _trained(
    row: str, training: Training, setting: str, seed: int, folder: Path, device: str | None, console: Console
) -> Path:
    """The run folder of a row, trained unless it was before."""
    own = training.by_setting.get(setting)
    return trained_row(
        row,
        training.method,
        folder / f"{setting}-{seed}" / training.run,
        presets=("tracebench", *training.presets, *(SETTINGS[setting] if own is None else ())),
        settings={"training.seed": seed, "data.seed": seed, **(own or {}), **training.settings},
        device=device,
        console=console,
    )
