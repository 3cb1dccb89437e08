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
from torch.nn import functional as F

DATA = Path(os.environ.get("MEDTRACE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
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
    """A head at 1 mm."""
    file = nibabel.load(DATA / "open_ms" / "mni" / name / f"{contrast}.nii.gz")
    image = torch.from_numpy(file.get_fdata(dtype=np.float32))[None]
    return Head(name, contrast, image, torch.from_numpy(file.affine))


def segmented(one: Head) -> Tensor:
    """17 structures of a T1 at 1 mm, (1, X, Y, Z) uint8, by the network of `meshnet`; kept in the temporary folder.

    The array axes must lead left, anterior and superior, as those of the shared heads do.
    """
    digest = hashlib.sha256(one.image.numpy().tobytes()).hexdigest()[:16]
    kept = Path(tempfile.gettempdir()) / f"medtrace-structures-{digest}.npy"
    if not kept.exists():
        np.save(kept, _segment(one.image).numpy())
    return torch.from_numpy(np.load(kept))


def _segment(image: Tensor) -> Tensor:
    volume = image[0].clamp_min(0).permute(0, 2, 1).flip(1)  # left, inferior, anterior
    inside = (volume > 0).nonzero()
    low, high = (inside.min(0).values - 18).clamp_min(0), inside.max(0).values + 19
    cut = tuple(slice(int(a), int(b)) for a, b in zip(low, high))
    x = volume[cut]
    x = (x / torch.quantile(x[x > 0][::7], 0.98) * 0.85)[None, None]
    weights = {name: torch.from_numpy(value) for name, value in np.load(DATA / "meshnet" / "subcortical18.npz").items()}
    with torch.inference_mode():
        for layer, dilation in enumerate((1, 2, 4, 8, 16, 8, 4, 2, 1)):
            x = F.conv3d(x, weights[f"weight{layer}"], weights[f"bias{layer}"], padding=dilation, dilation=dilation)
            x = F.elu(x, inplace=True)
        last, bias = weights["weight9"].reshape(STRUCTURES, -1), weights["bias9"][:, None, None]
        planes = [torch.einsum("oc,cyz->oyz", last, x[0, :, k]) + bias for k in range(x.shape[2])]
        result = torch.stack([plane.argmax(0) for plane in planes])
    labels = torch.zeros_like(volume, dtype=torch.uint8)
    labels[cut] = result.byte()
    return labels.flip(1).permute(0, 2, 1).contiguous()[None]


def mean_dice(first: Tensor, second: Tensor) -> float:
    """Mean Dice of the 17 structures."""
    values = []
    for label in range(1, STRUCTURES):
        a, b = first == label, second == label
        values.append(2 * float((a & b).sum()) / max(float(a.sum() + b.sum()), 1.0))
    return sum(values) / len(values)
