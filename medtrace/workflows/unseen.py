"""Whether what a run is given is new to it, and like what it was trained on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from monai.data import MetaTensor

from medtrace import __version__
from medtrace.data.dataset import read_index
from medtrace.data.fingerprint import fingerprint
from medtrace.data.lists.layouts import SPLITS
from medtrace.data.population import ROLES, SCANS, ImageRecord, role_records, unlike
from medtrace.data.preparation.rules import FILE, Preparation
from medtrace.engines.runs import read_run
from medtrace.guard.notices import caution
from medtrace.metrics import CaseTable
from medtrace.storage.cases import content_digest
from medtrace.storage.files import atomic_write
from medtrace.trace import Trace

ALLOWED = "allow_training_subjects"


@dataclass(frozen=True)
class TrainingMemory:
    """What a run remembers of its training data.

    Attributes:
        run: the run folder.
        data: its record's `training_data`.
    """

    run: Path
    data: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, run: str | os.PathLike) -> TrainingMemory:
        """Of a run folder.

        Raises:
            FileNotFoundError, ValueError: see `medtrace.engines.runs.read_run`.
        """
        return cls(Path(run), read_run(run).training_data)

    @property
    def silent(self) -> bool:
        """Whether it was trained on a data set and does not tell its scans, as a run of an early version."""
        return bool(self.data.get("dataset")) and not isinstance(self.data.get(SCANS), list)

    @cached_property
    def scans(self) -> list[dict[str, Any]]:
        """The pairs of training and validation."""
        result = self.data.get(SCANS)
        return result if isinstance(result, list) else []

    @cached_property
    def fingerprints(self) -> dict[str, tuple[str, str, str]]:
        """Fingerprint of an image, or digest of a prepared file → its subject, its role and volume, its split."""
        known = {}
        for split in ("validation", "training"):  # of an image in both, training counts
            for entry in self.data.get(split, ()):
                for role in ROLES:
                    if role in entry:
                        known[entry[role]] = (entry["subject"], f"{role} of case {entry['case']!r}", split)
            for scan in self.scans:
                if scan["split"] == split:
                    for role in ROLES:
                        place = f"{role} of {scan['volume']!r}"
                        for record in role_records(scan, role):
                            known[record.fingerprint] = (scan["subject"], place, split)
        return known

    def images(self, role: str, contrast: str | None = None) -> list[ImageRecord]:
        """The training images of a role; of a contrast, where one is named and known."""
        training = [scan for scan in self.scans if scan["split"] == "training"]
        result = [record for scan in training for record in role_records(scan, role)]
        named = [record for record in result if record.contrast == contrast]
        return named or result

    @property
    def masked(self) -> bool:
        """Whether most training pairs came with a mask."""
        training = [scan for scan in self.scans if scan["split"] == "training"]
        return bool(training) and 2 * sum(bool(scan["mask"]) for scan in training) > len(training)


MASK_MISSING = "mask: training images came with masks, and this one has none; give it one"
NOT_KNOWN = (
    "training: the run was prepared by an earlier version and does not tell its training scans, so that a training"
    " subject is recognized by its prepared files alone; prepare and train again to be sure"
)
COMMON = (MASK_MISSING, NOT_KNOWN)
"""Lines that are of no single image."""


def seen_image(memory: TrainingMemory, digests: Sequence[str]) -> str | None:
    """Which training image an image is, in words; None for one that is new.

    Args:
        memory: of the run.
        digests: fingerprint of its voxels and digest of its file.
    """
    for digest in digests:
        if digest in memory.fingerprints:
            subject, place, split = memory.fingerprints[digest]
            return f"an image that {memory.run} has seen in {split}: {place} of subject {subject!r}"
    return None


def refusal(what: str, remedy: str) -> str:
    """The message that refuses a training subject."""
    return (
        f"{what}; a result on it says nothing about unseen subjects: {remedy}, or allow it by {ALLOWED}=True, which the"
        " record will say"
    )


def image_cautions(
    memory: TrainingMemory, record: ImageRecord, mask: bool, role: str = "source", contrast: str | None = None
) -> list[str]:
    """In what an image is unlike those that a run was trained on, a line each.

    Args:
        memory: of the run.
        record: of the image.
        mask: whether it came with a mask.
        role: of the image, "source" or "target".
        contrast: its name, where the run was trained on several.
    """
    if memory.silent:
        return [NOT_KNOWN]
    other = memory.images("target") if role == "source" else []
    names = {one.contrast for one in memory.images(role, contrast)}
    result = unlike(record, memory.images(role, contrast), [one for one in other if one.contrast not in names])
    return [*result, *([MASK_MISSING] if memory.masked and not mask and role == "source" else [])]


@dataclass(frozen=True)
class SplitReview:
    """What is to be said of a split that a run is measured on.

    Attributes:
        training: case of an item → what the run has seen of its subject in training.
        cautions: in what the data set is unlike the run's, a line each.
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
        split: of it.
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
    """Review a split, refuse training subjects in it unless they are allowed, and tell what to doubt.

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
    """In what two preparations differ."""
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
            "preparation: intensities were standardized anew, on other training scans; scores depend on it: prepare the"
            " test subjects together with the training's, or translate their scans"
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
"""Members of a preparation that have to be alike."""


def _scan_lines(memory: TrainingMemory, scans: Sequence[Mapping[str, Any]]) -> list[str]:
    """In what the scans of a split are unlike the training's: each kind of line once, with how many scans it is of."""
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
"""Column of a table of scores, where training subjects were allowed: 1 for a case of one, else 0."""
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


def subjects_of(folder: Path | None) -> dict[str, str]:
    """Case → subject of a prepared data set; empty for cases from elsewhere, which are subjects of their own."""
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
    **more: Any,
) -> None:
    """Write what an evaluation measured and what to doubt of it beside its tables, as `evaluation.json`.

    Args:
        folder: of the tables.
        reviews: run folder → its review.
        dataset: the prepared folder, None for cases from elsewhere.
        split: of it.
        cases: how many.
        more: entries of the record, such as what was found.
    """
    content = {
        "format": "medtrace evaluation",
        "version": 1,
        "medtrace": __version__,
        "dataset": None if dataset is None else Path(dataset).resolve().name,
        "split": split,
        "cases": cases,
        "runs": {
            name: {"training_subjects": dict(review.training), "cautions": list(review.cautions)}
            for name, review in reviews.items()
        },
        **more,
    }
    atomic_write(folder / EVALUATION, json.dumps(content, indent=1) + "\n", make_parents=True)


def review_image(
    memory: TrainingMemory,
    path: Path,
    scan: MetaTensor,
    preparation: Preparation,
    *,
    mask: bool,
    contrast: str | None = None,
    allowed: bool = False,
) -> str:
    """Refuse a training image, unless it is allowed, and tell in what an image is unlike the training's.

    Args:
        memory: of the run.
        path: of the image.
        scan: as it was read.
        preparation: of the run.
        mask: whether it came with a mask.
        contrast: its name, where the run was trained on several.
        allowed: whether a training image may be used.

    Returns:
        The image's fingerprint.

    Raises:
        ValueError: if it is a training image.
    """
    digest = fingerprint(scan.as_tensor())
    seen = seen_image(memory, [digest, content_digest(path)])
    if seen is not None and not allowed:
        raise ValueError(refusal(f"{path}: is {seen}", "take an image of another subject"))
    if seen is not None:
        caution(path, f"is {seen}, which was allowed")
    if memory.scans or memory.silent:
        several = bool(preparation.sources)
        meaning = preparation.contrasts.get(contrast or "") if several else preparation.contrast(contrast)
        name = contrast or preparation.source_contrast or ""
        record = ImageRecord.of(scan, scan.affine, name, meaning, preparation.natural_image, digest)
        for line in image_cautions(memory, record, mask, "source", name):
            caution(path, line)
    return digest


def source_cautions(memory: TrainingMemory, trace: Trace, mask: bool, contrast: str | None = None) -> list[str]:
    """In what the source of a trace is unlike a run's training images, a line each.

    Args:
        memory: of the run.
        trace: that it made.
        mask: whether the source came with a mask.
        contrast: of the source, where the run was trained on several.
    """
    path = memory.run / FILE
    if not path.is_file():
        return []
    preparation = Preparation.load(path)
    source = trace.source if preparation.natural_image or trace.spatial_dims == 3 else trace.source[..., None]
    images = {contrast or preparation.source_contrast or "": source}
    if preparation.sources and trace.source_contrasts is not None:
        images = {one.name: source[k : k + 1] for k, one in enumerate(trace.source_contrasts)}
    result = []
    for name, image in images.items():
        meaning = preparation.contrasts.get(name) if preparation.sources else preparation.contrast(contrast)
        record = ImageRecord.of(image, trace.source_affine, name, meaning, preparation.natural_image)
        lines = image_cautions(memory, record, mask, "source", name)
        result += [f"{name}: {line}" if len(images) > 1 and line not in COMMON else line for line in lines]
    return list(dict.fromkeys(result))
