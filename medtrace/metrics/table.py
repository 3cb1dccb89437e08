"""Per-case records and their summary: n, mean, SD and median, as CSV."""

from __future__ import annotations

import csv
import io
import math
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from medtrace.storage.files import atomic_write


class Summary(NamedTuple):
    """What a column of per-case values amounts to.

    `n` counts all cases. `mean` and `sd` (n − 1 in the denominator; NaN below two cases) are over the finite values;
    `median` is over the defined ones, infinite ones included. `infinite` and `undefined` (NaN) say how many of the n
    are not in the mean.
    """

    n: int
    mean: float
    sd: float
    median: float
    infinite: int = 0
    undefined: int = 0

    def __str__(self) -> str:
        text = f"{self.mean:.4g} ± {self.sd:.3g} (median {self.median:.4g}, n={self.n}"
        text += f", {self.infinite} infinite" if self.infinite else ""
        text += f", {self.undefined} undefined" if self.undefined else ""
        return text + ")"


def summarize(values: Iterable[float]) -> Summary:
    """Summary of per-case values.

    Args:
        values: numbers, a flat sequence or a tensor of any shape; may hold infinities and NaN.

    Returns:
        The summary; its mean is NaN without a defined value, and infinite if all defined values are.

    Raises:
        TypeError: if a value is not a number.

    Example:
        >>> summary = summarize([1.0, 2.0, 6.0, float("inf")])
        >>> summary.n, summary.mean, summary.median, summary.infinite
        (4, 3.0, 4.0, 1)
    """
    numbers = _flat("values", values)
    defined = [number for number in numbers if not math.isnan(number)]
    finite = [number for number in defined if math.isfinite(number)]
    mean = math.fsum(finite) / len(finite) if finite else math.nan
    if defined and not finite:
        mean = sum(defined)  # infinite, or NaN if of both signs
    return Summary(
        n=len(numbers),
        mean=mean,
        sd=statistics.stdev(finite) if len(finite) > 1 else math.nan,
        median=_median(defined),
        infinite=len(defined) - len(finite),
        undefined=len(numbers) - len(defined),
    )


def _median(values: Sequence[float]) -> float:
    if not values:
        return math.nan
    ordered = sorted(values)
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return low if low == high else (low + high) / 2


class CaseTable:
    """Collects named values per case and writes them as CSV.

    One row per case in the order they first appear; one column per value name in the order they first appear. A case
    without some value has an empty cell.

    Example:
        >>> table = CaseTable()
        >>> table.add("first", {"mae": 0.1, "dice": 0.9})
        >>> table.add("second", {"mae": 0.3})
        >>> round(table.summary()["mae"].mean, 3), table.summary()["dice"].n
        (0.2, 1)
    """

    def __init__(self, case_column: str = "case") -> None:
        self.case_column = case_column
        self.rows: dict[str, dict[str, float]] = {}

    def add(self, case: str, values: Mapping[str, float]) -> None:
        """Record values of one case; calls for the same case add columns.

        Raises:
            ValueError: if a value of that name is there already, or a name is the case column's.
        """
        row = self.rows.get(str(case), {})
        for name in values:
            if name == self.case_column:
                raise ValueError(f"values: expected names other than the case column's, received {name!r}; rename it")
            if name in row:
                raise ValueError(f"case {case!r}: {name!r} is recorded already; give every case its own name")
        self.rows[str(case)] = row | {name: float(value) for name, value in values.items()}

    def add_batch(self, cases: Iterable[str], values: Mapping[str, Tensor | Sequence[float]]) -> None:
        """Record values of a batch, as metrics return them: one number per case, (B,) or (B, 1)."""
        if not isinstance(values, Mapping):
            raise TypeError(f"values: expected columns by name, received {type(values).__name__}")
        if isinstance(cases, (str, bytes)) or not isinstance(cases, Iterable):
            raise TypeError(f"cases: expected a list of names, received {cases!r}")
        cases = list(cases)
        columns = {name: _flat(name, column) for name, column in values.items()}
        for name, column in columns.items():
            if len(column) != len(cases):
                raise ValueError(f"{name}: expected {len(cases)} values, one per case, received {len(column)}")
        for index, case in enumerate(cases):
            self.add(case, {name: column[index] for name, column in columns.items()})

    @property
    def columns(self) -> list[str]:
        """Names of the values."""
        return list(dict.fromkeys(name for row in self.rows.values() for name in row))

    def values(self, column: str) -> list[float]:
        """One column over the cases that have it."""
        if column not in self.columns:
            raise KeyError(f"{column!r} is not a column; there are {', '.join(self.columns) or 'none yet'}")
        return [row[column] for row in self.rows.values() if column in row]

    def summary(self) -> dict[str, Summary]:
        """Summary of every column."""
        return {column: summarize(self.values(column)) for column in self.columns}

    def write_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write one row per case; the file appears complete or not at all."""
        columns = self.columns
        lines = [[case, *(_cell(row.get(name)) for name in columns)] for case, row in self.rows.items()]
        return _write(path, [self.case_column, *columns], lines)

    def write_summary(self, path: str | os.PathLike[str]) -> Path:
        """Write one row per column: its name, n, mean, sd, median, infinite, undefined."""
        lines = [[name, *map(_cell, summary)] for name, summary in self.summary().items()]
        return _write(path, ["value", *Summary._fields], lines)


def _flat(name: str, column: Any) -> list[float]:
    """Numbers in order, of a tensor of any shape or a flat sequence."""
    values = column.detach().flatten().tolist() if isinstance(column, Tensor) else column
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise TypeError(f"{name}: expected numbers, one per case, received {values!r}")
    try:
        return [float(value) for value in values]
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: expected numbers, one per case, received others ({error})") from error


def _cell(value: float | None) -> str:
    return "" if value is None else repr(value)


def _write(path: str | os.PathLike[str], header: list[str], lines: list[list[Any]]) -> Path:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(lines)
    return atomic_write(path, text.getvalue(), make_parents=True)
