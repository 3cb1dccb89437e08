"""Tables of two factors, such as methods by noise levels: one block of lines per method or per measure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from medtrace.checks import check_choice
from medtrace.metrics import Summary
from medtrace.report.tables import Row, cell_text, decimals_of, markdown_table, print_table

Blocks = Literal["line", "measure"]
Cells = Mapping[str, Mapping[str, Row]]


def crossed_table(
    cells: Cells,
    measures: Mapping[str, str],
    *,
    blocks: Blocks = "line",
    decimals: Mapping[str, int] | None = None,
) -> str:
    """Write measures of a design with two factors as a Markdown table.

    Args:
        cells: line → column → measured values, each a number or a `Summary`, by key. A missing cell is a dash.
        measures: key → heading.
        blocks: what makes a block of lines: "line" puts the measures of one line below each other, "measure" the lines
            of one measure.
        decimals: key → decimals; by default as for `markdown_table`.

    Returns:
        The table, mean ± SD, with a last column n where all summaries have the same n, and n in each cell elsewhere.

    Raises:
        ValueError: if there is no cell or no measure.
    """
    return markdown_table(*_laid_out(cells, measures, blocks, decimals))


def print_crossed_table(
    cells: Cells,
    measures: Mapping[str, str],
    *,
    blocks: Blocks = "line",
    decimals: Mapping[str, int] | None = None,
    title: str | None = None,
    console: Any = None,
) -> None:
    """Print the means of what `crossed_table` writes, with a title, to a rich `Console`."""
    means = {
        line: {
            column: {key: getattr(row.get(key), "mean", row.get(key)) for key in measures}
            for column, row in columns.items()
        }
        for line, columns in cells.items()
    }
    print_table(*_laid_out(means, measures, blocks, decimals), title=title, console=console)


def _laid_out(
    cells: Cells, measures: Mapping[str, str], blocks: Blocks, decimals: Mapping[str, int] | None
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Lines of text, and their columns with headings."""
    check_choice("blocks", blocks, ("line", "measure"))
    if not measures or not any(cells.values()):
        raise ValueError("cells, measures: expected at least one of each, received none")
    columns = list(dict.fromkeys(column for line in cells.values() for column in line))
    every = {key: [row.get(key) for line in cells.values() for row in line.values()] for key in measures}
    counts = {cell.n for values in every.values() for cell in values if isinstance(cell, Summary)}
    places = {key: (decimals or {}).get(key, decimals_of(values)) for key, values in every.items()}
    order = [(line, key) for line in cells for key in measures]
    if blocks == "measure":
        order = [(line, key) for key in measures for line in cells]
    rows = []
    for line, key in order:
        heads = (line, measures[key]) if blocks == "line" else (measures[key], line)
        row: dict[str, Any] = {"block": heads[0], "line": heads[1]}
        for index, column in enumerate(columns):
            value = cells[line].get(column, {}).get(key)
            row[f"column {index}"] = cell_text(value, places[key], with_count=len(counts) > 1)
        if len(counts) == 1:
            row["n"] = next(iter(counts))
        rows.append(row)
    headings = {"block": "", "line": "", **{f"column {index}": name for index, name in enumerate(columns)}}
    return rows, headings | ({"n": "n"} if len(counts) == 1 else {})
