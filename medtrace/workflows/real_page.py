"""The page of the study on real heads, from the rows that are finished."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medtrace.evaluation.cheap_rows import RIDGE
from medtrace.evaluation.real.heads import TEST, Head
from medtrace.evaluation.real.scores import MAE, SSIM, UNITS, interval
from medtrace.evaluation.real.tasks import LABELS, TASKS, RealTask
from medtrace.storage.files import atomic_write
from medtrace.workflows.real_labels import COARSE, SCORES, mean_dice
from medtrace.workflows.real_rows import CHEAP, label_of, read_rows

PAGE = "real_translation.md"
HEADINGS = (
    "row",
    "trainings",
    "MAE, 0-255 [95 %]",
    "SSIM [95 %]",
    "MAE in units",
    "MAE minus patch ridge [95 %]",
    "SSIM minus patch ridge [95 %]",
    "CPU s",
)
TRUSTED = ("Cerebral-White-Matter", "Cerebral-Cortex", "Thalamus", "Caudate", "Putamen", "Brain-Stem", "Amygdala")
"""Structures that the network finds reliably."""


def write_page(out: Path, heads: Sequence[Head], left: Sequence[str]) -> Path:
    """Write tables of all finished rows, of all translations in the folder; figures are `write_figures`'s."""
    rows = read_rows(out)
    parts = []
    for task in TASKS.values():
        for person in TEST:
            chosen = [row for row in rows if (row["task"], row["person"]) == (task.name, person)]
            if any(row["row"] not in CHEAP for row in chosen):
                parts += [f"## {task.title}, {person}", "", *_table(chosen), "", *_verdicts(chosen), ""]
    for task in LABELS:
        parts += _labels(out, task)
    listed = ", ".join(f"{head.name} ({', '.join(head.images)})" for head in heads)
    notes = [f"Heads: {listed}.", *[f"Left out: {line}." for line in left]]
    atomic_write(out / PAGE, "\n".join([*parts, *notes]) + "\n")
    return out / PAGE


def _label(row: Mapping[str, Any]) -> str:
    return label_of(row["row"], row["missing"])


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    names = {_label(row): row for row in rows}
    order = sorted(
        names, key=lambda name: (bool(names[name]["missing"]), names[name]["row"] not in CHEAP, _mean(rows, name, MAE))
    )
    lines = ["| " + " | ".join(HEADINGS) + " |", "|---|" + "---:|" * (len(HEADINGS) - 1)]
    for name in order:
        trained = [row for row in rows if _label(row) == name]
        first = trained[0]
        ridge = next((row for row in rows if (row["row"], row["missing"]) == (RIDGE, first["missing"])), None)
        cells = [
            name,
            "-" if first["row"] in CHEAP else str(len(trained)),
            _cell(_slices(trained, MAE), 2),
            _cell(_slices(trained, SSIM), 3),
            f"{np.mean(_slices(trained, UNITS)):.1f}" if UNITS in first["cases"] else "-",
        ]
        for column, digits in ((MAE, 2), (SSIM, 3)):
            if ridge is None or first["row"] == RIDGE:
                cells.append("")
            else:
                cells.append(_cell(_slices(trained, column) - np.array(ridge["cases"][column]), digits, signed=True))
        cells.append(f"{np.mean([row['cpu_seconds'] for row in trained]):.0f}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _verdicts(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Whether the best learned method beats patch ridge, with all sources and without one."""
    result = []
    for missing in dict.fromkeys(row["missing"] for row in rows):
        result += _verdict([row for row in rows if row["missing"] == missing], missing)
    return result


def _verdict(rows: Sequence[Mapping[str, Any]], missing: str) -> list[str]:
    learned = {_label(row) for row in rows if row["row"] not in CHEAP}
    ridge = label_of(RIDGE, missing)
    if not learned or not any(_label(row) == ridge for row in rows):
        return []
    best = min(learned, key=lambda name: _mean(rows, name, MAE))
    parts = []
    for column, name, lower in ((MAE, "MAE", True), (SSIM, "SSIM", False)):
        own, other = _mean(rows, best, column), _mean(rows, ridge, column)
        won = own < other if lower else own > other
        parts.append(f"{name} {own:.3g} against {other:.3g}: {'better' if won else 'worse'}")
    cases = len(rows[0]["names"])
    return [f"Best learned method: {best}; beside {ridge} {'; '.join(parts)}. n = {cases} slices of 1 person."]


def _labels(out: Path, task: RealTask) -> list[str]:
    """Dice of structures, both persons beside each other."""
    files = sorted((out / SCORES).glob(f"{task.name}-*.json")) if (out / SCORES).is_dir() else []
    records = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    if not records:
        return []
    columns = [(person, kind) for person in TEST for kind in ("all", "trusted")]
    heads = [f"{person}, {'all' if kind == 'all' else len(TRUSTED)} structures" for person, kind in columns]
    lines = [
        f"## {task.title}, by structures",
        "",
        "| row | " + " | ".join(heads) + " |",
        "|---|" + "---:|" * len(heads),
    ]
    for row in (*CHEAP, *task.methods, COARSE):
        known = {record["person"]: record for record in records if record["row"] == row}
        cells = [_dice(known.get(person), None if kind == "all" else TRUSTED) for person, kind in columns]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _dice(record: Mapping[str, Any] | None, names: Sequence[str] | None) -> str:
    if record is None:
        return "-"
    text = f"{mean_dice(record, names):.3f}"
    if "dice_still" in record:
        text += f" ({mean_dice({'dice': record['dice_still']}, names):.3f} without its field)"
    return text


def _slices(rows: Sequence[Mapping[str, Any]], column: str) -> np.ndarray:
    """A value per slice, the mean over trainings."""
    result: np.ndarray = np.mean([row["cases"][column] for row in rows], axis=0)
    return result


def _mean(rows: Sequence[Mapping[str, Any]], name: str, column: str) -> float:
    return float(_slices([row for row in rows if _label(row) == name], column).mean())


def _cell(values: np.ndarray, digits: int, signed: bool = False) -> str:
    low, high = interval(values.tolist())
    sign = "+" if signed else ""
    return f"{values.mean():{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"
