"""NIfTI and FreeSurfer volumes as images of MONAI, alone and in the items of a data set."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from medtrace.geometry.volume import channels_first, read_volume


def read_nifti(path: str | Path) -> MetaTensor:
    """Read a volume by nibabel, its header by `medtrace.geometry.volume`.

    Args:
        path: a file with an ending of `guard.volume_files.VOLUMES`.

    Returns:
        float32 (C, X, Y, Z) with its affine and, in its meta data, the path.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read; the message names it.
    """
    path = Path(path)
    values, affine, _ = read_volume(path)
    image = torch.from_numpy(np.ascontiguousarray(channels_first(path, values), dtype=np.float32))
    return MetaTensor(image, affine=torch.from_numpy(affine), meta={"filename_or_obj": str(path)})


class ReadNiftid(MapTransform):
    """Read the volumes that an item names, by the reader of all other images."""

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Apply to a dict."""
        items = dict(data)
        for key in self.key_iterator(items):
            items[key] = read_nifti(items[key])
        return items
