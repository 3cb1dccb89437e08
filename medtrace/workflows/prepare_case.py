"""Read one pair onto one grid: aligned, oriented, of one voxel size; intensities untouched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.data import MetaTensor
from torch import Tensor

from medtrace.checks import check_choice, check_positive
from medtrace.data.grids import Reorientation, resize, resized_affine, shape_at_spacing, spacing_of
from medtrace.data.layouts import Pair
from medtrace.data.preparation import Axis, find_foreground
from medtrace.data.reading import check_same_grid, read_image, read_mask
from medtrace.objectives import plain
from medtrace.transforms import RigidAlignment, RigidMotion


@dataclass(frozen=True)
class Settings:
    spatial_dims: int
    slices: int
    axis: Axis
    crop: tuple[int, int, int] | None
    pad: bool
    spacing: tuple[float, float, float] | None
    resize: int | None
    align: bool
    standardize: bool


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
) -> Settings:
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
    return Settings(
        spatial_dims=spatial_dims,
        slices=slices,
        axis=Axis(axis),
        crop=None if crop is None else (int(crop[0]), int(crop[1]), int(crop[2])),
        pad=pad,
        spacing=None if spacing is None else (float(spacing[0]), float(spacing[1]), float(spacing[2])),
        resize=resize,
        align=align,
        standardize=standardize,
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
    rigid: RigidMotion | None


def read_case(pair: Pair, settings: Settings, pictures: bool, rigid: RigidMotion | None) -> Case:
    source, target = read_image(pair.source), read_image(pair.target)
    if source.shape[0] != target.shape[0]:
        raise ValueError(
            f"{pair.target}: expected {source.shape[0]} channel(s) as {pair.source}, received {target.shape[0]};"
            " convert one of them"
        )
    mask = None if pair.mask is None else read_mask(pair.mask, source, pair.source)
    if pictures:
        if settings.spatial_dims == 3:
            raise ValueError(f"{pair.source}: is a picture; prepare pictures with spatial_dims=2")
        check_same_grid(target, pair.target, source, pair.source)
        pictured = [plain(image)[..., None] for image in (source, target)]
        everywhere = torch.ones_like(pictured[0][:1], dtype=torch.bool) if mask is None else mask[..., None]
        return Case(pair, pictured[0], pictured[1], everywhere, everywhere, source.affine, None)
    inside = [find_foreground(source), find_foreground(target)] if mask is None else [mask, mask]
    moved, tissue = plain(target), inside[1]
    if settings.align:
        moved, moved_tissue, rigid = _align(pair, source, target, find_foreground(target), mask, rigid)
        tissue = moved_tissue if mask is None else mask
    else:
        check_same_grid(target, pair.target, source, pair.source)
    slice_axis = settings.axis.index if settings.spatial_dims == 2 else None
    plan = Reorientation.to_ras(source.affine, source.shape[1:], slice_axis)
    affine = plan.affine(source.affine)
    volumes = [plan.apply(image) for image in (plain(source), moved)]
    inside = [plan.apply(region) for region in (inside[0], tissue)]
    if settings.spacing is not None:
        wanted = in_plane_first(settings.spacing, slice_axis)
        shape = shape_at_spacing(volumes[0].shape[1:], spacing_of(affine), wanted)
        inside = [resize(region.float(), shape) > 0.5 for region in inside]
        affine, volumes = resized_affine(affine, volumes[0].shape[1:], shape), [resize(v, shape) for v in volumes]
    return Case(pair, volumes[0], volumes[1], inside[0], inside[1], affine, rigid)


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
    motion: RigidMotion | None,
) -> tuple[Tensor, Tensor, RigidMotion]:
    """The target and its tissue on the source's grid, and the motion from source to target (sought if not known).

    The tissue moves on its own: interpolation gives the target a rim of half intensities that are no tissue.
    """
    # Where zero is background, nothing else may come in from outside of the target.
    alignment = RigidAlignment(fill=None if bool(tissue.all()) else 0.0)
    images = [target, source, MetaTensor(tissue.float(), affine=target.affine)]
    flat = source.shape[-1] == target.shape[-1] == 1
    if flat:
        images = [MetaTensor(plain(image)[..., 0], affine=image.affine) for image in images]
        mask = None if mask is None else mask[..., 0]
    moving, fixed, moving_tissue = images
    try:
        if motion is None:
            names = (str(pair.target), str(pair.source))
            motion = alignment.estimate(moving, fixed, fixed_mask=mask, names=names)
        moved = plain(alignment.apply(moving, fixed, motion))
        inside = plain(RigidAlignment(fill=0.0).apply(moving_tissue, fixed, motion)) > 0.5
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"rigid alignment: {error}; or prepare without alignment") from error
    return (moved[..., None], inside[..., None], motion) if flat else (moved, inside, motion)
