"""Rows of studies stored one by one as they end, so that a table may grow over days: a CSV a row, task and seed.

A file holds the measurements of every case, below lines `# name: value` that say what they were made with. A table is
built from the files alone.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medtrace.evaluation.bench.drawing import file_name
from medtrace.evaluation.traceability import TraceabilityTable
from medtrace.metrics import CaseTable
from medtrace.storage.files import atomic_write

MARK = "# "
OF_ALL_CASES = "of all cases, "
"""Prefix of a number that covers all cases together."""
DIGITS = 6


@dataclass(frozen=True)
class StoredRow:
    """A row of a study, of one seed.

    Attributes:
        task: task of the study.
        study: its name.
        setting: setting of the bench.
        name: the row's.
        seed: seed of cases and training.
        table: the measurements of every case.
        facts: what they were made with and what they cost, by name; `method` is empty for a control.
    """

    task: str
    study: str
    setting: str
    name: str
    seed: int
    table: CaseTable
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def trained(self) -> bool:
        """Whether it is a training's, not a control's."""
        return bool(self.facts.get("method"))

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU measured it."""
        return self.facts.get("device", "").startswith("cuda")

    def fact(self, name: str) -> float:
        """A fact that is a number; NaN where it is not known."""
        try:
            return float(self.facts.get(name, ""))
        except ValueError:
            return math.nan


def path_of(folder: Path, row: StoredRow) -> Path:
    """The file of a row: those of a GPU lie beside those of a CPU."""
    parts = [row.task, row.study, row.setting, file_name(row.name), str(row.seed), *(["gpu"] if row.on_gpu else [])]
    return folder / f"{'_'.join(parts)}.csv"


def store_row(folder: Path, row: StoredRow) -> Path:
    """Write a row, complete or not at all; one of the same task, study, setting, name, seed and device is replaced."""
    text = io.StringIO(newline="")
    own = {name: str(getattr(row, name)) for name in ("task", "study", "setting", "name", "seed")}
    distances = row.table.distances if isinstance(row.table, TraceabilityTable) else {}
    all_cases = {f"{OF_ALL_CASES}{name}": _number(value) for name, value in distances.items()}
    for name, value in {**own, **row.facts, **all_cases}.items():
        text.write(f"{MARK}{name}: {' '.join(str(value).split())}\n")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([row.table.case_column, *row.table.columns])
    for case, values in row.table.rows.items():
        writer.writerow([case, *(_number(values[name]) if name in values else "" for name in row.table.columns)])
    return atomic_write(path_of(folder, row), text.getvalue(), make_parents=True)


def _number(value: Any) -> str:
    return f"{float(value):.{DIGITS}g}"


def read_row(path: Path) -> StoredRow:
    """Read a stored row.

    Raises:
        ValueError: if the file is not one.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    head = [line.removeprefix(MARK).partition(": ") for line in lines if line.startswith(MARK)]
    facts = {name: value for name, _, value in head}
    table = TraceabilityTable()
    for name in [name for name in facts if name.startswith(OF_ALL_CASES)]:
        table.distances[name.removeprefix(OF_ALL_CASES)] = float(facts.pop(name))
    try:
        own = {name: facts.pop(name) for name in ("task", "study", "setting", "name", "seed")}
        for line in csv.DictReader(line for line in lines if not line.startswith(MARK)):
            case = line.pop(table.case_column)
            table.add(case, {name: float(value) for name, value in line.items() if value})
        return StoredRow(**{**own, "seed": int(own["seed"])}, table=table, facts=facts)  # type: ignore[arg-type]
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(
            f"{path}: expected a row that `medtrace bench --rows` stored, received {error!r}; store it again, or"
            " remove the file"
        ) from error


def stored_rows(folder: Path, task: str, study: str, setting: str) -> Sequence[StoredRow]:
    """The rows of a study that a folder holds, by name and seed."""
    found = [read_row(path) for path in sorted(folder.glob(f"{task}_{study}_{setting}_*.csv"))]
    return sorted(found, key=lambda row: (row.name.lower(), row.seed))
