"""Real heads of two public data sets of multiple sclerosis, each on one grid and without skull.

Lesjak et al., Neuroinformatics 2017 (cross-sectional, here in MNI axes, doi 10.1007/s12021-017-9348-7) and 2016
(longitudinal), CC-BY, both in https://github.com/muschellij2/open_ms_data. Read in the layout used there, or with
shorter names, in a folder or its subfolder `open_ms`:

- `cross_sectional/MNI/PERSON/{T1,T2,FLAIR}_*regtoMNI.nii.gz`, or `mni/PERSON/{T1,T2,FLAIR}.nii.gz`;
- `longitudinal/raw/PERSON/`, or `longitudinal/PERSON/`, with `{study1,study2}_{T1W,T2W,FLAIR}.nii.gz` and the ITK
  transforms `STUDY_CONTRAST_intrastudy_to_FLAIR.txt` and `STUDY_FLAIR_to_common_space.txt`;
- `longitudinal/coregistered/PERSON/brainmask.nii.gz`, or beside the scans.

The cross-sectional scans are published corrected for their bias field (N4), the longitudinal ones as they were scanned:
a surface coil's brighter rim is not a property of tissue there, but would be learned as one. They are corrected here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from medtrace.data.bias import without_bias
from medtrace.data.nifti import read_nifti
from medtrace.io.nifti import write_image

CONTRASTS = {"T1": "T1W", "T2": "T2W", "FLAIR": "FLAIR"}
MOST_BRAIN_LITERS = 2.2
"""A mask that holds more is none of a brain."""
VALIDATION = "patient04"
"""The person on whose head the settings were chosen; never a test person."""
TEST = ("patient07", "patient19")


@dataclass(frozen=True)
class Head:
    """A head at one date.

    Attributes:
        name: name of head and date.
        person: name of the person; one name in both data sets counts as one person.
        images: contrast → file.
        transforms: contrast → ITK files that are applied one after the other, the last first.
        mask: mask of the brain, on the grid to which images are resampled; None if they are on one grid without skull.
    """

    name: str
    person: str
    images: Mapping[str, Path]
    transforms: Mapping[str, Sequence[Path]]
    mask: Path | None = None


def find_heads(folder: str | os.PathLike) -> tuple[list[Head], list[str]]:
    """The heads in a folder, and why others are left out.

    Raises:
        FileNotFoundError: if there are none.
    """
    root = Path(folder)
    root = root / "open_ms" if (root / "open_ms").is_dir() else root
    heads = [
        Head(f"mni_{person.name}", person.name, _present({c: _in_mni(person, c) for c in CONTRASTS}), {})
        for person in _persons(root / "cross_sectional" / "MNI", root / "mni")
    ]
    left = []
    for person in _persons(root / "longitudinal" / "raw", root / "longitudinal"):
        mask = _mask(person)
        if not mask.is_file():
            left.append(f"longitudinal {person.name}: has no brain mask")
            continue
        liters = _liters(mask)
        if liters > MOST_BRAIN_LITERS:
            left.append(f"longitudinal {person.name}: its mask holds {liters:.1f} liters, which is not a brain")
            continue
        heads += [_dated(person, study, mask) for study in ("study1", "study2")]
    heads = [head for head in heads if "T1" in head.images and len(head.images) > 1]
    if not heads:
        raise FileNotFoundError(
            f"{root}: expected the folders mni and longitudinal of the open MS data, found no head there; give their"
            " folder, or set MEDTRACE_DATA"
        )
    return heads, left


def on_one_grid(head: Head, folder: Path, bias: bool = False) -> dict[str, Path]:
    """Contrast → file of the head's images on one grid without skull; created if missing.

    Args:
        head: the head; if it already is on one grid, its files are returned as they are.
        folder: receives the files of the others.
        bias: leave the bias field in; by default it is removed (`medtrace.data.bias`).
    """
    if head.mask is None:
        return dict(head.images)
    mask = sitk.ReadImage(str(head.mask))
    inside = np.transpose(sitk.GetArrayFromImage(mask)) > 0
    affine = read_nifti(head.mask).affine
    result = {}
    for contrast, file in head.images.items():
        result[contrast] = folder / f"{head.name}_{contrast}.nii.gz"
        if result[contrast].is_file():
            continue
        motion = sitk.CompositeTransform(3)
        for transform in head.transforms[contrast]:
            motion.AddTransform(sitk.ReadTransform(str(transform)))
        image = sitk.Resample(sitk.ReadImage(str(file), sitk.sitkFloat32), mask, motion, sitk.sitkLinear, 0.0)
        image = image if bias else without_bias(image, mask)
        values = np.where(inside, np.transpose(sitk.GetArrayFromImage(image)), 0.0)
        write_image(result[contrast], torch.from_numpy(values.astype(np.float32))[None], affine)
    return result


def sides(heads: Sequence[Head], contrasts: Sequence[str], test: str) -> dict[str, list[Head]]:
    """Training, validation and test heads of a translation between contrasts; no person is in two of them.

    Raises:
        ValueError: if one is empty.
    """
    able = [head for head in heads if set(contrasts) <= set(head.images)]
    result = {
        "training": [head for head in able if head.person not in (test, VALIDATION)],
        "validation": [head for head in able if head.person == VALIDATION],
        "test": [head for head in able if head.person == test and head.mask is None],
    }
    empty = [name for name, members in result.items() if not members]
    if empty:
        raise ValueError(
            f"heads: no {' and no '.join(empty)} head has {' and '.join(contrasts)}; give the whole data sets"
        )
    return result


def _dated(person: Path, study: str, mask: Path) -> Head:
    images = _present({c: person / f"{study}_{name}.nii.gz" for c, name in CONTRASTS.items()})
    common = person / f"{study}_FLAIR_to_common_space.txt"
    transforms = {}
    for contrast in images:
        own = person / f"{study}_{CONTRASTS[contrast]}_intrastudy_to_FLAIR.txt"
        transforms[contrast] = [file for file in (own, common) if file.is_file()]
    return Head(f"longitudinal_{person.name}_{study}", person.name, images, transforms, mask)


def _persons(*folders: Path) -> list[Path]:
    return sorted(person for folder in folders for person in folder.glob("patient*"))


def _in_mni(person: Path, contrast: str) -> Path:
    return next(iter(sorted(person.glob(f"{contrast}_*regtoMNI.nii.gz"))), person / f"{contrast}.nii.gz")


def _mask(person: Path) -> Path:
    beside = person / "brainmask.nii.gz"
    apart = person.parents[1] / "coregistered" / person.name / beside.name
    return apart if apart.is_file() else beside


def _present(files: Mapping[str, Path]) -> dict[str, Path]:
    return {name: file for name, file in files.items() if file.is_file()}


def _liters(mask: Path) -> float:
    image = sitk.ReadImage(str(mask))
    return float((sitk.GetArrayViewFromImage(image) > 0).sum() * np.prod(image.GetSpacing()) / 1e6)
