"""Several runs side by side on the unseen cases of one data set."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medtrace.checks import check_choice
from medtrace.data import load_dataset
from medtrace.data.lists.layouts import SPLITS
from medtrace.engines.runs import load_method
from medtrace.evaluation.bench.misaligned import BETTER, CONVENTION, column, totals, translation
from medtrace.evaluation.paired_rows import compare_rows, write_comparison
from medtrace.evaluation.scoring import score_case, score_cases
from medtrace.evaluation.tracers import identity, tracer_of
from medtrace.metrics import CaseTable, foreground_of
from medtrace.report import markdown_table
from medtrace.report.tables import Better
from medtrace.storage.files import atomic_write
from medtrace.storage.reservations import locked, reserving
from medtrace.trace import Trace
from medtrace.workflows.evaluate import patches_of_cases
from medtrace.workflows.unseen_split import SplitReview, marked, reviewed, subjects_of, write_record

IDENTITY = "identity"
TABLE = "table.md"
AIR_TOLERANCE = 1e-3
"""How far above -1 a target still is air."""
HEADINGS = {
    column("nmae"): "NMAE",
    column("psnr"): "PSNR (dB)",
    column("ssim"): "SSIM",
    "mae": "MAE (0-255), whole",
    "drift_mm": "drift (mm)",
    "common_drift_mm": "common drift (mm)",
    "landmark_mm": "landmarks (mm)",
}
"""What the table shows of the columns."""
NOTE = f"NMAE, PSNR and SSIM are {CONVENTION}; drift is from where the target shows a point to where the image does."
BEST: dict[str, Better] = {
    **{name: BETTER[name] for name in (column("nmae"), column("psnr"), column("ssim"), "mae")},
    "landmark_mm": "min",
}
"""Drift has no best: the identity's compares two contrasts and says little."""


@reserving(lambda out: locked(out))
def compare(
    runs: Sequence[str | os.PathLike],
    dataset: str | os.PathLike | Sequence[Mapping[str, Any]],
    out: str | os.PathLike,
    *,
    split: str = "test",
    device: str | None = None,
    batch_size: int = 8,
    patch_size: int | Sequence[int] | None = None,
    progress: bool = True,
    allow_training_subjects: bool = False,
) -> dict[str, CaseTable]:
    """Score runs and the identity on one split, and write one table of them.

    Args:
        runs: folders left by `medtrace train`; a row is called by its folder's name.
        dataset: a folder made by `medtrace prepare`, or a data set of cases such as `TraceBench`.
        out: receives `table.md`, `comparison.csv` (see `paired_rows`), `evaluation.json` and for every row `<row>.csv`
            and `<row>_summary.csv`.
        split: of a prepared folder.
        device: by default CUDA where there is one.
        batch_size: cases traced at once.
        patch_size: see `medtrace.workflows.evaluate.evaluate`; for all runs.
        progress: show bars.
        allow_training_subjects: measure also on subjects that a run was trained on; the table says so.

    Returns:
        The rows "identity" and every run, per case, with the columns of `translation_case`.

    Raises:
        ValueError: if there is no run, two rows would have one name, or a case is of a subject that a run was trained
            on (see `unseen.review_split`).
        FileNotFoundError: if a run or the data set is missing.
    """
    names = _names(runs)
    check_choice("split", split, SPLITS)
    folder = Path(dataset) if isinstance(dataset, (str, os.PathLike)) else None
    reviews = {
        name: SplitReview() if folder is None else reviewed(run, folder, split, allow_training_subjects)
        for name, run in zip(names, runs)
    }
    methods = {name: load_method(run, device) for name, run in zip(names, runs)}
    cases: Any = dataset if folder is None else load_dataset(folder, split, landmarks=True)
    tracers = {IDENTITY: identity, **{name: tracer_of(method) for name, method in methods.items()}}
    for name, run in zip(names, runs):
        methods[name].inferer = patches_of_cases(methods[name], run, cases, patch_size)
    tables = {
        row: score_cases(
            tracer, cases, scores=translation_case, batch_size=batch_size, progress=row if progress else None
        )
        for row, tracer in tracers.items()
    }
    out = Path(out)
    marked(tables, {case: seen for review in reviews.values() for case, seen in review.training.items()})
    write_record(out, reviews, dataset=folder, split=split, cases=len(cases))
    for row, table in tables.items():
        table.write_csv(out / f"{row}.csv")
        table.write_summary(out / f"{row}_summary.csv")
    write_comparison(out, compare_rows(_runs_first(tables), subjects_of(folder)))
    rows, shown = _rows(tables)
    best = {name: better for name, better in BEST.items() if name in shown}
    atomic_write(out / TABLE, f"{markdown_table(rows, shown, best=best)}\n{_doubts(reviews)}{NOTE}\n")
    return tables


def _runs_first(tables: Mapping[str, CaseTable]) -> dict[str, CaseTable]:
    return {row: tables[row] for row in sorted(tables, key=lambda row: row == IDENTITY)}


def _doubts(reviews: Mapping[str, SplitReview]) -> str:
    """Lines below the table: training subjects among the cases, and in what the data are unlike the training's."""
    lines = [
        f"{name}: {len(review.training)} of the cases are of subjects that it was trained on."
        for name, review in reviews.items()
        if review.training
    ]
    lines += [f"{name}: {line}." for name, review in reviews.items() for line in review.cautions]
    return "".join(f"{line}\n\n" for line in lines)


def translation_case(trace: Trace, case: Mapping[str, Any]) -> dict[str, float]:
    """The values of one case: those of `score_case`, and how near the translation comes to the target.

    Of images with one channel also `nmae`, `psnr` and `ssim` under every convention of
    `medtrace.metrics.translation_scores`, where the foreground is the target above air, and `drift_mm` with its
    components (`medtrace.metrics.translation_drift`). A target that is air alone has none of these.
    """
    values = score_case(trace, case)
    target = case["target"][None]
    if target.shape[1] == 1 and bool((target > -1 + AIR_TOLERANCE).any()):
        values |= translation(trace, {**case, "head": foreground_of(target, AIR_TOLERANCE)[0]})
    return values


def _names(runs: Sequence[str | os.PathLike]) -> list[str]:
    if not runs:
        raise ValueError("runs: expected at least one run folder, received none")
    names = [Path(run).resolve().name for run in runs]
    doubled = sorted({name for name in names if names.count(name) > 1 or name == IDENTITY})
    if doubled:
        raise ValueError(
            f"runs: expected folders of different names other than {IDENTITY!r}, which name the rows, received"
            f" {doubled[0]!r} {'twice' if names.count(doubled[0]) > 1 else 'for one'}; rename a folder"
        )
    return names


def _rows(tables: Mapping[str, CaseTable]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The table's rows, and its columns that some row has, with their headings."""
    common = totals(tables)["common_drift_mm"]
    known = {name for table in tables.values() for name in table.columns}
    if "drift_mm" in known:
        known.add("common_drift_mm")
    rows = [{"row": row, **table.summary(), "common_drift_mm": common[row]} for row, table in tables.items()]
    return rows, {"row": "", **{name: heading for name, heading in HEADINGS.items() if name in known}}
