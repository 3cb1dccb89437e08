"""Padding to a size that a network's strides divide, and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from medtrace.checks import sizes_are_symbols


def pad_to_multiple(image: Tensor, multiple: int, minimum: int = 1) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Pad every spatial axis by repeating the border until `multiple` divides it.

    Args:
        image: (B, C, *spatial).
        multiple: number that divides every axis after padding, at least 1.
        minimum: minimum extent of an axis after padding.

    Returns:
        The padded image, and a function that crops any (B, C', *padded) tensor back to `image`'s grid.
    """
    shape = image.shape[2:]
    pads: list[int] = []
    for extent in reversed(shape):
        missing = max((extent + multiple - 1) // multiple * multiple, minimum) - extent
        pads += [missing // 2, missing - missing // 2]
    starts = pads[0::2][::-1]
    if sizes_are_symbols():
        return _gathered(image, pads, starts), lambda tensor: crop(tensor, starts, shape)
    if not any(pads):
        return image, lambda tensor: tensor
    return F.pad(image, pads, mode="replicate"), lambda tensor: crop(tensor, starts, shape)


def crop(tensor: Tensor, starts: Sequence[int], shape: Sequence[int]) -> Tensor:
    """The part of a tensor (B, C, *spatial) that begins at `starts` and has the spatial `shape`.

    Example:
        >>> crop(torch.arange(5.0).reshape(1, 1, 5), [1], [3])
        tensor([[[1., 2., 3.]]])
    """
    for axis, (start, extent) in enumerate(zip(starts, shape), start=2):
        if sizes_are_symbols():  # a view's strides would depend on whether there is something to crop
            tensor = tensor.index_select(axis, torch.arange(extent, device=tensor.device) + start)
        else:
            tensor = tensor.narrow(axis, start, extent)
    return tensor


def _gathered(image: Tensor, pads: Sequence[int], starts: Sequence[int]) -> Tensor:
    """The padded image by indices: no stride of memory depends on whether there is something to pad."""
    ends = pads[1::2][::-1]
    for axis, (start, end) in enumerate(zip(starts, ends), start=2):
        extent = image.shape[axis]
        places = torch.arange(start + extent + end, device=image.device) - start
        image = image.index_select(axis, places.clamp(min=0).minimum(torch.full_like(places, 1) * (extent - 1)))
    return image
