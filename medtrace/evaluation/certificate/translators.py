"""Translators that are wrong on purpose, with known truth: how often `medtrace trace` believes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from medtrace.data.contrasts import BY_DEFAULT
from medtrace.evaluation.certificate.corruption import SPOILERS, Case, exchangeable_cases, true_trace
from medtrace.evaluation.certificate.figures import smooth_displacement
from medtrace.evaluation.certificate.in_memory import certify_trace
from medtrace.evaluation.certificate.thresholds import Thresholds
from medtrace.evaluation.tracing import contrasts_by_likeness, lines_of, trace_by_registration, worst_grade
from medtrace.fields import compose, invert, warp
from medtrace.registration import register_images
from medtrace.trace import Contrast, Trace
from medtrace.transforms.naming import detached

BLUR_VOXELS = 2.0
MOVED_VOXELS = 4.0
TASKS = ("postop", "metamorphic", "domain")
AIR = -0.999


class Answer(NamedTuple):
    """A translator's output for a source."""

    image: Tensor
    """(C, *spatial)."""
    ddf: Tensor | None
    """The true field to it, (spatial_dims, *spatial) in voxels; None where the source has no counterpart."""
    inverse_ddf: Tensor | None = None


Translator = Callable[[Trace, Case, Case, np.random.Generator], Answer]
"""From the true trace, its case, another subject's case and randomness."""


def _right(truth: Trace, _: Case, __: Case, ___: np.random.Generator) -> Answer:
    return Answer(truth.image, truth.ddf, truth.inverse_ddf)


def _blurred(truth: Trace, _: Case, __: Case, ___: np.random.Generator) -> Answer:
    return Answer(_blur(truth.image, BLUR_VOXELS), truth.ddf, truth.inverse_ddf)


def _lesion_added(truth: Trace, _: Case, other: Case, random: np.random.Generator) -> Answer:
    spoiled = SPOILERS["bright region invented"].apply(truth, other, random)
    return Answer(spoiled.image, truth.ddf, truth.inverse_ddf)


def _lesion_removed(truth: Trace, case: Case, _: Case, __: np.random.Generator) -> Answer:
    lesion = next((case[name] for name in ("cavity", "mask", "lesion") if name in case), None)
    if lesion is None:
        raise ValueError("case: expected a lesion or a cavity to remove, received none")
    inside = _blur(detached(lesion).float(), 1.0).clamp(0, 1)
    brain = (truth.image > AIR).float() * (1 - inside)
    around = _blur(truth.image * brain, 6.0) / _blur(brain, 6.0).clamp_min(1e-3)
    return Answer(torch.lerp(truth.image, around, inside), truth.ddf, truth.inverse_ddf)


def _anatomy_moved(truth: Trace, _: Case, __: Case, random: np.random.Generator) -> Answer:
    move = smooth_displacement(tuple(truth.image.shape[1:]), MOVED_VOXELS, int(random.integers(1 << 30)))
    back = invert(move[None]).ddf
    inverse = compose(back, truth.inverse_ddf[None])[0]
    return Answer(warp(truth.image[None], move[None])[0], compose(truth.ddf[None], move[None])[0], inverse)


def _other_subject(_: Trace, __: Case, other: Case, ___: np.random.Generator) -> Answer:
    return Answer(detached(other["target"]), None)


def _noise(truth: Trace, _: Case, __: Case, random: np.random.Generator) -> Answer:
    values = torch.from_numpy(random.uniform(-1, 1, tuple(truth.image.shape)).astype(np.float32))
    return Answer(torch.where(truth.image > AIR, values, truth.image), None)


TRANSLATORS: dict[str, Translator] = {
    "right": _right,
    "blurred": _blurred,
    "lesion removed": _lesion_removed,
    "lesion added": _lesion_added,
    "anatomy moved": _anatomy_moved,
    "another subject": _other_subject,
    "noise": _noise,
}
"""By what is wrong with them."""
WITH_TRUTH = ("right", "blurred", "lesion removed", "lesion added", "anatomy moved")


class TracedTranslation(NamedTuple):
    """The verdict of `medtrace trace` on a translator's image."""

    task: str
    translator: str
    grade: str
    registration: str
    certificate: str
    error_mm: float | None
    """Mean over the head, of the field that was found."""
    still_mm: float | None
    """Likewise for a zero field."""


def translators_of(task: str) -> list[str]:
    """Those that a task of TraceBench allows for: without a lesion none is removed."""
    return [name for name in TRANSLATORS if name != "lesion removed" or task in ("postop", "metamorphic")]


def trace_translators(
    tasks: Sequence[str] = TASKS,
    cases: int = 20,
    spatial_shape: Sequence[int] = (96, 96),
    *,
    seed: int = 0,
    split: str = "test",
    thresholds: Thresholds | None = None,
    progress: bool = False,
) -> list[TracedTranslation]:
    """Trace what right and wrong translators make of TraceBench's cases, as `medtrace trace` does.

    Args:
        tasks: tasks of TraceBench.
        cases: cases of each task, at least 2.
        spatial_shape: (H, W) or (H, W, D).
        seed, split: of TraceBench.
        thresholds: thresholds of the certificate; None is the defaults.
        progress: show a bar.
    """
    result = []
    for one in exchangeable_cases(tasks, cases, spatial_shape, seed=seed, split=split, progress=progress):
        truth = true_trace(one.case)
        for name in translators_of(one.task):
            answer = TRANSLATORS[name](truth, one.case, one.other, one.random)
            result.append(_assessed(one.task, name, truth, answer, thresholds))
    return result


def _assessed(task: str, name: str, truth: Trace, answer: Answer, thresholds: Thresholds | None) -> TracedTranslation:
    found = register_images(truth.source, answer.image, truth.affine, truth.affine, alignment="none", held_out=True)
    unknown = replace(Contrast.of("image"), origin=BY_DEFAULT), replace(Contrast.of("translated"), origin=BY_DEFAULT)
    contrasts, _ = contrasts_by_likeness(unknown, found.verdict)
    trace = trace_by_registration(truth.source, answer.image, truth.affine, truth.affine, found, contrasts=contrasts)
    certificate = certify_trace(trace, thresholds=thresholds)
    grade = worst_grade(found.verdict, lines_of(found), certificate)
    errors: list[float | None] = [None, None]
    if answer.ddf is not None:
        inside = truth.image[0] > AIR
        edge = float(truth.affine[:3, : truth.spatial_dims].norm(dim=0).mean())
        errors = [
            float((field - answer.ddf).norm(dim=0)[inside].mean()) * edge
            for field in (trace.ddf, torch.zeros_like(trace.ddf))
        ]
    return TracedTranslation(task, name, grade, found.verdict.grade, str(certificate.verdict), *errors)


def translator_table(results: Iterable[TracedTranslation]) -> str:
    """How often each translator is accepted, as Markdown."""
    groups: dict[tuple[str, str], list[TracedTranslation]] = {}
    for one in results:
        groups.setdefault((one.task, one.translator), []).append(one)
    lines = [
        "| task | translator | n | PASS | WARN | FAIL | error, mm | no field, mm | PASS, and worse than no field |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for (task, name), group in groups.items():
        grades = Counter(one.grade for one in group)
        cells = [task, name, str(len(group)), *(str(grades[grade]) for grade in ("PASS", "WARN", "FAIL"))]
        pairs = [(one.error_mm, one.still_mm, one.grade) for one in group]
        known = [(error, still, grade) for error, still, grade in pairs if error is not None and still is not None]
        if known:
            worse = sum(error > still + WORSE_MM and grade == "PASS" for error, still, grade in known)
            cells += [_spread([one[0] for one in known]), _spread([one[1] for one in known]), str(worse)]
        else:
            cells += ["-", "-", "-"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


WORSE_MM = 0.01
"""By which an error exceeds that of no field to count as worse."""


def _spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.2f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.2f}"


def _blur(image: Tensor, sigma: float) -> Tensor:
    dims = image.ndim - 1
    return torch.from_numpy(ndimage.gaussian_filter(image.numpy(), (0, *(sigma,) * dims), mode="nearest"))
