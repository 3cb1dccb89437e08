"""A digest of an image's voxels that other files of the same image share."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Words = npt.NDArray[np.uint64]

_ODD = np.uint64(0x9E3779B97F4A7C15)
_SECOND_ODD = np.uint64(0xD6E8FEB86659FD93)
_SHIFT = np.uint64(32)
_CHUNK = 1 << 22


def fingerprint(image: Tensor) -> str:
    """Digest of an image's values and of how they lie to one another, in whatever orientation.

    It is the same for a copy that was compressed, renamed, given another header, reoriented (axes exchanged, flipped),
    stored with the same values in another data type or file format, or padded or cropped by planes of its lowest
    value. It differs for one that was resampled, filtered, masked or rescaled.

    Args:
        image: (C, *spatial), any units; axes of length 1 do not count.

    Returns:
        40 hexadecimal digits.

    Example:
        >>> image = torch.arange(24.0).reshape(1, 2, 3, 4)
        >>> fingerprint(image) == fingerprint(image.flip(1).transpose(2, 3))
        True
        >>> fingerprint(image) == fingerprint(image + 1)
        False
    """
    total = hashlib.blake2b(digest_size=20)
    for channel in image:
        values = np.ascontiguousarray(channel.detach().cpu().to(torch.float32).numpy())
        for profile in _profiles(_cropped(values.reshape([size for size in values.shape if size > 1] or [1]))):
            total.update(profile)
    return total.hexdigest()


def _cropped(values: np.ndarray) -> np.ndarray:
    """Without the outer planes that hold the lowest value alone."""
    low = values.min()
    inside = values != low
    if not inside.any():
        return values
    window = []
    for axis in range(values.ndim):
        filled = np.flatnonzero(inside.any(tuple(other for other in range(values.ndim) if other != axis)))
        window.append(slice(filled[0], filled[-1] + 1))
    return np.ascontiguousarray(values[tuple(window)])


def _profiles(values: np.ndarray) -> list[bytes]:
    """Per axis the sums, modulo 2⁶⁴, of the scrambled values of its planes; free of order and direction of the axes.

    Whole numbers are summed, so the order of summation does not matter.
    """
    words = _scrambled(values.ravel()).reshape(values.shape)
    result = []
    for axis in range(values.ndim):
        others = tuple(other for other in range(values.ndim) if other != axis)
        sums = words.sum(axis=others, dtype=np.uint64)
        result.append(min(sums.tobytes(), sums[::-1].tobytes()))
    return sorted(result)


def _scrambled(values: np.ndarray) -> Words:
    """A 64-bit word for each value, whose sums tell other values apart."""
    words = np.empty(values.shape, dtype=np.uint64)
    for start in range(0, len(values), _CHUNK):
        bits = (values[start : start + _CHUNK] + np.float32(0)).view(np.uint32).astype(np.uint64)  # no -0
        for odd in (_ODD, _SECOND_ODD):
            bits += np.uint64(1)
            bits *= odd
            bits ^= bits >> _SHIFT
        words[start : start + _CHUNK] = bits
    return words
