"""Registration of two images in one call: alignment, deformation and verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from medtrace.checks import check_choice, check_positive
from medtrace.fields import sample, warp
from medtrace.kernels import threads
from medtrace.registration.alignment import KINDS, Alignment, align_sides, check_pair
from medtrace.registration.contrast import ContrastRelation, choose_similarity, contrast_of, mean_correlation
from medtrace.registration.deformable import SIMILARITIES, Deformable, Deformation, ScaledImages, deform_scaled
from medtrace.registration.frames import Frame
from medtrace.registration.held_out import Evidence, supported
from medtrace.registration.levels import Side, side
from medtrace.registration.presets import weak_likeness
from medtrace.registration.scaling import scaled
from medtrace.registration.verdict import OtherStart, Verdict, assess
from medtrace.registration.working import Working, coordinates, total_field, total_inverse, working_pair

ALIKE = 0.8
"""Mean squared local correlation of aligned images, over that of the fixed image with itself, above which a deformation
must raise it to be kept."""

STRUCTURED = 0.5
"""Minimum mean squared local correlation of an image with itself, which is 1 except for windows without structure."""


class Registration(NamedTuple):
    """Two images in correspondence."""

    ddf: Tensor
    """(D, *fixed spatial) float32, in fixed voxels: the moving voxel is moving_affine⁻¹ · fixed_affine · (p + ddf(p)).
    Alignment and deformation in one."""
    inverse_ddf: Tensor
    """(D, *moving spatial), in moving voxels: the fixed voxel is fixed_affine⁻¹ · moving_affine · (p + inverse(p))."""
    warped: Tensor
    """(C, *fixed spatial): the moving image, interpolated once."""
    alignment: Alignment
    deformation: Deformation
    """On the working grid."""
    settings: Deformable
    """Settings of the deformation, with its similarity."""
    settings_reason: str
    """The reason for these, in a sentence."""
    verdict: Verdict
    evidence: Evidence | None = None
    """The evidence of held-out blocks for the deformation, if they were used."""


@threads.own_pool()
def register_images(
    moving: Tensor,
    fixed: Tensor,
    moving_affine: Tensor,
    fixed_affine: Tensor,
    *,
    alignment: str | Alignment = "auto",
    similarity: str = "auto",
    mask: Tensor | None = None,
    moving_mask: Tensor | None = None,
    spacing: float | None = None,
    settings: Deformable | Callable[[Sequence[float]], Deformable] | None = None,
    check_starts: bool = True,
    held_out: bool = False,
) -> Registration:
    """Register two images of any grids and contrasts.

    Args:
        moving: (C, H, W) or (C, H, W, D), any range.
        fixed: of as many channels and axes, on any grid.
        moving_affine: (4, 4) voxel to RAS mm.
        fixed_affine: (4, 4) voxel to RAS mm.
        alignment: "auto", "rigid", "affine", "none" (see `align`), or an earlier alignment.
        similarity: "auto", or one of `deformable.SIMILARITIES`.
        mask: (1, *spatial) on the fixed grid, boolean or in [0, 1]: pathology that has no counterpart, left out.
        moving_mask: likewise on the moving grid.
        spacing: mm of the voxels on which the deformation is estimated; None for the fixed image's.
        settings: settings of the deformation, whose similarity is replaced, or a function that gives them for the
            spacing in mm of the working grid, such as `thorough`; None for the default ones, or `weak_likeness` if
            shapes are similar and texture is not.
        check_starts: whether a second alignment is estimated, to check whether both agree: in the reverse direction, or
            at all if no alignment was requested.
        held_out: whether to keep only that part of the deformation which is confirmed in held-out blocks (see
            `held_out.supported`); it is then estimated three times.

    Returns:
        See `Registration`; look at its verdict. torch uses one thread meanwhile (see `threads.own_pool`).

    Raises:
        TypeError, ValueError: if a shape, a type or a number is wrong or, according to their headers, the images do not
            overlap where no alignment is requested or are farther apart than their size.

    Example:
        >>> fixed = torch.zeros(1, 48, 48)
        >>> fixed[:, 12:30, 14:36], fixed[:, 16:24, 18:24] = 1.0, 2.0
        >>> eye = torch.eye(4, dtype=torch.float64)
        >>> result = register_images(fixed.roll(4, 1), fixed, eye, eye, alignment="rigid")
        >>> result.ddf.shape, result.alignment.kind
        (torch.Size([2, 48, 48]), 'rigid')
    """
    check_choice("similarity", similarity, ("auto", *SIMILARITIES))
    if spacing is not None:
        check_positive("spacing", spacing)
    if not isinstance(alignment, Alignment):
        check_choice("alignment", alignment, KINDS)
    if isinstance(moving, Tensor) and isinstance(fixed, Tensor) and moving.shape[:1] != fixed.shape[:1]:
        raise ValueError(f"moving: expected {fixed.shape[0]} channel(s) as fixed, received {moving.shape[0]}")
    frame = Frame(fixed_affine, moving_affine, fixed.ndim - 1)
    kind = "given" if isinstance(alignment, Alignment) else alignment
    check_apart(frame, moving.shape[1:], fixed.shape[1:], kind)
    check_pair(moving, fixed)
    sides = side(moving, moving_mask), side(fixed, mask)
    aligned = alignment if isinstance(alignment, Alignment) else align_sides(*sides, frame, kind=alignment)
    matrix = frame.from_ras(aligned.matrix)
    pair = working_pair((moving, fixed), (moving_mask, mask), frame, matrix, spacing)
    contrast = _contrast(pair)
    chosen, reason = _settings(pair, contrast, similarity, settings)
    deformation = deform_scaled(_scaled(pair), pair.spacing, chosen)
    if _needless(pair, deformation, contrast.texture):
        still = torch.zeros_like(deformation.ddf)
        deformation = Deformation(still, still, 0.0, deformation.levels, 0, 0)
        reason = f"{reason}; but the deformation was left out, since the aligned images are more similar without it"
    evidence = None
    if held_out:
        deformation, evidence = supported(pair, deformation, chosen)
    ddf = total_field(deformation.ddf, pair.affine, matrix, frame.fixed, fixed.shape[1:])
    inverse = total_inverse(deformation.ddf, pair.affine, matrix, frame.moving, moving.shape[1:], deformation.inverse)
    other = None
    if check_starts:
        other = _other_start(sides, (moving_affine, fixed_affine), aligned)
    verdict = assess(pair, deformation, aligned, other, chosen.similarity, contrast)
    warped = _warped(moving, ddf, frame)
    return Registration(ddf, inverse, warped, aligned, deformation, chosen, reason, verdict, evidence)


def _scaled(pair: Working) -> ScaledImages:
    """The images to deform. Anything left out does not affect the images' scale either."""
    weight = 1 - pair.mask
    moving, fixed = pair.shown
    if pair.moving_mask is not None:
        moving = scaled(pair.moving, 1 - pair.moving_mask)
    if bool((weight < 1).any()):
        fixed = scaled(pair.fixed, weight)
    return ScaledImages(moving, fixed, weight, pair.moving_mask)


def _needless(pair: Working, deformation: Deformation, before: float) -> bool:
    """Whether images that are already as similar as possible after alignment become less similar when deformed."""
    if before <= ALIKE * STRUCTURED:
        return False
    weight = pair.content.float() * (1 - pair.mask)
    moving, fixed = pair.shown
    if before <= ALIKE * mean_correlation(fixed, fixed, weight):  # 1 except for windows without structure
        return False
    return mean_correlation(warp(moving[None], deformation.ddf[None])[0], fixed, weight) < before


def _contrast(pair: Working) -> ContrastRelation:
    weight = pair.content.float() * (1 - pair.mask)
    return contrast_of(*pair.shown, weight if bool((weight > 0).any()) else torch.ones_like(weight))


def _settings(
    pair: Working,
    contrast: ContrastRelation,
    similarity: str,
    settings: Deformable | Callable[[Sequence[float]], Deformable] | None,
) -> tuple[Deformable, str]:
    """Settings of the deformation, and the reason for them."""
    chosen, reason = choose_similarity(similarity, contrast)
    if settings is not None:
        settings = settings if isinstance(settings, Deformable) else settings(pair.spacing)
        return replace(settings, similarity=chosen), reason
    if similarity == "auto" and contrast.weak:
        text = f"stiff, in large windows: shapes are similar and texture is not ({contrast.texture:.2f} of 1)"
        return weak_likeness(pair.spacing), text
    return replace(Deformable(), similarity=chosen), reason


def check_apart(frame: Frame, moving: torch.Size, fixed: torch.Size, kind: str) -> None:
    """Check that two grids are close enough to be registered.

    Raises:
        ValueError: if they do not overlap and no alignment is requested, or are farther apart than their size.
    """
    boxes = []
    for affine, shape in ((frame.moving, moving), (frame.fixed, fixed)):
        corners = np.stack(np.meshgrid(*((0, size - 1) for size in shape), indexing="ij")).reshape(len(shape), -1)
        points = affine[:-1, :-1] @ corners + affine[:-1, -1:]
        boxes.append((points.min(1), points.max(1)))
    gap = float(np.linalg.norm(np.maximum(0, np.maximum(boxes[0][0] - boxes[1][1], boxes[1][0] - boxes[0][1]))))
    largest = max(float(np.linalg.norm(high - low)) for low, high in boxes)
    if gap > 0 and kind in ("none", "given"):
        raise ValueError(
            f"moving: expected images that overlap, received two {gap:.0f} mm apart by their headers; align"
            " them first, or correct a header"
        )
    if gap > largest:
        raise ValueError(
            f"moving_affine: expected images of the same place, received two {gap:.0f} mm apart by their headers,"
            f" more than their size of {largest:.0f} mm; correct the header that is wrong"
        )


def _other_start(sides: tuple[Side, Side], affines: tuple[Tensor, Tensor], aligned: Alignment) -> OtherStart:
    """A second alignment: from the fixed to the moving image or, if none was requested, any alignment."""
    if aligned.kind == "none":
        frame = Frame(affines[1], affines[0], sides[1].image.ndim - 1)
        result = align_sides(*sides, frame, kind="rigid", finest=2, mirrored=False)
        gain = (result.similarity - result.similarity_before) / max(result.similarity_before - 1, 1e-9)
        return OtherStart(aligned.distance(result.matrix), gain)
    frame = Frame(affines[0], affines[1], sides[1].image.ndim - 1)
    turns = not aligned.convincing
    back = align_sides(*sides[::-1], frame, kind=aligned.kind, turns=turns, finest=2, mirrored=False)
    return OtherStart(aligned.distance(torch.linalg.inv(back.matrix)), None)


def _warped(moving: Tensor, ddf: Tensor, frame: Frame) -> Tensor:
    to_moving = np.linalg.inv(frame.moving) @ frame.fixed
    there = []
    for row, own in zip(to_moving[:-1, :-1], coordinates(to_moving, ddf.shape[1:])):
        own = own.to(ddf.device)
        for factor, component in zip(row, ddf):
            own = own + component * float(factor) if abs(factor) > 1e-12 else own
        there.append(own)
    return sample(moving.detach().as_subclass(Tensor).float()[None], torch.stack(there)[None])[0]
