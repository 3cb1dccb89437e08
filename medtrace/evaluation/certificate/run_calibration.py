"""Calibration of the checks that query a run again, on the run itself and on controls that are known to be wrong."""

from __future__ import annotations

import copy
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from medtrace.data import TraceBench
from medtrace.engines.runs import load_method
from medtrace.evaluation.certificate.calibration import Tracer, run_translator, traced
from medtrace.evaluation.certificate.corruption import Case
from medtrace.evaluation.certificate.figures import smooth_displacement
from medtrace.evaluation.certificate.probes import Translator, identical_pair_check, translator_checks
from medtrace.evaluation.certificate.record import Check, Status
from medtrace.evaluation.certificate.thresholds import Thresholds
from medtrace.methods.base import Method
from medtrace.trace import Trace

FIGURES = {
    "reproduction": "reproduction_share",
    "equivariance": "equivariance_ratio",
    "identical pair": "identical_pair_voxels",
}
"""The limited figure of each check."""
ITSELF = "the run"
WEIGHTS_OFF = (0.01, 0.1)
"""Relative standard deviations of the noise on the weights of other runs."""
GRAY_LEVELS = 4095
"""Steps of a stored image, over its range."""


class Answer(NamedTuple):
    """One check of the run or of a control."""

    check: str
    asked: str
    figure: float
    status: Status


def question_run(
    run: str | os.PathLike,
    task: str = "postop",
    cases: int = 20,
    spatial_shape: Sequence[int] = (96, 96),
    *,
    seed: int = 0,
    split: str = "test",
    thresholds: Thresholds | None = None,
    progress: bool = False,
) -> list[Answer]:
    """Put the checks that need a run to it and to controls.

    For a method that translates one image. *Reproduction*: the run's own image, in gray levels as a file keeps them,
    must pass; images of runs whose weights differ by 1 % and 10 % must not. *Equivariance*: the run; the mean of its
    image and a remembered one; the remembered image alone, which is 1 by definition.

    For a method that registers. *Identical pair*: the run; the run with a shift of 1 voxel, or a smooth deformation of
    up to 2, in every prediction.

    Args:
        run: folder of the training.
        task: task of TraceBench.
        cases: at least 2; the image of each is remembered for another.
        spatial_shape: (H, W) or (H, W, D).
        seed, split: of TraceBench.
        thresholds: limits; None is the defaults.
        progress: show a bar.
    """
    if cases < 2:
        raise ValueError(f"cases: expected at least 2, so that one can be remembered for another, received {cases}")
    limits = thresholds or Thresholds()
    method = load_method(run, "cpu")
    data = TraceBench(task, spatial_shape, cases=cases, seed=seed, split=split)
    result: list[Answer] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fields of broken runs have no good inverse
        others = {} if not method.translates else _other_runs(method, seed)
        for index in tqdm(range(cases), disable=None if progress else True, unit="case"):
            case, other = data[index], data[(index + 1) % cases]
            if not method.translates:
                result += _registration(method, case, limits, seed + index)
            else:
                result += _translation(method.trace, case, other, others, limits)
    return result


def answer_table(answers: Iterable[Answer]) -> str:
    """The figures and verdicts by check and by what was asked, as Markdown."""
    groups: dict[tuple[str, str], list[Answer]] = {}
    for answer in answers:
        groups.setdefault((answer.check, answer.asked), []).append(answer)
    lines = [
        "| check | asked | n | 5 % | median | 95 % | PASS | WARN | FAIL |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for (check, asked), group in groups.items():
        quantiles = np.quantile([answer.figure for answer in group], (0.05, 0.5, 0.95))
        verdicts = Counter(answer.status for answer in group)
        counts = [str(verdicts[status]) for status in (Status.PASS, Status.WARN, Status.FAIL)]
        cells = [check, asked, str(len(group)), *(f"{value:.3g}" for value in quantiles), *counts]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _translation(
    tracer: Tracer, case: Case, other: Case, others: dict[str, Tracer], limits: Thresholds
) -> Iterator[Answer]:
    affine, source = case["source"].affine, case["source"].as_tensor()
    translator = run_translator(tracer, affine)
    trace = translator(source)
    memory = run_translator(tracer, affine)(other["source"].as_tensor()).image
    reproduction, equivariance = translator_checks(translator, _in_gray_levels(trace), limits)
    yield _answer(reproduction, ITSELF)
    yield _answer(equivariance, ITSELF)
    for name, another in others.items():
        made = run_translator(another, affine)(source)
        yield _answer(translator_checks(translator, made, replace(limits, probes=1))[0], name)
    for name, fraction in (("half of it remembered", 0.5), ("all of it remembered", 1.0)):
        blended = _remembering(translator, memory, fraction)
        yield _answer(translator_checks(blended, blended(source), limits)[1], name)


def _registration(method: Method, case: Case, limits: Thresholds, seed: int) -> Iterator[Answer]:
    trace = traced(method.trace, {"source": case["source"], "target": case["source"]})
    yield _answer(identical_pair_check(trace, limits), ITSELF)
    shift = torch.zeros_like(trace.ddf)
    shift[0] = 1.0
    smooth = smooth_displacement(tuple(trace.ddf.shape[1:]), 2.0, seed)
    for name, added in (("shifted by 1 voxel", shift), ("deformed by up to 2 voxels", smooth)):
        yield _answer(identical_pair_check(replace(trace, ddf=trace.ddf + added), limits), name)


def _answer(check: Check, asked: str) -> Answer:
    return Answer(check.name, asked, check.figures[FIGURES[check.name]], check.status)


def _in_gray_levels(trace: Trace) -> Trace:
    step = float(trace.image.max() - trace.image.min()) / GRAY_LEVELS or 1.0
    return replace(trace, image=torch.round(trace.image / step) * step)


def _remembering(translator: Translator, memory: Tensor, fraction: float) -> Translator:
    def answer(source: Tensor) -> Trace:
        trace = translator(source)
        return replace(trace, image=torch.lerp(trace.image, memory, fraction))

    return answer


def _other_runs(method: Method, seed: int) -> dict[str, Tracer]:
    """Runs of nearly the same weights: every one times 1 + noise."""
    result: dict[str, Callable] = {}
    for noise in WEIGHTS_OFF:
        generator = torch.Generator().manual_seed(seed)
        other = copy.deepcopy(method)
        with torch.no_grad():
            for weights in other.parameters():
                weights.mul_(1 + noise * torch.randn(weights.shape, generator=generator))
        result[f"weights off by {100 * noise:g} %"] = other.trace
    return result
