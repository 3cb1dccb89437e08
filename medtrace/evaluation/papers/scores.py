"""Measurements of a row of a paper's table, by the name in its recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from monai.data import list_data_collate

from medtrace import metrics
from medtrace.data.dataset import load_dataset, load_domain, read_index
from medtrace.evaluation.bench.metamorphic import register_seconds
from medtrace.evaluation.bench.misaligned import translation
from medtrace.evaluation.edges import RANGE
from medtrace.evaluation.registration_scores import score_pair
from medtrace.evaluation.scoring import Tracer, score_cases
from medtrace.evaluation.segmenter import SegmenterSettings, classes_of, segmenter_in
from medtrace.evaluation.traceability import SEGMENTER, feature_network_of, score_traceability
from medtrace.evaluation.tracers import identity, registrar_of, tracer_of
from medtrace.fields import warp
from medtrace.methods import Method
from medtrace.methods.recipes import ScoreName
from medtrace.metrics import CaseTable
from medtrace.storage.files import make_directory
from medtrace.trace import Trace
from medtrace.trace.validation import as_tensor

SMOKE_ITERATIONS = 4
"""Iterations of a segmenter in a smoke test."""


def score_row(
    scores: ScoreName, method: Method | None, dataset: Path, *, smoke: bool = False, progress: str | None = None
) -> CaseTable:
    """Measure a row on the test cases of a data set.

    Args:
        scores: "translation" (NMAE, PSNR, SSIM under the conventions of `metrics.translation_scores`), "fidelity" (the
            columns of `score_cases`), "registration" (those of `score_pair`, and the time of a pair), "information"
            (NMI of warped pairs) or "traceability" (those of `score_traceability`; the segmenter is stored beside
            `dataset`).
        method: a trained one; None is the identity.
        dataset: a prepared folder.
        smoke: only check that it runs.
        progress: label of the progress bar; None shows none.

    Returns:
        The values of every case; for "traceability" a `TraceabilityTable`, whose distances are over all cases together.
    """
    tracer: Tracer = identity if method is None else tracer_of(method)
    if scores == "traceability":
        return _traceability(tracer, method, dataset, smoke, progress)
    cases = load_dataset(dataset, "test")
    if scores == "translation":
        return score_cases(tracer, cases, scores=translation, progress=progress)
    if scores == "registration":
        return _registration(tracer, method, cases, progress)
    if scores == "information":
        found = tracer if method is None else registrar_of(method)
        return score_cases(found, cases, scores=pair_information, progress=progress)
    return score_cases(tracer, cases, progress=progress)


def pair_information(trace: Trace, case: Mapping[str, Any]) -> dict[str, float]:
    """NMI, in [1, 2], of the warped source and the target and of the target warped back and the source."""
    source, target = (as_tensor(case[name])[None] for name in ("source", "target"))
    back = warp(target, trace.inverse_ddf[None])
    values = {
        "nmi_forward": metrics.normalized_mutual_information_score(trace.warped[None], target, data_range=RANGE),
        "nmi_inverse": metrics.normalized_mutual_information_score(back, source, data_range=RANGE),
    }
    return {name: float(value) for name, value in values.items()}


def _registration(tracer: Tracer, method: Method | None, cases: Any, progress: str | None) -> CaseTable:
    table = score_cases(tracer, cases, scores=score_pair, progress=progress)
    if method is None:
        return table
    for number in range(len(cases)):
        case = cases[number]
        batch = list_data_collate([case])
        if not number:
            register_seconds(method, batch)  # the first call is slower
        table.add(case["case"], {"time_ms": 1e3 * register_seconds(method, batch)})
    return table


def _traceability(tracer: Tracer, method: Method | None, dataset: Path, smoke: bool, progress: str | None) -> CaseTable:
    """Translations of the test's sources, segmented; the columns of `score_traceability`."""
    cases, training = _labeled_cases(dataset)
    settings = SegmenterSettings(classes_of(training))
    settings = replace(settings, iterations=SMOKE_ITERATIONS) if smoke else settings
    device = None if method is None else next(method.parameters()).device
    folder = make_directory(dataset.parent / SEGMENTER) / dataset.name
    origin = {"dataset": dataset.name, "cases": len(training)}
    segmenter = segmenter_in(
        folder, training, settings, origin=origin, unseen=cases, device=device, progress=progress is not None
    )
    network = feature_network_of(SEGMENTER, folder, segmenter.device)
    return score_traceability(tracer, cases, segmenter, feature_network=network, progress=progress)


def _labeled_cases(dataset: Path) -> tuple[Sequence[Mapping[str, Any]], Any]:
    """The test's sources, each beside an image of the target domain, and what its segmenter learns from."""
    if not read_index(dataset).get("unpaired"):
        return load_dataset(dataset, "test"), load_dataset(dataset, "training")
    sources, targets = (load_domain(dataset, side, "test") for side in ("source", "target"))
    cases = []
    for number in range(len(sources)):
        other = targets[number % len(targets)]
        cases.append({**sources[number], **{name: other[name] for name in ("target", "target_labels")}})
    return cases, load_domain(dataset, "target", "training")
