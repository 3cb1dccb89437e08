"""The page of the study on real heads, from the rows that are finished."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import list_data_collate
from torch import Tensor

from medtrace.data.dataset import load_dataset
from medtrace.engines.runs import load_method
from medtrace.evaluation.cheap_rows import RIDGE, cheap_rows
from medtrace.evaluation.real.heads import TEST, Head
from medtrace.evaluation.real.scores import MAE, SSIM, UNITS, interval
from medtrace.evaluation.tracers import tracer_of
from medtrace.report import comparison_figure, save_figure
from medtrace.storage.files import atomic_write, make_directory
from medtrace.trace.validation import as_tensor

PAGE = "real_translation.md"
CHEAP = ("identity", "intensity curve", "patch ridge")
SHOWN = (5, 14, 22)
"""Slices of the natural images, from below."""
DPI = 100
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


def read_rows(out: Path) -> list[dict[str, Any]]:
    """The finished rows."""
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted((out / "rows").glob("*.json"))]


def write_page(out: Path, heads: Sequence[Head], left: Sequence[str], targets: Sequence[str]) -> Path:
    """Write tables of all finished rows, without natural images (see `write_natural_images`)."""
    rows = read_rows(out)
    parts = []
    for target in targets:
        for person in TEST:
            chosen = [row for row in rows if (row["target"], row["person"]) == (target, person)]
            if chosen:
                parts += [f"## T1 to {target}, {person}", "", *_table(chosen), "", *_verdict(chosen), ""]
    listed = ", ".join(f"{head.name} ({', '.join(head.images)})" for head in heads)
    notes = [f"Heads: {listed}.", *[f"Left out: {line}." for line in left]]
    atomic_write(out / PAGE, "\n".join([*parts, *notes]) + "\n")
    return out / PAGE


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    ridge = next((row for row in rows if row["row"] == RIDGE), None)
    names = sorted({row["row"] for row in rows}, key=lambda name: (name not in CHEAP, _mean(rows, name, MAE)))
    lines = ["| " + " | ".join(HEADINGS) + " |", "|---|" + "---:|" * (len(HEADINGS) - 1)]
    for name in names:
        trained = [row for row in rows if row["row"] == name]
        cells = [
            name,
            "-" if name in CHEAP else str(len(trained)),
            _cell(_slices(trained, MAE), 2),
            _cell(_slices(trained, SSIM), 3),
            f"{np.mean(_slices(trained, UNITS)):.1f}" if UNITS in trained[0]["cases"] else "-",
        ]
        for column, digits in ((MAE, 2), (SSIM, 3)):
            if ridge is None or name == RIDGE:
                cells.append("")
            else:
                cells.append(_cell(_slices(trained, column) - np.array(ridge["cases"][column]), digits, signed=True))
        cells.append(f"{np.mean([row['cpu_seconds'] for row in trained]):.0f}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _verdict(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Whether the best learned method beats patch ridge."""
    learned = {row["row"] for row in rows} - set(CHEAP)
    if not learned or not any(row["row"] == RIDGE for row in rows):
        return []
    best = min(learned, key=lambda name: _mean(rows, name, MAE))
    parts = []
    for column, name, lower in ((MAE, "MAE", True), (SSIM, "SSIM", False)):
        own, other = _mean(rows, best, column), _mean(rows, RIDGE, column)
        won = own < other if lower else own > other
        parts.append(f"{name} {own:.3g} against {other:.3g}: {'better' if won else 'worse'}")
    cases = len(rows[0]["names"])
    return [f"Best learned method: {best}; beside patch ridge {'; '.join(parts)}. n = {cases} slices of 1 person."]


def _slices(rows: Sequence[Mapping[str, Any]], column: str) -> np.ndarray:
    """A value per slice, the mean over trainings."""
    result: np.ndarray = np.mean([row["cases"][column] for row in rows], axis=0)
    return result


def _mean(rows: Sequence[Mapping[str, Any]], name: str, column: str) -> float:
    return float(_slices([row for row in rows if row["row"] == name], column).mean())


def _cell(values: np.ndarray, digits: int, signed: bool = False) -> str:
    low, high = interval(values.tolist())
    sign = "+" if signed else ""
    return f"{values.mean():{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def write_natural_images(out: Path, targets: Sequence[str], device: str | None = None) -> list[Path]:
    """For every translation the same slices by all rows, and the worst slice of each trained row."""
    rows, result = read_rows(out), []
    for target in targets:
        for person in TEST:
            names = [r for r in rows if (r["target"], r["person"], r["seed"]) == (target, person, 0)]
            trained = [row for row in names if row["row"] not in CHEAP]
            if trained:
                result += _natural_images(out, target, person, trained, device)
    return result


def _natural_images(
    out: Path, target: str, person: str, rows: Sequence[Mapping[str, Any]], device: str | None
) -> list[Path]:
    dataset = out / "data" / f"{target}-{person}".lower()
    cases = load_dataset(dataset, "test")
    tracers = {RIDGE: cheap_rows(load_dataset(dataset, "training"))[RIDGE]}
    for row in rows:
        run = out / "runs" / "-".join([target, person, row["row"], "0"]).lower()
        tracers[row["row"]] = tracer_of(load_method(run, device))
    folder, result = make_directory(out / "figures"), []
    worst = {row["row"]: int(np.argmax(row["cases"][MAE])) for row in rows}
    for kind, shown in (
        ("slices", {f"slice {k}": k for k in SHOWN if k < len(cases)}),
        ("worst", {f"worst of {name}: {k}": k for name, k in worst.items()}),
    ):
        natural_images: dict[str, dict[str, Tensor]] = {}
        for label, k in shown.items():
            case = cases[k]
            natural_images[label] = {name: as_tensor(case[key]) for name, key in (("T1", "source"), (target, "target"))}
            batch = list_data_collate([{"source": case["source"]}])
            for name, tracer in tracers.items():
                natural_images[label][name] = as_tensor(tracer(batch)[0].image)
        affine = as_tensor(cases[0]["source"].affine)
        figure = comparison_figure(natural_images, reference=target, affine=affine, window=(-1.0, 1.0))
        result.append(save_figure(figure, folder / f"{target}-{person}-{kind}.png".lower(), dpi=DPI))
    return result
