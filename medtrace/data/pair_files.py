"""Items that name the files of a pair, as MONAI's data lists and MONAI Label do, or that are subjects of TorchIO, read
as the networks want them."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from typing import Any

from monai.data import MetaTensor
from monai.transforms import MapTransform

from medtrace.data.dataset import DropSliceAxisd
from medtrace.data.nifti import read_nifti
from medtrace.data.preparation.rules import Preparation
from medtrace.data.torchio_subjects import is_subject, item_of_subject

NAMES = {"image": "source", "label": "target"}
"""MONAI's keys → medtrace's."""
_MASKS = ("mask", "source_mask")


class ReadPairFilesd(MapTransform):
    """Read the files that an item names, or the images of a TorchIO `Subject`; an item whose images are read already
    stays as it is.

    Images are scaled to [-1, 1] by the 0.5 and 99.5 percentiles of their foreground. Data with units, several contrasts
    or several scans per case need `medtrace prepare`.

    Args:
        spatial_dims: 2 for files of one slice (X, Y, 1), 3 for volumes.

    Example:
        >>> import torch
        >>> item = {"source": torch.zeros(1, 8, 8)}
        >>> ReadPairFilesd(2)(item) is item
        True
    """

    def __init__(self, spatial_dims: int) -> None:
        super().__init__(("source", "target"), allow_missing_keys=True)
        self.spatial_dims = spatial_dims
        self._rule = Preparation(spatial_dims)
        self._drop = DropSliceAxisd((*self.keys, *_MASKS), allow_missing_keys=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> Mapping[Hashable, Any]:
        """Apply to an item with "image" and "label", or "source" and "target", and perhaps masks.

        Raises:
            FileNotFoundError, ValueError: if a file cannot be read, or holds more than the network reads.
        """
        kinds: tuple[type, ...] = (str, os.PathLike)
        if is_subject(data):
            data, kinds = item_of_subject(data), (*kinds, MetaTensor)
        named = {key: value for key, value in data.items() if isinstance(value, kinds)}
        named = {NAMES.get(str(key), str(key)): value for key, value in named.items()}
        wanted = {key: named[key] for key in (*self.keys, *_MASKS) if key in named}
        if not wanted:
            return data
        items: dict[Hashable, Any] = {str(key): value for key, value in data.items() if key not in NAMES}
        for key, given in wanted.items():
            image = given if isinstance(given, MetaTensor) else read_nifti(str(given))
            if key not in _MASKS:
                values, _ = self._rule.normalize(image)
                image = MetaTensor(values, affine=image.affine, meta=image.meta)
            items[key] = image
        return self._drop(items) if self.spatial_dims == 2 else items
