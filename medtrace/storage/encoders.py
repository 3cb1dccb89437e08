"""Whole files of tensors, arrays and NIfTI images; their libraries write through `medtrace.storage.files`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medtrace.storage.files import atomic_file, atomic_write


def write_states(path: str | os.PathLike, states: Any) -> Path:
    """Write what `torch.load(weights_only=True)` reads: tensors, numbers and names in mappings and lists.

    Args:
        path: the file; its folder is created if missing.
        states: such as a module's `state_dict()`.
    """
    import torch

    return atomic_write(path, lambda file: torch.save(states, file), make_parents=True)


def write_arrays(path: str | os.PathLike, arrays: Mapping[str, Any], *, compressed: bool = False) -> Path:
    """Write a NumPy archive (.npz).

    Args:
        path: the file.
        arrays: name → array; numpy's own name for an array without one is "arr_0".
        compressed: deflate it.
    """
    import numpy as np

    save = np.savez_compressed if compressed else np.savez
    return atomic_write(path, lambda file: save(file, **arrays))


def write_nifti(path: str | os.PathLike, image: Any) -> None:
    """Write a nibabel image as .nii or .nii.gz."""
    import nibabel

    with atomic_file(path) as temporary:
        nibabel.save(image, temporary)
