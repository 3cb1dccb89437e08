"""Tissue and background of an image without a mask."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

EDGE = 16
"""The outer sixteenth of an axis, on either side, is searched for the background."""
SPREADS = 4.0
"""Standard deviations of the background's noise up to which an intensity is background."""
LEAST_SHARE = 0.01
"""Minimum fraction of all voxels in the interval, which contains about half of a background."""
LEAST_COUNT = 9
"""Minimum number of voxels in it: fewer are not conclusive."""
LEAST_PEAK = 3.0
"""Minimum ratio of the voxels in it to the number if all intensities between the .5 and 99.5 percentiles were equally
frequent. At the peak of a normal distribution it is 2.1."""
SUPPORT = 0.1
"""Minimum fraction of a tissue component that is tissue of the source."""
_SLACK = 1e-6
_SAMPLED = 1 << 20


class Background(NamedTuple):
    """Intensities that are background."""

    low: float
    high: float


def find_tissue(warped: Tensor, image: Tensor) -> Tensor:
    """Separate tissue from background in a warped source and its translation.

    Tissue is where a channel of either differs from its background (see `find_background`), and what that region
    encloses: a liquid that is dark in one contrast is bright in the other. Components of which less than a tenth
    differs in the warped source are dropped: what a translation adds in air is not tissue of the source.

    Args:
        warped: (C, *spatial), any unit.
        image: (C', *spatial), any unit.

    Returns:
        Boolean (1, *spatial); everything if no channel has a background.

    Example:
        >>> image = torch.full((1, 16, 16), -1.0)
        >>> image[:, 4:12, 4:12] = torch.rand(1, 8, 8)
        >>> tissue = find_tissue(image, image)
        >>> int(tissue.sum()), bool(tissue[0, 8, 8])
        (64, True)
    """
    parted = [_departing(values) for values in (warped, image)]
    known = [inside for inside in parted if inside is not None]
    if not known:
        return torch.ones_like(warped[:1], dtype=torch.bool)
    tissue = np.logical_or.reduce(known)
    if parted[0] is not None:
        tissue = _with_support(tissue, parted[0])
    return torch.from_numpy(_without_holes(tissue))[None].to(warped.device)


def _departing(image: Tensor) -> np.ndarray | None:
    """Where a channel differs from its background, (*spatial); None if none has a background."""
    found = None
    for channel in image:
        background = find_background(channel)
        if background is not None:
            values = channel.detach().cpu().numpy()
            departing = (values < background.low) | (values > background.high)
            found = departing if found is None else found | departing
    return found


def find_background(channel: Tensor) -> Background | None:
    """The interval of intensities that are background: 0, -1024 HU, -1, noise about any value, or none.

    It is sought where background would be, in the voxels in the outer sixteenth along at least two axes (for a slice:
    its corners). The shortest interval that contains half of them gives its center and, assuming a normal distribution,
    its standard deviation; the background is everything within four standard deviations. Tissue may thus fill up to
    half of the edges. A background is accepted if the interval contains nine voxels, 1 % of all, and three times as
    many as if the image's intensities were evenly spread; otherwise, as in a photograph or a crop from within a body,
    there is none.

    Args:
        channel: (*spatial).
    """
    values = channel.detach().cpu().numpy()
    edges = np.sort(values[_edges(values.shape)].astype(np.float64))
    half = (len(edges) + 1) // 2
    widths = edges[half - 1 :] - edges[: len(edges) - half + 1]
    first = int(widths.argmin())
    width = float(widths[first])
    middle = float(edges[first]) + width / 2
    flat = values.reshape(-1)
    some = flat[:: max(1, flat.size // _SAMPLED)].astype(np.float64)
    low, high = np.percentile(some, (0.5, 99.5))
    span = float(high - low) or float(flat.max()) - float(flat.min())
    slack = _SLACK * max(span, abs(middle))
    count = int((np.abs(some - middle) <= width / 2 + slack).sum())
    if span == 0 or count < max(LEAST_COUNT, LEAST_SHARE * some.size, LEAST_PEAK * width / span * some.size):
        return None
    reach = SPREADS * width / (2 * _HALF_NORMAL) + slack
    return Background(middle - reach, middle + reach)


_HALF_NORMAL = 0.6744897501960817
"""Number of standard deviations about the mean that contain half of a normal distribution."""


def _edges(shape: tuple[int, ...]) -> np.ndarray:
    """Where a voxel lies in the outer sixteenth along two axes, or along the one that is longer than 1."""
    count = np.zeros(shape, dtype=np.uint8)
    for axis, size in enumerate(shape):
        if size > 1:
            outer = np.zeros(size, dtype=np.uint8)
            width = max(1, size // EDGE)
            outer[:width] = outer[size - width :] = 1
            count += outer.reshape([-1 if other == axis else 1 for other in range(len(shape))])
    return count >= min(2, sum(size > 1 for size in shape))


def _with_support(tissue: np.ndarray, source: np.ndarray) -> np.ndarray:
    """The connected components of a region that have at least a tenth in the source's."""
    parts, count = ndimage.label(tissue)
    sizes = np.bincount(parts.reshape(-1), minlength=count + 1)
    supported = np.bincount(parts.reshape(-1), weights=source.reshape(-1), minlength=count + 1)
    kept = supported >= SUPPORT * sizes
    kept[0] = False
    result: np.ndarray = kept[parts]
    return result


def _without_holes(inside: np.ndarray) -> np.ndarray:
    """A region with its holes filled: the rest that is not connected to the border."""
    parts, count = ndimage.label(~inside)
    reached = np.zeros(count + 1, dtype=bool)
    for axis, size in enumerate(parts.shape):
        if size > 1:
            for end in (0, size - 1):
                reached[np.unique(np.take(parts, end, axis=axis))] = True
    reached[0] = False
    result: np.ndarray = ~reached[parts]
    return result
