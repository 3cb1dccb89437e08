"""Features of a trace that predict, without the truth, where its intensities are likely to be wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.optimize import nnls
from torch import Tensor

from medtrace.trace.appearance import expected_image
from medtrace.trace.tissue import find_tissue

CONSTANT, EDGES, UNEXPLAINED = "constant", "edges", "unexplained"
SOURCE_EDGES, TEXTURE = "source edges", "source texture"
LEVELS = ("darkest", "dark", "middle", "bright", "brightest")
"""Hat functions on the image's tissue, from its least to its greatest intensity of the calibration."""
LEAST = 1e-3
"""Of a scale, as a fraction of the span of levels: no voxel is known exactly."""

USUAL = 95.0
"""Percentile of errors beyond which a fit takes them for this large."""


class Scale(NamedTuple):
    """A local size of errors: a sum of features with weights above 0."""

    weights: dict[str, float]
    levels: tuple[float, float]
    """Least and greatest intensity between which `LEVELS` lie."""

    def at(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """The scale (C, *spatial), above 0."""
        total = np.zeros_like(features[CONSTANT])
        for name, weight in self.weights.items():
            total = total + weight * features[name]
        result: np.ndarray = np.maximum(total, LEAST * max(self.levels[1] - self.levels[0], 1e-6))
        return result


class Change(NamedTuple):
    """The part of a translation that its warped source's contrast does not explain."""

    residual: np.ndarray
    """(C, *spatial), image − E[image given warped]."""
    tissue: np.ndarray
    """(*spatial) boolean."""


def unexplained_change(image: Tensor, warped: Tensor, tissue: Tensor | None = None) -> Change:
    """The image minus what contrast alone makes of the warped source, and where both show tissue.

    Args:
        image: (C', *spatial), any unit.
        warped: (C, *spatial), any unit.
        tissue: (1, *spatial); None finds it (see `medtrace.trace.tissue.find_tissue`).

    Example:
        >>> import torch
        >>> source = torch.linspace(0, 1, 256).reshape(1, 16, 16)
        >>> bool(np.abs(unexplained_change(1 - source, source).residual).max() < 0.02)
        True
    """
    inside = find_tissue(warped, image) if tissue is None else tissue > 0
    residual = image - expected_image(warped, image, tissue=inside)
    return Change(residual.numpy(), inside[0].numpy())


def local_features(
    image: Tensor, warped: Tensor, change: Change, sigma: Sequence[float], levels: tuple[float, float]
) -> dict[str, np.ndarray]:
    """Features (C', *spatial) of every voxel, all at least 0, in the image's unit (`LEVELS` and `CONSTANT` without).

    Args:
        image: (C', *spatial).
        warped: (C, *spatial), rescaled to the image's range channel by channel where units differ.
        change: their unexplained change.
        sigma: width of the Gaussian that smooths them, in voxels per axis; 0 for an axis across slices.
        levels: see `Scale`.
    """
    values = image.numpy()
    result = {CONSTANT: np.ones_like(values)}
    low, high = levels
    place = np.clip((values - low) / max(high - low, 1e-6), 0, 1) * (len(LEVELS) - 1)
    for number, name in enumerate(LEVELS):
        result[name] = np.clip(1 - np.abs(place - number), 0, None)
    result[EDGES] = np.stack([_edges(channel, sigma) for channel in values])
    result[UNEXPLAINED] = np.stack([_smooth(np.abs(channel), sigma) for channel in change.residual])
    result.update(source_features(warped, sigma, len(values)))
    return result


def source_features(warped: Tensor, sigma: Sequence[float], channels: int) -> dict[str, np.ndarray]:
    """Those that the translation has no part in: edges and texture of the warped source, over its range.

    Args:
        warped: (C, *spatial).
        sigma: as for `local_features`.
        channels: channels of the image.
    """
    values = warped.numpy()
    span = [max(float(channel.max() - channel.min()), 1e-6) for channel in values]
    scaled = [channel / width for channel, width in zip(values, span)]
    edges = np.max([_edges(channel, sigma) for channel in scaled], axis=0)
    texture = np.max([_texture(channel, sigma) for channel in scaled], axis=0)
    shape = (channels, *values.shape[1:])
    return {
        CONSTANT: np.ones(shape, np.float32),
        SOURCE_EDGES: np.broadcast_to(edges, shape),
        TEXTURE: np.broadcast_to(texture, shape),
    }


def fit_scale(
    features: Sequence[Mapping[str, np.ndarray]],
    errors: Sequence[np.ndarray],
    names: Sequence[str],
    levels: tuple[float, float],
) -> Scale:
    """Weights of at least 0 by which features make the usual absolute error, by least squares.

    Errors above the 95th percentile are clipped to it: a few large ones should not widen the scale everywhere.

    Args:
        features: features of every case, at some of its voxels (n,).
        errors: errors of every case there, at least 0.
        names: names of the features that take part.
        levels: see `Scale`.
    """
    design = np.stack([np.concatenate([one[name] for one in features]) for name in names], axis=1).astype(np.float64)
    values = np.concatenate(errors).astype(np.float64)
    values = np.minimum(values, np.percentile(values, USUAL))
    size = np.maximum(np.abs(design).mean(0), 1e-12)
    # By the normal equations: a design of every voxel would be millions of rows high.
    gram, right = (design / size).T @ (design / size), (design / size).T @ values
    root = np.linalg.cholesky(gram + 1e-9 * np.trace(gram) * np.eye(len(names)))
    weights = nnls(root.T, np.linalg.solve(root, right))[0] / size
    return Scale({name: float(weight) for name, weight in zip(names, weights) if weight > 0}, levels)


def smoothed(values: np.ndarray, sigma: Sequence[float]) -> np.ndarray:
    """Every channel of (C, *spatial) seen through a Gaussian of `sigma` voxels per axis."""
    return np.stack([_smooth(channel, sigma) for channel in values])


def _smooth(values: np.ndarray, sigma: Sequence[float]) -> np.ndarray:
    result: np.ndarray = ndimage.gaussian_filter(values, sigma, mode="nearest", truncate=3.0)
    return result


def _edges(values: np.ndarray, sigma: Sequence[float]) -> np.ndarray:
    """Length of the gradient of a smoothed image, times the Gaussian's width."""
    blurred = _smooth(values, sigma)
    squares = sum((width * np.gradient(blurred, axis=axis)) ** 2 for axis, width in enumerate(sigma) if width > 0)
    result: np.ndarray = np.sqrt(squares)
    return result


def _texture(values: np.ndarray, sigma: Sequence[float]) -> np.ndarray:
    """Local standard deviation."""
    wide = [2 * width for width in sigma]
    mean = _smooth(values, wide)
    result: np.ndarray = np.sqrt(np.maximum(_smooth(values**2, wide) - mean**2, 0))
    return result
