"""Calibration of a certificate's verdicts on TraceBench, where the truth shows which traces are wrong."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.data import MetaTensor, list_data_collate
from torch import Tensor
from tqdm import tqdm

from medtrace.data import TraceBench
from medtrace.engines.runs import load_method
from medtrace.evaluation.certificate import figures as measure
from medtrace.evaluation.certificate.checks import independent_field, trace_checks
from medtrace.evaluation.certificate.corruption import SPOILERS, Case, exchangeable_cases, true_trace
from medtrace.evaluation.certificate.crossed import crossed_case, crossed_contrasts
from medtrace.evaluation.certificate.probes import Translator, translator_checks
from medtrace.evaluation.certificate.record import Certificate, Status
from medtrace.evaluation.certificate.thresholds import Thresholds
from medtrace.fields import non_diffeomorphic_volume
from medtrace.trace import Trace

FIELD_VOXELS = 1.0
"""A field is wrong whose error exceeds this at 1 % of the foreground."""
IMAGE_SHARE = 0.25
IMAGE_VOXELS = 0.02
"""An image is wrong that is off by more than `IMAGE_SHARE` of the range at more than this part of the foreground."""
ACCOUNT_SHARE = 0.01
TASKS = ("postop", "metamorphic")

Tracer = Callable[[Mapping[str, Any]], Sequence[Trace]]


class Assessment(NamedTuple):
    """One trace, what the truth says of it and what its certificate says."""

    kind: str
    wrong: tuple[str, ...]
    """The errors that the truth shows: some of field, folds, inverse, warped, image."""
    certificate: Certificate
    error_mm: float
    """Mean end-point error in the foreground."""

    @property
    def right(self) -> bool:
        """Whether a wrong trace is not passed, and one that is not wrong not failed."""
        return self.certificate.verdict != (Status.PASS if self.wrong else Status.FAIL)


def wrongness(trace: Trace, truth: Trace) -> tuple[str, ...]:
    """The errors of a trace, given the true one of the same source and target.

    `field` and `inverse`: more than 1 voxel off at 1 % of the foreground. `folds`: folded volume above 0. `warped`: not
    the source resampled by the field, by more than 1 % of its range. `image`: off by more than a quarter of the
    target's range at 2 % of the foreground.
    """
    region = measure.foreground(truth.source, truth.image)[0]
    span = float(truth.image.max() - truth.image.min())
    apart = (trace.image - truth.image).abs().amax(0)[region]
    result = {
        "field": _far(trace.ddf, truth.ddf, region),
        "folds": float(non_diffeomorphic_volume(trace.ddf[None].double())[0]) > 0,
        "inverse": _far(trace.inverse_ddf, truth.inverse_ddf, region),
        "warped": measure.account_error(trace) > ACCOUNT_SHARE,
        "image": float((apart > IMAGE_SHARE * span).double().mean()) > IMAGE_VOXELS,
    }
    return tuple(name for name, bad in result.items() if bad)


def assess_corrupted(
    tasks: Sequence[str] = TASKS,
    cases: int = 20,
    spatial_shape: Sequence[int] = (96, 96),
    *,
    seed: int = 0,
    split: str = "test",
    thresholds: Thresholds | None = None,
    target_contrast: str | None = None,
    progress: bool = False,
) -> list[Assessment]:
    """Certify the true traces of TraceBench cases and everything that `SPOILERS` makes of them.

    Args:
        tasks: tasks of TraceBench, with `ddf` and `inverse_ddf`.
        cases: cases of each task, at least 2.
        spatial_shape: (H, W) or (H, W, D).
        seed, split: of TraceBench; the defaults of `Thresholds` were chosen on "validation".
        thresholds: limits; None is the defaults.
        target_contrast: what the targets show instead, in its unit: "T2" or "CT" (see `crossed`); None leaves them.
        progress: show a bar.

    Raises:
        ValueError: if there are fewer than two cases, or the contrast is unknown.
    """
    limits = thresholds or Thresholds()
    assessments = []
    learned = (
        {}
        if target_contrast is None
        else {task: crossed_contrasts(target_contrast, task, tuple(spatial_shape), seed) for task in tasks}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # corrupted fields have no good inverse
        for one in exchangeable_cases(tasks, cases, spatial_shape, seed=seed, split=split, progress=progress):
            case, other = one.case, one.other
            if one.task in learned:
                case, other = (crossed_case(each, learned[one.task]) for each in (case, other))
            truth = true_trace(case)
            reference = independent_field(truth, limits)
            for kind, corruption in SPOILERS.items():
                corrupted = corruption.apply(truth, other, one.random)
                checks = trace_checks(corrupted, limits, reference if corruption.same_pair else None)
                certificate = Certificate(f"{one.task}-{one.number:04d}", tuple(checks))
                assessments.append(Assessment(kind, wrongness(corrupted, truth), certificate, _error(corrupted, truth)))
    return assessments


def assess_run(
    run: str | os.PathLike,
    task: str = "postop",
    cases: int = 20,
    spatial_shape: Sequence[int] = (96, 96),
    *,
    seed: int = 0,
    split: str = "test",
    thresholds: Thresholds | None = None,
    progress: bool = False,
) -> list[Assessment]:
    """Certify a trained run's traces of TraceBench cases, with equivariance where it translates one image."""
    limits = thresholds or Thresholds()
    method = load_method(run, "cpu")
    data = TraceBench(task, spatial_shape, cases=cases, seed=seed, split=split)
    assessments = []
    for index in tqdm(range(cases), disable=None if progress else True, unit="case"):
        case = data[index]
        truth, trace = true_trace(case), traced(method.trace, case)
        registers = not method.translates
        checks = trace_checks(trace, limits, target=truth.image if registers else None)
        if not registers:
            checks += translator_checks(run_translator(method.trace, case["source"].affine), trace, limits)
        certificate = Certificate(f"{task}-{index:04d}", tuple(checks))
        assessments.append(Assessment(Path(run).name, wrongness(trace, truth), certificate, _error(trace, truth)))
    return assessments


def assessment_table(assessments: Iterable[Assessment]) -> str:
    """The verdicts by kind of trace, as Markdown: what the truth says, what the certificate says, how often right."""
    by_kind: dict[str, list[Assessment]] = {}
    for assessment in assessments:
        by_kind.setdefault(assessment.kind, []).append(assessment)
    lines = [
        "| trace | n | error, mm | wrong by the truth | PASS | WARN | FAIL | verdict right | noticed by |",
        "|---|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    everything: list[Assessment] = []
    for kind, group in by_kind.items():
        lines.append(_row(kind, group))
        everything += group
    lines.append(_row("all", everything))
    return "\n".join(lines)


def _row(kind: str, group: Sequence[Assessment]) -> str:
    verdicts = Counter(assessment.certificate.verdict for assessment in group)
    noticed = Counter(
        check.name
        for assessment in group
        for check in assessment.certificate.checks
        if check.status in (Status.FAIL, Status.WARN)
    )
    cells = [
        kind,
        str(len(group)),
        f"{np.mean([assessment.error_mm for assessment in group]):.2f}",
        f"{sum(bool(assessment.wrong) for assessment in group)}",
        *(str(verdicts.get(status, 0)) for status in (Status.PASS, Status.WARN, Status.FAIL)),
        f"{100 * np.mean([assessment.right for assessment in group]):.0f} %",
        ", ".join(f"{name} {count}" for name, count in noticed.most_common(4)) if kind != "all" else "",
    ]
    return "| " + " | ".join(cells) + " |"


def traced(tracer: Tracer, case: Case) -> Trace:
    """The trace of one case, without gradients, on the CPU."""
    kept = {key: value for key, value in case.items() if isinstance(value, Tensor) and "landmarks" not in key}
    with torch.no_grad():
        return tracer(list_data_collate([kept]))[0].to("cpu")


def run_translator(tracer: Tracer, affine: Tensor) -> Translator:
    """A run as a function of one image (C, *spatial) in [-1, 1] on the grid of `affine`."""
    return lambda source: traced(tracer, {"source": MetaTensor(source, affine=affine)})


def _far(field: Tensor, truth: Tensor, region: Tensor) -> bool:
    error = torch.linalg.vector_norm(field - truth, dim=0)[region].sort().values
    return float(error[int(0.99 * (len(error) - 1))]) > FIELD_VOXELS


def _error(trace: Trace, truth: Trace) -> float:
    region = measure.foreground(truth.source, truth.image)
    return measure.agreement(trace.ddf, truth.ddf, truth.affine, region).mean_mm
