"""Structures of a T1 as an independent network sees them: what measures a translation to T1 without having made it.

The network is a MeshNet of brainchop (Masoud, Hu, Plis, JOSS 2023, doi 10.21105/joss.05098; MIT): ten 3D convolutions,
nine of kernel 3 with growing and shrinking dilation and ELU, and one of kernel 1. Its weights are the user's file, an
`.npz` with `weight0` ... `weight9` as (out, in, 3 axes) and `bias0` ... `bias9`; beside it `labels.csv` has the names.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medtrace.geometry.resampling import Reorientation

FOLDER, WEIGHTS, NAMES = "meshnet", "subcortical18.npz", "labels.csv"
DILATIONS = (1, 2, 4, 8, 16, 8, 4, 2, 1)
MARGIN = 18
"""Voxels around the brain that the network is given; the full grid changes volumes by 1 %."""
QUANTILE, SCALE = 0.98, 0.85
"""A brain without skull is divided by this quantile of its values above 0, times the scale."""
SAMPLED = 7
"""One voxel of so many is read for the quantile."""


@dataclass(frozen=True)
class StructureNetwork:
    """The weights of a MeshNet and the names of its labels.

    Attributes:
        weights: `weight0` ... and `bias0` ..., float32.
        names: label → name, without the background's 0.
    """

    weights: Mapping[str, Tensor]
    names: Mapping[int, str]

    @classmethod
    def load(cls, folder: str | os.PathLike) -> StructureNetwork:
        """Read it from its folder.

        Raises:
            FileNotFoundError: if a file is missing.
            ValueError: if the file holds other arrays.
        """
        file, table = Path(folder) / WEIGHTS, Path(folder) / NAMES
        if not file.is_file() or not table.is_file():
            raise FileNotFoundError(
                f"{folder}: expected {WEIGHTS} and {NAMES}, the MeshNet that labels T1s, received a folder without"
                " them; put them there, or choose a study that needs no labels"
            )
        with np.load(file, allow_pickle=False) as saved:
            weights = {name: torch.from_numpy(saved[name]).float() for name in saved.files}
        wanted = {f"{kind}{layer}" for kind in ("weight", "bias") for layer in range(len(DILATIONS) + 1)}
        if set(weights) != wanted:
            raise ValueError(f"{file}: expected the arrays {sorted(wanted)}, received {sorted(weights)}")
        with table.open(encoding="utf-8") as lines:
            names = {int(row["label"]): row["name"] for row in csv.DictReader(lines)}
        return cls(weights, {label: name for label, name in names.items() if label})

    def segment(self, image: Tensor, affine: Tensor) -> Tensor:
        """Labels (1, *spatial) uint8 of a T1 without skull.

        Args:
            image: (1, *spatial), background 0 (negative values count as 0), voxels of 1 mm.
            affine: (4, 4), voxel to RAS mm.

        Raises:
            ValueError: if it has no voxel above 0.
        """
        plan = Reorientation.to_ras(affine, image.shape[1:], None)
        turned = plan.apply(image.float())[0].clamp_min(0)
        volume = turned.permute(0, 2, 1).flip(0, 1)  # left, inferior, anterior
        inside = (volume > 0).nonzero()
        if not len(inside):
            raise ValueError("image: expected a brain above 0, received no voxel above 0; give a T1 without skull")
        low, high = (inside.min(0).values - MARGIN).clamp_min(0), inside.max(0).values + MARGIN + 1
        cut = tuple(slice(int(a), int(b)) for a, b in zip(low, high))
        labels = torch.zeros_like(volume, dtype=torch.uint8)
        labels[cut] = self._labels(volume[cut])
        return plan.undo(labels.flip(0, 1).permute(0, 2, 1)[None].contiguous())

    @torch.inference_mode()
    def _labels(self, volume: Tensor) -> Tensor:
        values = volume[volume > 0][::SAMPLED].numpy()
        x = (volume / (float(np.quantile(values, QUANTILE)) / SCALE))[None, None]
        for layer, dilation in enumerate(DILATIONS):
            weight, bias = self.weights[f"weight{layer}"], self.weights[f"bias{layer}"]
            x = F.elu(F.conv3d(x, weight, bias, padding=dilation, dilation=dilation), inplace=True)
        last, bias = self.weights[f"weight{len(DILATIONS)}"].flatten(1), self.weights[f"bias{len(DILATIONS)}"]
        # Plane by plane, as all labels of a volume at once would take gigabytes.
        planes = [torch.einsum("oc,cyz->oyz", last, x[0, :, k]) + bias[:, None, None] for k in range(x.shape[2])]
        return torch.stack([plane.argmax(0) for plane in planes]).byte()


def structure_dice(labels: Tensor, truth: Tensor, names: Mapping[int, str]) -> dict[str, float]:
    """Dice of every structure that the truth has, by name.

    Example:
        >>> truth = torch.tensor([[0, 1, 1, 2]])
        >>> structure_dice(torch.tensor([[0, 1, 0, 2]]), truth, {1: "thalamus", 2: "caudate", 3: "putamen"})
        {'thalamus': 0.6666666666666666, 'caudate': 1.0}
    """
    result = {}
    for label, name in names.items():
        a, b = labels == label, truth == label
        if b.any():
            result[name] = 2 * float((a & b).sum()) / float(a.sum() + b.sum())
    return result
