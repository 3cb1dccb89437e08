"""Translate many scans with one trained run: in parallel, resuming where it stopped."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rich.console import Console
from rich.progress import Progress

from medtrace.checks import check_positive
from medtrace.data.lists.image_list import ListedImage, list_images
from medtrace.data.natural_images.output import natural_image_beside
from medtrace.data.preparation.rules import FILE
from medtrace.engines.checkpoint_choice import chosen_checkpoint, using_checkpoint
from medtrace.engines.model_folder import own_weights, record_file
from medtrace.engines.runs import WEIGHTS, load_method
from medtrace.fields import non_diffeomorphic_fraction, voxel_to_mm
from medtrace.guard.progress import Steps, announce
from medtrace.io import save_trace
from medtrace.io.trace_members import check_transform_formats
from medtrace.methods.base import Method
from medtrace.storage.cases import case_key, compute_threads
from medtrace.storage.files import atomic_write
from medtrace.storage.places import free_disk
from medtrace.storage.reservations import locked
from medtrace.storage.workspaces import sweep
from medtrace.trace import Trace
from medtrace.workflows.many.attempts import Outcome, Task
from medtrace.workflows.many.overview import TRACE, UNASSESSED, write_overview, write_summary
from medtrace.workflows.many.pairs import cases_of, keep_or_make
from medtrace.workflows.many.parallel import many_line, run_cases
from medtrace.workflows.report import report_beside
from medtrace.workflows.translate import translation

TABLE = "cases.csv"
_PRELOAD = (__name__,)


class TranslatedCases(NamedTuple):
    """The outcome of the images."""

    translated: list[str]
    """Names of the processed cases."""
    kept: list[str]
    """Those that were finished already."""
    failures: list[str]
    """A line for each that failed."""
    overview: Path
    """The page that lists them, the worst first."""


class _How(NamedTuple):
    """What all cases share."""

    run: Path
    digest: str
    """Of the run's files."""
    out: Path
    device: str | None
    batch_size: int
    patch_size: int | tuple[int, ...] | None
    overwrite: bool
    report: bool
    threads: int
    precise: bool
    transforms: tuple[str, ...]
    resample_tilt: bool = False
    page: int | None = None
    allow_training_subjects: bool = False
    checkpoint: str | None = None
    fit: bool = False


def translate_cases(
    run: str | os.PathLike,
    images: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    *,
    contrast: str | None = None,
    device: str | None = None,
    batch_size: int = 8,
    patch_size: int | Sequence[int] | None = None,
    workers: int = 1,
    scheduler: str | None = None,
    threads: int = 1,
    progress: bool = True,
    overwrite: bool = False,
    report: bool = True,
    resample_tilt: bool = False,
    page: int | None = None,
    precise: bool = False,
    transforms: Sequence[str] = (),
    allow_training_subjects: bool = False,
    fit: bool = False,
) -> TranslatedCases:
    """Translate images, each into its own folder in `out`: `NAME/trace/`, and the page `NAME/trace.html`.

    The translation of a natural image is also written as one, `NAME/trace.png` or `NAME/trace.tif` (see
    `translate.translate`).

    A case's folder appears complete or not at all. A case is skipped if the bytes of its image, its mask and the run,
    and the settings, match those of the finished result, and the result is unchanged (recorded in `NAME/case.json`). A
    failing case does not stop the others. `cases.csv` and the page `index.html` list the outcome of each, with the
    verdicts of certificates next to the traces (`medtrace certify`), the worst first.

    Args:
        run: folder left by `medtrace train`.
        images: images, folders of images, or lists; see `image_list.list_images`.
        out: the folder of all results, created if missing.
        contrast: contrast of images whose list names none.
        device: such as "cuda:0"; by default CUDA if available.
        batch_size: slices at once.
        patch_size: see `translate.translate`.
        workers: processes that share the cases.
        scheduler: address of a Dask scheduler whose workers process the cases instead (see `parallel.run_cases`).
        threads: threads of the CPU for a case. With the same number, results are the same bytes for any number of
            workers.
        progress: show a bar on stderr.
        overwrite: replace results with the same name from other images or settings.
        report: write pages.
        resample_tilt: resample DICOM series of a tilted gantry onto grids at right angles.
        page: which page of natural images that have several, from 1.
        precise: store the trace losslessly (see `medtrace.io.save_trace`).
        transforms: further formats to write the fields in: "h5", "nrrd".
        allow_training_subjects: also translate images that the run was trained on; their traces say so.
        fit: if memory runs out, use the largest batch or patch that fits.

    Returns:
        Names of the cases that were translated or kept, and a line for each failure.

    Raises:
        FileNotFoundError: if the run or an image is missing.
        OSError: if another command is using `out`.
        ValueError: if images cannot be distinguished by name, or a setting is outside its range.
    """
    for name, value in (("batch_size", batch_size), ("threads", threads)):
        check_positive(name, value)
    check_transform_formats(transforms)
    listed = list_images(images, several=True)
    how = _How(
        Path(run).absolute(),
        _run_digest(Path(run)),
        Path(out).absolute(),
        device,
        batch_size,
        patch_size if patch_size is None or isinstance(patch_size, int) else tuple(patch_size),
        overwrite,
        report,
        threads,
        precise,
        tuple(transforms),
        resample_tilt,
        page,
        allow_training_subjects,
        chosen_checkpoint(),
        fit,
    )
    tasks = [Task(image.name, (_absolute(image, contrast), how)) for image in listed]
    with locked(how.out), Progress(console=Console(stderr=True), disable=not progress) as bar:
        line = many_line("translating", len(tasks), workers, scheduler)
        announce(line, disk=free_disk(how.out), out=Path(out).name)
        try:
            outcomes = _run(tasks, workers, scheduler, bar)
        finally:
            sweep(how.out)  # from workers that died
        _write_table(how.out / TABLE, listed, outcomes)
        listing = write_overview(how.out, cases_of(how.out, outcomes), "Translations")
    return TranslatedCases(
        [outcome.name for outcome in outcomes if outcome.value == "translated"],
        [outcome.name for outcome in outcomes if outcome.value == "kept"],
        [f"case {outcome.name}: {outcome.failure}" for outcome in outcomes if outcome.failure is not None],
        listing,
    )


def _run(tasks: Sequence[Task], workers: int, scheduler: str | None, bar: Progress) -> list[Outcome]:
    counts = {"translated": 0, "kept": 0, "failed": 0}
    task, steps = bar.add_task("translating", total=len(tasks)), Steps("translating", len(tasks))

    def finished(outcome: Outcome) -> None:
        counts[outcome.value or "failed"] += 1
        told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        bar.update(task, advance=1, description=f"translating ({told})")
        steps.done()

    try:
        return run_cases(
            translate_case, tasks, workers=workers, scheduler=scheduler, finished=finished, preload=_PRELOAD
        )
    finally:
        _objective.cache_clear()


def translate_case(image: ListedImage, how: _How) -> Literal["translated", "kept"]:
    """Translate one image into its folder, unless that holds its result.

    Raises:
        FileExistsError: if the folder holds something else and may not be overwritten.
        FileNotFoundError, ValueError: see `translate.translate`.
    """
    series = {name: chosen for name, (_, chosen) in image.sources.items()}
    key = case_key(
        {"mask": image.mask, **{f"image{name and f' {name}'}": path for name, path in image.files.items()}},
        file=image.path.name,
        run=how.digest,
        contrast=image.contrast,
        device=how.device,
        batch_size=how.batch_size,
        patch_size=how.patch_size,
        report=how.report,
        series=series or image.series,
        resample_tilt=how.resample_tilt,
        page=how.page,
        precise=how.precise,
        transforms=how.transforms,
        summary=1,
        **({} if how.checkpoint is None else {"checkpoint": how.checkpoint}),
    )
    folder = how.out / image.name

    def make(temporary: Path) -> None:
        with Progress(disable=True) as bar:
            result = translation(
                how.run,
                image.files if image.sources else image.path,
                lambda: _objective(how.run, how.digest, how.device),
                mask=image.mask,
                contrast=image.contrast,
                batch_size=how.batch_size,
                patch_size=how.patch_size,
                series=series or image.series,
                resample_tilt=how.resample_tilt,
                page=how.page,
                fit=how.fit,
                bar=bar,
                out=folder,
                allow_training_subjects=how.allow_training_subjects,
            )
        stored: dict[str, Any] = {"precise": how.precise, "transforms": how.transforms}
        save_trace(result.trace, temporary / TRACE, method=result.method, metadata=result.metadata, **stored)
        natural_image_beside(result.trace, temporary / TRACE, result.depth)
        if how.report:
            report_beside(result.trace, temporary / TRACE, result.method)
        notices = result.metadata.get("notices", ())
        verdict, reason = ("WARN", "; ".join(notices)) if notices else (UNASSESSED, "medtrace certify assesses it")
        write_summary(temporary, result.trace, verdict, reason, _numbers(result.trace))

    with compute_threads(how.threads), using_checkpoint(how.checkpoint):
        return "kept" if keep_or_make(folder, key, how.overwrite, make) else "translated"


def _numbers(trace: Trace) -> dict[str, float | None]:
    summary = trace.ledger().summary
    explained = summary.explained_fraction
    return {
        "moved, mm": float(voxel_to_mm(trace.ddf[None], trace.affine)[0].norm(dim=0).mean()),
        "explained, %": None if explained is None else 100 * explained,
        "folded, %": 100 * float(non_diffeomorphic_fraction(trace.ddf[None])[0]),
    }


@lru_cache(maxsize=1)
def _objective(run: Path, digest: str, device: str | None) -> Method:  # noqa: ARG001 - another digest, another run
    """The run's method, loaded once in a process."""
    return load_method(run, device)


def _run_digest(run: Path) -> str:
    for path in (run, record_file(run)):
        if not path.exists():
            raise FileNotFoundError(f"run: {path} is missing; give the folder that `medtrace train --out` wrote")
    files = {"run.json": record_file(run), str(WEIGHTS): own_weights(run, run / WEIGHTS), FILE: run / FILE}
    if chosen_checkpoint() is not None:
        files |= {path.name: path for path in sorted((run / WEIGHTS).parent.glob("*")) if path.is_file()}
    return case_key({name: path if path.is_file() else None for name, path in files.items()})


def _absolute(image: ListedImage, contrast: str | None) -> ListedImage:
    """The image's path as a worker can open it from any working folder."""
    mask = None if image.mask is None else image.mask.absolute()
    sources = {name: (path.absolute(), series) for name, (path, series) in image.sources.items()}
    return replace(image, path=image.path.absolute(), mask=mask, contrast=image.contrast or contrast, sources=sources)


def _write_table(path: Path, images: Sequence[ListedImage], outcomes: Sequence[Outcome]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["case", "image", "status", "reason"])
    for image, outcome in zip(images, outcomes):
        files = " ".join(f"{name}={path}" if name else str(path) for name, path in image.files.items())
        writer.writerow([image.name, files, outcome.value or "failed", outcome.failure or ""])
    atomic_write(path, text.getvalue())
