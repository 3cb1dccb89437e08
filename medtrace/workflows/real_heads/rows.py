"""Rows of the study on real heads: prepared slices, a training or a cheap row on them, and its scores in a file."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medtrace.data.dataset import load_dataset
from medtrace.data.preparation.rules import FILE, Preparation
from medtrace.engines.model_folder import RECORD
from medtrace.engines.runs import load_method
from medtrace.evaluation.bench.machine import commit, measured_with
from medtrace.evaluation.cheap_rows import CURVE, IDENTITY, RIDGE, cheap_rows
from medtrace.evaluation.real.heads import Head, on_one_grid, sides
from medtrace.evaluation.real.scores import MAE, slice_scores
from medtrace.evaluation.real.tasks import TASKS, RealTask
from medtrace.evaluation.scoring import Tracer, score_cases
from medtrace.evaluation.tracers import tracer_of
from medtrace.storage.files import atomic_write, make_directory, remove_content, write_json
from medtrace.storage.reservations import locked
from medtrace.transforms.source_dropout import MISSING
from medtrace.workflows.prepare import prepare
from medtrace.workflows.train import train

SLICES = 28
GRID: dict[str, Any] = {"spacing": (2.0, 2.0, 3.0), "crop": (96, 112, 40), "pad": True, "align": False}
ROWS, RUNS, DATA = "rows", "runs", "data"
CHEAP = (IDENTITY, CURVE, RIDGE)
MACHINE = ("torch", "device", "threads")
"""The entries of `measured_with` that a trained row's record keeps."""


@dataclass(frozen=True)
class RealRow:
    """A row of a table: what was trained on whom.

    Attributes:
        task: name of the translation.
        person: of the test.
        row: a method's name, or a row that needs no network.
        seed: seed of the training.
        missing: the source contrast left out for scoring.
    """

    task: str
    person: str
    row: str
    seed: int = 0
    missing: str = ""

    @property
    def run(self) -> str:
        """Of its training's folder."""
        return "-".join([self.task, self.person, self.row.replace(" ", "-"), str(self.seed)]).lower()

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.run}-without-{self.missing}".lower() if self.missing else self.run

    @property
    def label(self) -> str:
        """In tables."""
        return label_of(self.row, self.missing)

    def file(self, out: Path) -> Path:
        """Where its scores lie."""
        return out / ROWS / f"{self.name}.json"

    def folder(self, out: Path) -> Path:
        """Where its training lies."""
        return out / RUNS / self.run

    def has_run(self, out: Path) -> bool:
        """Whether its training is there; a stored row may have come without it."""
        return (self.folder(out) / RECORD).is_file()

    def with_missing(self) -> list[RealRow]:
        """The row, and the same row scored without a source."""
        return [
            self,
            *[RealRow(self.task, self.person, self.row, self.seed, gone) for gone in TASKS[self.task].missing],
        ]


def label_of(row: str, missing: str = "") -> str:
    """A row's name in tables."""
    return f"{row}, {missing} missing" if missing else row


def read_rows(out: Path) -> list[dict[str, Any]]:
    """The finished rows."""
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted((out / ROWS).glob("*.json"))]


def validation_error(out: Path, row: RealRow) -> float | None:
    """Foreground error of a finished row on the validation head; None for an unfinished one."""
    file = row.file(out)
    if not file.is_file():
        return None
    return float(json.loads(file.read_text(encoding="utf-8"))["validation"][MAE])


def dataset_of(out: Path, task: str, person: str) -> Path:
    """The folder of the slices of a translation and a test person."""
    return out / DATA / f"{task}-{person}".lower()


def real_dataset(heads: Sequence[Head], task: RealTask, person: str, out: Path, progress: bool) -> Path:
    """The prepared slices of a translation, created if missing."""
    dataset = dataset_of(out, task.name, person)
    if (dataset / FILE).is_file():
        return dataset
    folder = make_directory(out / DATA / "heads")
    several = len(task.sources) > 1
    sources = [f"source_{name}" for name in task.sources] if several else ["source"]
    lines = [",".join(["subject", "case", *sources, f"target_{task.target}" if several else "target", "split"])]
    for split, members in sides(heads, task.contrasts, person).items():
        for head in members:
            files = on_one_grid(head, folder)
            paths = [str(files[contrast].resolve()) for contrast in task.contrasts]
            lines.append(",".join([head.person, head.name, *paths, split]))
    pairs = dataset.with_suffix(".csv")
    atomic_write(pairs, "\n".join(lines) + "\n")
    names: dict[str, Any] = {} if several else {"source_contrast": task.sources[0], "target_contrast": task.target}
    prepare(pairs, dataset, slices=SLICES, progress=progress, **names, **GRID)
    return dataset


class CasesWithout:
    """Cases with one source contrast missing.

    Args:
        cases: with "source" (C, *spatial).
        channel: the contrast's.
    """

    def __init__(self, cases: Any, channel: int) -> None:
        self.cases, self.channel = cases, channel

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> dict[str, Any]:
        case = dict(self.cases[index])
        case["source"] = case["source"].clone()
        case["source"][self.channel] = MISSING
        return case

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))


def cases_of(dataset: Path, split: str, task: RealTask, missing: str = "") -> Any:
    """Cases of a prepared folder, or without a source contrast."""
    cases = load_dataset(dataset, split)
    return CasesWithout(cases, task.sources.index(missing)) if missing else cases


def score_cheap(task: RealTask, person: str, dataset: Path, out: Path) -> None:
    """Score the rows that need no network; without a source they are learned without it."""
    for missing in ("", *task.missing):
        rows = [RealRow(task.name, person, name, missing=missing) for name in CHEAP]
        if all(row.file(out).is_file() for row in rows if row.row != IDENTITY):
            continue
        started = time.process_time()
        tracers = cheap_rows(cases_of(dataset, "training", task, missing))
        seconds = time.process_time() - started
        for row in rows:
            if row.row in tracers:
                _score(row, tracers[row.row], dataset, out, {"cpu_seconds": round(seconds, 1)})


def train_row(row: RealRow, dataset: Path, out: Path, presets: Sequence[str], device: str | None) -> None:
    """Train a row's method and score it, also without a source if the translation has several."""
    run = row.folder(out)
    with locked(run):  # held by a running training
        remove_content(run)  # from an unfinished training
    cpu, wall = time.process_time(), time.perf_counter()
    settings = {"training.seed": row.seed, "training.val_interval": 0, "training.checkpoint_interval": 100_000}
    train(row.row, dataset, run, presets=presets, settings={**settings, **TASKS[row.task].settings}, device=device)
    cost: dict[str, Any] = {
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "wall_seconds": round(time.perf_counter() - wall, 1),
        "presets": list(presets),
    }
    method = load_method(run, device)
    parameters = list(method.parameters())
    cost["parameters"] = sum(parameter.numel() for parameter in parameters)
    cost.update({key: value for key, value in measured_with(parameters[0].device).items() if key in MACHINE})
    for scored in reversed(row.with_missing()):  # the row itself last: if it exists, so does everything else
        _score(scored, tracer_of(method), dataset, out, cost)


def _score(row: RealRow, tracer: Tracer, dataset: Path, out: Path, cost: Mapping[str, Any]) -> None:
    task, scores = TASKS[row.task], slice_scores(Preparation.load(dataset / FILE))
    table = score_cases(tracer, cases_of(dataset, "test", task, row.missing), scores=scores)
    other = score_cases(tracer, cases_of(dataset, "validation", task, row.missing), scores=scores).summary()
    make_directory(out / ROWS)
    write_json(
        row.file(out),
        {
            "task": row.task,
            "person": row.person,
            "row": row.row,
            "seed": row.seed,
            "missing": row.missing,
            **cost,
            "commit": commit(),
            "validation": {column: other[column].mean for column in table.columns},
            "names": list(table.rows),
            "cases": {column: [values[column] for values in table.rows.values()] for column in table.columns},
        },
    )
