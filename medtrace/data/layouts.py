"""Where real before/after pairs lie on disk, and how subjects are split.

A layout reader returns `Pair` records and touches no voxel.
"""

from __future__ import annotations

import csv
import glob
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SPLITS = ("training", "validation", "test")
REQUIRED = ("subject", "source", "target")
LESIONS = ("source_lesion", "target_lesion")
LABELS = ("source_labels", "target_labels")
PATHS = ("source", "target", "mask", *LESIONS, *LABELS, "source_landmarks", "target_landmarks")
OPTIONAL = (
    "case",
    "contrast",
    "target_contrast",
    "mask",
    *LESIONS,
    *LABELS,
    "source_landmarks",
    "target_landmarks",
    "landmark_space",
    "split",
)
LANDMARK_SPACES = ("RAS", "LPS", "voxel")
_NAME = re.compile(r"[\w][\w.+-]*", re.ASCII)


@dataclass(frozen=True)
class Pair:
    """One before/after pair on disk.

    Attributes:
        subject: who it is; all pairs of a subject go into one split.
        case: which pair of the subject, unique within the subject; it names the prepared files.
        source: the image before: a file, or a folder of one DICOM series.
        target: the image after.
        contrast: what kind of image the source is, such as "t1"; each contrast has its own intensity standard.
        target_contrast: what kind the target is; empty for the source's.
        mask: foreground (brain) of the source on its grid, non-zero inside.
        source_lesion: pathology of the source on its grid, non-zero inside.
        target_lesion: likewise of the target.
        source_labels: segmentation of the source on its grid, whole numbers from 0 to 255.
        target_labels: likewise of the target.
        source_landmarks: file of points in the source (see `medtrace.data.landmarks`).
        target_landmarks: the same points in the target.
        landmark_space: "RAS" (NIfTI) or "LPS" (ITK, DICOM) in mm, or "voxel", the axes of both files where they do not
            say them; None leaves it to the files.
        split: "training", "validation" or "test", as a published split has it; empty where the list leaves it open.
        origin: where the record was read, for error messages.
    """

    subject: str
    case: str
    source: Path
    target: Path
    contrast: str = "image"
    target_contrast: str = ""
    mask: Path | None = None
    source_lesion: Path | None = None
    target_lesion: Path | None = None
    source_labels: Path | None = None
    target_labels: Path | None = None
    source_landmarks: Path | None = None
    target_landmarks: Path | None = None
    landmark_space: str | None = None
    split: str = ""
    origin: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "target_contrast", self.target_contrast or self.contrast)

    @property
    def name(self) -> str:
        """Stem of the files made from this pair."""
        return self.case if self.case.startswith(self.subject) else f"{self.subject}_{self.case}"


def read_pairs(source: str | Path, contrasts: Sequence[str] = ("t1",)) -> list[Pair]:
    """Read a pair list (a file) or the BraTS-Reg layout (a folder)."""
    source = Path(source)
    if source.is_dir():
        return read_brats_reg(source, contrasts)
    return read_pair_list(source)


def read_pair_list(path: str | Path) -> list[Pair]:
    """Read before/after pairs from a table.

    Args:
        path: a CSV file with a header row, or a JSON file holding a list of objects (or `{"pairs": [...]}`).
            Columns: `subject`, `source`, `target`; optional `case` (the subject's name where absent),
            `contrast`, `target_contrast`, `mask`, `source_lesion`, `target_lesion`, `source_labels`, `target_labels`
            (labels of all pairs or of none), `source_landmarks`, `target_landmarks`, `landmark_space` (RAS, LPS,
            voxel), `split` (training, validation or test; of all pairs or of none). Paths are relative to the folder
            of the list.

    Returns:
        One record per row, in order.

    Raises:
        FileNotFoundError: if the list or a file that it names does not exist.
        ValueError: if a column or value is missing, a name cannot be a file name, a case occurs twice, or a subject is
            in two splits.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such pair list or BraTS-Reg folder; check the path")
    rows = _read_json(path) if path.suffix.lower() == ".json" else _read_csv(path)
    if not rows:
        raise ValueError(f"{path}: expected at least one pair, received none; add rows below the header")
    pairs = [_pair(path, where, row) for where, row in rows]
    _check_unique(path, pairs)
    _check_splits(path, pairs)
    _check_labels(pairs)
    return pairs


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


def split_by_subject(
    pairs: Sequence[Pair], fractions: Sequence[float] | Mapping[str, float] = (0.7, 0.0, 0.3), seed: int = 0
) -> dict[str, list[Pair]]:
    """Divide pairs into training, validation and test so that no subject is in two of them.

    Subjects are shuffled by the seed and dealt by largest remainder: 160 subjects at (0.7, 0, 0.3) give 112 and 48
    (TraceTrans, Datasets).

    Args:
        pairs: the pairs; their order within a split is kept.
        fractions: shares of *subjects* for training, validation and test, or by name; they sum to 1.
        seed: of the shuffle. The result does not depend on the order of `pairs`.

    Returns:
        The pairs of each split; a share of 0 gives an empty list.

    Raises:
        ValueError: if shares are negative, do not sum to 1, or leave a wanted split without a subject.
    """
    shares = _shares(fractions)
    subjects = sorted({pair.subject for pair in pairs})
    counts = _deal(len(subjects), shares)
    empty = [name for name in SPLITS if shares[name] > 0 and counts[name] == 0]
    if empty:
        raise ValueError(
            f"fractions: {shares} of {len(subjects)} subject(s) leave {', '.join(empty)} empty; add subjects or set"
            " that share to 0"
        )
    order = np.random.default_rng(seed).permutation(len(subjects))
    split_of, start = {}, 0
    for name in SPLITS:
        for index in order[start : start + counts[name]]:
            split_of[subjects[index]] = name
        start += counts[name]
    return {name: [pair for pair in pairs if split_of[pair.subject] == name] for name in SPLITS}


def split_of_list(pairs: Sequence[Pair]) -> dict[str, list[Pair]] | None:
    """The split that the list itself gives; None where it gives none.

    Args:
        pairs: as `read_pairs` gives them: all of them have a split or none has.
    """
    if not any(pair.split for pair in pairs):
        return None
    return {name: [pair for pair in pairs if pair.split == name] for name in SPLITS}


def _shares(fractions: Sequence[float] | Mapping[str, float]) -> dict[str, float]:
    if isinstance(fractions, Mapping):
        unknown = sorted(set(fractions) - set(SPLITS))
        if unknown:
            raise ValueError(f"fractions: expected names among {', '.join(SPLITS)}, received {unknown}")
        shares = {name: float(fractions.get(name, 0)) for name in SPLITS}
    else:
        if len(fractions) != len(SPLITS):
            raise ValueError(f"fractions: expected three shares ({', '.join(SPLITS)}), received {tuple(fractions)}")
        shares = dict(zip(SPLITS, map(float, fractions)))
    if min(shares.values()) < 0 or abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError(f"fractions: expected shares of at least 0 that sum to 1, received {shares}")
    return shares


def _deal(count: int, shares: Mapping[str, float]) -> dict[str, int]:
    exact = {name: round(share * count, 9) for name, share in shares.items()}
    counts = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(SPLITS, key=lambda name: (counts[name] - exact[name], SPLITS.index(name)))
    for name in by_remainder[: count - sum(counts.values())]:
        counts[name] += 1
    return counts


def _read_csv(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8 text, received other bytes; save the list as CSV") from error
    reader = csv.DictReader(text.splitlines(), skipinitialspace=True)
    try:
        columns = [name.strip() for name in reader.fieldnames or ()]
    except csv.Error as error:
        raise ValueError(f"{path}: cannot be read as CSV ({error}); save the list again") from error
    reader.fieldnames = columns
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        raise ValueError(
            f"{path}: missing column(s) {', '.join(missing)}; the header has {', '.join(columns) or 'nothing'};"
            f" name the columns {', '.join(REQUIRED)}"
        )
    try:
        return [(f"row {reader.line_num}", row) for row in reader]
    except csv.Error as error:
        raise ValueError(f"{path}: cannot be read as CSV ({error}); save the list again") from error


def _read_json(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is no valid JSON ({error}); write a list of objects") from error
    items = content.get("pairs") if isinstance(content, dict) else content
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ValueError(f'{path}: expected a list of objects or {{"pairs": [...]}}; write one object per pair')
    return [(f"entry {number}", item) for number, item in enumerate(items, start=1)]


def _pair(path: Path, where: str, row: Mapping[str, Any]) -> Pair:
    place = f"{path}: {where}"
    values: dict[str, Any] = {
        name: str(row[name]).strip() for name in (*REQUIRED, *OPTIONAL) if row.get(name) not in (None, "")
    }
    for name in REQUIRED:
        if not values.get(name):
            raise ValueError(f"{place}: no value for {name}; fill it in or remove the row")
    values.setdefault("case", values["subject"])
    for name in ("subject", "case", "contrast", "target_contrast"):
        if name in values and not _NAME.fullmatch(values[name]):
            raise ValueError(
                f"{place}: {name}: expected letters, digits, and . _ + - inside, received {values[name]!r}; it names"
                " files, so rename it"
            )
    if values.get("landmark_space", "RAS") not in LANDMARK_SPACES:
        raise ValueError(
            f"{place}: landmark_space: expected {', '.join(LANDMARK_SPACES)}, received {values['landmark_space']!r}"
        )
    if values.get("split") and values["split"] not in SPLITS:
        raise ValueError(f"{place}: split: expected {', '.join(SPLITS)}, received {values['split']!r}; rename it")
    for name in PATHS:
        if name in values:
            values[name] = path.parent / values[name]
            if not values[name].exists():
                raise FileNotFoundError(
                    f"{place}: {name}: no such file {values[name]}; correct the path, which is relative to the list's"
                    " folder"
                )
    return Pair(**values, origin=place)


def _check_unique(path: Path, pairs: Sequence[Pair]) -> None:
    doubled = [name for name, count in Counter(pair.name for pair in pairs).items() if count > 1]
    if doubled:
        places = ", ".join(pair.origin.removeprefix(f"{path}: ") for pair in pairs if pair.name == doubled[0])
        raise ValueError(
            f"{path}: case {doubled[0]!r} occurs more than once ({places}); give every pair of a subject its own name"
            " in the column case"
        )


def _check_splits(path: Path, pairs: Sequence[Pair]) -> None:
    """Check that all pairs have a split or none has, and that a subject's pairs are in one."""
    if not any(pair.split for pair in pairs):
        return
    first: dict[str, Pair] = {}
    for pair in pairs:
        if not pair.split:
            raise ValueError(
                f"{pair.origin}: split: expected a value, as other rows have one, received none; fill it in, or leave"
                " the column out"
            )
        other = first.setdefault(pair.subject, pair)
        if other.split != pair.split:
            place = other.origin.removeprefix(f"{path}: ")
            raise ValueError(
                f"{pair.origin}: split: subject {pair.subject!r} is in {pair.split} here and in {other.split} in"
                f" {place}; put all pairs of a subject into one split"
            )


def _check_labels(pairs: Sequence[Pair]) -> None:
    """Check that all pairs have labels of a kind or none has: items without would not fit into a batch with others."""
    for name in LABELS:
        without = [pair for pair in pairs if getattr(pair, name) is None]
        if without and len(without) < len(pairs):
            raise ValueError(
                f"{without[0].origin}: {name}: expected a file, as other rows have one, received none; fill it in, or"
                " leave the column out"
            )


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
