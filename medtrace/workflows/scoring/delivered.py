"""Scores of the scans that runs output for a data set's split, in addition to the slices or patches that networks
see."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import Progress

from medtrace.data.dataset import read_index
from medtrace.data.preparation.rules import FILE, Preparation
from medtrace.data.scan_files import read_scan_files, scan_files_of
from medtrace.engines.runs import read_run
from medtrace.evaluation.delivered import Truth, delivered_scores, in_common_units, truths
from medtrace.evaluation.labels import label_agreement
from medtrace.evaluation.paired_rows import of_contrast
from medtrace.evaluation.scoring import Tracer
from medtrace.evaluation.tracers import TracerMethod
from medtrace.evaluation.true_scans import TrueScans
from medtrace.fields import warp
from medtrace.guard.notices import caution, collecting, notify
from medtrace.guard.progress import Steps
from medtrace.inference.delivery import Delivered, after_of, deliver
from medtrace.inference.fitting import Division
from medtrace.inference.sources import SourceImages
from medtrace.methods.base import Method
from medtrace.methods.settings import PreparedData
from medtrace.metrics import CaseTable
from medtrace.report.score_lines import score_lines
from medtrace.trace.contrast import HU, Contrast
from medtrace.workflows.translate import run_preparation


class ScanRow(NamedTuple):
    """A row of an evaluation, as it translates scans.

    Attributes:
        method: translates the scan.
        preparation: preparation of the run.
        may_lack: whether the run was trained with sources dropped.
    """

    method: Method
    preparation: Preparation
    may_lack: bool = False

    @classmethod
    def of(cls, run: Path, method: Method, natural_image: bool) -> ScanRow:
        """Of a run."""
        data = read_run(run).settings.data
        dropped = isinstance(data, PreparedData) and data.drop_sources > 0
        return cls(method, run_preparation(run, method, natural_image), dropped)

    def beside(self, tracer: Tracer) -> ScanRow:
        """A row without a network, with the inputs and outputs of this row's run."""
        channels = self.preparation.out_channels or 1
        return ScanRow(TracerMethod(tracer, channels), self.preparation, self.may_lack)


@dataclass
class DeliveredScores:
    """The scores of the scans that rows output.

    Attributes:
        tables: row → its scans; for a run that makes several contrasts with columns for each.
        subjects: scan → subject.
        facts: measurements of each contrast, for the record.
        left_out: scan, or all of them → why it has no scores.
    """

    tables: dict[str, CaseTable] = field(default_factory=dict)
    subjects: dict[str, str] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """For `evaluation.json`."""
        return {
            "targets": self.facts,
            "left_out": self.left_out,
            "rows": {
                row: {
                    name: {
                        "n": one.n,
                        "mean": one.mean if np.isfinite(one.mean) else None,
                        "sd": one.sd if np.isfinite(one.sd) else None,
                    }
                    for name, one in table.summary().items()
                }
                for row, table in self.tables.items()
            },
        }

    def text(self, shown: Mapping[str, str] | None = None) -> str:
        """The table, and the meaning of its numbers, as Markdown; empty if there is nothing to report.

        Args:
            shown: rows with other names in it.
        """
        tables = {(shown or {}).get(row, row): table for row, table in self.tables.items()}
        parts = []
        if any(table.rows for table in self.tables.values()):
            units = "; ".join(
                f"{name} in {facts['unit']}{', on the scale of the mean training scan' if facts['relative'] else ''},"
                f" over the {facts['region']}, PSNR and SSIM with the range {facts['range'][0]:g} to"
                f" {facts['range'][1]:g}{SYNTHRAD_NOTE if facts['unit'] == HU else ''}"
                for name, facts in self.facts.items()
            )
            parts.append(
                f"Delivered scans, as `translate` writes them, against the true ones: {units}.\n\n"
                + score_lines(tables).replace(" case", " scan")
            )
        parts += [f"Delivered scans are not scored: {scan}: {reason}.\n" for scan, reason in self.left_out.items()]
        return "\n".join(parts)


ALL = "all scans"
SYNTHRAD_NOTE = " (`synthrad_`: SynthRAD's conventions, always -1024 to 3071 HU)"


def score_delivered(
    rows: Mapping[str, ScanRow],
    dataset: Path | None,
    split: str,
    *,
    batch_size: int = 8,
    patch_size: int | Sequence[int] | None = None,
    progress: bool = True,
) -> DeliveredScores:
    """Translate every scan of a split with every row and compare it with the true one.

    A scan that is gone, unreadable or another than the one that was prepared is left out of all rows, with a notice.

    Args:
        rows: name → row.
        dataset: the prepared folder; None for cases from elsewhere, which have no scans.
        split: split of it.
        batch_size: slices at once.
        patch_size: see `medtrace.workflows.translate.translate`.
        progress: show a bar on stderr.
    """
    result = DeliveredScores({row: CaseTable() for row in rows})
    if not rows:
        return result
    if dataset is None:
        return _without(result, "cases", "they were given as arrays, without scans")
    files = read_scan_files(dataset)
    if not files:
        name = scan_files_of(dataset).name
        return _without(result, dataset, f"no {name} beside the data set says where they are; prepare it again")
    volumes = {entry["volume"]: entry["subject"] for entry in read_index(dataset)[split] if "volume" in entry}
    division = Division(batch_size, patch_size)
    with Progress(console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task("delivered scans", total=len(volumes) * len(rows))
        steps = Steps("delivered scans", len(volumes))
        for number, (volume, subject) in enumerate(volumes.items()):
            steps.done(int(number > 0))
            try:
                if volume not in files:
                    raise ValueError(f"{scan_files_of(dataset).name} does not name it; prepare the data set again")
                with collecting(silent=True):
                    true = TrueScans.read(dataset, volume, files[volume], Preparation.load(dataset / FILE))
                    scores, facts = _of_scan(rows, true, division, bar, task)
            except (OSError, ValueError) as error:
                reason = str(error)
                for image in files[volume].images if volume in files else ():
                    reason = reason.replace(str(image.path), image.key)  # names of files may be names of patients
                result.left_out[volume] = reason
                notify(volume, f"the delivered scan is not scored: {reason}")
                continue
            _told_apart(result.facts, facts)
            result.subjects[volume] = subject
            for row, values in scores.items():
                result.tables[row].add(volume, values)
    return result


def _without(result: DeliveredScores, where: str | Path, reason: str) -> DeliveredScores:
    result.left_out[ALL] = reason
    notify(where, f"delivered scans are not scored: {reason}")
    return result


def _told_apart(known: dict[str, dict[str, Any]], new: Mapping[str, dict[str, Any]]) -> None:
    for name, facts in new.items():
        before = known.setdefault(name, facts)
        if before["region"] != facts["region"] and facts["region"] not in before["region"]:
            before["region"] = f"{before['region']} or {facts['region']}"


def _of_scan(
    rows: Mapping[str, ScanRow], true: TrueScans, division: Division, bar: Progress, task: Any
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, Any]]]:
    """Row → scores of one scan, and the measurements."""
    prepared: list[tuple[Preparation, bool, SourceImages, list[Truth]]] = []
    result: dict[str, dict[str, float]] = {}
    for name, row in rows.items():
        sources, wanted = _prepared(prepared, row, true)
        contrast = true.contrast(row.preparation)
        delivered = deliver(row.method, row.preparation, sources, contrast, division, fit=True, bar=bar, name="scan")
        images = in_common_units(delivered)
        agreement = _labels_of(true, delivered)
        scores: dict[str, list[dict[str, float]]] = defaultdict(list)
        for channel, truth in zip(images, wanted):
            scores[truth.contrast.name].append(delivered_scores(channel[None], truth))
        result[name] = {
            column if len(scores) == 1 else of_contrast(column, made): float(np.mean([one[column] for one in channels]))
            for made, channels in scores.items()
            for column in channels[0]
        } | agreement
        bar.advance(task)
    facts = {
        truth.contrast.name: {
            "unit": truth.contrast.unit,
            "relative": truth.contrast.relative,
            "region": truth.where,
            "range": truth.limits,
        }
        for truth in prepared[0][3]
    }
    return result, facts


def _labels_of(true: TrueScans, delivered: Delivered) -> dict[str, float]:
    """How well the field warps the labels of the source onto those of the target; empty without labels."""
    if not true.labels:
        return {}
    ddf, source = delivered.parts.ddf, true.labels["source"]
    moved = warp(source[None], ddf[None], mode="nearest")[0]
    first = next(iter(true.scans.values()))
    spacing = first.affine[:3, : ddf.shape[0]].norm(dim=0).tolist()
    found = label_agreement(moved, true.labels["target"], spacing)
    return {f"delivered_{name}": value for name, value in found.items()}


def _prepared(
    known: list[tuple[Preparation, bool, SourceImages, list[Truth]]], row: ScanRow, true: TrueScans
) -> tuple[SourceImages, list[Truth]]:
    """A row's input and expected output; rows of one preparation share them."""
    for preparation, may_lack, sources, wanted in known:
        if (preparation, may_lack) == (row.preparation, row.may_lack):
            return sources, wanted
    sources = true.sources(row.preparation, row.may_lack)
    after = after_of(row.preparation, true.contrast(row.preparation), sources)
    if after is None:
        raise ValueError("the run's preparation does not say what its target's numbers mean; prepare and train again")
    wanted = truths(true, row.preparation, after)
    known.append((row.preparation, row.may_lack, sources, wanted))
    return sources, wanted


def doubt_scales(rows: Mapping[str, ScanRow]) -> list[str]:
    """A line if runs' targets are in arbitrary units on different scales."""
    scales: dict[str, list[Contrast]] = defaultdict(list)
    for row in rows.values():
        for name in {*row.preparation.outputs, *row.preparation.targets.values()}:
            contrast = row.preparation.contrasts.get(name)
            if contrast is not None and contrast.relative and contrast.curve not in [c.curve for c in scales[name]]:
                scales[name].append(contrast)
    lines = [
        f"{name} is in arbitrary units on {len(known)} scales, as the runs were trained on different scans: their"
        " delivered errors are not comparable"
        for name, known in scales.items()
        if len(known) > 1
    ]
    for line in lines:
        caution("runs", line)
    return lines
