"""Trainings of one method that differ in their seed alone, taken together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from medtrace.evaluation.paired_rows import without_contrast
from medtrace.metrics import CaseTable

TOLD = ("mae", "psnr", "ssim", "delivered_mae", "delivered_psnr", "delivered_ssim")


class Repeated(NamedTuple):
    """A method that was trained several times.

    Attributes:
        row: name of the mean over its trainings.
        members: rows of the trainings.
        seeds: seeds of each.
    """

    row: str
    members: Sequence[str]
    seeds: Sequence[int]


def mean_over(tables: Sequence[CaseTable]) -> CaseTable:
    """The mean over trainings of every value of every case, where all have it.

    Example:
        >>> one, other = CaseTable(), CaseTable()
        >>> one.add("a", {"mae": 1.0}), other.add("a", {"mae": 2.0})
        (None, None)
        >>> mean_over([one, other]).rows
        {'a': {'mae': 1.5}}
    """
    first, *others = tables
    result = CaseTable(first.case_column)
    for case, values in first.rows.items():
        several = [values, *(table.rows[case] for table in others if case in table.rows)]
        if len(several) == len(tables):
            shared = [name for name in values if all(name in one for one in several)]
            result.add(case, {name: float(np.mean([one[name] for one in several])) for name in shared})
    return result


def between_trainings(tables: Mapping[str, CaseTable], repeated: Repeated) -> dict[str, dict[str, float]]:
    """Column → mean over trainings of their means, and standard deviation (n − 1) between them.

    Args:
        tables: row → cases.
        repeated: the trainings.
    """
    means = {row: tables[row].summary() for row in repeated.members}
    result = {}
    told = [column for summary in means.values() for column in summary if without_contrast(column)[0] in TOLD]
    for column in sorted(dict.fromkeys(told), key=lambda column: TOLD.index(without_contrast(column)[0])):
        values = [summary[column].mean for summary in means.values() if column in summary]
        if len(values) == len(means) and np.isfinite(values).all():
            result[column] = {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1))}
    return result


def seed_line(repeated: Repeated, spread: Mapping[str, Mapping[str, float]]) -> str:
    """The spread of trainings of one method, in words."""
    told = ", ".join(f"{name} {one['mean']:.4g} ± {one['sd']:.2g}" for name, one in spread.items())
    seeds = ", ".join(map(str, repeated.seeds))
    return f"{repeated.row}: means of trainings with the seeds {seeds} ± their standard deviation: {told}."
