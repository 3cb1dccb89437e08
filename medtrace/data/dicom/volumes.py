"""DICOM volumes: which slices belong together, and the choice of one of several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from medtrace.data.dicom.frames import Frame, find_frames

SEPARATE = {
    "PatientID": 0.0,
    "StudyInstanceUID": 0.0,
    "Modality": 0.0,
    "FrameOfReferenceUID": 0.0,
    "Rows": 0.0,
    "Columns": 0.0,
    "PixelSpacing": 1e-4,
    "ImageOrientationPatient": 5e-4,
    "StackID": 0.0,
    "EchoNumbers": 0.0,
    "EchoTime": 1e-2,
    "EffectiveEchoTime": 1e-2,
}
"""Attributes whose slices never share a volume if they differ, by more than this fraction of their largest value."""

REPEATED = (
    "InversionTime",
    "InversionTimes",
    "FlipAngle",
    "DiffusionBValue",
    "DiffusionGradientOrientation",
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "TemporalPositionTimeOffset",
    "NominalCardiacTriggerDelayTime",
    "NominalPercentageOfCardiacPhase",
    "NominalPercentageOfRespiratoryPhase",
    "TriggerTime",
    "FrameReferenceTime",
    "ComplexImageComponent",
    "FrameType",
    "ImageType",
    "ConvolutionKernel",
    "KVP",
    "MetaboliteMapDescription",
    "ReferencedSegmentNumber",
    "AcquisitionNumber",
    "SequenceName",
    "SliceThickness",
    "SeriesNumber",
)
"""Attributes that part slices at one position, the first that does; where no position repeats they do not matter."""

ORDERED = ("FrameAcquisitionDateTime", "AcquisitionDateTime", "AcquisitionTime", "ContentTime", "InstanceNumber")
"""Attributes by whose order slices at one position become time points, where no attribute parts them."""

_UNSPOKEN = ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID")
_SAME_PLACE = 0.02
"""Distance of two slices at one position, in edges of the smallest pixel."""
_LONGEST = 40


@dataclass(frozen=True, eq=False)
class DicomVolume:
    """Slices that belong together, in no order yet.

    Attributes:
        frames: the slices.
        distinction: keywords and values in which they differ from other volumes of their series.
    """

    frames: tuple[Frame, ...]
    distinction: tuple[tuple[str, str], ...] = ()

    @property
    def uid(self) -> str:
        return _text(self.frames[0].header.get("SeriesInstanceUID"))

    @property
    def number(self) -> str:
        return _text(self.frames[0].header.get("SeriesNumber"))

    @property
    def description(self) -> str:
        """SeriesDescription, or ProtocolName, printable."""
        header = self.frames[0].header
        return _text(header.get("SeriesDescription") or header.get("ProtocolName"))

    def __str__(self) -> str:
        first = self.frames[0].header
        told = [_text(first.get("Modality")) or "image"]
        told += [f"series {self.number}"] if self.number else []
        told += [repr(self.description[:_LONGEST])] if self.description else []
        size = f"{len(self.frames)} slice{'' if len(self.frames) == 1 else 's'} of {first.Columns} x {first.Rows}"
        more = [keyword if keyword in _UNSPOKEN else f"{keyword} {value}" for keyword, value in self.distinction]
        return ", ".join([" ".join(told), size, *more])


def list_volumes(path: str | Path) -> list[DicomVolume]:
    """The volumes of a DICOM file or folder, by their series' numbers; `series=1` reads the first.

    Args:
        path: a DICOM file, or a folder of DICOM files.

    Raises:
        FileNotFoundError: if there is nothing at the path.
        ValueError: if a file cannot be read; the message names it.

    Example:
        >>> for number, volume in enumerate(list_volumes(folder), start=1):  # doctest: +SKIP
        ...     print(number, volume)
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; check the path")
    return group(find_frames(path))


def group(frames: Sequence[Frame]) -> list[DicomVolume]:
    """Slices as volumes, sorted by series number."""
    series: dict[str, list[Frame]] = {}
    for frame in frames:
        series.setdefault(_text(frame.header.get("SeriesInstanceUID")), []).append(frame)
    result = []
    for members in sorted(series.values(), key=_series_order):
        parts: list[DicomVolume] = [DicomVolume(tuple(members))]
        for keyword, tolerance in SEPARATE.items():
            parts = [piece for part in parts for piece in _split(part, keyword, tolerance)]
        result += [volume for part in parts for volume in _split_repeated(part, REPEATED)]
    return result


def choose(path: Path, volumes: Sequence[DicomVolume], series: str | int | None = None) -> DicomVolume:
    """The one volume, or that which `series` names.

    Args:
        path: where they are, for messages.
        volumes: of `group`.
        series: number in the list of volumes (from 1; `list:1` always means that number), SeriesInstanceUID,
            SeriesNumber or SeriesDescription.

    Raises:
        ValueError: if there are several and none is named, or the name matches none or several; the message lists them.
    """
    entries = dict(enumerate(volumes, start=1))
    if series is None:
        if len(volumes) == 1:
            return volumes[0]
        raise ValueError(f"{path}: {_several(volumes)}; choose one with --series: {_listed(entries)}")
    given = str(series).strip()
    if (number := given.removeprefix("list:")) != given:
        fitting = {k: v for k, v in entries.items() if str(k) == number}
    else:
        fitting = {k: v for k, v in entries.items() if given in (str(k), v.uid, v.number, v.description)}
        by_list = entries.get(int(given)) if given.isdecimal() else None
        if by_list is not None and by_list.number == given:
            return by_list
    if len(fitting) == 1:
        return next(iter(fitting.values()))
    if not fitting:
        raise ValueError(f"{path}: series: none matches {given!r}; choose one with --series: {_listed(entries)}")
    raise ValueError(
        f"{path}: series: {given!r} matches {len(fitting)} volumes; choose one with --series list:NUMBER:"
        f" {_listed(fitting)}"
    )


def _several(volumes: Sequence[DicomVolume]) -> str:
    files: dict[str, set[Path]] = {}
    for volume in volumes:
        files.setdefault(volume.uid, set()).update(frame.path for frame in volume.frames)
    if len(files) > 1:
        return f"expected one DICOM series, received {len(files)} (of {[len(group) for group in files.values()]} files)"
    keywords = dict.fromkeys(keyword for volume in volumes for keyword, _ in volume.distinction)
    return f"expected one volume, received {len(volumes)} in one DICOM series, which differ in {', '.join(keywords)}"


def _listed(entries: dict[int, DicomVolume]) -> str:
    return "; ".join(f"{number} = {volume}" for number, volume in entries.items())


def _split(volume: DicomVolume, keyword: str, tolerance: float = 1e-4) -> list[DicomVolume]:
    """A volume's slices by the value of an attribute, numbers to a relative tolerance; itself where they agree."""
    values: list[Any] = []
    members: list[list[Frame]] = []
    for frame in volume.frames:
        value = _plain(frame.get(keyword))
        place = next((k for k, other in enumerate(values) if _alike(value, other, tolerance)), None)
        if place is None:
            values.append(value)
            members.append([frame])
        else:
            members[place].append(frame)
    if len(values) == 1:
        return [volume]
    return [
        DicomVolume(tuple(frames), (*volume.distinction, (keyword, _shown(value))))
        for value, frames in zip(values, members)
    ]


def _split_repeated(volume: DicomVolume, keywords: Sequence[str]) -> list[DicomVolume]:
    """A volume in which positions repeat, by the first attribute that gives whole volumes, and each by the next."""
    places = _places(volume.frames)
    if places is None or len(set(places)) == len(places):
        return [volume]
    place_of = dict(zip(volume.frames, places))
    for number, keyword in enumerate(keywords):
        parts = _split(volume, keyword)
        covered = [len({place_of[frame] for frame in part.frames}) for part in parts]
        if len(parts) > 1 and sum(covered) > 0.5 * len(parts) * len(set(places)):
            return [piece for part in parts for piece in _split_repeated(part, keywords[number + 1 :])]
    return _in_turn(volume, places) or [volume]


def _in_turn(volume: DicomVolume, places: Sequence[int]) -> list[DicomVolume]:
    """Time points of slices that repeat alike at every position, in the order of a time; none where no time decides."""
    counts = set(Counter(places).values())
    if len(counts) > 1:
        return []
    (count,) = counts
    for keyword in ORDERED:
        at: dict[int, dict[str, Frame]] = {}
        for frame, place in zip(volume.frames, places):
            at.setdefault(place, {})[_sortable(frame.get(keyword))] = frame
        if all(len(frames) == count and "" not in frames for frames in at.values()):
            turns = zip(*([frames[key] for key in sorted(frames)] for frames in at.values()))
            return [
                DicomVolume(frames, (*volume.distinction, (keyword, f"{number} of {count}")))
                for number, frames in enumerate(turns, start=1)
            ]
    return []


def _places(frames: Sequence[Frame]) -> list[int] | None:
    """A number for every slice, the same for slices at one position; None where a position is unknown."""
    positions = [frame.numbers("ImagePositionPatient", 3) for frame in frames]
    axes, spacing = frames[0].numbers("ImageOrientationPatient", 6), frames[0].numbers("PixelSpacing", 2)
    if axes is None or spacing is None or any(position is None for position in positions):
        return None
    at = np.array(positions)
    along = at @ np.cross(axes[:3], axes[3:])
    places, place = [0] * len(frames), 0
    order = np.argsort(along, kind="stable")
    for before, after in pairwise(order):
        place += int(along[after] - along[before] > _SAME_PLACE * min(abs(spacing)))
        places[after] = place
    return places


def _series_order(members: Sequence[Frame]) -> tuple[float, str]:
    header = members[0].header
    number = header.get("SeriesNumber")
    return float("inf") if number in (None, "") else float(number), _text(header.get("SeriesInstanceUID"))


def _plain(value: Any) -> Any:
    """Numbers as a tuple of floats, anything else as text."""
    if value is None or isinstance(value, (str, bytes)):
        return value
    try:
        return tuple(float(item) for item in np.atleast_1d(value))
    except (TypeError, ValueError):
        return str(value)


def _alike(value: Any, other: Any, tolerance: float) -> bool:
    if not (isinstance(value, tuple) and isinstance(other, tuple)) or len(value) != len(other):
        return bool(value == other)
    margin = tolerance * max(map(abs, (*value, *other)), default=0.0)
    return all(abs(one - two) <= margin for one, two in zip(value, other))


def _sortable(value: Any) -> str:
    try:
        return f"{float(value):020.6f}"
    except (TypeError, ValueError):
        return _text(value)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(f"{number:.5g}" for number in value)
    return "absent" if value is None else _text(value)[:_LONGEST]


def _text(value: Any) -> str:
    """On one line, without characters that a terminal would obey."""
    return " ".join("".join(c if c.isprintable() else " " for c in str("" if value is None else value)).split())
