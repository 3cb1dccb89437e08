"""Rigid registration of two SimpleITK images: a coarse-to-fine search by Mattes mutual information."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk

from medtrace.registration.independent_registration import one_thread

from .geometry import Array

# A level needs this many voxels along its longest axes to locate the content.
_SMALLEST_GRID = 16


@dataclass(frozen=True)
class Search:
    """Settings of the search; lengths are in mm.

    Attributes:
        levels: shrink factors of the levels, coarse to fine, in units of the finer image's smallest voxel edge.
        bins: bins of the joint histogram.
        samples: maximum number of voxels that the metric reads; sampled with `seed` if a level has more.
        iterations: maximum number of steps at each level.
        seed: seed of the samples, at least 1.
    """

    levels: tuple[int, ...] = (8, 4, 2, 1)
    bins: int = 32
    samples: int = 60_000
    iterations: int = 200
    seed: int = 1


@dataclass(frozen=True)
class Match:
    """The result of the search: the point map from fixed to moving, its mutual information (nats), and the stop."""

    transform: Any
    mutual_information: float
    iterations: int
    stop: str


def match_rigidly(
    fixed: Any, moving: Any, fixed_mask: Any, moving_mask: Any, starts: list[Any], search: Search
) -> Match:
    """Estimate the rigid transform that maximizes mutual information.

    Every start is followed at the coarsest level, and the best continues through the finer ones. With one thread and
    seeded samples, two runs give identical bytes. Mattes et al. 2003; optimizer: regular-step gradient descent, whose
    steps are millimeters of shift.

    Args:
        fixed: SimpleITK image, 2D or 3D, float32.
        moving: SimpleITK image of the same dimension.
        fixed_mask: SimpleITK uint8 image or None; voxels of `fixed` that are read.
        moving_mask: likewise of `moving`.
        starts: Euler transforms to start from.
        search: the settings.

    Returns:
        The best match.

    Raises:
        RuntimeError: if no start leaves an overlap.
    """
    edge = min(min(fixed.GetSpacing()), min(moving.GetSpacing()))
    levels = [level for level in search.levels if _wide_enough(fixed, level * edge)] or [search.levels[-1]]
    candidates = [sitk.Transform(start) for start in starts]
    scales = _scales(fixed, fixed_mask)
    match: Match | None = None
    for number, level in enumerate(levels):
        coarse_fixed, coarse_moving = _shrunk(fixed, level * edge), _shrunk(moving, level * edge)
        finest = number == len(levels) - 1
        matches = [
            _descend(
                coarse_fixed,
                coarse_moving,
                fixed_mask,
                moving_mask,
                start,
                scales,
                search,
                level * edge,
                finest,
            )
            for start in candidates
        ]
        found = [one for one in matches if one is not None]
        if not found:
            raise RuntimeError("no start leaves an overlap of the two images")
        match = max(found, key=lambda one: one.mutual_information)
        candidates = [match.transform]
    assert match is not None
    return match


def _descend(
    fixed: Any,
    moving: Any,
    fixed_mask: Any,
    moving_mask: Any,
    start: Any,
    scales: list[float],
    search: Search,
    spacing: float,
    finest: bool,
) -> Match | None:
    """Gradient descent at one level; None if the start leaves no overlap."""
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(search.bins)
    voxels = int(np.prod(fixed.GetSize()))
    if voxels > search.samples:
        method.SetMetricSamplingStrategy(method.REGULAR)
        method.SetMetricSamplingPercentage(search.samples / voxels, search.seed)
    if fixed_mask is not None:
        method.SetMetricFixedMask(fixed_mask)
    if moving_mask is not None:
        method.SetMetricMovingMask(moving_mask)
    method.MetricUseFixedImageGradientFilterOff()
    method.MetricUseMovingImageGradientFilterOff()
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=spacing,
        minStep=1e-3 if finest else 0.02 * spacing,
        numberOfIterations=search.iterations,
        relaxationFactor=0.5,
        gradientMagnitudeTolerance=1e-8,
    )
    method.SetOptimizerScales(scales)
    transform = sitk.Transform(start).Downcast()
    method.SetInitialTransform(transform, inPlace=True)
    try:
        with one_thread():
            method.Execute(fixed, moving)
    except RuntimeError:
        return None
    return Match(
        transform,
        -method.GetMetricValue(),
        method.GetOptimizerIteration(),
        method.GetOptimizerStopConditionDescription(),
    )


def starting_points(fixed: Any, moving: Any, fixed_mask: Any, moving_mask: Any, initial: str) -> list[Any]:
    """Euler transforms about the fixed content's center, with the shifts that `initial` names.

    "identity" trusts the affines, "geometry" brings the grids' centers together, "moments" the centers of the
    content; "auto" is all three, without near duplicates.
    """
    center, target = _centroid(fixed, fixed_mask), _centroid(moving, moving_mask)
    shifts = {
        "identity": np.zeros(len(center)),
        "geometry": _middle(moving) - _middle(fixed),
        "moments": target - center,
    }
    near = 2 * max(fixed.GetSpacing())
    chosen: list[Array] = []
    for name in shifts if initial == "auto" else (initial,):
        if all(np.linalg.norm(shifts[name] - other) > near for other in chosen):
            chosen.append(shifts[name])
    starts = []
    for shift in chosen:
        start = sitk.Euler2DTransform() if len(center) == 2 else sitk.Euler3DTransform()
        start.SetCenter(center.tolist())
        start.SetTranslation(shift.tolist())
        starts.append(start)
    return starts


def _wide_enough(image: Any, spacing: float) -> bool:
    extents = [size * edge / spacing for size, edge in zip(image.GetSize(), image.GetSpacing())]
    result: bool = sorted(extents)[-2] >= _SMALLEST_GRID
    return result


def _shrunk(image: Any, spacing: float) -> Any:
    """The image averaged to about `spacing` along each axis that is finer, a little smoothed."""
    factors = [
        max(1, min(int(spacing / edge + 1e-6), size // 4)) for edge, size in zip(image.GetSpacing(), image.GetSize())
    ]
    small = sitk.BinShrink(image, factors) if max(factors) > 1 else image
    variances = [(0.5 * edge) ** 2 if size > 4 else 0.0 for edge, size in zip(small.GetSpacing(), small.GetSize())]
    return sitk.DiscreteGaussian(small, variance=variances, maximumKernelWidth=9)


def _middle(image: Any) -> Array:
    """Physical center of the grid."""
    return np.asarray(image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()]))


def _centroid(image: Any, mask: Any) -> Array:
    """Physical center of the intensities above the minimum, inside the mask."""
    mean, _ = _index_moments(image, mask)
    return np.asarray(image.TransformContinuousIndexToPhysicalPoint(mean.tolist()))


def _scales(image: Any, mask: Any) -> list[float]:
    """Mean square shift of the content per unit of each parameter: lever arms for the angles, 1 for the shifts.

    With these, one step of the descent moves the content as far by turning as by shifting. Scales from the grid's
    corners (SimpleITK's own) overrate turning fivefold, and the search stops before the angle is right.
    """
    _, variance = _index_moments(image, mask)
    dimension = image.GetDimension()
    axes = np.asarray(image.GetDirection()).reshape(dimension, dimension) * np.asarray(image.GetSpacing())
    spread = np.diag(axes @ np.diag(variance) @ axes.T)
    levers = [spread.sum()] if dimension == 2 else [spread.sum() - along for along in spread]
    return [max(float(lever), 1e-6) for lever in levers] + [1.0] * dimension


def _index_moments(image: Any, mask: Any) -> tuple[Array, Array]:
    """Mean and variance along each index of the intensities above the minimum, inside the mask."""
    weights = sitk.GetArrayViewFromImage(image)
    if mask is None:
        weights = weights - weights.min()
    else:
        inside = sitk.GetArrayViewFromImage(mask) > 0
        weights = np.where(inside, weights - weights[inside].min(), 0)
    mean, variance = [], []
    for axis in reversed(range(weights.ndim)):
        others = tuple(other for other in range(weights.ndim) if other != axis)
        profile = weights.sum(axis=others, dtype=np.float64)
        profile = profile / profile.sum()
        places = np.arange(len(profile))
        mean.append(profile @ places)
        variance.append(profile @ (places - mean[-1]) ** 2)
    return np.asarray(mean), np.asarray(variance)
