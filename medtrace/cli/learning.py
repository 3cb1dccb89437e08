"""Commands that prepare data, train and measure."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from medtrace.cli import choices, options
from medtrace.cli.app import command
from medtrace.cli.errors import USER_ERROR
from medtrace.cli.output import bars, give, is_quiet, note, tell
from medtrace.cli.overrides import parse_settings
from medtrace.cli.paths import at_home


@command("prepare")
def prepare(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the prepared dataset.")],
    source: Annotated[
        Path | None,
        typer.Argument(
            help="A pair list (.csv or .json: subject, source, target, ..., or source_T1, source_FLAIR, target_T2), or"
            " a folder or JSON file in a known layout (see --layout)."
        ),
    ] = None,
    sources: Annotated[
        Path | None,
        typer.Option(
            help="Instead of pairs, for unpaired domains: a list (.csv or .json: subject, image, ...) or a folder of"
            " what to translate from; with --targets."
        ),
    ] = None,
    targets: Annotated[Path | None, typer.Option(help="Likewise, what to translate to.")] = None,
    select: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE:TARGET",
            help="Contrasts of a layout that make pairs, such as T1,FLAIR:T2, or one contrast at two dates, such as"
            " T1w; repeatable. For BraTS-Reg t1, t1ce, t2 or flair.  [default: t1 for BraTS-Reg, MR:CT or CBCT:CT for"
            " SynthRAD]",
        ),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            help="Layout of the data: list, brats-reg, brats, bids, synthrad, acdc, ircadb, learn2reg, nnunet,"
            " decathlon or trainab.  [default: recognized]"
        ),
    ] = None,
    source_contrast: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=UNIT[:LOW:HIGH]]",
            help="What the sources are, such as T1 or CT=HU:-160:240, if the list does not say; repeatable for the"
            " units of contrasts that it names.  [default: CT in HU by DICOM's modality, else arbitrary units]",
        ),
    ] = None,
    target_contrast: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=UNIT[:LOW:HIGH]]", help="Likewise for the targets; by default the same as the sources."
        ),
    ] = None,
    dims: options.Dims = 2,
    slices: Annotated[int, typer.Option(min=1, help="Number of central slices of each volume (with --dims 2).")] = 11,
    axis: Annotated[
        str,
        typer.Option(
            metavar=choices.of(*choices.AXES), autocompletion=choices.completing(*choices.AXES), help="Slicing plane."
        ),
    ] = "axial",
    crop: Annotated[
        tuple[int, int, int] | None,
        typer.Option(
            help="Size in voxels (right-left, front-back, up-down) to crop larger volumes to.  [default: 192 192 128]"
        ),
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
        bool,
        typer.Option(
            help="Histogram standardization (Nyul) of contrasts in arbitrary units, trained on the training subjects."
        ),
    ] = True,
    bias_correction: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONTRAST",
            help="Contrasts whose images are divided by their bias field (N4), repeatable; all selects every one in"
            " arbitrary units. translate then does the same and outputs corrected intensities.",
        ),
    ] = None,
    split: Annotated[
        tuple[float, float, float] | None,
        typer.Option(
            help="Fractions of subjects: training, validation, test. Not with a list that has the column split."
            "  [default: about 0.7 0.1 0.2, at least one subject each; 0.7 0.0 0.3 for fewer than five]"
        ),
    ] = None,
    seed: options.Seed = 0,
    value_range: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="LOW HIGH",
            help="Values of natural images that become black and white.  [default: 0 255 for 8 bits, else measured over"
            " the training images]",
        ),
    ] = None,
    page: options.Page = None,
    skip_failed: Annotated[
        bool, typer.Option("--skip-failed", help="Make the dataset without the cases that fail, and list them.")
    ] = False,
    overwrite: options.Overwrite = False,
    resample_tilt: options.ResampleTilt = False,
    workers: options.Workers = 1,
    scheduler: options.Scheduler = None,
    faces: Annotated[
        bool,
        typer.Option(
            "--faces", help="Crop photographs to the face, found by a detector or outlined by the list's masks."
        ),
    ] = False,
    largest_face: Annotated[
        bool, typer.Option("--largest-face", help="With --faces: if a photograph has several faces, use the largest.")
    ] = False,
) -> None:
    """Turn before/after scans into a dataset split by subject; a second call completes what the first left undone."""
    from medtrace.workflows.prepare import prepare as run

    summary = run(
        source,
        out,
        sources=sources,
        targets=targets,
        select=tuple(select or ()),
        layout=layout,
        source_contrast=tuple(source_contrast or ()),
        target_contrast=tuple(target_contrast or ()),
        spatial_dims=dims,
        slices=slices,
        axis=axis,
        crop=None if no_crop else crop or (192, 192, 128),
        pad=pad,
        spacing=spacing,
        resize=resize,
        align=align,
        standardize=standardize,
        bias_correction=tuple(bias_correction or ()),
        fractions=split,
        seed=seed,
        value_range=value_range,
        page=page,
        skip_failed=skip_failed,
        overwrite=overwrite,
        workers=workers,
        scheduler=scheduler,
        progress=bars(),
        resample_tilt=resample_tilt,
        faces=faces,
        largest_face=largest_face,
    )
    for failure in summary.failures:
        note(f"medtrace: skipped {failure}")
    for line in summary.notes:
        tell(line)
    counts = ", ".join(f"{count} {name}" for name, count in summary.counts.items())
    give({"dataset": out, "counts": summary.counts, "skipped": summary.failures, "split_by": summary.split})
    tell(f"{out}: {counts}" + (" (split from the list)" if summary.split == "list" else ""))


@command("plan")
def plan(
    dataset: options.Dataset,
    method: Annotated[
        str | None,
        typer.Option(help="Method to train.  [default: one is proposed]", autocompletion=choices.methods),
    ] = None,
    preset: options.Preset = None,
    measure: Annotated[bool, typer.Option(help="Time a few steps on this machine.")] = True,
    device: options.Device = None,
) -> None:
    """Propose a training run on a prepared dataset: method, preset, batch, epochs, hours, each with its reason."""
    from medtrace.workflows.plan import plan as call

    proposal = call(dataset, method, presets=tuple(preset or ()), device=device, measure=measure)
    give(
        {
            "method": proposal.method,
            "presets": proposal.plan.presets,
            "epochs": proposal.plan.resolved.training.max_epochs,
            "steps": proposal.plan.steps,
            "seconds_per_step": proposal.seconds_per_step,
            "hours": proposal.hours,
            "command": proposal.lines[-1],
        }
    )
    for line in proposal.lines:
        tell(line)


@command("train")
def train(
    name: options.Method,
    dataset: Annotated[Path | None, typer.Argument(help="A folder made by `medtrace prepare`.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run folder.  [default: runs/NAME]")] = None,
    set_: options.Set = None,
    preset: options.Preset = None,
    tracebench: Annotated[
        bool, typer.Option("--tracebench", help="Train on TraceBench instead of a dataset (preset tracebench).")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out; --set and --preset apply from then on.")
    ] = False,
    other_data: Annotated[
        bool, typer.Option("--other-data", help="Let a resumed run continue on a dataset other than its own.")
    ] = False,
    fit: options.Fit = False,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="A few steps of a tiny network on TraceBench (presets tracebench, smoke).")
    ] = False,
    start_from: Annotated[
        Path | None,
        typer.Option("--from", help="Fine-tune: start from the weights and settings of this run, with new optimizers."),
    ] = None,
    device: options.Device = None,
) -> None:
    """Train a method."""
    settings = parse_settings(set_ or [])
    from medtrace.workflows.train import train as run

    out = out or Path("runs") / name
    presets = [*(["tracebench"] if tracebench or smoke else []), *(preset or ()), *(["smoke"] if smoke else [])]
    if dataset is not None and not resume and start_from is None:
        from medtrace.workflows.plan import machine_line, planned_lines

        lines = planned_lines(name, dataset, presets, settings)
        for line in [*lines, machine_line(out, device)] if lines else []:
            tell(line)
    run(
        name,
        dataset,
        out=out,
        presets=presets,
        settings=settings,
        resume=resume,
        device=device,
        other_data=other_data,
        fit=fit,
        start_from=start_from,
    )
    give({"run": out})
    tell(f"run written to {out}")


@command("methods")
def methods() -> None:
    """List the methods: what each does, in which dimensions, and whose idea it is."""
    from medtrace.workflows.methods import method_table

    columns = shutil.get_terminal_size((0, 0)).columns  # 0 if the output goes to a file or program
    table = method_table(columns or None)
    give({"methods": table.rows})
    tell(table.text)
    for failure in table.failures:
        note(f"medtrace: failed {failure}", error=True)
    if table.failures:
        raise typer.Exit(USER_ERROR)


@command("bundle", new_folder=True)
def bundle(
    name: options.Method,
    out: options.NewFolder,
    set_: options.Set = None,
    preset: options.Preset = None,
) -> None:
    """Write a method's MONAI bundle."""
    settings = parse_settings(set_ or [])
    from medtrace.workflows.bundle import bundle as call

    call(name, out, presets=tuple(preset or ()), settings=settings)
    give({"bundle": out})
    tell(f"bundle written to {out}")


@command("evaluate")
def evaluate(
    run: options.Run,
    dataset: options.Dataset,
    beside: Annotated[
        list[Path] | None, typer.Option(help="Another run for the same table; repeatable, needs --out.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the tables; by default in the run.")
    ] = None,
    split: options.Split = "test",
    checkpoint: options.Checkpoint = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Cases traced at once.")] = 8,
    patch_size: options.PatchSize = None,
    device: options.Device = None,
    cheap_rows: Annotated[
        bool,
        typer.Option(
            help="Also compare an intensity curve and ridge regression on patches, learned from the run's"
            " training cases."
        ),
    ] = True,
    delivered: Annotated[
        bool,
        typer.Option(help="Also translate the scans, and score them on their own grid in the target's units."),
    ] = True,
    unet: Annotated[
        bool,
        typer.Option("--unet", help="Also compare U-Net regression, trained once in minutes and kept in the run."),
    ] = False,
    allow_training_subjects: options.AllowTrainingSubjects = False,
) -> None:
    """Measure a run on unseen subjects, or several runs side by side."""
    from medtrace.workflows.runs import using_checkpoint

    settings: dict[str, Any] = {
        "device": device,
        "batch_size": batch_size,
        "patch_size": patch_size,
        "progress": bars(),
        "allow_training_subjects": allow_training_subjects,
        "cheap_rows": cheap_rows,
        "delivered": delivered,
        "unet": unet,
    }
    if beside:
        if out is None:
            raise ValueError("--out: expected a folder for the table of several runs, received none; name one")
        from medtrace.workflows.compare import TABLE, compare

        with using_checkpoint(checkpoint):
            _give_scores(out, compare([run, *beside], dataset, out, split=split, **settings))
        tell((out / TABLE).read_text(encoding="utf-8"))
        tell(f"tables written to {out}")
        return
    from medtrace.workflows.evaluate import TABLE, evaluation_of
    from medtrace.workflows.evaluate import evaluate as call

    with using_checkpoint(checkpoint):
        out = out or evaluation_of(run, split)
        _give_scores(out, call(run, dataset, out, split=split, **settings))
    tell((out / TABLE).read_text(encoding="utf-8"))
    tell(f"tables written to {out}")


def _give_scores(folder: Path, tables: Any) -> None:
    """Mean, spread and number of cases for every row and column, for scripts."""
    rows = {
        row: {name: one._asdict() for name, one in table.summary().items()}
        for row, table in tables.items()
        if hasattr(table, "summary")
    }
    give({"out": folder, "rows": rows})


@command("traceability")
def traceability(
    runs: Annotated[list[Path] | None, typer.Argument(help="Run folders; without any, the controls only.")] = None,
    out: options.TablesFolder = Path("traceability"),
    dataset: Annotated[
        Path | None,
        typer.Option(
            help="A folder made by `medtrace prepare` from a list with source_labels and target_labels."
            "  [default: the runs' TraceBench cases]"
        ),
    ] = None,
    split: options.Split = "test",
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
            "--set", metavar="KEY=VALUE", help="A setting of the segmenter's training, such as iterations=1000."
        ),
    ] = None,
    checkpoint: options.Checkpoint = None,
    allow_training_subjects: options.AllowTrainingSubjects = False,
    device: options.Device = None,
) -> None:
    """Segment translations, warp the labels to source space and score them (Plasticine, Tables I and III)."""
    settings = parse_settings(set_ or [])
    from medtrace.workflows.runs import using_checkpoint
    from medtrace.workflows.traceability import TABLE
    from medtrace.workflows.traceability import traceability as call

    with using_checkpoint(checkpoint):
        tables = call(
            runs or (),
            out,
            dataset=dataset,
            split=split,
            segmenter=segmenter,
            feature_network=features if features in (None, "segmenter") else at_home(Path(features)),
            settings=settings,
            device=device,
            progress=bars(),
            allow_training_subjects=allow_training_subjects,
        )
    _give_scores(out, tables)
    tell((out / TABLE).read_text(encoding="utf-8"))
    tell(f"tables written to {out}")


@command("bench")
def bench(
    task: Annotated[
        str,
        typer.Argument(
            help="TraceBench task: postop, misaligned, metamorphic or domain; or real: T1, T2 and FLAIR of heads.",
            autocompletion=choices.completing(*choices.TASKS),
        ),
    ] = "postop",
    setting: Annotated[
        str,
        typer.Option(
            metavar=choices.of(*choices.SETTINGS),
            autocompletion=choices.completing(*choices.SETTINGS),
            help="Minutes, hours or seconds.",
        ),
    ] = "demo",
    full: Annotated[bool, typer.Option("--full", help="Short for --setting full.")] = False,
    study: Annotated[
        str | None,
        typer.Option(
            help="For postop: rivals, alpha, gamma, ablation, translators, diffusion or short."
            " For misaligned: noise, modes, generators or unpaired."
            " For metamorphic: rivals, ablation or volume. For domain: rivals, paired, ablation, sampling or start."
            " For each of these four: methods."
            " For real: all, images, labels, t1-t2, t1-flair, t1+flair-t2, t2-t1, flair-t1 or follow-ups."
            "  [default: the task's first]"
        ),
    ] = None,
    out: options.TablesFolder = Path("demo_out"),
    seed: options.Seed = 0,
    device: options.Device = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the open MS data, for the task real.  [default: $MEDTRACE_DATA]")
    ] = None,
    row: Annotated[
        str | None, typer.Option(help="With --rows: run only this row of the study, control or method.")
    ] = None,
    rows: Annotated[
        Path | None,
        typer.Option(help="Store each row here when it ends, and make the study's page from the stored rows."),
    ] = None,
) -> None:
    """Train and measure where the truth is known: on TraceBench, or on real heads with their target."""
    from medtrace.workflows.bench import bench as call
    from medtrace.workflows.bench import table_of

    setting = "full" if full else setting
    result = call(
        task=task,
        setting=setting,
        study=study,
        out=out,
        seed=seed,
        device=device,
        data=data,
        row=row,
        rows=rows,
        progress=not is_quiet(),
    )
    give({"out": out, **result})
    if "page" in result:
        tell(f"page written to {result['page']}")
        return
    table = table_of(task, study, out)
    if is_quiet() or not (sys.stderr.isatty() and sys.stdout.isatty()):  # where it was not shown in color before
        tell(table.read_text(encoding="utf-8").split("\n\n")[0])  # without the comparisons row by row
    tell(f"tables, figures and traces written to {table.parent}")


@command("reproduce")
def reproduce(
    paper: Annotated[
        str | None,
        typer.Argument(
            help="tracetrans, plasticine, metaregnet or reggan; without a name, they are listed.",
            autocompletion=choices.completing(*choices.PAPERS),
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the paper's data, or of several data sets under their names.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for data, runs, tables and page.  [default: reproduction/PAPER]"),
    ] = None,
    table: Annotated[str | None, typer.Option(help="Only the table with this number.")] = None,
    smoke: Annotated[
        bool,
        typer.Option("--smoke", help="Try all steps in minutes: few small images, tiny networks, short trainings."),
    ] = False,
    plan: Annotated[bool, typer.Option("--plan", help="List rows and hours, and train nothing.")] = False,
    device: options.Device = None,
) -> None:
    """Rerun a paper on your copy of its data: preparation, trainings, tables next to the printed numbers."""
    from medtrace.workflows.reproduce import papers
    from medtrace.workflows.reproduce import reproduce as call

    if paper is None:
        for line in papers():
            tell(line)
        return
    if data is None:
        raise ValueError(
            f"data: expected the folder of the data of {paper}, received none; `medtrace reproduce` describes it"
        )
    page = call(
        paper,
        data,
        out or Path("reproduction") / paper,
        table=table,
        smoke=smoke,
        plan=plan,
        device=device,
        progress=bars(),
        say=tell,
    )
    give({"page": page, "out": out or Path("reproduction") / paper})
    if page is not None:
        tell(f"page written to {page}")
