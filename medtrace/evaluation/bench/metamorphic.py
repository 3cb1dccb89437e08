"""Studies of the task `metamorphic`: register a healthy subject to one with a lesion (MetaRegNet)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.data import list_data_collate
from torch import Tensor
from tqdm import tqdm

from medtrace.evaluation.bench.drawing import DPI, file_name, show_comparison, show_traces, show_training
from medtrace.evaluation.bench.study import Better, Outcome, Row, Study, Table, Training
from medtrace.evaluation.classical_registration import simpleitk_tracer
from medtrace.evaluation.registration_scores import score_registration
from medtrace.evaluation.scoring import Tracer, score_cases
from medtrace.evaluation.tracers import identity
from medtrace.fields import warp
from medtrace.methods import Method
from medtrace.metrics import CaseTable
from medtrace.report import metamorphosis_figure, save_figure
from medtrace.trace import Trace
from medtrace.trace.prediction import Prediction, traces_of
from medtrace.trace.validation import as_tensor

COLUMNS = {
    "ssd_total": "SSD total",
    "ssd_healthy": "SSD healthy",
    "dice": "Dice",
    "folds": "folds",
    "time_ms": "time (ms)",
    "epe_near_lesion_mm": "EPE within 10 mm of the lesion (mm)",
    "epe_healthy_mm": "EPE healthy (mm)",
    "epe_head_mm": "EPE head (mm)",
    "share_of_zero_field_near": "near EPE / zero field",
    "share_of_zero_field_healthy": "healthy EPE / zero field",
    "ssd_warped_healthy": "SSD healthy, warped",
    "non_diffeomorphic_fraction": "folded fraction",
    "inverse_consistency_mm": "inverse consistency (mm)",
    "unmoved_voxels": "displacement, source = target (voxels)",
    "intensity_without_mask": "largest intensity, empty mask",
}
COSTS = {"all_parameters_million": "parameters (M)", "training_seconds": "training (s)"}
PRINTED = {
    "ssd_total": "SSD",
    "ssd_healthy": "healthy",
    "dice": "Dice",
    "folds": "folds",
    "epe_near_lesion_mm": "EPE near",
    "epe_healthy_mm": "healthy",
    "time_ms": "ms",
}
BETTER: dict[str, Better] = {
    **dict.fromkeys((name for name in COLUMNS if name != "dice"), "min"),
    "dice": "max",
}


def true_field(batch: Mapping[str, Any]) -> list[Trace]:
    """The source warped by the true field: what no method that only deforms can surpass in the healthy part."""
    ddf = as_tensor(batch["ddf"])
    prediction = Prediction(warp(as_tensor(batch["source"]), ddf), ddf, mask=as_tensor(batch["mask"]).float())
    return traces_of(batch["source"], prediction, batch["target"])


TIMED_CLASSICAL = 8
"""Cases on which the classical row's time is measured; it takes seconds a case."""
CLASSICAL = "SimpleITK Demons, masked"
IDENTITY: dict[str, Tracer] = {"identity": identity}
CONTROLS: dict[str, Tracer] = {**IDENTITY, "true field": true_field, CLASSICAL: simpleitk_tracer}


def scores(row: Row) -> CaseTable:
    """The columns of `score_registration`; of rows that compute something the time of a pair, and of trained rows two
    checks: no intensity without a mask, no displacement between an image and itself.
    """
    cases = row.cases(row.run)
    table = score_cases(row.tracer, cases, scores=score_registration, progress=row.progress)
    measure = _measure_of(row)
    if measure is None:
        return table
    count = min(len(cases), TIMED_CLASSICAL) if row.method is None else len(cases)
    measure(list_data_collate([cases[0]]))  # the first call is slower
    for index in tqdm(
        range(count), desc=f"{row.progress} (checks)", disable=None if row.progress else True, leave=False
    ):
        table.add(cases[index]["case"], measure(list_data_collate([cases[index]])))
    return table


def _measure_of(row: Row) -> Callable[[Mapping[str, Any]], dict[str, float]] | None:
    method = row.method
    if method is not None:
        return lambda batch: checks(method, batch)
    return None if row.tracer in (identity, true_field) else lambda batch: _classical_time(row.tracer, batch)


def _classical_time(tracer: Tracer, batch: Mapping[str, Any]) -> dict[str, float]:
    started = time.perf_counter()
    tracer(batch)
    return {"time_ms": 1e3 * (time.perf_counter() - started)}


@torch.no_grad()
def checks(method: Method, batch: Mapping[str, Any]) -> dict[str, float]:
    """Time of one pair and what must be zero.

    Args:
        method: in evaluation mode.
        batch: one case of the task.

    Returns:
        `time_ms`: wall-clock time of image and field of a single pair. `intensity_without_mask`: the largest change of
        intensity without a mask. `unmoved_voxels`: mean displacement in the head, in voxels, when the source is also
        the target.
    """
    device = next(method.parameters()).device
    moving, fixed = (as_tensor(batch[name]).to(device) for name in ("source", "target"))
    seconds = register_seconds(method, batch)
    unmasked = method.register(moving, fixed)
    still = method.register(moving, moving)
    length = torch.linalg.vector_norm(still.ddf, dim=1, keepdim=True)
    head: Tensor = as_tensor(batch["source_head"]).to(device)
    return {
        "time_ms": 1e3 * seconds,
        "intensity_without_mask": 0.0 if unmasked.appearance is None else float(unmasked.appearance.abs().max()),
        "unmoved_voxels": float(length[head].mean()),
    }


@torch.no_grad()
def register_seconds(method: Method, batch: Mapping[str, Any]) -> float:
    """Wall-clock time of image and field of the pairs of a batch, by a method in evaluation mode."""
    device = next(method.parameters()).device
    given = {
        name: as_tensor(batch[name]).to(device) if name in batch else None
        for name in ("source", "target", "mask", "source_mask")
    }
    _wait(device)
    started = time.perf_counter()
    method.register(*given.values())  # type: ignore[arg-type]
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def fractions(tables: Mapping[str, CaseTable]) -> Table:
    """End-point errors as fractions of the zero field's, sums over the cases; below 1 a method finds something."""

    def fraction(table: CaseTable, region: str) -> float:
        # A case without a lesion has nothing near it.
        pairs = zip(table.values(f"epe_{region}_mm"), table.values(f"zero_{region}_mm"))
        result, zero = (sum(column) for column in zip(*(pair for pair in pairs if pair[1] == pair[1])))
        return result / zero

    names = {"near": "near_lesion", "healthy": "healthy", "head": "head"}
    return {
        f"share_of_zero_field_{short}": {row: fraction(table, region) for row, table in tables.items()}
        for short, region in names.items()
    }


def show_metamorphoses(outcome: Outcome) -> None:
    """`figures/<row>_metamorphosis.png`: MetaRegNet, Figure 3 of the shown cases."""
    targets = [as_tensor(target) for target in outcome.shown["target"]]
    for row in outcome.runs:
        cases = dict(zip(outcome.shown["case"], zip(outcome.traces[row], targets)))
        path = outcome.folder / "figures" / f"{file_name(row)}_metamorphosis.png"
        save_figure(metamorphosis_figure(cases, title=row), path, dpi=DPI)


def study(
    name: str,
    rows: Mapping[str, Training],
    controls: Mapping[str, Tracer],
    optional: Mapping[str, str] | None = None,
) -> Study:
    """A study of this task."""
    return Study(
        name=name,
        task="metamorphic",
        rows=rows,
        controls=controls,
        scores=scores,
        totals=fractions,
        columns=COLUMNS | COSTS,
        printed=PRINTED,
        better=BETTER,
        show=(show_traces, show_metamorphoses, show_comparison, show_training),
        shown_cases=3,
        optional=optional or {},
    )


def training(run: str, method: str = "metaregnet", **settings: Any) -> Training:
    """A registration method on this task's cases."""
    rate = {"optimizer.learning_rate": settings.pop("learning_rate")} if "learning_rate" in settings else {}
    return Training(run, {**settings, **rate}, method)


METAREGNET = training("metaregnet")  # as its preset tracebench has it
PAPER: dict[str, Any] = {"flow_downsampling": 0, "smoothness_weight": 0.0, "masked_gradient": "both"}
METAMORPHIC = (
    study(
        "rivals",
        {
            "MetaRegNet": METAREGNET,
            "VM-CFM": training("voxelmorph-cfm", "voxelmorph"),
            "VoxelMorph": training("voxelmorph", "voxelmorph", masking=False),
        },
        CONTROLS,
    ),
    study(
        "ablation",
        {
            "MetaRegNet": METAREGNET,
            "as in the paper's text": training("metaregnet-paper", **PAPER),
            "4 blocks": training("metaregnet-4-blocks", num_blocks=4),
            "L1": training("metaregnet-l1", similarity="l1"),
            "no smoothness of φ": training("metaregnet-no-smoothness", smoothness_weight=0.0),
            "mask teaches field and intensity": training("metaregnet-both", masked_gradient="both"),
            "no folding term": training("metaregnet-no-folding", folding_weight=0.0),
            "learning rate 1e-4": training("metaregnet-slow", learning_rate=1e-4),
        },
        IDENTITY,
    ),
)
