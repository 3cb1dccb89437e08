"""Calibrate certificates and conformal radii, and write what was found."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medtrace.evaluation.certificate.calibration import TASKS, assess_corrupted, assess_run, assessment_table
from medtrace.evaluation.certificate.radius import (
    calibrate_radius,
    calibrate_radius_on_landmarks,
    predictor_errors,
    radius_text,
    read_subjects,
    run_errors,
)
from medtrace.evaluation.certificate.run_calibration import answer_table, question_run
from medtrace.evaluation.certificate.thresholds import Thresholds
from medtrace.evaluation.certificate.translators import TASKS as WRONG_TASKS
from medtrace.evaluation.certificate.translators import trace_translators, translator_table
from medtrace.storage.files import atomic_write
from medtrace.storage.reservations import reserve_files, reserving


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
    """How often verdicts are right: of corrupted truths, or of a run on the first task and its own answers."""
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
    """How often `medtrace trace` believes translators that are wrong on purpose."""
    limits = None if thresholds is None else Thresholds.load(thresholds)
    settings: dict[str, Any] = {"seed": seed, "thresholds": limits, "progress": sys.stderr.isatty()}
    text = translator_table(trace_translators(tuple(tasks or WRONG_TASKS), cases, spatial_shape, **settings))
    if out is not None:
        atomic_write(out, text + "\n")
    return text


@reserving(lambda out: reserve_files(out))
def radius_table(
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
) -> str:
    """Calibrate a radius, on landmarks if given and else on TraceBench, write it and tell how it held."""
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
    return radius_text(radius)
