"""Score a trained run on the unseen cases of a data set."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import list_data_collate

from medtrace.checks import check_positive
from medtrace.data.case_loader import sizes_of
from medtrace.engines.checkpoint_choice import chosen_checkpoint
from medtrace.engines.runs import load_method
from medtrace.evaluation.paired_rows import compare_rows, write_comparison
from medtrace.evaluation.scoring import score_cases
from medtrace.evaluation.tracers import identity, tracer_of
from medtrace.inference.patched import patches_for, taking_patches
from medtrace.methods.base import Method
from medtrace.metrics import CaseTable
from medtrace.networks.patches import PatchInferer
from medtrace.report.score_lines import score_lines
from medtrace.report.viewer import ReportCase, write_report
from medtrace.report.viewer.page import REPORT
from medtrace.storage.files import atomic_write
from medtrace.storage.reservations import locked, reserving
from medtrace.workflows.translate import run_preparation
from medtrace.workflows.unseen_split import SplitReview, marked, reviewed, subjects_of, write_record

TABLE = "table.md"
SHOWN = 4
"""Cases on the page of an evaluation."""


@reserving(lambda run, out, split: locked(evaluation_of(run, split) if out is None else out))
def evaluate(
    run: str | os.PathLike,
    dataset: str | os.PathLike | Sequence[Mapping[str, Any]],
    out: str | os.PathLike | None = None,
    *,
    split: str = "test",
    device: str | None = None,
    batch_size: int = 8,
    patch_size: int | Sequence[int] | None = None,
    progress: bool = True,
    allow_training_subjects: bool = False,
) -> dict[str, CaseTable]:
    """Score a run and the identity on one split.

    Args:
        run: a folder left by `medtrace train`.
        dataset: a folder made by `medtrace prepare`, or a data set of cases such as `TraceBench`.
        out: where `<row>.csv`, `<row>_summary.csv`, `table.md`, `comparison.csv` (see `paired_rows`), `evaluation.json`
            and the first cases' `report.html` are written; by default `RUN/evaluation/<split>`.
        split: of a prepared folder.
        device: by default CUDA where there is one.
        batch_size: cases traced at once.
        patch_size: edge of the patches that volumes are taken to the networks in, or one number per axis; 0 takes them
            as a whole. None decides by the largest volume, see `medtrace.inference.patched.patches_for`.
        progress: show a bar.
        allow_training_subjects: measure also on subjects that the run was trained on; `training_subject` is then 1 in
            their rows.

    Returns:
        The rows "method" and "identity", per case, with the columns of `score_cases`.

    Raises:
        ValueError: if a case is of a subject that the run was trained on, known by its images (see
            `unseen.review_split`).
    """
    from medtrace.data import load_dataset

    folder = Path(dataset) if isinstance(dataset, (str, os.PathLike)) else None
    review = SplitReview() if folder is None else reviewed(run, folder, split, allow_training_subjects)
    method = load_method(run, device)
    cases: Any = dataset if folder is None else load_dataset(folder, split, landmarks=True)
    out = evaluation_of(run, split) if out is None else Path(out)
    check_positive("batch_size", batch_size)
    inferer = patches_of_cases(method, run, cases, patch_size)
    with taking_patches(method, inferer):
        tables = {
            row: score_cases(tracer, cases, batch_size=batch_size, progress=row if progress else None)
            for row, tracer in {"identity": identity, "method": tracer_of(method)}.items()
        }
    marked(tables, review.training)
    write_record(out, {Path(run).resolve().name: review}, dataset=folder, split=split, cases=len(cases))
    write_comparison(
        out, compare_rows({"method": tables["method"], "identity": tables["identity"]}, subjects_of(folder))
    )
    for row, table in tables.items():
        table.write_csv(out / f"{row}.csv")
        table.write_summary(out / f"{row}_summary.csv")
    atomic_write(out / TABLE, score_lines({"run": tables["method"], "identity": tables["identity"]}))
    if len(cases):
        with taking_patches(method, inferer):
            write_report(_shown(method, cases), out / REPORT)
    return tables


def patches_of_cases(
    method: Method, run: str | os.PathLike, cases: Any, patch_size: int | Sequence[int] | None
) -> PatchInferer | None:
    """How the largest of some cases is divided for a run's method, None if it is not."""
    if not len(cases):
        return None
    sizes = sizes_of(cases) or [tuple(cases[0]["source"].shape[1:])]
    return patches_for(method, run_preparation(run, method), max(sizes, key=math.prod), patch_size)


def evaluation_of(run: str | os.PathLike, split: str) -> Path:
    """Where the tables of a run go by default; a chosen checkpoint has its own folder."""
    choice = chosen_checkpoint()
    return Path(run) / "evaluation" / (split if choice is None else f"{split}-{choice}")


def _shown(method: Method, cases: Any) -> list[ReportCase]:
    """The first cases as the run traces them, one at a time."""
    tracer, shown = tracer_of(method), []
    for number in range(min(SHOWN, len(cases))):
        case = {key: value for key, value in cases[number].items() if "landmarks" not in key}
        (trace,) = tracer(list_data_collate([case]))
        name = f"{number + 1}: {case['case']}" if "case" in case else f"case {number + 1}"
        shown.append(
            ReportCase(name, trace, target=case["target"].as_subclass(torch.Tensor), method=type(method).__name__)
        )
    return shown
