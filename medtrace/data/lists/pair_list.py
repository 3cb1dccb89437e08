"""A list of before/after pairs: CSV or JSON, one row a pair."""

from __future__ import annotations

import difflib
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medtrace.data.lists.names import check_file_name, check_name, name_key
from medtrace.data.lists.tables import read_table

LOGGER = logging.getLogger("medtrace.data")

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
    "source_series",
    "target_series",
    "split",
)
LANDMARK_SPACES = ("RAS", "LPS", "voxel")


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
        mask: foreground (brain) of the source on its grid (see `masks.inside_of`).
        source_lesion: pathology of the source on its grid, as a mask.
        target_lesion: likewise of the target.
        source_labels: segmentation of the source on its grid, whole numbers from 0 to 65535.
        target_labels: likewise of the target.
        source_landmarks: file of points in the source (see `medtrace.data.landmarks.points`).
        target_landmarks: the same points in the target.
        landmark_space: "RAS" (NIfTI) or "LPS" (ITK, DICOM) in mm, or "voxel", the axes of both files where they do not
            say them; None leaves it to the files.
        source_series: which volume of the source's DICOM folder, where it holds several (see `reading.read_image`).
        target_series: likewise of the target.
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
    source_series: str | None = None
    target_series: str | None = None
    split: str = ""
    origin: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "target_contrast", self.target_contrast or self.contrast)

    @property
    def name(self) -> str:
        """Stem of the files made from this pair."""
        return self.case if self.case.startswith(self.subject) else f"{self.subject}_{self.case}"


def read_pair_list(path: str | Path) -> list[Pair]:
    """Read before/after pairs from a table.

    Args:
        path: a CSV file with a header row, or a JSON file holding a list of objects (or `{"pairs": [...]}`).
            Columns: `subject`, `source`, `target`; optional `case` (the subject's name where absent),
            `contrast`, `target_contrast`, `mask`, `source_lesion`, `target_lesion`, `source_labels`, `target_labels`
            (labels of all pairs or of none), `source_landmarks`, `target_landmarks`, `landmark_space` (RAS, LPS,
            voxel), `source_series`, `target_series` (volumes of DICOM folders that hold several), `split` (training,
            validation or test; of all pairs or of none). Paths are relative to the folder of the list. Any
            spreadsheet's CSV is read, see `read_table`; columns of other names are not used, which is said.

    Returns:
        One record per row, in order.

    Raises:
        FileNotFoundError: if the list or a file that it names does not exist.
        ValueError: if a column or value is missing, a name cannot be a file name on every system, two names differ in
            case or Unicode form alone, a case occurs twice, or a subject is in two splits.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such pair list or BraTS-Reg folder; check the path")
    table = read_table(path, REQUIRED, OPTIONAL)
    if not table.rows:
        raise ValueError(f"{path}: expected at least one pair, received none; add rows below the header")
    if table.unused:
        LOGGER.warning("%s: not used: %s", path, ", ".join(table.unused))
    pairs = [_pair(path, where, row) for where, row in table.rows]
    _check_names(path, pairs)
    _check_splits(path, pairs)
    _check_labels(pairs)
    return pairs


def _pair(path: Path, where: str, row: Mapping[str, str]) -> Pair:
    place = f"{path}: {where}"
    values: dict[str, Any] = dict(row)
    for name in REQUIRED:
        if name not in values:
            raise ValueError(f"{place}: no value for {name}; fill it in or remove the row")
    values.setdefault("case", values["subject"])
    for name in ("subject", "case", "contrast", "target_contrast"):
        if name in values:
            values[name] = check_name(f"{place}: {name}", values[name])
    if "landmark_space" in values:
        spaces = {space.casefold(): space for space in LANDMARK_SPACES}
        if values["landmark_space"].casefold() not in spaces:
            raise ValueError(
                f"{place}: landmark_space: expected {', '.join(LANDMARK_SPACES)}, received {row['landmark_space']!r}"
            )
        values["landmark_space"] = spaces[values["landmark_space"].casefold()]
    if "split" in values:
        values["split"] = values["split"].lower()
        if values["split"] not in SPLITS:
            raise ValueError(f"{place}: split: expected {', '.join(SPLITS)}, received {row['split']!r}; rename it")
    for name in PATHS:
        if name in values:
            values[name] = _existing(f"{place}: {name}", path.parent, values[name])
    pair = Pair(**values, origin=place)
    check_file_name(f"{place}: case", pair.name)
    return pair


def _existing(place: str, folder: Path, name: str) -> Path:
    """The file that a list names, relative to its folder."""
    path = folder / name
    if "\0" in name or not path.exists():
        raise FileNotFoundError(
            f"{place}: no such file {path}; {_similar(path, name)}correct the path, which is relative to the list's"
            " folder"
        )
    return path


def _similar(path: Path, name: str) -> str:
    """A hint at what may be meant."""
    if "\\" in name:
        return "write / between folders, not \\; "
    if "\0" in name or not path.parent.is_dir():
        return ""
    there = {name_key(entry.name): entry.name for entry in path.parent.iterdir()}
    close = difflib.get_close_matches(name_key(path.name), there, 1, 0.8)
    return f"did you mean {there[close[0]]}? Otherwise " if close else ""


def _check_names(path: Path, pairs: Sequence[Pair]) -> None:
    """Check that subjects, contrasts and files are told apart by more than case and Unicode form."""
    for what, names in (
        ("subjects", [(pair.subject, pair) for pair in pairs]),
        ("contrasts", [(name, pair) for pair in pairs for name in (pair.contrast, pair.target_contrast)]),
    ):
        first: dict[str, tuple[str, Pair]] = {}
        for name, pair in names:
            other, place = first.setdefault(name_key(name), (name, pair))
            if other != name:
                raise ValueError(
                    f"{pair.origin}: {what} {name!r} and {other!r} ({_place(path, place)}) differ in case or Unicode"
                    " form alone; write one name in one way, or give two names"
                )
    same: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        same[name_key(pair.name)].append(pair)
    for key, found in same.items():
        places = ", ".join(_place(path, pair) for pair in found)
        if len(found) > 1:
            alone = "" if len({pair.name for pair in found}) == 1 else ", but for case or Unicode form"
            raise ValueError(
                f"{path}: case {found[0].name!r} occurs more than once ({places}){alone}; give every pair of a subject"
                " its own name in the column case"
            )
        for longer in same.get(f"{key}_source", ()):
            raise ValueError(
                f"{longer.origin}: case {longer.name!r} would share files with {found[0].name!r} ({places}), which"
                " end so with a lesion; rename it"
            )


def _place(path: Path, pair: Pair) -> str:
    return pair.origin.removeprefix(f"{path}: ")


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
            place = _place(path, other)
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
