"""Figures of the study on real heads: the same slices by all rows, and the worst slice of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import list_data_collate
from torch import Tensor

from medtrace.engines.runs import load_method
from medtrace.evaluation.cheap_rows import RIDGE, cheap_rows
from medtrace.evaluation.real.heads import TEST
from medtrace.evaluation.real.scores import MAE
from medtrace.evaluation.real.tasks import RealTask
from medtrace.evaluation.scoring import Tracer
from medtrace.evaluation.tracers import tracer_of
from medtrace.report import comparison_figure, save_figure
from medtrace.storage.files import make_directory
from medtrace.trace.validation import as_tensor
from medtrace.workflows.real_heads.rows import CHEAP, RealRow, cases_of, dataset_of, label_of, read_rows

FIGURES = "figures"
SHOWN = (5, 14, 22)
"""Slices that are shown, counted from below."""
DPI = 100


def write_figures(out: Path, tasks: Sequence[RealTask], device: str | None = None) -> list[Path]:
    """For every translation and person the same slices by all rows, and every slice that is a trained row's worst.

    Rows that were stored without their run are left out.
    """
    rows, result = read_rows(out), []
    for task in tasks:
        for person in TEST:
            trained = [
                row
                for row in rows
                if (row["task"], row["person"], row["seed"]) == (task.name, person, 0)
                and row["row"] not in CHEAP
                and RealRow(task.name, person, row["row"]).has_run(out)
            ]
            if trained:
                result += _figures(out, task, person, trained, device)
    return result


def _figures(
    out: Path, task: RealTask, person: str, rows: Sequence[Mapping[str, Any]], device: str | None
) -> list[Path]:
    dataset = dataset_of(out, task.name, person)
    cases = {missing: cases_of(dataset, "test", task, missing) for missing in ("", *task.missing)}
    tracers: dict[str, tuple[Tracer, str]] = {RIDGE: (cheap_rows(cases_of(dataset, "training", task))[RIDGE], "")}
    for row in rows:
        method = load_method(RealRow(task.name, person, row["row"]).folder(out), device)
        tracers[label_of(row["row"], row["missing"])] = (tracer_of(method), row["missing"])
    worst: dict[int, list[str]] = {}
    for row in rows:
        worst.setdefault(int(np.argmax(row["cases"][MAE])), []).append(label_of(row["row"], row["missing"]))
    folder, result = make_directory(out / FIGURES), []
    for kind, shown in (
        ("slices", {f"slice {k}": k for k in SHOWN if k < len(cases[""])}),
        ("worst", {f"slice {k}, worst of\n" + "\n".join(names): k for k, names in worst.items()}),
    ):
        images: dict[str, dict[str, Tensor]] = {}
        for label, k in shown.items():
            case = cases[""][k]
            channels = dict(zip(task.sources, as_tensor(case["source"]).split(1)))
            images[label] = {**channels, task.target: as_tensor(case["target"])}
            for name, (tracer, missing) in tracers.items():
                batch = list_data_collate([{"source": cases[missing][k]["source"]}])
                images[label][name] = as_tensor(tracer(batch)[0].image)
        affine = as_tensor(cases[""][0]["source"].affine)
        figure = comparison_figure(images, reference=task.target, affine=affine, window=(-1.0, 1.0))
        result.append(save_figure(figure, folder / figure_name(task.name, person, kind), dpi=DPI))
    return result


def figure_name(task: str, person: str, kind: str) -> str:
    """File name of a figure."""
    return f"{task.replace('+', '-')}-{person}-{kind}.png".lower()
