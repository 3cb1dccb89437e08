"""`greedy_interface.Operations` in plain torch, on any device, in float32 or float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from medtrace.kernels.folding_torch import folded
from medtrace.kernels.greedy_interface import BINS, Slopes, Windows, gaussian, inner_shape
from medtrace.kernels.information import information
from medtrace.kernels.similarity_torch import box_sum, histogram, local_correlation, local_slope, table_slope


class TorchOperations:
    """See `greedy_interface.Operations`. Arrays are tensors (X, Y, Z) and (3, X, Y, Z)."""

    def __init__(self, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> None:
        self.spatial = shape
        self.shape = inner_shape(shape)
        self.device, self.dtype = device, dtype

    def volume(self, values: Tensor) -> Any:
        """See `greedy_interface.Operations`."""
        return values.detach().as_subclass(Tensor).to(self.device, self.dtype).reshape(inner_shape(values.shape))

    def field(self, values: Tensor) -> Any:
        """See `greedy_interface.Operations`."""
        given = values.detach().as_subclass(Tensor).to(self.device, self.dtype).reshape(-1, *self.shape)
        if len(self.spatial) == 3:
            return given
        return torch.stack([given[0], torch.zeros_like(given[0]), given[1]])

    def tensor(self, array: Any) -> Tensor:
        """See `greedy_interface.Operations`."""
        if len(self.spatial) == 2 and array.ndim == 4:
            array = array[::2]
        return array.reshape(*array.shape[:-3], *self.spatial).clone()

    def warp(self, image: Any, field: Any) -> tuple[Any, Any]:
        """See `greedy_interface.Operations`."""
        corners, weights, free = self._cells(field, image.shape)
        a, b = image.reshape(-1)[corners].unflatten(0, (2, 4))
        wx, wy, wz = weights
        near, far = _bilinear(a, wy, wz), _bilinear(b, wy, wz)
        by_y = torch.lerp(_slope_first(a, wz), _slope_first(b, wz), wx)
        by_z = torch.lerp(_slope_second(a, wy), _slope_second(b, wy), wx)
        return torch.lerp(near, far, wx), torch.stack([far - near, by_y, by_z]) * free

    def slopes(self, image: Any) -> Any:
        """See `greedy_interface.Operations`."""
        parts = [
            torch.gradient(image, dim=axis)[0] if size > 1 else torch.zeros_like(image)
            for axis, size in enumerate(self.shape)
        ]
        return torch.stack(parts)

    def windows(self, image: Any, weight: Any, radius: int) -> Windows:
        """See `greedy_interface.Operations`."""
        first = weight * image
        return Windows(*box_sum(torch.stack([weight, first, first * image]), radius))

    def difference(self, x: Any, y: Any, weight: Any) -> Slopes:
        """See `greedy_interface.Operations`."""
        by_x = weight * (y - x)
        return Slopes(-0.5 * float((by_x * (y - x)).sum(dtype=torch.float64)), by_x, -by_x)

    def lncc(
        self, x: Any, y: Any, weight: Any, centers: Any, windows: Windows, radius: int, floor: float, both: bool
    ) -> Slopes:
        """See `greedy_interface.Operations`."""
        first = weight * x
        sums = box_sum(torch.stack([first, first * x, first * y]), radius)
        values, (a, b, c, d, e) = local_correlation([*windows, *sums], centers, floor)
        a, b, c, d, e = box_sum(torch.stack([a, b, c, d, e]), radius)
        by_y = local_slope(y, x, weight, a, d, e) if both else None
        return Slopes(float(values.sum(dtype=torch.float64)), local_slope(x, y, weight, a, b, c), by_y)

    def information(self, x: Any, y: Any, weight: Any, normalized: bool, both: bool) -> Slopes:
        """See `greedy_interface.Operations`."""
        table = histogram(x, y, weight, BINS)
        if not table.sum() > 0:
            return Slopes(0.0, torch.zeros_like(x), torch.zeros_like(x))
        found = information(table.cpu().numpy(), normalized)
        entries = torch.from_numpy(found.by_entry).to(self.device, self.dtype)
        by_y = table_slope(y, x, weight, entries.T) if both else None
        return Slopes(found.value * float(table.sum()), table_slope(x, y, weight, entries), by_y)

    def force(self, slopes: Slopes, by_space: Any, fixed_by_space: Any, alpha: float, to: Any = None) -> Any:
        """See `greedy_interface.Operations`."""
        result = (1 - alpha) * slopes.by_x * by_space
        if alpha > 0:
            result = result - alpha * slopes.by_y * fixed_by_space
        return result if to is None else to + result

    def smooth(self, field: Any, sigmas: Sequence[float]) -> tuple[Any, float]:
        """See `greedy_interface.Operations`."""
        three = tuple(sigmas) if len(sigmas) == 3 else (sigmas[0], 0.0, sigmas[1])
        values = field.reshape(-1, 1, *self.shape)
        for axis, (sigma, size) in enumerate(zip(three, self.shape)):
            half = gaussian(sigma if size > 1 else 0.0)
            kernel = torch.tensor([*half[:0:-1], *half], device=self.device, dtype=self.dtype)
            reach = len(half) - 1
            if reach:
                before = values.narrow(2 + axis, 0, 1).repeat_interleave(reach, 2 + axis)
                after = values.narrow(2 + axis, size - 1, 1).repeat_interleave(reach, 2 + axis)
                padded = torch.cat([before, values, after], 2 + axis)
                values = F.conv3d(padded, kernel.reshape([-1 if other == axis else 1 for other in (-2, -1, 0, 1, 2)]))
        result = values.reshape(field.shape)
        components = result if result.ndim == 4 else result[None]
        return result, float(components.square().sum(0).max()) ** 0.5

    def scale(self, field: Any, factor: float) -> Any:
        """See `greedy_interface.Operations`."""
        return field * factor

    def compose(self, field: Any, update: Any) -> Any:
        """See `greedy_interface.Operations`."""
        corners, (wx, wy, wz), _ = self._cells(update, self.shape)
        values = field.reshape(3, -1)[:, corners]
        near, far = (_bilinear(face, wy, wz) for face in (values[:, :4].unbind(1), values[:, 4:].unbind(1)))
        return update + torch.lerp(near, far, wx.expand_as(near))

    def affine(self, matrix: Any) -> Any:
        """See `greedy_interface.Operations`."""
        given = torch.as_tensor(matrix, dtype=torch.float64)
        dims = len(self.spatial)
        axes = [torch.arange(size, dtype=torch.float64) for size in self.spatial]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        moved = torch.tensordot(given[:dims, :dims], grid, 1) + given[:dims, dims].reshape(dims, *[1] * dims)
        return self.field(moved - grid)

    def folded(self, field: Any) -> tuple[Any, int]:
        """See `greedy_interface.Operations`."""
        axes = [axis for axis, size in enumerate(self.shape) if size > 1]
        if not axes:
            return torch.zeros(self.shape, device=self.device, dtype=self.dtype), 0
        lines = [torch.arange(size, device=self.device, dtype=self.dtype) for size in self.shape]
        points = (field + torch.stack(torch.meshgrid(*lines, indexing="ij")))[axes]
        shape = [self.shape[axis] for axis in axes]
        if len(axes) == 1:
            marks = points.reshape(shape).diff() <= 0
            marks = F.pad(marks, (0, 1)) | F.pad(marks, (1, 0))
        else:
            marks = folded(points.reshape(len(axes), *shape))
        return marks.to(self.dtype).reshape(self.shape), int(marks.sum())

    def _cells(self, field: Any, shape: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Eight corners of every displaced voxel's cell, weights of the upper ones, and 1 where an axis is inside."""
        lows, weights, free = [], [], []
        for axis, size in enumerate(shape):
            line = torch.arange(self.shape[axis], device=self.device, dtype=self.dtype)
            position = field[axis] + line.reshape([-1 if other == axis else 1 for other in range(3)])
            free.append((position > 0) & (position < size - 1))
            position = position.nan_to_num(0.0, posinf=float(size - 1), neginf=0.0).clamp(0, size - 1)
            low = position.long().clamp(0, max(size - 2, 0))
            lows.append(low)
            weights.append(position - low)
        _, width, length = shape
        base = (lows[0] * width + lows[1]) * length + lows[2]
        steps = [step if size > 1 else 0 for step, size in zip((width * length, length, 1), shape)]
        corners = [base + i * steps[0] + j * steps[1] + k * steps[2] for i in (0, 1) for j in (0, 1) for k in (0, 1)]
        return torch.stack(corners), torch.stack(weights), torch.stack(free).to(self.dtype)


def _bilinear(corners: Any, wy: Tensor, wz: Tensor) -> Tensor:
    a, b, c, d = corners
    first, second = torch.lerp(a, b, wz.expand_as(a)), torch.lerp(c, d, wz.expand_as(a))
    return torch.lerp(first, second, wy.expand_as(a))


def _slope_first(corners: Any, wz: Tensor) -> Tensor:
    a, b, c, d = corners
    return torch.lerp(c, d, wz) - torch.lerp(a, b, wz)


def _slope_second(corners: Any, wy: Tensor) -> Tensor:
    a, b, c, d = corners
    return torch.lerp(b - a, d - c, wy)
