"""Tables of results: read from JSON and CSV files, as Markdown or on the terminal, mean ± SD with n."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from medtrace.checks import check_choice
from medtrace.metrics import Summary

Row = Mapping[str, Any]
Better = Literal["min", "max"]
_MISSING = "–"
_SIGNIFICANT = 3
_MOST_DECIMALS = 7


def read_rows(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read a table: a CSV with a header, or JSON holding a list of objects or one object of objects.

    Args:
        path: ends in .csv or .json. A JSON object {name: {...}, ...} becomes rows with "name" first. An object with
            "mean", "sd" and "n" becomes a `Summary`. A CSV's cells become numbers where they are numbers, and None
            where they are empty.

    Returns:
        One dict per row.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is of another format or cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a table of results")
    check_choice("path's suffix", path.suffix, (".csv", ".json"))
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            return [{key: _number(value) for key, value in row.items()} for row in csv.DictReader(file)]
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as JSON ({error}); write it again") from error
    if isinstance(content, dict) and all(isinstance(value, dict) for value in content.values()):
        content = [{"name": name, **row} for name, row in content.items()]
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise ValueError(f"{path}: expected a list of objects or an object of objects; rewrite it in that form")
    return [{key: _summary_or_self(value) for key, value in row.items()} for row in content]


def read_summary(path: str | os.PathLike[str]) -> dict[str, Summary]:
    """Read what `CaseTable.write_summary` wrote: the name of every value and its summary.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a column is missing.
    """
    rows = read_rows(path)
    missing = {"value", *Summary._fields[:4]} - set(rows[0] if rows else ())
    if missing:
        raise ValueError(f"{path}: expected the columns value, n, mean, sd, median, received none of {sorted(missing)}")
    return {str(row["value"]): _as_summary(row) for row in rows}


def markdown_table(
    rows: Sequence[Row],
    columns: Sequence[str] | Mapping[str, str] | None = None,
    *,
    decimals: Mapping[str, int] | None = None,
    best: Mapping[str, Better] | None = None,
) -> str:
    """Write rows as a Markdown table.

    Args:
        rows: one mapping per row. A cell is text, a number, None (a dash), a `Summary` or a mapping with "mean", "sd"
            and "n"; these two are written as mean ± SD.
        columns: keys in order, or key → heading; by default every key in the order of appearance.
        decimals: key → decimals; by default as many as give the column's typical SD two significant digits, or its
            numbers three where there is no SD.
        best: key → "min" or "max": the best mean of that column is set in bold.

    Returns:
        The table, with a last column n where every summary of a row has the same n, and n in each cell elsewhere.

    Raises:
        ValueError: if there are no rows.
    """
    heading, cells, numeric = _layout(rows, columns, decimals, best)
    bold = [[f"**{text}**" if strong else text for text, strong in line] for line in cells]
    rule = ["---:" if right else "---" for right in numeric]
    lines = [heading, rule, *[[text.replace("|", "\\|") for text in line] for line in bold]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def print_table(
    rows: Sequence[Row],
    columns: Sequence[str] | Mapping[str, str] | None = None,
    *,
    title: str | None = None,
    decimals: Mapping[str, int] | None = None,
    best: Mapping[str, Better] | None = None,
    console: Any = None,
) -> None:
    """Print rows on the terminal; arguments as for `markdown_table`, and a rich `Console` to print to."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    heading, cells, numeric = _layout(rows, columns, decimals, best)
    table = Table(title=title, title_justify="left")
    for column, (name, right) in enumerate(zip(heading, numeric)):
        texts = [line[column][0] for line in cells]
        parts = texts if right else [word for text in texts for word in text.split()]  # a number is not broken
        least = max((len(part) for part in parts), default=0)
        table.add_column(escape(name), justify="right" if right else "left", min_width=least)
    for line in cells:
        table.add_row(*[f"[bold]{escape(text)}[/bold]" if strong else escape(text) for text, strong in line])
    (console or Console()).print(table)


def _layout(
    rows: Sequence[Row],
    columns: Sequence[str] | Mapping[str, str] | None,
    decimals: Mapping[str, int] | None,
    best: Mapping[str, Better] | None,
) -> tuple[list[str], list[list[tuple[str, bool]]], list[bool]]:
    """Headings, (text, bold) per cell, and which columns hold numbers."""
    if not rows:
        raise ValueError("rows: expected at least one, received none")
    if columns is None:
        columns = list(dict.fromkeys(key for row in rows for key in row))
    headings = dict(columns) if isinstance(columns, Mapping) else {key: key for key in columns}
    table = [{key: _summary_or_self(row.get(key)) for key in headings} for row in rows]
    counts = [{cell.n for cell in row.values() if isinstance(cell, Summary)} for row in table]
    one_count = any(counts) and all(len(count) <= 1 for count in counts) and "n" not in headings
    places = {key: (decimals or {}).get(key, decimals_of([row[key] for row in table])) for key in headings}
    winners = {key: _best([row[key] for row in table], better) for key, better in (best or {}).items()}
    cells = [
        [
            (cell_text(cell, places[key], with_count=not one_count), index in winners.get(key, ()))
            for key, cell in row.items()
        ]
        for index, row in enumerate(table)
    ]
    numeric = [any(isinstance(row[key], (int, float, Summary)) for row in table) for key in headings]
    names = list(headings.values())
    if one_count:
        names.append("n")
        numeric.append(True)
        for line, count in zip(cells, counts):
            line.append((str(next(iter(count))) if count else _MISSING, False))
    return names, cells, numeric


def cell_text(cell: Any, places: int, with_count: bool) -> str:
    """A cell as tables have it; None is a dash, and a `Summary` mean ± SD, with its n where asked for."""
    if cell is None:
        return _MISSING
    if isinstance(cell, Summary):
        text = _fixed(cell.mean, places)
        if not math.isnan(cell.sd):
            text += f" ± {_fixed(cell.sd, places)}"
        notes = [f"n={cell.n}"] if with_count else []
        notes += [f"{cell.infinite} infinite"] if cell.infinite else []
        notes += [f"{cell.undefined} undefined"] if cell.undefined else []
        return text + (f" ({', '.join(notes)})" if notes else "")
    if isinstance(cell, float):
        return _fixed(cell, places)
    return str(cell)


def _fixed(value: float, places: int) -> str:
    if not math.isfinite(value):
        return _MISSING if math.isnan(value) else ("∞" if value > 0 else "−∞")
    if value != 0 and abs(value) < 0.5 * 10.0**-places:
        return f"{value:.1e}"  # a small number is not zero
    return f"{value:.{places}f}"


def decimals_of(cells: Sequence[Any]) -> int:
    """Decimals that give the typical SD of some cells two significant digits, or their numbers three."""
    spreads = [c.sd for c in cells if isinstance(c, Summary) and math.isfinite(c.sd) and c.sd > 0]
    means = [_mean(cell) for cell in cells]
    sizes = [abs(mean) for mean in means if mean is not None and math.isfinite(mean) and mean != 0]
    if spreads:
        digits = 1 - math.floor(math.log10(sorted(spreads)[len(spreads) // 2]))
    elif sizes:
        digits = _SIGNIFICANT - 1 - math.floor(math.log10(max(sizes)))
    else:
        return 0
    return min(max(digits, 0), _MOST_DECIMALS)


def _best(cells: Sequence[Any], better: Better) -> list[int]:
    check_choice("best", better, ("min", "max"))
    means = {index: _mean(cell) for index, cell in enumerate(cells)}
    known = {index: mean for index, mean in means.items() if mean is not None and not math.isnan(mean)}
    if not known:
        return []
    top = min(known.values()) if better == "min" else max(known.values())
    return [index for index, mean in known.items() if mean == top]


def _mean(cell: Any) -> float | None:
    if isinstance(cell, Summary):
        return cell.mean
    return float(cell) if isinstance(cell, (int, float)) and not isinstance(cell, bool) else None


def _summary_or_self(value: Any) -> Any:
    if isinstance(value, Mapping) and {"mean", "sd", "n"} <= set(value):
        return _as_summary(value)
    return value


def _as_summary(value: Mapping[str, Any]) -> Summary:
    def number(name: str) -> float:
        result = value.get(name)
        return math.nan if result is None else float(result)

    counts = {name: int(value.get(name) or 0) for name in ("infinite", "undefined")}
    return Summary(int(value["n"]), number("mean"), number("sd"), number("median"), **counts)


def _number(text: str | None) -> Any:
    if text is None or text == "":
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
