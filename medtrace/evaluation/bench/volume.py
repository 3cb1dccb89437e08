"""Study `volume` of the task `metamorphic`: one case in 3D by instance optimization, nothing trained."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.data import list_data_collate
from rich.console import Console
from rich.progress import Progress

from medtrace.data import TraceBench
from medtrace.engines.runs import default_device
from medtrace.evaluation.bench.drawing import DPI, file_name, made
from medtrace.evaluation.bench.machine import measured_with
from medtrace.evaluation.classical_registration import simpleitk_tracer
from medtrace.evaluation.registration_scores import score_registration
from medtrace.evaluation.tracers import identity
from medtrace.guard.memory import peak_memory
from medtrace.io import save_trace
from medtrace.methods.common.instance import SMOOTHNESS, STEPS, InstanceRegistration, RefinementStep
from medtrace.methods.common.metamorphic_energy import MetamorphicEnergy
from medtrace.report import markdown_table, metamorphosis_figure, overlay_figure, print_table, save_figure
from medtrace.storage.files import atomic_write, write_json
from medtrace.storage.reservations import locked, reserving
from medtrace.trace import Trace
from medtrace.trace.prediction import Prediction, traces_of
from medtrace.trace.validation import as_tensor

SIZES = {"demo": (96, STEPS), "full": (128, 2 * STEPS), "smoke": (24, 2)}
"""Setting → voxels an axis, gradient steps."""
FOLDER = Path("metamorphic") / "volume"
COLUMNS = {
    "ssd_total": "SSD total",
    "ssd_healthy": "SSD healthy",
    "dice": "Dice",
    "folds": "folds",
    "non_diffeomorphic_fraction": "folded fraction",
    "epe_near_lesion_mm": "EPE within 10 mm of the lesion (mm)",
    "epe_healthy_mm": "EPE healthy (mm)",
    "epe_head_mm": "EPE head (mm)",
    "seconds": "time (s)",
    "peak_gib": "peak memory so far (GiB)",
}
MASKED, PLAIN = "instance, masked", "instance, no mask"
METAMORPHOSIS, EQUATION = "instance, metamorphosis", "instance, metamorphosis, both taught"


@reserving(lambda out: locked(out / FOLDER))
def volume(
    setting: str, out: Path, *, seed: int = 0, device: str | None = None, progress: bool = True
) -> dict[str, Any]:
    """Register one unseen 3D case by instance optimization and beside it the rivals; print and write the scores.

    Rows: the identity; SimpleITK's Demons with the lesion masked; instance optimization without a mask; with the lesion
    left out of the comparison (its image the warped source); with the change of intensity (the same field, and q·M);
    and with Eq. 4's gradient, which teaches the field within the mask too.

    Args:
        setting: one of `SIZES`.
        out: receives `metamorphic/volume/` with `results.json`, `table.md`, `figures/` and `traces/`.
        seed: seed of the case.
        device: device of the optimization; by default CUDA if available.
        progress: show a bar and the table.

    Returns:
        The content of `results.json`.
    """
    size, steps = SIZES[setting]
    console = Console(stderr=True, quiet=not progress)
    place, folder = default_device(device), out / FOLDER
    case = TraceBench("metamorphic", (size,) * 3, cases=1, seed=seed, split="test")[0]
    rows: dict[str, dict[str, Any]] = {}
    traces: dict[str, Trace] = {}
    with Progress(console=console, disable=not (progress and console.is_terminal)) as bar:
        for name, trace, seconds in _traces(case, steps, place, bar):
            rows[name] = {**score_registration(trace, case), "seconds": seconds, "peak_gib": peak_memory(place)}
            traces[name] = trace
    results = {
        "command": f"medtrace bench metamorphic --setting {setting} --study volume --seed {seed}",
        **measured_with(place),
        "shape": [size] * 3,
        "steps": steps,
        "rows": rows,
    }
    write_json(folder / "results.json", results)
    lines = [{"method": name, **values} for name, values in rows.items()]
    atomic_write(folder / "table.md", markdown_table(lines, {"method": "", **COLUMNS}) + "\n")
    _draw(folder, case, traces)
    shown = ("ssd_total", "dice", "folds", "epe_near_lesion_mm", "epe_healthy_mm", "seconds", "peak_gib")
    headings = ("SSD", "Dice", "folds", "EPE near", "healthy", "s", "GiB")
    print_table(lines, {"method": "", **dict(zip(shown, headings))}, title=f"TraceBench, {size}³", console=console)
    console.print(f"Table, figures and traces: [bold]{folder}[/bold]")
    return results


def _traces(case: Mapping[str, Any], steps: int, device: torch.device, bar: Progress) -> Any:
    """Rows as they are done: name, trace, seconds."""
    batch = list_data_collate([case])
    unmasked = {name: value for name, value in batch.items() if name not in ("mask", "source_mask")}
    tracers: dict[str, tuple[Callable[[Mapping[str, Any]], Any], Mapping[str, Any]]] = {
        "identity": (identity, batch),
        "SimpleITK Demons, masked": (simpleitk_tracer, batch),
        PLAIN: (_instance(PLAIN, steps, "intensity", device, bar), unmasked),
        METAMORPHOSIS: (_instance(METAMORPHOSIS, steps, "intensity", device, bar), batch),
        EQUATION: (_instance(EQUATION, steps, "both", device, bar), batch),
    }
    for name, (tracer, given) in tracers.items():
        started = time.perf_counter()
        (trace,) = tracer(given)
        seconds = time.perf_counter() - started
        if name == METAMORPHOSIS:
            prediction = Prediction(trace.warped[None], trace.ddf[None], mask=as_tensor(batch["mask"]).float())
            (bare,) = traces_of(batch["source"], prediction, batch["target"])
            yield MASKED, bare, seconds
        yield name, trace, seconds


def _instance(
    name: str, steps: int, gradient: str, device: torch.device, bar: Progress
) -> Callable[[Mapping[str, Any]], list[Trace]]:
    task = bar.add_task(name, total=steps)

    def show(report: RefinementStep) -> None:
        bar.update(task, completed=report.step)

    energy = MetamorphicEnergy(smoothness_weight=SMOOTHNESS, masked_gradient=gradient, folding_measure="simplices")
    method = InstanceRegistration(energy, steps=steps, progress=show)

    def trace(batch: Mapping[str, Any]) -> list[Trace]:
        names = ("source", "target", "mask", "source_mask")
        return [result.to("cpu") for result in method.trace({n: batch[n].to(device) for n in names if n in batch})]

    return trace


def _draw(folder: Path, case: Mapping[str, Any], traces: Mapping[str, Trace]) -> None:
    target, labels = as_tensor(case["target"]), as_tensor(case["source_labels"])
    made(folder / "traces")
    for name, trace in traces.items():
        if not name.startswith("instance"):
            continue
        save_trace(trace, folder / "traces" / file_name(name), method=name, overwrite=True)
        figure = overlay_figure(trace, target, trace.transfer(labels), as_tensor(case["mask"]), title=name)
        save_figure(figure, folder / "figures" / f"{file_name(name)}.png", dpi=DPI)
    cases = {name: (traces[name], target) for name in (METAMORPHOSIS, EQUATION)}
    save_figure(metamorphosis_figure(cases), folder / "figures" / "metamorphosis.png", dpi=DPI)
