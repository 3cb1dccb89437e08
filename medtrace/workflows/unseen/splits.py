"""Checks that a data set's split is new to a run and similar to its training data."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medtrace import __version__
from medtrace.data.dataset import read_index
from medtrace.data.lists.layouts import SPLITS
from medtrace.data.population import ROLES, SCANS, role_records
from medtrace.data.preparation.rules import FILE, Preparation
from medtrace.guard.notices import caution
from medtrace.metrics import CaseTable
from medtrace.storage.cases import content_digest
from medtrace.storage.files import atomic_write
from medtrace.workflows.unseen.images import MASK_MISSING, NOT_KNOWN, TrainingMemory, image_cautions, refusal


@dataclass(frozen=True)
class SplitReview:
    """Review of a split that a run is measured on.

    Attributes:
        training: case of an item → what the run has seen of its subject in training.
        cautions: how the data set differs from the run's, one line per difference.
    """

    training: Mapping[str, str] = field(default_factory=dict)
    cautions: tuple[str, ...] = ()


def review_split(run: str | os.PathLike, dataset: str | os.PathLike, split: str) -> SplitReview:
    """Compare a prepared data set's split with what a run was trained on.

    A subject is a training subject if any of its images, in any split of the data set, is a training image of the run,
    whatever its name is.

    Args:
        run: the run folder.
        dataset: a folder made by `medtrace prepare`.
        split: split of it.
    """
    memory, folder = TrainingMemory.of(run), Path(dataset)
    index = read_index(folder)
    entries, scans = index.get(split, ()), index.get(SCANS, ())
    seen: dict[str, tuple[str, str]] = {}
    for subject, digest in _digests(folder, entries, scans):
        if digest in memory.fingerprints:
            known, place, where = memory.fingerprints[digest]
            if seen.get(subject, ("", ""))[1] != "training":
                name = f"subject {known!r}" if known == subject else f"subject {subject!r}, there called {known!r}"
                seen[subject] = (f"{place} of {name}", where)
    training = {
        entry["case"]: seen[entry["subject"]][0]
        for entry in entries
        if seen.get(entry["subject"], ("", ""))[1] == "training"
    }
    cautions = [NOT_KNOWN] if memory.silent else []
    chosen_by = {entry["subject"] for entry in entries if seen.get(entry["subject"], ("", ""))[1] == "validation"}
    if chosen_by and split != "validation":
        cautions.append(f"validation: the run was validated on {len(chosen_by)} of these subjects")
    cautions += _preparation_lines(memory.run / FILE, folder / FILE)
    cautions += _scan_lines(memory, [scan for scan in scans if scan["split"] == split])
    return SplitReview(training, tuple(cautions))


def reviewed(run: str | os.PathLike, dataset: str | os.PathLike, split: str, allowed: bool) -> SplitReview:
    """Review a split, refuse training subjects in it unless they are allowed, and report cautions.

    Raises:
        ValueError: naming the first case.
    """
    review = review_split(run, dataset, split)
    if review.training and not allowed:
        case, seen = next(iter(review.training.items()))
        raise ValueError(
            refusal(
                f"dataset: {len(review.training)} case(s) of split {split!r} are of subjects that {run} was trained on"
                f" (first: case {case!r}, {seen})",
                "measure on other subjects",
            )
        )
    if review.training:
        caution(Path(run), f"{len(review.training)} case(s) are of subjects that it was trained on, which was allowed")
    for line in review.cautions:
        caution(Path(run), line)
    return review


def _digests(
    folder: Path, entries: Sequence[Mapping[str, Any]], scans: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[str, str]]:
    """Subject and digest of every image: of prepared files of the split, and of the scans of its subjects."""
    subjects = {entry["subject"] for entry in entries}
    for entry in entries:
        for role in ROLES:
            file = folder / str(entry.get(role))
            if file.is_file():
                yield entry["subject"], content_digest(file)
    for scan in scans:
        if scan["subject"] in subjects:
            for role in ROLES:
                for record in role_records(scan, role):
                    yield scan["subject"], record.fingerprint


def _preparation_lines(of_run: Path, of_data: Path) -> list[str]:
    """How two preparations differ."""
    if not (of_run.is_file() and of_data.is_file()):
        return []
    before, now = Preparation.load(of_run), Preparation.load(of_data)
    if before.natural_image != now.natural_image:
        kinds = ("scans", "natural images")
        return [
            f"preparation: the run is for {kinds[before.natural_image]}, the data set holds {kinds[now.natural_image]}"
        ]
    result = [
        f"preparation: {name} is {_shown(other)}, in training it was {_shown(own)}"
        for name in COMPARED
        for own, other in [(getattr(before, name), getattr(now, name))]
        if own != other
    ]
    if (
        before.spacing
        and now.spacing
        and any(abs(a / b - 1) > SAME_SPACING for a, b in zip(now.spacing, before.spacing))
    ):
        result.append(
            f"preparation: spacing is {_shown(now.spacing)} mm, in training it was {_shown(before.spacing)} mm"
        )
    if {**before.targets} != {**now.targets}:
        result.append(f"preparation: it is for {_pairs(now.targets)}, the run was trained on {_pairs(before.targets)}")
    for name in sorted(set(before.contrasts) & set(now.contrasts)):
        own, other = before.contrasts[name], now.contrasts[name]
        if (own.unit, own.rule, own.limits) != (other.unit, other.rule, other.limits):
            result.append(f"preparation: {name} is {other}, in training it was {own}")
    if set(before.standards) & set(now.standards) and before.standards != now.standards:
        result.append(
            "preparation: intensities were standardized again, on other training scans; scores depend on it: prepare"
            " the test subjects together with the training subjects, or translate their scans"
        )
    return result


SAME_SPACING = 0.05
COMPARED = (
    "axis",
    "channels",
    "sources",
    "outputs",
    "intensity",
    "spatial_shape",
    "percentiles",
    "value_range",
    "depth",
)
"""Members of a preparation that must match."""


def _scan_lines(memory: TrainingMemory, scans: Sequence[Mapping[str, Any]]) -> list[str]:
    """How the scans of a split differ from the training's: each type of line once, with its number of scans."""
    result: dict[str, list[tuple[str, str]]] = {}
    for scan in scans if not memory.silent else ():
        for role in ROLES:
            told = [
                (record, line)
                for record in role_records(scan, role)
                for line in image_cautions(memory, record, bool(scan["mask"]), role, record.contrast)
            ]
            for record, line in told:
                named = f"{role} {record.contrast}" if len(scan[role]) > 1 and line != MASK_MISSING else role
                kind = result.setdefault(f"{named}: {line.split(':')[0]}", [])
                if (scan["volume"], line) not in kind:
                    kind.append((scan["volume"], line))
    return [
        f"{lines[0][1]} ({kind.split(':')[0]} of {lines[0][0]!r}; {len(lines)} of {len(scans)} like this)"
        for kind, lines in result.items()
    ]


def _pairs(targets: Mapping[str, str]) -> str:
    return ", ".join(f"{source} to {target}" for source, target in targets.items()) or "nothing named"


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " x ".join(one if isinstance(one, str) else f"{one:g}" for one in value) or "none"
    return str(value)


TRAINING_SUBJECT = "training_subject"
"""Column of a table of scores if training subjects were allowed: 1 for a case of such a subject, else 0."""
EVALUATION = "evaluation.json"


def marked(tables: Mapping[str, CaseTable], training: Mapping[str, str]) -> None:
    """Mark the training subjects in tables of scores; without any, no table has the column.

    Args:
        tables: row → its cases.
        training: case → what was seen of its subject.
    """
    for table in tables.values() if training else ():
        for case in table.rows:
            table.add(case, {TRAINING_SUBJECT: float(case in training)})


def doubts_of(reviews: Mapping[str, SplitReview]) -> list[str]:
    """Notes below the table: training subjects among the cases, and how the data differ from the training's."""
    lines = [
        f"{name}: {len(review.training)} of the cases are of subjects that it was trained on."
        for name, review in reviews.items()
        if review.training
    ]
    return lines + [f"{name}: {line}." for name, review in reviews.items() for line in review.cautions]


def subjects_of(folder: Path | None) -> dict[str, str]:
    """Case → subject of a prepared data set; empty for cases from elsewhere, each of which is its own subject."""
    if folder is None:
        return {}
    index = read_index(folder)
    return {entry["case"]: entry["subject"] for split in SPLITS for entry in index[split]}


def write_record(
    folder: Path,
    reviews: Mapping[str, SplitReview],
    *,
    dataset: str | os.PathLike | None,
    split: str,
    cases: int,
    described: Mapping[str, Mapping[str, Any]] | None = None,
    **more: Any,
) -> None:
    """Write what an evaluation measured and its cautions next to its tables, as `evaluation.json`.

    Args:
        folder: folder of the tables.
        reviews: run folder → its review.
        dataset: the prepared folder, None for cases from elsewhere.
        split: split of it.
        cases: how many.
        described: run folder → what else is known about it, such as its settings.
        more: entries of the record, such as results.
    """
    content = {
        "format": "medtrace evaluation",
        "version": 1,
        "medtrace": __version__,
        "dataset": None if dataset is None else Path(dataset).resolve().name,
        "split": split,
        "cases": cases,
        "runs": {
            name: {
                "training_subjects": dict(review.training),
                "cautions": list(review.cautions),
                **(described or {}).get(name, {}),
            }
            for name, review in reviews.items()
        },
        **more,
    }
    atomic_write(folder / EVALUATION, json.dumps(content, indent=1) + "\n", make_parents=True)
