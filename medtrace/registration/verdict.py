"""Verdict on how far to trust a registration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from medtrace.fields import compose, identity_grid, inside_grid, jacobian_determinant, warp
from medtrace.kernels.greedy import operations
from medtrace.registration.alignment import Alignment
from medtrace.registration.contrast import ONE_CONTRAST, ONE_SIGN, ContrastRelation, mean_correlation
from medtrace.registration.deformable import Deformation
from medtrace.registration.working import Working

GRADES = ("PASS", "WARN", "FAIL")
COVERED = (0.85, 0.5)
"""Fraction of the fixed content with a counterpart below which to warn, and below which to fail."""

JACOBIAN = (0.05, 0.0)
"""Smallest Jacobian determinant of the field or its inverse, likewise."""

AGREEMENT = (0.15, 0.5)
"""Distance between the alignments found from either side, over the content's radius: above which to warn, to fail."""

INVERSE_VOXELS = (0.5, 3.0)
"""Largest inverse error in voxels, likewise."""

NO_CONTRAST = 0.3
"""Correlation of the intensities below which squared differences cannot have guided the registration."""

CORRELATION = (0.2, 0.1)
"""Mean squared local correlation in the content after the registration: below which to warn, and to fail."""


OTHER_GAIN, FAR_GAIN = 0.15, 0.05
"""Fraction of the information by which another alignment must beat the headers' own to be preferred; the second applies
if it is so far away that one of the two must be wrong (a slice turned by 180° without a notice had 13 %)."""

MIRRORED = (0.03, 0.05)
"""Fraction of the information that a mirrored map may add: above which to warn, to fail. For one person's images that
were not flipped it was -22 to -9 %, for flipped ones 10 to 35 %; for two people's heads -1 to 1 % either way, so that
an exchange of left and right is not detected: `unseen_swap` says so."""

ALIKE = 0.03
"""Fraction of the information within which a mirrored map is as good, which is a caution and no finding."""

ONE_SIDED = 0.1
"""Fraction of the information by which a mirrored map of a slice must be worse: a volume's header states its sides, a
slice's file rarely does. For slices of two people (32 of TraceBench) it was -31 to 9 % rightly placed and -9 to 37 %
flipped."""

LOST = 0.1
"""Fraction of similarity that a deformation may cost: between images that were already aligned it has nothing to
gain."""

GAINED, UNLIKE = 1.25, 0.5
"""Minimum factor by which a deformation must raise the information above that of independent images if the squared
local correlation stays below the second number: otherwise there is no evidence of an improvement."""


NUDGE = 0.09
"""Length, over the content's radius, of the shifts that a registration's information must beat."""

REVEALING = 4.0
"""Sharpness of the fixed image against itself above which the factor is required: real heads (T1, 3 mm) have 6.7 to 10,
simple shapes 1 to 2, for which a correct registration has no more either."""

SHARP = 1.85
"""Factor by which it must if the squared local correlation stays below UNLIKE. Set on few cases: two heads at 3 mm, 1.2
to 1.7 for three that were not registered (structures' Dice below .54), 2.05 and 2.55 for two that were."""


UNMIRRORED = 0.05
"""Fraction of the information by which a mirrored map must be worse for two images to be located by their shapes. For
two pairs of tissue in two stains it was 21 to 22 % worse."""


class OtherStart(NamedTuple):
    """A second alignment, estimated in another way."""

    distance_mm: float
    """Distance over the fixed content from the alignment that was used."""
    gain: float | None
    """By how much it raises the information that the headers' own shares; None if it is that same one, estimated in the
    reverse direction."""


TOPICS = ("coverage", "similarity", "field and inverse", "alignment", "two starts", "contrast")


class Finding(NamedTuple):
    """One reason against a registration."""

    topic: str
    """One of TOPICS."""
    grade: str
    """"WARN" or "FAIL"."""
    reason: str


class Verdict(NamedTuple):
    """A grade, its reasons, and the underlying figures."""

    grade: str
    """"PASS", "WARN" or "FAIL"."""
    reasons: tuple[str, ...]
    """The reasons against the registration, the most serious first; none for a PASS."""
    figures: dict[str, float]
    findings: tuple[Finding, ...] = ()
    """The reasons with their topics and grades."""

    def text(self) -> str:
        """One line for a person."""
        said = self.reasons or (f"{100 * self.figures['covered_share']:.0f} % covered, no evidence against it",)
        return f"{self.grade}: " + "; ".join([*said, *unseen_swap(self)])


def assess(
    pair: Working,
    deformation: Deformation,
    alignment: Alignment,
    other: OtherStart | None = None,
    similarity: str = "lncc",
    contrast: ContrastRelation | None = None,
) -> Verdict:
    """Assess a registration without ground truth.

    Args:
        pair: the images on the working grid.
        deformation: deformation of them.
        alignment: the alignment before it.
        other: a second alignment, or None.
        similarity: the similarity that drove the deformation.
        contrast: how the aligned images relate, or None.
    """
    known = None if contrast is None else contrast.texture
    figures = measure(pair, deformation, alignment, known)
    by_topic = {
        "coverage": _extent(figures),
        "similarity": likeness(figures, contrast is not None and contrast.weak and shapes_agree(alignment, other)),
        "field and inverse": _regularity(figures),
        "alignment": _alignment(alignment) + _unknown_side(alignment, len(pair.spacing)),
    }
    if other is not None:
        figures["other_start_mm"] = other.distance_mm
        if other.gain is not None:
            figures["other_start_gain"] = other.gain
        by_topic["two starts"] = _other(other, figures["content_radius_mm"])
    if contrast is not None:
        figures["contrast_one_sign"], figures["contrast_correlation"] = contrast.one_sign, contrast.correlation
        by_topic["contrast"] = _contrast(similarity, contrast)
    result = [Finding(topic, *one) for topic, ones in by_topic.items() for one in ones]
    result.sort(key=lambda one: -GRADES.index(one.grade))
    grade = result[0].grade if result else "PASS"
    return Verdict(grade, tuple(one.reason for one in result), figures, tuple(result))


def measure(
    pair: Working, deformation: Deformation, alignment: Alignment, aligned: float | None = None
) -> dict[str, float]:
    """The figures of a verdict; `aligned` is the local correlation before the deformation where it is known."""
    ddf, inverse = deformation.ddf[None], deformation.inverse[None]
    length = torch.tensor(pair.spacing).reshape(1, -1, *[1] * (ddf.ndim - 2)).to(ddf)
    missed = compose(ddf, inverse)
    inside = inside_grid(identity_grid(ddf.shape[2:], device=ddf.device) + inverse, ddf.shape[2:])
    inside &= pair.content[None].to(inside.device)
    error, error_mm = _length(missed) * inside, _length(missed * length) * inside
    moving, fixed = pair.shown
    warped = warp(moving[None], ddf)[0]
    weight = pair.content.to(fixed) * (1 - pair.mask.to(fixed))
    alike = {
        "correlation_aligned": mean_correlation(moving, fixed, weight) if aligned is None else aligned,
        "correlation_after": mean_correlation(warped, fixed, weight),
        "working_information_aligned": _information(moving, fixed, weight),
        "working_information_after": _information(warped, fixed, weight),
    }
    if alike["correlation_after"] < UNLIKE:
        shift = NUDGE * alignment.content.radius
        alike["sharpness"] = sharpness(warped, fixed, weight, shift, pair.spacing)
        alike["sharpness_of_fixed"] = sharpness(fixed, fixed, weight, shift, pair.spacing)
    return {
        "covered_share": pair.covered,
        "information_before": alignment.similarity_before,
        "information_aligned": alignment.similarity,
        **alike,
        "smallest_jacobian": float(jacobian_determinant(ddf).min()),
        "smallest_jacobian_of_inverse": float(jacobian_determinant(inverse).min()),
        "folds": float(deformation.folds),
        "inverse_error_voxels": float(error.max()),
        "inverse_error_mm": float(error_mm.sum() / inside.sum().clamp_min(1)),
        "displacement_mm": _mean(ddf * length, pair.content),
        "scale": alignment.plausibility.scale,
        "stretch": alignment.plausibility.stretch,
        "rotation_degrees": alignment.plausibility.rotation_degrees,
        "content_radius_mm": alignment.content.radius,
        "mirror_gain": alignment.mirror_gain,
    }


def _information(moving: Tensor, fixed: Tensor, weight: Tensor) -> float:
    """Normalized mutual information, in [1, 2], of images (C, *spatial) from 0 to 1; mean over channels."""
    ops = operations(fixed.shape[1:], fixed.device)
    fraction = ops.volume(weight[0].contiguous())
    values = [
        ops.information(ops.volume(a.contiguous()), ops.volume(b.contiguous()), fraction, True, False).value
        for a, b in zip(moving.clamp(0, 1), fixed.clamp(0, 1))
    ]
    return sum(values) / (len(values) * max(float(weight.sum()), 1e-9))


def sharpness(moving: Tensor, fixed: Tensor, weight: Tensor, shift_mm: float, spacing: Sequence[float]) -> float:
    """Information that two images share, over that when one is shifted along an axis: 1 is not a peak, 10 the most.

    The information that independent images of as many voxels share by chance is subtracted from both.

    Args:
        moving: (C, *spatial) from 0 to 1, registered.
        fixed: likewise.
        weight: (1, *spatial) of the voxels that count.
        shift_mm: mm of the shifts; the mean over both directions of every axis counts.
        spacing: mm of a voxel per axis.
    """
    order = torch.randperm(weight.numel(), generator=torch.Generator().manual_seed(0))
    inside = order[weight.flatten()[order].cpu() > 0]
    if inside.numel() < 2:
        return 1.0
    shuffled = moving.clone().flatten(1)
    shuffled[:, inside.sort().values] = moving.flatten(1)[:, inside]
    chance = _information(shuffled.reshape(moving.shape), fixed, weight)
    here, there = _information(moving, fixed, weight) - chance, []
    for axis, edge in enumerate(spacing):
        for length in (-shift_mm, shift_mm):
            shift = moving.new_zeros(1, len(spacing), *(1,) * len(spacing))
            shift[:, axis] = length / edge
            moved = warp(moving[None], shift.expand(1, -1, *moving.shape[1:]))[0]
            there.append(_information(moved, fixed, weight) - chance)
    return max(here, 0.0) / max(sum(there) / len(there), 0.1 * here, 1e-9)


def _length(field: Tensor) -> Tensor:
    """(B, 1, *spatial) of vectors (B, D, *spatial); torch's own norm takes ten times as long along this axis."""
    return field.square().sum(1, keepdim=True).sqrt()


def _mean(field: Tensor, region: Tensor) -> float:
    lengths, counted = _length(field), region[None].to(field)
    return float((lengths * counted).sum() / counted.sum()) if bool(region.any()) else float(lengths.mean())


def _extent(figures: dict[str, float]) -> list[tuple[str, str]]:
    covered = figures["covered_share"]
    text = f"only {100 * covered:.0f} % of the fixed content has a counterpart in the moving image"
    return _below(covered, COVERED, text)


def _regularity(figures: dict[str, float]) -> list[tuple[str, str]]:
    result = []
    for name, what in (("smallest_jacobian", "field"), ("smallest_jacobian_of_inverse", "inverse")):
        value = figures[name]
        text = f"the {what} folds (smallest Jacobian {value:.2g})" if value <= 0 else ""
        result += _below(
            value, JACOBIAN, text or f"the {what} almost folds (smallest Jacobian {value:.2g})", equal=True
        )
    if figures["folds"] > 0 and figures["smallest_jacobian"] > 0:
        result.append(("FAIL", f"the field folds in {figures['folds']:.0f} voxels"))
    error = figures["inverse_error_voxels"]
    return result + _below(
        -error, tuple(-one for one in INVERSE_VOXELS), f"the inverse is off by up to {error:.1f} voxels"
    )


def _alignment(alignment: Alignment) -> list[tuple[str, str]]:
    result = []
    assessed = alignment.plausibility
    if assessed.grade != "PASS":
        result.append((assessed.grade, assessed.reason))
    if alignment.kind != "none" and alignment.similarity < alignment.similarity_before:
        result.append(("WARN", "the alignment shares less information than the headers' own"))
    text = f"mirrored, the images share {100 * alignment.mirror_gain:.0f} % more information; one seems to be flipped"
    return result + _below(-alignment.mirror_gain, tuple(-one for one in MIRRORED), text)


def _unknown_side(alignment: Alignment, dims: int) -> list[tuple[str, str]]:
    """A finding where a slice might be flipped; headers that are trusted say that it is not."""
    if dims > 2 or alignment.kind == "none" or not -ONE_SIDED < alignment.mirror_gain <= MIRRORED[0]:
        return []
    text = (
        f"mirrored, the slices share {abs(100 * alignment.mirror_gain):.0f} %"
        f" {'more' if alignment.mirror_gain > 0 else 'less'} information, too little of a difference (below"
        f" {100 * ONE_SIDED:.0f} %) to notice if one is flipped"
    )
    return [("WARN", text)]


def unseen_swap(verdict: Verdict) -> list[str]:
    """A caution where an image and its mirror image fit equally well, as with the heads of two people."""
    if abs(verdict.figures["mirror_gain"]) > ALIKE or any(reason.startswith("mirrored") for reason in verdict.reasons):
        return []
    return [
        f"mirrored, the images fit as well (information within {100 * ALIKE:.0f} %): if one were flipped, left for"
        " right, it would not be noticed"
    ]


def _other(other: OtherStart, radius: float) -> list[tuple[str, str]]:
    fraction = -other.distance_mm / max(radius, 1e-9)
    bounds = tuple(-one for one in AGREEMENT)
    if other.gain is None:
        text = f"aligned in the reverse direction, the images end up {other.distance_mm:.0f} mm elsewhere"
        return _below(fraction, bounds, text)
    if other.gain < (FAR_GAIN if fraction < bounds[1] else OTHER_GAIN):
        return []
    text = (
        f"moved by {other.distance_mm:.0f} mm, the images share {100 * other.gain:.0f} % more information; align them"
    )
    return _below(fraction, bounds, text)


def _contrast(similarity: str, contrast: ContrastRelation) -> list[tuple[str, str]]:
    if similarity == "mse" and contrast.correlation < ONE_CONTRAST:
        text = f"squared differences were minimized, but of two contrasts (correlation {contrast.correlation:.2f})"
        return [("FAIL" if contrast.correlation < NO_CONTRAST else "WARN", text)]
    if similarity == "lncc" and contrast.one_sign < ONE_SIGN:
        return [("WARN", "local correlation was maximized, but the images look like two contrasts")]
    return []


def shapes_agree(alignment: Alignment, other: OtherStart | None) -> bool:
    """Whether shapes say where an image belongs: no other place or turn comes near, the other side agrees, and the
    mirrored image is clearly behind."""
    if other is None or other.gain is not None:
        return False
    agrees = other.distance_mm < AGREEMENT[0] * max(alignment.content.radius, 1e-9)
    return agrees and alignment.convincing and alignment.mirror_gain < -UNMIRRORED


def likeness(figures: dict[str, float], by_shapes: bool) -> list[tuple[str, str]]:
    """Findings on similarity; `by_shapes`: texture does not correspond, and shapes determined where the images
    belong."""
    before, after = figures["correlation_aligned"], figures["correlation_after"]
    result = _below(after, CORRELATION, f"hardly similar after registration (squared local correlation {after:.2f})")
    names = ("working_information_aligned", "working_information_after")
    shared = [figures[name] for name in names]
    if (1 - LOST) * (shared[0] - 1) <= shared[1] - 1 < GAINED * (shared[0] - 1) and after < UNLIKE:
        text = f"the deformation hardly raises the shared information ({shared[0]:.3f}, then {shared[1]:.3f})"
        result.append(("WARN", text))
    if after < UNLIKE and figures["sharpness"] < SHARP and figures["sharpness_of_fixed"] >= REVEALING:
        text = f"the images share hardly more information ({figures['sharpness']:.1f}-fold) than slightly shifted"
        # Images similar only in shape are not much less similar after a small shift.
        result.append(("WARN", f"{text}; their shapes agree, their texture does not") if by_shapes else ("FAIL", text))
    if shared[1] - 1 < (1 - LOST) * (shared[0] - 1):
        text = f"the deformation lowers the information that the images share ({shared[0]:.3f}, then {shared[1]:.3f})"
        result.append(("FAIL", text))
    if after < (1 - LOST) * before:
        result.append(
            ("FAIL", f"the images are less similar than before (local correlation {before:.2f}, then {after:.2f})")
        )
    return result


def _below(value: float, bounds: tuple[float, ...], text: str, equal: bool = False) -> list[tuple[str, str]]:
    """Grade a number that should be large: warn below the first bound, fail below the second."""
    warn, fail = bounds
    if value < fail or (equal and value == fail):
        return [("FAIL", text)]
    return [("WARN", text)] if value < warn else []
