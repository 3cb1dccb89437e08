"""Tested settings of a deformation for images other than two heads of one contrast."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from medtrace.registration.deformable import Deformable


def thorough(spacing: Sequence[float]) -> Deformable:
    """Settings for images whose true deformation is smooth, such as TraceBench: wide smoothing of updates, almost no
    elasticity.

    Args:
        spacing: mm per voxel and axis of the grid on which the deformation is estimated.

    Example:
        >>> thorough((2.0, 2.0)).update_smoothing_mm
        8.0
    """
    edge = math.prod(spacing) ** (1 / len(spacing))
    return Deformable(
        update_smoothing_mm=4.0 * edge,
        field_smoothing_mm=0.3 * edge,
        iterations=(100, 100, 100),
        tolerance=3e-4,
        floor=3e-4,
    )


def weak_likeness(spacing: Sequence[float]) -> Deformable:
    """Settings for images that are similar only in shape, such as tissue in two stains: a stiff field at fine levels.

    Args:
        spacing: as for `thorough`.

    Example:
        >>> weak_likeness((0.5, 0.5)).iterations
        (50, 50)
    """
    edge = math.prod(spacing) ** (1 / len(spacing))
    return Deformable(
        radius=4,
        update_smoothing_mm=12.0 * edge,
        field_smoothing_mm=2.0 * edge,
        iterations=(50, 50),
        floor=1e-2,
    )


PRESETS: Mapping[str, Callable[[Sequence[float]], Deformable]] = {
    "standard": lambda spacing: Deformable(),  # noqa: ARG005 - the same for all
    "thorough": thorough,
    "weak-likeness": weak_likeness,
}
"""Name → settings for the mm per voxel of a grid."""
