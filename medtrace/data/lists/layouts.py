"""Where real before/after pairs lie on disk: a list, or the layout of BraTS-Reg.

A layout reader returns `Pair` records and touches no voxel.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from medtrace.data.lists.pair_list import LABELS, LANDMARK_SPACES, LESIONS, PATHS, SPLITS, Pair, read_pair_list
from medtrace.data.lists.splits import split_by_subject, split_of_list

__all__ = [
    "LABELS",
    "LANDMARK_SPACES",
    "LESIONS",
    "PATHS",
    "SPLITS",
    "Pair",
    "read_brats_reg",
    "read_pair_list",
    "read_pairs",
    "split_by_subject",
    "split_of_list",
]


def read_pairs(source: str | Path, contrasts: Sequence[str] = ("t1",)) -> list[Pair]:
    """Read a pair list (a file) or the BraTS-Reg layout (a folder)."""
    source = Path(source)
    if source.is_dir():
        return read_brats_reg(source, contrasts)
    return read_pair_list(source)


def read_brats_reg(folder: str | Path, contrasts: Sequence[str] = ("t1",)) -> list[Pair]:
    """Read the layout of the BraTS-Reg challenge (Baheti et al. 2021).

    `BraTSReg_001/BraTSReg_001_00_0000_t1.nii.gz` is the pre-operative scan, `BraTSReg_001_01_0106_t1.nii.gz` the
    follow-up, whose last number differs between subjects; contrasts are t1, t1ce, t2 and flair;
    `..._landmarks.csv` beside either holds its landmarks, in LPS mm (on the challenge's SRI24 grid 0 ≤ X ≤ 239 and
    −239 ≤ Y ≤ 0, which are ITK's coordinates). The validation set has follow-up landmarks only.

    Args:
        folder: the folder that holds the `BraTSReg_xxx` folders.
        contrasts: which contrasts to pair; each gives a pair of its own, so every case of a subject has one
            contrast before and after.

    Returns:
        Pairs ordered by subject, then contrast.

    Raises:
        FileNotFoundError: if the folder holds no subject, or a subject lacks a scan.
        ValueError: if a scan is ambiguous or no contrast is asked for.
    """
    folder = Path(folder)
    if not contrasts:
        raise ValueError("contrasts: expected at least one of t1, t1ce, t2, flair, received none")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give the folder of the BraTSReg_xxx folders")
    subjects = sorted(p for p in folder.iterdir() if p.is_dir() and p.name.startswith("BraTSReg_"))
    if not subjects:
        raise FileNotFoundError(
            f"{folder}: no BraTSReg_xxx folder inside; give the folder that holds them, or a pair list (.csv, .json)"
        )
    pairs = []
    for subject in subjects:
        landmarks = [_optional_scan(subject, time, "landmarks.csv") for time in ("00", "01")]
        for contrast in contrasts:
            source, target = (_scan(subject, time, contrast) for time in ("00", "01"))
            case = subject.name if len(contrasts) == 1 else f"{subject.name}_{contrast}"
            pairs.append(
                Pair(
                    subject=subject.name,
                    case=case,
                    source=source,
                    target=target,
                    contrast=contrast,
                    source_landmarks=landmarks[0],
                    target_landmarks=landmarks[1],
                    landmark_space="LPS",
                    origin=str(subject),
                )
            )
    return pairs


def _scan(subject: Path, time: str, contrast: str) -> Path:
    found = _optional_scan(subject, time, f"{contrast}.nii.gz") or _optional_scan(subject, time, f"{contrast}.nii")
    if found is None:
        kind = {"00": "pre-operative", "01": "follow-up"}[time]
        raise FileNotFoundError(
            f"{subject}: no {kind} scan {subject.name}_{time}_*_{contrast}.nii.gz; complete or remove the folder, or"
            " ask for another contrast"
        )
    return found


def _optional_scan(subject: Path, time: str, ending: str) -> Path | None:
    found = sorted(subject.glob(f"{glob.escape(subject.name)}_{time}_*_{ending}"))
    if len(found) > 1:
        raise ValueError(f"{subject}: expected one {time} {ending}, received {[p.name for p in found]}; keep one")
    return found[0] if found else None
