"""Train and measure translators on real heads: resumable row by row, with reference rows that need no network."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console

from medtrace.checks import check_choice
from medtrace.evaluation.real.heads import TEST, find_heads
from medtrace.evaluation.real.tasks import IMAGES, LABELS, TASKS, RealTask
from medtrace.methods.presets import LITTLE
from medtrace.storage.reservations import locked, reserving
from medtrace.workflows.real_heads.figures import write_figures
from medtrace.workflows.real_heads.labels import score_labels
from medtrace.workflows.real_heads.page import write_page
from medtrace.workflows.real_heads.rows import RealRow, real_dataset, score_cheap, train_row, validation_error

REPEATED = 2
"""The best methods of a translation, which are trained with every seed."""


OF_IMAGES = tuple(task.name for task in IMAGES)
"""Tasks that are measured on images."""


@reserving(lambda out: locked(out))
def real_translation(
    data: str | os.PathLike,
    out: str | os.PathLike = "real_translation",
    *,
    tasks: Sequence[str] = OF_IMAGES,
    methods: Sequence[str] | None = None,
    presets: Sequence[str] = (LITTLE,),
    seeds: int = 3,
    device: str | None = None,
    progress: bool = True,
) -> Path:
    """Translate between contrasts of real heads: train on some persons, measure on others.

    Each of the two persons of the cross-sectional data is the test in turn; the methods learn on the other heads that
    have the contrasts, and one person is the validation throughout. A finished row is kept in `out/rows`; a second call
    does what is missing. All methods are trained once, then those two of each translation that are best on the
    validation head with the other seeds. A
    translation from several contrasts is trained with random dropping of either, and also scored without the second.
    Translations to T1 are also scored by the structures that an independent network segments in them
    (`medtrace.evaluation.real.structures`), which are trained once.

    Args:
        data: folder of the open MS data (see `medtrace.evaluation.real.heads`).
        out: receives `data/`, `runs/`, `rows/`, `labels/`, `figures/` and the page `real_translation.md`.
        tasks: names of translations, some of `medtrace.evaluation.real.tasks.TASKS`.
        methods: to train; None trains those of each translation.
        presets: presets of each method, on top of `default`.
        seeds: trainings of the best two methods.
        device: by default CUDA if available.
        progress: report progress.

    Returns:
        The page.

    Raises:
        FileNotFoundError: if `data` has no heads, or no network to label a T1 if one is needed.
        ValueError: if a translation or a method is unknown, or a side of a split is empty.
    """
    out, console = Path(out), Console(stderr=True, quiet=not progress)
    for name in tasks:
        check_choice("tasks", name, TASKS)
    chosen = [TASKS[name] for name in tasks]
    heads, left = find_heads(data)
    for line in left:
        console.print(f"left out: {line}")
    for wanted in _order(chosen, methods, seeds, lambda task: best_methods(out, task, methods or task.methods)):
        if wanted.file(out).is_file():
            continue
        console.print(f"training {wanted.name}")
        task = TASKS[wanted.task]
        dataset = real_dataset(heads, task, wanted.person, out, progress)
        score_cheap(task, wanted.person, dataset, out)
        train_row(wanted, dataset, out, presets, device)
        write_page(out, heads, left)
    for task in chosen:
        if task in LABELS:
            score_labels(data, heads, task, out, console, device)
    write_figures(out, chosen, device)
    return write_page(out, heads, left)


def _order(
    tasks: Sequence[RealTask],
    methods: Sequence[str] | None,
    seeds: int,
    best: Callable[[RealTask], Sequence[str]],
) -> Iterator[RealRow]:
    """One method after the other for all tasks, so that a study stopped early has some rows of each."""
    for method in methods or dict.fromkeys(name for task in tasks for name in task.methods):
        for task in tasks:
            for person in TEST:
                if methods or method in task.methods:
                    yield RealRow(task.name, person, method)
    for seed in range(1, seeds):
        for task in tasks:
            for method in () if task in LABELS else best(task):
                for person in TEST:
                    yield RealRow(task.name, person, method, seed)


def best_methods(out: Path, task: RealTask, methods: Sequence[str]) -> list[str]:
    """The methods with the lowest foreground error on the validation head, over the trainings for both test persons."""
    errors = {}
    for method in methods:
        known = [validation_error(out, RealRow(task.name, person, method)) for person in TEST]
        finished = [value for value in known if value is not None]
        if len(finished) == len(TEST):
            errors[method] = sum(finished)
    return sorted(errors, key=lambda method: errors[method])[:REPEATED]
