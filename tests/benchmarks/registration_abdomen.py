"""An abdominal MR to the abdominal CT of another person: overlap of the organs, as it is.

    python -m tests.benchmarks.registration_abdomen

All settings are the defaults. Labels are a network's, not a person's; those of the CT cover its top 30 slices (3 mm),
where the Dice of the organs of 100 voxels or more in either label map is taken.
"""

from __future__ import annotations

import csv
import time
from typing import Any

import nibabel
import numpy as np
import torch
from torch import Tensor

from medtrace.fields import identity_grid, sample
from medtrace.kernels.between_grids import between_grids
from medtrace.registration import register_images
from tests.real_heads import DATA

LEAST = 100
"""Voxels."""


def load(name: str) -> tuple[Any, Tensor]:
    """Values and affine of a file."""
    file = nibabel.load(DATA / "abdomen" / f"{name}.nii.gz")
    return np.asarray(file.dataobj), torch.from_numpy(file.affine)


def organs() -> dict[str, tuple[int, int]]:
    """Name and label in the MR's and the CT's map, of organs that both show."""
    found: dict[str, dict[str, int]] = {"MR": {}, "CT": {}}
    with open(DATA / "abdomen" / "labels.csv", newline="") as file:
        for row in csv.DictReader(file):
            if int(row["voxels"]) >= LEAST:
                found[row["image"]][row["name"]] = int(row["label"])
    return {name: (label, found["CT"][name]) for name, label in found["MR"].items() if name in found["CT"]}


def main() -> None:
    torch.set_num_threads(1)
    (mr, mr_affine), (ct, ct_affine) = load("MR"), load("CT")
    (mr_labels, moving_grid), (ct_labels, fixed_grid) = load("MR_labels"), load("CT_labels")
    moving, fixed = (torch.from_numpy(one.astype(np.float32))[None] for one in (mr, ct))
    started = time.process_time()
    found = register_images(moving, fixed, mr_affine, ct_affine)
    seconds = time.process_time() - started
    to_ct, to_labels = torch.linalg.inv(ct_affine) @ fixed_grid, torch.linalg.inv(moving_grid) @ ct_affine
    flat = torch.from_numpy(mr_labels.astype(np.float32))[None, None]
    overlaps = []
    for ddf in (torch.zeros_like(found.ddf), found.ddf):
        there = between_grids(ddf, None, (to_ct.numpy(), to_labels.numpy()), ct_labels.shape)
        places = there + identity_grid(ct_labels.shape)
        carried = sample(flat, places[None], mode="nearest", padding_mode="zeros")[0, 0].numpy()
        pairs = [(carried == own, ct_labels == other) for own, other in organs().values()]
        overlaps.append([2 * float((a & b).sum()) / float(a.sum() + b.sum()) for a, b in pairs])
    print(f"{found.verdict.text()}\n\n{found.alignment.kind}: {found.alignment.reason}; {found.settings_reason}.")
    print(f"{seconds:.1f} CPU s\n\n| organ | as the headers say | registered |\n|---|---|---|")
    for name, before, after in zip(organs(), *overlaps):
        print(f"| {name.replace('_', ' ')} | {before:.2f} | {after:.2f} |")
    print(f"| mean of {len(overlaps[0])} | {np.mean(overlaps[0]):.2f} | {np.mean(overlaps[1]):.2f} |")


if __name__ == "__main__":
    main()
