"""Tables of a reproduction next to the paper's printed numbers: a page and a CSV file for each."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medtrace.evaluation.bench.machine import commit
from medtrace.methods.recipes import PaperTable, Recipe
from medtrace.metrics import Summary
from medtrace.report import markdown_table
from medtrace.storage.files import atomic_write, make_directory
from medtrace.workflows.reproducing.rows import TableRow

PAGE = "reproduction.md"
SPREAD = "Measured ones are from one training per row, mean ± SD over the n test slices; the printed SD is left out."
SMOKED = "Tried with `--smoke`: tiny networks of a few steps on a few small images. The measured numbers mean nothing."


def write_page(
    recipe: Recipe, rows: Sequence[TableRow], out: Path, *, told: Sequence[str], lacking: Sequence[str], smoke: bool
) -> Path:
    """Write `reproduction.md` and `tables/*.csv` from the rows that are measured.

    Args:
        recipe: recipe of the paper.
        rows: rows of the tables whose data are there.
        out: the folder.
        told: lines about what was prepared.
        lacking: data sets that are not there.
        smoke: whether this was only a smoke test.
    """
    make_directory(out / "tables")
    parts = [f"# {recipe.citation}", ""]
    parts += [SMOKED, ""] if smoke else []
    parts += [
        f"By `medtrace reproduce {recipe.method}`, commit {commit()}; printed numbers are the paper's. {SPREAD}",
        "",
    ]
    parts += ["Data:", "", *[f"- {line}" for line in told], "", "Where the paper is silent:", ""]
    parts += [*_decided(recipe, rows), ""]
    for table in dict.fromkeys(row.table.name for row in rows):
        members = [row for row in rows if row.table.name == table]
        parts += _section(members[0].table, members)
        atomic_write(out / "tables" / f"{table}.csv", _csv(members))
    parts += ["## Not reproduced", "", *[f"- {line}" for line in (*recipe.left_out, *lacking)], ""]
    atomic_write(out / PAGE, "\n".join(parts))
    return out / PAGE


def _decided(recipe: Recipe, rows: Sequence[TableRow]) -> list[str]:
    there = {row.table.data for row in rows}
    return [f"- {data.title}, {line}" for data in recipe.data if data.name in there for line in data.decided]


def _section(table: PaperTable, rows: Sequence[TableRow]) -> list[str]:
    columns = {"row": ""}
    for name, column in table.columns.items():
        columns |= {name: column.heading, f"{name}_paper": "printed"}
    lines = [_line(row) for row in rows]
    if any("note" in line for line in lines):
        columns["note"] = "note"
    best = {name: column.better for name, column in table.columns.items() if column.better is not None}
    heading = f"## Table {table.number}: {table.title}" if table.number[0] != "f" else f"## {table.title}"
    return [heading, "", markdown_table(lines, columns, best=best), *[f"- {note}" for note in table.notes], ""]


def _line(row: TableRow) -> dict[str, Any]:
    result: dict[str, Any] = {"row": row.row.label}
    measured = row.measured()
    for name, column in row.table.columns.items():
        value = measured.get(name)
        result[name] = None if value is None else _scaled(value, column.factor)
        printed = row.row.published.get(name)
        result[f"{name}_paper"] = None if printed is None else f"{printed:g}"
    if row.row.missing or not measured:
        result["note"] = row.row.missing or "not run yet"
    return result


def _scaled(value: Any, factor: float) -> Any:
    if not isinstance(value, Summary):
        return factor * float(value)
    return value._replace(mean=factor * value.mean, sd=factor * value.sd, median=factor * value.median)


def _csv(rows: Sequence[TableRow]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["row", "column", "heading", "n", "mean", "sd", "printed", "note"])
    for row in rows:
        line = _line(row)
        for name, column in row.table.columns.items():
            value: Any = line[name]
            cells: Mapping[str, Any] = value._asdict() if isinstance(value, Summary) else {"mean": value}
            numbers = [_number(cells.get(key)) for key in ("n", "mean", "sd")]
            printed = line[f"{name}_paper"] or ""
            writer.writerow([row.row.label, name, column.heading, *numbers, printed, line.get("note", "")])
    return text.getvalue()


def _number(value: Any) -> str:
    return "" if value is None or value != value else f"{value:.10g}"
