"""Measure the traceability of runs by segmentation, and write the table."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from medtrace import metrics
from medtrace.checks import check_choice
from medtrace.data import TraceBench, load_dataset
from medtrace.data.dataset import read_index
from medtrace.data.tracebench import LABELS, TISSUES
from medtrace.engines.runs import load_method, read_run
from medtrace.evaluation.bench.cases import Cases
from medtrace.evaluation.scoring import Tracer
from medtrace.evaluation.segmenter import SegmenterSettings, classes_of, segmenter_in
from medtrace.evaluation.traceability import (
    BETTER,
    HEADINGS,
    NO_TRANSLATION,
    SEGMENTER,
    TRUE_TRANSLATION,
    TraceabilityTable,
    feature_network_of,
    note_on,
    origin_of,
    score_traceability,
    training_cases,
    true_translation,
)
from medtrace.evaluation.tracers import identity, tracer_of
from medtrace.report import markdown_table
from medtrace.storage.files import atomic_write, write_json
from medtrace.storage.reservations import locked, reserving
from medtrace.workflows.unseen.splits import doubts_of, reviewed

TABLE = "table.md"


@reserving(lambda out: locked(out))
def traceability(
    runs: Sequence[str | os.PathLike] = (),
    out: str | os.PathLike = "traceability",
    *,
    dataset: str | os.PathLike | None = None,
    split: str = "test",
    segmenter: str | os.PathLike | None = None,
    feature_network: str | os.PathLike | None = None,
    settings: Mapping[str, Any] | None = None,
    device: str | None = None,
    batch_size: int = 8,
    progress: bool = True,
    allow_training_subjects: bool = False,
) -> dict[str, TraceabilityTable]:
    """Measure the traceability of runs by segmentation: the columns of Plasticine's Tables I and III.

    A U-Net is trained on the target domain's training images and labels, unless `segmenter` already has it. It segments
    every translation; the labels are warped to source space by the trace's inverse field and compared with the
    source's.

    Args:
        runs: folders left by `medtrace train`; a row has its folder's name. Controls have their own rows.
        out: receives `table.md`, `results.json`, for every row `<row>.csv` and `<row>_summary.csv`; the segmenter.
        dataset: a folder made by `medtrace prepare` from a list with `source_labels` and `target_labels`; by default
            the TraceBench cases that the runs were configured with, and TraceBench's task `domain` without runs.
        split: split of a prepared folder, to score; the segmenter learns from its training split.
        segmenter: folder of the segmenter, reused if it has one; by default `out/segmenter`.
        feature_network: TorchScript file for FID and SFD (see `metrics.load_feature_network`), or "segmenter" for the
            segmenter's own deepest features. Without it, the table has neither column.
        settings: what to change in `SegmenterSettings`, such as {"iterations": 1000}; `classes` is name → label.
        device: by default CUDA if available.
        batch_size: cases traced at once.
        progress: show bars.
        allow_training_subjects: also score subjects that a run was trained on; the table says so.

    Returns:
        The rows "No translation", "True translation" where the truth is known, and every run.

    Raises:
        ValueError: if runs have the same name or different cases, cases have no labels, or belong to subjects that a
            run was trained on.
        FileNotFoundError: if a run, the data set or the feature network is missing.
    """
    names = _names(runs)
    out = Path(out)
    if feature_network not in (None, SEGMENTER):
        metrics.load_feature_network(feature_network)  # a wrong name is reported before minutes of training
    reviews = {
        name: reviewed(run, dataset, split, allow_training_subjects)
        for name, run in names.items()
        if dataset is not None
    }
    if dataset is None:
        cases = _tracebench(runs, progress)
        training: Any = lambda: training_cases(cases)  # noqa: E731
        origin, classes = origin_of(cases), {name: LABELS[name] for name in TISSUES}
    else:
        most = max((read_run(run).settings.neighbors for run in names.values()), default=0)
        cases, training = load_dataset(dataset, split, neighbors=most), load_dataset(dataset, "training")
        origin = {"dataset": str(Path(dataset).resolve()), "cases": len(read_index(Path(dataset))["training"])}
        classes = (settings or {}).get("classes") or classes_of(_labeled(training, dataset))
    case = _labeled(cases, dataset)[0]
    folder = out / SEGMENTER if segmenter is None else Path(segmenter)
    for name in settings or {}:
        check_choice("settings", name, [field.name for field in fields(SegmenterSettings)])
    chosen = SegmenterSettings(**{"classes": classes, **(settings or {})})
    network = segmenter_in(folder, training, chosen, origin=origin, unseen=cases, device=device, progress=progress)
    features = feature_network_of(feature_network, folder, network.device)
    tracers: dict[str, Tracer] = {NO_TRANSLATION: identity}
    if "ddf" in case:
        tracers[TRUE_TRANSLATION] = true_translation
    tables = {}
    for row in (*tracers, *names):
        tracer = tracers[row] if row in tracers else tracer_of(load_method(names[row], device))
        tables[row] = score_traceability(
            tracer,
            cases,
            network,
            feature_network=features,
            batch_size=batch_size,
            progress=row if progress else None,
        )
    _write(out, tables, " ".join([note_on(feature_network), *doubts_of(reviews)]))
    return tables


def _tracebench(runs: Sequence[str | os.PathLike], progress: bool) -> TraceBench:
    if not runs:
        return TraceBench("domain", (64, 64), 64, split="test", progress=progress)
    cases = Cases(progress)
    first = cases(Path(runs[0]))
    for run in runs[1:]:
        if cases(Path(run)) is not first:
            raise ValueError(
                f"runs: expected the same test cases everywhere, received others in {run} than {runs[0]}; score them"
                " one by one, or name a dataset"
            )
    return first


def _labeled(cases: Any, dataset: str | os.PathLike | None) -> Any:
    missing = [name for name in ("source_labels", "target_labels") if name not in cases[0]]
    if missing:
        where = "TraceBench" if dataset is None else dataset
        raise ValueError(
            f"{where}: expected labels of source and target, received no {' and no '.join(missing)}; prepare a pair"
            " list with these columns"
        )
    return cases


def _names(runs: Sequence[str | os.PathLike]) -> dict[str, Path]:
    names: dict[str, Path] = {}
    for run in map(Path, runs):
        name = run.resolve().name
        if name in (*names, NO_TRANSLATION, TRUE_TRANSLATION):
            raise ValueError(f"runs: expected folders of different names, which name the rows, received {name!r} twice")
        names[name] = run
    return names


def _write(out: Path, tables: Mapping[str, TraceabilityTable], note: str) -> None:
    for row, table in tables.items():
        name = row.lower().replace(" ", "-") if row in (NO_TRANSLATION, TRUE_TRANSLATION) else row
        table.write_csv(out / f"{name}.csv")
        table.write_summary(out / f"{name}_summary.csv")
    rows = [{"row": row, **table.summary(), **table.distances} for row, table in tables.items()]
    known = {name for row in rows for name in row}
    columns = {"row": "", **{name: heading for name, heading in HEADINGS.items() if name in known}}
    best = {name: better for name, better in BETTER.items() if name in known}
    atomic_write(out / TABLE, f"{markdown_table(rows, columns, best=best)}\n{note}\n")
    plain_rows = {
        row: {name: value._asdict() for name, value in table.summary().items()} | table.distances
        for row, table in tables.items()
    }
    write_json(out / "results.json", {"rows": plain_rows, "note": note})
