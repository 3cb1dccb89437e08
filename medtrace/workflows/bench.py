"""Train rivals on TraceBench and compare them where the truth is known."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from monai.data import list_data_collate
from rich.console import Console

import medtrace
from medtrace import metrics
from medtrace.checks import check_choice
from medtrace.data import TraceBench
from medtrace.io import save_trace
from medtrace.metrics.independent_registration import independent_registration
from medtrace.report import comparison_figure, curve_figure, markdown_table, print_table, save_figure, trace_figure
from medtrace.workflows.evaluate import identity, oracle, tracer_of, write_json
from medtrace.workflows.runs import default_device, load_objective
from medtrace.workflows.scoring import RANGE, Tracer, score_cases
from medtrace.workflows.train import train

BUNDLE = "tracetrans"
SETTINGS: dict[str, tuple[str, ...]] = {"demo": (), "full": ("full",), "smoke": ("smoke",)}
"""Overlays of the bundle on top of its TraceBench overlay."""


@dataclass(frozen=True)
class Method:
    """A row: the run folder's name, and what it changes in the bundle's configuration."""

    run: str
    overrides: Mapping[str, Any] = field(default_factory=dict)


TRACETRANS = Method("tracetrans")  # as the TraceBench overlay sets it: α 0.5, γ 0.25
PIX2PIX = Method("pix2pix", {"objective#alpha": 1.0})
NO_CROSS = Method("gamma-0", {"objective#gamma": 0.0})

STUDIES: dict[str, dict[str, Method]] = {
    "rivals": {"Pix2Pix": PIX2PIX, "TraceTrans": TRACETRANS},
    "alpha": {
        "α = 1 (Pix2Pix)": PIX2PIX,
        "α = 0.75": Method("alpha-0.75", {"objective#alpha": 0.75}),
        "α = 0.5": TRACETRANS,
        "α = 0.25": Method("alpha-0.25", {"objective#alpha": 0.25}),
    },
    "gamma": {
        "γ = 0": NO_CROSS,
        "γ = 0.25": TRACETRANS,
        "γ = 0.5": Method("gamma-0.5", {"objective#gamma": 0.5}),
        "γ = 0.75": Method("gamma-0.75", {"objective#gamma": 0.75}),
        "γ = 1": Method("gamma-1", {"objective#gamma": 1.0}),
        "γ = 1, both streams taught": Method(
            "gamma-1-both", {"objective#gamma": 1.0, "objective#cross_gradient": "both"}
        ),
    },
    "ablation": {
        "one stream (image)": PIX2PIX,
        "two networks, no cross constraint": Method(
            "two-networks", {"objective#gamma": 0.0, "network_def#shared_encoder": False}
        ),
        "two streams, no cross constraint": NO_CROSS,
        "two streams, cross constraint": TRACETRANS,
    },
}
"""Rows of each study; a run that two studies share is trained once per output folder."""

COLUMNS = {
    "mae": "MAE (0-255)",
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "nmi": "NMI",
    "epe_deformed_mm": "EPE deformed (mm)",
    "epe_mm": "EPE grid (mm)",
    "edge_ssim": "edge SSIM",
    "edge_dice": "edge Dice",
    "non_diffeomorphic_fraction": "folded fraction",
}
INDEPENDENT_COLUMNS = {
    "independent_ssim": "SSIM (independent)",
    "independent_edge_ssim": "edge SSIM (independent)",
    "independent_edge_dice": "edge Dice (independent)",
}
BETTER = dict.fromkeys(("mae", "epe_deformed_mm", "epe_mm", "non_diffeomorphic_fraction"), "min") | dict.fromkeys(
    ("psnr", "ssim", "nmi", "edge_ssim", "edge_dice", *INDEPENDENT_COLUMNS), "max"
)
PRINTED = {
    "method": "",
    "mae": "MAE",
    "ssim": "SSIM",
    "epe_deformed_mm": "EPE mm",
    "epe_share": "EPE/zero",
    "mae_share": "MAE/ident.",
    "edge_dice": "edges",
    "training_seconds": "train s",
}
SHOWN_CASES = 4


def bench(
    task: str = "postop",
    setting: str = "demo",
    study: str | None = None,
    out: str | os.PathLike = "demo_out",
    *,
    seed: int = 0,
    device: str | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Train the rows of a study on TraceBench, score them on unseen subjects and write a table and pictures.

    Controls beside the rows: the identity (image = source, zero field) and the oracle (the source pulled by the
    best field that a method could know). The study "alpha" also scores every row by an independent registration
    of source and prediction, since at α = 1 the model's own field is untrained (TraceTrans, Table 5).

    Args:
        task: of TraceBench.
        setting: "demo" (about five minutes on two cores for the rivals), "full" or "smoke" (seconds).
        study: "rivals" (None), "alpha", "gamma" or "ablation".
        out: receives `runs/`, `<study>/results.json`, `<study>/table.md`, per-case CSVs, `figures/`, `traces/`. Runs of
            the same setting and seed found there are used again, also after a change of the code; each row of
            `results.json` tells the commit that trained it.
        seed: of data and training.
        device: by default CUDA where there is one.
        progress: show bars and the table.

    Returns:
        What `results.json` holds.
    """
    check_choice("task", task, ("postop",))
    check_choice("setting", setting, SETTINGS)
    study = study or "rivals"
    check_choice("study", study, STUDIES)
    out = Path(out)
    console = Console(stderr=True, quiet=not progress)
    started = time.perf_counter()

    runs, costs = _train_rows(STUDIES[study], setting, seed, out / "runs", device, console)
    test = _test_cases(runs, progress)
    tracers: dict[str, Tracer] = {"identity (zero field)": identity, "oracle field": oracle}
    tracers |= {row: tracer_of(load_objective(run, device)) for row, run in runs.items()}

    folder = out / study
    tables = {}
    for row, tracer in tracers.items():
        tables[row] = score_cases(tracer, test, progress=row if progress else None)
        if study == "alpha" and row in runs:
            _score_independently(tables[row], tracer, test, row if progress else None)
        tables[row].write_csv(folder / "cases" / f"{_file_name(row)}.csv")
    rows = [{"method": row, **table.summary(), **costs.get(row, {})} for row, table in tables.items()]
    seconds = time.perf_counter() - started
    results = _results(setting, study, seed, default_device(device), rows, tables, seconds)
    write_json(folder / "results.json", results)
    _write_tables(folder, study, results, rows, console)
    _draw(folder, tracers, runs, test)
    console.print(f"Tables, figures and traces: [bold]{folder}[/bold]; trained runs: {out / 'runs'}")
    return results


def _train_rows(
    methods: Mapping[str, Method], setting: str, seed: int, folder: Path, device: str | None, console: Console
) -> tuple[dict[str, Path], dict[str, dict[str, Any]]]:
    runs, costs = {}, {}
    for row, method in methods.items():
        runs[row] = folder / f"{setting}-{seed}" / method.run
        done = runs[row] / "training.json"
        if done.is_file():
            console.print(f"{row}: trained before, in {runs[row]}")
        else:
            shutil.rmtree(runs[row], ignore_errors=True)  # a training that did not finish
            console.print(f"{row}: training")
            started = time.perf_counter()
            train(
                BUNDLE,
                out=runs[row],
                tracebench=True,
                overlays=SETTINGS[setting],
                overrides={"seed": seed, "data_seed": seed, **method.overrides},
                device=device,
            )
            seconds = round(time.perf_counter() - started, 1)
            write_json(done, {"seconds": seconds, "commit": _commit(), "medtrace": medtrace.__version__})
        objective, training = load_objective(runs[row], "cpu"), json.loads(done.read_text())
        costs[row] = {
            "parameters_million": sum(p.numel() for p in objective.get_submodule("networks.generator").parameters())
            / 1e6,
            "training_seconds": training["seconds"],
            "trained_at_commit": training["commit"],
        }
    return runs, costs


def _test_cases(runs: Mapping[str, Path], progress: bool) -> TraceBench:
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(next(iter(runs.values())) / "config.yaml"))
    cases: TraceBench = parser.get_parsed_content("data#test")
    return cases.generate(progress=progress)


def _score_independently(table: metrics.CaseTable, tracer: Tracer, cases: TraceBench, progress: str | None) -> None:
    """SSIM and edges of the source warped by an independent registration against the prediction, where tissue moved."""
    from tqdm import tqdm

    from medtrace.fields import warp

    for case in tqdm(cases, desc=f"{progress} (independent)", disable=progress is None, leave=False):
        (trace,) = tracer(list_data_collate([case]))
        source, image = trace.source[None], trace.image[None]
        warped = warp(source, independent_registration(source, image))
        region = metrics.deformed_region(case["ddf"][None])
        table.add(
            case["case"],
            {
                "independent_ssim": float(metrics.structural_similarity(warped, image, region, data_range=RANGE)),
                "independent_edge_ssim": float(metrics.edge_ssim(warped, image, region, data_range=RANGE)),
                "independent_edge_dice": float(
                    metrics.edge_dice(warped, image, region, data_range=RANGE, threshold="otsu")
                ),
            },
        )


def _results(
    setting: str,
    study: str,
    seed: int,
    device: torch.device,
    rows: list[dict],
    tables: Mapping[str, metrics.CaseTable],
    seconds: float,
) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        return value._asdict() if isinstance(value, metrics.Summary) else value

    control = next(iter(tables.values()))
    zero, still = sum(control.values("zero_field_mm")), sum(control.values("mae"))
    return {
        "command": f"medtrace bench --setting {setting} --study {study} --seed {seed}",
        "medtrace": medtrace.__version__,
        "commit": _commit(),
        "torch": torch.__version__,
        "device": "cuda: " + torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu(),
        "threads": torch.get_num_threads(),
        "seconds": round(seconds, 1),
        "rows": {row["method"]: {key: plain(value) for key, value in row.items() if key != "method"} for row in rows},
        "share_of_zero_field_epe": {row: sum(t.values("epe_deformed_mm")) / zero for row, t in tables.items()},
        "share_of_identity_mae": {row: sum(t.values("mae")) / still for row, t in tables.items()},
    }


def _write_tables(folder: Path, study: str, results: Mapping[str, Any], rows: list[dict], console: Console) -> None:
    rows = [
        {
            **row,
            "epe_share": results["share_of_zero_field_epe"][row["method"]],
            "mae_share": results["share_of_identity_mae"][row["method"]],
        }
        for row in rows
    ]
    columns = {"method": "", **COLUMNS, **(INDEPENDENT_COLUMNS if study == "alpha" else {})}
    columns |= {"epe_share": "EPE / zero field", "mae_share": "MAE / identity"}
    columns |= {"parameters_million": "generator (M)", "training_seconds": "training (s)"}
    (folder / "table.md").write_text(markdown_table(rows, columns) + "\n")
    means = [{name: getattr(value, "mean", value) for name, value in row.items()} for row in rows]
    print_table(means, PRINTED, title=f"TraceBench, {study}: means over the cases", console=console)


def _draw(folder: Path, tracers: Mapping[str, Tracer], runs: Mapping[str, Path], cases: TraceBench) -> None:
    shown = list_data_collate([cases[index] for index in range(min(SHOWN_CASES, len(cases)))])
    traces = {row: tracer(shown) for row, tracer in tracers.items()}
    pictures: dict[str, dict[str, Any]] = {}
    for item, name in enumerate(shown["case"]):
        target = shown["target"][item].as_tensor()
        pictures[name] = {"source": shown["source"][item].as_tensor(), "target": target}
        pictures[name] |= {row: traces[row][item].image for row in runs}
        for row, run in runs.items():
            trace = traces[row][item]
            save_trace(trace, _made(folder / "traces" / _file_name(row)) / name, method=run.name, overwrite=True)
            figure = trace_figure(trace, target=target, title=f"{row}: {name}")
            save_figure(figure, _made(folder / "figures") / f"{_file_name(row)}_{name}.png", dpi=110)
    affine = next(iter(traces.values()))[0].affine
    save_figure(
        comparison_figure(pictures, reference="target", affine=affine), folder / "figures" / "comparison.png", dpi=110
    )
    curves = curve_figure({row: run / "history.csv" for row, run in runs.items()})
    save_figure(curves, folder / "figures" / "training.png", dpi=110)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _file_name(row: str) -> str:
    words = row.replace("α", "alpha").replace("γ", "gamma").replace("=", " ")
    return "-".join("".join(c if c.isalnum() or c == "." else " " for c in words).split()).lower()


def _commit() -> str | None:
    """Short hash of the checkout that the package lies in, with + if it was changed; None for an installed package."""
    git = ["git", "-C", str(Path(medtrace.__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"cpu: {model}, {os.cpu_count()} cores"
