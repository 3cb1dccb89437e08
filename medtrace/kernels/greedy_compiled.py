"""`greedy_interface.Operations` in compiled loops, float32, shared by medtrace's threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medtrace.kernels import folding_loops, greedy_loops, lncc_loops, similarity_loops, threads
from medtrace.kernels.greedy_interface import BINS, Slopes, Windows, gaussian, inner_shape
from medtrace.kernels.information import information
from medtrace.kernels.layout import plain

REAL = np.float32
PARTS = 16
"""Histograms that are summed in the end; what is added where follows from the planes, not from the threads."""


class CompiledOperations:
    """See `greedy_interface.Operations`. Arrays are numpy's, (X, Y, Z) and (3, X, Y, Z) float32."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.spatial = shape
        self.shape = inner_shape(shape)
        voxels = int(np.prod(self.shape))
        self._ranges = threads.pieces(self.shape[0], voxels)
        self._parts = threads.pieces(min(PARTS, self.shape[0]), voxels)
        self._memory: dict[str, Any] = {}
        self._kernels: dict[tuple[float, ...], list[Any]] = {}

    def volume(self, values: Tensor) -> Any:
        """See `greedy_interface.Operations`."""
        return plain(values).to(torch.float32).numpy().reshape(inner_shape(values.shape))

    def field(self, values: Tensor) -> Any:
        """See `greedy_interface.Operations`."""
        given = plain(values).to(torch.float32).numpy()
        if len(self.spatial) == 3:
            return given
        result = np.zeros((3, *self.shape), REAL)
        result[0, :, 0], result[2, :, 0] = given
        return result

    def tensor(self, array: Any) -> Tensor:
        """See `greedy_interface.Operations`."""
        if len(self.spatial) == 2 and array.ndim == 4:
            array = array[::2]
        return torch.from_numpy(array.reshape(*array.shape[:-3], *self.spatial).copy())

    def warp(self, image: Any, field: Any) -> tuple[Any, Any]:
        """See `greedy_interface.Operations`."""
        out, slopes = self._buffer("warped"), self._buffer("slopes", 3)
        self._share(greedy_loops.warp_planes, image, field, out, slopes)
        return out, slopes

    def slopes(self, image: Any) -> Any:
        """See `greedy_interface.Operations`."""
        parts = [
            np.gradient(image, axis=axis) if size > 1 else np.zeros_like(image) for axis, size in enumerate(self.shape)
        ]
        return np.stack(parts).astype(REAL)

    def windows(self, image: Any, weight: Any, radius: int) -> Windows:
        """See `greedy_interface.Operations`."""
        return Windows(*(self._box(np.asarray(values), radius) for values in _moments(image, weight)))

    def difference(self, x: Any, y: Any, weight: Any) -> Slopes:
        """See `greedy_interface.Operations`."""
        out, totals = self._buffer("by x"), np.empty(self.shape[0])
        self._share(similarity_loops.difference_planes, x, y, weight, out, totals)
        by_y = np.negative(out, out=self._buffer("by y"))
        return Slopes(-0.5 * float(totals.sum()), out, by_y)

    def lncc(
        self, x: Any, y: Any, weight: Any, centers: Any, windows: Windows, radius: int, floor: float, both: bool
    ) -> Slopes:
        """See `greedy_interface.Operations`."""
        sums, coefficients = self._buffer("sums", 3), self._buffer("coefficients", 5)
        totals, used = np.empty(self.shape[0]), 5 if both else 3
        self._share(lncc_loops.product_planes, x, y, weight, radius, sums)
        arrays = sums, windows.count, windows.first, windows.square, centers
        self._share(lncc_loops.coefficient_planes, *arrays, REAL(floor), radius, used, coefficients, totals)
        by_x, by_y = self._buffer("by x"), self._buffer("by y") if both else None
        written = by_x, by_x if by_y is None else by_y
        self._share(lncc_loops.slope_planes, x, y, weight, coefficients, radius, used, *written)
        return Slopes(float(totals.sum()), by_x, by_y)

    def information(self, x: Any, y: Any, weight: Any, normalized: bool, both: bool) -> Slopes:
        """See `greedy_interface.Operations`."""
        tables = np.empty((min(PARTS, self.shape[0]), BINS, BINS))
        arrays = x, y, weight, tables
        threads.run(lambda begin, end: similarity_loops.histogram_planes(*arrays, begin, end), self._parts)
        table = tables.sum(0)
        if not table.sum() > 0:
            return Slopes(0.0, self._zeros("by x"), self._zeros("by y"))
        found = information(table, normalized)
        by_x, by_y = self._buffer("by x"), self._buffer("by y") if both else None
        entries = found.by_entry.astype(REAL)
        self._share(similarity_loops.table_slope_planes, x, y, weight, entries, by_x)
        if both:
            turned = np.ascontiguousarray(entries.T)
            self._share(similarity_loops.table_slope_planes, y, x, weight, turned, by_y)
        return Slopes(found.value * float(table.sum()), by_x, by_y)

    def force(self, slopes: Slopes, by_space: Any, fixed_by_space: Any, alpha: float, to: Any = None) -> Any:
        """See `greedy_interface.Operations`."""
        out = self._buffer("force", 3) if to is None else to
        by_y = slopes.by_x if slopes.by_y is None else slopes.by_y
        arrays = slopes.by_x, by_space, by_y, by_space if fixed_by_space is None else fixed_by_space
        self._share(similarity_loops.force_planes, *arrays, REAL(alpha), to is not None, out)
        return out

    def smooth(self, field: Any, sigmas: Sequence[float]) -> tuple[Any, float]:
        """See `greedy_interface.Operations`."""
        values = field if field.ndim == 4 else field[None]
        between = self._buffer("between", values.shape[0])
        lengths = np.empty(self.shape[0], REAL)
        along = self._kernel(tuple(sigmas))
        self._share(greedy_loops.smooth_in_planes, values, along[1], along[2], between)
        self._share(greedy_loops.smooth_across_planes, between, along[0], values, lengths)
        return field, float(lengths.max()) ** 0.5

    def scale(self, field: Any, factor: float) -> Any:
        """See `greedy_interface.Operations`."""
        self._share(greedy_loops.scale_planes, field, REAL(factor))
        return field

    def compose(self, field: Any, update: Any) -> Any:
        """See `greedy_interface.Operations`."""
        out = self._memory.pop("composed", None)
        out = np.empty_like(field) if out is None else out
        self._share(greedy_loops.compose_planes, field, update, out)
        self._memory["composed"] = field
        return out

    def affine(self, matrix: Any) -> Any:
        """See `greedy_interface.Operations`."""
        inner = np.eye(4)[:3]
        rows = [0, 2] if len(self.spatial) == 2 else [0, 1, 2]
        inner[np.ix_(rows, [*rows, 3])] = np.asarray(matrix)[: len(rows)]
        out = self._buffer("affine", 3)
        self._share(greedy_loops.affine_planes, inner, out)
        return out

    def folded(self, field: Any) -> tuple[Any, int]:
        """See `greedy_interface.Operations`."""
        marks = np.zeros(self.shape, np.uint8)
        axes = [axis for axis, size in enumerate(self.shape) if size > 1]
        if len(axes) == 3:
            self._share(folding_loops.folded_planes, field, marks)
        elif len(axes) == 2:
            shape = [self.shape[axis] for axis in axes]
            flat = np.ascontiguousarray(field[axes].reshape(2, *shape))
            lines, pieces = marks.reshape(shape), threads.pieces(shape[0], marks.size)
            threads.run(lambda begin, end: folding_loops.folded_lines(flat, lines, begin, end), pieces)
        elif axes:
            steps = np.diff(field[axes[0]].ravel()) + 1
            line = marks.reshape(-1)
            line[:-1] |= ~(steps > 0)
            line[1:] |= ~(steps > 0)
        return marks.astype(REAL), int(np.count_nonzero(marks))

    def _box(self, values: Any, radius: int, out: Any = None) -> Any:
        out = np.empty(self.shape, REAL) if out is None else out
        between = self._buffer("window")
        self._share(greedy_loops.box_in_planes, values, radius, between)
        self._share(greedy_loops.box_across_planes, between, radius, out)
        return out

    def _buffer(self, name: str, components: int = 0) -> Any:
        shape = (components, *self.shape) if components else self.shape
        found = self._memory.get(name)
        if found is None or found.shape != shape:
            found = self._memory[name] = np.empty(shape, REAL)
        return found

    def _zeros(self, name: str) -> Any:
        found = self._buffer(name)
        found[:] = 0
        return found

    def _kernel(self, sigmas: tuple[float, ...]) -> list[Any]:
        if sigmas not in self._kernels:
            three = sigmas if len(sigmas) == 3 else (sigmas[0], 0.0, sigmas[1])
            self._kernels[sigmas] = [
                np.asarray(gaussian(sigma if size > 1 else 0.0), REAL) for sigma, size in zip(three, self.shape)
            ]
        return self._kernels[sigmas]

    def _share(self, loop: Callable[..., None], *arrays: Any) -> None:
        if len(self._ranges) == 1:
            loop(*arrays, 0, self.shape[0])
        else:
            threads.run(lambda begin, end: loop(*arrays, begin, end), self._ranges)


def _moments(image: Any, weight: Any) -> tuple[Any, Any, Any]:
    first = weight * image
    return weight, first, first * image
