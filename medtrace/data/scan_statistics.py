"""A few numbers that say what an image looks like, by which images of one population are alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from medtrace.data.contrasts import body_of
from medtrace.data.preparation.intensity import find_foreground, without_metadata
from medtrace.geometry.resampling import Reorientation, resize, spacing_of
from medtrace.trace.contrast import HU, Contrast
from medtrace.transforms.two_means import two_means

LEVELS = (10.0, 25.0, 50.0, 75.0, 90.0)
"""Percentiles of the body between its ends."""
ENDS = (2.0, 98.0)
"""Percentiles of the body that count as its darkest and brightest."""
WORKING_MM = 3.0
"""Voxel size at which a scan is looked at: averages, so that noise does not count."""
DEPTHS_MM = (0.0, 5.0, 10.0, 20.0, 35.0)
"""Starts of the ranges of depth below the surface; the last range has no end."""
RIM_MM = (3.0, 15.0)
"""Depth below the surface where a head has its skull."""
BONE = 300.0
"""HU from which a voxel counts as bone."""
TRIMMED = 0.01
"""Fraction of the body beyond each end of its extent along an axis: specks do not count."""


@dataclass(frozen=True)
class ScanStatistics:
    """The appearance of an image.

    Attributes:
        limits: percentiles 2 and 98 of the body, in the image's units.
        levels: percentiles 10, 25, 50, 75 and 90 of the body, where `limits` are 0 and 1.
        profile: mean of the body at growing depths below its surface, likewise; empty of natural images.
        extent_mm: of the body right-left, front-back and up-down in mm; empty of natural images.
        spacing_mm: voxel size, likewise.
        rim: fraction of what is as dark as the background 3 to 15 mm below the body's surface (of a CT, as bright as
            bone): the skull. None of natural images, single slices, and where nothing lies so deep.
        zero_background: whether the background is exactly 0, as in masked scans.
        channels: channels of the image.
    """

    limits: tuple[float, float]
    levels: tuple[float, ...]
    profile: tuple[float, ...] = ()
    extent_mm: tuple[float, ...] = ()
    spacing_mm: tuple[float, ...] = ()
    rim: float | None = None
    zero_background: bool = False
    channels: int = 1

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ScanStatistics:
        """Of what `as_dict` gave.

        Raises:
            TypeError: if an entry is missing or unknown.
        """
        settings: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**settings)


def natural_image_statistics(image: Tensor) -> ScanStatistics:
    """The appearance of a photograph or a section.

    Args:
        image: (C, *spatial), in the file's values.
    """
    values = without_metadata(image).float().mean(0).numpy().astype(np.float64)
    limits, levels = _histogram(values.ravel())
    return ScanStatistics(limits, levels, channels=len(image))


def scan_statistics(image: Tensor, affine: Tensor, contrast: Contrast | None = None) -> ScanStatistics:
    """The appearance of a scan.

    Args:
        image: (C, H, W, D), in its units.
        affine: (4, 4), voxel to RAS mm.
        contrast: what its numbers mean, where that is known.
    """
    image = without_metadata(image).float()
    plan = Reorientation.to_ras(affine, tuple(image.shape[1:]), None)
    spacing = tuple(float(size) for size in spacing_of(plan.affine(affine)))
    zero = not bool(find_foreground(image, contrast).all())
    mean = plan.apply(image.mean(0, keepdim=True))
    shape = tuple(
        max(1, round(size * step / WORKING_MM)) if step < WORKING_MM else size
        for size, step in zip(mean.shape[1:], spacing)
    )
    small = resize(mean, shape)[0].cpu().numpy().astype(np.float64)
    steps = tuple(size * step / new for size, step, new in zip(mean.shape[1:], spacing, shape))
    ct = contrast is not None and contrast.unit == HU
    body, dark = _body(small, ct)
    limits, levels = _histogram(small[body])
    depth = ndimage.distance_transform_edt(np.pad(body, ((1, 1), (1, 1), (0, 0))), sampling=steps)[1:-1, 1:-1]
    return ScanStatistics(
        limits,
        levels,
        _profile(small, depth, limits),
        _extent(body, steps),
        spacing,
        _rim(dark, depth),
        zero,
        channels=len(image),
    )


def _histogram(values: np.ndarray) -> tuple[tuple[float, float], tuple[float, ...]]:
    low, *levels, high = np.percentile(values, (ENDS[0], *LEVELS, ENDS[1]))
    span = (high - low) or 1.0
    return (float(low), float(high)), tuple(round(float((level - low) / span), 4) for level in levels)


def _body(values: np.ndarray, ct: bool) -> tuple[np.ndarray, np.ndarray]:
    """The body with its cavities filled, and where it is as dark as the background (in a CT, as bright as bone)."""
    if ct:
        return body_of(torch.from_numpy(values)[None])[0].numpy(), values > BONE
    high = np.percentile(values, 99.5)
    bright = values > two_means(np.clip(np.round(values / (high or 1.0), 3), 0, 1)).threshold * (high or 1.0) / 2
    parts, count = ndimage.label(bright)
    largest = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:])) if count else np.ones_like(bright)
    closed = ndimage.binary_closing(np.pad(largest, 4), iterations=3)[(slice(4, -4),) * values.ndim]
    filled = np.stack([ndimage.binary_fill_holes(plane) for plane in np.moveaxis(closed, 2, 0)], axis=2)
    return filled, ~bright


def _extent(body: np.ndarray, steps: tuple[float, ...]) -> tuple[float, ...]:
    result = []
    for axis, step in enumerate(steps):
        along = body.sum(tuple(other for other in range(3) if other != axis)).cumsum() / body.sum()
        inside = np.flatnonzero((along >= TRIMMED) & (along - np.diff(along, prepend=0) <= 1 - TRIMMED))
        result.append(round(float(step * len(inside)), 1))
    return tuple(result)


def _profile(values: np.ndarray, depth: np.ndarray, limits: tuple[float, float]) -> tuple[float, ...]:
    scaled = np.clip((values - limits[0]) / ((limits[1] - limits[0]) or 1.0), 0, 1)
    means = np.array(
        [
            scaled[shell].mean() if (shell := (depth > start) & (depth <= stop)).any() else np.nan
            for start, stop in zip(DEPTHS_MM, (*DEPTHS_MM[1:], np.inf))
        ]
    )
    known = np.flatnonzero(np.isfinite(means))  # voxels may be thicker than a shell, a body thinner than the last
    return tuple(round(float(value), 4) for value in np.interp(np.arange(len(means)), known, means[known]))


def _rim(dark: np.ndarray, depth: np.ndarray) -> float | None:
    rim = (depth > RIM_MM[0]) & (depth <= RIM_MM[1])
    return round(float(dark[rim].mean()), 4) if min(depth.shape) > 1 and rim.any() else None
