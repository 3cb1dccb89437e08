"""Livers and their tumors in a folder of DICOM masks for each structure, as in 3D-IRCADb-01: `MASKS_DICOM/liver`."""

from __future__ import annotations

from pathlib import Path

import torch
from monai.data import MetaTensor
from torch import Tensor

from medtrace.data.masks import check_same_grid
from medtrace.data.reading import read_values

LIVER = "liver"
TUMORS = "livertumo*"
NUMBERS = {LIVER: 1, TUMORS: 2}
"""Labels of structures; a tumor is not liver."""


def is_structures(path: Path) -> bool:
    """Whether a path is a folder of structures: it holds folders and no file."""
    return path.is_dir() and not any(entry.is_file() for entry in path.iterdir() if not entry.name.startswith("."))


def tumors_in(folder: Path) -> list[Path]:
    """Masks of tumors of the liver, one or several; of a healthy liver none."""
    return sorted(entry for entry in folder.glob(TUMORS) if entry.is_dir())


def read_structure(folder: Path, image: Tensor, image_path: str | Path) -> Tensor:
    """Read one structure on the grid of an image.

    Args:
        folder: folder of the DICOM masks, in which every value above 0 is inside.
        image: (C, *spatial), the scan.
        image_path: where that came from, for messages.

    Returns:
        Boolean (1, *spatial).

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it cannot be read, or is on another grid; the message names it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; unzip {folder.parent.name}.zip there")
    values = read_values(folder)
    check_same_grid(values, folder, image, image_path)
    inside: Tensor = (values.as_tensor() if isinstance(values, MetaTensor) else values) > 0
    return inside


def read_tumors(folder: Path, image: Tensor, image_path: str | Path) -> Tensor:
    """Read all tumors of a folder of structures, see `read_structure`; nowhere of a healthy liver."""
    result = torch.zeros_like(torch.as_tensor(image)[:1], dtype=torch.bool)
    for tumor in tumors_in(folder):
        result |= read_structure(tumor, image, image_path)
    return result


def read_liver_labels(folder: Path, image: Tensor, image_path: str | Path) -> Tensor:
    """Read liver (1) and tumors (2) of a folder of structures, see `read_structure`, as (1, *spatial) int32."""
    liver = read_structure(folder / LIVER, image, image_path).to(torch.int32)
    return torch.where(read_tumors(folder, image, image_path), NUMBERS[TUMORS], liver * NUMBERS[LIVER])
