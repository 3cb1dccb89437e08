"""The facts about a run in a model card: its data, units, scores and training."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from medtrace.data.population import SCANS
from medtrace.data.preparation.rules import FILE as PREPARATION
from medtrace.data.preparation.rules import Preparation
from medtrace.engines.runs import RunRecord
from medtrace.evaluation.bench.running import DONE
from medtrace.evaluation.intensity.interval import IntensityInterval
from medtrace.evaluation.paired_rows import COMPARISON, larger_is_better
from medtrace.methods import method_class, resolve
from medtrace.metrics import Summary
from medtrace.report.tables import read_rows, read_summary
from medtrace.workflows.training.resuming import flat_settings

RUN_ROW = "method"
"""The name of a run's own scores in the files of an evaluation."""
BESIDE = "identity"


class Score(NamedTuple):
    """A measure of a run on a split: over the cases, and beside the untouched source."""

    split: str
    measure: str
    summary: Summary
    beside: Mapping[str, Any] | None
    """Difference to the identity by subject with its 95 % interval (`low`, `high`); None if there is none."""


def scores_of(run: Path) -> list[Score]:
    """Scores that `medtrace evaluate` left in a run folder, split by split."""
    result = []
    for file in sorted((run / "evaluation").glob(f"*/{RUN_ROW}_summary.csv")):
        beside = _beside(file.parent / COMPARISON)
        result += [
            Score(file.parent.name, measure, summary, beside.get(measure))
            for measure, summary in read_summary(file).items()
            if larger_is_better(measure) is not None
        ]
    return result


def _beside(path: Path) -> dict[str, Mapping[str, Any]]:
    if not path.is_file():
        return {}
    rows = [row for row in read_rows(path) if (row["first"], row["second"]) == (RUN_ROW, BESIDE)]
    return {str(row["column"]): row for row in rows if row["low"] is not None}


def data_name(record: RunRecord) -> str:
    """The name of the data on which scores were measured."""
    data = record.settings.data
    if data.kind == "tracebench":
        return f"TraceBench {data.task}"
    return Path(str(record.training_data.get("dataset", "unknown"))).name


def data_lines(run: Path, record: RunRecord) -> list[str]:
    """Its training data, and the meaning of intensities and voxels, one line each."""
    data, known = record.settings.data, record.training_data
    if data.kind == "tracebench":
        shape = "×".join(map(str, data.spatial_shape))
        lines = [
            f"Simulated: TraceBench's task `{data.task}` at {shape} voxels, {data.train_cases} training cases, seed"
            f" {data.seed}, made from the ICBM152 2009 brain template. No scan of a person was seen."
        ]
    else:
        cases = known.get("training", ())
        subjects = {entry["subject"] for entry in cases}
        lines = [f"Data set `{data_name(record)}`: {len(cases)} training cases of"
                 f" {len(subjects)} subjects."]  # fmt: skip
        if SCANS in known:
            contrasts = sorted({one["contrast"] for scan in known[SCANS] for one in (*scan["source"], *scan["target"])})
            lines.append(f"Contrasts of its images: {', '.join(contrasts)}.")
    if (run / PREPARATION).is_file():
        lines += _preparation_lines(Preparation.load(run / PREPARATION))
    return lines


def _preparation_lines(preparation: Preparation) -> list[str]:
    lines = []
    for name, contrast in preparation.contrasts.items():
        limits = f", {contrast.limits[0]:g} to {contrast.limits[1]:g} become -1 and 1" if contrast.limits else ""
        lines.append(f"`{name}` is in {contrast.unit}, mapped to [-1, 1] by the rule `{contrast.rule}`{limits}.")
    if not lines:
        lines.append(
            f"Intensities are mapped to [-1, 1] by the rule `{preparation.intensity}`; units are the scan's own."
        )
    lines += [
        f"It makes `{made}` from `{given}`." if made != given else f"Source and image are both `{given}`."
        for given, made in preparation.targets.items()
    ]
    if preparation.spacing is not None:
        lines.append(f"Voxel size in training: {' × '.join(f'{one:.3g}' for one in preparation.spacing)} mm.")
    if preparation.spatial_dims == 2 and not preparation.natural_image:
        lines.append(f"It reads {preparation.axis} slices; its field has no component through them.")
    return lines


def command_of(record: RunRecord) -> str:
    """A command that trains with the run's settings; it lists those that differ from the method's defaults."""
    kind = method_class(record.method).settings_type
    bench = record.settings.data.kind == "tracebench"
    presets = ("tracebench",) if bench and "tracebench" in kind.presets else ()
    usual, own = flat_settings(resolve(kind, presets)), flat_settings(record.settings)
    words = ["medtrace", "train", record.method, "--tracebench" if bench else "DATASET", "--out", "RUN"]
    for name, value in own.items():
        if name not in usual or usual[name] != value:
            words += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    return shlex.join(words)


def training_lines(run: Path, record: RunRecord) -> list[str]:
    """How it was trained: the command, versions, and what it cost, if that is on record."""
    done: dict[str, Any] = json.loads((run / DONE).read_text(encoding="utf-8")) if (run / DONE).is_file() else {}
    training = record.settings.training
    lines = [
        f"{training.max_epochs} epochs, batches of {training.batch_size}, seed {training.seed}.",
        f"medtrace {record.medtrace}, commit {done.get('commit') or 'not on record'}.",
    ]
    if "processor_seconds" in done:
        lines.append(f"{done['processor_seconds']:.0f} processor seconds ({done['seconds']:.0f} s).")
    return lines


def limit_lines(record: RunRecord, scores: list[Score], interval: IntensityInterval | None) -> list[str]:
    """How far to trust it, one line each."""
    lines = []
    if record.settings.data.kind == "tracebench":
        lines.append("Trained on simulated images of one brain template: nothing is promised for scans of people.")
    else:
        lines.append(
            "Nothing is promised for other scanners, protocols or populations than those of its training data."
        )
    if not scores:
        lines.append("Not evaluated: no scores are on record (`medtrace evaluate`).")
    told = "no interval was calibrated (`medtrace calibrate intensity`)" if interval is None else interval.statement
    lines.append(f"Intensities: {told}.")
    return [*lines, "Research only. Not a medical device; not for diagnosis or the planning of treatment."]
