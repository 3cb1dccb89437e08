"""Pairs of a healthy slice with one that shows a tumor, within each split, and their rotated copies."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medtrace.data.dataset import IMAGES, INDEX, LABELS, MASKS, read_index
from medtrace.evaluation.papers.lists import write_rows
from medtrace.evaluation.papers.tumor_slices import SPLITS, TumorSlice, tumor_slices
from medtrace.io.nifti import read_nifti_image, write_image
from medtrace.methods.recipes import CrossedSlices
from medtrace.storage.files import atomic_write, make_directory

TURNED = "turned"
"""Entry of the index of a data set that holds its rotated copies."""


def crossed_pairs(preparation: CrossedSlices, place: Path, path: Path, smoke: bool = False) -> Path:
    """Write chosen slices beside a pair list, and the list: healthy sources, pathological targets.

    The persons of a split are one subject of the list, as each of their slices is in several pairs.

    Args:
        preparation: which slices, and how many pairs.
        place: where the scans lie.
        path: path of the list.
        smoke: write as few as possible.
    """
    slices = tumor_slices(preparation, place, smoke)
    folder = make_directory(path.parent / path.stem)
    for one in slices:
        _write(folder, one)
    rows = []
    for split, count in zip(SPLITS, (None,) * 3 if smoke or preparation.pairs is None else preparation.pairs):
        rows += [_row(folder, preparation.contrast, *pair) for pair in _drawn(slices, split, count)]
    return write_rows(path, rows)


def _drawn(slices: Sequence[TumorSlice], split: str, count: int | None) -> list[tuple[TumorSlice, TumorSlice]]:
    """All pairs of a split, or some at random by seed 0."""
    members = [one for one in slices if one.split == split]
    healthy, pathological = ([one for one in members if bool(one.tumor.any()) == ill] for ill in (False, True))
    pairs = list(itertools.product(healthy, pathological))
    if count is None or count >= len(pairs):
        return pairs
    chosen = np.random.default_rng(0).choice(len(pairs), count, replace=False)
    return [pairs[index] for index in sorted(chosen)]


def _row(folder: Path, contrast: str, healthy: TumorSlice, ill: TumorSlice) -> dict[str, Any]:
    row: dict[str, Any] = {
        "subject": healthy.split,
        "case": f"{healthy.subject}-{ill.subject}",
        "contrast": contrast,
        "split": healthy.split,
        "source": folder / f"{healthy.name}.nii.gz",
        "target": folder / f"{ill.name}.nii.gz",
        "target_lesion": folder / f"{ill.name}_tumor.nii.gz",
    }
    if healthy.organ is not None and ill.organ is not None:
        for side, one in (("source", healthy), ("target", ill)):
            row[f"{side}_labels"] = folder / f"{one.name}_organ.nii.gz"
    return row


def _write(folder: Path, one: TumorSlice) -> None:
    affine = torch.eye(4, dtype=torch.float64)
    write_image(folder / f"{one.name}.nii.gz", one.image.float(), affine)
    if bool(one.tumor.any()):
        write_image(folder / f"{one.name}_tumor.nii.gz", one.tumor, affine)
    if one.organ is not None:
        write_image(folder / f"{one.name}_organ.nii.gz", one.organ, affine)


def add_rotations(dataset: Path) -> None:
    """Add copies of the training pairs of a prepared data set, turned by 90, 180 and 270 degrees in their plane.

    Args:
        dataset: a data set of square slices; nothing is done if the copies exist.

    Raises:
        ValueError: if slices are not square.
    """
    index = read_index(dataset)
    if index.get(TURNED):
        return
    copies = []
    for entry in index["training"]:
        for quarter in (1, 2, 3):
            copy = {**entry, "case": f"{entry['case']}_{90 * quarter}"}
            for key in (*IMAGES, *MASKS, *LABELS):
                if key in entry:
                    copy[key] = f"images/{copy['case']}_{key}.nii.gz"
                    _turn(dataset / entry[key], dataset / copy[key], quarter, whole=key not in IMAGES)
            copies.append(copy)
    index["training"] += copies
    atomic_write(dataset / INDEX, json.dumps({**index, TURNED: True}, indent=1) + "\n")


def _turn(file: Path, copy: Path, quarter: int, whole: bool) -> None:
    image, affine = read_nifti_image(file)
    if image.shape[1] != image.shape[2]:
        raise ValueError(f"{file}: expected a square slice, received {tuple(image.shape[1:3])}; cut it to one")
    turned: Tensor = torch.rot90(image, quarter, (1, 2))
    write_image(copy, turned.to(torch.int32) if whole else turned, affine)
