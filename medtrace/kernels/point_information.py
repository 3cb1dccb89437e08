"""Normalized mutual information of an image and of values at points, through affine maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from medtrace.kernels import choice, threads
from medtrace.kernels.greedy_interface import BINS, inner_shape
from medtrace.kernels.information import FLOOR, smoothing_matrix
from medtrace.kernels.layout import plain

choice.OPERATIONS["alignment (mutual information at points)"] = "CPU"
PARTS = 8
"""Histograms that are summed in the end, whatever the number of threads."""

REAL = np.float32


class Climb(NamedTuple):
    """Settings of the optimization."""

    lever: float
    """Radians, or entries of a matrix, per unit of a parameter."""
    edge: float
    """Length of a shift per unit of a parameter."""
    iterations: int
    tolerance: float
    """Fraction of the information that an iteration must gain."""
    rigid: bool
    """Whether a rotation is sought, else a matrix."""


class PointInformation:
    """The score of a map from points to an image, and its derivative by the map.

    Compiled on the CPU, else plain torch.

    Args:
        image: (*spatial), in [0, 1].
        share: likewise, how far a voxel of the image counts; None for all.
        points: (D, N) float64 array, in voxels of another grid.
        known: (N), in [0, 1]: the other image's values there.
        weights: (N), how far the points count.
    """

    def __init__(self, image: Tensor, share: Tensor | None, points: Any, known: Tensor, weights: Tensor) -> None:
        self.dims = image.ndim
        axes = _axes(self.dims)
        self.compiled = choice.takes_compiled(image.float())
        self.places = np.ix_(axes, [*axes, 3])
        inner = np.zeros((3, points.shape[1]))
        inner[axes] = points
        shape = inner_shape(image.shape)
        device = image.device
        images = [image] if share is None else [image, share]
        if self.compiled:
            arrays = [plain(one).to(torch.float32).numpy().reshape(shape) for one in images]
            self.image: Any = arrays[0]
            self.share: Any = arrays[1] if share is not None else np.empty((0, 0, 0), REAL)
            self.points: Any = inner.astype(REAL)
            self.known, self.weights = (np.ascontiguousarray(one.cpu().numpy(), REAL) for one in (known, weights))
            self.parts = threads.pieces(PARTS, points.shape[1], minimum=1 << 13)
            self.values, self.counted = np.empty_like(self.known), np.empty_like(self.known)
            self.slopes = np.empty_like(self.points)
            self.spread = smoothing_matrix(BINS)
            self.tables, self.by_entry = np.empty((PARTS, BINS, BINS)), np.empty((BINS, BINS), REAL)
        else:
            from medtrace.kernels.greedy_torch import TorchOperations

            self.ops: Any = TorchOperations((points.shape[1], 1, 1), device, torch.float64)
            self.image, self.share = self.ops.volume(image), None if share is None else self.ops.volume(share)
            self.points = torch.from_numpy(inner).to(device)
            self.known, self.weights = self.ops.volume(known[:, None, None]), self.ops.volume(weights[:, None, None])

    def compare(self, matrix: Any, derivative: bool = True) -> tuple[float, Any]:
        """The information, in [1, 2], through a map, and its derivative by the map.

        Args:
            matrix: (D + 1, D + 1) float64, from the points' voxels to the image's.
            derivative: whether it is requested; if not, it is zero.

        Returns:
            The value, 0 where nothing counts, and (D, D + 1) float64.
        """
        inner = np.zeros((3, 4))
        inner[self.places] = np.asarray(matrix)[:-1]
        value, by_matrix = self._by_loops(inner, derivative) if self.compiled else self._by_torch(inner)
        return value, by_matrix[self.places]

    def values_of(self, matrices: Sequence[Any]) -> list[float]:
        """The information through each of many maps, as `compare` gives it."""
        if not self.compiled:
            return [self.compare(matrix, derivative=False)[0] for matrix in matrices]
        from medtrace.kernels import point_loops as loops  # numba takes half a second to import

        inner = np.zeros((len(matrices), 3, 4))
        for into, matrix in zip(inner, matrices):
            into[self.places] = np.asarray(matrix)[:-1]
        out = np.empty(len(matrices))
        read = (
            self.image,
            self.share,
            self.points,
            self.known,
            self.weights,
            inner.astype(REAL),
            self.spread,
            FLOOR,
            out,
        )
        work = threads.pieces(len(matrices), len(matrices) * self.points.shape[1], minimum=1 << 15)
        threads.run(lambda begin, end: loops.many_values(*read, BINS, PARTS, begin, end), work)
        return [float(one) for one in out]

    def climb(
        self, starts: Sequence[Any], ends: Any, sides: tuple[Any, Any], settings: Climb
    ) -> list[tuple[Any, float]]:
        """Climb from each of several maps to the nearest one of the most information; compiled only.

        Args:
            starts: (D, D) linear parts of the maps, which are changed from the right.
            ends: (maps, 2, D), a point and where a map puts it.
            sides: (D + 1, D + 1) each, matrices before and after a map, so that it leads from the points' voxels to the
                image's.
            settings: see `Climb`.

        Returns:
            The end of each, (D + 1, D + 1) float64, and its score.
        """
        from medtrace.kernels import climb_loops as loops  # numba takes half a second to import

        axes, count = _axes(self.dims), len(starts)
        linear, about, both = np.tile(np.eye(3), (count, 1, 1)), np.zeros((count, 2, 3)), np.tile(np.eye(4), (2, 1, 1))
        for number, start in enumerate(starts):
            linear[number][np.ix_(axes, axes)] = start
        about[:, :, axes] = ends
        for into, given in zip(both, sides):
            into[np.ix_([*axes, 3], [*axes, 3])] = given
        if settings.rigid:
            where = [1, 3, 5] if self.dims == 2 else [*range(6)]
        else:
            where = [*(3 * a + b for a in axes for b in axes), *(9 + a for a in axes)]
        data = (self.image, self.share, self.points, self.known, self.weights, self.spread, FLOOR)
        numbers = *settings[:4], PARTS, BINS, settings.rigid
        out, scores = np.empty((count, 4, 4)), np.empty(count)
        arrays = data, linear, about, both, np.array(where), np.array(numbers, float), out, scores
        work = threads.pieces(count, count * self.points.shape[1], minimum=1 << 12)
        threads.run(lambda begin, end: loops.climb(*arrays, begin, end), work)
        cut = np.ix_([*axes, 3], [*axes, 3])
        return [(matrix[cut], float(score)) for matrix, score in zip(out, scores)]

    def _by_loops(self, matrix: Any, derivative: bool) -> tuple[float, Any]:
        from medtrace.kernels import point_loops as loops  # numba takes half a second to import

        sums, entries = np.zeros((PARTS, 3, 4)), self.by_entry
        found = self.values, self.slopes, self.counted
        read = self.image, self.share, self.points, self.known, self.weights, matrix.astype(REAL), *found, self.tables
        threads.run(lambda begin, end: loops.point_tables(*read, begin, end), self.parts)
        value, mass = loops.normalized_information(self.tables, self.spread, FLOOR, derivative, entries)
        if not mass > 0 or not derivative:
            return value, sums[0]
        moved = self.points, self.known, *found, entries, sums
        threads.run(lambda begin, end: loops.point_moments(*moved, begin, end), self.parts)
        return value, sums.sum(0) / mass

    def _by_torch(self, matrix: Any) -> tuple[float, Any]:
        given = torch.from_numpy(matrix).to(self.points.device)
        places = given[:, :3] @ self.points + given[:, 3:]
        places[0] -= torch.arange(places.shape[1], device=places.device)  # displacements of a row of voxels
        field = places.reshape(3, -1, 1, 1)
        counted = self.weights if self.share is None else self.weights * self.ops.warp(self.share, field)[0]
        values, by_space = self.ops.warp(self.image, field)
        slopes = self.ops.information(values, self.known, counted, True, False)
        mass = max(float(counted.sum()), 1e-9)
        change = (slopes.by_x * by_space).reshape(3, -1) / mass
        by_matrix = torch.cat([change @ self.points.T, change.sum(1, keepdim=True)], 1)
        return slopes.value / mass, by_matrix.cpu().numpy()


def _axes(dims: int) -> Sequence[int]:
    """The inner axes of an image of so many axes (see `greedy_interface.inner_shape`)."""
    return [0, 2] if dims == 2 else [0, 1, 2]
