"""Axial slices chosen by the mask of a tumor: of heads (BraTS) and of livers (3D-IRCADb-01)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from medtrace.data.lists.folder_layouts import read_brats, read_ircadb
from medtrace.data.lists.studies import Study
from medtrace.data.reading import read_image, read_values
from medtrace.data.structures import LIVER, read_structure, read_tumors, tumors_in
from medtrace.geometry.resampling import Reorientation, resize, resize_labels, shape_at_spacing, spacing_of
from medtrace.methods.recipes import Counts, CrossedSlices
from medtrace.trace.validation import as_tensor

HOUNSFIELD = (-1000.0, 4000.0)
"""The range that MetaRegNet's paper brings to gray values."""
MILLIMETER = 1.0
MULTIPLE = 16
"""Of the edge of a square that slices are cut to: networks halve it four times."""
SPLITS = ("training", "validation", "test")


class TumorSlice(NamedTuple):
    """A slice of a subject.

    Attributes:
        subject: name of the subject.
        split: training, validation or test.
        image: (1, H, W) in [0, 1], background 0.
        tumor: (1, H, W) boolean; empty for a healthy slice.
        organ: likewise, the organ with its tumor; None if it is not known.
    """

    subject: str
    split: str
    image: Tensor
    tumor: Tensor
    organ: Tensor | None = None

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.subject}-{'pathological' if bool(self.tumor.any()) else 'healthy'}"


class _Volume(NamedTuple):
    """A scan in RAS order, slices last: image in its units, tumor and organ."""

    image: Tensor
    tumor: Tensor
    organ: Tensor | None
    spacing: tuple[float, ...]


def tumor_slices(preparation: CrossedSlices, place: Path, smoke: bool = False) -> list[TumorSlice]:
    """The slices that a recipe asks for, subjects dealt to the splits by seed 0.

    Args:
        preparation: how many, and of which layout.
        place: where the scans lie.
        smoke: choose as few as `preparation` says for a smoke test.

    Raises:
        ValueError: if there are too few subjects.
    """
    counts = (preparation.smoke_healthy, preparation.smoke_pathological)
    if not smoke:
        counts = (preparation.healthy, preparation.pathological)
    if preparation.layout == "brats":
        return _heads(read_brats(place), preparation.contrast, *counts)
    return _in_one_square(_livers(read_ircadb(place), *counts))


def _heads(studies: Sequence[Study], contrast: str, healthy: Counts, pathological: Counts) -> list[TumorSlice]:
    """One slice a subject."""
    wanted = [(split, ill) for k, split in enumerate(SPLITS) for ill in [False] * healthy[k] + [True] * pathological[k]]
    able = [study for study in studies if contrast in study.images and study.labels is not None]
    result: list[TumorSlice] = []
    for index in np.random.default_rng(0).permutation(len(able)):
        if len(result) == len(wanted):
            return result
        split, ill = wanted[len(result)]
        found = _head(able[index], contrast, split, ill)
        result += [] if found is None else [found]
    if len(result) < len(wanted):
        raise ValueError(
            f"data: expected {len(wanted)} subjects with {contrast} and a segmentation, one for each slice, received"
            f" {len(able)} of which {len(result)} have such a slice; give the whole data set"
        )
    return result


def _head(study: Study, contrast: str, split: str, ill: bool) -> TumorSlice | None:
    labels, _ = _upright(read_values(Path(str(study.labels))))
    tumor = labels > 0
    areas = tumor.flatten(0, 2).sum(0)
    if ill and not bool(areas.any()):
        return None
    volume, _ = _upright(read_image(study.images[contrast]))
    brain = (volume != 0).flatten(0, 2).sum(0)
    brain[areas > 0] = 0
    if not ill and not bool(brain.any()):
        return None
    chosen = int((areas if ill else brain).argmax())
    low, high = volume.min(), volume.max()
    return TumorSlice(study.subject, split, ((volume - low) / (high - low))[..., chosen], tumor[..., chosen])


def _livers(studies: Sequence[Study], healthy: Counts, pathological: Counts) -> Iterator[TumorSlice]:
    """A healthy slice of every patient and, of the first of a split that have a tumor, one that shows it."""
    with_tumor = {study.subject for study in studies if tumors_in(_masks(study))}
    if len(studies) < sum(healthy) or len(with_tumor) < sum(pathological):
        raise ValueError(
            f"data: expected {sum(healthy)} patients, {sum(pathological)} of them with a tumor of the liver, received"
            f" {len(studies)} and {len(with_tumor)}; give the whole data set"
        )
    order = [studies[index] for index in np.random.default_rng(0).permutation(len(studies))]
    ill = [study for study in order if study.subject in with_tumor]
    others = [*ill[sum(pathological) :], *(study for study in order if study.subject not in with_tumor)]
    for split, count, tumors in zip(SPLITS, healthy, pathological):
        for number in range(count):
            study = (ill if number < tumors else others).pop(0)
            volume = _liver_volume(study)
            yield _liver(study.subject, split, volume, ill=False)
            if number < tumors:
                yield _liver(study.subject, split, volume, ill=True)


def _masks(study: Study) -> Path:
    return study.lesion or Path(study.origin) / "MASKS_DICOM"


def _liver_volume(study: Study) -> _Volume:
    scan = study.images["CT"]
    image = read_image(scan)
    organ = read_structure(_masks(study) / LIVER, image, scan)
    tumor = read_tumors(_masks(study), image, scan)
    upright, spacing = _upright(image)
    plan = Reorientation.to_ras(image.affine, image.shape[1:], 2)
    return _Volume(upright, plan.apply(tumor), plan.apply(organ | tumor), spacing)


def _liver(subject: str, split: str, volume: _Volume, *, ill: bool) -> TumorSlice:
    organ = torch.zeros_like(volume.tumor) if volume.organ is None else volume.organ
    areas = volume.tumor.flatten(0, 2).sum(0)
    free = organ.flatten(0, 2).sum(0)
    free[areas > 0] = 0
    if not ill and not bool(free.any()):
        raise ValueError(f"{subject}: expected a slice of the liver without tumor, found none; take an intact copy")
    chosen = int((areas if ill else free).argmax())
    low, high = HOUNSFIELD
    gray = 255 * (volume.image[..., chosen : chosen + 1].clamp(low, high) - low) / (high - low)
    maps = [mask[..., chosen : chosen + 1] for mask in (volume.tumor, organ)]
    shape = shape_at_spacing(gray.shape[1:], volume.spacing, (MILLIMETER, MILLIMETER, volume.spacing[2]))
    gray = resize(gray, shape)
    tumor, inside = (resize_labels(mask.to(torch.int32), shape) > 0 for mask in maps)
    gray = torch.where(inside, gray, 0.0)
    return TumorSlice(subject, split, (gray / gray.max())[..., 0], tumor[..., 0], inside[..., 0])


def _in_one_square(slices: Iterator[TumorSlice]) -> list[TumorSlice]:
    """All slices cut to the smallest square that holds each organ in its middle."""
    given, boxes = list(slices), []
    for one in given:
        places = (one.image if one.organ is None else one.organ)[0].nonzero()
        boxes.append((places.amin(0), places.amax(0) + 1))
    longest = max(int((high - low).max()) for low, high in boxes)
    edge = -(-longest // MULTIPLE) * MULTIPLE
    result = []
    for one, (low, high) in zip(given, boxes):
        start = (low + high - edge) // 2
        image, tumor = (_square(values, start, edge) for values in (one.image, one.tumor))
        organ = None if one.organ is None else _square(one.organ, start, edge)
        result.append(one._replace(image=image, tumor=tumor, organ=organ))
    return result


def _square(values: Tensor, start: Tensor, edge: int) -> Tensor:
    """A square of (1, H, W) from a corner that may lie outside, zero there."""
    result = values.new_zeros(1, edge, edge)
    sizes = values.shape[1:]
    begin = [max(0, int(first)) for first in start]
    end = [min(size, int(first) + edge) for first, size in zip(start, sizes)]
    to = [first - int(origin) for first, origin in zip(begin, start)]
    part = values[:, begin[0] : end[0], begin[1] : end[1]]
    result[:, to[0] : to[0] + part.shape[1], to[1] : to[1] + part.shape[2]] = part
    return result


def _upright(image: Tensor) -> tuple[Tensor, tuple[float, ...]]:
    """(1, X, Y, Z) in RAS order, axial slices last, and the voxel size in mm."""
    affine = image.affine  # type: ignore[attr-defined]
    plan = Reorientation.to_ras(affine, image.shape[1:], 2)
    return plan.apply(as_tensor(image)), tuple(map(float, spacing_of(plan.affine(affine))))
