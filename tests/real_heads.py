"""The two real heads of the shared data, and their structures as an independent network finds them."""

from __future__ import annotations

import hashlib
import os
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import torch
from torch import Tensor

from medtrace.evaluation.real.structures import StructureNetwork

DATA = Path(os.environ.get("MEDTRACE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
TEMPLATE = "icbm152"
STRUCTURES = 18
"""Labels of the network, background included."""


class Head(NamedTuple):
    """One contrast of one head."""

    name: str
    contrast: str
    image: Tensor
    """(1, X, Y, Z) float32."""
    affine: Tensor
    """(4, 4) float64, voxel to RAS mm."""


@lru_cache(maxsize=8)
def head(name: str, contrast: str = "T1") -> Head:
    """A head at 1 mm; TEMPLATE is the T1 of ICBM152 2009a that nilearn's package holds."""
    if name == TEMPLATE:
        from nilearn.datasets import load_mni152_template  # takes two seconds to import

        file = load_mni152_template(resolution=1)
        image = torch.from_numpy(np.asarray(file.dataobj, dtype=np.float32))[None]
        return Head(name, contrast, image, torch.from_numpy(file.affine))
    file = nibabel.load(DATA / "open_ms" / "mni" / name / f"{contrast}.nii.gz")
    image = torch.from_numpy(file.get_fdata(dtype=np.float32))[None]
    return Head(name, contrast, image, torch.from_numpy(file.affine))


def segmented(one: Head) -> Tensor:
    """17 structures of a T1 at 1 mm, (1, X, Y, Z) uint8, by the network of `meshnet`; kept in the temporary folder."""
    digest = hashlib.sha256(one.image.numpy().tobytes()).hexdigest()[:16]
    kept = Path(tempfile.gettempdir()) / f"medtrace-structures-{digest}.npy"
    if not kept.exists():
        np.save(kept, StructureNetwork.load(DATA / "meshnet").segment(one.image, one.affine).numpy())
    return torch.from_numpy(np.load(kept))


def mean_dice(first: Tensor, second: Tensor) -> float:
    """Mean Dice of the 17 structures."""
    values = []
    for label in range(1, STRUCTURES):
        a, b = first == label, second == label
        values.append(2 * float((a & b).sum()) / max(float(a.sum() + b.sum()), 1.0))
    return sum(values) / len(values)
