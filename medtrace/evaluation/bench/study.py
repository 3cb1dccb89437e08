"""Definition of a study: rows to train, their scoring, and their report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from medtrace.evaluation.bench.cases import Cases
from medtrace.evaluation.scoring import Tracer
from medtrace.methods.base import Method
from medtrace.metrics import CaseTable
from medtrace.trace import Trace

Better = Literal["min", "max"]
Table = dict[str, dict[str, Any]]
"""Row → name → number or `Summary`."""
SETTINGS: dict[str, tuple[str, ...]] = {"demo": (), "full": ("full",), "smoke": ("smoke",)}
"""Presets of a row's method on top of its preset for TraceBench."""


@dataclass(frozen=True)
class Training:
    """A training.

    Attributes:
        run: name of its run folder, unique to the training within an output folder: rows with the same name, in
            whatever study, are one training.
        settings: dotted name → value on top of the presets.
        method: the method's name.
        presets: between the method's presets `tracebench` and the bench setting's.
        by_setting: bench setting → settings that replace the method's preset of that name, where that preset is for
            another task.
        sampling: how a trained method samples; rows that differ in nothing else have the same `run`.
    """

    run: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    method: str = "tracetrans"
    presets: tuple[str, ...] = ()
    by_setting: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)

    def arguments(self, setting: str, seed: int) -> tuple[tuple[str, ...], dict[str, Any]]:
        """Presets and settings of the method in a bench setting; the seed is of data and training."""
        own = self.by_setting.get(setting)
        presets = ("tracebench", *self.presets, *(SETTINGS[setting] if own is None else ()))
        return presets, {"training.seed": seed, "data.seed": seed, **(own or {}), **self.settings}


def two_domain(backbone: str, mode: str) -> tuple[str, dict[str, Any]]:
    """Method and settings of a translation backbone in one of RegGAN's modes: C, C+R, NC, NC+R or pix2pix."""
    if mode == "pix2pix":
        return "pix2pix", {}
    if mode == "C":
        return backbone, {}
    return "reggan", {"backbone": backbone, "cycle": mode.startswith("C"), "correction": mode.endswith("+R")}


@dataclass(frozen=True)
class Row:
    """A row of the table while it is scored.

    Attributes:
        name: name of the row.
        tracer: returns the traces of a batch of cases, on the CPU.
        run: the run folder; for a control, that of the study's first row, on whose cases it is scored.
        cases: `row.cases(row.run, "test")` makes the test cases of the run's settings.
        method: the trained method; None for a control.
        progress: label of the progress bar; None shows none.
    """

    name: str
    tracer: Tracer
    run: Path
    cases: Cases
    method: Method | None = None
    progress: str | None = None


@dataclass(frozen=True)
class Outcome:
    """A study that has been run, for those who write of it.

    Attributes:
        study: its definition.
        folder: where to write.
        rows: per row its summaries, its totals and, for a trained one, what it cost.
        tables: per row the values of every case.
        runs: run folder of every trained row.
        shown: the batch of the first test cases.
        traces: per row the traces of `shown`.
        console: console to print to.
    """

    study: Study
    folder: Path
    rows: Table
    tables: Mapping[str, CaseTable]
    runs: Mapping[str, Path]
    shown: Mapping[str, Any]
    traces: Mapping[str, list[Trace]]
    console: Console


def no_totals(_: Mapping[str, CaseTable]) -> Table:
    """For studies all of whose numbers are means of columns."""
    return {}


@dataclass(frozen=True)
class Study:
    """A question to TraceBench.

    Attributes:
        name: one word, for the command line.
        task: task of TraceBench; what the rows train on.
        rows: the trainings to compare, in the table's order.
        controls: rows that need no training, listed above them.
        optional: control → module of the optional package that it needs; without it the control is left out.
        scores: the values of every case of a row.
        totals: numbers over all cases that are not the mean of a column: from the tables of all rows to
            name → row → number.
        columns: columns of `table.md`, key → heading. Keys are columns of the tables, names of the totals, and the
            costs `parameters_million` (those a prediction runs through), `all_parameters_million`,
            `training_seconds`, `training_processor_seconds`.
        printed: columns of the table in the terminal, likewise.
        better: column → "min" or "max".
        places: row → its place (line, column) in the layout of the paper's table, if there is one.
        show_row: writes files about one row while its networks are at hand.
        show: write files about all of them.
        shown_cases: number of test cases that are drawn and whose traces are kept.
    """

    name: str
    task: str
    rows: Mapping[str, Training]
    controls: Mapping[str, Tracer]
    scores: Callable[[Row], CaseTable]
    columns: Mapping[str, str]
    printed: Mapping[str, str]
    better: Mapping[str, Better]
    totals: Callable[[Mapping[str, CaseTable]], Table] = no_totals
    places: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    optional: Mapping[str, str] = field(default_factory=dict)
    show_row: tuple[Callable[[Row, Path], None], ...] = ()
    show: tuple[Callable[[Outcome], None], ...] = ()
    shown_cases: int = 4

    def missing(self, name: str) -> str:
        """Why a control cannot be run, in words; empty where it can."""
        module = self.optional.get(name)
        if module is None or find_spec(module) is not None:
            return ""
        return f"{name}: left out, as the optional package {module!r} is not installed"

    @property
    def folder(self) -> Path:
        """Path of its results within an output folder; for `postop` without the task."""
        return Path(self.name) if self.task == "postop" else Path(self.task) / self.name
