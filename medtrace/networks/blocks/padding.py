"""Padding to a size that a network's strides divide, and back."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F


def pad_to_multiple(image: Tensor, multiple: int, minimum: int = 1) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Pad every spatial axis by repeating the border until `multiple` divides it.

    Args:
        image: (B, C, *spatial).
        multiple: what shall divide every axis, at least 1.
        minimum: the least extent of an axis after padding.

    Returns:
        The padded image, and a function that crops any (B, C', *padded) tensor back to `image`'s grid.
    """
    shape = image.shape[2:]
    pads: list[int] = []
    for extent in reversed(shape):
        missing = max(-(-extent // multiple) * multiple, minimum) - extent
        pads += [missing // 2, missing - missing // 2]
    if not any(pads):
        return image, lambda tensor: tensor
    starts = pads[0::2][::-1]

    def crop(tensor: Tensor) -> Tensor:
        for axis, (start, extent) in enumerate(zip(starts, shape), start=2):
            tensor = tensor.narrow(axis, start, extent)
        return tensor

    return F.pad(image, pads, mode="replicate"), crop
