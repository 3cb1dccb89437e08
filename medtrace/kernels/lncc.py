"""Squared local correlation of two images: an operator with its exact gradient, compiled for the CPU in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from medtrace.kernels import choice, threads
from medtrace.kernels.greedy_interface import inner_shape
from medtrace.kernels.layout import plain
from medtrace.kernels.similarity_torch import LEAST_WEIGHT, box_sum, local_correlation, local_slope

choice.OPERATIONS["local correlation (LNCC)"] = "CPU, float32"


def local_correlations(x: Tensor, y: Tensor, weight: Tensor, radius: int, floor: float) -> Tensor:
    """Weighted sum of LNCC² over the voxels of every row, differentiable once in both images.

    Args:
        x: (rows, *spatial), two or three axes, float32 or float64.
        y: the same shape and type.
        weight: (rows, *spatial) in their type, at least 0: of the voxels in the windows and of the windows' centers;
            a constant of the gradient.
        radius: radius of the windows, clipped at the border.
        floor: added to the variances, in squared intensities.

    Returns:
        (rows) in float64.

    Raises:
        NotImplementedError: inside forward-mode differentiation, which the operator has no rule for.
    """
    if not torch.compiler.is_compiling() and (_has_tangent(x) or _has_tangent(y)):
        raise NotImplementedError(
            "lncc: expected images without forward-mode tangents; take its derivatives backward, by torch.autograd.grad"
        )
    on = torch.is_grad_enabled()
    values, _, _ = _lncc(x, y, weight, radius, floor, on and x.requires_grad, on and y.requires_grad)
    result: Tensor = values
    return result


def local_signs(x: Tensor, y: Tensor, weight: Tensor, radius: int, floor: float) -> tuple[float, float]:
    """Sums of the local correlations of two images, with their signs and without, weighted at the windows' centers.

    Args:
        x: (*spatial), two or three axes, float32.
        y: likewise.
        weight: likewise, at least 0, of the voxels in the windows and of the centers.
        radius: radius of the windows, clipped at the border.
        floor: added to the variances, in squared intensities.
    """
    first, second, fraction = (plain(image).reshape(inner_shape(x.shape)) for image in (x, y, weight))
    if choice.takes_compiled(x, y, weight):
        work = _Row(tuple(first.shape), radius, floor)
        return work.signs(first.numpy(), second.numpy(), fraction.numpy())
    wx, wy = fraction * first, fraction * second
    moments = torch.stack([fraction, wy, wy * second, wx, wx * first, wx * second])
    count, sy, syy, sx, sxx, sxy = box_sum(moments, radius)
    per, slack = 1 / count.clamp_min(LEAST_WEIGHT), floor * count.clamp_min(1)
    of_x, of_y = ((square - one * one * per).clamp_min(0) + slack for one, square in ((sx, sxx), (sy, syy)))
    local = fraction * (sxy - sx * sy * per) / (of_x * of_y).sqrt()
    return float(local.sum()), float(local.abs().sum())


@torch.library.custom_op("medtrace::lncc", mutates_args=())
def _lncc(
    x: Tensor, y: Tensor, weight: Tensor, radius: int, floor: float, wants_x: bool, wants_y: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums, and the derivatives by x and y; one that is not wanted has shape (0,)."""
    first, second, fraction = (plain(tensor).reshape(-1, *inner_shape(x.shape[1:])) for tensor in (x, y, weight))
    by_loops = x.dtype == torch.float32 and choice.takes_compiled(x, y, weight)
    run = _by_loops if by_loops else _by_torch
    values, by_x, by_y = run(first, second, fraction, radius, floor, wants_x, wants_y)
    none = x.new_empty(0)
    return values, by_x.reshape(x.shape) if wants_x else none, by_y.reshape(x.shape) if wants_y else none.clone()


@_lncc.register_fake
def _(
    x: Tensor, y: Tensor, _weight: Tensor, _radius: int, _floor: float, wants_x: bool, wants_y: bool
) -> tuple[Tensor, Tensor, Tensor]:
    values = x.new_empty(x.shape[0], dtype=torch.float64)
    return values, x.new_empty(x.shape if wants_x else (0,)), y.new_empty(y.shape if wants_y else (0,))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.wants = inputs[-2:]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output[1:])


def _go_back(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    given = [None, None]
    if grad is not None:
        given = [
            grad.to(slope.dtype).reshape(-1, *[1] * (slope.ndim - 1)) * slope if wish else None
            for slope, wish in zip(ctx.saved_tensors, ctx.wants)
        ]
    return (*given, None, None, None, None, None)


_lncc.register_autograd(_go_back, setup_context=_keep)


def _has_tangent(image: Tensor) -> bool:
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(image).tangent is not None


def _by_torch(
    x: Tensor, y: Tensor, weight: Tensor, radius: int, floor: float, wants_x: bool, wants_y: bool
) -> tuple[Tensor, Tensor, Tensor]:
    wx, wy = weight * x, weight * y
    sums = box_sum(torch.stack([weight, wy, wy * y, wx, wx * x, wx * y]), radius)
    values, (a, b, c, d, e) = local_correlation(list(sums), weight, floor)
    total = values.flatten(1).sum(1, dtype=torch.float64)
    if not (wants_x or wants_y):
        return total, x, y
    a, b, c, d, e = box_sum(torch.stack([a, b, c, d, e]), radius)
    return total, local_slope(x, y, weight, a, b, c), local_slope(y, x, weight, a, d, e)


def _by_loops(
    x: Tensor, y: Tensor, weight: Tensor, radius: int, floor: float, wants_x: bool, wants_y: bool
) -> tuple[Tensor, Tensor, Tensor]:
    values = np.empty(x.shape[0])
    by_x, by_y = (torch.empty_like(x) if wish else x.new_empty((x.shape[0], 0)) for wish in (wants_x, wants_y))
    work = _Row(tuple(x.shape[1:]), radius, floor)
    for row in range(x.shape[0]):
        images = x[row].numpy(), y[row].numpy()
        results = [slope[row].numpy() if wish else None for slope, wish in ((by_x, wants_x), (by_y, wants_y))]
        values[row] = work.measure(*images, weight[row].numpy(), *results)
    return torch.from_numpy(values), by_x, by_y


class _Row:
    """Memory for one image pair after the other."""

    def __init__(self, shape: tuple[int, ...], radius: int, floor: float) -> None:
        self.radius, self.floor = radius, np.float32(floor)
        self.planes = threads.pieces(shape[0], int(np.prod(shape)))
        self.sums, self.windows = np.empty((3, *shape), np.float32), np.empty((3, *shape), np.float32)
        self.coefficients = np.empty((5, *shape), np.float32)
        self.between = np.empty(shape, np.float32)
        self.totals = np.empty(shape[0])

    def measure(self, x: Any, y: Any, weight: Any, by_x: Any = None, by_y: Any = None) -> float:
        """The weighted sum; writes the derivatives to what is not None."""
        from medtrace.kernels import lncc_loops as loops  # compiles: only where it is used

        if by_x is None and by_y is not None:
            x, y, by_x, by_y = y, x, by_y, None
        used = 5 if by_y is not None else (0 if by_x is None else 3)
        self._sums(x, y, weight)
        arrays = self.sums, *self.windows, weight
        self._share(loops.coefficient_planes, *arrays, self.floor, self.radius, used, self.coefficients, self.totals)
        if used:
            written = by_x, by_x if by_y is None else by_y
            self._share(loops.slope_planes, x, y, weight, self.coefficients, self.radius, used, *written)
        return float(self.totals.sum())

    def signs(self, x: Any, y: Any, weight: Any) -> tuple[float, float]:
        """See `local_signs`."""
        from medtrace.kernels import lncc_loops as loops

        totals = np.empty((2, x.shape[0]))
        self._sums(x, y, weight)
        self._share(loops.sign_planes, self.sums, *self.windows, weight, self.floor, self.radius, totals)
        return float(totals[0].sum()), float(totals[1].sum())

    def _sums(self, x: Any, y: Any, weight: Any) -> None:
        from medtrace.kernels import lncc_loops as loops

        self._share(loops.product_planes, x, y, weight, self.radius, self.sums)
        first = weight * y
        for part, out in zip((weight, first, first * y), self.windows):
            self._box(part, out)

    def _box(self, values: Any, out: Any) -> None:
        from medtrace.kernels import greedy_loops as loops

        self._share(loops.box_in_planes, values, self.radius, self.between)
        self._share(loops.box_across_planes, self.between, self.radius, out)

    def _share(self, loop: Any, *arrays: Any) -> None:
        threads.run(lambda begin, end: loop(*arrays, begin, end), self.planes)
