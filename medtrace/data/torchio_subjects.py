"""Subjects of TorchIO as MONAI items; TorchIO itself is not needed to read them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from torch import Tensor
from torch.utils.data import Dataset

from medtrace.data.dataset import DropSliceAxisd


def is_torchio_image(value: Any) -> bool:
    """Whether it is an image of TorchIO, whose data are (C, X, Y, Z) and whose affine leads to RAS mm."""
    return type(value).__module__.split(".")[0] == "torchio" and hasattr(value, "data") and hasattr(value, "affine")


def is_subject(item: Any) -> bool:
    """Whether an item is a subject of TorchIO: it holds images of its."""
    return isinstance(item, Mapping) and any(map(is_torchio_image, item.values()))


def item_of_subject(subject: Mapping[Any, Any]) -> dict[Hashable, Any]:
    """A TorchIO subject as a MONAI item.

    Args:
        subject: a `torchio.Subject`, whose images are loaded if they were not.

    Returns:
        Its images as MetaTensors (C, X, Y, Z) with their affine to RAS mm, intensities float32 and labels as they are;
        everything else unchanged. What TorchIO applied to the subject is not in MONAI's record.

    Example:
        >>> item_of_subject({"subject": "a", "age": 40})
        {'subject': 'a', 'age': 40}
    """
    return {str(name): _image(value) if is_torchio_image(value) else value for name, value in subject.items()}


def items_of_subjects(items: Any, spatial_dims: int = 3) -> Any:
    """A data set or list with its TorchIO subjects as MONAI items; one without any as it is.

    Args:
        items: a `torchio.SubjectsDataset`, or any sequence of subjects or items.
        spatial_dims: 2 makes images (C, X, Y) of TorchIO's single slices (C, X, Y, 1).

    Returns:
        A data set of items as `item_of_subject` makes them.
    """
    if not len(items) or not is_subject(items[0]):
        return items
    return _Items(items, spatial_dims)


class _Items(Dataset):
    def __init__(self, subjects: Sequence[Mapping[str, Any]], spatial_dims: int) -> None:
        self.subjects, self.flat = subjects, spatial_dims == 2

    def __len__(self) -> int:
        return len(self.subjects)

    def __getitem__(self, index: int) -> dict[Hashable, Any]:
        item = item_of_subject(self.subjects[index])
        images = [name for name, value in item.items() if isinstance(value, MetaTensor)]
        return DropSliceAxisd(images)(item) if self.flat else item


def _image(image: Any) -> MetaTensor:
    values: Tensor = torch.as_tensor(image.data)
    if getattr(image, "type", "intensity") == "intensity" and not values.is_floating_point():
        values = values.float()
    meta = {"filename_or_obj": str(path)} if (path := getattr(image, "path", None)) else {}
    return MetaTensor(values.clone(), affine=torch.as_tensor(image.affine, dtype=torch.float64), meta=meta)
