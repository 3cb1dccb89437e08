"""Read one pair onto one grid: aligned, oriented, of one voxel size; intensities untouched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medtrace.checks import check_choice, check_positive
from medtrace.data.grids import Reorientation, resize, resized_affine, shape_at_spacing, spacing_of
from medtrace.data.layouts import Pair
from medtrace.data.preparation import Axis
from medtrace.data.reading import check_same_grid, read_image, read_mask
from medtrace.fields import identity_grid, sample


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
    foreground: Tensor | None
    affine: Tensor
    rigid: Tensor | None


def read_case(pair: Pair, settings: Settings, pictures: bool, rigid: Tensor | None) -> Case:
    source, target = read_image(pair.source), read_image(pair.target)
    if source.shape[0] != target.shape[0]:
        raise ValueError(
            f"{pair.target}: expected {source.shape[0]} channel(s) as {pair.source}, received {target.shape[0]};"
            " convert one of them"
        )
    if pictures:
        if settings.spatial_dims == 3:
            raise ValueError(f"{pair.source}: is a picture; prepare pictures with spatial_dims=2")
        check_same_grid(target, pair.target, source, pair.source)
        mask = None if pair.mask is None else read_mask(pair.mask, source, pair.source)
        return Case(
            pair,
            source=source.as_tensor()[..., None],
            target=target.as_tensor()[..., None],
            foreground=None if mask is None else mask[..., None],
            affine=source.affine,
            rigid=None,
        )
    mask = None if pair.mask is None else read_mask(pair.mask, source, pair.source)
    if settings.align:
        if rigid is None:
            rigid = _align(pair, source, target)
        moved = _resample(target.as_tensor(), target.affine, source.shape[1:], source.affine, rigid)
    else:
        check_same_grid(target, pair.target, source, pair.source)
        moved = target.as_tensor()
    slice_axis = settings.axis.index if settings.spatial_dims == 2 else None
    plan = Reorientation.to_ras(source.affine, source.shape[1:], slice_axis)
    affine = plan.affine(source.affine)
    volumes = [plan.apply(source.as_tensor()), plan.apply(moved)]
    inside = None if mask is None else plan.apply(mask)
    if settings.spacing is not None:
        wanted = in_plane_first(settings.spacing, slice_axis)
        shape = shape_at_spacing(volumes[0].shape[1:], spacing_of(affine), wanted)
        inside = None if inside is None else resize(inside.float(), shape) > 0.5
        affine, volumes = resized_affine(affine, volumes[0].shape[1:], shape), [resize(v, shape) for v in volumes]
    return Case(pair, volumes[0], volumes[1], inside, affine, rigid)


def in_plane_first(values: Sequence[Any], slice_axis: int | None) -> tuple[Any, ...]:
    """From right-left, front-back, up-down to the order of `Reorientation`."""
    if slice_axis is None:
        return tuple(values)
    return (*(value for axis, value in enumerate(values) if axis != slice_axis), values[slice_axis])


def _align(pair: Pair, source: Tensor, target: Tensor) -> Tensor:
    """Rigid motion from points of the source to points of the target, (4, 4), RAS mm."""
    from medtrace.transforms import RigidAlignment

    try:
        return RigidAlignment()(target, source)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"{pair.target}: could not be aligned to {pair.source} ({error}); check that both show the same subject, or"
            " prepare without alignment"
        ) from error


def _resample(image: Tensor, affine: Tensor, shape: Sequence[int], onto: Tensor, motion: Tensor) -> Tensor:
    """Image read on another grid through a motion of points (RAS mm); 0 outside of it."""
    to_image = torch.linalg.solve(affine.double(), motion.double() @ onto.double())
    points = identity_grid(shape).reshape(3, -1).double()
    points = to_image[:3, :3] @ points + to_image[:3, 3:]
    voxels = points.float().reshape(1, 3, *shape)
    return sample(image[None], voxels, padding_mode="zeros")[0]
