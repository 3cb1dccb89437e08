"""The rows of a paper's tables: what is trained, measured once, and kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from medtrace.engines.runs import load_method
from medtrace.evaluation.bench.machine import commit
from medtrace.evaluation.bench.running import DONE
from medtrace.evaluation.papers.scores import score_row
from medtrace.methods import method_class
from medtrace.methods.presets import PAPER
from medtrace.methods.recipes import PaperRow, PaperTable
from medtrace.metrics import Summary
from medtrace.storage.files import make_directory, write_json
from medtrace.workflows.scoring.trained import trained_row

SMOKE = "smoke"
FEW: Mapping[str, Any] = {"training.max_epochs": 1, "training.batch_size": 2, "training.val_interval": 0}
"""Settings that, with the method's preset `smoke`, shorten a paper's training to seconds."""


@dataclass(frozen=True)
class TableRow:
    """A row of a table in its place.

    Attributes:
        table: table of the paper.
        row: row of that table.
        dataset: the prepared folder.
        out: of the reproduction.
        smoke: whether this is only a smoke test.
    """

    table: PaperTable
    row: PaperRow
    dataset: Path
    out: Path
    smoke: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        """Of its training, on top of the preset `paper`."""
        few: dict[str, Any] = {}
        if self.smoke:
            tiny = method_class(self.row.method).settings_type.presets[SMOKE]
            few = {name: value for name, value in tiny.items() if not name.startswith("data.")} | dict(FEW)
        return {**few, **self.row.settings}

    @property
    def run_name(self) -> str:
        """Name of its run, the same for every row with the same training."""
        parts = [f"{name.rpartition('.')[2]}-{value}" for name, value in self.row.settings.items()]
        return "-".join([self.row.method or self.row.control, *parts]).lower().replace("_", "-").replace("+", "")

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.out / "runs" / self.table.data / self.run_name

    @property
    def file(self) -> Path:
        """Its measurements."""
        parts = [f"{name}-{value}" for name, value in self.row.sampling.items()]
        return self.out / "rows" / self.table.data / f"{'-'.join([self.table.scores, self.run_name, *parts])}.json"

    @property
    def trained(self) -> bool:
        """Whether its training is done."""
        return (self.run / DONE).is_file()

    @property
    def done(self) -> bool:
        """Whether it is measured, or never will be."""
        return bool(self.row.missing) or self.file.is_file()

    def measured(self) -> dict[str, Any]:
        """Column → `Summary` or number; empty if it is not measured."""
        if not self.file.is_file():
            return {}
        values: dict[str, Any] = json.loads(self.file.read_text(encoding="utf-8"))["values"]
        return {name: Summary(**value) if isinstance(value, Mapping) else value for name, value in values.items()}


def rows_of(tables: Sequence[PaperTable], datasets: Mapping[str, Path], out: Path, smoke: bool) -> list[TableRow]:
    """The rows of the tables whose data are there, in the paper's order."""
    return [
        TableRow(table, row, datasets[table.data], out, smoke)
        for table in tables
        if table.data in datasets
        for row in table.rows
    ]


def run_row(row: TableRow, device: str | None, progress: bool) -> None:
    """Train a row unless it is trained, measure it, and store the measurements."""
    console = Console(stderr=True, quiet=not progress)
    method = None
    if row.row.method:
        trained_row(
            f"table {row.table.number}, {row.row.label}",
            row.row.method,
            row.run,
            dataset=row.dataset,
            presets=(PAPER,),
            settings=row.settings,
            device=device,
            resume=True,
            console=console,
        )
        method = load_method(row.run, device, row.row.sampling)
    table = score_row(
        row.table.scores, method, row.dataset, smoke=row.smoke, progress=row.row.label if progress else None
    )
    table.write_csv(make_directory(row.file.parent / "cases") / f"{row.file.stem}.csv")
    values: dict[str, Any] = {name: summary._asdict() for name, summary in table.summary().items()}
    write_json(
        row.file,
        {
            "label": row.row.label,
            "method": row.row.method,
            "settings": dict(row.row.settings),
            "commit": commit(),
            "values": values | getattr(table, "distances", {}),
        },
    )
