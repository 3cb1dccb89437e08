"""Linear reads of an image at positions, clamped to the grid: operators with a gradient, compiled for the CPU."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from medtrace.kernels import choice, threads
from medtrace.kernels.layout import plain

ROW = 256
"""Positions per row where they are not grid."""

choice.OPERATIONS["warp, sample, compose"] = "CPU, linear, border"


class Layout(NamedTuple):
    """The processing of a read's positions (B, D, N)."""

    length: int
    """Positions in a row."""
    per_plane: int
    """Rows in a plane of the first axis."""
    rows: int
    """Rows of one batch item."""
    move: int
    """1 where the numbers are displacements on the image's grid, 0 where they are positions."""


def read(image: Tensor, field: Tensor, *, displaced: bool, add: bool = False) -> Tensor:
    """Read an image linearly at positions, clamped to the grid.

    Args:
        image: (B, C, H, W) or (B, C, H, W, D), float32 or float64, on the CPU.
        field: (B, spatial_dims, *out) of its type: positions in voxels, or displacements on the image's grid.
        displaced: whether the field holds displacements.
        add: whether to add the field to what is read, as compositions need.

    Returns:
        (B, C, *out). Gradients reach both, as far as they require one.
    """
    result: Tensor = _read(image, field, displaced, add)
    return result


@torch.library.custom_op("medtrace::read", mutates_args=(), device_types="cpu")
def _read(image: Tensor, field: Tensor, displaced: bool, add: bool) -> Tensor:
    image, field = plain(image), plain(field)
    out = image.new_empty((*image.shape[:2], *field.shape[2:]))
    read_into(image, field, out, displaced=displaced, add=add)
    return out


@_read.register_fake
def _(image: Tensor, field: Tensor, *_: bool) -> Tensor:
    return image.new_empty((*image.shape[:2], *field.shape[2:]))


def read_into(image: Tensor, field: Tensor, out: Tensor, *, displaced: bool, add: bool) -> None:
    """As `read`, of contiguous tensors without a gradient, into `out`."""
    lay = _layout(image, field, displaced)
    loops = _loops(image.ndim - 2)
    arrays = (image.numpy(), _flat(field), _flat(out))
    move = arrays[1].dtype.type(lay.move)

    def task(begin: int, end: int) -> None:
        loops.read_rows(*arrays, lay.length, lay.per_plane, move, add, begin, end)

    threads.run(task, threads.pieces(image.shape[0] * lay.rows, out.numel()))


@torch.library.custom_op("medtrace::read_backward", mutates_args=(), device_types="cpu")
def _read_backward(
    grad: Tensor, image: Tensor, field: Tensor, displaced: bool, add: bool, for_image: bool, for_field: bool
) -> tuple[Tensor, Tensor]:
    grad, image, field = plain(grad), plain(image), plain(field)
    grad_image = torch.empty_like(image) if for_image else image.new_empty(0)
    grad_field = torch.empty_like(field) if for_field else field.new_empty(0)
    write_gradients(grad, image, field, grad_image, grad_field, displaced=displaced, add=add)
    return grad_image, grad_field


@_read_backward.register_fake
def _(
    _grad: Tensor, image: Tensor, field: Tensor, _displaced: bool, _add: bool, for_image: bool, for_field: bool
) -> tuple[Tensor, Tensor]:
    rows = torch.contiguous_format
    return (
        torch.empty_like(image, memory_format=rows) if for_image else image.new_empty(0),
        torch.empty_like(field, memory_format=rows) if for_field else field.new_empty(0),
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001 - torch passes it by name
    image, field, ctx.displaced, ctx.add = inputs
    ctx.save_for_backward(image, field)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
    image, field = ctx.saved_tensors
    wanted = ctx.needs_input_grad[:2]
    grads = _read_backward(grad, image, field, ctx.displaced, ctx.add, *wanted)
    return (grads[0] if wanted[0] else None, grads[1] if wanted[1] else None, None, None)


_read.register_autograd(_backward, setup_context=_setup)


def write_gradients(
    grad: Tensor, image: Tensor, field: Tensor, grad_image: Tensor, grad_field: Tensor, *, displaced: bool, add: bool
) -> None:
    """Write the gradients of `read` to `grad_image` and `grad_field`; an empty one is not asked for.

    The bytes do not depend on the number of threads. The two may be one tensor where the image is the field itself
    and holds displacements: it receives their sum.
    """
    lay = _layout(image, field, displaced)
    loops = _loops(image.ndim - 2)
    none = np.empty(0, image.numpy().dtype)
    to_image = grad_image.numpy() if grad_image.numel() else none.reshape((0,) * image.ndim)
    to_field = _flat(grad_field) if grad_field.numel() else none.reshape(0, 0, 0)
    arrays = (image.numpy(), _flat(field), _flat(grad), to_image, to_field)
    move = arrays[1].dtype.type(lay.move)
    count, total = image.shape[0] * image.shape[2], image.shape[0] * lay.rows
    planes = threads.pieces(count, grad.numel())

    def task(low: int, high: int) -> None:
        # rows of the planes that this thread owns, or rows shared as evenly as possible
        begin, end = (end_ * total // count for end_ in (low, high))
        loops.read_rows_backward(
            *arrays, grad_image is grad_field, lay.length, lay.per_plane, move, add, begin, end, low, high
        )

    threads.run(task, planes)


def _layout(image: Tensor, field: Tensor, displaced: bool) -> Layout:
    if displaced:
        length = image.shape[-1]
        per_plane = image.shape[3] if image.ndim == 5 else 1
        return Layout(length, per_plane, image.shape[2] * per_plane, 1)
    count = field[0, 0].numel()
    return Layout(ROW, 1, -(-count // ROW), 0)


def _flat(tensor: Tensor) -> Any:
    return tensor.numpy().reshape(*tensor.shape[:2], -1)


def _loops(spatial_dims: int) -> Any:
    """Imported at the first use, because numba takes half a second."""
    if spatial_dims == 2:
        from medtrace.kernels import warp_2d as loops
    else:
        from medtrace.kernels import warp_3d as loops  # type: ignore[no-redef]
    return loops
