"""Several runs side by side on the unseen cases of one data set."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medtrace.checks import check_choice
from medtrace.data import load_dataset
from medtrace.data.lists.layouts import SPLITS
from medtrace.engines.runs import load_method, read_run
from medtrace.evaluation.bench.misaligned import BETTER, CONVENTION, column, totals, translation
from medtrace.evaluation.scoring import score_case
from medtrace.evaluation.trainings import Repeated, between_trainings, mean_over, seed_line
from medtrace.guard.progress import announce
from medtrace.metrics import CaseTable, foreground_of
from medtrace.report import markdown_table
from medtrace.report.tables import Better
from medtrace.report.viewer import write_report
from medtrace.report.viewer.page import REPORT
from medtrace.storage.files import atomic_write
from medtrace.storage.places import free_disk
from medtrace.storage.reservations import locked, reserving
from medtrace.trace import Trace
from medtrace.workflows.evaluate import patches_of_cases
from medtrace.workflows.scoring.delivered import doubt_scales, score_delivered
from medtrace.workflows.scoring.origin import command_of, made_with, options_of, settings_of
from medtrace.workflows.scoring.rows import (
    CHEAP,
    NO_FIELD,
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
from medtrace.workflows.unseen.splits import SplitReview, doubts_of, marked, reviewed, subjects_of, write_record

TABLE = "table.md"
AIR_TOLERANCE = 1e-3
"""How far above -1 a target still counts as air."""
HEADINGS = {
    column("nmae"): "NMAE",
    column("psnr"): "PSNR (dB)",
    column("ssim"): "SSIM",
    "mae": "MAE (0-255), whole",
    "drift_mm": "drift (mm)",
    "common_drift_mm": "common drift (mm)",
    "landmark_mm": "landmarks (mm)",
    "label_dice": "Dice of labels",
    "label_hd95_mm": "HD95 of labels (mm)",
}
"""The columns that the table shows."""
NOTE = f"NMAE, PSNR and SSIM are {CONVENTION}; drift is from where the target shows a point to where the image does."
BEST: dict[str, Better] = {
    **{name: BETTER[name] for name in (column("nmae"), column("psnr"), column("ssim"), "mae")},
    "landmark_mm": "min",
    "label_dice": "max",
    "label_hd95_mm": "min",
}
"""Drift has no best value: the identity's compares two contrasts and says little."""


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
    cheap_rows: bool = True,
    delivered: bool = True,
    unet: bool = False,
) -> dict[str, CaseTable]:
    """Score runs on one split next to the rows that cost nothing, and write one table of them.

    Runs of one method, trained on the same cases with settings that differ only in `training.seed`, also get a row of
    their means over the trainings, case by case; that row is the one compared with others.

    Args:
        runs: folders left by `medtrace train`; a row is called by its folder's name.
        dataset: a folder made by `medtrace prepare`, or a data set of cases such as `TraceBench`.
        out: receives `table.md`, `comparison.csv` (see `paired_rows`), `evaluation.json` and for every row `<row>.csv`
            and `<row>_summary.csv`, of delivered scans `<row>_delivered.csv` and `<row>_delivered_summary.csv`; and the
            traces of each run's worst cases (`worst/`), with a page of them, `report.html`. `medtrace report OUT` makes
            one document of all of it.
        split: split of a prepared folder.
        device: by default CUDA if available.
        batch_size: cases traced at once.
        patch_size: see `medtrace.workflows.evaluate.evaluate`; for all runs.
        progress: show bars.
        allow_training_subjects: also measure subjects that a run was trained on; the table says so.
        cheap_rows: see `medtrace.workflows.evaluate.evaluate`; learned from the first run's training cases.
        delivered: likewise.
        unet: likewise, trained on the first run's training cases.

    Returns:
        Means over trainings, every run and the rows beside (as of `medtrace.workflows.evaluate.evaluate`), per case,
        with the columns of `translation_case`.

    Raises:
        ValueError: if there is no run, two rows would have the same name, or a case belongs to a subject that a run was
            trained on (see `unseen.review_split`).
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
    most = max(method.neighbors for method in methods.values())
    cases: Any = dataset if folder is None else load_dataset(folder, split, landmarks=True, neighbors=most)
    measured = {
        name: EvaluatedRun(Path(run), methods[name], patches_of_cases(methods[name], run, cases, patch_size))
        for name, run in zip(names, runs)
    }
    announce(f"scoring {len(runs)} runs on {len(cases)} cases of {split}", disk=free_disk(out), out=Path(out).name)
    first = measured[names[0]]
    beside = rows_beside(first, folder, learned=cheap_rows)
    if unet:
        beside[UNET] = unet_row(first, folder, device)
    tables = score_rows(measured, beside, cases, translation_case, batch_size, progress)
    scans = scan_rows(measured, beside, folder) if delivered else {}
    result = score_delivered(scans, folder, split, batch_size=batch_size, patch_size=patch_size, progress=progress)
    groups = _repeated(names, runs)
    tables, result.tables = (_with_means(one, groups) for one in (tables, result.tables))
    out, doubts = Path(out), doubt_scales({name: row for name, row in scans.items() if name in names})
    marked(tables, {case: seen for review in reviews.values() for case, seen in review.training.items()})
    subjects = subjects_of(folder)
    comparisons = comparisons_of(tables, subjects, result)
    grouped = {name for group in groups for name in group.members}
    compared = [*(group.row for group in groups), *(name for name in names if name not in grouped)]
    members = {group.row: group.members for group in groups}
    text, lines = compared_text(comparisons, dict(zip(compared, compared)), members)
    spreads = {
        group.row: {name: one for tabled in (tables, result.tables) for name, one in _spread(tabled, group).items()}
        for group in groups
    }
    described = {
        name: {"row": name, "title": methods[name].title, **settings_of(Path(run))} for name, run in zip(names, runs)
    }
    options = options_of(batch_size, patch_size, cheap_rows, delivered, allow_training_subjects, unet)
    more: dict[str, Any] = {
        "delivered": result.record(),
        "verdicts": lines,
        "trainings": spreads,
        "files": write_tables(out, tables, result, comparisons, names),
        "subjects": {
            **{case: subjects[case] for case in tables[names[0]].rows if case in subjects},
            **result.subjects,
        },
        "command": command_of([Path(run) for run in runs], folder, split, out, options),
        "made_with": made_with(methods[names[0]]),
    }
    write_record(out, reviews, dataset=folder, split=split, cases=len(cases), described=described, **more)
    notes = [*doubts_of(reviews), *(f"{line}." for line in doubts)]
    notes += [seed_line(group, spreads[group.row]) for group in groups]
    parts = [_table(tables, notes), result.text(), text, unet_note(measured, beside)]
    atomic_write(out / TABLE, "\n".join(filter(None, parts)))
    if len(cases):
        write_report(save_worst(out, measured, tables, cases), out / REPORT)
    return tables


def _table(tables: Mapping[str, CaseTable], notes: Sequence[str]) -> str:
    """The table of the cases, with notes below."""
    rows, shown = _rows(tables)
    best = {name: better for name, better in BEST.items() if name in shown}
    return f"{markdown_table(rows, shown, best=best)}\n" + "".join(f"{line}\n\n" for line in notes) + f"{NOTE}\n"


def _spread(tables: Mapping[str, CaseTable], group: Repeated) -> dict[str, dict[str, float]]:
    return between_trainings(tables, group) if all(row in tables for row in group.members) else {}


def _repeated(names: Sequence[str], runs: Sequence[str | os.PathLike]) -> list[Repeated]:
    """Runs whose records differ only in the training's seed."""
    kinds: dict[str, list[tuple[str, int]]] = {}
    methods = {}
    for name, run in zip(names, runs):
        record = read_run(run)
        settings = record.settings.model_dump(mode="json")
        seed = settings["training"].pop("seed")
        cases = record.training_data.get("training", [])
        kind = json.dumps([record.method, settings, cases], sort_keys=True)
        kinds.setdefault(kind, []).append((name, seed))
        methods[kind] = record.method
    result: list[Repeated] = []
    for kind, members in kinds.items():
        known, seeds = zip(*members)
        if len(set(seeds)) == len(members) > 1:
            row = f"{methods[kind]}, {len(members)} trainings"
            taken = row in [group.row for group in result]
            result.append(Repeated(f"{row} from {known[0]}" if taken else row, known, seeds))
    return result


def _with_means(tables: Mapping[str, CaseTable], groups: Sequence[Repeated]) -> dict[str, CaseTable]:
    """The tables, with the means over repeated trainings first."""
    means = {
        group.row: mean_over([tables[row] for row in group.members])
        for group in groups
        if all(row in tables for row in group.members)
    }
    return {**means, **tables}


def translation_case(trace: Trace, case: Mapping[str, Any]) -> dict[str, float]:
    """The values of one case: those of `score_case`, and how close the translation is to the target.

    For images with one channel also `nmae`, `psnr` and `ssim` under every convention of
    `medtrace.metrics.translation_scores`, where the foreground is the target above air, and `drift_mm` with its
    components (`medtrace.metrics.translation_drift`). A target that is only air has none of these.
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
    taken = (*CHEAP, NO_FIELD)
    doubled = sorted({name for name in names if names.count(name) > 1 or name in taken})
    if doubled:
        raise ValueError(
            f"runs: expected folders of different names other than {', '.join(map(repr, taken))}, which name the rows,"
            f" received {doubled[0]!r} {'twice' if names.count(doubled[0]) > 1 else 'for one'}; rename a folder"
        )
    return names


def _rows(tables: Mapping[str, CaseTable]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The table's rows, and the columns that at least one row has, with their headings."""
    common = totals(tables)["common_drift_mm"]
    known = {name for table in tables.values() for name in table.columns}
    if "drift_mm" in known:
        known.add("common_drift_mm")
    rows = [{"row": row, **table.summary(), "common_drift_mm": common[row]} for row, table in tables.items()]
    return rows, {"row": "", **{name: heading for name, heading in HEADINGS.items() if name in known}}
