"""Names of images in messages: the argument, and the file it was read from if known."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data.meta_obj import get_track_meta
from monai.data.meta_tensor import MetaTensor
from monai.transforms import LoadImage
from monai.utils.misc import ensure_tuple_rep
from monai.utils.type_conversion import convert_to_tensor
from torch import Tensor

from ..checks import check_finite, check_number
from ..geometry.volume import channels_first, read_volume
from ..guard.volume_files import VOLUMES
from ..trace.validation import as_tensor

REPLACE = "replace them first"
"""What to do with numbers that are not finite."""


def named(name: str, image: Any) -> str:
    """`name`, followed by the file's name in brackets where `image` is a path or carries `filename_or_obj`."""
    if isinstance(image, (str, Path)):
        return f"{name} ({image})"
    file = image.meta.get("filename_or_obj") if isinstance(image, MetaTensor) else None
    return f"{name} ({file})" if isinstance(file, (str, Path)) and str(file) else name


def as_image(name: str, image: Any) -> Tensor:
    """Check that `image` is a channel-first array and return it as a floating tensor that keeps its metadata.

    Args:
        name: the argument's name, for messages.
        image: (C, H, W) or (C, H, W, D), a tensor or NumPy array of real numbers.

    Returns:
        The image as a tensor (a MetaTensor while MONAI tracks metadata); whole numbers become float32.

    Raises:
        TypeError: if it is not an array.
        ValueError: if its rank is wrong, it is empty or holds numbers that are not finite.
    """
    label = named(name, image)
    if not isinstance(image, Tensor) and not hasattr(image, "__array__"):
        raise TypeError(f"{label}: expected a tensor or array, received {type(image).__name__}; load it first")
    tensor: Tensor = convert_to_tensor(image, track_meta=get_track_meta())
    if tensor.ndim not in (3, 4) or tensor.numel() == 0:
        raise ValueError(
            f"{label}: expected (C, H, W) or (C, H, W, D) with at least one voxel, received shape"
            f" {tuple(tensor.shape)}; add the channel axis, for example by EnsureChannelFirst"
        )
    if tensor.is_complex():
        raise TypeError(f"{label}: expected real numbers, received {tensor.dtype}; take the magnitude first")
    if tensor.dtype not in (torch.float32, torch.float64):
        tensor = tensor.float()
    check_finite(label, detached(tensor), REPLACE)
    return tensor


def as_item(data: Any) -> dict[Hashable, Any]:
    """A copy of an item of a dictionary transform.

    Raises:
        TypeError: if it is not a mapping.
    """
    if not isinstance(data, Mapping):
        raise TypeError(f"data: expected a mapping of keys to images, received {type(data).__name__}")
    return dict(data)


def one_per_key(name: str, value: Any, keys: Sequence[Hashable]) -> tuple[Any, ...]:
    """A setting for each key, given once for all keys or one per key.

    Raises:
        ValueError: if there is neither one nor one per key.
    """
    try:
        return tuple(ensure_tuple_rep(value, len(keys)))
    except ValueError as error:
        raise ValueError(f"{name}: expected one, or one for each of {tuple(keys)}, received {value!r}") from error


def check_probability(prob: Any) -> None:
    """Check how often a random transform acts."""
    check_number("prob", prob)
    if not 0 <= prob <= 1:
        raise ValueError(f"prob: expected a number in [0, 1], received {prob!r}")


def detached(tensor: Tensor) -> Tensor:
    """The values as an ordinary tensor, without metadata and gradient."""
    return as_tensor(tensor).detach()


def load_image(name: str, image: Any) -> Any:
    """Return `image`, read if it is a path: a volume with medtrace's reader, others with MONAI's LoadImage.

    Raises:
        ValueError: if the file is missing or cannot be read; the message names it.
    """
    if not isinstance(image, (str, Path)):
        return image
    if not Path(image).exists():
        raise ValueError(f"{name}: expected an image file, received {image}, which does not exist; check the path")
    try:
        if str(image).lower().endswith(VOLUMES):
            values, affine, _ = read_volume(Path(image))
            voxels = np.ascontiguousarray(channels_first(Path(image), values), dtype=np.float32)
            meta = {"filename_or_obj": str(image)}
            return MetaTensor(torch.from_numpy(voxels), affine=torch.from_numpy(affine), meta=meta)
        return LoadImage(image_only=True, ensure_channel_first=True)(image)
    except Exception as error:
        raise ValueError(
            f"{name}: expected a readable image file, received {image}: {first_line(error)}; check the file"
        ) from error


def first_line(error: BaseException) -> str:
    """The first non-empty line of an error's message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
