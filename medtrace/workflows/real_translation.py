"""Train and measure translators on real heads: resumable row by row, with rows that need no network beside them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from medtrace.data.dataset import load_dataset
from medtrace.data.preparation.rules import FILE, Preparation
from medtrace.engines.runs import load_method
from medtrace.evaluation.bench.machine import commit
from medtrace.evaluation.cheap_rows import cheap_rows
from medtrace.evaluation.real.heads import TEST, Head, find_heads, on_one_grid, sides
from medtrace.evaluation.real.scores import MAE, slice_scores
from medtrace.evaluation.scoring import Tracer, score_cases
from medtrace.evaluation.tracers import tracer_of
from medtrace.methods.presets import LITTLE
from medtrace.storage.files import atomic_write, make_directory, remove_content, write_json
from medtrace.storage.reservations import locked, reserving
from medtrace.workflows.prepare import prepare
from medtrace.workflows.real_page import write_natural_images, write_page
from medtrace.workflows.train import train

TARGETS = ("T2", "FLAIR")
METHODS = ("tracetrans", "pix2pix", "unet", "reggan", "cyclegan")
SLICES = 28
GRID: dict[str, Any] = {"spacing": (2.0, 2.0, 3.0), "crop": (96, 112, 40), "pad": True, "align": False}
REPEATED = 2
"""The best methods of a translation, which are trained with every seed."""
ROWS = "rows"


@dataclass(frozen=True)
class RealRow:
    """A row of a table: what was trained on whom.

    Attributes:
        target: contrast that T1 is translated to.
        person: of the test.
        row: a method's name, or a row that needs no network.
        seed: of the training.
    """

    target: str
    person: str
    row: str
    seed: int = 0

    @property
    def name(self) -> str:
        """Of its file and its run."""
        return "-".join([self.target, self.person, self.row.replace(" ", "-"), str(self.seed)]).lower()


@reserving(lambda out: locked(out))
def real_translation(
    data: str | os.PathLike,
    out: str | os.PathLike = "real_translation",
    *,
    targets: Sequence[str] = TARGETS,
    methods: Sequence[str] = METHODS,
    presets: Sequence[str] = (LITTLE,),
    seeds: int = 3,
    device: str | None = None,
    progress: bool = True,
) -> Path:
    """Translate T1 to other contrasts on real heads: train on some persons, measure on others.

    Each of the two persons of the cross-sectional data is the test in turn; the methods learn on the other heads that
    have both contrasts, and one person is the validation throughout. A finished row is kept in `out/rows`; a second
    call does what is missing. All methods are trained once, then the best two of each translation with the other seeds.

    Args:
        data: folder of the open MS data (see `medtrace.evaluation.real.heads`).
        out: receives `data/`, `runs/`, `rows/`, `figures/` and the page `real_translation.md`.
        targets: contrasts to translate T1 to.
        methods: to train.
        presets: of each method, on top of `default`.
        seeds: trainings of the best two methods.
        device: by default CUDA where there is one.
        progress: tell what is done.

    Returns:
        The page.

    Raises:
        FileNotFoundError: if `data` holds no heads.
        ValueError: if a contrast or a method is unknown, or a side of a split is empty.
    """
    out, console = Path(out), Console(stderr=True, quiet=not progress)
    heads, left = find_heads(data)
    for line in left:
        console.print(f"left out: {line}")
    datasets = {
        (target, person): _dataset(heads, target, person, out, progress) for target in targets for person in TEST
    }
    for key, dataset in datasets.items():
        _cheap(key, dataset, out)
    for wanted in _order(targets, methods, seeds, lambda target: best_methods(out, target, methods)):
        if _file(out, wanted).is_file():
            continue
        console.print(f"training {wanted.name}")
        _train(wanted, datasets[wanted.target, wanted.person], out, presets, device)
        write_page(out, heads, left, targets)
    write_natural_images(out, targets, device)
    return write_page(out, heads, left, targets)


def _order(
    targets: Sequence[str], methods: Sequence[str], seeds: int, best: Callable[[str], Sequence[str]]
) -> Iterator[RealRow]:
    for target in targets:
        for method in methods:
            for person in TEST:
                yield RealRow(target, person, method)
    for target in targets:
        for seed in range(1, seeds):
            for method in best(target):
                for person in TEST:
                    yield RealRow(target, person, method, seed)


def best_methods(out: Path, target: str, methods: Sequence[str]) -> list[str]:
    """The methods of least foreground error over the test persons."""
    errors = {}
    for method in methods:
        files = [_file(out, RealRow(target, person, method)) for person in TEST]
        if all(file.is_file() for file in files):
            errors[method] = np.mean([np.mean(json.loads(file.read_text())["cases"][MAE]) for file in files])
    return sorted(errors, key=lambda method: float(errors[method]))[:REPEATED]


def _file(out: Path, row: RealRow) -> Path:
    return out / ROWS / f"{row.name}.json"


def _dataset(heads: Sequence[Head], target: str, person: str, out: Path, progress: bool) -> Path:
    """The prepared slices of a translation, made where they are missing."""
    dataset = out / "data" / f"{target}-{person}".lower()
    if (dataset / FILE).is_file():
        return dataset
    folder = make_directory(out / "data" / "heads")
    lines = ["subject,case,source,target,split"]
    for split, members in sides(heads, target, person).items():
        for head in members:
            files = on_one_grid(head, folder)
            lines.append(f"{head.person},{head.name},{files['T1'].resolve()},{files[target].resolve()},{split}")
    pairs = dataset.with_suffix(".csv")
    atomic_write(pairs, "\n".join(lines) + "\n")
    prepare(pairs, dataset, source_contrast="T1", target_contrast=target, slices=SLICES, progress=progress, **GRID)
    return dataset


def _cheap(key: tuple[str, str], dataset: Path, out: Path) -> None:
    """Score the rows that need no network."""
    rows = [RealRow(*key, name) for name in ("identity", "intensity curve", "patch ridge")]
    if all(_file(out, row).is_file() for row in rows):
        return
    started = time.process_time()
    tracers = cheap_rows(load_dataset(dataset, "training"))
    seconds = time.process_time() - started
    for row in rows:
        _score(row, tracers[row.row], dataset, out, {"cpu_seconds": round(seconds, 1)})


def _train(row: RealRow, dataset: Path, out: Path, presets: Sequence[str], device: str | None) -> None:
    run = out / "runs" / row.name
    with locked(run):  # which a training at work has
        remove_content(run)  # of a training that did not finish
    cpu, wall = time.process_time(), time.perf_counter()
    settings = {"training.seed": row.seed, "training.val_interval": 0, "training.checkpoint_interval": 100_000}
    train(row.row, dataset, run, presets=presets, settings=settings, device=device)
    cost = {
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "wall_seconds": round(time.perf_counter() - wall, 1),
        "presets": list(presets),
    }
    method = load_method(run, device)
    cost["parameters"] = sum(parameter.numel() for parameter in method.parameters())
    _score(row, tracer_of(method), dataset, out, cost)


def _score(row: RealRow, tracer: Tracer, dataset: Path, out: Path, cost: dict[str, Any]) -> None:
    cases = load_dataset(dataset, "test")
    table = score_cases(tracer, cases, scores=slice_scores(Preparation.load(dataset / FILE)))
    columns = {column: [values[column] for values in table.rows.values()] for column in table.columns}
    names = list(table.rows)
    make_directory(out / ROWS)
    write_json(
        _file(out, row),
        {
            "target": row.target,
            "person": row.person,
            "row": row.row,
            "seed": row.seed,
            **cost,
            "commit": commit(),
            "names": names,
            "cases": columns,
        },
    )
