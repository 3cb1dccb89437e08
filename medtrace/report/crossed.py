"""Tables of two factors, such as methods by noise levels: one block of lines per method or per measure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from medtrace.checks import check_choice
from medtrace.metrics import Summary
from medtrace.report.tables import Row, cell_text, decimals_of, markdown_table

Blocks = Literal["line", "measure"]


def crossed_table(
    cells: Mapping[str, Mapping[str, Row]],
    measures: Mapping[str, str],
    *,
    blocks: Blocks = "line",
    decimals: Mapping[str, int] | None = None,
) -> str:
    """Write measures of a design with two factors as a Markdown table.

    Args:
        cells: line → column → measured values, numbers or `Summary`s by key. A cell that is missing is a dash.
        measures: key → heading.
        blocks: what makes a block of lines: "line" puts the measures of one line below each other, "measure" the lines
            of one measure.
        decimals: key → decimals; by default as for `markdown_table`.

    Returns:
        The table, mean ± SD, with a last column n where all summaries have the same n, and n in each cell elsewhere.

    Raises:
        ValueError: if there is no cell or no measure.
    """
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
    rows: list[dict[str, Any]] = []
    for line, key in order:
        heads = (line, measures[key]) if blocks == "line" else (measures[key], line)
        texts = {
            column: cell_text(cells[line].get(column, {}).get(key), places[key], with_count=len(counts) > 1)
            for column in columns
        }
        rows.append({"outer": heads[0], "inner": heads[1], **texts})
        if len(counts) == 1:
            rows[-1]["n"] = next(iter(counts))
    return markdown_table(rows, {"outer": "", "inner": "", **{name: name for name in list(rows[0])[2:]}})
