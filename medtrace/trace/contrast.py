"""What the numbers of an image mean: a name, a unit and a rule between units and [-1, 1]."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from torch import Tensor

from medtrace.trace.intensity_map import IntensityMap

HU, SUV, BYTES, ARBITRARY = "HU", "SUV", "0-255", "a.u."
HU_WINDOW = (-1024.0, 3071.0)
"""The range of a 12-bit CT."""
AIR = -1000.0
"""HU of air, the background of a CT."""
FIXED_WINDOWS = {HU: HU_WINDOW, SUV: (0.0, 20.0), BYTES: (0.0, 255.0)}
"""Units with a default window."""
UNITS_BY_NAME = {"ct": HU, "cbct": HU}
"""Names of contrasts that imply their unit."""
_LONGEST = 64
_MOST_KNOTS = 4096


class Intensity(StrEnum):
    """The rules that map an image's units to [-1, 1]."""

    WINDOW = "window"
    """Fixed limits, the same for every image: units with their own meaning, such as HU."""
    STANDARDIZED = "standardized"
    """Nyul's histogram standardization, the foreground's z-score and a window of z, for each scan anew."""
    PERCENTILE = "percentile"
    """Two percentiles of each scan's foreground."""
    RANGE = "range"
    """Fixed limits of natural images: the range of their depth, or a measured one."""


@dataclass(frozen=True)
class Contrast:
    """The meaning of an image's intensities.

    Attributes:
        name: such as "t1", "CT".
        unit: such as "HU", "SUV", "0-255", or "a.u." if a number is only meaningful relative to others of its scan.
        rule: how the units become [-1, 1].
        limits: units that become -1 and 1 ("window", "range").
        curve: increasing units, and the values from -1 to 1 that they become, of the mean training scan
            ("standardized"): used to convert an image back to units if there is no scan of this contrast.
        background: value outside of the body; None if the images have no background.
        deviation: standard deviation of the training images' intensities, in the unit.
        origin: how the rule was chosen, as readable text.
        bias_corrected: whether images are divided by their bias field first (N4), and all numbers are those of
            corrected images.

    Raises:
        ValueError: if a member is not as described; the message names it.

    Example:
        >>> ct = Contrast.of("CT=HU")
        >>> ct.unit, ct.rule.value, ct.limits
        ('HU', 'window', (-1024.0, 3071.0))
    """

    name: str
    unit: str = ARBITRARY
    rule: Intensity = Intensity.PERCENTILE
    limits: tuple[float, float] | None = None
    curve: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    background: float | None = None
    deviation: float | None = None
    origin: str = ""
    bias_corrected: bool = False

    def __post_init__(self) -> None:
        for name in ("name", "unit"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value or len(value) > _LONGEST or not value.isprintable():
                raise ValueError(f"{name}: expected 1 to {_LONGEST} printable characters, received {value!r:.80}")
        object.__setattr__(self, "rule", Intensity(self.rule))
        fixed = self.rule in (Intensity.WINDOW, Intensity.RANGE)
        if fixed and self.limits is None:
            raise ValueError(f'limits: expected (low, high) with the rule "{self.rule}", received None')
        if self.limits is not None:
            object.__setattr__(self, "limits", _rising("limits", self.limits, most=2))
        if self.curve is not None:
            if not isinstance(self.curve, Sequence) or len(self.curve) != 2:
                raise ValueError("curve: expected units and the values that they become, received something else")
            units, network = _rising("curve", self.curve[0]), _rising("curve", self.curve[1])
            if len(units) != len(network) or (network[0], network[-1]) != (-1.0, 1.0):
                raise ValueError("curve: expected as many units as values from -1 to 1, received others")
            object.__setattr__(self, "curve", (units, network))
        for name in ("background", "deviation"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _number(name, value))
        if self.deviation is not None and self.deviation < 0:
            raise ValueError(f"deviation: expected at least 0, received {self.deviation:g}")
        if not isinstance(self.origin, str):
            raise ValueError(f"origin: expected text, received {type(self.origin).__name__}")
        if not isinstance(self.bias_corrected, bool) or (self.bias_corrected and not self.relative):
            raise ValueError(
                f"bias_corrected: expected False, or True in arbitrary units, received {self.bias_corrected!r} with"
                f" {self.unit}"
            )

    @classmethod
    def of(cls, text: str) -> Contrast:
        """The contrast that `NAME`, `NAME=UNIT` or `NAME=UNIT:LOW:HIGH` declares.

        Args:
            text: `CT` and `CBCT` are in HU by default, and anything else in arbitrary units. LOW and HIGH are
                the units that become -1 and 1. HU, SUV and a.u. are case-insensitive.

        Raises:
            ValueError: if it is malformed, or the unit has no default window and none is given.
        """
        name, _, rest = text.partition("=")
        unit, *numbers = rest.split(":") if rest else [unit_of(name)]
        try:
            limits = tuple(float(number) for number in numbers)
        except ValueError:
            limits = (math.nan,)
        unit = {known.casefold(): known for known in (*FIXED_WINDOWS, ARBITRARY)}.get(unit.casefold(), unit)
        if not name or not unit or len(limits) not in (0, 2) or not all(map(math.isfinite, limits)):
            raise ValueError(
                f"contrast: expected NAME, NAME=UNIT or NAME=UNIT:LOW:HIGH, such as CT=HU:-160:240, received {text!r}"
            )
        return cls.with_unit(name, unit, (limits[0], limits[1]) if limits else None, "as declared")

    @classmethod
    def with_unit(cls, name: str, unit: str, limits: tuple[float, float] | None = None, origin: str = "") -> Contrast:
        """A contrast with a unit, with the rule that the unit implies; see `of`."""
        if unit == ARBITRARY and limits is None:
            return cls(name, unit, Intensity.STANDARDIZED, origin=origin)
        if limits is None and unit not in FIXED_WINDOWS:
            raise ValueError(
                f"contrast: expected limits for the unit {unit!r} of {name!r}, received none; write"
                f" {name}={unit}:LOW:HIGH, or one of the units {', '.join([*FIXED_WINDOWS, ARBITRARY])}"
            )
        window = _rising("limits", FIXED_WINDOWS[unit] if limits is None else limits, most=2)
        background = max(AIR, window[0]) if unit == HU else min(max(0.0, window[0]), window[1])
        return cls(name, unit, Intensity.WINDOW, (window[0], window[1]), background=background, origin=origin)

    @property
    def fixed(self) -> bool:
        """Whether the rule is the same for every image."""
        return self.rule in (Intensity.WINDOW, Intensity.RANGE)

    @property
    def relative(self) -> bool:
        """Whether numbers are only comparable within one scan."""
        return self.unit == ARBITRARY

    def shares_unit(self, other: Contrast) -> bool:
        """Whether a difference of the two is meaningful: they share a unit and, if it is arbitrary, also the
        contrast."""
        same = self.name == other.name and self.bias_corrected == other.bias_corrected
        return self.unit == other.unit and (not self.relative or same)

    def intensity_map(self, channels: int = 1, foreground: Tensor | None = None) -> IntensityMap:
        """The map between units and [-1, 1] that needs no scan: by the limits, or the mean training scan's.

        Args:
            channels: channels of the image.
            foreground: see `IntensityMap`.

        Raises:
            ValueError: if the rule needs a scan and no training scans are on record.
        """
        if self.fixed and self.limits is not None:
            knots: tuple[tuple[float, ...], tuple[float, ...]] = (self.limits, (-1.0, 1.0))
        elif self.curve is not None:
            knots = self.curve
        else:
            raise ValueError(
                f"contrast: {self.name!r} cannot be converted to its units without a scan (rule {self.rule}, no curve"
                " of training scans); prepare the data again"
            )
        background = knots[0][0] if self.background is None else self.background
        return IntensityMap((knots[0],) * channels, (knots[1],) * channels, foreground, background)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = {**asdict(self), "rule": str(self.rule)}
        if not self.bias_corrected:
            del values["bias_corrected"]  # as written by earlier versions
        return values

    @classmethod
    def from_dict(cls, values: Any) -> Contrast:
        """A contrast from the result of `as_dict`.

        Raises:
            ValueError: if it is something else.
        """
        if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
            raise ValueError(f"contrast: expected named values, received {type(values).__name__}")
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"contrast: expected the members of a Contrast, received others ({error})") from error

    def __str__(self) -> str:
        return f"{self.name} ({self.unit}{', bias-corrected' if self.bias_corrected else ''})"


def unit_of(name: str) -> str:
    """The unit that a contrast's name implies: HU for `CT` and `CBCT`, else arbitrary."""
    return UNITS_BY_NAME.get(name.lower(), ARBITRARY)


def unit_label(contrasts: Sequence[Contrast] | None) -> str:
    """The contrasts of an image's channels in words, such as "CT (HU)"; empty if unknown."""
    return "" if contrasts is None else ", ".join(dict.fromkeys(map(str, contrasts)))


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name}: expected a finite number, received {value!r:.80}")
    return float(value)


def _rising(name: str, values: Any, most: int = _MOST_KNOTS) -> tuple[Any, ...]:
    if not isinstance(values, Sequence) or isinstance(values, str) or not 2 <= len(values) <= most:
        raise ValueError(f"{name}: expected {'two' if most == 2 else 'two or more'} numbers, received {values!r:.80}")
    numbers = tuple(_number(name, value) for value in values)
    if any(b <= a for a, b in itertools.pairwise(numbers)):
        raise ValueError(f"{name}: expected increasing numbers, received {numbers!r:.80}")
    return numbers
