"""The resolutions of an alignment: two images on their own coarse grids, compared through a matrix."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from copy import copy
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medtrace.kernels.point_information import PointInformation
from medtrace.registration.frames import Array, Frame
from medtrace.registration.pyramid import shrink
from medtrace.registration.scaling import scaled

COARSEST = 20
"""Approximate number of voxels along the fixed content's longest side at the coarsest resolution."""

MOST_VOXELS = 300_000
"""Maximum number of voxels of the fixed image at the finest resolution."""

MOST_POINTS, FIRST_POINTS, FEW_POINTS = 30_000, 8_000, 2_500
"""Maximum number of fixed voxels that are compared at a resolution, at the coarsest, and when many maps are scored."""


class AlignmentLevel:
    """Two images at one resolution, each on its own grid, and the score of a map between them.

    Args:
        moving: (1, *spatial) from 0 to 1.
        fixed: likewise.
        weight: (1, *spatial) of the fixed voxels.
        moving_weight: likewise of the moving ones, or None.
        frame: the images' coordinate frame.
        factors: image voxels per voxel of the level, per axis, for moving and fixed.
        most: maximum number of fixed voxels that are compared.
    """

    def __init__(
        self,
        moving: Tensor,
        fixed: Tensor,
        weight: Tensor,
        moving_weight: Tensor | None,
        frame: Frame,
        factors: tuple[Sequence[int], Sequence[int]],
        most: int = MOST_POINTS,
    ) -> None:
        self.dims = frame.dims
        coarse_fixed, self.to_fixed = shrink(fixed, factors[1]), _coarse(frame.fixed, factors[1])
        coarse_moving, to_moving = shrink(moving, factors[0]), _coarse(frame.moving, factors[0])
        fraction = shrink(weight, factors[1])
        self.edge = float(np.linalg.norm(self.to_fixed[:-1, :-1], axis=0).max())
        self.fixed_center, spread = _moments(coarse_fixed[0] * fraction[0], self.to_fixed)
        moving_share = None if moving_weight is None else shrink(moving_weight, factors[0])
        self._moving = coarse_moving[0], None if moving_share is None else moving_share[0], to_moving
        self.fixed_middle, self.moving_middle = _middle(coarse_fixed, self.to_fixed), _middle(coarse_moving, to_moving)
        self.radius = max(float(np.sqrt(np.trace(spread))), self.edge)
        self.spread = spread
        # Outside the moving grid is a rim with the border's typical value.
        padded = F.pad(coarse_moving, (1, 1) * self.dims, value=_rim(coarse_moving[0]))[0]
        parted = None if moving_share is None else F.pad(moving_share, (1, 1) * self.dims, value=1.0)[0]
        self.from_moving = np.linalg.inv(to_moving @ _shift(self.dims, -1.0))
        values, weights = coarse_fixed[0].flatten(), fraction[0].flatten()
        counted = np.flatnonzero(weights.cpu().numpy() > 0)
        self._counted, self._shape = counted, tuple(coarse_fixed.shape[1:])
        self._known = values, weights
        self._images = padded, parted
        self.information = self._information(most)

    @cached_property
    def moving_center(self) -> Array:
        """(D,): of the moving content, in mm."""
        image, share, affine = self._moving
        return _moments(image if share is None else image * share, affine)[0]

    def _information(self, most: int) -> PointInformation:
        chosen = self._counted[_chosen(len(self._counted), most)]
        grid = np.stack(np.unravel_index(chosen, self._shape)).astype(np.float64)
        values, weights = self._known
        picked = torch.from_numpy(chosen).to(values.device)
        return PointInformation(*self._images, grid, values[picked], weights[picked])

    def thinned(self) -> AlignmentLevel:
        """The same with no more points than the coarsest resolution has."""
        if self.information.known.shape[0] <= FIRST_POINTS:
            return self
        result = copy(self)
        result.information = self._information(FIRST_POINTS)
        return result

    def compare(self, matrix: Array) -> tuple[float, Array]:
        """Normalized mutual information through a map of the frame's points, and its derivative by the map's matrix.

        Returns:
            The value in [1, 2], 0 if nothing counts, and (D, D + 1).
        """
        value, by_voxels = self.information.compare(self.from_moving @ matrix @ self.to_fixed)
        # position = N·M·A·p with N to moving voxels and A from fixed ones
        return value, self.from_moving[:-1, :-1].T @ by_voxels @ self.to_fixed.T

    def score(self, matrix: Array) -> float:
        """Normalized mutual information through a map of the frame's points."""
        return self.information.compare(self.from_moving @ matrix @ self.to_fixed, derivative=False)[0]

    def scores(self, matrices: Sequence[Array]) -> list[float]:
        """Likewise through each of many maps, at a few of the points, for a first screening."""
        few = self._information(FEW_POINTS)
        return few.values_of([self.from_moving @ matrix @ self.to_fixed for matrix in matrices])

    def distance(self, first: Array, second: Array) -> float:
        """Root mean square distance, in mm, at which two maps put the fixed content."""
        change = first - second
        center = change[:-1, :-1] @ self.fixed_center + change[:-1, -1]
        spread = np.trace(change[:-1, :-1] @ self.spread @ change[:-1, :-1].T)
        return float(np.sqrt(center @ center + spread))


class Side(NamedTuple):
    """One image of a pair, prepared for alignment."""

    image: Tensor
    """(1, *spatial) from 0 to 1."""
    weight: Tensor | None
    """(1, *spatial), weights of its voxels; None for all."""


def side(image: Tensor, mask: Tensor | None) -> Side:
    """Channels averaged, intensities scaled.

    Args:
        image: (C, *spatial), any range.
        mask: (1, *spatial), what is left out.
    """
    weight = None if mask is None else 1 - mask.detach().float().clamp(0, 1).to(image.device)
    return Side(scaled(image, weight).mean(0, keepdim=True).clamp(0, 1), weight)


def make_levels(moving: Side, fixed: Side, frame: Frame, most: int = MOST_POINTS) -> list[AlignmentLevel]:
    """Resolutions from coarse to fine.

    Args:
        moving: image on its own grid.
        fixed: likewise.
        frame: their coordinate frame.
        most: maximum number of fixed voxels that are compared at any but the coarsest.
    """
    still, moved = fixed.image, moving.image
    weight = torch.ones_like(still) if fixed.weight is None else fixed.weight
    edges = [np.linalg.norm(affine[:-1, :-1], axis=0) for affine in (frame.moving, frame.fixed)]
    low, high = _box(still[0], [0.0] * frame.dims)
    content = max((last - first) * edge for first, last, edge in zip(low, high, edges[1]))
    edge = max(content / COARSEST, float(min(edges[1])))
    wide = [round(content / 8 / own) for own in edges[1]]
    start = [max(first - more, 0) for first, more in zip(low, wide)]
    stop = [min(last + more, size) for last, more, size in zip(high, wide, still.shape[1:])]
    cut = (slice(None), *(slice(low, high) for low, high in zip(start, stop)))
    still, weight = still[cut], weight[cut]
    frame = frame.starting_at(start)
    levels: list[AlignmentLevel] = []
    before = None
    while True:
        factors = tuple(
            [max(1, min(round(edge / own), size // 4)) for own, size in zip(edges[side], image.shape[1:])]
            for side, image in enumerate((moved, still))
        )
        voxels = np.prod([size / factor for size, factor in zip(still.shape[1:], factors[1])])
        if levels and (voxels > MOST_VOXELS or factors == before):
            break
        count = most if levels else FIRST_POINTS
        levels.append(AlignmentLevel(moved, still, weight, moving.weight, frame, (factors[0], factors[1]), count))
        before = factors
        edge /= 2
    return levels


def content_box(image: Tensor, margin: int) -> tuple[list[int], list[int]]:
    """First voxel and end (exclusive) of the box about a scaled image's content (C, *spatial), widened by a margin."""
    return _box(image.mean(0), [float(margin)] * (image.ndim - 1))


def _chosen(count: int, most: int) -> Array:
    """Up to the given number of indices, one from each of as many equal ranges, random but reproducible."""
    if count <= most:
        return np.arange(count)
    places = np.arange(most) + np.random.default_rng(0).random(most)
    return np.minimum((places * (count / most)).astype(np.int64), count - 1)


def _coarse(affine: Array, factor: Sequence[int]) -> Array:
    """The affine of block means."""
    change = np.eye(len(factor) + 1)
    for axis, own in enumerate(factor):
        change[axis, axis], change[axis, -1] = own, (own - 1) / 2
    return affine @ change


def _shift(dims: int, voxels: float) -> Array:
    matrix = np.eye(dims + 1)
    matrix[:-1, -1] = voxels
    return matrix


def _moments(content: Tensor, affine: Array) -> tuple[Array, Array]:
    """Center and covariance, in mm, of an image's intensities above those of its rim."""
    weights = (content - _rim(content)).abs().double().cpu().numpy()
    total = weights.sum()
    if not total > 0:
        weights, total = np.ones_like(weights), float(weights.size)
    dims = range(weights.ndim)
    places = [np.arange(size, dtype=np.float64) for size in weights.shape]
    along = [weights.sum(tuple(k for k in dims if k != axis)) / total for axis in dims]
    mean = np.array([place @ fraction for place, fraction in zip(places, along)])
    away = [place - middle for place, middle in zip(places, mean)]
    spread = np.diag([own**2 @ fraction for own, fraction in zip(away, along)])
    for a, b in itertools.combinations(dims, 2):
        both = weights.sum(tuple(k for k in dims if k not in (a, b))) / total
        spread[a, b] = spread[b, a] = away[a] @ both @ away[b]
    linear = affine[:-1, :-1]
    return linear @ mean + affine[:-1, -1], linear @ spread @ linear.T


def _middle(image: Tensor, affine: Array) -> Array:
    return affine[:-1, :-1] @ np.array([(size - 1) / 2 for size in image.shape[1:]]) + affine[:-1, -1]


def _rim(image: Tensor) -> float:
    """Median of the border's voxels."""
    faces = [
        image.select(axis, side).flatten() for axis, size in enumerate(image.shape) if size > 1 for side in (0, -1)
    ]
    return float(torch.cat(faces).median()) if faces else 0.0


def _box(image: Tensor, margin: Sequence[float]) -> tuple[list[int], list[int]]:
    """First voxel and end (exclusive) of the box about what differs from the rim, widened by a margin per axis."""
    on = ((image - _rim(image)).abs() > 0.1).cpu().numpy()
    lows, highs = [], []
    for axis, (size, more) in enumerate(zip(image.shape, margin)):
        others = tuple(other for other in range(image.ndim) if other != axis)
        places: Any = np.flatnonzero(on.any(others) if others else on)
        low, high = (int(places[0]), int(places[-1]) + 1) if len(places) else (0, size)
        lows.append(max(low - round(more), 0))
        highs.append(min(high + round(more), size))
    return lows, highs
