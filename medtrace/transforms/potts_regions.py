"""Regions of a piecewise-constant image: found, merged and their borders moved, while the Potts energy falls."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..kernels.compiling import compiled
from .geometry import Array
from .potts_lines import Indices, lines_along

_PASSES = 10  # over all voxels; most images need three


def neighbors(image: Any, step: tuple[int, ...]) -> tuple[Any, Any]:
    """Views of an image: every voxel that has a neighbor one step on, and that neighbor."""
    before = tuple(slice(max(0, -number), size - max(0, number)) for number, size in zip(step, image.shape))
    after = tuple(slice(max(0, number), size - max(0, -number)) for number, size in zip(step, image.shape))
    return image[before], image[after]


def connected_regions(pieces: list[Any], steps: list[tuple[int, ...]]) -> Indices:
    """Connected components of the voxels, neighbors along a step being joined where that step's piece is constant.

    Args:
        pieces: one image for each step.
        steps: along the axes, so that regions touch by sides.

    Returns:
        int64 numbers of the regions, from 0, in the images' shape.
    """
    shape = pieces[0].shape
    parents = np.arange(math.prod(shape))
    for piece, step in zip(pieces, steps, strict=True):
        _join(np.ascontiguousarray(piece).ravel(), *lines_along(shape, step), parents)
    regions: Indices = _numbered(parents).reshape(shape)
    return regions


@compiled
def _join(values: Any, firsts: Any, lengths: Any, stride: int, parents: Any) -> None:
    """Unite the sets of neighbors on a line that have the same value; a set is named by its lowest voxel."""
    for line in range(firsts.size):
        voxel = firsts[line]
        for _ in range(lengths[line] - 1):
            other = voxel + stride
            if values[voxel] == values[other]:
                first, second = voxel, other
                while parents[first] != first:
                    parents[first] = parents[parents[first]]
                    first = parents[first]
                while parents[second] != second:
                    parents[second] = parents[parents[second]]
                    second = parents[second]
                parents[max(first, second)] = min(first, second)
            voxel = other


@compiled
def _numbered(parents: Any) -> Any:
    """Numbers of the sets from 0, in the order of their lowest voxels."""
    numbers, count = np.empty_like(parents), 0
    for voxel in range(parents.size):
        if parents[voxel] == voxel:
            numbers[voxel] = count
            count += 1
        else:
            numbers[voxel] = numbers[parents[voxel]]  # a parent is lower, and numbered already
    return numbers


def region_means(regions: Indices, image: Array) -> Array:
    """Mean of an image in each region."""
    means: Array = np.bincount(regions.ravel(), weights=image.ravel()) / np.bincount(regions.ravel())
    return means


def merge_regions(
    regions: Indices, image: Array, gamma: float, steps: list[tuple[int, ...]], weights: Array
) -> Indices:
    """Merge neighboring regions while that lowers the Potts energy.

    A merger saves γ · the length of the common border and costs n₀ n₁ / (n₀ + n₁) · (m₁ − m₀)² (sizes n, means m).
    In each round those pairs merge for which no merger with another neighbor saves more.

    Args:
        regions: int64 from 0, no number left out.
        image: image of the same shape.
        gamma, steps, weights: of the functional, see `minimize_potts`.

    Returns:
        The regions, numbered from 0.
    """
    sizes = np.bincount(regions.ravel()).astype(np.float64)
    sums = _total(regions.ravel(), image.ravel())
    names = np.arange(sizes.size)
    lower, upper, border = _borders(regions, steps, gamma * weights)
    while lower.size:
        means = sums / sizes
        parts = sizes[lower] * sizes[upper] / (sizes[lower] + sizes[upper])
        gains = border - parts * np.square(means[upper] - means[lower])
        greatest = np.zeros(sizes.size)
        np.maximum.at(greatest, lower, gains)
        np.maximum.at(greatest, upper, gains)
        chosen = (gains > 0) & (gains == greatest[lower]) & (gains == greatest[upper])
        target = np.arange(sizes.size)
        taken = np.zeros(sizes.size, dtype=bool)
        for first, second in zip(lower[chosen], upper[chosen], strict=True):
            if not (taken[first] or taken[second]):  # equal gains may choose one region twice
                target[second] = first
                taken[first] = taken[second] = True
        if not taken.any():
            break
        _, target = np.unique(target, return_inverse=True)
        sizes, sums = _total(target, sizes), _total(target, sums)
        names = target[names]
        lower, upper, border = _summed(target[lower], target[upper], border, sizes.size)
    merged: Indices = names[regions]
    return merged


def _borders(regions: Indices, steps: list[tuple[int, ...]], costs: Array) -> tuple[Indices, Indices, Array]:
    """Neighboring regions, the lower number first, and what their common border costs."""
    firsts, seconds, lengths = [], [], []
    for step, cost in zip(steps, costs, strict=True):
        before, after = neighbors(regions, step)
        jumps = before != after
        firsts.append(before[jumps])
        seconds.append(after[jumps])
        lengths.append(np.full(firsts[-1].size, cost))
    return _summed(np.concatenate(firsts), np.concatenate(seconds), np.concatenate(lengths), int(regions.max()) + 1)


def _summed(first: Indices, second: Indices, border: Array, count: int) -> tuple[Indices, Indices, Array]:
    """Pairs of different regions once each, with the sum of their borders."""
    apart = first != second
    first, second, border = first[apart], second[apart], border[apart]
    pairs, where = np.unique(np.minimum(first, second) * count + np.maximum(first, second), return_inverse=True)
    return pairs // count, pairs % count, _total(where, border, pairs.size)


def _total(places: Indices, numbers: Array, count: int = 0) -> Array:
    """Sum of the numbers at each place."""
    return np.asarray(np.bincount(places, weights=numbers, minlength=count), dtype=np.float64)


def move_borders(regions: Indices, image: Array, gamma: float, steps: list[tuple[int, ...]], weights: Array) -> Indices:
    """Give single voxels to a neighboring region where that lowers the Potts energy, until none does.

    Args:
        regions: int64 from 0, no number left out.
        image: image of the same shape.
        gamma, steps, weights: of the functional, see `minimize_potts`.

    Returns:
        The regions; they keep their numbers, and none becomes empty.
    """
    framed = np.pad(regions, 1, constant_values=-1)
    values = np.pad(image.astype(np.float64), 1)
    strides = [math.prod(framed.shape[axis + 1 :]) for axis in range(framed.ndim)]
    offsets = np.asarray([sign * int(np.dot(step, strides)) for step in steps for sign in (1, -1)])
    costs = np.repeat(gamma * np.asarray(weights, dtype=np.float64), 2)
    sizes = np.bincount(regions.ravel()).astype(np.float64)
    sums = np.bincount(regions.ravel(), weights=image.ravel())
    flat = framed.ravel()
    borders = np.ones(flat.size, dtype=bool)
    for _ in range(_PASSES):
        if not _move(flat, borders, values.ravel(), offsets, costs, sizes, sums):
            break
    moved: Indices = flat.reshape(framed.shape)[(slice(1, -1),) * framed.ndim].copy()
    return moved


@compiled
def _move(regions: Any, borders: Any, values: Any, offsets: Any, costs: Any, sizes: Any, sums: Any) -> int:
    """Go once over all voxels, each to the region where it costs least; how many moved. A frame of -1 is left out.

    `borders` is false where a voxel is known to have no neighbor in another region, and kept up to date.
    """
    moved = 0
    for voxel in range(regions.size):
        if not borders[voxel]:
            continue
        own = regions[voxel]
        if own < 0 or sizes[own] == 1:
            continue
        inner = True
        for offset in offsets:
            other = regions[voxel + offset]
            inner = inner and (other == own or other < 0)
        if inner:
            borders[voxel] = False
            continue
        value, best = values[voxel], own
        leaving = sizes[own] / (sizes[own] - 1) * (value - sums[own] / sizes[own]) ** 2
        border = 0.0
        for k in range(offsets.size):
            border += costs[k] * (regions[voxel + offsets[k]] == own)
        gain = 1e-12 * (leaving + border)
        for offset in offsets:
            other = regions[voxel + offset]
            if other < 0 or other in (own, best):
                continue
            saved = leaving - border - sizes[other] / (sizes[other] + 1) * (value - sums[other] / sizes[other]) ** 2
            for k in range(offsets.size):
                saved += costs[k] * (regions[voxel + offsets[k]] == other)
            if saved > gain:
                gain, best = saved, other
        if best != own:
            regions[voxel] = best
            for offset in offsets:
                borders[voxel + offset] = True
            sizes[own] -= 1
            sizes[best] += 1
            sums[own] -= value
            sums[best] += value
            moved += 1
    return moved
