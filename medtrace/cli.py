"""The command `medtrace`: parses and delegates to `medtrace.workflows`.

Nothing heavy is imported before a command runs, so that `medtrace --help` answers at once.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from medtrace import __version__

USER_ERROR = 1
INTERRUPTED = 130

app = typer.Typer(
    name="medtrace",
    help="Traceable medical image translation: what an image becomes, and where every voxel came from.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Device = Annotated[
    str | None, typer.Option(help="torch device, such as cpu or cuda:0; by default a GPU where there is one.")
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    app(args=None if arguments is None else list(arguments), prog_name="medtrace")


def command(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command whose errors end in one line on stderr and exit code 1."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> None:
            with _one_line_errors():
                function(*args, **kwargs)

        return app.command(name)(guarded)

    return register


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"medtrace {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="MEDTRACE_DEBUG", help="Show the traceback of an error.")
    ] = False,
    version: Annotated[  # noqa: ARG001 - its callback answers
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    if debug:
        os.environ["MEDTRACE_DEBUG"] = "1"


@command("prepare")
def prepare(
    source: Annotated[
        Path, typer.Argument(help="A pair list (.csv or .json: subject, source, target, ...) or a BraTS-Reg folder.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the prepared dataset.")],
    contrast: Annotated[
        list[str] | None, typer.Option(help="BraTS-Reg contrast, repeatable: t1, t1ce, t2, flair.  [default: t1]")
    ] = None,
    dims: Annotated[int, typer.Option(min=2, max=3, help="2 for slices, 3 for volumes.")] = 2,
    slices: Annotated[int, typer.Option(min=1, help="Central slices of each volume (with --dims 2).")] = 11,
    axis: Annotated[str, typer.Option(help="Slicing axis: axial, coronal or sagittal.")] = "axial",
    crop: Annotated[
        tuple[int, int, int] | None,
        typer.Option(help="Voxels right-left, front-back, up-down to crop larger volumes to.  [default: 192 192 128]"),
    ] = None,
    pad: Annotated[bool, typer.Option("--pad", help="Also pad smaller volumes to the size of --crop.")] = False,
    no_crop: Annotated[bool, typer.Option("--no-crop", help="Keep every volume's own size.")] = False,
    spacing: Annotated[
        tuple[float, float, float] | None, typer.Option(help="Resample the sources to this voxel size in mm first.")
    ] = None,
    resize: Annotated[
        int | None,
        typer.Option(min=0, help="Resize slices to N x N; 0 keeps their size.  [default: 256 for PNG and JPEG]"),
    ] = None,
    align: Annotated[bool, typer.Option(help="Align the target to the source rigidly.")] = True,
    standardize: Annotated[
        bool, typer.Option(help="Histogram standardisation (Nyul), trained on the training subjects.")
    ] = True,
    split: Annotated[
        tuple[float, float, float] | None,
        typer.Option(
            help="Shares of subjects: training, validation, test. Not with a list that has a column split."
            "  [default: 0.7 0.0 0.3]"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random split.")] = 0,
    skip_failed: Annotated[
        bool, typer.Option("--skip-failed", help="Leave failing cases out and list them, instead of stopping.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier dataset in --out.")] = False,
) -> None:
    """Turn before/after scans into a dataset split by subject."""
    from medtrace.workflows.prepare import prepare as run

    summary = run(
        source,
        out,
        contrasts=tuple(contrast or ("t1",)),
        spatial_dims=dims,
        slices=slices,
        axis=axis,
        crop=None if no_crop else crop or (192, 192, 128),
        pad=pad,
        spacing=spacing,
        resize=resize,
        align=align,
        standardize=standardize,
        fractions=split,
        seed=seed,
        skip_failed=skip_failed,
        overwrite=overwrite,
        progress=sys.stderr.isatty(),
    )
    for failure in summary.failures:
        typer.echo(f"medtrace: skipped {failure}", err=True)
    counts = ", ".join(f"{count} {name}" for name, count in summary.counts.items())
    typer.echo(f"{out}: {counts}" + (" (split of the list)" if summary.split == "list" else ""))


@command("train")
def train(
    name: Annotated[str, typer.Argument(help="The method, such as tracetrans.")],
    dataset: Annotated[Path | None, typer.Argument(help="A folder made by `medtrace prepare`.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run folder.  [default: runs/NAME]")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a bundle entry, such as objective#alpha=0.75."),
    ] = None,
    overlay: Annotated[
        list[str] | None,
        typer.Option(help="Configuration file of the bundle to lay on top, such as misalign; repeatable."),
    ] = None,
    tracebench: Annotated[bool, typer.Option("--tracebench", help="Train on TraceBench instead of a dataset.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    smoke: Annotated[bool, typer.Option("--smoke", help="A few steps of a tiny network.")] = False,
    device: Device = None,
) -> None:
    """Train a method."""
    overrides = parse_overrides(set_ or [])
    from medtrace.workflows.train import train as run

    out = out or Path("runs") / name
    run(
        name,
        dataset,
        out=out,
        overlays=tuple(overlay or ()),
        overrides=overrides,
        tracebench=tracebench,
        resume=resume,
        smoke=smoke,
        device=device,
    )
    typer.echo(f"run written to {out}")


@command("translate")
def translate(
    run: Annotated[Path, typer.Argument(help="Run folder of a training.")],
    image: Annotated[Path, typer.Argument(help="NIfTI, NRRD, MetaImage, PNG or JPEG file, or a DICOM folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the trace.")],
    mask: Annotated[
        Path | None, typer.Option(help="Brain mask of the image, where training pairs came with masks.")
    ] = None,
    contrast: Annotated[
        str | None, typer.Option(help="Contrast of the image, where the run was trained on several.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Slices translated at once (2D networks).")] = 8,
    device: Device = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier trace in --out.")] = False,
    report: Annotated[bool, typer.Option(help="Also write a page to look at the trace, OUT.html.")] = True,
) -> None:
    """Translate a scan on its own grid and in its own units, with its trace."""
    from medtrace.workflows.translate import translate as call

    call(
        run,
        image,
        out,
        mask=mask,
        contrast=contrast,
        device=device,
        batch_size=batch_size,
        progress=sys.stderr.isatty(),
        overwrite=overwrite,
        report=report,
    )
    typer.echo(f"trace written to {out}")
    if report:
        typer.echo(f"page written to {out}.html")


@command("register")
def register(
    source: Annotated[
        Path, typer.Argument(help="The image to deform: NIfTI, NRRD, MetaImage, PNG, JPEG, DICOM folder.")
    ],
    target: Annotated[Path, typer.Argument(help="The image to deform it to; both must roughly lie on each other.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the trace.")],
    mask: Annotated[Path | None, typer.Option(help="Pathology of the target, where intensity may change.")] = None,
    source_mask: Annotated[Path | None, typer.Option("--source-mask", help="Pathology of the source.")] = None,
    run: Annotated[Path | None, typer.Option(help="Run folder of a training; without, --refine does it all.")] = None,
    refine: Annotated[
        int | None,
        typer.Option(min=0, help="Gradient steps on this pair alone.  [default: 100 without --run, else 0]"),
    ] = None,
    spacing: Annotated[
        float | None, typer.Option(help="Voxel size in mm to register at.  [default: the run's, or the target's]")
    ] = None,
    smoothness: Annotated[float, typer.Option(min=0, help="Weight of smoothness in --refine.")] = 0.01,
    match: Annotated[
        bool | None,
        typer.Option(
            "--match/--no-match", help="Match the source's percentiles to the target's.  [default: without --run]"
        ),
    ] = None,
    contrast: Annotated[
        str | None, typer.Option(help="Contrast of both images, where the run was trained on several.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="Labels of the source, for the contours of --figure.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Picture of the registration: .png, .pdf or .svg.")] = None,
    device: Device = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier trace in --out.")] = False,
) -> None:
    """Register a scan to another, with a trained run or without, and keep the trace."""
    from medtrace.workflows.register import register as call

    found = call(
        source,
        target,
        out,
        mask=mask,
        source_mask=source_mask,
        run=run,
        refine=refine,
        spacing=spacing,
        smoothness=smoothness,
        match=match,
        contrast=contrast,
        labels=labels,
        figure=figure,
        device=device,
        progress=sys.stderr.isatty(),
        overwrite=overwrite,
    )
    typer.echo(f"SSD {found.ssd_before:.5f} before, {found.ssd_after:.5f} after (mean square, intensities in [0, 1])")
    typer.echo(f"folds: {found.folds} voxels, folded fraction {found.folded_fraction:.6f}")
    typer.echo(f"time {found.seconds:.1f} s, peak memory {found.peak_gib:.2f} GiB")
    typer.echo(f"trace written to {out}")


@command("evaluate")
def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder of a training.")],
    dataset: Annotated[Path, typer.Argument(help="A folder made by `medtrace prepare`.")],
    beside: Annotated[
        list[Path] | None, typer.Option(help="Another run for the same table, repeatable; needs --out.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where tables go; by default into the run.")] = None,
    split: Annotated[str, typer.Option(help="training, validation or test.")] = "test",
    device: Device = None,
) -> None:
    """Measure a run on unseen subjects, or several runs side by side."""
    if beside:
        if out is None:
            raise ValueError("--out: expected a folder for the table of several runs, received none; name one")
        from medtrace.workflows.compare import TABLE, compare

        compare([run, *beside], dataset, out, split=split, device=device, progress=sys.stderr.isatty())
        typer.echo((out / TABLE).read_text(encoding="utf-8"))
        typer.echo(f"tables written to {out}")
        return
    from medtrace.workflows.evaluate import evaluate as call

    out = out or run / "evaluation" / split
    call(run, dataset, out, split=split, device=device, progress=sys.stderr.isatty())
    typer.echo(f"tables written to {out}")


@command("report")
def report(
    traces: Annotated[list[Path], typer.Argument(help="Folders of traces.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page.")] = Path("report.html"),
    target: Annotated[
        list[Path] | None, typer.Option(help="True image on the translation's grid, one for each trace.")
    ] = None,
    labels: Annotated[list[Path] | None, typer.Option(help="Labels on the source's grid, one for each trace.")] = None,
) -> None:
    """Write traces as one HTML page that opens offline: linked panes, regions, a form for scores."""
    from medtrace.workflows.report import report as call

    path = call(traces, out, targets=target or (), labels=labels or ())
    typer.echo(f"report written to {path} ({path.stat().st_size / 1e6:.1f} MB)")


@command("certify")
def certify(
    traces: Annotated[list[Path], typer.Argument(help="Folders of traces.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="JSON file, or for several traces a folder of them.")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Run folder that made them: asks the method again.")] = None,
    input_: Annotated[
        Path | None, typer.Option("--input", help="The file or DICOM folder that was translated (one trace).")
    ] = None,
    target: Annotated[
        Path | None, typer.Option(help="Of a registration: the target, which its field is judged against (one trace).")
    ] = None,
    thresholds: Annotated[Path | None, typer.Option(help="YAML file of limits that replace the defaults.")] = None,
    radius: Annotated[Path | None, typer.Option(help="Conformal radius, of `medtrace calibrate radius`.")] = None,
    contrast: Annotated[
        str | None, typer.Option(help="Contrast of the image, where the run was trained on several.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with the certificates.")] = None,
    device: Device = None,
) -> None:
    """Say without ground truth whether to believe traces: PASS, WARN or FAIL. Exits with 2 if any fails."""
    from medtrace.workflows.certify.several import certify_several

    found = certify_several(
        traces,
        out=out,
        run=run,
        source=input_,
        target=target,
        thresholds=thresholds,
        radius=radius,
        contrast=contrast,
        html=html,
        device=device,
    )
    for certificate in found:
        typer.echo(f"{certificate.case}: {certificate.verdict}")
        for check in certificate.checks:
            typer.echo(f"  {check.status:<8}{check.name}: {check.reason}")
    if any(certificate.verdict == "FAIL" for certificate in found):
        raise typer.Exit(2)


@command("calibrate")
def calibrate(
    what: Annotated[str, typer.Argument(help="certificate or radius.")],
    run: Annotated[Path | None, typer.Option(help="A trained run, whose traces are judged too.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="TraceBench task, repeatable.")] = None,
    size: Annotated[int | None, typer.Option(min=16, help="Pixels of an axis.  [default: 96, radius 48]")] = None,
    cases: Annotated[int, typer.Option(min=2, help="Cases of each task (certificate).")] = 20,
    thresholds: Annotated[Path | None, typer.Option(help="YAML file of limits (certificate).")] = None,
    predictor: Annotated[str, typer.Option(help="Without a run: mean, zero or noisy (radius).")] = "mean",
    landmarks: Annotated[
        Path | None, typer.Option(help="CSV of trace, source_landmarks, target_landmarks (radius).")
    ] = None,
    subjects: Annotated[
        int, typer.Option(min=2, help="Subjects to calibrate on, and as many to test (radius).")
    ] = 1000,
    coverage: Annotated[float, typer.Option(help="Probability to promise (radius).")] = 0.9,
    share: Annotated[
        float | None, typer.Option(help="Promise for this share of a subject's points, not for a random one (radius).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of TraceBench.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File of the table or of the radius.")] = None,
) -> None:
    """Find out on TraceBench how often certificates are right, or how far points may be off."""
    from medtrace.workflows.certify import several

    if what == "certificate":
        text = several.certificate_table(task, cases, size or 96, run=run, thresholds=thresholds, seed=seed, out=out)
    elif what == "radius":
        text = several.radius_table(
            run=run,
            predictor=predictor,
            task=(task or ["postop"])[0],
            size=size or 48,
            landmarks=landmarks,
            subjects=subjects,
            coverage=coverage,
            share=share,
            seed=seed,
            out=out,
        )
    else:
        raise ValueError(f"what: expected certificate or radius, received {what!r}")
    typer.echo(text)


@command("dicom")
def dicom(
    trace: Annotated[Path, typer.Argument(help="Folder of a trace of a DICOM series.")],
    series: Annotated[Path, typer.Argument(help="Folder of that series.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the DICOM files.")],
    target_series: Annotated[
        Path | None, typer.Option("--target-series", help="Series on whose grid the image lies (registrations).")
    ] = None,
    warped: Annotated[bool, typer.Option("--warped", help="Write the warped source as a series too.")] = False,
) -> None:
    """Write a trace as DICOM: the image as a derived series, the fields as Deformable Spatial Registrations."""
    from medtrace.io.dicom_export import export_dicom

    export_dicom(trace, out, series, target_series=target_series, warped=warped)
    typer.echo(f"DICOM written to {out}")


@command("bench")
def bench(
    task: Annotated[str, typer.Argument(help="TraceBench task: postop, misaligned, metamorphic or domain.")] = "postop",
    setting: Annotated[str, typer.Option(help="demo, full or smoke.")] = "demo",
    full: Annotated[bool, typer.Option("--full", help="Short for --setting full.")] = False,
    study: Annotated[
        str | None,
        typer.Option(
            help="Of postop: rivals, alpha, gamma, ablation or translators. Of misaligned: noise, modes or unpaired."
            " Of metamorphic: rivals, ablation or volume. Of domain: rivals, paired, ablation, sampling or start."
            "  [default: the task's first]"
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where tables and figures go.")] = Path("demo_out"),
    seed: Annotated[int, typer.Option(help="Seed of data and training.")] = 0,
    device: Device = None,
) -> None:
    """Train and measure on TraceBench, where the truth is known."""
    from medtrace.workflows.bench import bench as call

    call(task=task, setting="full" if full else setting, study=study, out=out, seed=seed, device=device)


@command("export")
def export(
    trace: Annotated[Path, typer.Argument(help="Folder of a trace.")],
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            help="itk, composite, tfm, ants, nrrd, slicer, nitransforms, learn2reg, fsl, or trace (with --source).",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder.")],
    source: Annotated[
        Path | None, typer.Option(help="The source scan as it was given, to which the field is brought first.")
    ] = None,
    source_motion: Annotated[
        Path | None, typer.Option("--source-motion", help="ITK transform from the trace's source frame to that scan.")
    ] = None,
    target: Annotated[Path | None, typer.Option(help="The target scan as it was given; needs --source.")] = None,
    target_motion: Annotated[
        Path | None,
        typer.Option("--target-motion", help="ITK transform from the trace's target frame to that scan: rigid/*.tfm."),
    ] = None,
) -> None:
    """Write a trace's fields for ITK, ANTs, 3D Slicer, nitransforms, Learn2Reg or FSL."""
    from medtrace.workflows.export import export as call

    files = call(
        trace,
        out,
        format_,
        source=source,
        source_motion=source_motion,
        target=target,
        target_motion=target_motion,
    )
    typer.echo(f"{out}: {', '.join(path.name for path in files)}")


@command("import")
def import_(
    field: Annotated[Path, typer.Argument(help="The other program's file, in the resampling direction.")],
    format_: Annotated[str, typer.Option("--format", help="itk, ants, nrrd, nitransforms, learn2reg or fsl.")],
    source: Annotated[Path, typer.Option(help="The scan that the field resamples (moving).")],
    target: Annotated[Path, typer.Option(help="The scan on whose grid it does so (fixed).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the trace.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier trace in --out.")] = False,
) -> None:
    """Make a trace of two scans and a field that another program found."""
    from medtrace.workflows.import_field import import_field

    import_field(field, format_, source, target, out, overwrite=overwrite)
    typer.echo(f"trace written to {out}")


@command("traceability")
def traceability(
    runs: Annotated[list[Path] | None, typer.Argument(help="Run folders; without any the controls alone.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where tables go.")] = Path("traceability"),
    dataset: Annotated[
        Path | None,
        typer.Option(
            help="A folder made by `medtrace prepare` from a list with source_labels and target_labels."
            "  [default: the runs' TraceBench cases]"
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Of the dataset: training, validation or test.")] = "test",
    segmenter: Annotated[
        Path | None, typer.Option(help="Folder of the segmenter, trained once and reused.  [default: OUT/segmenter]")
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(help="Feature network for FID and SFD: a TorchScript file, or segmenter for the segmenter's own."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Setting of the segmenter's training, such as iterations=1000."
        ),
    ] = None,
    device: Device = None,
) -> None:
    """Segment translations, bring the labels back and score them (Plasticine, Tables I and III)."""
    settings = parse_overrides(set_ or [])
    from medtrace.workflows.traceability import TABLE
    from medtrace.workflows.traceability import traceability as call

    call(
        runs or (),
        out,
        dataset=dataset,
        split=split,
        segmenter=segmenter,
        feature_network=features,
        settings=settings,
        device=device,
        progress=sys.stderr.isatty(),
    )
    typer.echo((out / TABLE).read_text(encoding="utf-8"))
    typer.echo(f"tables written to {out}")


def parse_overrides(items: Sequence[str]) -> dict[str, Any]:
    """Parse `key=value` pairs; values are YAML, so numbers, lists and booleans keep their kind.

    Raises:
        ValueError: if a pair has no key or no "=", or its value is no YAML.
    """
    import yaml

    overrides = {}
    for item in items:
        key, separator, value = item.partition("=")
        if not separator or not key:
            raise ValueError(f"--set: expected KEY=VALUE such as objective#alpha=0.75, received {item!r}")
        try:
            overrides[key] = _number(value) if _number(value) is not None else yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"--set {key}: expected a YAML value, received {value!r}; quote it") from error
    return overrides


def _number(value: str) -> int | float | None:
    """YAML 1.1 reads 1e-3 as a string; a number it is nevertheless."""
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return None


@contextmanager
def _one_line_errors() -> Iterator[None]:
    debug = os.environ.get("MEDTRACE_DEBUG", "") not in ("", "0")
    try:
        with _quiet(not debug):
            yield
    except KeyboardInterrupt:
        typer.echo("medtrace: interrupted", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if debug:
            traceback.print_exc()
        typer.echo(f"medtrace: error: {describe(error)}", err=True)
        raise typer.Exit(USER_ERROR) from None


def describe(error: BaseException) -> str:
    """One line for an error.

    MONAI wraps what goes wrong in a configured component; its cause is what the user can act on. Anything that is
    not about the user's input says how to learn more.
    """
    while not isinstance(error, (ValueError, TypeError, OSError)) and error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    if isinstance(error, (ValueError, TypeError, OSError)) and text:
        return text
    first = str(error).strip().splitlines()[0] if text else ""
    return f"{type(error).__name__}: {first}; `medtrace --debug` shows where"


@contextmanager
def _quiet(active: bool) -> Iterator[None]:
    """Keep the libraries' warnings from burying the one line that matters."""
    if not active:
        yield
        return
    loggers = [logging.getLogger(name) for name in ("nibabel.global", "monai.bundle.workflows")]
    engines = logging.getLogger("ignite")  # its engines repeat an error that is about to be told
    level = engines.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.addFilter(_is_error)
        engines.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            engines.setLevel(level)
            for logger in loggers:
                logger.removeFilter(_is_error)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
