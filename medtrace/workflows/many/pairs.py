"""Many pairs of images, each processed in its own folder: listed, shared between processes, kept when finished."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import Progress

from medtrace.data.lists.image_list import list_images
from medtrace.data.lists.pair_list import read_pair_list
from medtrace.guard.progress import Steps, announce
from medtrace.report.overview import OverviewCase, worst_first
from medtrace.storage.cases import atomic_case, is_finished, key_of
from medtrace.storage.places import free_disk
from medtrace.storage.reservations import locked
from medtrace.storage.workspaces import sweep
from medtrace.workflows.many.attempts import Outcome, Task
from medtrace.workflows.many.overview import finished_case, write_overview, write_table
from medtrace.workflows.many.parallel import many_line, run_cases

TABLE = "cases.csv"
_FILES = ("source", "target", "mask", "source_mask")


class PairCase(NamedTuple):
    """Two images and what belongs to them."""

    name: str
    files: dict[str, str | None]
    """Keyed by the names of the workflow's arguments."""
    series: dict[str, str | None]


class FinishedPairs(NamedTuple):
    """The outcome of many pairs, the worst first."""

    cases: list[OverviewCase]
    overview: Path
    """The page that lists them."""


def listed_pairs(path: str | os.PathLike, remedy: str) -> list[PairCase]:
    """The pairs of a list (see `medtrace.data.lists.pair_list.read_pair_list`).

    Raises:
        ValueError: if it is not a list; the message ends with the remedy.
    """
    path = Path(path)
    if path.suffix.lower() not in (".csv", ".json"):
        raise ValueError(f"{remedy}, not {path}")
    return [
        PairCase(
            pair.name,
            {
                name: None if file is None else str(file.absolute())
                for name, file in zip(_FILES, (pair.source, pair.target, pair.target_lesion, pair.source_lesion))
            },
            {"source_series": pair.source_series, "target_series": pair.target_series},
        )
        for pair in read_pair_list(path)
    ]


def paired_by_name(sources: str | os.PathLike, images: str | os.PathLike) -> list[PairCase]:
    """Pairs of two folders or lists of images, by their names.

    Raises:
        FileNotFoundError: if an image is missing.
        ValueError: if a name is in only one of them.
    """
    first, second = ({one.name: one for one in list_images([path])} for path in (sources, images))
    alone = sorted(set(first) ^ set(second))
    if alone:
        where = Path(images if alone[0] in first else sources)
        raise ValueError(
            f"{where}: expected an image named {alone[0]!r}, as there is one on the other side, received none"
            f" ({len(alone)} without a partner); give equal names, or a pair list (CSV with subject, source, target)"
        )
    return [
        PairCase(
            name,
            {"source": str(first[name].path.absolute()), "target": str(second[name].path.absolute()), "mask": None},
            {"source_series": first[name].series, "target_series": second[name].series},
        )
        for name in first
    ]


def keep_or_make(folder: Path, key: str, overwrite: bool, make: Callable[[Path], object]) -> bool:
    """Process a case unless its folder has the result; returns whether it was kept.

    Args:
        folder: folder of the case.
        key: digest of everything that determines its result.
        overwrite: replace the result of other images or settings.
        make: writes the result into the folder that it is given.

    Raises:
        FileExistsError: if the folder holds something else and may not be overwritten.
    """
    if is_finished(folder, key):
        return True
    there = key_of(folder)
    if folder.exists() and there != key and not (there is not None and overwrite):
        raise FileExistsError(
            f"{folder}: holds something else, or the result of another image, run or setting; pass"
            " overwrite=True, or choose another folder"
        )
    with atomic_case(folder, key) as temporary:
        make(temporary)
    return False


def run_pairs(
    function: Callable[..., Any],
    tasks: Sequence[Task],
    out: Path,
    *,
    title: str,
    doing: str,
    preload: tuple[str, ...],
    workers: int = 1,
    scheduler: str | None = None,
    progress: bool = True,
) -> FinishedPairs:
    """Work on pairs and write `out/index.html` and `out/cases.csv`.

    Args:
        function: makes a case or keeps it.
        tasks: tasks of it.
        out: folder of the cases.
        title: title of the page.
        doing: label of the bar, such as "registering".
        preload: modules that workers import first.
        workers, scheduler: see `parallel.run_cases`.
        progress: show a bar on stderr.

    Raises:
        OSError: if another command is using `out`.
    """
    with locked(out), Progress(console=Console(stderr=True), disable=not progress) as bar:
        row, steps = bar.add_task(doing, total=len(tasks)), Steps(doing, len(tasks))
        announce(many_line(doing, len(tasks), workers, scheduler), disk=free_disk(out), out=out.name)

        def finished(_: Outcome) -> None:
            bar.update(row, advance=1)
            steps.done()

        try:
            outcomes = run_cases(
                function,
                tasks,
                workers=workers,
                scheduler=scheduler,
                finished=finished,
                preload=preload,
            )
        finally:
            sweep(out)  # from workers that died
        cases = worst_first(cases_of(out, outcomes))
        write_table(out / TABLE, cases)
        return FinishedPairs(cases, write_overview(out, cases, title))


def cases_of(out: Path, outcomes: Sequence[Outcome]) -> list[OverviewCase]:
    """The lines of an overview, of what became of cases."""
    return [
        finished_case(out, outcome.name)
        if outcome.failure is None
        else OverviewCase(outcome.name, "error", outcome.failure)
        for outcome in outcomes
    ]


def shared_threads(
    settings: Mapping[str, Any], threads: int | None, workers: int, scheduler: str | None
) -> dict[str, Any]:
    """Settings of all cases; with several workers each has one thread, unless a number is given."""
    several = workers > 1 or scheduler is not None
    return {**settings, "threads": 1 if threads is None and several else threads}
