"""Studies of the task `misaligned`: T2 from T1, learned from misaligned pairs (RegGAN)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from monai.data import list_data_collate
from torch import Tensor

from medtrace import metrics
from medtrace.evaluation.bench.drawing import DPI, file_name, made, show_places, show_traces, show_training
from medtrace.evaluation.bench.study import Better, Outcome, Row, Study, Table, Training, two_domain
from medtrace.evaluation.scoring import Tracer, fidelity, score_cases
from medtrace.evaluation.tracers import identity, registrar_of
from medtrace.fields import non_diffeomorphic_fraction
from medtrace.io import save_trace
from medtrace.methods.common.two_domain_settings import SHARP
from medtrace.metrics import CaseTable
from medtrace.report import crossed_table, print_crossed_table, save_figure, sensitivity_figure, trace_figure
from medtrace.report.crossed import Blocks
from medtrace.storage.files import atomic_write
from medtrace.trace import Trace

CONVENTION = "unit-foreground"
"""Convention of the tables, see `metrics.translation`; the values per case and `results.json` have all conventions."""
MEASURES = {"nmae": "NMAE", "psnr": "PSNR (dB)", "ssim": "SSIM"}
AXES = ("right", "anterior", "superior")


def column(measure: str, convention: str = CONVENTION) -> str:
    """Name of a measure's column under a convention."""
    return f"{measure}_{convention.replace('-', '_')}"


COSTS = {"parameters_million": "generator (M)", "all_parameters_million": "all networks (M)"}
COLUMNS = {
    **{column(measure): heading for measure, heading in MEASURES.items()},
    "mae": "MAE (0-255), whole",
    "drift_mm": "drift (mm)",
    "common_drift_mm": "common drift (mm)",
    "drift_scale_percent": "scale (%)",
    "drift_degrees": "turn (°)",
    "epe_head_mm": "EPE head (mm)",
    "zero_head_mm": "zero field (mm)",
    "share_of_zero_field_epe": "EPE / zero field",
    "folded_fraction": "folded fraction",
    **COSTS,
    "training_seconds": "training (s)",
}
PRINTED = {
    **{column(measure): heading.removesuffix(" (dB)") for measure, heading in MEASURES.items()},
    "common_drift_mm": "drift mm",
    "epe_head_mm": "EPE mm",
    "share_of_zero_field_epe": "EPE/zero",
    "training_seconds": "train s",
}
BETTER: dict[str, Better] = {
    **dict.fromkeys((column("nmae"), "mae", "epe_head_mm", "folded_fraction"), "min"),
    **dict.fromkeys((column("psnr"), column("ssim")), "max"),
}


def scores(row: Row) -> CaseTable:
    """Score the translations of aligned test cases and, of methods that register, the fields of misaligned pairs."""
    table = score_cases(row.tracer, row.cases(row.run), scores=translation, progress=row.progress)
    if row.method is not None and row.method.registers:
        pairs = row.cases(row.run, "pairs")
        description = row.progress and f"{row.progress} (pairs)"
        result = score_cases(registrar_of(row.method), pairs, scores=registration, progress=description)
        for case, values in result.rows.items():
            table.add(case, values)
    return table


def translation(trace: Trace, case: Mapping[str, Any]) -> dict[str, float]:
    """The values of one translation against the aligned target; without "head" the foreground is found in the target.

    `mae`, `psnr`, `ssim`, `nmi` as in `scoring.fidelity`; `nmae`, `psnr` and `ssim` under every convention of
    `metrics.translation_scores`; `drift_mm`, how far the image is shifted from the target, and its components;
    `drift_scale_percent` and `drift_degrees`, how much larger the image is and how far it is rotated
    (`metrics.affine_drift`).
    """
    image, target = trace.image[None], _plain(case["target"])
    head = _plain(case["head"]) if "head" in case else None
    values: dict[str, Any] = dict(fidelity(image, target))
    for convention in metrics.CONVENTIONS:
        result = metrics.translation_scores(image, target, convention, head)
        values |= {column(measure, convention): result[measure] for measure in MEASURES}
    affine = torch.as_tensor(trace.affine, dtype=torch.float64)
    drift = metrics.translation_drift(image, target, affine)[0]
    values["drift_mm"] = drift.norm()
    values |= {f"drift_{axis}_mm": component for axis, component in zip(AXES, drift)}
    values |= {f"drift_{name}": value for name, value in _scale_and_turn(image, target, affine).items()}
    return {name: float(value) for name, value in values.items()}


def _scale_and_turn(image: Tensor, target: Tensor, affine: Tensor) -> dict[str, Tensor]:
    """Scaling and rotation of the drift; NaN if the images show so little in a direction that the best map collapses
    it."""
    names = ("scale_percent", "degrees")
    try:
        parts = metrics.drift_parts(metrics.affine_drift(image, target, affine)[0])
    except ValueError:
        return {name: torch.tensor(float("nan")) for name in names}
    return {name: parts[name] for name in names}


def registration(trace: Trace, pair: Mapping[str, Any]) -> dict[str, float]:
    """The values of one field against a pair's true misalignment, inside the head."""
    ddf, truth, head = trace.ddf[None], _plain(pair["ddf"]), _plain(pair["head"])
    affine = torch.as_tensor(trace.affine, dtype=torch.float64)
    result = metrics.end_point_error(ddf, truth, head, affine=affine)
    zero = metrics.end_point_error(torch.zeros_like(truth), truth, head, affine=affine)
    return {
        "epe_head_mm": float(result),
        "zero_head_mm": float(zero),
        "folded_fraction": float(non_diffeomorphic_fraction(ddf)),
    }


def totals(tables: Mapping[str, CaseTable]) -> Table:
    """What a mean over cases does not show.

    `common_drift_mm` is the length of the mean drift over all cases: a shift that the generator makes everywhere.
    """
    result: Table = {"mean_drift_mm": {}, "common_drift_mm": {}, "share_of_zero_field_epe": {}}
    for row, table in tables.items():
        axes = [name for axis in AXES if (name := f"drift_{axis}_mm") in table.columns]
        mean = [table.summary()[name].mean for name in axes]
        result["mean_drift_mm"][row] = mean
        result["common_drift_mm"][row] = math.hypot(*mean)
        if "zero_head_mm" in table.columns and (zero := sum(table.values("zero_head_mm"))) > 0:
            result["share_of_zero_field_epe"][row] = sum(table.values("epe_head_mm")) / zero
    return result


def show_pair(row: Row, folder: Path) -> None:
    """The field that a registering method finds in the first pair, saved and drawn."""
    if row.method is None or not row.method.registers:
        return
    pair = row.cases(row.run, "pairs")[0]
    (trace,) = registrar_of(row.method)(list_data_collate([pair]))
    name = f"{pair['case']}_pair"
    save_trace(trace, made(folder / "traces" / file_name(row.name)) / name, method=row.run.name, overwrite=True)
    figure = trace_figure(
        trace,
        target=pair["target"].as_tensor(),
        title=f"{row.name}, misaligned: {pair['case']}",
        image_name="registered translation",
    )
    save_figure(figure, folder / "figures" / f"{file_name(row.name)}_{name}.png", dpi=DPI)


def show_layout(blocks: Blocks, costs: Mapping[str, str] | None = None) -> Callable[[Outcome], None]:
    """Writes and prints `paper_table.md`: NMAE, PSNR and SSIM, and some costs, in the layout of the paper's table."""

    def show(outcome: Outcome) -> None:
        cells: dict[str, dict[str, Mapping[str, Any]]] = {}
        for row, (line, place) in outcome.study.places.items():
            cells.setdefault(line, {})[place] = outcome.rows[row]
        measures = {**{column(measure): heading for measure, heading in MEASURES.items()}, **(costs or {})}
        atomic_write(outcome.folder / "paper_table.md", crossed_table(cells, measures, blocks=blocks))
        title = f"{outcome.study.name}, in the layout of the paper: means over the cases ({CONVENTION})"
        print_crossed_table(cells, measures, blocks=blocks, title=title, console=outcome.console)

    return show


def show_levels(outcome: Outcome) -> None:
    """`figures/levels.png`: PSNR against the noise level, and `figures/registration.png`: R against the zero field."""
    lines = [
        {"method": method, "level": float(level.split()[-1]), **outcome.rows[row]}
        for row, (method, level) in outcome.study.places.items()
    ]
    measures = {column(measure): MEASURES[measure] for measure in ("psnr", "ssim", "nmae")}
    options: dict[str, Any] = {"series": "method", "label": "noise level", "spread": "sd"}
    _save(outcome, "levels", sensitivity_figure(lines, "level", measures, **options))
    registered = [line for line in lines if "epe_head_mm" in line]
    fields = [{**line, "method": f"R of {line['method']}", "mm": line["epe_head_mm"]} for line in registered]
    fields += [{**line, "method": "zero field", "mm": line["zero_head_mm"]} for line in registered]
    if fields:
        labels = {"mm": "end-point error in the head (mm)"}
        _save(outcome, "registration", sensitivity_figure(fields, "level", labels, **options))


def _save(outcome: Outcome, name: str, figure: Figure) -> None:
    save_figure(figure, outcome.folder / "figures" / f"{name}.png", dpi=DPI)


def _plain(value: Tensor) -> Tensor:
    return value.as_subclass(Tensor)[None]


LEVELS = tuple("012345")
BACKBONES = {"cyclegan": "CycleGAN", "munit": "MUNIT", "unit": "UNIT", "nice_gan": "NICE-GAN"}
MODES = ("C", "C+R", "NC", "NC+R")
MODES_EPOCHS = 2
"""Epochs of each of the 16 trainings of the demo."""
RIVALS = {"CycleGAN (C)": "C", "Pix2Pix": "pix2pix", "RegGAN (NC+R)": "NC+R"}
"""Name → mode of the CycleGAN backbone (RegGAN, Table 2 and Figure 6)."""


def training(level: str, backbone: str, mode: str, unpaired: bool = False) -> Training:
    """A training of a backbone in a mode on pairs of a noise level."""
    level_name = f"level-{level}" if level in LEVELS else level
    name = "-".join([*(["unpaired"] if unpaired else []), level_name, backbone, mode]).lower()
    moved = "target" if level in LEVELS else "both"
    method, chosen = two_domain(backbone, mode)
    data = {"data.level": level, "data.moved": moved, "data.pairing": "random" if unpaired else "subject"}
    own = {} if level in LEVELS else {"demo": {"training.max_epochs": MODES_EPOCHS}}
    return Training(name.replace("+", "-").replace("_", "-"), {**chosen, **data}, method, by_setting=own)


def sharp(one: Training, **more: Any) -> Training:
    """A training whose generator works at half of the grid's resolution, where the study `noise` has a quarter."""
    run = "-".join(["sharp", *map(str, more.values()), one.run])
    return replace(one, run=run, settings={**one.settings, **more}, by_setting={"demo": {"networks": SHARP}})


def study(
    name: str,
    rows: Mapping[tuple[str, str], Training],
    *show: Callable[[Outcome], None],
    controls: Mapping[str, Tracer] | None = None,
) -> Study:
    """A study of this task, of rows by their place in the paper's table."""
    names = {place: ", ".join(part for part in place if part) for place in rows}
    return Study(
        name=name,
        task="misaligned",
        rows={names[place]: method for place, method in rows.items()},
        controls=controls or {"identity (T1)": identity},
        scores=scores,
        totals=totals,
        columns=COLUMNS,
        printed=PRINTED,
        better=BETTER,
        places={name: place for place, name in names.items()},
        show_row=(show_pair,),
        show=(show_traces, show_places, show_training, *show),
        shown_cases=1,
    )


MISALIGNED = (
    study(
        "noise",
        {
            (name, f"noise {level}"): training(level, "cyclegan", mode)
            for level in LEVELS
            for name, mode in RIVALS.items()
        },
        show_layout("line"),
        show_levels,
    ),
    study(
        "modes",
        {(mode, BACKBONES[backbone]): training("table1", backbone, mode) for backbone in BACKBONES for mode in MODES},
        show_layout("measure", COSTS),
    ),
    study(
        "generators",
        {
            ("Pix2Pix", "noise 0"): sharp(training("0", "cyclegan", "pix2pix")),
            ("Pix2Pix", "noise 5"): sharp(training("5", "cyclegan", "pix2pix")),
            ("RegGAN (NC+R)", "noise 0"): sharp(training("0", "cyclegan", "NC+R")),
            ("RegGAN (NC+R)", "noise 5"): sharp(training("5", "cyclegan", "NC+R")),
            ("RegGAN, aligned first", "noise 5"): sharp(training("5", "cyclegan", "NC+R"), alignment="affine"),
        },
        show_layout("line"),
    ),
    study(
        "unpaired",
        {("", name): training("0", "cyclegan", mode, unpaired=True) for name, mode in RIVALS.items()},
    ),
)
