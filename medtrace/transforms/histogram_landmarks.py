"""Landmarks of histogram standardization: the record, its JSON file and its checks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

from medtrace.storage.files import atomic_write

FORMAT = "medtrace histogram landmarks"
VERSION = 1


@dataclass(frozen=True)
class HistogramLandmarks:
    """Standard intensities at given percentiles, for one or several contrasts.

    Attributes:
        percentiles: the histogram's landmarks in percent, strictly increasing within [0, 100]; the first
            and the last are the cutoffs pc1 and pc2 of Nyul, Udupa & Zhang 2000.
        contrasts: contrast name to the standard intensity of each percentile, never decreasing.
        standard_range: the standard intensities (s1, s2) on which training put the cutoffs.

    Example:
        >>> landmarks = HistogramLandmarks((1.0, 50.0, 99.0), {"t1": (0.0, 40.0, 100.0), "t2": (0.0, 60.0, 100.0)})
        >>> landmarks.of("t2")
        (0.0, 60.0, 100.0)
    """

    percentiles: tuple[float, ...]
    contrasts: Mapping[str, tuple[float, ...]]
    standard_range: tuple[float, float] = (0.0, 100.0)

    def __post_init__(self) -> None:
        percentiles = _numbers("percentiles", self.percentiles)
        if len(percentiles) < 2 or not _increasing(percentiles) or percentiles[0] < 0 or percentiles[-1] > 100:
            raise ValueError(
                f"percentiles: expected at least 2 strictly increasing numbers in [0, 100], received {percentiles}"
            )
        bounds = _numbers("standard_range", self.standard_range)
        if len(bounds) != 2 or not _increasing(bounds):
            raise ValueError(f"standard_range: expected 2 increasing numbers, received {bounds}")
        if not isinstance(self.contrasts, Mapping) or not self.contrasts:
            raise ValueError(f"contrasts: expected a name with its landmarks, received {self.contrasts!r}")
        contrasts = {}
        for contrast, values in self.contrasts.items():
            landmarks = _numbers(f"landmarks of {contrast!r}", values)
            if len(landmarks) != len(percentiles):
                raise ValueError(
                    f"landmarks of {contrast!r}: expected {len(percentiles)} numbers (one per percentile), received"
                    f" {len(landmarks)}"
                )
            if any(b < a for a, b in pairwise(landmarks)) or landmarks[0] == landmarks[-1]:
                raise ValueError(
                    f"landmarks of {contrast!r}: expected numbers that rise and never fall, received {landmarks}"
                )
            contrasts[str(contrast)] = landmarks
        object.__setattr__(self, "percentiles", percentiles)
        object.__setattr__(self, "standard_range", bounds)
        object.__setattr__(self, "contrasts", MappingProxyType(contrasts))

    def __reduce__(self) -> Any:
        return HistogramLandmarks, (self.percentiles, dict(self.contrasts), self.standard_range)

    def of(self, contrast: str | None = None) -> tuple[float, ...]:
        """The landmarks of one contrast; without a name, of the only one.

        Raises:
            TypeError: if the contrast is not a name.
            ValueError: if the contrast is unknown, or none is named and there are several.
        """
        if contrast is not None and not isinstance(contrast, str):
            raise TypeError(f"contrast: expected a name, received {contrast!r}")
        if contrast is None and len(self.contrasts) == 1:
            return next(iter(self.contrasts.values()))
        if contrast is None or contrast not in self.contrasts:
            raise ValueError(
                f"contrast: expected one of {', '.join(map(repr, self.contrasts))}, received {contrast!r};"
                " train landmarks for it, or name a contrast that has some"
            )
        return self.contrasts[contrast]

    def merge(self, other: HistogramLandmarks) -> HistogramLandmarks:
        """Landmarks of both; a contrast in both must not differ.

        Raises:
            ValueError: if percentiles or standard ranges differ, or a contrast has two sets of landmarks.
        """
        if (self.percentiles, self.standard_range) != (other.percentiles, other.standard_range):
            raise ValueError(
                f"other: expected percentiles {self.percentiles} and range {self.standard_range}, received"
                f" {other.percentiles} and {other.standard_range}; train both with the same settings"
            )
        twice = [c for c in self.contrasts if c in other.contrasts and self.contrasts[c] != other.contrasts[c]]
        if twice:
            raise ValueError(f"other: expected new contrasts, received other landmarks for {twice}; rename them")
        return HistogramLandmarks(self.percentiles, {**self.contrasts, **other.contrasts}, self.standard_range)

    def save(self, path: str | Path) -> Path:
        """Write the landmarks as JSON; the file appears complete or not at all."""
        record = {
            "format": FORMAT,
            "version": VERSION,
            "percentiles": list(self.percentiles),
            "standard_range": list(self.standard_range),
            "contrasts": {name: list(values) for name, values in self.contrasts.items()},
        }
        return atomic_write(path, json.dumps(record, indent=2) + "\n", make_parents=True)

    @classmethod
    def load(cls, path: str | Path) -> HistogramLandmarks:
        """Read landmarks written by `save`.

        Raises:
            ValueError: if the file is missing, is not such a file or has invalid landmarks.
        """
        try:
            record = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"landmarks: expected a JSON file, received {path}: {error.strerror}") from error
        except ValueError as error:
            raise ValueError(f"landmarks ({path}): expected JSON, received text that is not: {error}") from error
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise ValueError(
                f"landmarks ({path}): expected a JSON object whose 'format' is {FORMAT!r}; write it by"
                " HistogramLandmarks.save"
            )
        if record.get("version") != VERSION:
            raise ValueError(
                f"landmarks ({path}): expected version {VERSION}, received {record.get('version')!r}; train again"
                " or use the medtrace that wrote it"
            )
        absent = [key for key in ("percentiles", "contrasts", "standard_range") if key not in record]
        if absent:
            raise ValueError(f"landmarks ({path}): expected the entries {absent}, which are missing; train again")
        try:
            return cls(record["percentiles"], record["contrasts"], record["standard_range"])
        except (TypeError, ValueError) as error:
            raise ValueError(f"landmarks ({path}): {error}") from error


def as_landmarks(value: HistogramLandmarks | str | Path) -> HistogramLandmarks:
    """Landmarks as given, or read from a file."""
    if isinstance(value, HistogramLandmarks):
        return value
    if isinstance(value, (str, Path)):
        return HistogramLandmarks.load(value)
    raise TypeError(
        f"landmarks: expected HistogramLandmarks or the path of their JSON file, received {type(value).__name__};"
        " get them from HistogramStandardization.train"
    )


def _increasing(values: Sequence[float]) -> bool:
    return all(a < b for a, b in pairwise(values))


def _numbers(name: str, values: Any) -> tuple[float, ...]:
    """Finite floats, or an error that names the entry."""
    if isinstance(values, (str, bytes, Mapping)) or not hasattr(values, "__iter__"):
        raise TypeError(f"{name}: expected a list of numbers, received {values!r}")
    numbers = []
    for value in values:
        if isinstance(value, (bool, str)) or not hasattr(value, "__float__"):
            raise TypeError(f"{name}: expected numbers, received {value!r}")
        number = float(value)
        if number != number or number in (float("inf"), float("-inf")):
            raise ValueError(f"{name}: expected finite numbers, received {number}")
        numbers.append(number)
    return tuple(numbers)
