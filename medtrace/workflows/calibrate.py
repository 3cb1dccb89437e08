"""Calibrate certificates and conformal radii, and write the results."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medtrace.checks import check_choice
from medtrace.engines.checkpoint_choice import weights_file
from medtrace.evaluation.certificate.calibration import TASKS, assess_corrupted, assess_run, assessment_table
from medtrace.evaluation.certificate.radius import (
    Radius,
    calibrate_radius,
    calibrate_radius_on_landmarks,
    predictor_errors,
    read_subjects,
    run_errors,
)
from medtrace.evaluation.certificate.radius import (
    radius_text as radius_text,
)
from medtrace.evaluation.certificate.run_calibration import answer_table, question_run
from medtrace.evaluation.certificate.thresholds import Thresholds
from medtrace.evaluation.certificate.translators import TASKS as WRONG_TASKS
from medtrace.evaluation.certificate.translators import trace_translators, translator_table
from medtrace.evaluation.intensity.cases import RunCases
from medtrace.evaluation.intensity.interval import (
    FILE,
    UNITS,
    IntensityInterval,
    calibrate_interval,
    measure_interval,
)
from medtrace.evaluation.intensity.planted import plant, planted_table
from medtrace.io.digest import sha256
from medtrace.storage.files import atomic_write
from medtrace.storage.reservations import reserve_files, reserving
from medtrace.workflows.intensity import AGAIN, OTHER_WEIGHTS, serves
from medtrace.workflows.unseen.splits import reviewed


@reserving(lambda out: reserve_files(out))
def certificate_table(
    tasks: Sequence[str] | None,
    cases: int,
    spatial_shape: Sequence[int],
    *,
    run: str | os.PathLike | None = None,
    thresholds: str | os.PathLike | None = None,
    target_contrast: str | None = None,
    seed: int = 0,
    out: str | os.PathLike | None = None,
) -> str:
    """How often verdicts are right: on corrupted truths, or for a run on the first task and its own output."""
    limits = Thresholds() if thresholds is None else Thresholds.load(thresholds)
    chosen = tuple(tasks or TASKS)
    settings: dict[str, Any] = {"seed": seed, "thresholds": limits, "progress": sys.stderr.isatty()}
    if run is not None and target_contrast is not None:
        raise ValueError(
            "target_contrast: expected none with a run, which makes the contrast that it was trained on, received"
            f" {target_contrast!r}; leave one of them out"
        )
    if run is None:
        found = assess_corrupted(chosen, cases, spatial_shape, target_contrast=target_contrast, **settings)
        text = assessment_table(found)
    else:
        text = assessment_table(assess_run(run, chosen[0], cases, spatial_shape, **settings))
        text += "\n\n" + answer_table(question_run(run, chosen[0], cases, spatial_shape, **settings))
    if out is not None:
        atomic_write(out, text + "\n")
    return text


@reserving(lambda out: reserve_files(out))
def translators_table(
    tasks: Sequence[str] | None,
    cases: int,
    spatial_shape: Sequence[int],
    *,
    thresholds: str | os.PathLike | None = None,
    seed: int = 0,
    out: str | os.PathLike | None = None,
) -> str:
    """How often `medtrace trace` accepts translators that are wrong on purpose."""
    limits = None if thresholds is None else Thresholds.load(thresholds)
    settings: dict[str, Any] = {"seed": seed, "thresholds": limits, "progress": sys.stderr.isatty()}
    text = translator_table(trace_translators(tuple(tasks or WRONG_TASKS), cases, spatial_shape, **settings))
    if out is not None:
        atomic_write(out, text + "\n")
    return text


@reserving(lambda out: reserve_files(out))
def calibrated_radius(
    *,
    run: str | os.PathLike | None,
    predictor: str,
    task: str,
    spatial_shape: Sequence[int],
    landmarks: str | os.PathLike | None,
    subjects: int,
    coverage: float,
    fraction: float | None,
    seed: int,
    out: str | os.PathLike | None,
) -> Radius:
    """Calibrate a radius, on landmarks if given and else on TraceBench, and write it."""
    if landmarks is not None:
        population = f"the population of {Path(landmarks).name}"
        radius = calibrate_radius_on_landmarks(
            read_subjects(landmarks), population, coverage=coverage, fraction=fraction, seed=seed
        )
    else:
        errors = predictor_errors(predictor, task, spatial_shape, seed) if run is None else run_errors(run)
        radius = calibrate_radius(
            errors,
            predictor if run is None else Path(run).resolve().name,
            task=task,
            spatial_shape=spatial_shape,
            calibration=subjects,
            test=subjects,
            coverage=coverage,
            fraction=fraction,
            seed=seed,
            progress=sys.stderr.isatty(),
        )
    if out is not None:
        radius.write(out)
    return radius


def calibrated_intervals(
    run: str | os.PathLike,
    *,
    dataset: str | os.PathLike | None = None,
    subjects: int = 200,
    coverage: float = 0.9,
    unit: str = "subject",
    seed: int = 0,
    out: str | os.PathLike | None = None,
) -> tuple[Path, IntensityInterval]:
    """Calibrate a run's interval of intensities on validation subjects, measure it on test subjects, and write it.

    Args:
        run: a folder left by `medtrace train`.
        dataset: a prepared folder, for a run that was trained on one.
        subjects: of TraceBench, to calibrate on and as many to test.
        coverage: promised.
        unit: see `calibrate_interval`.
        seed: seed of TraceBench's test subjects.
        out: file of the interval; by default `FILE` in the run's folder, where `medtrace translate` reads it.

    Returns:
        The file, and the interval with what was measured.

    Raises:
        FileExistsError, OSError: if the file cannot be written.
        ValueError: if the unit is unknown, the data do not fit the run, or there are too few subjects for a guarantee.
    """
    check_choice("unit", unit, UNITS)
    path = Path(run) / FILE if out is None else Path(out)
    with reserve_files(path):
        cases = RunCases(run, dataset, subjects=subjects)
        if dataset is not None:
            check_unseen(run, dataset)
        weights = sha256(weights_file(Path(run)))
        interval = calibrate_interval(cases.known("validation"), cases.population, coverage=coverage, unit=unit)
        interval.check_bounded()
        unseen = RunCases(run, dataset, subjects=subjects, seed=None if dataset is not None else seed)
        measured = measure_interval(interval, unseen.known("test"))
        interval = replace(interval, measured=measured, weights_sha256=weights)
        interval.write(path)
    return path, interval


def intensity_text(path: Path, interval: IntensityInterval) -> str:
    """A written interval as lines of text."""
    return f"{interval_text(interval, interval.measured or {})}\nwritten to {path}"


def hallucinations_table(
    run: str | os.PathLike,
    *,
    dataset: str | os.PathLike | None = None,
    cases: int = 100,
    seed: int = 0,
    out: str | os.PathLike | None = None,
) -> str:
    """How often a run's interval marks planted hallucinations, and its own translations.

    Args:
        run: with an interval of `calibrated_intervals`.
        dataset: as there.
        cases: cases of each kind.
        seed: seed of TraceBench's test subjects and of the lesions.
        out: file of the table.

    Raises:
        FileNotFoundError: if the run has no interval.
        ValueError: if the interval is of other weights, or the data are the run's training data.
    """
    with reserve_files(out):
        interval = IntensityInterval.read(Path(run) / FILE)
        if not serves(interval, Path(run)):
            raise ValueError(f"{Path(run) / FILE}: {OTHER_WEIGHTS}; {AGAIN}")
        made = RunCases(run, dataset, subjects=cases, seed=None if dataset is not None else seed)
        if dataset is not None:
            check_unseen(run, dataset)
        text = planted_table(list(plant(made, interval, cases, seed)))
        if out is not None:
            atomic_write(out, text + "\n")
    return text


def check_unseen(run: str | os.PathLike, dataset: str | os.PathLike) -> None:
    """Check that a run was trained on none of a data set's validation and test subjects.

    Raises:
        ValueError: if it was trained on one.
    """
    for split in ("validation", "test"):
        reviewed(run, Path(dataset), split, False)


def interval_text(interval: IntensityInterval, measured: Mapping[str, Any]) -> str:
    """An interval and its measured coverage, as lines of text."""
    spread = "" if measured["covered_sd"] is None else f" (SD over subjects {100 * measured['covered_sd']:.1f})"
    return "\n".join(
        [
            f"{interval.statement}; local uncertainty: {interval.uncertainty}",
            f"measured on {measured['subjects']} unseen subjects ({measured['cases']} cases):"
            f" {100 * measured['covered']:.1f} % of tissue voxels{spread}, minimum {100 * measured['least']:.1f} %;"
            f" promised {100 * interval.coverage:g} %",
            f"half width, mean over tissue: {measured['half_width']:.4f} of -1 to 1; a constant one that covers"
            f" as much: {measured['constant_half_width']:.4f}",
            f"unexplained change is marked in {100 * measured['marked']:.1f} % of the cases, promised at most"
            f" {100 * (1 - interval.clean):.1f} %",
        ]
    )
