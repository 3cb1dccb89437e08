"""Read one pair onto one grid: aligned, oriented, of one voxel size; intensities untouched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from torch import Tensor

from medtrace.checks import check_choice, check_positive
from medtrace.data.contrasts import check_declared
from medtrace.data.fingerprint import fingerprint
from medtrace.data.landmarks.points import ImageGrid, read_landmarks
from medtrace.data.lists.layouts import Pair
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
    """What the numbers of each contrast mean, as declared."""


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
            raise ValueError(f"{name}: expected three numbers above 0 (right-left, front-back, up-down), got {values}")
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


@dataclass
class Case:
    """A pair on one grid: scans with the slice axis last and oriented alike, pictures as one slice."""

    pair: Pair
    source: Tensor
    target: Tensor
    source_foreground: Tensor
    target_foreground: Tensor
    affine: Tensor
    rigid: RigidTransform | None
    maps: Mapping[str, Tensor]
    """Lesions (boolean) and labels (int32), (1, *spatial), by their name in a prepared item."""
    digests: tuple[str, str]
    """Of the voxels of source and target, as they were read (see `medtrace.data.fingerprint`)."""
    records: Sequence[ImageRecord] = ()
    """What source and target look like, as they were read."""
    landmarks: Mapping[str, tuple[list[str], Tensor]] = field(default_factory=dict)
    """Names and points (N, 3), in RAS mm of the scan that they were given for, by their name in a prepared item."""


def read_case(
    pair: Pair,
    settings: PreparationSettings,
    pictures: bool,
    rigid: RigidTransform | None,
    columns: Sequence[str] = (),
    describe: bool = False,
) -> Case:
    """Read a pair onto the source's grid.

    Args:
        pair: where it lies.
        settings: how it is brought there.
        pictures: whether these are pictures, which are neither aligned nor reoriented.
        rigid: the motion from source to target where it is known already.
        columns: of lesions and labels, which are read too.
        describe: whether `records` are wanted.

    Raises:
        FileNotFoundError, ValueError: if a file cannot be used; the message names it.
    """
    source, target = (
        read_image(path, series, page=settings.page, resample_tilt=settings.resample_tilt)
        for path, series in ((pair.source, pair.source_series), (pair.target, pair.target_series))
    )
    digests = fingerprint(as_tensor(source)), fingerprint(as_tensor(target))
    if torch.equal(as_tensor(source), as_tensor(target)) and Grid.of(source).coincides(Grid.of(target)):
        raise ValueError(
            f"{pair.origin or pair.name}: source and target hold the same voxels ({pair.source}, {pair.target}), so"
            " that nothing could be learned; give the image before and the one after"
        )
    if source.shape[0] != target.shape[0]:
        raise ValueError(
            f"{pair.target}: expected {source.shape[0]} channel(s) as {pair.source}, received {target.shape[0]};"
            " convert one of them"
        )
    mask = None if pair.mask is None else read_mask(pair.mask, source, pair.source)
    if pictures or not settings.align:
        check_same_grid(target, pair.target, source, pair.source)
    records = _records(pair, settings, pictures, source, target, digests) if describe else ()
    maps: dict[str, Any] = dict(read_maps(pair, columns, source, target))
    landmarks = _landmarks(pair, source, target)
    if pictures:
        case = _picture_case(pair, settings, source, target, mask, maps, digests)
        return replace(case, landmarks=landmarks, records=records)
    meanings = [settings.contrasts.get(name) for name in (pair.contrast, pair.target_contrast)]
    for path, image, contrast in zip((pair.source, pair.target), (source, target), meanings):
        check_declared(path, as_tensor(image), contrast)
    tissue = [find_foreground(image, contrast) for image, contrast in zip((source, target), meanings)]
    moved = as_tensor(target)
    if settings.align:
        moved, tissue[1], rigid = _align(pair, source, target, tissue[1], mask, rigid)
        onto = {name: labels for name, labels in maps.items() if name.startswith("target")}
        maps |= {name: _moved_labels(labels, source, rigid) for name, labels in onto.items()}
    if mask is not None:
        tissue = [mask, mask]
    case = Case(pair, as_tensor(source), moved, tissue[0], tissue[1], source.affine, rigid, entries_of(maps), digests)
    return replace(_oriented(case, settings), landmarks=landmarks, records=records)


def _records(
    pair: Pair,
    settings: PreparationSettings,
    pictures: bool,
    source: MetaTensor,
    target: MetaTensor,
    digests: tuple[str, str],
) -> tuple[ImageRecord, ...]:
    names = (pair.contrast, pair.target_contrast)
    return tuple(
        ImageRecord.of(image, image.affine, name, settings.contrasts.get(name), pictures, digest)
        for image, name, digest in zip((source, target), names, digests)
    )


def _landmarks(pair: Pair, source: MetaTensor, target: MetaTensor) -> dict[str, tuple[list[str], Tensor]]:
    """Landmarks of either scan, each checked to lie on it."""
    found = {}
    for name, path, image, image_path in (
        ("source_landmarks", pair.source_landmarks, source, pair.source),
        ("target_landmarks", pair.target_landmarks, target, pair.target),
    ):
        if path is not None:
            grid = Grid((*image.shape[1:], 1)[:3], image.affine)
            found[name] = read_landmarks(path, pair.landmark_space, ImageGrid(grid, image_path))
    return found


def _picture_case(
    pair: Pair,
    settings: PreparationSettings,
    source: MetaTensor,
    target: MetaTensor,
    mask: Tensor | None,
    maps: Mapping[str, Tensor],
    digests: tuple[str, str],
) -> Case:
    if settings.spatial_dims == 3:
        raise ValueError(f"{pair.source}: is a picture; prepare pictures with spatial_dims=2")
    before, after = (as_tensor(image)[..., None] for image in (source, target))
    inside = torch.ones_like(before[:1], dtype=torch.bool) if mask is None else mask[..., None]
    flat = entries_of({name: as_tensor(values)[..., None] for name, values in maps.items()})
    return Case(pair, before, after, inside, inside, source.affine, None, flat, digests)


def _oriented(case: Case, settings: PreparationSettings) -> Case:
    """Reorient all of a case, and bring it to the wanted voxel size."""
    slice_axis = settings.axis.index if settings.spatial_dims == 2 else None
    own_shape = case.source.shape[1:]
    plan = Reorientation.to_ras(case.affine, own_shape, slice_axis)
    affine = plan.affine(case.affine)
    images = [plan.apply(image) for image in (case.source, case.target)]
    tissue = [plan.apply(region) for region in (case.source_foreground, case.target_foreground)]
    maps = {name: plan.apply(as_tensor(labels)) for name, labels in case.maps.items()}
    if settings.spacing is not None:
        own_shape = images[0].shape[1:]
        shape = shape_at_spacing(own_shape, spacing_of(affine), in_plane_first(settings.spacing, slice_axis))
        images = [resize(image, shape) for image in images]
        tissue = [resize(region.float(), shape) > 0.5 for region in tissue]
        maps = {name: resize_labels(labels, shape) for name, labels in maps.items()}
        affine = resized_affine(affine, own_shape, shape)
    return Case(case.pair, images[0], images[1], tissue[0], tissue[1], affine, case.rigid, maps, case.digests)


def in_plane_first(values: Sequence[Any], slice_axis: int | None) -> tuple[Any, ...]:
    """From right-left, front-back, up-down to the order of `Reorientation`."""
    if slice_axis is None:
        return tuple(values)
    return (*(value for axis, value in enumerate(values) if axis != slice_axis), values[slice_axis])


def _align(
    pair: Pair,
    source: MetaTensor,
    target: MetaTensor,
    tissue: Tensor,
    mask: Tensor | None,
    motion: RigidTransform | None,
) -> tuple[Tensor, Tensor, RigidTransform]:
    """The target and its tissue on the source's grid, and the motion from source to target (sought if not known).

    The tissue moves on its own: interpolation gives the target a rim of half intensities that are no tissue.
    """
    # Where zero is background, nothing else may come in from outside of the target.
    alignment = RigidAlignment(fill=None if bool(tissue.all()) else 0.0)
    images = [target, source, MetaTensor(tissue.float(), affine=target.affine)]
    flat = source.shape[-1] == target.shape[-1] == 1
    if flat:
        images = [MetaTensor(as_tensor(image)[..., 0], affine=image.affine) for image in images]
        mask = None if mask is None else mask[..., 0]
    moving, fixed, moving_tissue = images
    try:
        if motion is None:
            names = (str(pair.target), str(pair.source))
            motion = alignment.estimate(moving, fixed, fixed_mask=mask, names=names)
        moved = as_tensor(alignment.apply(moving, fixed, motion))
        inside = as_tensor(RigidAlignment(fill=0.0).apply(moving_tissue, fixed, motion)) > 0.5
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"rigid alignment: {error}; or prepare without alignment") from error
    return (moved[..., None], inside[..., None], motion) if flat else (moved, inside, motion)


def _moved_labels(labels: MetaTensor, source: MetaTensor, motion: RigidTransform) -> Tensor:
    """Labels of the target on the source's grid, each voxel from the nearest."""
    flat = source.shape[-1] == labels.shape[-1] == 1
    fixed = source
    if flat:
        labels = MetaTensor(as_tensor(labels)[..., 0], affine=labels.affine)
        fixed = MetaTensor(as_tensor(source)[..., 0], affine=source.affine)
    moved = as_tensor(RigidAlignment(mode="nearest", fill=0.0).apply(labels, fixed, motion))
    return moved[..., None] if flat else moved


def members(case: Case) -> list[tuple[Path, Tensor, str, Tensor]]:
    """File, image, contrast and foreground of the source and of the target."""
    pair = case.pair
    return [
        (pair.source, case.source, pair.contrast, case.source_foreground),
        (pair.target, case.target, pair.target_contrast, case.target_foreground),
    ]


def check_depth(case: Case, settings: PreparationSettings, picture: bool) -> None:
    """Check that a scan has the slices that are wanted of it."""
    if picture or settings.spatial_dims == 3:
        return
    depth = case.source.shape[-1]
    if settings.crop is not None:
        size = in_plane_first(settings.crop, settings.axis.index)[2]
        depth = size if settings.pad else min(depth, size)
    if depth < settings.slices:
        raise ValueError(
            f"{case.pair.source}: has {depth} {settings.axis} slice(s), of which {settings.slices} are wanted; ask for"
            " fewer"
        )


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the file into a message about its voxels."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
