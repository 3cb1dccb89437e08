"""Joint histograms with Parzen windows: an operator with a gradient, compiled for the CPU or in plain torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from medtrace.kernels import choice, parzen_torch, threads
from medtrace.kernels.parzen_window import ParzenKernel, ParzenWindow

PIECE = 1 << 16
"""Voxels of a row that are worth their own histogram."""

PIECES = 32
"""Histograms at most, if there are fewer rows; what is added where follows from the shape, not from the threads."""

choice.OPERATIONS["joint histogram (mutual information)"] = "CPU, cubic window"


def counts(x: Tensor, y: Tensor, mask: Tensor | None, window: ParzenWindow) -> Tensor:
    """Unnormalized joint histograms of two images, one per row, differentiable once in both images.

    Args:
        x: first image, (rows, voxels), float32 or float64; intensities outside the window's range count as its ends.
        y: second image, the same shape and type.
        mask: weights >= 0 of the voxels, (rows, voxels) in the images' type, or None; constants of the gradient.
        window: bins and kernel.

    Returns:
        (rows, bins, bins) in float64: the same bytes for the same input, whatever the number of threads.

    Raises:
        NotImplementedError: inside forward-mode differentiation, which the operator has no rule for.
    """
    if not torch.compiler.is_compiling() and (_has_tangent(x) or _has_tangent(y)):
        raise NotImplementedError(
            "joint histogram: expected images without forward-mode tangents; take its derivatives backward, by"
            " torch.autograd.grad"
        )
    low, high = window.value_range
    table: Tensor = _counts(x, y, mask, window.num_bins, low, high, str(window.kernel), window.sigma)
    return table


@torch.library.custom_op("medtrace::parzen_counts", mutates_args=())
def _counts(
    x: Tensor, y: Tensor, mask: Tensor | None, num_bins: int, low: float, high: float, kernel: str, sigma: float
) -> Tensor:
    window = ParzenWindow(num_bins, (low, high), ParzenKernel(kernel), sigma)
    if _is_for_loops(x, y, window):
        return _counts_by_loops(x, y, mask, window)
    return parzen_torch.counts(*_contiguous(x, y, mask), window)


@_counts.register_fake
def _(x: Tensor, _y: Tensor, _mask: Tensor | None, num_bins: int, *_: float | str) -> Tensor:
    return x.new_empty((x.shape[0], num_bins, num_bins), dtype=torch.float64)


@torch.library.custom_op("medtrace::parzen_gradients", mutates_args=())
def _gradients(
    x: Tensor,
    y: Tensor,
    mask: Tensor | None,
    table: Tensor,
    low: float,
    high: float,
    kernel: str,
    sigma: float,
    wants_x: bool,
    wants_y: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients by x and y, given the one by the histogram; one that is not wanted has shape (0,)."""
    window = ParzenWindow(table.shape[1], (low, high), ParzenKernel(kernel), sigma)
    if _is_for_loops(x, y, window):
        return _gradients_by_loops(x, y, mask, table, window, (wants_x, wants_y))
    return parzen_torch.gradients(*_contiguous(x, y, mask), table, window, (wants_x, wants_y))


@_gradients.register_fake
def _(x: Tensor, y: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    *_, wants_x, wants_y = arguments
    return x.new_empty(x.shape if wants_x else (0,)), y.new_empty(y.shape if wants_y else (0,))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001 - torch passes it by name
    x, y, mask, _, *settings = inputs
    ctx.save_for_backward(x, y, mask)
    ctx.settings = settings


def _go_back(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, y, mask = ctx.saved_tensors
    wanted = ctx.needs_input_grad[:2]
    gradients = _gradients(x, y, mask, grad, *ctx.settings, *wanted)
    by_x, by_y = (gradient if wish else None for gradient, wish in zip(gradients, wanted))
    return by_x, by_y, None, None, None, None, None, None


_counts.register_autograd(_go_back, setup_context=_keep)


def _has_tangent(image: Tensor) -> bool:
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(image).tangent is not None


def _is_for_loops(x: Tensor, y: Tensor, window: ParzenWindow) -> bool:
    return window.kernel is ParzenKernel.CUBIC and choice.takes_compiled(x, y)


def _counts_by_loops(x: Tensor, y: Tensor, mask: Tensor | None, window: ParzenWindow) -> Tensor:
    from medtrace.kernels.parzen_loops import add_counts  # compiles: only where it is used

    a, b, weights = _array(x), _array(y), _weights(x, mask)
    rows, voxels = a.shape
    per_row = max(1, min(voxels // PIECE, PIECES // rows))
    histograms = torch.zeros((rows, per_row, window.num_bins, window.num_bins), dtype=torch.float64)
    parts = histograms.numpy()

    def task(begin: int, end: int) -> None:
        for row, piece in (divmod(number, per_row) for number in range(begin, end)):
            part = slice(piece * voxels // per_row, (piece + 1) * voxels // per_row)
            arrays = a[row, part], b[row, part], weights[row, part]
            add_counts(*arrays, window.value_range[0], window.scale, parts[row, piece])

    threads.run(task, threads.pieces(rows * per_row, a.size))
    return histograms[:, 0] if per_row == 1 else torch.from_numpy(parts.sum(1))


def _gradients_by_loops(
    x: Tensor, y: Tensor, mask: Tensor | None, table: Tensor, window: ParzenWindow, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    from medtrace.kernels.parzen_loops import look_up

    rows, voxels = x.shape
    results = tuple(x.new_empty((rows, voxels if wish else 0)) for wish in wanted)
    a, b, weights, entries = _array(x), _array(y), _weights(x, mask), _array(table)
    by_x, by_y = (result.numpy() for result in results)

    def task(begin: int, end: int) -> None:
        for row in range(begin // voxels, -(-end // voxels)):
            part = slice(max(begin - row * voxels, 0), min(end - row * voxels, voxels))
            arrays = (array[row, part] for array in (a, b, weights))
            out = (array[row, part] for array in (by_x, by_y))
            look_up(*arrays, window.value_range[0], window.scale, entries[row], *out)

    threads.run(task, threads.pieces(rows * voxels, rows * voxels))
    for_x, for_y = (result if wish else result.view(0) for result, wish in zip(results, wanted))
    return for_x, for_y


def _contiguous(x: Tensor, y: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    return x.contiguous(), y.contiguous(), None if mask is None else mask.contiguous()


def _array(values: Tensor) -> Any:
    return values.detach().contiguous().numpy()


def _weights(x: Tensor, mask: Tensor | None) -> Any:
    """The mask, or weights of no voxel."""
    return _array(x.new_empty((x.shape[0], 0)) if mask is None else mask)
