"""Commands that make traces, show them and assess them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from medtrace.cli import choices, options
from medtrace.cli.app import command
from medtrace.cli.errors import FAILED_VERDICT, USER_ERROR, CommandLineError
from medtrace.cli.output import bars, give, note, tell
from medtrace.cli.paths import at_home


@command("translate")
def translate(
    run: options.Run,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the trace, or of all cases.")],
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[IMAGE...]",
            help="NIfTI, MGZ, NRRD, MetaImage, PNG or JPEG file, or a DICOM folder. Several, a folder of them or a list"
            " (.csv, .json, .txt; also a pair list) are each translated into their own folder in --out.",
        ),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE",
            help="Instead of an image, for a run that reads several contrasts: one of them, repeatable. Some may be"
            " left out if the run was trained for that.",
        ),
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="Brain mask of the image, if training pairs came with masks.")
    ] = None,
    contrast: options.Contrast = None,
    page: options.Page = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Slices translated at once (2D networks).")] = 8,
    patch_size: options.PatchSize = None,
    fit: options.Fit = False,
    checkpoint: options.Checkpoint = None,
    device: options.Device = None,
    overwrite: options.Overwrite = False,
    report: options.Report = True,
    keep_metadata: options.KeepMetadata = False,
    dicom: Annotated[
        Path | None, typer.Option(help="Also write the trace of one DICOM folder as DICOM, into this new folder.")
    ] = None,
    series: options.Series = None,
    resample_tilt: options.ResampleTilt = False,
    workers: options.Workers = 1,
    scheduler: options.Scheduler = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads per case, if there are several.")] = 1,
    precise: options.Precise = False,
    transforms: options.Transforms = None,
    allow_training_subjects: options.AllowTrainingSubjects = False,
) -> None:
    """Translate a scan on its own grid and in its own units, with its trace; or many, in parallel."""
    named = _named_sources(source or ())
    if bool(named) == bool(images):
        raise ValueError(
            "IMAGE: expected an image or --source NAME=FILE, received " + ("both" if images else "neither")
        )
    if images and (len(images) > 1 or not _is_one_image(images[0])):
        if dicom is not None:
            raise ValueError(
                "--dicom: expected with one DICOM folder, received several images; use `medtrace dicom` on each"
            )
        if keep_metadata:
            raise ValueError("--keep-metadata: expected with one image, received several; translate it alone")
        if series is not None:
            raise ValueError("--series: expected with one image; name series in a list, in the column series of a CSV")
        _translate_cases(
            run,
            images,
            out,
            mask=mask,
            checkpoint=checkpoint,
            contrast=contrast,
            page=page,
            device=device,
            batch_size=batch_size,
            patch_size=patch_size,
            fit=fit,
            overwrite=overwrite,
            report=report,
            resample_tilt=resample_tilt,
            workers=workers,
            scheduler=scheduler,
            threads=threads,
            precise=precise,
            transforms=transforms or (),
            allow_training_subjects=allow_training_subjects,
        )
        return
    from medtrace.workflows.report import page_of
    from medtrace.workflows.runs import using_checkpoint
    from medtrace.workflows.translate import translate as call
    from medtrace.workflows.translate import units_note

    with using_checkpoint(checkpoint):
        trace = call(
            run,
            images[0] if images else named,
            out,
            mask=mask,
            contrast=contrast,
            page=page,
            device=device,
            batch_size=batch_size,
            patch_size=patch_size,
            fit=fit,
            progress=bars(),
            overwrite=overwrite,
            report=report,
            keep_metadata=keep_metadata,
            dicom=dicom,
            series=series,
            resample_tilt=resample_tilt,
            precise=precise,
            transforms=transforms or (),
            allow_training_subjects=allow_training_subjects,
        )
    give({"trace": out, "page": page_of(out) if report else None, "dicom": dicom})
    if trace is not None and trace.contrasts is not None:
        tell(units_note(trace.source_contrasts, trace.contrasts))
    tell(f"trace written to {out}")
    if report:
        tell(f"page written to {page_of(out)}")
    if dicom is not None:
        tell(f"DICOM written to {dicom}")


def _named_sources(texts: Sequence[str]) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for text in texts:
        name, _, file = text.partition("=")
        if not name or not file:
            raise CommandLineError(f"--source: expected NAME=FILE such as T1=t1.nii.gz, received {text!r}")
        if name in named:
            raise CommandLineError(f"--source: {name} was given twice; give it once")
        named[name] = at_home(Path(file))
    return named


def _is_one_image(path: Path) -> bool:
    from medtrace.data.lists.image_list import is_one_image

    return is_one_image(path)


def _translate_cases(
    run: Path, images: list[Path], out: Path, *, mask: Path | None, checkpoint: str | None, **settings: Any
) -> None:
    if mask is not None:
        raise ValueError("--mask: expected none with several images; name masks in a list, in the column mask of a CSV")
    from medtrace.workflows.many.translate_cases import translate_cases
    from medtrace.workflows.runs import using_checkpoint

    with using_checkpoint(checkpoint):
        result = translate_cases(run, images, out, progress=bars(), **settings)
    for failure in result.failures:
        note(f"medtrace: failed {failure}", error=True)
    give({"out": out, "overview": result.overview, "failures": result.failures})
    tell(
        f"{out}: {len(result.translated)} translated, {len(result.kept)} kept from before, {len(result.failures)}"
        f" failed"
    )
    tell(f"overview written to {result.overview}")
    if result.failures:
        raise typer.Exit(USER_ERROR)


@command("report")
def report(
    traces: Annotated[
        list[Path], typer.Argument(metavar="TRACE...|RUN", help="Folders of traces; or one evaluated run.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="The page (.html), or for a run the report (.html or .pdf).  [default: report.html; for a run"
            " evaluation.html and evaluation.pdf next to its tables]",
        ),
    ] = None,
    target: Annotated[
        list[Path] | None, typer.Option(help="True image on the translation's grid, one for each trace.")
    ] = None,
    labels: Annotated[list[Path] | None, typer.Option(help="Labels on the source's grid, one for each trace.")] = None,
    keep_metadata: options.KeepMetadata = False,
    target_series: Annotated[
        list[str] | None, typer.Option(help="Which volume of each target's DICOM folder, one for each target.")
    ] = None,
    resample_tilt: options.ResampleTilt = False,
    split: Annotated[
        str | None, typer.Option(help="Which evaluation of a run, if it has several, such as test.")
    ] = None,
) -> None:
    """Write traces as one HTML page that opens offline; or the evaluation of a run as a report, failures first."""
    from medtrace.workflows.report import report as call
    from medtrace.workflows.reporting.reading import is_evaluated

    if len(traces) == 1 and is_evaluated(traces[0]):
        given = {"--target": target, "--labels": labels, "--target-series": target_series}
        for option, value in given.items():
            if value:
                raise ValueError(f"{option}: expected with traces, received with the run {traces[0]}; leave it out")
        _report_evaluation(traces[0], out, split)
        return
    if split is not None:
        raise ValueError(f"--split: expected with a run, received {split!r} with traces; leave it out")
    path = call(
        traces,
        out or Path("report.html"),
        targets=target or (),
        labels=labels or (),
        keep_metadata=keep_metadata,
        target_series=target_series or (),
        resample_tilt=resample_tilt,
    )
    give({"page": path})
    tell(f"report written to {path} ({path.stat().st_size / 1e6:.1f} MB)")


def _report_evaluation(run: Path, out: Path | None, split: str | None) -> None:
    from medtrace.workflows.reporting.evaluation import report_evaluation

    paths = report_evaluation(run, out, split=split)
    give({"reports": paths})
    for path in paths:
        tell(f"report written to {path} ({path.stat().st_size / 1e6:.1f} MB)")


@command("certify")
def certify(
    traces: options.Traces,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="JSON file, or for several traces a folder of them.  [default: next to each, TRACE.certificate.json]",
        ),
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Run folder that made them: queries the method again.")] = None,
    input_: Annotated[
        Path | None, typer.Option("--input", help="The file or DICOM folder that was translated (one trace).")
    ] = None,
    target: Annotated[
        Path | None,
        typer.Option(help="For a registration: the target, which its field is assessed against (one trace)."),
    ] = None,
    thresholds: options.Thresholds = None,
    radius: Annotated[Path | None, typer.Option(help="Conformal radius, from `medtrace calibrate radius`.")] = None,
    contrast: options.Contrast = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with the certificates.")] = None,
    keep_metadata: options.KeepMetadata = False,
    checkpoint: options.Checkpoint = None,
    device: options.Device = None,
    source_series: Annotated[
        str | None,
        typer.Option("--series", "--source-series", help="Which volume of the DICOM folder --input."),
    ] = None,
    target_series: options.TargetSeries = None,
    resample_tilt: options.ResampleTilt = False,
    allow_training_subjects: options.AllowTrainingSubjects = False,
) -> None:
    """Assess traces without ground truth: PASS, WARN or FAIL, check by check. Exits with 3 if any fails."""
    from medtrace.workflows.certify import certify_several
    from medtrace.workflows.runs import using_checkpoint

    with using_checkpoint(checkpoint):
        result = certify_several(
            traces,
            out=out,
            run=run,
            source=input_,
            target=target,
            thresholds=thresholds,
            radius=radius,
            contrast=contrast,
            html=html,
            keep_metadata=keep_metadata,
            device=device,
            source_series=source_series,
            target_series=target_series,
            resample_tilt=resample_tilt,
            allow_training_subjects=allow_training_subjects,
        )
    give({"certificates": [certificate.as_dict() for certificate in result]})
    for certificate in result:
        tell(f"{certificate.case}: {certificate.verdict}")
        for check in certificate.checks:
            tell(f"  {check.status:<8}{check.name}: {check.reason}")
    if any(certificate.verdict == "FAIL" for certificate in result):
        raise typer.Exit(FAILED_VERDICT)


def _needed(run: Path | None) -> Path:
    if run is None:
        raise CommandLineError("--run: expected a trained run, received none; intervals are for its translations")
    return run


@command("calibrate")
def calibrate(
    what: Annotated[
        str,
        typer.Argument(
            help="certificate, radius, trace (of wrong translators), intensity or hallucinations.",
            autocompletion=choices.completing(*choices.CALIBRATIONS),
        ),
    ],
    run: Annotated[Path | None, typer.Option(help="A trained run, whose traces are assessed.")] = None,
    checkpoint: options.Checkpoint = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Prepared folder, if the run was trained on one (intensity, hallucinations)."),
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="TraceBench task, repeatable (certificate, trace; radius: one).")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(min=16, help="Voxels per axis (certificate, trace, radius).  [default: 96, in 3D 32; radius 48]"),
    ] = None,
    dims: Annotated[
        int | None,
        typer.Option(min=2, max=3, help="2 for slices, 3 for volumes (certificate, trace, radius).  [default: 2]"),
    ] = None,
    cases: Annotated[
        int, typer.Option(min=2, help="Cases of each task or type (certificate, trace, hallucinations).")
    ] = 20,
    thresholds: Annotated[
        Path | None, typer.Option(help="YAML file of limits that replace the defaults (certificate, trace).")
    ] = None,
    target_contrast: Annotated[
        str | None,
        typer.Option(help="What true targets show instead, in its unit: T2 or CT in HU, for a T1 (certificate)."),
    ] = None,
    predictor: Annotated[
        str,
        typer.Option(
            help="Without a run: mean, zero, noisy; registration, as in `medtrace trace` of the true image;"
            " translators, likewise of wrong images (radius)."
        ),
    ] = "mean",
    landmarks: Annotated[
        Path | None, typer.Option(help="CSV of trace, source_landmarks, target_landmarks (radius).")
    ] = None,
    subjects: Annotated[
        int, typer.Option(min=2, help="Subjects to calibrate on, and as many to test (radius, intensity).")
    ] = 1000,
    coverage: Annotated[float, typer.Option(help="Guaranteed probability (radius, intensity).")] = 0.9,
    fraction: Annotated[
        float | None,
        typer.Option(help="Guarantee it for this fraction of a subject's points, not for a random one (radius)."),
    ] = None,
    unit: Annotated[
        str,
        typer.Option(
            help="subject, or case: slices stand in for subjects if there are few (intensity).",
            metavar=choices.of(*choices.UNITS),
            autocompletion=choices.completing(*choices.UNITS),
        ),
    ] = "subject",
    seed: options.Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="File for the table, radius or interval.  [default for intensity: in the run]"
        ),
    ] = None,
) -> None:
    """Measure how often certificates are right or hallucinations are marked, or how far points or intensities are off.

    On TraceBench, or on the data of a run.
    """
    from medtrace.workflows import calibrate as workflow
    from medtrace.workflows.runs import using_checkpoint

    _refuse_foreign(
        what,
        run=run,
        data=data,
        task=task,
        size=size,
        dims=dims,
        thresholds=thresholds,
        target_contrast=target_contrast,
        landmarks=landmarks,
        fraction=fraction,
    )
    dims = dims or 2
    shape = (size or (32 if dims == 3 else 48 if what == "radius" else 96),) * dims
    give({"calibration": what, "path": out})
    with using_checkpoint(checkpoint):
        if what == "certificate":
            text = workflow.certificate_table(
                task,
                cases,
                shape,
                run=run,
                thresholds=thresholds,
                target_contrast=target_contrast,
                seed=seed,
                out=out,
            )
        elif what == "trace":
            text = workflow.translators_table(task, cases, shape, thresholds=thresholds, seed=seed, out=out)
        elif what == "radius":
            radius = workflow.calibrated_radius(
                run=run,
                predictor=predictor,
                task=(task or ["postop"])[0],
                spatial_shape=shape,
                landmarks=landmarks,
                subjects=subjects,
                coverage=coverage,
                fraction=fraction,
                seed=seed,
                out=out,
            )
            give(radius.as_dict())
            text = workflow.radius_text(radius)
        elif what == "intensity":
            path, interval = workflow.calibrated_intervals(
                _needed(run), dataset=data, subjects=subjects, coverage=coverage, unit=unit, seed=seed, out=out
            )
            give({"path": path, "coverage": coverage, "measured": interval.measured})
            text = workflow.intensity_text(path, interval)
        else:
            text = workflow.hallucinations_table(_needed(run), dataset=data, cases=cases, seed=seed, out=out)
    tell(text)


_TAKEN = {
    "certificate": ("run", "task", "size", "dims", "thresholds", "target_contrast"),
    "radius": ("run", "task", "size", "dims", "landmarks", "fraction"),
    "trace": ("task", "size", "dims", "thresholds"),
    "intensity": ("run", "data"),
    "hallucinations": ("run", "data"),
}
"""Calibration → those of its options that not every calibration takes."""


def _refuse_foreign(what: str, **given: Any) -> None:
    """Refuse options that a calibration would ignore.

    Raises:
        CommandLineError: if one is given, or there is no such calibration.
    """
    if what not in _TAKEN:
        raise CommandLineError(
            f"what: expected certificate, radius, trace, intensity or hallucinations, received {what!r}"
        )
    for name, value in given.items():
        if value is not None and name not in _TAKEN[what]:
            takers = ", ".join(one for one, names in _TAKEN.items() if name in names)
            option = "--" + name.replace("_", "-")
            raise CommandLineError(f"{option}: expected with {takers} alone, received with {what}; leave it out")
