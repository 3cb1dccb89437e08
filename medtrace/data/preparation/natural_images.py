"""The depth that all natural images of a data set share, and the range of their values."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from medtrace.data.lists.pair_list import Pair
from medtrace.data.natural_images.files import is_natural_image, natural_image_depth
from medtrace.data.natural_images.tiff import Depth
from medtrace.data.preparation.learning import Learned

NEARLY_BLACK = 1 / 8
"""Fraction of the value range below which a natural image seems to be of another depth."""


class ValueRange(NamedTuple):
    """The values that become -1 and 1, and how they were determined."""

    low: float
    high: float
    origin: str


def all_natural_images(pairs: Sequence[Pair]) -> bool:
    """Whether the pairs are natural images, not scans.

    Raises:
        ValueError: if some are and some are not.
    """
    kinds = {is_natural_image(image.path) for pair in pairs for image in pair.images}
    if len(kinds) > 1:
        first = is_natural_image(pairs[0].first.path)
        odd = next(pair for pair in pairs if any(is_natural_image(image.path) != first for image in pair.images))
        raise ValueError(f"{odd.origin}: mixes scans and natural images (PNG, JPEG); prepare them as two datasets")
    return kinds == {True}


def check_natural_image_settings(natural_images: bool, value_range: Sequence[float] | None, page: int | None) -> None:
    """Check what only natural images take.

    Raises:
        ValueError: if it is given for scans, or outside its range.
    """
    for name, value in (("value_range", value_range), ("page", page)):
        if value is not None and not natural_images:
            raise ValueError(f"{name}: expected none with scans, received {value}; it is for natural images")
    if page is not None and page < 1:
        raise ValueError(f"page: expected 1 or more, received {page}")
    if value_range is not None:
        numbers = [float(value) for value in value_range]
        if len(numbers) != 2 or not all(map(math.isfinite, numbers)) or numbers[0] >= numbers[1]:
            raise ValueError(f"value_range: expected a low and a higher value, received {tuple(value_range)}")


def common_depth(pairs: Sequence[Pair], page: int | None = None) -> Depth | None:
    """The depth that the headers of all natural images declare; None if none can be read.

    Unreadable natural images are skipped: their reader reports them.

    Raises:
        ValueError: if there are several depths, which have no common value range; it names the row, the file that
            differs from most, and both depths.
    """
    result: list[tuple[Pair, Path, Depth]] = []
    for pair in pairs:
        for path in (image.path for image in pair.images):
            try:
                result.append((pair, path, natural_image_depth(path, page)))
            except (OSError, ValueError):
                continue
    if not result:
        return None
    usual, count = Counter(depth for _, _, depth in result).most_common(1)[0]
    for pair, path, depth in result:
        if depth != usual:
            like = next(other for _, other, its in result if its == usual)
            raise ValueError(
                f"{pair.origin}: {path}: expected {usual}, as in {like} and {count - 1} more natural images, received"
                f" {depth}; a data set has one range of values: convert it, or prepare two data sets"
            )
    return usual


def value_range_of(
    depth: Depth | None, asked: Sequence[float] | None, learned: Sequence[Learned], sources: Iterable[Path] = ()
) -> ValueRange:
    """The range of a data set's values: as asked for, or what 8 bits hold, or measured over the training natural
    images.

    Natural images of 8 bits whose largest value is below an eighth of 255 hold something else, such as class numbers:
    they are measured too.

    Args:
        depth: of all natural images.
        asked: low and high, or None.
        learned: of the training pairs.
        sources: files, for the message.

    Raises:
        ValueError: if there is nothing to measure.
    """
    if asked is not None:
        return ValueRange(float(asked[0]), float(asked[1]), "as requested")
    highest = max((one.highest for one in learned), default=0.0)
    if (depth is None or depth == Depth("uint", 8)) and (not learned or highest >= 255 * NEARLY_BLACK):
        return ValueRange(0.0, 255.0, "the range of 8 bits")
    lowest = min((one.lowest for one in learned), default=0.0)
    if not lowest < highest:
        raise ValueError(
            f"{next(iter(sources), 'pairs')}: no training natural image to measure the range of {depth} values;"
            " give it with --value-range"
        )
    return ValueRange(lowest, highest, f"measured over {2 * len(learned)} training natural images")


def range_notes(
    values: tuple[float, float],
    origin: str | None,
    depth: str | None,
    learned: Mapping[str, Learned],
    clipped: Mapping[str, int],
) -> list[str]:
    """Notes for the user about the range.

    Args:
        values: low and high.
        origin: how they were found.
        depth: code of the natural images' depth.
        learned: of each pair, by name.
        clipped: pixels outside of the range of each pair.
    """
    low, high = values
    kind = f"{Depth.of(depth)} " if depth else ""
    notes = [f"value range {low:g} to {high:g} of {kind}natural images, {origin}; --value-range sets another"]
    outside = {name: count for name, count in clipped.items() if count}
    if outside:
        notes.append(
            f"{sum(outside.values())} pixels of {len(outside)} pair(s) lie outside of the value range and were clipped"
            f" (first: {next(iter(outside))})"
        )
    dark = [name for name, one in learned.items() if one.highest < low + NEARLY_BLACK * (high - low)]
    if dark:
        notes.append(
            f"{len(dark)} pair(s) use less than an eighth of the value range (first: {dark[0]}); check whether their"
            " values are on another scale"
        )
    return notes
