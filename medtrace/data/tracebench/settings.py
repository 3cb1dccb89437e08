"""Common settings of TraceBench's tasks: subjects, lesions and scanners, and their validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

Range = tuple[float, float]


@dataclass(frozen=True)
class BrainSettings:
    """Subjects of the template, their lesions and their scanners. Ranges are sampled uniformly.

    Attributes:
        slice_mm: height of a 2D slice's plane (RAS z).
        anatomy_scales_mm, anatomy_amplitudes_mm: knots and standard deviation of the anatomy's variation.
        out_of_plane_mm: standard deviation of a 2D slice's bending out of its plane.
        rotation_degrees, scaling: bounds (±) of the head's affine variation.
        lesion_radius_mm: mean semi-axis. `lesion_elongation`: bound (±) of the logarithm of a semi-axis' ratio.
        lesion_depth_mm: minimum distance of the lesion's center from the brain's surface.
        border_roughness: standard deviation of the lesion's border, as a fraction of its radius.
        mass_effect: peak velocity of the mass effect over the radius. It is visible: the oedema's width rises with it.
        oedema_mm: width of the oedema at the minimum and the maximum mass effect.
        reach_mm: where the mass effect ends. skull_mm: how near the skull tissue is held.
        mass_roughness: standard deviation of the factor that the lesion's appearance does not reveal.
        contrast_jitter: standard deviation of a tissue's mean (magnitude 0-1).
        source_noise, target_noise: standard deviation of either Rician channel (magnitude 0-1).
        bias: standard deviation of the logarithm of the bias field.
    """

    slice_mm: Range = (-14.0, 46.0)
    anatomy_scales_mm: tuple[float, ...] = (60.0, 28.0)
    anatomy_amplitudes_mm: tuple[float, ...] = (4.5, 2.0)
    out_of_plane_mm: float = 3.0
    rotation_degrees: float = 7.0
    scaling: float = 0.06
    lesion_radius_mm: Range = (10.0, 20.0)
    lesion_elongation: float = 0.25
    lesion_depth_mm: float = 8.0
    border_roughness: float = 0.10
    mass_effect: Range = (0.50, 0.80)
    oedema_mm: Range = (3.0, 12.0)
    reach_mm: float = 75.0
    skull_mm: float = 9.0
    mass_roughness: float = 0.08
    contrast_jitter: float = 0.012
    source_noise: float = 0.02
    target_noise: float = 0.015
    bias: float = 0.045

    def __post_init__(self) -> None:
        check_numbers(self, signed=("slice_mm",), free_length=("anatomy_scales_mm", "anatomy_amplitudes_mm"))
        for name in ("lesion_radius_mm", "reach_mm"):
            value = getattr(self, name)
            if not (value[0] if isinstance(value, tuple) else value) > 0:
                raise ValueError(f"settings.{name}: expected more than 0, received {value}")
        if len(self.anatomy_scales_mm) != len(self.anatomy_amplitudes_mm):
            raise ValueError(
                "settings.anatomy_amplitudes_mm: expected one per anatomy_scales_mm"
                f" ({len(self.anatomy_scales_mm)}), received {len(self.anatomy_amplitudes_mm)}"
            )


def check_numbers(settings: Any, *, signed: Sequence[str] = (), free_length: Sequence[str] = ()) -> None:
    """Check that every field of a settings dataclass that is not a name is finite numbers, and ranges are in order.

    Args:
        settings: an instance of a frozen dataclass whose fields have defaults; lists, as from YAML, become tuples.
        signed: fields that may be below 0.
        free_length: fields of several numbers that are not a range.

    Raises:
        TypeError, ValueError: naming the field.
    """
    for field in fields(settings):
        value = getattr(settings, field.name)
        if isinstance(field.default, str):
            continue
        numbers = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
        if not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
            raise TypeError(f"settings.{field.name}: expected numbers, received {value!r}")
        if not np.isfinite(numbers).all():
            raise ValueError(f"settings.{field.name}: expected finite numbers, received {value!r}")
        if isinstance(field.default, tuple):
            object.__setattr__(settings, field.name, numbers)
            ordered = len(numbers) == len(field.default) and list(numbers) == sorted(numbers)
            if field.name not in free_length and not ordered:
                raise ValueError(f"settings.{field.name}: expected (minimum, maximum), received {numbers!r}")
        elif numbers != (value,):
            raise TypeError(f"settings.{field.name}: expected one number, received {value!r}")
        if field.name not in signed and min(numbers) < 0:
            raise ValueError(f"settings.{field.name}: expected nothing below 0, received {value!r}")
