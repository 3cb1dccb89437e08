"""Tables and charts of an evaluation's scores, with intervals by subject."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medtrace.evaluation.verdicts import ABOUT, judged
from medtrace.metrics import CaseTable
from medtrace.metrics.paired import LEVEL, PairedComparison, bootstrap_interval
from medtrace.report.display import figure_png
from medtrace.report.distributions import distribution_figure
from medtrace.report.document import CellTable, Picture
from medtrace.workflows.reporting.measures import KEY, measure_of
from medtrace.workflows.scoring.rows import CHEAP
from medtrace.workflows.unseen.splits import TRAINING_SUBJECT

ROWS_ACROSS = 5
"""Number of rows of an evaluation side by side in one table."""
MOST_CASES = 60
"""Cases that a table lists."""
INTERVALS = f"Mean [{LEVEL:.0%} interval], by a bootstrap over subjects; ↓ lower is better, ↑ higher is better."
_MISSING = "–"


def score_tables(
    tables: Mapping[str, CaseTable],
    subjects: Mapping[str, str],
    named: Mapping[str, str],
    delivered: Mapping[str, Any] | None = None,
) -> list[CellTable]:
    """One line per measure and one column per row: the mean with its interval.

    Args:
        tables: row → its cases.
        subjects: case → subject; a case without one counts as its own subject.
        named: row → its name for readers.
        delivered: see `measure_of`.
    """
    columns = [
        name for name in dict.fromkeys(c for t in tables.values() for c in t.columns) if name != TRAINING_SUBJECT
    ]
    result = []
    names = list(tables)
    for start in range(0, len(names), ROWS_ACROSS):
        shown = names[start : start + ROWS_ACROSS]
        lines = []
        for column in columns:
            cells = [interval_text(tables[row], column, subjects) for row in shown]
            if any(cell != _MISSING for cell in cells):
                measure = measure_of(column, delivered)
                lines.append((f"{measure.label} {measure.arrow}".strip(), measure.unit, *cells))
        if lines:
            heading = ("measure", "unit", *(named.get(row, row) for row in shown))
            result.append(
                CellTable(heading, tuple(lines), frozenset(range(2, len(heading))), _counted(tables, subjects))
            )
    return result


def _counted(tables: Mapping[str, CaseTable], subjects: Mapping[str, str]) -> str:
    cases = max((list(table.rows) for table in tables.values()), key=len)
    people = {subjects.get(case, case) for case in cases}
    return f"{INTERVALS} {counted(len(cases), len(people))}." + (
        " One subject gives no interval." if len(people) == 1 else ""
    )


def counted(cases: int, people: int) -> str:
    """Numbers of cases and subjects.

    Example:
        >>> counted(11, 1)
        '11 cases of 1 subject'
    """
    return f"{cases} case{'s' * (cases != 1)} of {people} subject{'s' * (people != 1)}"


def interval_text(table: CaseTable, column: str, subjects: Mapping[str, str]) -> str:
    """The mean of a column with its interval; each subject counts once, with the mean of its cases."""
    if column not in table.columns:
        return _MISSING
    by_subject: dict[str, list[float]] = defaultdict(list)
    for case, row in table.rows.items():
        if math.isfinite(row.get(column, math.nan)):
            by_subject[subjects.get(case, case)].append(row[column])
    if not by_subject:
        return _MISSING
    values = [float(np.mean(several)) for several in by_subject.values()]
    low, high = bootstrap_interval(values)
    mean = f"{np.mean(values):.4g}"
    counted = sum(map(len, by_subject.values()))
    fewer = "" if counted == len(table.rows) else f" (n={counted})"
    return mean + ("" if math.isnan(low) else f" [{low:.4g}, {high:.4g}]") + fewer


def comparison_table(
    comparisons: Mapping[tuple[str, str, str], PairedComparison], named: Mapping[str, str]
) -> CellTable | None:
    """Runs compared with the other rows, subject by subject; None if nothing is compared."""
    lines, columns = [], judged(column for column, *_ in comparisons)
    for (column, first, second), one in comparisons.items():
        if column in columns and one.n and first in named:
            inside = "" if math.isnan(one.low) else f" [{one.low:+.4g}, {one.high:+.4g}]"
            lines.append(
                (
                    measure_of(column).label + (", delivered scans" if column.startswith("delivered") else ""),
                    named[first],
                    named.get(second, second),
                    f"{one.difference:+.4g}{inside}",
                    f"{one.probability:.0%}",
                    _MISSING if math.isnan(one.effect) else f"{one.effect:.2f}",
                    _MISSING if math.isnan(one.p) else f"{one.p:.2g}",
                    str(one.n),
                )
            )
    if not lines:
        return None
    heading = ("measure", "run", "beside", f"difference [{LEVEL:.0%}]", "better in", "effect d", "p", "subjects")
    return CellTable(heading, tuple(lines), frozenset(range(3, 8)), ABOUT)


def case_table(
    tables: Mapping[str, CaseTable],
    run: str,
    order: Sequence[str],
    named: Mapping[str, str],
    subjects: Mapping[str, str],
) -> CellTable:
    """The cases of a run in a given order, with the key measures and the identity's error."""
    table, identity = tables[run], tables.get(CHEAP[0])
    columns = [column for column in KEY if column in table.columns]
    heading = ["case", "subject", *(measure_of(column).short for column in columns)]
    beside = identity is not None and "mae" in columns
    heading += ["MAE of the identity"] if beside else []
    lines = []
    for case in order[:MOST_CASES]:
        cells = [number_text(table.rows[case].get(column)) for column in columns]
        cells += [number_text(identity.rows.get(case, {}).get("mae"))] if beside and identity is not None else []
        lines.append((case, subjects.get(case, case), *cells))
    left = len(order) - len(lines)
    caption = f"{named.get(run, run)}, the largest error first." + (
        f" {left} more are in the CSV file." if left else ""
    )
    return CellTable(tuple(heading), tuple(lines), frozenset(range(2, len(heading))), caption)


def number_text(value: float | None) -> str:
    return _MISSING if value is None or math.isnan(value) else f"{value:.4g}"


def distribution_picture(tables: Mapping[str, CaseTable], named: Mapping[str, str]) -> Picture | None:
    """Every case of every row in the key measures; None if there is no such measure."""
    known = {column for table in tables.values() for column in table.columns}
    panels = {}
    for column in [column for column in KEY if column in known][:4]:
        measure = measure_of(column)
        panels[f"{measure.title} {measure.arrow}".strip()] = {
            named.get(row, row): [value for value in table.values(column) if math.isfinite(value)]
            for row, table in tables.items()
            if column in table.columns
        }
    panels = {title: rows for title, rows in panels.items() if len({v for values in rows.values() for v in values}) > 1}
    if not panels:
        return None
    return Picture(
        figure_png(distribution_figure(panels)),
        "Each point is a case; the box holds the middle half of them, and the line in it is the median.",
        f"Distribution over cases of {', '.join(panels)}, for {', '.join(named.get(row, row) for row in tables)}",
    )
