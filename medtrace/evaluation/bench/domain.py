"""Studies of the task `domain`: translate between domains that differ in contrast and anatomy (Plasticine)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from medtrace import metrics
from medtrace.data import TraceBench
from medtrace.data.tracebench import LABELS, TISSUES
from medtrace.evaluation import traceability
from medtrace.evaluation.bench.drawing import DPI, show_comparison, show_traces, show_training
from medtrace.evaluation.bench.study import Better, Outcome, Row, Study, Table, Training, two_domain
from medtrace.evaluation.edges import RANGE
from medtrace.evaluation.scoring import Tracer, score_cases
from medtrace.evaluation.segmenter import SegmenterSettings, segmenter_in
from medtrace.evaluation.traceability import (
    NO_TRANSLATION,
    SEGMENTER,
    TRUE_TRANSLATION,
    TraceabilityTable,
    score_traceability,
    true_translation,
)
from medtrace.evaluation.tracers import identity, registrar_of
from medtrace.fields import warp
from medtrace.methods.common.two_domain_settings import PUBLISHED
from medtrace.metrics import CaseTable
from medtrace.report import save_figure, sensitivity_figure
from medtrace.trace import Trace
from medtrace.trace.validation import as_tensor

COSTS = {"all_parameters_million": "parameters (M)", "training_seconds": "training (s)"}
OF_PAIRS = {
    "nmi_forward": "NMI(x∘φ, y)",
    "nmi_inverse": "NMI(y∘φ⁻¹, x)",
    "pair_epe_head_mm": "EPE head, pair given (mm)",
}
"""Scores of fields that a method predicts for a source and its own true translation (Plasticine, Table V)."""
COLUMNS = {
    **traceability.HEADINGS,
    "fid": "FID (segmenter's features)",
    "sfd": "SFD (segmenter's features)",
}
PRINTED = {
    "accuracy": "Acc",
    "dice": "Dice",
    "miou": "mIoU",
    "zero_dice": "zero field",
    "fid": "FID",
    "sfd": "SFD",
    "bhattacharyya": "Bhatt.",
    "epe_head_mm": "EPE mm",
    "seconds_per_case": "s/case",
}
BETTER: dict[str, Better] = {**traceability.BETTER, "nmi_forward": "max", "nmi_inverse": "max"}
CONTROLS: dict[str, Tracer] = {NO_TRANSLATION: identity, TRUE_TRANSLATION: true_translation}
STEPS_OF_SEGMENTER = 600


def segmenter_settings(test: TraceBench) -> SegmenterSettings:
    """Tissues of the target domain; two steps for a training case, at most 600."""
    classes = {name: LABELS[name] for name in TISSUES}
    cases = traceability.TRAINING_CASES * test.cases
    return SegmenterSettings(classes, iterations=min(2 * cases, STEPS_OF_SEGMENTER))


def scores(row: Row) -> CaseTable:
    """The columns of `score_traceability`, and of methods that register `OF_PAIRS`.

    The segmenter is stored beside the runs and is the same for all rows of a setting and seed; FID uses its features.
    """
    cases = row.cases(row.run)
    device = None if row.method is None else next(row.method.parameters()).device
    folder = row.run.parent / SEGMENTER
    segmenter = segmenter_in(
        folder,
        lambda: traceability.training_cases(cases),
        segmenter_settings(cases),
        origin=traceability.origin_of(cases),
        unseen=cases,
        device=device,
        progress=row.progress is not None,
    )
    network = traceability.feature_network_of(SEGMENTER, folder, segmenter.device)
    table = score_traceability(row.tracer, cases, segmenter, feature_network=network, progress=row.progress)
    if row.method is not None and row.method.registers:
        description = row.progress and f"{row.progress} (pairs)"
        result = score_cases(registrar_of(row.method), cases, scores=registration, progress=description)
        for case, values in result.rows.items():
            table.add(case, values)
    return table


def registration(trace: Trace, case: Mapping[str, Any]) -> dict[str, float]:
    """The field found for a source and its true translation: `OF_PAIRS`, NMI in [1, 2] (TraceTrans, Eq. 7)."""
    source, target = (as_tensor(case[name])[None] for name in ("source", "target"))
    ddf, head = as_tensor(case["ddf"])[None], as_tensor(case["head"])[None]
    affine = torch.as_tensor(trace.affine, dtype=torch.float64)
    back = warp(target, trace.inverse_ddf[None])
    values = {
        "nmi_forward": metrics.normalized_mutual_information_score(trace.warped[None], target, data_range=RANGE),
        "nmi_inverse": metrics.normalized_mutual_information_score(back, source, data_range=RANGE),
        "pair_epe_head_mm": metrics.end_point_error(trace.ddf[None], ddf, head, affine=affine),
    }
    return {name: float(value) for name, value in values.items()}


def distances(tables: Mapping[str, CaseTable]) -> Table:
    """Numbers of all cases together: name → row → number."""
    result: Table = {}
    for row, table in tables.items():
        if isinstance(table, TraceabilityTable):
            for name, value in table.distances.items():
                result.setdefault(name, {})[row] = value
    return result


def diffusion(
    run: str, method: str = "plasticine", sampling: Mapping[str, Any] | None = None, **settings: Any
) -> Training:
    """A training of a diffusion method on the task's cases."""
    return Training(run, _named(settings), method, sampling=sampling or {})


def plasticine(run: str = "plasticine", sampling: Mapping[str, Any] | None = None, **settings: Any) -> Training:
    """A training of Plasticine on the task's cases."""
    return diffusion(run, "plasticine", sampling, **settings)


def _named(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords as dotted names: of the data, of the deformation, or the method's own."""
    groups = {"pairing": "data.", "use_noise": "deformation.", "inverse": "deformation."}
    return {groups.get(name, "") + name: value for name, value in settings.items()}


FULL_CASES: dict[str, Any] = {"data.spatial_shape": (256, 256), "data.train_cases": 2048}
FULL_REGGAN: dict[str, Any] = {
    **FULL_CASES,
    "training.max_epochs": 80,
    "training.batch_size": 1,
    "training.schedule": "constant",
    "optimizer.learning_rate": 1e-4,
    "networks": PUBLISHED,
    "registration_channels": (32, 64, 64, 64, 64, 64, 64),
    "registration_downsampling": 0,
}
FULL_TRACETRANS: dict[str, Any] = {
    **FULL_CASES,
    "training.max_epochs": 100,
    "training.schedule": "constant",
    "optimizer.learning_rate": 2e-4,
    "channels": (64, 128, 256, 512, 512),
    "velocity_downsampling": 0,
    "discriminator_channels": 64,
    "discriminator_layers": 3,
}
"""The published networks on the cases of Plasticine's preset `full`; their own have other cases."""


def reggan(backbone: str, mode: str, **settings: Any) -> Training:
    """A translation backbone in one of RegGAN's modes on the task's cases."""
    name = "-".join(["domain", *(str(value) for value in settings.values()), backbone, mode]).lower()
    method, chosen = two_domain(backbone, mode)
    return Training(
        name.replace("+", "-").replace("_", "-"),
        {**chosen, **_named(settings)},
        method,
        presets=("domain",),
        by_setting={"full": FULL_REGGAN},
    )


def tracetrans(**settings: Any) -> Training:
    """TraceTrans on the task's cases."""
    name = "-".join(["domain", *(str(value) for value in settings.values()), "tracetrans"])
    return Training(name, _named(settings), presets=("domain",), by_setting={"full": FULL_TRACETRANS})


def study(
    name: str,
    rows: Mapping[str, Training],
    *show: Callable[[Outcome], None],
    columns: Mapping[str, str] | None = None,
    printed: Mapping[str, str] | None = None,
    totals: Callable[[Mapping[str, CaseTable]], Table] = distances,
    places: Mapping[str, tuple[str, str]] | None = None,
) -> Study:
    """A study of this task."""
    return Study(
        name=name,
        task="domain",
        rows=rows,
        controls=CONTROLS,
        scores=scores,
        totals=totals,
        columns={**COLUMNS, **(columns or {}), **COSTS},
        printed={**PRINTED, **(printed or {})},
        better=BETTER,
        places=places or {},
        show=show,
        shown_cases=2,
    )


PICTURES = (show_traces, show_comparison, show_training)
PLASTICINE = plasticine()
COMBINATION = {"mode": "combination"}

MANY, FEW = (5, 10, 25, 50, 100, 250), (5, 10, 25, 50)
SAMPLERS: dict[str, tuple[str, float, tuple[int, ...]]] = {
    "ancestral": ("ancestral", 1.0, MANY),
    "DDIM, even": ("ddim", 1.0, FEW),
    "DDIM": ("ddim", 1.5, FEW),
    "DPM-Solver, even": ("dpm_solver", 1.0, FEW),
    "DPM-Solver": ("dpm_solver", 1.5, FEW),
}
"""Shown → sampler, spacing of its levels, and steps."""
REFERENCE = "ancestral, 250 steps"
OF_REFERENCE = {
    "dice_minus_reference": f"Dice − that of {REFERENCE}",
    "bhattacharyya_of_reference": f"Bhattacharyya / that of {REFERENCE}",
}
SAMPLING: dict[str, tuple[str, dict[str, Any]]] = {
    f"{shown}, {steps} steps": (shown, {"sampler": sampler, "spacing": spacing, "steps": steps})
    for shown, (sampler, spacing, several) in SAMPLERS.items()
    for steps in several
}


def compared_with_reference(tables: Mapping[str, CaseTable]) -> Table:
    """`distances`, and every row against 250 steps of the ancestral sampler."""
    result = distances(tables)
    dice = {row: table.summary()["dice"].mean for row, table in tables.items()}
    apart = result["bhattacharyya"]
    result["dice_minus_reference"] = {row: value - dice[REFERENCE] for row, value in dice.items()}
    result["bhattacharyya_of_reference"] = {row: value / apart[REFERENCE] for row, value in apart.items()}
    return result


MEASURES = {"dice": "Dice", "bhattacharyya": "Bhattacharyya", "seconds_per_case": "seconds a case"}


def show_sampling(outcome: Outcome) -> None:
    """`figures/sampling.png`: quality and time against the number of steps."""
    lines = [
        {"sampler": sampler, "steps": float(steps), **outcome.rows[row]}
        for row, (sampler, steps) in outcome.study.places.items()
    ]
    figure = sensitivity_figure(lines, "steps", MEASURES, series="sampler", label="steps", logarithmic=True)
    save_figure(figure, outcome.folder / "figures" / "sampling.png", dpi=DPI)


STARTS = (0.25, 0.5, 0.75, 1.0)
STARTING: dict[str, dict[str, Any]] = {
    **{f"start {start:g}": {"start": start} for start in STARTS},
    **{f"combination, start {start:g}": {**COMBINATION, "start": start} for start in STARTS},
}

DOMAIN = (
    study(
        "rivals",
        {
            "Plasticine": PLASTICINE,
            "Combination": plasticine(sampling=COMBINATION),
            "Palette": diffusion("palette", "palette"),
            "DDIB": diffusion("ddib", "ddib"),
            "CycleGAN": reggan("cyclegan", "C"),
            "MUNIT": reggan("munit", "C"),
            "UNIT": reggan("unit", "C"),
            "NICE-GAN": reggan("nice_gan", "C"),
            "RegGAN (C+R)": reggan("cyclegan", "C+R"),
            "TraceTrans": tracetrans(),
        },
        *PICTURES,
    ),
    study(
        "paired",
        {
            "Plasticine": plasticine("plasticine-subject", pairing="subject"),
            "Palette": diffusion("palette-subject", "palette", pairing="subject"),
            "RegGAN (NC+R)": reggan("cyclegan", "NC+R", pairing="subject"),
            "TraceTrans": tracetrans(pairing="subject"),
        },
        *PICTURES,
        columns=OF_PAIRS,
    ),
    study(
        "ablation",
        {
            "Plasticine": PLASTICINE,
            "Combination (Table IV)": plasticine(sampling=COMBINATION),
            "without ε̂ (Table V)": plasticine("plasticine-no-noise", use_noise=False),
            "predicted inverse": plasticine("plasticine-predicted-inverse", inverse="predicted"),
        },
        *PICTURES,
        columns=OF_PAIRS,
        printed={"nmi_forward": "NMI(x∘φ,y)", "nmi_inverse": "NMI(y∘φ⁻¹,x)"},
    ),
    study(
        "sampling",
        {row: plasticine(sampling=how) for row, (_, how) in SAMPLING.items()},
        show_sampling,
        columns=OF_REFERENCE,
        printed={"dice_minus_reference": "Dice − ref.", "bhattacharyya_of_reference": "Bhatt./ref."},
        totals=compared_with_reference,
        places={row: (shown, str(how["steps"])) for row, (shown, how) in SAMPLING.items()},
    ),
    study("start", {row: plasticine(sampling=how) for row, how in STARTING.items()}, *PICTURES[:2]),
)
