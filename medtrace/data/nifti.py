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


def read_nifti(path: str | Path, volume: str | int | None = None) -> MetaTensor:
    """Read a volume by nibabel, its header by `medtrace.geometry.volume`.

    Args:
        path: a file with an ending of `guard.volume_files.VOLUMES`.
        volume: which of the volumes that a file of four axes holds, from 1; None takes all as channels.

    Returns:
        float32 (C, X, Y, Z), of one volume (1, X, Y, Z), with its affine and, in its meta data, the path.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, or holds no such volume; the message names it.
    """
    path = Path(path)
    values, affine, _ = read_volume(path)
    channels = channels_first(path, values)
    if volume is not None:
        channels = _one_volume(path, channels, volume)
    image = torch.from_numpy(np.ascontiguousarray(channels, dtype=np.float32))
    return MetaTensor(image, affine=torch.from_numpy(affine), meta={"filename_or_obj": str(path)})


def _one_volume(path: Path, channels: np.ndarray, volume: str | int) -> np.ndarray:
    count = channels.shape[0]
    if count == 1:
        raise ValueError(
            f"{path}: series: expected none, received {volume!r}; only a DICOM folder or a file with four axes holds"
            " several"
        )
    number = str(volume).strip()
    if not number.isdecimal() or not 1 <= int(number) <= count:
        raise ValueError(f"{path}: series: expected one of its volumes, 1 to {count}, received {volume!r}; choose one")
    return channels[int(number) - 1 : int(number)]


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
