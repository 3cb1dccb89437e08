"""Score a trained run on the unseen cases of a data set."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medtrace.checks import check_positive
from medtrace.data.case_loader import sizes_of
from medtrace.engines.checkpoint_choice import chosen_checkpoint
from medtrace.engines.runs import load_method, read_run
from medtrace.evaluation.scoring import score_case
from medtrace.guard.progress import announce
from medtrace.inference.patched import patches_for
from medtrace.methods.base import Method
from medtrace.metrics import CaseTable
from medtrace.networks.patches import PatchInferer
from medtrace.report.score_lines import score_lines
from medtrace.report.viewer import write_report
from medtrace.report.viewer.page import REPORT
from medtrace.storage.files import atomic_write
from medtrace.storage.places import free_disk
from medtrace.storage.reservations import locked, reserving
from medtrace.workflows.scoring.delivered import score_delivered
from medtrace.workflows.scoring.origin import command_of, made_with, options_of, settings_of
from medtrace.workflows.scoring.rows import (
    UNET,
    EvaluatedRun,
    compared_text,
    comparisons_of,
    rows_beside,
    scan_rows,
    score_rows,
    unet_note,
    unet_row,
    write_tables,
)
from medtrace.workflows.scoring.worst import save_worst
from medtrace.workflows.translate import run_preparation
from medtrace.workflows.unseen.splits import SplitReview, marked, reviewed, subjects_of, write_record

TABLE = "table.md"
ROW, RUN = "method", "run"
"""The run's name in files and Python, and in the table."""


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
    cheap_rows: bool = True,
    delivered: bool = True,
    unet: bool = False,
) -> dict[str, CaseTable]:
    """Score a run on one split, next to the rows that cost nothing, and its translations of the split's scans.

    Args:
        run: a folder left by `medtrace train`.
        dataset: a folder made by `medtrace prepare`, or a data set of cases such as `TraceBench`; TorchIO subjects are
            accepted as cases if their images have the names and the range that networks read.
        out: where `<row>.csv`, `<row>_summary.csv`, those of `<row>_delivered`, `table.md`, `comparison.csv` (see
            `paired_rows`), `evaluation.json`, the traces of the worst cases (`worst/`) and a page of these,
            `report.html`, are written; by default `RUN/evaluation/<split>`. `medtrace report RUN` makes one document of
            all of it.
        split: split of a prepared folder.
        device: by default CUDA if available.
        batch_size: cases traced at once.
        patch_size: edge of the patches in which volumes are passed to the networks, or one number per axis; 0 takes
            entire volumes. None decides by the largest volume, see `medtrace.inference.patched.patches_for`.
        progress: show a bar.
        allow_training_subjects: also measure subjects that the run was trained on; `training_subject` is then 1 in
            their rows.
        cheap_rows: besides the identity, also the intensity curve and the patch ridge, learned from the run's training
            cases (see `evaluated_rows.rows_beside`).
        delivered: also translate the scans themselves, as `translate` does, and score them on their own grid in the
            target's units (see `medtrace.evaluation.delivered`).
        unet: also score a U-Net's regression, trained in minutes on the run's training cases unless it was before (see
            `scoring.rows.unet_row`).

    Returns:
        The rows "method", "identity", "intensity curve", "patch ridge", "U-Net regression" if requested and, for a
        method that moves, "no field" (see `evaluated_rows`), per case, with the columns of `score_cases`. Rows without
        a field have no edge columns.

    Raises:
        ValueError: if a case belongs to a subject that the run was trained on, recognized by its images (see
            `unseen.review_split`).
    """
    from medtrace.data import items_of_subjects, load_dataset

    folder = Path(dataset) if isinstance(dataset, (str, os.PathLike)) else None
    review = SplitReview() if folder is None else reviewed(run, folder, split, allow_training_subjects)
    method = load_method(run, device)
    cases: Any = (
        items_of_subjects(dataset, read_run(run).settings.spatial_dims)
        if folder is None
        else load_dataset(folder, split, landmarks=True, neighbors=method.neighbors)
    )
    options = options_of(batch_size, patch_size, cheap_rows, delivered, allow_training_subjects, unet)
    command = command_of([Path(run)], folder, split, None if out is None else Path(out), options)
    out = evaluation_of(run, split) if out is None else Path(out)
    check_positive("batch_size", batch_size)
    name = Path(run).resolve().name
    inferer = patches_of_cases(method, run, cases, patch_size)
    runs = {ROW: EvaluatedRun(Path(run), method, inferer)}
    announce(f"scoring {name} on {len(cases)} cases of {split}", disk=free_disk(out), out=out.name)
    beside = rows_beside(runs[ROW], folder, learned=cheap_rows)
    if unet:
        beside[UNET] = unet_row(runs[ROW], folder, device)
    tables = score_rows(runs, beside, cases, score_case, batch_size, progress)
    scans = scan_rows(runs, beside, folder) if delivered else {}
    result = score_delivered(scans, folder, split, batch_size=batch_size, patch_size=patch_size, progress=progress)
    marked(tables, review.training)
    subjects = subjects_of(folder)
    comparisons = comparisons_of(tables, subjects, result)
    text, lines = compared_text(comparisons, {ROW: RUN})
    files = write_tables(out, tables, result, comparisons, [ROW])
    write_record(
        out,
        {name: review},
        dataset=folder,
        split=split,
        cases=len(cases),
        described={name: {"row": ROW, "title": method.title, **settings_of(Path(run))}},
        delivered=result.record(),
        verdicts=lines,
        files=files,
        subjects={**{case: subjects[case] for case in tables[ROW].rows if case in subjects}, **result.subjects},
        command=command,
        made_with=made_with(method),
    )
    shown = {RUN: tables[ROW], **{row: table for row, table in tables.items() if row != ROW}}
    parts = [score_lines(shown), result.text({ROW: RUN}), text, unet_note(runs, beside)]
    atomic_write(out / TABLE, "\n".join(filter(None, parts)))
    if len(cases):
        write_report(save_worst(out, runs, tables, cases), out / REPORT)
    return tables


def patches_of_cases(
    method: Method, run: str | os.PathLike, cases: Any, patch_size: int | Sequence[int] | None
) -> PatchInferer | None:
    """How the largest of some cases is divided for a run's method; None if it is not divided."""
    if not len(cases):
        return None
    sizes = sizes_of(cases) or [tuple(cases[0]["source"].shape[1:])]
    return patches_for(method, run_preparation(run, method), max(sizes, key=math.prod), patch_size)


def evaluation_of(run: str | os.PathLike, split: str) -> Path:
    """Where the tables of a run go by default; a chosen checkpoint has its own folder."""
    choice = chosen_checkpoint()
    return Path(run) / "evaluation" / (split if choice is None else f"{split}-{choice}")
