"""Commands that apply and convert transforms, and make traces from other programs' results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from medtrace.cli import choices, options
from medtrace.cli.app import command
from medtrace.cli.cases import refuse_with_several, tell_cases
from medtrace.cli.errors import FAILED_VERDICT
from medtrace.cli.output import bars, give, note, tell

Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="For other programs' files: itk, ants, elastix, spm, lta, flirt, fsl, matrix, niftyreg, afni, nrrd,"
        " nitransforms, learn2reg or voxelmorph; by default recognized from the content.",
    ),
]
SourceGrid = Annotated[Path | None, typer.Option("--source", help="The moving image, for formats defined on its grid.")]
TargetGrid = Annotated[Path | None, typer.Option("--target", help="The fixed image, likewise.")]


def _say(line: str) -> None:
    note(f"medtrace: {line}")


@command("apply")
def apply(
    listed: Annotated[
        list[str],
        typer.Argument(
            metavar="TRANSFORM... INPUT",
            help="Traces and other programs' transforms in the order of antsApplyTransforms (the image goes through the"
            " last of them first; [X,1] inverts one), then the image, label map or points.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="File: .nii or .nii.gz; for points .csv, .fcsv or .mrk.json.")
    ],
    kind: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar=choices.of(*choices.KINDS),
            autocompletion=choices.completing(*choices.KINDS),
            help="Type of INPUT.  [default: what the file says]",
        ),
    ] = None,
    inverse: Annotated[bool, typer.Option("--inverse", help="From the target back to the source.")] = False,
    grid: Annotated[
        Path | None, typer.Option(help="Image whose grid the result is to have.  [default: the trace's own]")
    ] = None,
    source: SourceGrid = None,
    target: TargetGrid = None,
    format_: Format = None,
    interpolation: Annotated[
        str | None,
        typer.Option(help="linear, nearest, or for labels partial-volume: what covers most of a voxel."),
    ] = None,
    fill: Annotated[
        float | None, typer.Option(help="Value outside the image.  [default: its minimum; for labels 0]")
    ] = None,
    space: Annotated[
        str | None, typer.Option("--space", help="Axes of points whose file does not specify them: RAS or LPS.")
    ] = None,
) -> None:
    """Resample an image, labels or points through traces and transforms, interpolating once."""
    from medtrace.workflows.apply import apply as call

    if len(listed) < 2:
        raise ValueError(f"INPUT: expected transforms and what to apply them to, received {listed[0]} alone")
    done = call(
        listed[:-1],
        listed[-1],
        out,
        kind=kind,
        inverse=inverse,
        grid=grid,
        source=source,
        target=target,
        format=format_,
        interpolation=interpolation,
        fill=fill,
        space=space,
        say=_say,
    )
    give({"out": out, "kind": done.kind})
    tell(f"{done.kind} through {', then '.join(done.names)}")
    if done.grid is None:
        tell(f"{done.count} points, {done.inside:.0%} of them within the image that they are mapped to")
    else:
        shape, spacing = (
            "x".join(f"{value:.4g}" for value in values) for values in (done.grid.shape, done.grid.spacing)
        )
        tell(f"onto {shape} voxels of {spacing} mm; {done.inside:.1%} map into the image, the rest is {done.fill:g}")
    tell(f"written to {out}")


@command("convert", new_folder=True)
def convert(
    listed: Annotated[
        list[str],
        typer.Argument(
            metavar="TRANSFORM...",
            help="A trace, or another program's transform; several (antsApplyTransforms' order) become one.",
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="itk, tfm, ants, elastix, nrrd, nitransforms, fsl, spm, niftyreg, learn2reg, voxelmorph; for linear"
            " transforms also flirt, lta, matrix, afni.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder.")],
    source: Annotated[Path | None, typer.Option(help="The moving image.  [default: the trace's]")] = None,
    target: Annotated[Path | None, typer.Option(help="The fixed image.  [default: the trace's]")] = None,
    format_: Format = None,
) -> None:
    """Write a trace or a transform of one program for another, in both directions."""
    from medtrace.workflows.convert import convert as call

    files = call(listed, to, out, source=source, target=target, format=format_, say=_say)
    give({"out": out, "format": to, "files": files})
    tell(f"{out}: {', '.join(path.name for path in files)}")


@command("trace")
def trace(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="The image that was translated: file or DICOM folder. Or a folder or list of images; or without IMAGE,"
            " a pair list (CSV with subject, source, target).",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the trace, or of all cases.")],
    image: Annotated[
        Path | None,
        typer.Argument(
            metavar="[IMAGE]", help="Its translation, made by any program; for several, a folder with the same names."
        ),
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="Mask of where the image's intensity may change, on its grid.")
    ] = None,
    source_contrast: Annotated[
        str | None,
        typer.Option(
            "--source-contrast", help="Contrast and unit of the source: NAME[=UNIT[:LOW:HIGH]], such as CT=HU."
        ),
    ] = None,
    image_contrast: Annotated[
        str | None, typer.Option("--image-contrast", "--target-contrast", help="Likewise for the image.")
    ] = None,
    align: Annotated[
        str | None,
        typer.Option(help="Alignment first: none, rigid, affine or auto.  [default: none on one grid, else auto]"),
    ] = None,
    similarity: Annotated[
        str,
        typer.Option(
            metavar=choices.of(*choices.SIMILARITIES),
            autocompletion=choices.completing(*choices.SIMILARITIES),
            help="Similarity measure.",
        ),
    ] = "auto",
    spacing: Annotated[
        float | None, typer.Option(help="Voxel size in mm to register at.  [default: the image's]")
    ] = None,
    radius: Annotated[Path | None, typer.Option(help="Conformal radius that was calibrated for such traces.")] = None,
    thresholds: options.Thresholds = None,
    overwrite: options.Overwrite = False,
    report: options.Report = True,
    keep_metadata: options.KeepMetadata = False,
    source_series: options.SourceSeries = None,
    target_series: options.TargetSeries = None,
    resample_tilt: options.ResampleTilt = False,
    workers: options.Workers = 1,
    scheduler: options.Scheduler = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of the registration.")] = None,
    precise: options.Precise = False,
) -> None:
    """Make the trace of an image that any program translated, with its certificate; or many. Exits with 3 on a FAIL."""
    from medtrace.data.lists.image_list import is_one_image

    shared: dict[str, Any] = {
        "source_contrast": source_contrast,
        "image_contrast": image_contrast,
        "align": align,
        "similarity": similarity,
        "spacing": spacing,
        "radius": radius,
        "thresholds": thresholds,
        "overwrite": overwrite,
        "report": report,
        "resample_tilt": resample_tilt,
        "threads": threads,
        "precise": precise,
    }
    alone: dict[str, Any] = {"mask": mask, "source_series": source_series, "target_series": target_series}
    if image is None or (source.exists() and not is_one_image(source)):
        refuse_with_several({**alone, "keep_metadata": keep_metadata or None})
        from medtrace.workflows.many.trace_cases import trace_cases

        several: dict[str, Any] = {"workers": workers, "scheduler": scheduler, "progress": bars()}
        tell_cases(trace_cases(source, image, out, **several, **shared))
        return
    from medtrace.workflows.trace import trace_translation

    made = trace_translation(source, image, out, keep_metadata=keep_metadata, progress=bars(), **alone, **shared)
    _tell_trace(made, out, report)
    if made.grade == "FAIL":
        raise typer.Exit(FAILED_VERDICT)


def _tell_trace(made: Any, out: Path, report: bool) -> None:
    """Both verdicts in words, the ledger, and what was written."""
    from medtrace.workflows.report import page_of

    give(
        {
            "verdict": made.grade,
            "certificate": made.certificate.as_dict(),
            "ledger": made.ledger._asdict(),
            "trace": out,
            "page": page_of(out) if report else None,
        }
    )
    tell(f"{made.grade}: {out}")
    for line in made.notes:
        tell(f"  {line}")
    tell(f"registration {made.verdict.grade}")
    for line in made.lines:
        tell(f"  {line.grade:<8}{line.topic}: {line.text}")
    tell(f"certificate {made.certificate.verdict}")
    for check in made.certificate.checks:
        tell(f"  {check.status:<8}{check.name}: {check.reason}")
    ledger = made.ledger._asdict()
    tell("ledger, mean absolute: " + ", ".join(f"{k} {v:.4g}" for k, v in ledger.items() if v is not None))
    tell(f"trace written to {out}")
    if report:
        tell(f"page written to {page_of(out)}")


@command("landmarks", new_folder=True)
def landmarks(
    source_points: Annotated[
        Path, typer.Argument(metavar="SOURCE_POINTS", help="Points of the source: .csv, .fcsv or .mrk.json.")
    ],
    target_points: Annotated[Path, typer.Argument(metavar="TARGET_POINTS", help="The same points in the target.")],
    out: options.NewFolder,
    transforms: Annotated[
        list[str] | None,
        typer.Option(
            "--transform",
            "-t",
            help="A trace or transform, as for apply; repeatable, in the order of antsApplyTransforms.",
        ),
    ] = None,
    source: SourceGrid = None,
    target: TargetGrid = None,
    format_: Format = None,
    space: Annotated[
        str | None, typer.Option("--space", help="Axes of points whose files do not specify them: RAS, LPS or voxel.")
    ] = None,
    figure: Annotated[str, typer.Option(help="File type of the figure: .png, .pdf or .svg.")] = ".png",
) -> None:
    """Measure the target registration error of landmarks in mm, with a table and a figure."""
    from medtrace.workflows.landmarks import landmarks as call

    errors = call(
        source_points,
        target_points,
        out,
        transforms=transforms or (),
        source=source,
        target=target,
        format=format_,
        space=space,
        figure=figure,
        say=_say,
    )
    give({"out": out, **errors.as_dict()})
    for line in errors.lines():
        tell(line)
    tell(f"{out}: landmarks.csv, landmarks.summary.csv, landmarks{figure}")
