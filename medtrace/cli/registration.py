"""The command that registers images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from medtrace.cli import choices, options
from medtrace.cli.app import command
from medtrace.cli.cases import refuse_with_several, tell_cases
from medtrace.cli.errors import FAILED_VERDICT
from medtrace.cli.output import bars, give, tell


@command("register")
def register(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="MOVING",
            help="The image to deform: NIfTI, MGZ, NRRD, MetaImage, PNG, JPEG, DICOM folder. Or a folder or list of"
            " images, each registered to FIXED; or, without FIXED, a pair list (CSV with subject, source, target).",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the trace, or of all cases.")],
    target: Annotated[Path | None, typer.Argument(metavar="FIXED", help="The image to deform it to.")] = None,
    mask: Annotated[Path | None, typer.Option(help="Pathology of the fixed image; see --mask-role.")] = None,
    source_mask: Annotated[
        Path | None, typer.Option("--moving-mask", "--source-mask", help="Pathology of the moving image.")
    ] = None,
    mask_role: Annotated[
        str,
        typer.Option(
            metavar=choices.of(*choices.MASK_ROLES),
            autocompletion=choices.completing(*choices.MASK_ROLES),
            help="exclude: masks are left out of the similarity; appearance: intensity may change.",
        ),
    ] = "both",
    align: Annotated[
        str,
        typer.Option(
            metavar=choices.of(*choices.ALIGNMENTS),
            autocompletion=choices.completing(*choices.ALIGNMENTS),
            help="Alignment before the deformation.",
        ),
    ] = "auto",
    same_person: Annotated[
        bool, typer.Option("--same-person", help="Both show the same person: a rigid transform.")
    ] = False,
    similarity: Annotated[
        str,
        typer.Option(
            metavar=choices.of(*choices.SIMILARITIES),
            autocompletion=choices.completing(*choices.SIMILARITIES),
            help="Similarity measure.",
        ),
    ] = "auto",
    preset: Annotated[
        str | None,
        typer.Option(
            metavar=choices.of(*choices.REGISTRATION_PRESETS),
            autocompletion=choices.completing(*choices.REGISTRATION_PRESETS),
            help="Effort of the registration.  [default: what suits the pair]",
        ),
    ] = None,
    update_smoothing: Annotated[
        float | None, typer.Option(min=0, help="Gaussian on each update, mm.  [default: 1.5 voxels]")
    ] = None,
    field_smoothing: Annotated[
        float | None, typer.Option(min=0, help="Gaussian on the field, mm.  [default: 0.6 voxels]")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Run folder of a training, whose network then registers.")] = None,
    refine: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Gradient steps after --run; without it, uses --engine instance.  [default: 0; for that engine 100]",
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            metavar=choices.of(*choices.ENGINES),
            autocompletion=choices.completing(*choices.ENGINES),
            help="Engine used without --run; after it, greedy continues its field.  [default: greedy; with --run none]",
        ),
    ] = None,
    spacing: Annotated[
        float | None, typer.Option(help="Voxel size in mm to register at.  [default: the run's, or the target's]")
    ] = None,
    smoothness: Annotated[float, typer.Option(min=0, help="Weight of smoothness in --refine.")] = 0.01,
    match: Annotated[
        bool | None,
        typer.Option(
            "--match/--no-match", help="Match the source's percentiles to the target's.  [default: only without --run]"
        ),
    ] = None,
    contrast: options.Contrast = None,
    labels: Annotated[Path | None, typer.Option(help="Labels of the source, for the contours of --figure.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Figure of the registration: .png, .pdf or .svg.")] = None,
    checkpoint: options.Checkpoint = None,
    device: options.Device = None,
    overwrite: options.Overwrite = False,
    report: options.Report = True,
    keep_metadata: options.KeepMetadata = False,
    source_series: options.SourceSeries = None,
    target_series: options.TargetSeries = None,
    resample_tilt: options.ResampleTilt = False,
    workers: options.Workers = 1,
    scheduler: options.Scheduler = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of a registration.")] = None,
    precise: options.Precise = False,
    transforms: options.Transforms = None,
) -> None:
    """Align and deform an image to another and keep the trace, with a verdict; or many. Exits with 3 on a FAIL."""
    shared: dict[str, Any] = {
        "mask_role": mask_role,
        "align": align,
        "same_person": same_person,
        "similarity": similarity,
        "preset": preset,
        "update_smoothing": update_smoothing,
        "field_smoothing": field_smoothing,
        "run": run,
        "refine": refine,
        "engine": engine,
        "spacing": spacing,
        "smoothness": smoothness,
        "match": match,
        "contrast": contrast,
        "device": device,
        "overwrite": overwrite,
        "report": report,
        "resample_tilt": resample_tilt,
        "threads": threads,
        "precise": precise,
        "transforms": transforms or (),
    }
    alone: dict[str, Any] = {
        "mask": mask,
        "source_mask": source_mask,
        "labels": labels,
        "figure": figure,
        "source_series": source_series,
        "target_series": target_series,
    }
    from medtrace.data.lists.image_list import is_one_image
    from medtrace.workflows.runs import using_checkpoint

    if target is None or (source.exists() and not is_one_image(source)):
        refuse_with_several({**alone, "keep_metadata": keep_metadata or None})
        with using_checkpoint(checkpoint):
            _register_cases(source, target, out, workers=workers, scheduler=scheduler, **shared)
        return
    from medtrace.workflows.register import register as call

    with using_checkpoint(checkpoint):
        result = call(source, target, out, keep_metadata=keep_metadata, progress=bars(), **alone, **shared)
    _tell(result, out, report)
    if result.verdict.grade == "FAIL":
        raise typer.Exit(FAILED_VERDICT)


def _tell(result: Any, out: Path, report: bool) -> None:
    """The verdict in words, and what was written."""
    from medtrace.workflows.report import page_of

    give(
        {
            "verdict": result.verdict.grade,
            "checks": [{"topic": line.topic, "grade": line.grade, "text": line.text} for line in result.lines],
            "folds": result.folds,
            "ssd_before": result.ssd_before,
            "ssd_after": result.ssd_after,
            "trace": out,
            "page": page_of(out) if report else None,
        }
    )
    tell(f"{result.verdict.grade}: {out}")
    for line in result.lines:
        tell(f"  {line.grade:<5}{line.topic}: {line.text}")
    if result.similarity is not None:
        tell(f"similarity {result.similarity}")
    if result.ssd_before is not None:
        tell(f"SSD {result.ssd_before:.5f} before, {result.ssd_after:.5f} after (mean square, intensities in [0, 1])")
    tell(f"folds: {result.folds} voxels, folded fraction {result.folded_fraction:.6f}")
    tell(f"time {result.seconds:.1f} s, peak memory {result.peak_gib:.2f} GiB")
    marked = ", marked as FAIL" if result.verdict.grade == "FAIL" else ""
    tell(f"trace written to {out}{marked}")
    if report:
        tell(f"page written to {page_of(out)}")


def _register_cases(source: Path, target: Path | None, out: Path, **settings: Any) -> None:
    from medtrace.workflows.registration.cases import register_cases

    result = register_cases(source, target, out, progress=bars(), **settings)
    tell_cases(result)
