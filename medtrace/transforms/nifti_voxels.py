"""The voxel values of a NIfTI file without their positions, for statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checks import check_finite
from ..guard.volume_files import open_volume
from .naming import REPLACE, first_line, named


def nifti_voxels(name: str, image: Any) -> Tensor | None:
    """The voxels of a NIfTI file in the order in which they lie there, scaled as its header says.

    Orientation, geometry and a copy into another order, which take most of an image's reading time, are skipped. Voxels
    that need no scaling stay in the file and are read on access.

    Args:
        name: the argument's name, for messages.
        image: anything; only a path of a `.nii` file of real numbers on 2 to 4 axes is read.

    Returns:
        (N,) float32, or None if the image is left to the general reader.

    Raises:
        ValueError: if the file is damaged, is shorter than its header claims, or has numbers that are not finite; the
            message names it.
    """
    if not isinstance(image, (str, Path)) or not str(image).lower().endswith(".nii"):
        return None
    path = Path(image)
    if not path.is_file():
        return None
    try:
        with open_volume(path) as (opened, _):
            stored: Any = opened
            if stored.get_data_dtype().kind not in "iuf" or len(stored.shape) not in (2, 3, 4):
                return None
            values = np.asanyarray(stored.dataobj).reshape(-1, order="F")  # in file order: no copy
    except Exception as error:  # nibabel and its unpackers may raise any error on a broken file
        raise ValueError(
            f"{name}: expected a readable image file, received {path}: {first_line(error)}; check the file"
        ) from error
    voxels = torch.from_numpy(np.asarray(values, dtype=np.float32))
    check_finite(named(name, path), voxels, REPLACE)
    return voxels
