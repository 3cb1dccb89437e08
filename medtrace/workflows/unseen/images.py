"""Checks that images given to a run are new to it and similar to its training data."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from monai.data import MetaTensor
from torch import Tensor

from medtrace.data.fingerprint import fingerprint
from medtrace.data.population import ROLES, SCANS, ImageRecord, role_records, unlike
from medtrace.data.preparation.rules import FILE, Preparation
from medtrace.engines.runs import read_run
from medtrace.guard.notices import caution
from medtrace.storage.cases import content_digest
from medtrace.trace import Trace

ALLOWED = "allow_training_subjects"


@dataclass(frozen=True)
class TrainingMemory:
    """A run's record of its training data.

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
        """Whether it was trained on a data set but does not record its scans, as runs of early versions."""
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
    "training: the run was prepared by an earlier version and does not record its training scans, so a training"
    " subject is recognized only by its prepared files; prepare and train again to be sure"
)
COMMON = (MASK_MISSING, NOT_KNOWN)
"""Lines that concern no single image."""


def seen_image(memory: TrainingMemory, digests: Sequence[str]) -> str | None:
    """Which training image an image is, in words; None for one that is new.

    Args:
        memory: memory of the run.
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
        f"{what}; a result on it says nothing about unseen subjects: {remedy}, or allow it with {ALLOWED}=True, which"
        " the record will state"
    )


def image_cautions(
    memory: TrainingMemory, record: ImageRecord, mask: bool, role: str = "source", contrast: str | None = None
) -> list[str]:
    """How an image differs from those that a run was trained on, one line per difference.

    Args:
        memory: memory of the run.
        record: record of the image.
        mask: whether it came with a mask.
        role: role of the image, "source" or "target".
        contrast: its name, if the run was trained on several.
    """
    if memory.silent:
        return [NOT_KNOWN]
    other = memory.images("target") if role == "source" else []
    names = {one.contrast for one in memory.images(role, contrast)}
    result = unlike(record, memory.images(role, contrast), [one for one in other if one.contrast not in names])
    return [*result, *([MASK_MISSING] if memory.masked and not mask and role == "source" else [])]


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
        memory: memory of the run.
        path: path of the image.
        scan: as it was read.
        preparation: preparation of the run.
        mask: whether it came with a mask.
        contrast: its name, if the run was trained on several.
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


def tell_seen(memory: TrainingMemory, images: Mapping[Path, Tensor]) -> None:
    """Report which images a run was trained on, where registering them may well be intended.

    Args:
        memory: memory of the run.
        images: file → its image, (C, *spatial).
    """
    for path, image in images.items():
        seen = seen_image(memory, [fingerprint(image), content_digest(path)])
        if seen is not None:
            caution(path, f"is {seen}; a result on it says nothing about unseen subjects")


def source_cautions(memory: TrainingMemory, trace: Trace, mask: bool, contrast: str | None = None) -> list[str]:
    """How the source of a trace differs from a run's training images, one line per difference.

    Args:
        memory: memory of the run.
        trace: that it made.
        mask: whether the source came with a mask.
        contrast: contrast of the source, if the run was trained on several.
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
