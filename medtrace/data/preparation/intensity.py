"""Conversion of scan intensities to a network's range, and back.

Everything here is an increasing piecewise-linear map from the scan's units to [-1, 1], one per channel. A translated
image of the scan's own contrast comes back through the scan's own map, one of another contrast through that contrast's
(`Contrast.intensity_map`). Four rules make such a map, each contrast its own:

- "window": fixed limits, the same for every scan, for units that have a meaning: a CT is never standardized;
- "standardized" (TraceTrans, Datasets): Nyul's histogram standardization, z-score of the foreground, and a linear
  rescaling of a window of z to [0, 1], stored as such and read as [-1, 1];
- "percentile": two percentiles of the foreground go to -1 and 1; for scans that no preparation describes;
- "range": a fixed range, such as 0 to 255 of natural images.

The paper says "Z-normalization, rescale the intensity to the [0, 1] range". Rescaling every image by its own extremes
would undo the z-score and give before and after different scales, so one window of z serves all images of a
contrast: the median over the training images of two percentiles of their z.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.utils.enums import TraceKeys
from torch import Tensor

from medtrace.trace.contrast import HU, Contrast
from medtrace.transforms.histogram_landmarks import HistogramLandmarks
from medtrace.transforms.histogram_standardization import HistogramStandardization

BORDER_SHARE = 0.1
"""Fraction of exact zeros on an image's border from which on zero is taken for background."""
WINDOW_PERCENTILES = (0.1, 99.9)
QUANTILES = 2001
CURVE_KNOTS = 129
"""Points of the curve of a contrast's mean training scan."""


@dataclass(frozen=True)
class ContrastStandard:
    """The values learned from training subjects about one contrast.

    Attributes:
        window: z-scores that become 0 and 1.
        percentages: percentiles of an image's foreground that Nyul's standardization moves; empty without it.
        landmarks: the standard intensities they are moved to.
    """

    window: tuple[float, float]
    percentages: tuple[float, ...] = ()
    landmarks: tuple[float, ...] = ()


def find_foreground(image: Tensor, contrast: Contrast | None = None) -> Tensor:
    """Separate tissue from background.

    Args:
        image: (C, *spatial).
        contrast: what its numbers mean, where that is known.

    Returns:
        Boolean (1, *spatial). Of a contrast in HU, where 0 is water, all of it counts as foreground. Otherwise, where
        at least a tenth of the image's border is exactly 0 in all channels, as in skull-stripped and defaced scans, 0
        is background; otherwise (CT, noise around the head) all of it counts as foreground.
    """
    zero = (without_metadata(image) == 0).all(dim=0, keepdim=True)
    if contrast is not None and contrast.unit == HU:
        return torch.ones_like(zero)
    border = torch.zeros_like(zero)
    for axis in range(1, zero.ndim):
        if zero.shape[axis] > 1:
            border.select(axis, 0).fill_(True)
            border.select(axis, -1).fill_(True)
    on_border = zero[border]
    if on_border.numel() == 0 or float(on_border.float().mean()) < BORDER_SHARE:
        return torch.ones_like(zero)
    return ~zero


def foreground_quantiles(image: Tensor, foreground: Tensor | None = None) -> list[np.ndarray]:
    """Per channel, 0.05 % quantiles of the foreground's intensities: what is learned from needs no more.

    Raises:
        ValueError: if there is no foreground or it is constant.
    """
    image = without_metadata(image)
    foreground = find_foreground(image) if foreground is None else foreground
    channels = (foreground_values(channel, foreground[0]) for channel in image)
    return [np.quantile(values.astype(np.float64), np.linspace(0, 1, QUANTILES)) for values in channels]


def fit_contrast(images: Sequence[np.ndarray], standardize: bool = True) -> ContrastStandard:
    """Learn a contrast's standard from training images.

    Args:
        images: quantiles of the foreground of each training image (see `foreground_quantiles`).
        standardize: whether to train Nyul's landmarks; otherwise there is the z-score only.

    Returns:
        The standard; its window is the median over images of the 0.1 and 99.9 percentiles of z.

    Raises:
        ValueError: if there is no image.
    """
    if not images:
        raise ValueError("images: expected at least one training image, received none")
    trained = ContrastStandard((0.0, 1.0))
    if standardize:
        landmarks = HistogramStandardization.train([torch.from_numpy(values)[None, None] for values in images])
        trained = ContrastStandard((0.0, 1.0), landmarks.percentiles, landmarks.of())
    limits = []
    for values in images:
        _, moved = _standardized(values, trained)
        limits.append(np.percentile((moved - moved.mean()) / moved.std(), WINDOW_PERCENTILES))
    low, high = np.median(limits, axis=0)
    return replace(trained, window=(float(low), float(high)))


def mean_curve(images: Sequence[np.ndarray], standard: ContrastStandard) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Knots of the map of a contrast's mean training scan, in its units and in [-1, 1].

    Args:
        images: quantiles of the foreground of each training image (see `foreground_quantiles`).
        standard: that was learned from them.

    Returns:
        Units and network values: at every network value, the mean over the training scans of the units that map to it.
    """
    network = np.linspace(-1.0, 1.0, CURVE_KNOTS)
    knots = [standard_knots(values, standard) for values in images]
    units = np.mean([np.interp(network, y, x) for x, y in knots], axis=0)
    rising = np.concatenate([[True], np.diff(np.maximum.accumulate(units)) > 0])
    rising[-1] = True
    units, network = units[rising], network[rising]
    return tuple(map(float, units)), tuple(map(float, network))


def standard_knots(values: np.ndarray, standard: ContrastStandard) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Knots of Nyul's map, the z-score and the window for one channel, in scan units and in [-1, 1].

    Args:
        values: sorted foreground intensities.
        standard: of the contrast.
    """
    (x, y), moved = _standardized(values, standard)
    z = (y - moved.mean()) / moved.std()
    low, high = standard.window
    return _limited(x, 2 * (z - low) / (high - low) - 1)


def _standardized(values: np.ndarray, standard: ContrastStandard) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Knots of Nyul's map for an image (the identity without landmarks), and its intensities through them."""
    if not standard.percentages:
        ends = np.array([values[0], values[-1]], dtype=np.float64)
        return (ends, ends), values.astype(np.float64)
    landmarks = HistogramLandmarks(standard.percentages, {"image": standard.landmarks})
    moved: Any = HistogramStandardization(landmarks)(MetaTensor(torch.from_numpy(values)[None, None]))
    points = moved.applied_operations[-1][TraceKeys.EXTRA_INFO]
    return (np.array(points["knots"]), np.array(points["images"])), moved.numpy().ravel().astype(np.float64)


def _limited(x: np.ndarray, y: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Continue the outer pieces to y = -1 and 1, and cut there."""
    rising = np.concatenate([[True], np.diff(y) > 0])
    x, y = x[rising], y[rising]
    if len(x) < 2:
        raise ValueError("landmarks: expected increasing standard intensities; train the standardization again")
    x_low = x[0] + (-1 - y[0]) * (x[1] - x[0]) / (y[1] - y[0]) if y[0] > -1 else np.interp(-1, y, x)
    x_high = x[-1] + (1 - y[-1]) * (x[-1] - x[-2]) / (y[-1] - y[-2]) if y[-1] < 1 else np.interp(1, y, x)
    inside = (y > -1) & (y < 1)
    return (
        (float(x_low), *x[inside].tolist(), float(x_high)),
        (-1.0, *y[inside].tolist(), 1.0),
    )


def percentile_knots(
    values: np.ndarray, percentiles: tuple[float, float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    low, high = np.percentile(values.astype(np.float64), percentiles)
    if not high > low:
        low, high = float(values[0]), float(values[-1])
    return (float(low), float(high)), (-1.0, 1.0)


def foreground_values(image: Tensor, foreground: Tensor) -> np.ndarray:
    values = np.sort(image[foreground].cpu().numpy().astype(np.float32))
    if values.size == 0:
        raise ValueError("foreground: expected at least one voxel, received none; check the mask")
    if not values[-1] > values[0]:
        raise ValueError(f"image: is constant ({values[0]:g}) in its foreground; check the scan and its mask")
    return values


def without_metadata(image: Tensor) -> Tensor:
    return image.as_tensor() if hasattr(image, "as_tensor") else image
