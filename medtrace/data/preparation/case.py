"""Read one pair onto one grid: aligned, oriented, of one voxel size; intensities untouched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import torch
from monai.data import MetaTensor
from torch import Tensor

from medtrace.checks import check_choice, check_positive
from medtrace.data.bias import in_corrected_intensities
from medtrace.data.contrasts import check_declared, doubt_units
from medtrace.data.fingerprint import fingerprint
from medtrace.data.landmarks.points import ImageGrid, read_landmarks
from medtrace.data.lists.pair_list import SIDES, Pair, PairImage
from medtrace.data.masks import check_same_grid, read_mask
from medtrace.data.population import ImageRecord
from medtrace.data.preparation.intensity import find_foreground
from medtrace.data.preparation.maps import entries_of, read_maps
from medtrace.data.preparation.rules import Axis
from medtrace.data.reading import read_image
from medtrace.geometry import Grid
from medtrace.geometry.resampling import (
    Reorientation,
    resize,
    resize_labels,
    resized_affine,
    shape_at_spacing,
    spacing_of,
)
from medtrace.trace.contrast import Contrast
from medtrace.trace.validation import as_tensor
from medtrace.transforms import RigidAlignment, RigidTransform


@dataclass(frozen=True)
class PreparationSettings:
    spatial_dims: int
    slices: int
    axis: Axis
    crop: tuple[int, int, int] | None
    pad: bool
    spacing: tuple[float, float, float] | None
    resize: int | None
    align: bool
    standardize: bool
    resample_tilt: bool = False
    page: int | None = None
    contrasts: Mapping[str, Contrast] = field(default_factory=dict)
    """The contrasts as declared."""


def checked_settings(
    spatial_dims: int,
    slices: int,
    axis: str,
    crop: Sequence[int] | None,
    pad: bool,
    spacing: Sequence[float] | None,
    resize: int | None,
    align: bool,
    standardize: bool,
    resample_tilt: bool = False,
    page: int | None = None,
    contrasts: Mapping[str, Contrast] | None = None,
) -> PreparationSettings:
    check_choice("spatial_dims", spatial_dims, (2, 3))
    check_choice("axis", axis, [str(choice) for choice in Axis])
    check_positive("slices", slices)
    for name, values in (("crop", crop), ("spacing", spacing)):
        if values is not None and (len(values) != 3 or min(values) <= 0):
            raise ValueError(
                f"{name}: expected three numbers above 0 (right-left, front-back, up-down), received {values}"
            )
    if pad and crop is None:
        raise ValueError("pad: expected a crop size to pad to, received none; give crop too")
    if resize is not None and resize < 0:
        raise ValueError(f"resize: expected 0 or a number of pixels, received {resize}")
    if resize and spatial_dims == 3:
        raise ValueError("resize: expected spatial_dims=2, received 3; set the voxel size of volumes by spacing")
    return PreparationSettings(
        spatial_dims=spatial_dims,
        slices=slices,
        axis=Axis(axis),
        crop=None if crop is None else (int(crop[0]), int(crop[1]), int(crop[2])),
        pad=pad,
        spacing=None if spacing is None else (float(spacing[0]), float(spacing[1]), float(spacing[2])),
        resize=resize,
        align=align,
        standardize=standardize,
        resample_tilt=resample_tilt,
        page=page,
        contrasts=dict(contrasts or {}),
    )


class Member(NamedTuple):
    """An image of a case.

    Attributes:
        image: where it came from.
        values: (C, *spatial), in its units.
        foreground: (1, *spatial) boolean.
    """

    image: PairImage
    values: Tensor
    foreground: Tensor


@dataclass
class Case:
    """A pair on one grid: scans with the slice axis last and oriented alike, natural images as one slice."""

    pair: Pair
    members: list[Member]
    """In the order of `Pair.images`."""
    affine: Tensor
    motions: Mapping[str, RigidTransform]
    """From the first image to each other that was aligned, by `PairImage.key`."""
    maps: Mapping[str, Tensor]
    """Lesions (boolean) and labels (int32), (1, *spatial), by their name in a prepared item."""
    digests: tuple[str, ...]
    """Fingerprint of the voxels of each image, as it was read (see `medtrace.data.fingerprint`)."""
    records: Sequence[ImageRecord] = ()
    """The appearance of each image, as it was read."""
    landmarks: Mapping[str, tuple[list[str], Tensor]] = field(default_factory=dict)
    """Names and points (N, 3), in RAS mm of the scan that they were given for, by their name in a prepared item."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the grid."""
        return tuple(self.members[0].values.shape[1:])

    @property
    def channels(self) -> int:
        """Of each image."""
        return int(self.members[0].values.shape[0])

    def of(self, side: str) -> list[Member]:
        """The images of a side."""
        return [member for member in self.members if member.image.side == side]


def read_case(
    pair: Pair,
    settings: PreparationSettings,
    natural_images: bool,
    motions: Mapping[str, RigidTransform] | None,
    columns: Sequence[str] = (),
    describe: bool = False,
) -> Case:
    """Read a pair onto the grid of its first image.

    Args:
        pair: where its files are.
        settings: how it is brought there.
        natural_images: whether these are natural images, which are neither aligned nor reoriented.
        motions: from the first image to the others, where they are known already (see `Case.motions`).
        columns: columns of lesions and labels, which are read too.
        describe: whether `records` are wanted.

    Raises:
        FileNotFoundError, ValueError: if a file cannot be used; the message names it.
    """
    images = pair.images
    scans = [
        read_image(image.path, image.series, page=settings.page, resample_tilt=settings.resample_tilt)
        for image in images
    ]
    digests = tuple(fingerprint(as_tensor(scan)) for scan in scans)
    _check_apart(pair, scans)
    _check_channels(pair, scans)
    reference, path = scans[0], images[0].path
    mask = None if pair.mask is None else read_mask(pair.mask, reference, path)
    if natural_images or not settings.align:
        for image, scan in zip(images[1:], scans[1:]):
            check_same_grid(scan, image.path, reference, path)
    records = _records(pair, settings, natural_images, scans, digests) if describe else ()
    sides = {side: next(((s, i.path) for i, s in zip(images, scans) if i.side == side), None) for side in SIDES}
    maps: dict[str, Any] = dict(read_maps(pair, columns, sides))
    landmarks = _landmarks(pair, sides)
    if natural_images:
        case = _natural_image_case(pair, settings, scans, mask, maps, digests)
        return replace(case, landmarks=landmarks, records=records)
    members, result = [], {}
    for image, scan in zip(images, scans):
        contrast = settings.contrasts.get(image.contrast)
        check_declared(image.path, as_tensor(scan), contrast)
        if describe:
            doubt_units(image.path, as_tensor(scan), contrast)
        with naming(image.path):
            scan = in_corrected_intensities(scan, contrast)
        reference = scan if image is images[0] else reference
        tissue, moved = find_foreground(scan, contrast), as_tensor(scan)
        if settings.align and image is not images[0]:
            known = None if motions is None else motions.get(image.key)
            moved, tissue, motion = onto_reference((image.path, path), scan, reference, tissue, mask, known)
            result[image.key] = motion
        members.append(Member(image, moved, tissue if mask is None else mask))
    if "target" in result:
        onto = {name: labels for name, labels in maps.items() if name.startswith("target")}
        maps |= {name: moved_labels(labels, reference, result["target"]) for name, labels in onto.items()}
    case = Case(pair, members, reference.affine, result, entries_of(maps), digests)
    return replace(_oriented(case, settings), landmarks=landmarks, records=records)


def _records(
    pair: Pair, settings: PreparationSettings, natural_images: bool, scans: Sequence[MetaTensor], digests: Sequence[str]
) -> tuple[ImageRecord, ...]:
    return tuple(
        ImageRecord.of(
            scan, scan.affine, image.contrast, settings.contrasts.get(image.contrast), natural_images, digest
        )
        for image, scan, digest in zip(pair.images, scans, digests)
    )


def _check_apart(pair: Pair, scans: Sequence[MetaTensor]) -> None:
    """Check that no two images of a pair hold the same voxels in one place."""
    for (first, one), (second, other) in combinations(zip(pair.images, scans), 2):
        if torch.equal(as_tensor(one), as_tensor(other)) and Grid.of(one).coincides(Grid.of(other)):
            named = [f"{image.side} {image.contrast}" if pair.several else image.side for image in (first, second)]
            remedy = "give each its own image" if pair.several else "give the image before and the one after"
            raise ValueError(
                f"{pair.origin or pair.name}: {' and '.join(named)} hold the same voxels ({first.path}, {second.path}),"
                f" so nothing could be learned; {remedy}"
            )


def _check_channels(pair: Pair, scans: Sequence[MetaTensor]) -> None:
    """Check that images have as many channels as the first one, and one each where a side has several images."""
    first = pair.images[0]
    for image, scan in zip(pair.images, scans):
        if pair.several and scan.shape[0] != 1:
            raise ValueError(
                f"{image.path}: expected one channel, since the pair has several images, received {scan.shape[0]};"
                " convert it"
            )
        if scan.shape[0] != scans[0].shape[0]:
            raise ValueError(
                f"{image.path}: expected {scans[0].shape[0]} channel(s) as in {first.path}, received {scan.shape[0]};"
                " convert one of them"
            )


def _landmarks(pair: Pair, sides: Mapping[str, tuple[MetaTensor, Path] | None]) -> dict[str, tuple[list[str], Tensor]]:
    """Landmarks of either side, each checked to be on its first image."""
    result = {}
    for side, first in sides.items():
        path = getattr(pair, f"{side}_landmarks")
        if path is not None and first is not None:
            image, image_path = first
            grid = Grid((*image.shape[1:], 1)[:3], image.affine)
            result[f"{side}_landmarks"] = read_landmarks(path, pair.landmark_space, ImageGrid(grid, image_path))
    return result


def _natural_image_case(
    pair: Pair,
    settings: PreparationSettings,
    natural_images: Sequence[MetaTensor],
    mask: Tensor | None,
    maps: Mapping[str, Tensor],
    digests: tuple[str, ...],
) -> Case:
    if settings.spatial_dims == 3:
        raise ValueError(f"{pair.first.path}: is a natural image; prepare natural images with spatial_dims=2")
    flat = [as_tensor(natural_image)[..., None] for natural_image in natural_images]
    inside = torch.ones_like(flat[0][:1], dtype=torch.bool) if mask is None else mask[..., None]
    flat_maps = entries_of({name: as_tensor(values)[..., None] for name, values in maps.items()})
    members = [Member(image, values, inside) for image, values in zip(pair.images, flat)]
    return Case(pair, members, natural_images[0].affine, {}, flat_maps, digests)


def _oriented(case: Case, settings: PreparationSettings) -> Case:
    """Reorient all of a case, and bring it to the wanted voxel size."""
    slice_axis = settings.axis.index if settings.spatial_dims == 2 else None
    plan = Reorientation.to_ras(case.affine, case.shape, slice_axis)
    affine = plan.affine(case.affine)
    members = [Member(m.image, plan.apply(m.values), plan.apply(m.foreground)) for m in case.members]
    maps = {name: plan.apply(as_tensor(labels)) for name, labels in case.maps.items()}
    if settings.spacing is not None:
        own_shape = tuple(members[0].values.shape[1:])
        shape = shape_at_spacing(own_shape, spacing_of(affine), in_plane_first(settings.spacing, slice_axis))
        members = [Member(m.image, resize(m.values, shape), resize(m.foreground.float(), shape) > 0.5) for m in members]
        maps = {name: resize_labels(labels, shape) for name, labels in maps.items()}
        affine = resized_affine(affine, own_shape, shape)
    return Case(case.pair, members, affine, case.motions, maps, case.digests)


def in_plane_first(values: Sequence[Any], slice_axis: int | None) -> tuple[Any, ...]:
    """From right-left, front-back, up-down to the order of `Reorientation`."""
    if slice_axis is None:
        return tuple(values)
    return (*(value for axis, value in enumerate(values) if axis != slice_axis), values[slice_axis])


def onto_reference(
    names: tuple[Path, Path],
    image: MetaTensor,
    reference: MetaTensor,
    tissue: Tensor,
    mask: Tensor | None = None,
    motion: RigidTransform | None = None,
) -> tuple[Tensor, Tensor, RigidTransform]:
    """An image and its tissue on the grid of another, and the motion to it (sought if not known).

    The tissue is moved separately: interpolation gives the image a rim of half intensities that are not tissue.

    Args:
        names: files of the two, for messages.
        image: (C, *spatial).
        reference: (C', *spatial), which stays.
        tissue: (1, *spatial) boolean, of the image.
        mask: likewise of the reference, where the motion is sought.
        motion: from the reference to the image.

    Raises:
        ValueError: if the images cannot be aligned.
    """
    # Where zero is background, nothing else may come in from outside the target.
    alignment = RigidAlignment(fill=None if bool(tissue.all()) else 0.0)
    images = [image, reference, MetaTensor(tissue.float(), affine=image.affine)]
    flat = reference.shape[-1] == image.shape[-1] == 1
    if flat:
        images = [MetaTensor(as_tensor(one)[..., 0], affine=one.affine) for one in images]
        mask = None if mask is None else mask[..., 0]
    moving, fixed, moving_tissue = images
    try:
        if motion is None:
            labels = (str(names[0]), str(names[1]))
            motion = alignment.estimate(moving, fixed, fixed_mask=mask, names=labels)
        moved = as_tensor(alignment.apply(moving, fixed, motion))
        inside = as_tensor(RigidAlignment(fill=0.0).apply(moving_tissue, fixed, motion)) > 0.5
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"rigid alignment: {error}; or prepare without alignment") from error
    return (moved[..., None], inside[..., None], motion) if flat else (moved, inside, motion)


def moved_labels(labels: MetaTensor, source: MetaTensor, motion: RigidTransform) -> Tensor:
    """Labels of the target on the source's grid, each voxel from the nearest."""
    flat = source.shape[-1] == labels.shape[-1] == 1
    fixed = source
    if flat:
        labels = MetaTensor(as_tensor(labels)[..., 0], affine=labels.affine)
        fixed = MetaTensor(as_tensor(source)[..., 0], affine=source.affine)
    moved = as_tensor(RigidAlignment(mode="nearest", fill=0.0).apply(labels, fixed, motion))
    return moved[..., None] if flat else moved


def check_depth(case: Case, settings: PreparationSettings, natural_image: bool) -> None:
    """Check that a scan has the slices that are wanted of it."""
    if natural_image or settings.spatial_dims == 3:
        return
    depth = case.shape[-1]
    if settings.crop is not None:
        size = in_plane_first(settings.crop, settings.axis.index)[2]
        depth = size if settings.pad else min(depth, size)
    if depth < settings.slices:
        raise ValueError(
            f"{case.pair.first.path}: has {depth} {settings.axis} slice(s), but {settings.slices} were requested;"
            " request fewer"
        )


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the file into a message about its voxels."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
