"""A registration's verdict in words: one line per topic, for a terminal, a record or a page."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from medtrace.registration.alignment import Alignment
from medtrace.registration.verdict import (
    AGREEMENT,
    COVERED,
    GRADES,
    INVERSE_VOXELS,
    JACOBIAN,
    TOPICS,
    Verdict,
    unseen_swap,
)

Figures = dict[str, float]


class Line(NamedTuple):
    """The findings on one topic."""

    topic: str
    grade: str
    """"PASS", "WARN" or "FAIL"."""
    text: str
    figures: Figures
    """The underlying numbers, by the names of `Verdict.figures`."""


def explain(verdict: Verdict, alignment: Alignment) -> tuple[Line, ...]:
    """Explain the basis of a verdict.

    Args:
        verdict: verdict of a registration.
        alignment: the alignment before its deformation.

    Returns:
        A line for each assessed topic, in the order of `TOPICS`; the reasons against the registration come before the
        figures.

    Example:
        >>> from medtrace.registration import register_images
        >>> import torch
        >>> fixed = torch.zeros(1, 48, 48)
        >>> fixed[:, 12:30, 14:36], fixed[:, 16:24, 18:24] = 1.0, 2.0
        >>> eye = torch.eye(4, dtype=torch.float64)
        >>> result = register_images(fixed.roll(4, 1), fixed, eye, eye, alignment="rigid")
        >>> [line.topic for line in explain(result.verdict, result.alignment)][:2]
        ['coverage', 'similarity']
    """
    lines = []
    for topic in TOPICS:
        names, text = _SAID[topic]
        figures = {name: verdict.figures[name] for name in names if name in verdict.figures}
        if names[0] not in figures:
            continue
        against = [finding for finding in verdict.findings if finding.topic == topic]
        grade = max((finding.grade for finding in against), key=GRADES.index, default="PASS")
        caution = unseen_swap(verdict) if topic == "alignment" else []
        said = "; ".join([*(finding.reason for finding in against), text(figures, alignment), *caution])
        lines.append(Line(topic, grade, said, figures))
    return tuple(lines)


def _coverage(figures: Figures, _: Alignment) -> str:
    fraction, asked = 100 * figures["covered_share"], 100 * COVERED[0]
    return f"{fraction:.0f} % of the fixed content has a counterpart (required: {asked:.0f} %)"


def _similarity(figures: Figures, _: Alignment) -> str:
    return (
        f"normalized mutual information {figures['information_before']:.3f} as the headers say,"
        f" {figures['information_aligned']:.3f} aligned; squared local correlation {figures['correlation_aligned']:.2f}"
        f" aligned, {figures['correlation_after']:.2f} after the deformation"
    )


def _field(figures: Figures, _: Alignment) -> str:
    return (
        f"smallest Jacobian {figures['smallest_jacobian']:.2g}, of the inverse"
        f" {figures['smallest_jacobian_of_inverse']:.2g} (required: {JACOBIAN[0]:g}); the inverse is off by"
        f" {figures['inverse_error_voxels']:.2f} voxels at most (allowed: {INVERSE_VOXELS[0]:g}),"
        f" {figures['inverse_error_mm']:.3f} mm on average; mean displacement {figures['displacement_mm']:.1f} mm"
    )


def _alignment(figures: Figures, alignment: Alignment) -> str:
    moved = (
        ""
        if alignment.kind == "none"
        else (
            f"{alignment.kind}: rotated by {figures['rotation_degrees']:.0f}°, shifted by"
            f" {alignment.plausibility.shift_mm:.0f} mm, lengths scaled by {figures['scale']:.2f}, largest over"
            f" smallest scaling {figures['stretch']:.2f}; "
        )
    )
    return moved + alignment.reason


def _starts(figures: Figures, _: Alignment) -> str:
    asked = f"allowed: {AGREEMENT[0] * figures['content_radius_mm']:.0f} mm"
    if "other_start_gain" in figures:
        return (
            f"an alignment would move the image by {figures['other_start_mm']:.1f} mm and raise the shared information"
            f" by {100 * figures['other_start_gain']:.0f} %"
        )
    return f"aligned from either side, the images differ by {figures['other_start_mm']:.1f} mm ({asked})"


def _contrast(figures: Figures, _: Alignment) -> str:
    return (
        f"correlation of the intensities {figures['contrast_correlation']:.2f};"
        f" {100 * (0.5 + figures['contrast_one_sign'] / 2):.0f} % of the local correlation is of one sign"
    )


_SAID: dict[str, tuple[tuple[str, ...], Callable[[Figures, Alignment], str]]] = {
    "coverage": (("covered_share",), _coverage),
    "similarity": (
        ("information_before", "information_aligned", "correlation_aligned", "correlation_after"),
        _similarity,
    ),
    "field and inverse": (
        (
            "smallest_jacobian",
            "smallest_jacobian_of_inverse",
            "folds",
            "inverse_error_voxels",
            "inverse_error_mm",
            "displacement_mm",
        ),
        _field,
    ),
    "alignment": (("rotation_degrees", "scale", "stretch", "mirror_gain"), _alignment),
    "two starts": (("other_start_mm", "other_start_gain", "content_radius_mm"), _starts),
    "contrast": (("contrast_correlation", "contrast_one_sign"), _contrast),
}
