"""Sources of real images on disk: a list, or the layout of a published data set.

A layout reader returns `Pair` or `Study` records and does not read any voxels.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from medtrace.data.lists import folder_layouts, json_layouts
from medtrace.data.lists.domain_list import read_domains
from medtrace.data.lists.pair_list import (
    LABELS,
    LANDMARK_SPACES,
    LESIONS,
    PATHS,
    SPLITS,
    Pair,
    check_list,
    read_pair_list,
)
from medtrace.data.lists.splits import split_by_subject, split_of_list
from medtrace.data.lists.studies import Study, images_of, pairs_of

__all__ = [
    "LABELS",
    "LANDMARK_SPACES",
    "LAYOUTS",
    "LESIONS",
    "PATHS",
    "SPLITS",
    "Pair",
    "ReadPairs",
    "read_brats_reg",
    "read_layout",
    "read_pair_list",
    "read_pairs",
    "read_side",
    "split_by_subject",
    "split_of_list",
]


class ReadPairs(NamedTuple):
    """Pairs, and where they come from.

    Attributes:
        pairs: the records.
        layout: name of the layout that was read.
    """

    pairs: list[Pair]
    layout: str


@dataclass(frozen=True)
class _Layout:
    """The recognizer and reader of a layout.

    Attributes:
        title: for people.
        recognize: whether a file or folder has it.
        read: its studies, of which selections make pairs; or its pairs, given the selections.
        select: selections where none are given.
    """

    title: str
    recognize: Callable[[Path], bool]
    studies: Callable[[Path], list[Study]] | None = None
    pairs: Callable[[Path, Sequence[str]], list[Pair]] | None = None
    select: tuple[str, ...] = ()


def _is_list(place: Path) -> bool:
    return place.is_file()


def _is_brats_reg(place: Path) -> bool:
    return place.is_dir() and any(path.is_dir() for path in place.glob("BraTSReg_*"))


def _is_train_ab(place: Path) -> bool:
    return (place / "trainA").is_dir() and (place / "trainB").is_dir()


def _read_train_ab(place: Path, _select: Sequence[str]) -> list[Pair]:
    """Unpaired domains in `trainA`, `trainB`, `testA`, `testB` (also `valA`, `valB`), each folder's split its name."""
    parts = []
    for name, split in (("train", "training"), ("val", "validation"), ("test", "test")):
        folders = [place / f"{name}{domain}" for domain in "AB"]
        if all(folder.is_dir() and any(folder.iterdir()) for folder in folders):
            parts += [replace(pair, split=split) for pair in read_domains(*folders)]
    if {pair.split for pair in parts} == {"training"}:
        parts = [replace(pair, split="") for pair in parts]
    check_list(place, parts)
    return parts


def _folder(recognize: Callable[[Path], bool]) -> Callable[[Path], bool]:
    return lambda place: place.is_dir() and recognize(place)


LAYOUTS = {
    "learn2reg": _Layout(
        "Learn2Reg's data set",
        json_layouts.is_learn2reg,
        pairs=lambda place, _: json_layouts.read_learn2reg_pairs(place),
    ),
    "nnunet": _Layout("nnU-Net's raw data set", _folder(folder_layouts.is_nnunet), folder_layouts.read_nnunet),
    "decathlon": _Layout("MONAI's data list (Decathlon)", json_layouts.is_decathlon, json_layouts.read_decathlon),
    "list": _Layout("pair list", _is_list, pairs=lambda place, _: read_pair_list(place)),
    "brats-reg": _Layout(
        "BraTS-Reg", _is_brats_reg, pairs=lambda place, select: read_brats_reg(place, select), select=("t1",)
    ),
    "trainab": _Layout("trainA and trainB, unpaired domains", _is_train_ab, pairs=_read_train_ab),
    "bids": _Layout("BIDS", _folder(folder_layouts.is_bids), folder_layouts.read_bids),
    "brats": _Layout("BraTS 2018 or 2021", _folder(folder_layouts.is_brats), folder_layouts.read_brats),
    "synthrad": _Layout("SynthRAD", _folder(folder_layouts.is_synthrad), folder_layouts.read_synthrad),
    "acdc": _Layout("ACDC", _folder(folder_layouts.is_acdc), folder_layouts.read_acdc, select=("cine",)),
    "ircadb": _Layout("3D-IRCADb-01", _folder(folder_layouts.is_ircadb), folder_layouts.read_ircadb),
}
"""Name → layout, in the order in which they are tried."""


def read_pairs(source: str | Path, contrasts: Sequence[str] = ()) -> list[Pair]:
    """Read a pair list (a file) or a folder in a known layout; see `read_layout`."""
    return read_layout(source, contrasts).pairs


def read_layout(source: str | Path, select: Sequence[str] = (), layout: str | None = None) -> ReadPairs:
    """Read the pairs of a list or of a published layout.

    Args:
        source: a file or folder.
        select: which contrasts make pairs: `SOURCE[,SOURCE...]:TARGET`, or one contrast of two dates.
        layout: one of `LAYOUTS`; None recognizes it.

    Raises:
        FileNotFoundError: if there is no such place, or an image of it is missing.
        ValueError: if no layout is recognized, or a selection is not there.
    """
    place = Path(source)
    name = _recognized(place, layout)
    known = LAYOUTS[name]
    chosen = tuple(select) or known.select
    if known.pairs is not None:
        return ReadPairs(known.pairs(place, chosen), known.title)
    studies = [] if known.studies is None else known.studies(place)
    if not studies:
        raise ValueError(f"{place}: expected images in the layout {name}, found none; check the folder")
    if not chosen and name == "synthrad":
        there = {contrast for study in studies for contrast in study.images}
        chosen = tuple(f"{contrast}:CT" for contrast in ("MR", "CBCT") if contrast in there)[:1]
    pairs = pairs_of(studies, chosen, place)
    check_list(place, pairs)
    return ReadPairs(pairs, known.title)


def read_side(source: str | Path, side: str, select: Sequence[str] = ()) -> list[Pair] | None:
    """The images of a published layout as one side of unpaired domains; None where the place has none."""
    place = Path(source)
    for known in LAYOUTS.values():
        if known.studies is not None and known.recognize(place):
            return images_of(known.studies(place), select, side, place)
    return None


def _recognized(place: Path, layout: str | None) -> str:
    if not place.exists():
        raise FileNotFoundError(f"{place}: no such pair list or BraTS-Reg folder; check the path")
    if layout is not None:
        if layout not in LAYOUTS:
            raise ValueError(f"layout: expected one of {', '.join(LAYOUTS)}, received {layout!r}")
        return layout
    for name, known in LAYOUTS.items():
        if known.recognize(place):
            return name
    raise FileNotFoundError(
        f"{place}: no BraTSReg_xxx folder inside, nor another known layout ({', '.join(LAYOUTS)}); give the folder that"
        " holds the subjects, or a pair list (.csv, .json)"
    )


def read_brats_reg(folder: str | Path, contrasts: Sequence[str] = ("t1",)) -> list[Pair]:
    """Read the layout of the BraTS-Reg challenge (Baheti et al. 2021).

    `BraTSReg_001/BraTSReg_001_00_0000_t1.nii.gz` is the pre-operative scan, `BraTSReg_001_01_0106_t1.nii.gz` the
    follow-up, whose last number differs between subjects; contrasts are t1, t1ce, t2 and flair;
    `..._landmarks.csv` beside either holds its landmarks, in LPS mm (on the challenge's SRI24 grid 0 ≤ X ≤ 239 and
    −239 ≤ Y ≤ 0, which are ITK's coordinates). The validation set has follow-up landmarks only.

    Args:
        folder: the folder that holds the `BraTSReg_xxx` folders.
        contrasts: which contrasts to pair; each gives its own pair, so every case of a subject has one
            contrast before and after.

    Returns:
        Pairs ordered by subject, then contrast.

    Raises:
        FileNotFoundError: if the folder holds no subject, or a subject lacks a scan.
        ValueError: if a scan is ambiguous or no contrast is given.
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
    result = _optional_scan(subject, time, f"{contrast}.nii.gz") or _optional_scan(subject, time, f"{contrast}.nii")
    if result is None:
        kind = {"00": "pre-operative", "01": "follow-up"}[time]
        raise FileNotFoundError(
            f"{subject}: no {kind} scan {subject.name}_{time}_*_{contrast}.nii.gz; complete or remove the folder, or"
            " ask for another contrast"
        )
    return result


def _optional_scan(subject: Path, time: str, ending: str) -> Path | None:
    result = sorted(subject.glob(f"{glob.escape(subject.name)}_{time}_*_{ending}"))
    if len(result) > 1:
        raise ValueError(f"{subject}: expected one {time} {ending}, received {[p.name for p in result]}; keep one")
    return result[0] if result else None
