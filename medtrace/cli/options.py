"""Options shared by several commands, each with its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medtrace.cli import choices

Run = Annotated[Path, typer.Argument(help="Run folder of a training, a model folder, or hf://owner/name.")]
Checkpoint = Annotated[
    str | None,
    typer.Option(help="Weights of the run: best (of its validations), last or epoch=N.  [default: the final ones]"),
]
Dataset = Annotated[Path, typer.Argument(help="A folder made by `medtrace prepare`.")]
Trace = Annotated[Path, typer.Argument(help="Folder of a trace.")]
Traces = Annotated[list[Path], typer.Argument(help="Folders of traces.")]
Method = Annotated[
    str,
    typer.Argument(
        help="The method, such as tracetrans; `medtrace methods` lists them.", autocompletion=choices.methods
    ),
]

TraceFolder = Annotated[Path, typer.Option("--out", "-o", help="Folder of the trace.")]
NewFolder = Annotated[Path, typer.Option("--out", "-o", help="A new folder.")]
TablesFolder = Annotated[Path, typer.Option("--out", "-o", help="Folder for tables and figures.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier result in --out.")]
Report = Annotated[bool, typer.Option(help="Also write a page for viewing the trace, OUT.html.")]

Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting, such as optimizer.learning_rate=1e-4; repeatable."),
]
Preset = Annotated[
    list[str] | None, typer.Option(help="Named settings of the method, such as paper; repeatable, in this order.")
]
Split = Annotated[
    str,
    typer.Option(
        metavar=choices.of(*choices.SPLITS),
        help="Part of the dataset.",
        autocompletion=choices.completing(*choices.SPLITS),
    ),
]
Seed = Annotated[int, typer.Option(help="Random seed.")]
Dims = Annotated[int, typer.Option(min=2, max=3, help="2 for slices, 3 for volumes.")]
Page = Annotated[int | None, typer.Option(min=1, help="Page of a natural image that has several, from 1.")]
Contrast = Annotated[
    str | None, typer.Option(help="Contrast of the image or images, if the run was trained on several.")
]
Thresholds = Annotated[Path | None, typer.Option(help="YAML file of limits that replace the defaults.")]
AllowTrainingSubjects = Annotated[
    bool,
    typer.Option(
        "--allow-training-subjects",
        help="Accept subjects that the run was trained on, which is refused otherwise; the result says so.",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="cpu|cuda|cuda:N",
        help="torch device.  [default: a GPU if there is one]",
        autocompletion=choices.completing(*choices.DEVICES),
    ),
]

PatchSize = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Edge of overlapping patches, in voxels (3D networks); 0 takes the entire volume."
        "  [default: patches above 10 million voxels]",
    ),
]
Fit = Annotated[bool, typer.Option("--fit", help="If memory runs out, use the largest batch or patch that fits.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes that share the cases.")]
Scheduler = Annotated[
    str | None, typer.Option(help="Dask scheduler whose workers process the cases instead, such as tcp://host:8786.")
]
Series = Annotated[
    str | None,
    typer.Option(
        help="Which volume of a DICOM folder that holds several: its number in the list that the error shows,"
        " SeriesInstanceUID, SeriesNumber or SeriesDescription."
    ),
]
SourceSeries = Annotated[
    str | None,
    typer.Option(
        "--source-series", "--series", help="Which volume of the source's DICOM folder (see `medtrace translate`)."
    ),
]
TargetSeries = Annotated[
    str | None, typer.Option("--target-series", help="Likewise, which volume of the target's DICOM folder.")
]
ResampleTilt = Annotated[
    bool,
    typer.Option("--resample-tilt", help="Resample a DICOM series of a tilted gantry onto an orthogonal grid."),
]
KeepMetadata = Annotated[
    bool,
    typer.Option(
        "--keep-metadata/--strip-metadata",
        help="Keep file names and other metadata, which may identify a patient, or leave them out.",
    ),
]
Precise = Annotated[
    bool,
    typer.Option(
        "--precise",
        help="Store the trace losslessly; otherwise fields are off by up to 1/2048 voxel, large images by 1/65534 of"
        " their range, and files are much smaller.",
    ),
]
Transforms = Annotated[
    list[str] | None,
    typer.Option(
        "--transforms",
        help="Also write the fields as h5 (ITK transform) or nrrd (3D Slicer); repeatable.",
    ),
]
