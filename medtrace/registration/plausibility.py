"""Plausibility of an affine map between two scans of heads, bodies or tissues."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

USUAL_SCALE, POSSIBLE_SCALE = 1.35, 1.8
"""Change of length, either way, beyond which a map is unusual, and beyond which it is rejected."""

USUAL_STRETCH, POSSIBLE_STRETCH = 1.3, 1.7
"""Largest over smallest change of length, likewise."""


class Plausibility(NamedTuple):
    """A map in numbers, and their assessment."""

    rotation_degrees: float
    shift_mm: float
    """Shift of the fixed content's center."""
    scale: float
    """Mean change of length: above 1 the moving image is larger than the fixed one."""
    stretch: float
    """Largest over smallest change of length."""
    mirrored: bool
    grade: str
    """"PASS", "WARN" or "FAIL"."""
    reason: str
    """What is unusual, or ""."""


def plausibility(matrix: Any, center: Any) -> Plausibility:
    """Assess an affine map.

    Args:
        matrix: (D + 1, D + 1), of points in mm, fixed to moving.
        center: (D,) of the fixed content, in mm.
    """
    linear = np.asarray(matrix, np.float64)[:-1, :-1]
    dims = len(linear)
    left, lengths, right = np.linalg.svd(linear)
    rotation = left @ right
    mirrored = bool(np.linalg.det(linear) <= 0)
    cosine = (np.trace(rotation) - (dims - 2)) / 2
    degrees = math.degrees(math.acos(min(max(cosine, -1.0), 1.0)))
    scale = float(np.prod(lengths)) ** (1 / dims)
    stretch = float(lengths.max() / max(lengths.min(), 1e-12))
    shift = float(np.linalg.norm(linear @ center + np.asarray(matrix)[:-1, -1] - center))
    grade, reason = _assess(scale, stretch, mirrored)
    return Plausibility(degrees, shift, scale, stretch, mirrored, grade, reason)


def _assess(scale: float, stretch: float, mirrored: bool) -> tuple[str, str]:
    change = max(scale, 1 / max(scale, 1e-12))
    if mirrored:
        return "FAIL", "the map mirrors the image"
    if change > POSSIBLE_SCALE:
        return "FAIL", f"the map changes lengths {change:.2f}-fold, more than {POSSIBLE_SCALE:g}"
    if stretch > POSSIBLE_STRETCH:
        return "FAIL", f"the map stretches one direction {stretch:.2f} times as much as another"
    if change > USUAL_SCALE:
        return "WARN", f"the map changes lengths {change:.2f}-fold, which is unusual"
    if stretch > USUAL_STRETCH:
        return "WARN", f"the map stretches one direction {stretch:.2f} times as much as another, which is unusual"
    return "PASS", ""
