"""A list of before/after pairs: CSV or JSON, one row a pair."""

from __future__ import annotations

import difflib
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from medtrace.data.lists.names import check_file_name, check_name, name_key
from medtrace.data.lists.tables import read_table

LOGGER = logging.getLogger("medtrace.data")

SPLITS = ("training", "validation", "test")
REQUIRED = ("subject", "source", "target")
SIDES = ("source", "target")
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


class PairImage(NamedTuple):
    """One image of a pair.

    Attributes:
        side: "source" or "target".
        channel: which of the side's images, from 0.
        contrast: what kind of image it is.
        path: a file, or a folder of one DICOM series.
        series: which volume of a DICOM folder that holds several.
    """

    side: str
    channel: int
    contrast: str
    path: Path
    series: str | None = None

    @property
    def key(self) -> str:
        """Name of the image within its pair: "source", "target", or for a further one "source_1"."""
        return self.side if self.channel == 0 else f"{self.side}_{self.channel}"


@dataclass(frozen=True)
class Pair:
    """One before/after pair on disk.

    Attributes:
        subject: who it is; all pairs of a subject go into one split.
        case: which pair of the subject, unique within the subject; it names the prepared files.
        source: the image before: a file, or a folder of one DICOM series; the first where there are several. None in a
            list of targets alone.
        target: likewise the image after.
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
            specify them; None leaves it to the files.
        source_series: which volume of the source's DICOM folder, where it holds several (see `reading.read_image`).
        target_series: likewise of the target.
        split: "training", "validation" or "test", as in a published split; empty where the list leaves it open.
        sources: where a network reads several images at once, each in its channel, None where the pair lacks it;
            otherwise empty.
        targets: likewise the images that it makes; none is missing.
        channels: contrasts of `sources`.
        origin: where the record was read, for error messages.
    """

    subject: str
    case: str
    source: Path | None
    target: Path | None
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
    sources: tuple[PairImage | None, ...] = ()
    targets: tuple[PairImage, ...] = ()
    channels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "target_contrast", self.target_contrast or self.contrast)

    @property
    def several(self) -> bool:
        """Whether a side has several images, each of one channel."""
        return bool(self.sources or self.targets)

    @property
    def paired(self) -> bool:
        """Whether both sides are there."""
        return self.source is not None and self.target is not None

    @property
    def images(self) -> list[PairImage]:
        """Every image that the pair has, sources first; the others are on the grid of the first."""
        sources = [image for image in self.sources if image is not None]
        targets = list(self.targets)
        if self.source is not None and not sources:
            sources = [PairImage("source", 0, self.contrast, self.source, self.source_series)]
        if self.target is not None and not targets:
            targets = [PairImage("target", 0, self.target_contrast, self.target, self.target_series)]
        return [*sources, *targets]

    @property
    def first(self) -> PairImage:
        """The image whose grid the pair is brought to."""
        return self.images[0]

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
            validation or test; of all pairs or of none). Where a network reads or makes several contrasts at once,
            `source_NAME` or `target_NAME` of each stand in place of `source` or `target` (in JSON also `"source":
            {"T1": ..., "FLAIR": ...}`); a pair may lack all sources but one, and `source_NAME_series` goes with it.
            Lesions, labels and landmarks are then of the first source that a pair has, and of the first target. Paths
            are relative to the folder of the list. Any spreadsheet's CSV is read, see `read_table`; columns of other
            names are ignored, with a warning.

    Returns:
        One record per row, in order.

    Raises:
        FileNotFoundError: if the list or a file that it names does not exist.
        ValueError: if a column or value is missing, a name cannot be a file name on every system, two names differ
            only in case or Unicode form, a case occurs twice, or a subject is in two splits.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such pair list or BraTS-Reg folder; check the path")
    table = read_table(path, REQUIRED, OPTIONAL, SIDES)
    if not table.rows:
        raise ValueError(f"{path}: expected at least one pair, received none; add rows below the header")
    if table.unused:
        LOGGER.warning("%s: not used: %s", path, ", ".join(table.unused))
    parts = divided_sides(path, table.parts, [row for _, row in table.rows])
    pairs = [_pair(path, where, row, parts) for where, row in table.rows]
    check_list(path, pairs)
    return pairs


def check_list(path: Path, pairs: Sequence[Pair]) -> None:
    """Check what the pairs of a list are together: names, splits, labels.

    Raises:
        ValueError: if two cannot be distinguished, a subject is in two splits, or only some have a split or labels.
    """
    _check_names(path, pairs)
    _check_splits(path, pairs)
    _check_labels(pairs)


def divided_sides(path: Path, parts: Sequence[str], rows: Sequence[Mapping[str, str]]) -> dict[str, tuple[str, ...]]:
    """The contrasts of each side that a list gives in columns of their own, in order.

    Raises:
        ValueError: if a side is given both in one column and in several, or a name is invalid.
    """
    result: dict[str, list[str]] = {}
    for part in parts:
        side, _, name = part.partition("_")
        stem = name.removesuffix("_series")
        if stem != name and f"{side}_{stem}" in parts:
            continue
        result.setdefault(side, []).append(check_name(f"{path}: column {part}", name, "rename the column"))
    for side in result:
        for column in (
            side,
            *({"source": ("contrast", "source_series"), "target": ("target_contrast", "target_series")}[side]),
        ):
            if any(column in row for row in rows):
                raise ValueError(
                    f"{path}: column {column}: expected none beside {side}_{result[side][0]}, whose name is its"
                    f" contrast; remove it, or name every {side} in a column {side}_NAME"
                )
    return {side: tuple(names) for side, names in result.items()}


def _pair(path: Path, where: str, row: Mapping[str, str], parts: Mapping[str, Sequence[str]]) -> Pair:
    place = f"{path}: {where}"
    values: dict[str, Any] = {name: value for name, value in row.items() if name in (*REQUIRED, *OPTIONAL)}
    values |= _images(path, place, row, parts)
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
        if isinstance(values.get(name), str):
            values[name] = existing(f"{place}: {name}", path.parent, values[name])
    pair = Pair(**values, origin=place)
    check_file_name(f"{place}: case", pair.name)
    return pair


def _images(path: Path, place: str, row: Mapping[str, str], parts: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The members of a `Pair` given by the columns of single contrasts."""
    values: dict[str, Any] = {}
    several = any(len(names) > 1 for names in parts.values())
    for side, names in parts.items():
        images: list[PairImage | None] = []
        for channel, name in enumerate(names):
            column = f"{side}_{name}"
            file = None if column not in row else existing(f"{place}: {column}", path.parent, row[column])
            series = row.get(f"{column}_series")
            images.append(None if file is None else PairImage(side, channel, name, file, series))
        there = [image for image in images if image is not None]
        if not there:
            raise ValueError(f"{place}: no value for {side}; fill in one of {', '.join(names)}, or remove the row")
        if side == "target" and len(there) < len(names):
            raise ValueError(
                f"{place}: no value for target_{next(n for n, i in zip(names, images) if i is None)}; a network learns"
                " all targets at once: fill it in, or remove the row"
            )
        contrast = "contrast" if side == "source" else "target_contrast"
        values |= {side: there[0].path, contrast: there[0].contrast, f"{side}_series": there[0].series}
        if several:
            values |= {f"{side}s": tuple(images), **({"channels": tuple(names)} if side == "source" else {})}
    if several and "target" not in parts and "target_contrast" not in row:
        values["target_contrast"] = Pair.contrast
    return values


def existing(place: str, folder: Path, name: str) -> Path:
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
    """Check that subjects, contrasts and files are distinguished by more than case and Unicode form."""
    for what, names in (
        ("subjects", [(pair.subject, pair) for pair in pairs]),
        ("contrasts", [(image.contrast, pair) for pair in pairs for image in pair.images]),
    ):
        first: dict[str, tuple[str, Pair]] = {}
        for name, pair in names:
            other, place = first.setdefault(name_key(name), (name, pair))
            if other != name:
                raise ValueError(
                    f"{pair.origin}: {what} {name!r} and {other!r} ({_place(path, place)}) differ only in case or"
                    " Unicode form; spell one name in one way, or give two names"
                )
    same: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        same[name_key(pair.name)].append(pair)
    for key, result in same.items():
        places = ", ".join(_place(path, pair) for pair in result)
        if len(result) > 1:
            alone = "" if len({pair.name for pair in result}) == 1 else ", ignoring case and Unicode form"
            raise ValueError(
                f"{path}: case {result[0].name!r} occurs more than once ({places}){alone}; give every pair of a subject"
                " its own name in the column case"
            )
        for longer in same.get(f"{key}_source", ()):
            raise ValueError(
                f"{longer.origin}: case {longer.name!r} would share files with {result[0].name!r} ({places}),"
                " whose lesion files have that ending; rename it"
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
        there = [pair for pair in pairs if getattr(pair, name.partition("_")[0]) is not None]
        without = [pair for pair in there if getattr(pair, name) is None]
        if without and len(without) < len(there):
            raise ValueError(
                f"{without[0].origin}: {name}: expected a file, as other rows have one, received none; fill it in, or"
                " leave the column out"
            )
