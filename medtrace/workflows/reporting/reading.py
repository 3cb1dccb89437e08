"""An evaluation as it was written: record, rows, comparisons, worst cases."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medtrace.engines.runs import RECORD
from medtrace.evaluation.paired_rows import COMPARISON
from medtrace.metrics import CaseTable
from medtrace.metrics.paired import PairedComparison
from medtrace.workflows.scoring.worst import FOLDER, INDEX
from medtrace.workflows.unseen.splits import EVALUATION

AGAIN = "evaluate again with `medtrace evaluate RUN DATASET`"


@dataclass(frozen=True)
class Evaluation:
    """The files that an evaluation wrote.

    Attributes:
        folder: where.
        record: record of `evaluation.json`.
        tables: row → its cases; rows that are runs first, by the names of their folders.
        delivered: row → its scans.
        comparisons: (column, first row, second row) → comparison.
        worst: entries of `worst/worst.json`.
    """

    folder: Path
    record: Mapping[str, Any]
    tables: Mapping[str, CaseTable]
    delivered: Mapping[str, CaseTable]
    comparisons: Mapping[tuple[str, str, str], PairedComparison]
    worst: tuple[Mapping[str, Any], ...]

    @property
    def runs(self) -> dict[str, str]:
        """Name of a run's folder → its name for readers."""
        titles = {name: str(run.get("title") or name) for name, run in self.record["runs"].items()}
        return {
            name: title if list(titles.values()).count(title) == 1 else f"{title} ({name})"
            for name, title in titles.items()
        }

    @property
    def subjects(self) -> Mapping[str, str]:
        """Case or scan → subject."""
        return self.record["subjects"]


def is_evaluated(folder: str | os.PathLike) -> bool:
    """Whether a folder is a run or holds an evaluation."""
    return (Path(folder) / EVALUATION).is_file() or (Path(folder) / RECORD).is_file()


def evaluation_folder(folder: str | os.PathLike, split: str | None = None) -> Path:
    """The evaluation that a folder refers to: itself, or the one in a run.

    Args:
        folder: folder of an evaluation, or a run folder.
        split: split of the run's evaluations; None takes the only one.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if a run has several, and none is named.
    """
    folder = Path(folder)
    if (folder / EVALUATION).is_file():
        return folder
    known = sorted(path.parent.name for path in (folder / "evaluation").glob(f"*/{EVALUATION}"))
    if not known:
        raise FileNotFoundError(f"{folder}: expected a run that was evaluated, found no {EVALUATION} in it; {AGAIN}")
    if split is None and len(known) > 1:
        raise ValueError(f"split: expected one of {', '.join(known)}, which {folder} has, received none; name one")
    if split is not None and split not in known:
        raise ValueError(f"split: expected one of {', '.join(known)}, received {split!r}; evaluate that split first")
    return folder / "evaluation" / (split or known[0])


def read_evaluation(folder: Path) -> Evaluation:
    """Read an evaluation.

    Raises:
        FileNotFoundError: if a table is missing.
        ValueError: if it was written by a version whose evaluations lack entries, or cannot be read.
    """
    path = folder / EVALUATION
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        files, runs = record["files"], record["runs"]
        rows = {run.get("row", name): name for name, run in runs.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: expected the record of an evaluation of this version ({error}); {AGAIN}") from error
    tables = {rows.get(row, row): _table(folder / f"{file}.csv") for row, file in files.items()}
    delivered = {
        rows.get(row, row): _table(folder / f"{file}_delivered.csv")
        for row, file in files.items()
        if (folder / f"{file}_delivered.csv").is_file()
    }
    worst = folder / FOLDER / INDEX
    entries = json.loads(worst.read_text(encoding="utf-8"))["cases"] if worst.is_file() else []
    return Evaluation(
        folder,
        record,
        tables,
        delivered,
        {
            (column, rows.get(first, first), rows.get(second, second)): one
            for (column, first, second), one in _comparisons(folder / COMPARISON).items()
        },
        tuple({**entry, "row": rows.get(entry["row"], entry["row"])} for entry in entries),
    )


def _table(path: Path) -> CaseTable:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, which {EVALUATION} names; {AGAIN}")
    with path.open(newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(lines)
        case_column = (reader.fieldnames or ["case"])[0]
        table = CaseTable(case_column)
        for row in reader:
            case = row.pop(case_column)
            table.add(case, {name: float(text) for name, text in row.items() if text})
    return table


def _comparisons(path: Path) -> dict[tuple[str, str, str], PairedComparison]:
    result = {}
    with path.open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            values = [float(row[name]) if row[name] else math.nan for name in PairedComparison._fields]
            key = row["column"], row["first"], row["second"]
            result[key] = PairedComparison(int(values[0]), *values[1:])
    return result
