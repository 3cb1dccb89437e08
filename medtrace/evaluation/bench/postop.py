"""Studies of the task `postop`: the brain after surgery from the scan before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from monai.data import list_data_collate
from tqdm import tqdm

from medtrace import metrics
from medtrace.evaluation.bench.drawing import show_comparison, show_traces, show_training
from medtrace.evaluation.bench.study import Better, Row, Study, Table, Training, two_domain
from medtrace.evaluation.edges import RANGE, edge_dice, healthy_region
from medtrace.evaluation.scoring import score_cases
from medtrace.evaluation.tracers import identity, oracle
from medtrace.fields import warp
from medtrace.metrics import CaseTable
from medtrace.registration.independent_registration import independent_registration

COLUMNS = {
    "mae": "MAE (0-255)",
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "nmi": "NMI",
    "epe_deformed_mm": "EPE deformed (mm)",
    "epe_still_mm": "EPE still (mm)",
    "epe_mm": "EPE grid (mm)",
    "edge_ssim": "edge SSIM",
    "edge_ssim_no_field": "edge SSIM, no field",
    "edge_dice": "edge Dice",
    "edge_dice_no_field": "edge Dice, no field",
    "edge_dice_deformed": "edge Dice deformed",
    "edge_dice_deformed_no_field": "edge Dice deformed, no field",
    "edge_dice_deformed_true_field": "edge Dice deformed, true field",
    "non_diffeomorphic_fraction": "folded fraction",
}
INDEPENDENT_COLUMNS = {
    "independent_ssim": "SSIM (independent)",
    "independent_edge_ssim": "edge SSIM (independent)",
    "independent_edge_dice": "edge Dice (independent)",
}
SHARES = {"share_of_zero_field_epe": "EPE / zero field", "share_of_identity_mae": "MAE / identity"}
COSTS = {
    "parameters_million": "generator (M)",
    "training_seconds": "training (s)",
    "training_processor_seconds": "training (processor s)",
}
BETTER: dict[str, Better] = {
    **dict.fromkeys(("mae", "epe_deformed_mm", "epe_still_mm", "epe_mm", "non_diffeomorphic_fraction"), "min"),
    **dict.fromkeys(
        ("psnr", "ssim", "nmi", "edge_ssim", "edge_dice", "edge_dice_deformed", *INDEPENDENT_COLUMNS), "max"
    ),
}
PRINTED = {
    "mae": "MAE",
    "ssim": "SSIM",
    "epe_mm": "EPE mm",
    "share_of_zero_field_epe": "moved / zero",
    "edge_dice_deformed": "edges",
    "edge_dice_deformed_no_field": "no field",
    "training_processor_seconds": "CPU s",
}
CONTROLS = {"identity (zero field)": identity, "oracle field": oracle}
"""The source itself, and the source pulled by the best field that a method could know."""

TRACETRANS = Training("tracetrans")  # as its preset tracebench has it: α 0.5, γ 0.25
PIX2PIX = Training("pix2pix", {"alpha": 1.0})
COMPOSED = Training("composed", {}, "tracetrans_composed")
NO_CROSS = Training("gamma-0", {"gamma": 0.0})


RIVALS = {"Pix2Pix": PIX2PIX, "TraceTrans": TRACETRANS, "TraceTrans composed": COMPOSED}
SHORT = {"data.train_cases": 512, "data.test_cases": 32, "training.max_epochs": 6}
"""A demonstration: 384 steps in place of 896."""


def short(training: Training) -> Training:
    """A training that is a demonstration."""
    return replace(training, run=f"short-{training.run}", by_setting={"demo": SHORT})


FULL = {"data.train_cases": 2048, "training.max_epochs": 20}
"""The budget of "tracetrans" in this setting."""


def translator(backbone: str, mode: str) -> Training:
    """A translation backbone in one of RegGAN's modes, trained on this task."""
    name = f"{backbone}-{mode}".lower().replace("+", "-").replace("_", "-")
    method, settings = two_domain(backbone, mode)
    return Training(name, settings, method, presets=("postop",), by_setting={"full": FULL})


def diffusion(method: str) -> Training:
    """A diffusion method, trained on this task."""
    return Training(f"postop-{method}", {}, method, presets=("postop",), by_setting={"full": FULL})


def scores(row: Row) -> CaseTable:
    """The columns of `score_cases`."""
    return score_cases(row.tracer, row.cases(row.run), progress=row.progress)


def scores_with_independent_registration(row: Row) -> CaseTable:
    """Also SSIM and edges of the source warped by an independent registration against the prediction.

    Measured where tissue moved and no pathology is near, for trained rows; at α = 1 the model's own field is untrained
    (TraceTrans, Table 5).
    """
    table = scores(row)
    if row.method is None:
        return table
    description = f"{row.progress} (independent)"
    for case in tqdm(row.cases(row.run), desc=description, disable=None if row.progress else True, leave=False):
        (trace,) = row.tracer(list_data_collate([case]))
        source, image = trace.source[None], trace.image[None]
        warped = warp(source, independent_registration(source, image))
        healthy = healthy_region(case)
        region = metrics.deformed_region(case["ddf"][None])
        region = region if healthy is None else region & healthy
        if not region.any():
            continue
        table.add(
            case["case"],
            {
                "independent_ssim": float(metrics.structural_similarity(warped, image, region, data_range=RANGE)),
                "independent_edge_ssim": float(metrics.edge_ssim(warped, image, region, data_range=RANGE)),
                "independent_edge_dice": float(edge_dice(warped, image, region)),
            },
        )
    return table


def fractions(tables: Mapping[str, CaseTable]) -> Table:
    """Error of the field and of the image, as fractions of the identity's."""
    control = next(iter(tables.values()))
    zero, still = sum(control.values("zero_field_mm")), sum(control.values("mae"))
    return {
        "share_of_zero_field_epe": {row: sum(t.values("epe_deformed_mm")) / zero for row, t in tables.items()},
        "share_of_identity_mae": {row: sum(t.values("mae")) / still for row, t in tables.items()},
    }


def study(name: str, rows: Mapping[str, Training], *, independent: bool = False) -> Study:
    """A study of this task."""
    return Study(
        name=name,
        task="postop",
        rows=rows,
        controls=CONTROLS,
        scores=scores_with_independent_registration if independent else scores,
        totals=fractions,
        columns=COLUMNS | (INDEPENDENT_COLUMNS if independent else {}) | SHARES | COSTS,
        printed=PRINTED,
        better=BETTER,
        show=(show_traces, show_comparison, show_training),
    )


POSTOP = (
    study("rivals", RIVALS),
    study(
        "alpha",
        {
            "α = 1 (Pix2Pix)": PIX2PIX,
            "α = 0.75": Training("alpha-0.75", {"alpha": 0.75}),
            "α = 0.5": TRACETRANS,
            "α = 0.25": Training("alpha-0.25", {"alpha": 0.25}),
        },
        independent=True,
    ),
    study(
        "gamma",
        {
            "γ = 0": NO_CROSS,
            "γ = 0.25": TRACETRANS,
            "γ = 0.5": Training("gamma-0.5", {"gamma": 0.5}),
            "γ = 0.75": Training("gamma-0.75", {"gamma": 0.75}),
            "γ = 1": Training("gamma-1", {"gamma": 1.0}),
            "γ = 1, both streams taught": Training("gamma-1-both", {"gamma": 1.0, "cross_gradient": "both"}),
        },
    ),
    study(
        "ablation",
        {
            "one stream (image)": PIX2PIX,
            "two networks, no cross constraint": Training("two-networks", {"gamma": 0.0, "shared_encoder": False}),
            "two streams, no cross constraint": NO_CROSS,
            "two streams, cross constraint": TRACETRANS,
        },
    ),
    study(
        "translators",
        {
            "Pix2Pix": PIX2PIX,
            "TraceTrans": TRACETRANS,
            "CycleGAN": translator("cyclegan", "C"),
            "MUNIT": translator("munit", "C"),
            "UNIT": translator("unit", "C"),
            "NICE-GAN": translator("nice_gan", "C"),
            "RegGAN": translator("cyclegan", "NC+R"),
        },
    ),
    study(
        "diffusion",
        {
            "TraceTrans": TRACETRANS,
            "Plasticine": diffusion("plasticine"),
            "Palette": diffusion("palette"),
            "DDIB": diffusion("ddib"),
        },
    ),
    study("short", {row: short(training) for row, training in RIVALS.items()}),
)
