"""A study's page made of stored rows alone: means over trainings with their interval, and who is surely ahead."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from medtrace.evaluation.bench.stored import StoredRow
from medtrace.evaluation.bench.study import Better, Study
from medtrace.evaluation.verdicts import comparison_table
from medtrace.metrics import CaseTable, Summary
from medtrace.metrics.paired import compare_paired
from medtrace.report import markdown_table
from medtrace.report.tables import cell_text, decimals_of

BUDGET_SECONDS = 360
"""Maximum seconds of one core for a training of a table."""
LEVEL = 0.95
PARAMETERS = "all_parameters_million"
SPENT = "training_processor_seconds"
ALONE = "training_seconds_alone"
"""What the training takes of one core when nothing else runs, where that was measured too."""
COSTS = {PARAMETERS: "parameters (M)", SPENT: "training (s of one core)"}
ABOUT = (
    f"Means over unseen cases. *n* counts trainings, each with its own seed for cases and weights; with several,"
    f" a cell is the mean over trainings with its {LEVEL:.0%} interval (Student's t) in brackets; with one, there is"
    f" no interval. A training may take {BUDGET_SECONDS / 60:g} minutes of one core; one that took longer has a *."
)
ABOUT_ALONE = (
    " Trainings ran beside others, which slows them; ° marks those measured again on the idle machine (1 and 3 epochs,"
    " extrapolated)."
)

PAIRED = (
    f"Case by case: each trained row beside the one that is ahead in the measure, over the cases of the seeds that both"
    f" have (each seed has its own cases; trainings with the same seed share them). Mean difference with the"
    f" {LEVEL:.0%} interval of a paired bootstrap over cases, how often the row is better, Cohen's d of paired"
    " differences (above 0: the row is better), Wilcoxon's p. The interval holds for these trainings; the table above"
    " shows how far trainings differ."
)
OF_THE_FIELD = ("epe", "edge", "non_diffeomorphic")
"""How measures of a field begin: a row that moves nothing is ahead in none of them."""
COMPARED = 2
"""Measures of a study, its first, that are compared case by case."""


class Cell(NamedTuple):
    """A measure of a row over its trainings."""

    mean: float
    low: float
    """Half width of the interval; NaN for one training."""
    high: float
    n: int

    def summary(self) -> Summary:
        """The cell as what a table's decimals are chosen by: half of the interval in the place of the SD."""
        return Summary(self.n, self.mean, self.high - self.mean, self.mean)

    def apart(self, other: Cell) -> bool:
        """Whether both have an interval, and these do not overlap."""
        return self.low > other.high or other.low > self.high


def cell(values: Sequence[float]) -> Cell:
    """Mean and interval over trainings.

    Example:
        >>> cell([1.0])
        Cell(mean=1.0, low=nan, high=nan, n=1)
        >>> one = cell([1.0, 2.0, 3.0])
        >>> round(one.low, 2), round(one.high, 2)
        (-0.48, 4.48)
    """
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return Cell(mean, math.nan, math.nan, n)
    half = float(stats.t.ppf(0.5 + LEVEL / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n))
    return Cell(mean, mean - half, mean + half, n)


def rows_page(study: Study, rows: Sequence[StoredRow], command: str) -> str:
    """The page of a study.

    Args:
        study: study of the rows.
        rows: stored rows, of one setting.
        command: the command that stores a row.

    Returns:
        Markdown: the table with its controls, which row is ahead in which measure, and the machines that measured them.
    """
    title = f"# TraceBench `{study.task}`, study `{study.name}`, row by row\n"
    how = f"A row is stored by `{command}`; this page is built from the files beside it.\n"
    if not rows:
        return "\n".join([title, how, "No row is stored yet.\n"])
    measured = _measured(study, rows)
    names = _ordered(study, measured)
    shown = [name for name in study.columns if name not in ("training_seconds", "parameters_million", *COSTS)]
    lines = [_line(name, rows, measured[name]) for name in names]
    table = markdown_table(_formatted(lines, shown), {"row": "", **{k: study.columns[k] for k in shown}, **_ENDING})
    trained = [name for name in names if _of(rows, name)[0].trained]
    still = [name for name in trained if _moves_nothing(measured[name])]
    verdicts = [_verdict(name, study, {row: measured[row] for row in trained}) for name in shown]
    ahead = "\n".join(f"- {line}" for line in verdicts if line)
    if still and len(still) < len(trained):
        ahead += f"\n- not assessed, as they move nothing: end-point errors, edges and folds of {', '.join(still)}"
    ahead = f"Among the trained rows:\n\n{ahead}" if ahead else ""
    about = ABOUT + (ABOUT_ALONE if _known(rows, ALONE) else "")
    return "\n".join([title, how, about, "", table, ahead, "", *_paired(study, rows, trained), _devices(rows), ""])


_ENDING = {"n": "n", "cases": "cases", **COSTS}


def _label(row: StoredRow) -> str:
    return f"{row.name} (GPU)" if row.on_gpu else row.name


def _of(rows: Sequence[StoredRow], label: str) -> list[StoredRow]:
    return [row for row in rows if _label(row) == label]


def _ordered(study: Study, measured: Mapping[str, Any]) -> list[str]:
    """The controls and then the trained rows, as the study has them; what it no longer has comes last."""
    order = [label for name in (*study.controls, *study.rows) for label in (name, f"{name} (GPU)")]
    return [name for name in order if name in measured] + [name for name in measured if name not in order]


def _measured(study: Study, rows: Sequence[StoredRow]) -> dict[str, dict[str, Cell]]:
    """Row → measure → mean over its seeds; totals are taken within a seed, whose cases all rows share."""
    values: dict[str, dict[str, list[float]]] = {}
    for seed in sorted({row.seed for row in rows}):
        own = [row for row in rows if row.seed == seed]
        tables = _controls_first(study, own)
        for row in own:
            for name, one in row.table.summary().items():
                if not math.isnan(one.mean):
                    values.setdefault(_label(row), {}).setdefault(name, []).append(one.mean)
        # Fractions are of the first control's, which may not be stored yet.
        if next(iter(study.controls)) in tables:
            for name, totals in study.totals(tables).items():
                for label, value in totals.items():
                    if isinstance(value, float) and not math.isnan(value):
                        values.setdefault(label, {}).setdefault(name, []).append(value)
    return {label: {name: cell(several) for name, several in one.items()} for label, one in values.items()}


def _controls_first(study: Study, rows: Sequence[StoredRow]) -> dict[str, CaseTable]:
    tables = {_label(row): row.table for row in rows}
    return {**{name: tables[name] for name in study.controls if name in tables}, **tables}


def _line(label: str, rows: Sequence[StoredRow], measured: Mapping[str, Cell]) -> dict[str, Any]:
    own = _of(rows, label)
    line: dict[str, Any] = {"row": label, **measured, "cases": f"{sum(len(row.table.rows) for row in own)}"}
    line["n"] = f"{len(own)}" if own[0].trained else "–"
    sizes = _known(own, PARAMETERS)
    return {**line, PARAMETERS: f"{np.mean(sizes):.3g}" if sizes else "–", SPENT: _seconds(own)}


def _known(rows: Sequence[StoredRow], name: str) -> list[float]:
    return [value for row in rows if not math.isnan(value := row.fact(name))]


def _seconds(rows: Sequence[StoredRow]) -> str:
    alone = _known(rows, ALONE)
    known = alone or _known(rows, SPENT)
    if not known:
        return "–"
    return f"{np.mean(known):.0f}{'°' if alone else ''}{'*' if max(known) > BUDGET_SECONDS else ''}"


def _formatted(lines: Sequence[Mapping[str, Any]], shown: Sequence[str]) -> list[dict[str, Any]]:
    result = [dict(line) for line in lines]
    for name in shown:
        places = decimals_of([line[name].summary() for line in lines if name in line])
        for line in result:
            line[name] = _text(line[name], places) if name in line else "–"
    return result


def _text(value: Cell, places: int) -> str:
    mean = cell_text(value.mean, places, with_count=False)
    if value.n < 2:
        return mean
    low, high = (cell_text(end, places, with_count=False) for end in (value.low, value.high))
    return f"{mean} [{low}, {high}]"


def _verdict(name: str, study: Study, rows: Mapping[str, Mapping[str, Cell]]) -> str:
    """Who is ahead in a measure, if anyone surely is."""
    better: Better | None = study.better.get(name)
    known = {row: cells[name] for row, cells in rows.items() if name in cells}
    if name.startswith(OF_THE_FIELD):
        known = {row: one for row, one in known.items() if not _moves_nothing(rows[row])}
    if better is None or len(known) < 2:
        return ""
    order = sorted(known, key=lambda row: known[row].mean, reverse=better == "max")
    first, others = order[0], order[1:]
    begin = f"{study.columns[name]}: {first} has the {'lowest' if better == 'min' else 'highest'} mean"
    if all(known[row].mean == known[first].mean for row in others):
        return f"{study.columns[name]}: the same in every row"
    if known[first].n < 2:
        return f"{begin}, but of one training (n = 1): no winner"
    close = [row for row in others if known[row].n > 1 and not known[first].apart(known[row])]
    if close:
        return f"{begin}; its interval overlaps that of {', '.join(close)}: no winner"
    single = sum(known[row].n < 2 for row in others)
    rest = f"; {single} row(s) have one training and no interval" if single else ""
    if single == len(others):
        return f"{begin}, and no other row has an interval: no winner"
    return f"{begin}, ahead of every row with an interval{rest}"


def _moves_nothing(cells: Mapping[str, Cell]) -> bool:
    """Whether a row's field is zero everywhere, by design: its measures of the field are those of no field."""
    return "sd_log_jacobian" in cells and cells["sd_log_jacobian"].mean == 0


def _paired(study: Study, rows: Sequence[StoredRow], trained: Sequence[str]) -> list[str]:
    """Trained rows beside the one that is ahead, case by case; nothing where there is but one."""
    found = {}
    for name in [name for name in study.columns if name in study.better][:COMPARED]:
        values = {label: _by_case(rows, label, name) for label in trained}
        values = {label: known for label, known in values.items() if known}
        larger = study.better[name] == "max"
        means = {label: float(np.mean([*known.values()])) for label, known in values.items()}
        order = sorted(means, key=means.__getitem__, reverse=larger)
        for label in order[1:]:
            shared = [case for case in values[label] if case in values[order[0]]]
            pair = ([values[one][case] for case in shared] for one in (label, order[0]))
            found[study.columns[name], label, order[0]] = compare_paired(*pair, larger_is_better=larger)
    table = comparison_table(found, counted="cases")
    return [PAIRED, "", table, ""] if table else []


def _by_case(rows: Sequence[StoredRow], label: str, column: str) -> dict[tuple[int, str], float]:
    """(seed, case) → a measure of a row, where it is finite."""
    return {
        (row.seed, case): values[column]
        for row in _of(rows, label)
        for case, values in row.table.rows.items()
        if math.isfinite(values.get(column, math.nan))
    }


def _devices(rows: Sequence[StoredRow]) -> str:
    """The machines and versions that measured the rows, each combination once."""
    names = ("device", "threads", "torch", "medtrace", "commit")
    told: dict[str, list[str]] = {}
    for row in rows:
        how = ", ".join(f"{name} {row.facts[name]}" for name in names if row.facts.get(name))
        told.setdefault(how, []).append(f"{_label(row)}, seed {row.seed}")
    return "\n".join(f"- {how}: {'; '.join(own)}" for how, own in told.items())
