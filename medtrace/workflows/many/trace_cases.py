"""Traces of many translated images: in parallel, resuming where it stopped."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medtrace.evaluation.certificate.thresholds import Thresholds
from medtrace.storage.cases import case_key
from medtrace.workflows.many.attempts import Task
from medtrace.workflows.many.overview import TRACE, reason_of, registration_numbers, write_summary
from medtrace.workflows.many.pairs import (
    FinishedPairs,
    PairCase,
    keep_or_make,
    listed_pairs,
    paired_by_name,
    run_pairs,
    shared_threads,
)
from medtrace.workflows.trace import Traced, trace_translation

_PRELOAD = (__name__,)


def trace_cases(
    sources: str | os.PathLike,
    images: str | os.PathLike | None,
    out: str | os.PathLike,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    threads: int | None = None,
    progress: bool = True,
    overwrite: bool = False,
    **settings: Any,
) -> FinishedPairs:
    """Trace many translated images, each into `OUT/NAME`: `trace`, its certificate and its page.

    What is finished is kept; an image that fails does not stop the others. `OUT/index.html` and `OUT/cases.csv` list
    all, the worst verdict first.

    Args:
        sources: a folder or list of images, or without `images` a pair list (see
            `medtrace.data.lists.pair_list.read_pair_list`), whose column target_lesion shows where intensity may
            change.
        images: their translations, a folder or list of images with the same names; or None.
        out: folder of the cases.
        workers: processes that share the cases.
        scheduler: address of a Dask scheduler whose workers process the cases instead (see `parallel.run_cases`).
        threads: threads of a case; None for one if there are several workers.
        progress: show a bar on stderr.
        overwrite: replace results with the same name from other images or settings.
        **settings: of `trace_translation`.

    Returns:
        The cases and the overview.

    Raises:
        FileNotFoundError: if a file is missing.
        OSError: if another command is using `out`.
        ValueError: if a list cannot be read, or the names differ.
    """
    remedy = (
        "IMAGE: expected the translated images, received none; or give a pair list (CSV with subject, source, target)"
    )
    listed = listed_pairs(sources, remedy) if images is None else paired_by_name(sources, images)
    out = Path(out).absolute()
    shared = shared_threads(settings, threads, workers, scheduler)
    for name in ("radius", "thresholds"):
        if isinstance(shared.get(name), (str, os.PathLike)):
            shared[name] = str(Path(shared[name]).absolute())
    tasks = [Task(pair.name, (pair, str(out), shared, overwrite)) for pair in listed]
    how: dict[str, Any] = {"workers": workers, "scheduler": scheduler, "progress": progress}
    return run_pairs(trace_case, tasks, out, title="Traces", doing="tracing", preload=_PRELOAD, **how)


def trace_case(pair: PairCase, out: str, settings: dict[str, Any], overwrite: bool) -> bool:
    """Trace one image into its folder, unless that has its result; returns whether it was kept.

    Raises:
        FileExistsError: if the folder holds something else and may not be overwritten.
        FileNotFoundError, ValueError: see `trace_translation`.
    """
    files = {name: file for name, file in pair.files.items() if name != "source_mask"}
    limits = settings.get("thresholds")
    given: dict[str, Any] = {"radius": settings.get("radius")}
    known = {name: value for name, value in settings.items() if name not in ("radius", "thresholds", "threads")}
    if isinstance(limits, Thresholds):
        known["thresholds"] = asdict(limits)
    else:
        given["thresholds"] = limits
    key = case_key({**files, **given}, series=pair.series, summary=1, **known)

    def make(folder: Path) -> None:
        source, image, mask = (files.get(name) for name in ("source", "target", "mask"))
        if source is None or image is None:
            raise ValueError(f"{pair.name}: expected a source and an image, received one; complete the list")
        how: dict[str, Any] = {**pair.series, **settings, "progress": False}
        made = trace_translation(source, image, folder / TRACE, mask=mask, **how)
        write_summary(folder, made.trace, made.grade, _reason(made), _numbers(made))

    return keep_or_make(Path(out) / pair.name, key, overwrite, make)


def _reason(made: Traced) -> str:
    against = [line.text for line in made.lines if line.grade != "PASS"]
    against += [
        f"{check.name}: {check.reason}" for check in made.certificate.checks if check.status in ("WARN", "FAIL")
    ]
    return reason_of(against)


def _numbers(made: Traced) -> dict[str, float | None]:
    explained = made.ledger.explained_fraction
    apart = [check.figures.get("disagreement_mm") for check in made.certificate.checks]
    return {
        **registration_numbers(made.verdict.figures),
        "explained, %": None if explained is None else 100 * explained,
        "independent registration apart, mm": next((value for value in apart if value is not None), None),
    }
