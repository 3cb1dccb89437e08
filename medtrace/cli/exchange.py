"""Commands that export traces to other programs and import their fields."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medtrace.cli import options
from medtrace.cli.app import command
from medtrace.cli.output import give, note, tell


@command("export", new_folder=True)
def export(
    trace: options.Trace,
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            help="itk, composite, tfm, ants, nrrd, slicer, nitransforms, learn2reg, fsl, or trace (with --source).",
        ),
    ],
    out: options.NewFolder,
    source: Annotated[
        Path | None, typer.Option(help="The original source scan; the field is first resampled to it.")
    ] = None,
    source_transform: Annotated[
        Path | None, typer.Option("--source-motion", help="ITK transform from the trace's source frame to that scan.")
    ] = None,
    target: Annotated[Path | None, typer.Option(help="The original target scan; needs --source.")] = None,
    target_transform: Annotated[
        Path | None,
        typer.Option("--target-motion", help="ITK transform from the trace's target frame to that scan: rigid/*.tfm."),
    ] = None,
    source_series: options.SourceSeries = None,
    target_series: options.TargetSeries = None,
    resample_tilt: options.ResampleTilt = False,
) -> None:
    """Write a trace's fields for ITK, ANTs, 3D Slicer, nitransforms, Learn2Reg or FSL."""
    from medtrace.workflows.export import export as call

    files = call(
        trace,
        out,
        format_,
        source=source,
        source_transform=source_transform,
        target=target,
        target_transform=target_transform,
        source_series=source_series,
        target_series=target_series,
        resample_tilt=resample_tilt,
    )
    give({"out": out, "format": format_, "files": files})
    tell(f"{out}: {', '.join(path.name for path in files)}")


@command("import")
def import_(
    fields: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="The other program's file, in the resampling direction; for ANTs several, in the order of"
            " antsApplyTransforms, [FILE,1] inverting one.",
        ),
    ],
    source: Annotated[Path, typer.Option(help="The scan that the field resamples (moving).")],
    target: Annotated[Path, typer.Option(help="The scan whose grid it is resampled onto (fixed).")],
    out: options.TraceFolder,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="itk, ants, elastix, spm, lta, flirt, fsl, matrix, niftyreg, afni, nrrd, nitransforms, learn2reg or"
            " voxelmorph; by default recognized from the content.",
        ),
    ] = None,
    overwrite: options.Overwrite = False,
    keep_metadata: options.KeepMetadata = False,
    source_series: options.SourceSeries = None,
    target_series: options.TargetSeries = None,
    resample_tilt: options.ResampleTilt = False,
    precise: options.Precise = False,
    transforms: options.Transforms = None,
) -> None:
    """Make a trace from two scans and a transform that another program estimated."""
    from medtrace.workflows.import_field import import_field

    import_field(
        fields,
        format_,
        source,
        target,
        out,
        overwrite=overwrite,
        keep_metadata=keep_metadata,
        source_series=source_series,
        target_series=target_series,
        resample_tilt=resample_tilt,
        say=lambda line: note(f"medtrace: {line}"),
        precise=precise,
        transforms=transforms or (),
    )
    give({"trace": out})
    tell(f"trace written to {out}")


@command("dicom", new_folder=True)
def dicom(
    trace: options.Trace,
    series: Annotated[Path, typer.Argument(help="Folder of that series.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the DICOM files.")],
    target_series: Annotated[
        Path | None, typer.Option("--target-series", help="Series whose grid the image is on (registrations).")
    ] = None,
    warped: Annotated[bool, typer.Option("--warped", help="Write the warped source as a series too.")] = False,
    volume: Annotated[
        str | None,
        typer.Option("--series", help="Which volume of that folder, if it holds several (see translate)."),
    ] = None,
    target_volume: Annotated[
        str | None, typer.Option("--series-of-target", help="Likewise, which volume of the folder --target-series.")
    ] = None,
) -> None:
    """Write a trace as DICOM: the image as a derived series, the fields as Deformable Spatial Registrations."""
    from medtrace.io.dicom_export import export_dicom

    folder = export_dicom(
        trace,
        out,
        series,
        target_series=target_series,
        volume=volume,
        target_volume=target_volume,
        warped=warped,
    )
    give({"dicom": out, "files": sorted(path for path in folder.rglob("*") if path.is_file())})
    tell(f"DICOM written to {out}")


@command("bids", new_folder=True)
def bids(
    traces: options.Traces,
    out: options.NewFolder,
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="BIDS name of a trace's source, such as sub-01_ses-pre_T1w, or its path in the raw data set; one for"
            " each trace.  [default: the names of the traces' folders]"
        ),
    ] = None,
    suffix: Annotated[
        str | None, typer.Option(help="Suffix of the images, such as T2w.  [default: from their contrast]")
    ] = None,
    space: Annotated[
        str | None, typer.Option(help="Label of their space.  [default: predicted; target for registrations]")
    ] = None,
    raw: Annotated[str | None, typer.Option(help="Path or URL of the raw data set, for links to the sources.")] = None,
    skull_stripped: Annotated[
        bool | None,
        typer.Option(
            "--skull-stripped/--with-skull", help="Whether the images are skull-stripped.  [default: measured]"
        ),
    ] = None,
) -> None:
    """Write traces as BIDS derivatives: images, masks and ITK transforms with sidecars."""
    from medtrace.workflows.bids import bids_derivatives

    result = bids_derivatives(
        traces, out, sources=tuple(source or ()), suffix=suffix, space=space, raw=raw, skull_stripped=skull_stripped
    )
    give({"out": out, "files": result.files})
    for line in result.notes:
        note(f"medtrace: note: {line}")
    tell(f"{out}: {len(result.files)} files of {len(traces)} traces")
