"""What a run remembers of the scans that it was trained on: who they are, and what they look like."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from medtrace.data.fingerprint import fingerprint
from medtrace.data.preparation.intensity import without_metadata
from medtrace.data.scan_statistics import ScanStatistics, natural_image_statistics, scan_statistics
from medtrace.trace.contrast import HU, Contrast

SCANS = "scans"
"""Entry of a data set's index and of a run's record."""
ROLES = ("source", "target")
AXES = ("right-left", "front-back", "up-down")
HISTOGRAM_FLOOR = 0.1
"""Distance of histogram and profile, root mean square of fractions of the range, that is always let be."""
SKULL_FLOOR = 0.45
"""Likewise, the difference of `skull_score`."""
EXTENT_FLOOR = math.log(1.2)
"""Likewise, the logarithm of a ratio of extents."""
SPACING_FLOOR = math.log(2.0)
"""Likewise, of voxel sizes."""
RANGE_FLOOR = 0.5
"""Likewise, the difference of an end of the range as a fraction of the range."""


@dataclass(frozen=True)
class ImageRecord:
    """One image of a population.

    Attributes:
        contrast: its name.
        fingerprint: see `medtrace.data.fingerprint`.
        statistics: what it looks like.
        unit: unit of its contrast.
        natural_image: whether it is a natural image without anatomy.
    """

    contrast: str
    fingerprint: str
    statistics: ScanStatistics
    unit: str = ""
    natural_image: bool = False

    @classmethod
    def of(
        cls,
        image: Tensor,
        affine: Tensor,
        name: str,
        contrast: Contrast | None = None,
        natural_image: bool = False,
        digest: str | None = None,
    ) -> ImageRecord:
        """Of an image as it was read.

        Args:
            image: (C, *spatial), in its units; of scans three spatial axes.
            affine: (4, 4), voxel to RAS mm.
            name: name of the contrast.
            contrast: what its numbers mean, where that is known.
            natural_image: whether it is a natural image.
            digest: its fingerprint, where that is known already.
        """
        values = without_metadata(image)
        looks = natural_image_statistics(values) if natural_image else scan_statistics(values, affine, contrast)
        return cls(name, digest or fingerprint(values), looks, "" if contrast is None else contrast.unit, natural_image)

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "contrast": self.contrast,
            "fingerprint": self.fingerprint,
            "unit": self.unit,
            "natural_image": self.natural_image,
            "statistics": self.statistics.as_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ImageRecord:
        """Of what `as_dict` gave."""
        return cls(**{**values, "statistics": ScanStatistics.from_dict(values["statistics"])})


def skull_score(looks: ScanStatistics) -> float | None:
    """Measure of the tissue around the brain that a scan shows: about 0 with skull, below -0.65 without.

    The amount of dark tissue below the surface, where the skull is, relative to the darkest tenth of the image: a scan
    without skull has little that is dark.
    """
    if looks.rim is None:
        return None
    return math.log(looks.rim + 0.01) - math.log(max(looks.levels[0], 0.01))


def unlike(record: ImageRecord, training: Sequence[ImageRecord], others: Sequence[ImageRecord] = ()) -> list[str]:
    """In what an image is unlike those of a training, one line each.

    An image is unlike where it lies further outside the training images' range than half that range, or than a minimum
    margin measured on real scans (`docs/reliability.md`), which is wider the fewer images there were.

    Args:
        record: record of the image.
        training: of the training images of its role and contrast.
        others: of those of the other role, for which it might be mistaken.
    """
    if not training:
        return []
    looks, known = record.statistics, [one.statistics for one in training]
    result = [_range_line(record, training), _contrast_line(looks, known, [one.statistics for one in others])]
    if not record.natural_image and all(one.extent_mm for one in known) and looks.extent_mm:
        result += [_extent_line(looks, known), _spacing_line(looks, known)]
        if record.unit != HU:
            result.append(_skull_line(looks, known))
    return [line for line in result if line]


def distance(first: ScanStatistics, second: ScanStatistics) -> float:
    """Root mean square difference of two images' histograms and profiles."""
    one, other = ([*looks.levels, *looks.profile] for looks in (first, second))
    if len(one) != len(other):
        one, other = list(first.levels), list(second.levels)
    return float(np.sqrt(np.mean((np.array(one) - np.array(other)) ** 2)))


def _outside(value: float, known: Sequence[float], floor: float) -> float:
    """Distance of a value from the known values' range, in tolerances: above 1 is dissimilar."""
    low, high = min(known), max(known)
    tolerance = max((high - low) / 2, _floor(floor, len(known)))
    return max(low - value, value - high, 0.0) / tolerance


def _floor(floor: float, count: int) -> float:
    return floor * (1 + 2 / count)


def _range_line(record: ImageRecord, training: Sequence[ImageRecord]) -> str | None:
    """For absolute units; arbitrary ones are converted to one scale."""
    if not (record.natural_image or record.unit == HU):
        return None
    known = [one.statistics.limits for one in training]
    span = max(float(np.median([high - low for low, high in known])), 1e-6)
    limits = record.statistics.limits
    if all(_outside(limits[end] / span, [one[end] / span for one in known], RANGE_FLOOR) <= 1 for end in (0, 1)):
        return None
    low, high = min(one[0] for one in known), max(one[1] for one in known)
    return f"range: its values are {limits[0]:.4g} to {limits[1]:.4g}, in training they were {low:.4g} to {high:.4g}"


def _contrast_line(
    looks: ScanStatistics, known: Sequence[ScanStatistics], others: Sequence[ScanStatistics]
) -> str | None:
    nearest = min(distance(looks, one) for one in known)
    apart = (
        [min(distance(one, other) for other in [*known[:k], *known[k + 1 :]]) for k, one in enumerate(known[:200])]
        if len(known) > 1
        else [0.0]
    )
    limit = max(1.5 * max(apart), _floor(HISTOGRAM_FLOOR, len(known)))
    if nearest > limit:
        return (
            f"contrast: its histogram is {nearest:.2f} of the range from the nearest training image's, where"
            f" {limit:.2f} is usual"
        )
    if others and nearest > HISTOGRAM_FLOOR * 0.4:
        swapped = min(distance(looks, one) for one in others)
        if swapped < SWAPPED * nearest:
            return (
                f"contrast: it looks like what the run makes ({swapped:.2f} from the nearest target in training), not"
                f" like what it reads ({nearest:.2f} from the nearest source)"
            )
    return None


SWAPPED = 0.8
"""Margin by which an image that looks like a target is nearer to the training targets than to the sources."""


def _extent_line(looks: ScanStatistics, known: Sequence[ScanStatistics]) -> str | None:
    odd = _odd_axes(looks.extent_mm, [one.extent_mm for one in known], EXTENT_FLOOR, ".0f")
    return f"field of view: it shows {odd}" if odd else None


def _spacing_line(looks: ScanStatistics, known: Sequence[ScanStatistics]) -> str | None:
    odd = _odd_axes(looks.spacing_mm, [one.spacing_mm for one in known], SPACING_FLOOR, ".3g")
    return f"voxel size: {odd}" if odd else None


def _odd_axes(own: Sequence[float], known: Sequence[Sequence[float]], floor: float, form: str) -> str:
    """Lengths in mm outside those of the training, axis by axis, as `form` writes them."""
    odd = []
    for axis, name in enumerate(AXES):
        values = [lengths[axis] for lengths in known]
        if _outside(_log(own[axis]), [_log(value) for value in values], floor) > 1:
            odd.append(f"{own[axis]:{form}} mm {name} (training {min(values):{form}} to {max(values):{form}})")
    return ", ".join(odd)


def _skull_line(looks: ScanStatistics, known: Sequence[ScanStatistics]) -> str | None:
    score, scores = skull_score(looks), [skull_score(one) for one in known]
    values = [one for one in scores if one is not None]
    if score is None or not values or _outside(score, values, SKULL_FLOOR) <= 1:
        return None
    if score < min(values):
        return "skull: it looks skull-stripped, and the training images do not" if looks.zero_background else None
    stripped = all(one.zero_background for one in known)
    return "skull: it looks like a head with its skull, and the training images do not" if stripped else None


def _log(value: float) -> float:
    return math.log(max(value, 1e-3))


def scan_records(split: Mapping[str, Sequence[Any]], learned: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The scans in a data set's index: for every pair its volume, subject, split and mask, and a record of each of its
    images by role (see `role_records`).

    Args:
        split: name of a split → its pairs (`medtrace.data.lists.pair_list.Pair`).
        learned: name of a pair → results of the first pass of a preparation (`records`).
    """
    return [
        {
            "volume": pair.name,
            "subject": pair.subject,
            "split": name,
            "mask": pair.mask is not None,
            **{
                role: [record for image, record in zip(pair.images, learned[pair.name].records) if image.side == role]
                for role in ROLES
            },
        }
        for name, pairs in split.items()
        for pair in pairs
        if pair.name in learned
    ]


def role_records(scan: Mapping[str, Any], role: str) -> list[ImageRecord]:
    """The images of a role in an entry of `scan_records`; none where the pair has no image of it.

    Args:
        scan: the entry.
        role: "source" or "target".
    """
    return [ImageRecord.from_dict(values) for values in scan[role]]
