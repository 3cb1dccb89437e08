"""The rows next to a run in every table of an evaluation: those that cost nothing, and its image without its field."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from torch.utils.data import Subset

from medtrace.data.dataset import load_dataset, read_index
from medtrace.data.preparation.rules import FILE, Preparation
from medtrace.engines.runs import load_method
from medtrace.evaluation.cheap_rows import CURVE, IDENTITY, RIDGE, cheap_rows
from medtrace.evaluation.edges import NO_FIELD as OF_NO_FIELD
from medtrace.evaluation.paired_rows import Comparisons, compare_rows, write_comparison
from medtrace.evaluation.scoring import Scores, Tracer, score_cases
from medtrace.evaluation.tracers import identity, tracer_of
from medtrace.evaluation.verdicts import ABOUT, comparison_table, judged, verdicts
from medtrace.guard.notices import notify
from medtrace.inference.patched import taking_patches
from medtrace.methods.base import Method
from medtrace.metrics import CaseTable
from medtrace.metrics.paired import PairedComparison
from medtrace.networks.patches import PatchInferer
from medtrace.storage.cases import content_digest
from medtrace.storage.files import make_directory
from medtrace.trace import Trace
from medtrace.workflows.scoring.delivered import DeliveredScores, ScanRow
from medtrace.workflows.scoring.trained import trained_row
from medtrace.workflows.unseen.images import TrainingMemory

UNET = "U-Net regression"
"""The row that costs minutes: a U-Net trained on what the run was trained on (`unet_row`)."""
CHEAP = (IDENTITY, CURVE, RIDGE, UNET)
"""Rows that a run has to beat: those that cost nothing, and the plain regression where it was asked for."""
UNET_RUN = Path("rivals") / "unet"
"""Where in a run's folder that U-Net is."""
WITHOUT_UNET = "Not among the rows: U-Net regression, which costs minutes of training; `--unet` adds it.\n"

NO_FIELD = "no field"
"""The control of edge columns: a run's image compared with its source, as if nothing had moved."""
MOST_CASES = 500
"""Maximum number of training cases that rows without a network learn from, sampled at regular steps."""


class EvaluatedRun(NamedTuple):
    """A run that is measured.

    Attributes:
        folder: folder of the run.
        method: loaded from it.
        inferer: how cases are passed to its networks; None passes them whole.
    """

    folder: Path
    method: Method
    inferer: PatchInferer | None = None


def rows_beside(run: EvaluatedRun, dataset: Path | None, *, learned: bool = True) -> dict[str, Tracer]:
    """The rows that cost nothing: the identity, and what learns in seconds from the run's own training cases.

    Args:
        run: the measured run; for a method that registers pairs the identity is enough.
        dataset: the data set to measure on; it may be the run's own, at another path.
        learned: whether more than the identity is requested.

    Returns:
        Row → tracer: "identity", "intensity curve" and "patch ridge". If the training cases are missing, changed or
        unpaired, a notice says so and only the identity is returned.
    """
    if not learned or not run.method.translates:
        return {IDENTITY: identity}
    try:
        folder = _training_folder(TrainingMemory.of(run.folder), dataset)
        cases: Any = load_dataset(folder, "training", cache_rate=0.0)
        if len(cases) > MOST_CASES:
            cases = Subset(cases, [k * len(cases) // MOST_CASES for k in range(MOST_CASES)])
        return {IDENTITY: identity, **cheap_rows(cases)}
    except (OSError, ValueError) as error:
        notify(run.folder, f"no intensity curve and no patch ridge beside it: {error}")
        return {IDENTITY: identity}


def unet_row(run: EvaluatedRun, dataset: Path | None, device: str | None) -> Tracer:
    """A U-Net's regression, trained once by its preset `small` on the run's own training cases, and kept in the run.

    Args:
        run: that it stands beside; cases are taken to the U-Net in its patches.
        dataset: that is measured on; it may be the run's own, at another place.
        device: that the U-Net is trained and used on; by default CUDA where there is one.

    Raises:
        ValueError: if the run translates nothing, or was not trained on pairs of a prepared data set.
        FileNotFoundError: if its training cases are gone or changed.
    """
    if not run.method.translates:
        raise ValueError(f"--unet: expected a run that translates, received {run.method.name}; leave it out")
    folder = _training_folder(TrainingMemory.of(run.folder), dataset)
    trained = trained_row(
        UNET,
        "unet",
        make_directory(run.folder / UNET_RUN.parent) / UNET_RUN.name,
        dataset=folder,
        presets=("small",),
        device=device,
        resume=True,
        console=Console(stderr=True),
    )
    method = load_method(trained, device)

    def tracer(batch: Mapping[str, Any]) -> Sequence[Trace]:
        with taking_patches(method, run.inferer):
            return tracer_of(method)(batch)

    return tracer


def unet_note(runs: Mapping[str, EvaluatedRun], beside: Collection[str]) -> str:
    """A line for a table that lacks the U-Net's row and might have it, else nothing."""
    there = UNET in beside or any(run.method.name == "unet" for run in runs.values())
    return WITHOUT_UNET if RIDGE in beside and not there else ""


def _training_folder(memory: TrainingMemory, dataset: Path | None) -> Path:
    """The folder of a run's unchanged training cases."""
    known = memory.data.get("dataset")
    if not known:
        raise ValueError("it was not trained on a prepared data set")
    for folder in dict.fromkeys([Path(known), *([] if dataset is None else [dataset])]):
        if _holds(folder, memory.data.get("training", ())):
            return folder
    raise FileNotFoundError(f"its training cases are not in {known} as they were; evaluate where they are")


def _holds(folder: Path, entries: Any) -> bool:
    """Whether a data set's training cases are those in a run's record."""
    try:
        index = read_index(folder)["training"]
    except (OSError, ValueError):
        return False
    if [entry["case"] for entry in index] != [entry["case"] for entry in entries]:
        return False
    roles = ("source", "target")
    return all(
        (folder / now[role]).is_file() and content_digest(folder / now[role]) == before[role]
        for now, before in zip(index, entries)
        for role in roles
        if role in before and role in now
    )


def no_field_of(table: CaseTable) -> CaseTable:
    """Extract the row "no field" from a run's table, where it is stored as columns."""
    result = CaseTable(table.case_column)
    for case, values in table.rows.items():
        control = {name: values.pop(name) for name in list(values) if name.endswith(OF_NO_FIELD)}
        result.add(case, {name.removesuffix(OF_NO_FIELD): value for name, value in control.items()})
    return result


def without_edges(scores: Scores) -> Scores:
    """Scores of a row that has no field, without the columns that assess one: an empty control is not a control."""

    def kept(trace: Trace, case: Mapping[str, Any]) -> dict[str, float]:
        return {name: value for name, value in scores(trace, case).items() if not name.startswith("edge_")}

    return kept


def score_rows(
    runs: Mapping[str, EvaluatedRun],
    beside: Mapping[str, Tracer],
    cases: Any,
    scores: Scores,
    batch_size: int,
    progress: bool,
) -> dict[str, CaseTable]:
    """Score runs and their reference rows on the cases that networks see.

    Args:
        runs: row → run.
        beside: row → tracer.
        cases: a data set.
        scores: what is reported of a case.
        batch_size: cases traced at once.
        progress: show bars.

    Returns:
        Row → table: the runs, for each that moves its "no field", and the rows beside, without edge columns.
    """
    result: dict[str, CaseTable] = {}

    def scored(row: str, tracer: Tracer, of_row: Scores) -> CaseTable:
        return score_cases(tracer, cases, scores=of_row, batch_size=batch_size, progress=row if progress else None)

    for row, run in runs.items():
        moves = run.method.abilities.moves
        with taking_patches(run.method, run.inferer):
            result[row] = scored(row, tracer_of(run.method), scores)
        control = no_field_of(result[row])
        if moves:
            result[no_field_name(row, runs)] = control
    for row, tracer in beside.items():
        result[row] = scored(row, tracer, without_edges(scores))
    return result


def no_field_name(row: str, runs: Mapping[str, Any]) -> str:
    """The name of a run's image without its field."""
    return NO_FIELD if len(runs) == 1 else f"{NO_FIELD} ({row})"


def scan_rows(
    runs: Mapping[str, EvaluatedRun], beside: Mapping[str, Tracer], dataset: Path | None
) -> dict[str, ScanRow]:
    """The rows that translate scans; reference rows use the inputs and outputs of the first run.

    Args:
        runs: row → run; those that register pairs translate none.
        beside: row → tracer.
        dataset: the prepared folder.
    """
    natural = dataset is not None and (dataset / FILE).is_file() and Preparation.load(dataset / FILE).natural_image
    result = {row: ScanRow.of(run.folder, run.method, natural) for row, run in runs.items() if run.method.translates}
    first = next(iter(result.values()), None)
    return result if first is None else {**result, **{row: first.beside(tracer) for row, tracer in beside.items()}}


def comparisons_of(
    tables: Mapping[str, CaseTable], subjects: Mapping[str, str], delivered: DeliveredScores
) -> dict[tuple[str, str, str], PairedComparison]:
    """Pairwise comparisons of rows by subject, on the cases and on the delivered scans.

    Args:
        tables: row → cases, the rows under test first.
        subjects: case → subject.
        delivered: scores of the scans.
    """
    return {**compare_rows(tables, subjects), **compare_rows(delivered.tables, delivered.subjects)}


def compared_text(
    comparisons: Comparisons, runs: Mapping[str, str], members: Mapping[str, Collection[str]] | None = None
) -> tuple[str, list[str]]:
    """A table's text about the comparison, as Markdown, and the verdicts in it.

    Args:
        comparisons: comparisons of `comparisons_of`.
        runs: row → its name in the text.
        members: mean over trainings → its own trainings, which it is not compared with.
    """
    named = {
        (column, runs.get(first, first), runs.get(second, second)): one
        for (column, first, second), one in comparisons.items()
        if first in runs and second not in (members or {}).get(first, ())
    }
    lines = verdicts(named, runs.values(), CHEAP)
    table = comparison_table(named, judged(column for column, *_ in named))
    if not table:
        return "", lines
    return "\n".join([ABOUT, "", table, *(f"- {line}" for line in lines)]).rstrip() + "\n", lines


def write_tables(
    out: Path,
    tables: Mapping[str, CaseTable],
    delivered: DeliveredScores,
    comparisons: Comparisons,
    runs: Collection[str],
) -> dict[str, str]:
    """Write the rows by case and their summaries, likewise for delivered scans, and the comparison.

    Args:
        out: the folder.
        tables: row → cases.
        delivered: scores of the scans.
        comparisons: comparisons of `comparisons_of`.
        runs: rows that are called as their folders are; of others, what a file's name should not hold becomes "_".

    Returns:
        Row → the prefix of its file names.
    """
    names = {row: row if row in runs else re.sub(r"[^\w.-]+", "_", row).strip("_") for row in tables}
    for kind, of_kind in (("", tables), ("_delivered", delivered.tables)):
        for row, table in of_kind.items():
            if table.rows or not kind:
                table.write_csv(out / f"{names[row]}{kind}.csv")
                table.write_summary(out / f"{names[row]}{kind}_summary.csv")
    write_comparison(out, comparisons)
    return names
