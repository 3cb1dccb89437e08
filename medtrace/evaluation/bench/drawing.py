"""Pictures of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from medtrace.evaluation.bench.study import Outcome
from medtrace.io import save_trace
from medtrace.report import comparison_figure, curve_figure, save_figure, trace_figure
from medtrace.report.viewer import ReportCase, write_report
from medtrace.report.viewer.page import REPORT
from medtrace.storage.files import make_directory

DPI = 110


def show_comparison(outcome: Outcome) -> None:
    """`figures/comparison.png`: cases by rows of the study."""
    pictures = {
        name: {**_pair(outcome, case), **{row: outcome.traces[row][case].image for row in outcome.runs}}
        for case, name in enumerate(outcome.shown["case"])
    }
    _save_comparison(outcome, pictures, "comparison")


def show_places(outcome: Outcome) -> None:
    """`figures/comparison.png` of the first case, in the layout of the paper's table."""
    pictures: dict[str, dict[str, Tensor]] = {}
    for row, (line, column) in outcome.study.places.items():
        pictures.setdefault(line, _pair(outcome, 0))[column] = outcome.traces[row][0].image
    _save_comparison(outcome, pictures, "comparison")


def _pair(outcome: Outcome, case: int) -> dict[str, Tensor]:
    return {name: outcome.shown[name][case].as_tensor() for name in ("source", "target")}


def _save_comparison(outcome: Outcome, pictures: dict[str, dict[str, Tensor]], name: str) -> None:
    affine = next(iter(outcome.traces.values()))[0].affine
    figure = comparison_figure(pictures, reference="target", affine=affine)
    save_figure(figure, outcome.folder / "figures" / f"{name}.png", dpi=DPI)


def show_traces(outcome: Outcome) -> None:
    """The traces of the shown cases, saved, drawn, and all on one page, `report.html`."""
    shown = []
    for case, name in enumerate(outcome.shown["case"]):
        target = outcome.shown["target"][case].as_tensor()
        for row, run in outcome.runs.items():
            trace = outcome.traces[row][case]
            save_trace(trace, made(outcome.folder / "traces" / file_name(row)) / name, method=run.name, overwrite=True)
            shown.append(ReportCase(f"{row}: {name}", trace, target=target, method=run.name))
            figure = trace_figure(trace, target=target, title=f"{row}: {name}")
            save_figure(figure, outcome.folder / "figures" / f"{file_name(row)}_{name}.png", dpi=DPI)
    write_report(shown, outcome.folder / REPORT)


def show_training(outcome: Outcome) -> None:
    """`figures/training.png`: the loss terms of all rows; with places, a figure for every line of the layout."""
    groups: dict[str, dict[str, Any]] = {}
    for row, run in outcome.runs.items():
        line, column = outcome.study.places.get(row, ("", row))
        groups.setdefault(line, {})[column] = run / "history.csv"
    for line, histories in groups.items():
        name = f"training_{file_name(line)}.png" if line else "training.png"
        save_figure(curve_figure(histories), outcome.folder / "figures" / name, dpi=DPI)


def made(folder: Path) -> Path:
    """Make the folder where it is missing."""
    return make_directory(folder)


def file_name(row: str) -> str:
    """A row's name as files have it."""
    words = row.replace("α", "alpha").replace("γ", "gamma").replace("+", " plus ").replace("=", " ")
    return "-".join("".join(c if c.isalnum() or c == "." else " " for c in words).split()).lower()
