"""Translations of real heads to T1, scored by the structures that an independent network segments in them.

As traceability by segmentation (Plasticine, Section IV-A): the translation is segmented, its labels come back to the
source by the trace's inverse field, and are compared there with the source's, which are those of the true T1 of that
head.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from medtrace import metrics
from medtrace.data.dataset import load_dataset
from medtrace.data.reading import read_image
from medtrace.engines.runs import load_method
from medtrace.evaluation.cheap_rows import cheap_rows
from medtrace.evaluation.real.heads import TEST, Head, sides
from medtrace.evaluation.real.structures import FOLDER, StructureNetwork, structure_dice
from medtrace.evaluation.real.tasks import RealTask
from medtrace.evaluation.tracers import TracerMethod
from medtrace.geometry.resampling import Reorientation, resize, shape_at_spacing, spacing_of
from medtrace.methods.base import Method
from medtrace.storage.files import make_directory, write_json
from medtrace.trace import Trace
from medtrace.workflows.real_heads.rows import CHEAP, GRID, RealRow, dataset_of
from medtrace.workflows.translate import translation

SCORES = "labels"
COARSE = "true T1 at the network's pixels"
"""The control that is the best possible translation on the network's grid."""


def score_labels(
    data: str | os.PathLike, heads: Sequence[Head], task: RealTask, out: Path, console: Console, device: str | None
) -> None:
    """Score every row of a translation to T1 on both test persons; a finished row is kept in `out/labels`.

    Args:
        data: folder with the network of `medtrace.evaluation.real.structures` in its folder `meshnet`.
        heads: all heads.
        task: the translation; methods that are not trained yet, or whose run is not here, get no scores.
        out: of the study.
        console: reports progress.
        device: device of the translations.

    Raises:
        FileNotFoundError: if the network is missing.
    """
    network = StructureNetwork.load(Path(data) / FOLDER)
    make_directory(out / SCORES)
    for person in TEST:
        (head,) = sides(heads, task.contrasts, person)["test"]
        truth: Tensor | None = None
        trained = _trained(task, person, out, console)
        for row in (*CHEAP, *trained, COARSE) if trained else ():
            file = _file(out, RealRow(task.name, person, row))
            if file.is_file():
                continue
            console.print(f"labeling {file.stem}")
            if truth is None:
                truth = _true_labels(network, head, out)
            scores = (
                _coarse(network, head, truth)
                if row == COARSE
                else score_trace(network, _translated(head, task, person, row, trained[0], out, device), truth)
            )
            write_json(file, {"task": task.name, "person": person, "row": row, **scores})


def _trained(task: RealTask, person: str, out: Path, console: Console) -> list[str]:
    """The methods that are trained; of a row that is stored without its run, there is nothing to translate with."""
    result = []
    for name in task.methods:
        row = RealRow(task.name, person, name)
        if row.has_run(out):
            result.append(name)
        elif row.file(out).is_file() and not _file(out, row).is_file():
            console.print(f"not labeled, as its training is not in {row.folder(out)}: {row.name}", markup=False)
    return result


def _file(out: Path, row: RealRow) -> Path:
    return out / SCORES / f"{row.name}.json".replace("'", "")


def _true_labels(network: StructureNetwork, head: Head, out: Path) -> Tensor:
    """Labels of a head's T1, kept in the study's folder."""
    kept = out / SCORES / f"{head.name}-true.json"
    t1 = read_image(head.images["T1"])
    labels = network.segment(t1, t1.affine)
    volumes = {name: int((labels == label).sum()) for label, name in network.names.items()}
    write_json(kept, {"head": head.name, "voxels": volumes})
    return labels


def _coarse(network: StructureNetwork, head: Head, truth: Tensor) -> dict[str, Any]:
    t1 = read_image(head.images["T1"])
    plan = Reorientation.to_ras(t1.affine, t1.shape[1:], 2)
    turned = plan.apply(torch.as_tensor(t1))
    spacing = spacing_of(plan.affine(t1.affine))
    shape = shape_at_spacing(turned.shape[1:], spacing, (*GRID["spacing"][:2], spacing[2]))
    labels = network.segment(plan.undo(resize(resize(turned, shape), turned.shape[1:])), t1.affine)
    return {"dice": structure_dice(labels, truth, network.names)}


def _translated(
    head: Head, task: RealTask, person: str, row: str, trained: str, out: Path, device: str | None
) -> Trace:
    """The entire head as output by `medtrace translate`; a cheap row's is prepared like a trained method's."""
    dataset = dataset_of(out, task.name, person)
    prepared_as = row if row in task.methods else trained
    run = RealRow(task.name, person, prepared_as).folder(out)
    load: Callable[[], Method]
    if row in task.methods:
        load = lambda: load_method(run, device)  # noqa: E731
    else:
        tracer = cheap_rows(load_dataset(dataset, "training"))[row]
        load = lambda: TracerMethod(tracer, channels=1)  # noqa: E731
    with Progress(disable=True) as bar:
        return translation(run, head.images[task.sources[0]], load, bar=bar, out=out / SCORES / "trace").trace


def score_trace(network: StructureNetwork, trace: Trace, truth: Tensor) -> dict[str, Any]:
    """Dice of every structure warped to source space by the trace and, for a method that moves, also without the field.

    Args:
        network: the labeling network.
        trace: trace of a translation to T1.
        truth: labels (1, *source_spatial) of the true T1.
    """
    labels = network.segment(torch.as_tensor(trace.image), trace.affine)
    scores = {"dice": structure_dice(labels, truth, network.names)}
    if bool(torch.as_tensor(trace.ddf).any()):
        scores["dice_still"] = scores["dice"]
        back = metrics.warp_to_source(trace, labels, 1 + max(network.names))
        scores["dice"] = structure_dice(back, truth, network.names)
    return scores


def mean_dice(scores: Mapping[str, Any], names: Sequence[str] | None = None) -> float:
    """Mean over structures, or over those that are named."""
    dice: Mapping[str, float] = scores["dice"]
    return float(np.mean([dice[name] for name in (names or dice)]))
