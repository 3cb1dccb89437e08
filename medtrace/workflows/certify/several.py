"""The commands `certify` and `calibrate`: several traces, tables and files."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medtrace.report.certificate import certificate_beside, certificate_html
from medtrace.storage.files import atomic_write
from medtrace.storage.places import folder_place
from medtrace.storage.reservations import reserve_files, reserving
from medtrace.workflows.certify.calibration import TASKS, judge_run, judge_spoiled, judgement_table
from medtrace.workflows.certify.command import certify
from medtrace.workflows.certify.radius import (
    Radius,
    calibrate_radius,
    calibrate_radius_on_landmarks,
    predictor_errors,
    read_subjects,
    run_errors,
)
from medtrace.workflows.certify.record import Certificate
from medtrace.workflows.certify.run_calibration import answer_table, question_run
from medtrace.workflows.certify.thresholds import Thresholds

_PAGE = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    "<title>Certificates</title><style>:root {{ color-scheme: light dark; }} body {{ max-width: 75em; margin: auto;"
    " padding: 1em; background: Canvas; }}</style></head><body>{}</body></html>\n"
)


@contextmanager
def _reserve_certificates(
    traces: Sequence[str | os.PathLike], out: str | os.PathLike | None, html: str | os.PathLike | None
) -> Iterator[None]:
    files = _files(traces, out)
    doubled = sorted({str(file) for file in files if files.count(file) > 1})
    if doubled:
        raise ValueError(f"traces: expected folders of different names, received several for {doubled[0]}; rename one")
    if out is not None and len(traces) > 1:
        folder_place(out)
    with reserve_files(*files, html, make_parents=True):
        yield


@reserving(lambda traces, out, html: _reserve_certificates(traces, out, html))
def certify_several(
    traces: Sequence[str | os.PathLike],
    *,
    out: str | os.PathLike | None = None,
    run: str | os.PathLike | None = None,
    source: str | os.PathLike | None = None,
    target: str | os.PathLike | None = None,
    thresholds: str | os.PathLike | None = None,
    radius: str | os.PathLike | None = None,
    contrast: str | None = None,
    html: str | os.PathLike | None = None,
    device: str | None = None,
    keep_metadata: bool = False,
    source_series: str | int | None = None,
    target_series: str | int | None = None,
    resample_tilt: bool = False,
) -> list[Certificate]:
    """Certify saved traces; `out` is a JSON file for one trace, a folder for several (see `certify`).

    Certificates and page leave out names of files and the traces' metadata, which may name patients, unless
    `keep_metadata`.

    Without `out`, each certificate lies beside its trace's folder, as TRACE.certificate.json, where `medtrace report`
    finds it.

    Raises:
        ValueError: if an input or a target is given with several traces.
    """
    for option, given in (("--input", source), ("--target", target)):
        if given is not None and len(traces) > 1:
            raise ValueError(f"{option}: expected with one trace, received {len(traces)}; certify them one by one")
    found = []
    for trace, file in zip(traces, _files(traces, out)):
        found.append(
            certify(
                trace,
                run=run,
                source=source,
                target=target,
                thresholds=thresholds,
                radius=radius,
                contrast=contrast,
                device=device,
                out=file,
                keep_metadata=keep_metadata,
                source_series=source_series,
                target_series=target_series,
                resample_tilt=resample_tilt,
            )
        )
    if html is not None:
        pieces = [certificate_html(certificate.as_dict(), style=not index) for index, certificate in enumerate(found)]
        atomic_write(html, _PAGE.format("\n".join(pieces)))
    return found


def _files(traces: Sequence[str | os.PathLike], out: str | os.PathLike | None) -> list[Path]:
    """The file of every trace's certificate."""
    if out is None:
        return [certificate_beside(trace) for trace in traces]
    if len(traces) == 1:
        return [Path(out)]
    return [Path(out) / f"{Path(trace).resolve().name}.json" for trace in traces]


@reserving(lambda out: reserve_files(out))
def certificate_table(
    tasks: Sequence[str] | None,
    cases: int,
    spatial_shape: Sequence[int],
    *,
    run: str | os.PathLike | None = None,
    thresholds: str | os.PathLike | None = None,
    seed: int = 0,
    out: str | os.PathLike | None = None,
) -> str:
    """How often verdicts are right: of spoiled truths, or of a run on the first task and its own answers."""
    limits = Thresholds() if thresholds is None else Thresholds.load(thresholds)
    chosen = tuple(tasks or TASKS)
    settings: dict[str, Any] = {"seed": seed, "thresholds": limits, "progress": sys.stderr.isatty()}
    if run is None:
        text = judgement_table(judge_spoiled(chosen, cases, spatial_shape, **settings))
    else:
        text = judgement_table(judge_run(run, chosen[0], cases, spatial_shape, **settings))
        text += "\n\n" + answer_table(question_run(run, chosen[0], cases, spatial_shape, **settings))
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
    share: float | None,
    seed: int,
    out: str | os.PathLike | None,
) -> str:
    """Calibrate a radius, on landmarks if given and else on TraceBench, write it and tell how it held."""
    if landmarks is not None:
        population = f"the population of {Path(landmarks).name}"
        radius = calibrate_radius_on_landmarks(
            read_subjects(landmarks), population, coverage=coverage, share=share, seed=seed
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
            share=share,
            seed=seed,
            progress=sys.stderr.isatty(),
        )
    if out is not None:
        radius.write(out)
    return radius_text(radius)


def radius_text(radius: Radius) -> str:
    """A radius and its measured coverage as lines of text."""
    lines = [f"predictor {radius.predictor}: {radius.statement}"]
    found = radius.measured
    if found is None:
        lines.append("coverage not measured: too few subjects")
    else:
        lines.append(
            f"measured on {found.n} unseen subjects: {100 * found.subjects:.1f} % of subjects"
            f" (± {100 * found.standard_error:.1f}), {100 * found.points:.1f} % of their points;"
            f" promised {100 * radius.coverage:g} %"
        )
    return "\n".join(lines)
