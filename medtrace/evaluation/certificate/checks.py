"""The checks that a trace alone allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from medtrace.evaluation.certificate import figures as measure
from medtrace.evaluation.certificate.record import Check, assessed, skipped
from medtrace.evaluation.certificate.thresholds import Thresholds
from medtrace.fields import warp
from medtrace.registration.independent_registration import independent_registration
from medtrace.trace import Contrast, Trace
from medtrace.trace.contrast import HU, unit_label

FIELD_CHECKS = ("zero-field control", "field against image")
OWN_WARPED = 1e-3
"""Fraction of the range within which an image is no more than the warped source."""
BESIDE = 2
"""Voxels beside what the images show that the independent registration of volumes still looks at."""
UNDONE = 0.1
"""Voxels by which field and inverse may miss the way back to undo each other."""
NO_CHANNELS = "source and image have different channel counts"


def trace_checks(
    trace: Trace, thresholds: Thresholds, reference: Tensor | None = None, target: Tensor | None = None
) -> list[Check]:
    """Every check that needs nothing but the trace.

    Args:
        trace: on the CPU.
        thresholds: limits and settings.
        reference: the independent displacement, if it is known already (see `independent_field`).
        target: (C, *spatial), the target of a registration: the field is assessed against it, not against the
            image.
    """
    region = measure.foreground(measure.on_image_grid(trace), trace.image)
    if target is not None and target.shape[1:] != trace.image.shape[1:]:
        raise ValueError(
            f"target: expected the image's grid {tuple(trace.image.shape[1:])}, received {tuple(target.shape[1:])}"
        )
    return [
        folding(trace, thresholds),
        smoothness(trace, thresholds),
        inverse_consistency(trace, thresholds),
        account(trace, thresholds),
        *field_against_image(trace, thresholds, region, reference, target),
        residual(trace, thresholds, region),
        intensity(trace, thresholds, region),
    ]


def folding(trace: Trace, thresholds: Thresholds) -> Check:
    """Folded volume of the field and of its inverse."""
    forward, backward = measure.fold_figures(trace.ddf), measure.fold_figures(trace.inverse_ddf)
    figures = {
        "folded_volume_voxels": max(forward.volume_voxels, backward.volume_voxels),
        "ddf_folded_volume_voxels": forward.volume_voxels,
        "inverse_folded_volume_voxels": backward.volume_voxels,
        "ddf_folded_fraction": forward.fraction,
        "inverse_folded_fraction": backward.fraction,
        "ddf_least_jacobian": forward.least_jacobian,
    }
    return assessed("folding", figures, thresholds, "neither the field nor its inverse folds")


def smoothness(trace: Trace, thresholds: Thresholds) -> Check:
    """Single voxels that move otherwise than all around them.

    An inverse bends as sharply as the field compresses: where it leads back to within UNDONE voxels, it follows from
    the field, whose own smoothness is assessed.
    """
    jumps = {name: measure.largest_jump(getattr(trace, name)) for name in ("ddf", "inverse_ddf")}
    if jumps["inverse_ddf"] > thresholds.largest_jump_voxels.warn:
        wrong = measure.missed_voxels(trace) > UNDONE
        jumps["inverse_ddf"] = measure.largest_jump(trace.inverse_ddf, wrong)
    figures = {"largest_jump_voxels": max(jumps.values()), **{f"{name}_jump_voxels": v for name, v in jumps.items()}}
    return assessed("smoothness", figures, thresholds, "no voxel moves differently from its neighbors")


def inverse_consistency(trace: Trace, thresholds: Thresholds) -> Check:
    """Round trip, from the source and from the image; interior and border apart."""
    figures: dict[str, float] = {}
    for forward in (True, False):
        parts = measure.round_trip(trace, thresholds.border_voxels, to_target_first=forward)
        for place, result in zip(("interior", "border"), parts):
            if result is None:
                continue
            for name, value in result._asdict().items():
                key = f"{place}_{name}"
                figures[key] = figures.get(key, 0) + value if name == "points" else max(figures.get(key, 0.0), value)
    if not figures:
        return skipped("inverse consistency", "every point leaves the other grid")
    return assessed("inverse consistency", figures, thresholds, "the field and its inverse undo each other")


def account(trace: Trace, thresholds: Thresholds) -> Check:
    """Whether `warped` is what the field makes of the source."""
    figures = {"account_share": measure.account_error(trace)}
    return assessed("account", figures, thresholds, "the warped source is the source moved by the field")


def field_against_image(
    trace: Trace,
    thresholds: Thresholds,
    region: Tensor,
    reference: Tensor | None = None,
    target: Tensor | None = None,
) -> list[Check]:
    """The claimed field beside the zero field and an independent registration of source and image (or target).

    Where the image is just the warped source, as in a registration, it confirms any field: only a target can then
    decide.
    """
    if not bool(region.any()):
        return [skipped(name, "both images are constant") for name in FIELD_CHECKS]
    if target is None and _own_warped(trace):
        reason = "the image is the warped source, which confirms any field: pass the registration's target (--target)"
        return [skipped(name, reason) for name in FIELD_CHECKS]
    image = trace.image if target is None else target
    if target is not None and trace.mask is not None and bool((region & (trace.mask < 0.5)).any()):
        region = region & (trace.mask < 0.5)  # what a lesion hides has no counterpart
    still, warped, image = _comparable(trace, image, region)
    claimed = measure.similarity(warped, image, region)
    zero = measure.similarity(still, image, region)
    control = assessed(
        FIELD_CHECKS[0],
        {"zero_field_advantage": zero - claimed, "similarity_claimed": claimed, "similarity_zero": zero},
        thresholds,
        "the claimed field explains the image at least as well as no field",
    )
    pair = _at_reference_size(trace, still, image, region, thresholds)
    field = _registered(pair, thresholds) if reference is None else reference
    result = measure.similarity(warp(pair.source[None], field[None])[0], pair.image, pair.region)
    own = measure.similarity(warp(pair.source[None], pair.ddf[None])[0], pair.image, pair.region)
    beside = measure.agreement(pair.ddf, field, pair.affine, pair.region)
    spacing = float(pair.affine[:3, : trace.spatial_dims].norm(dim=0).log().mean().exp())
    limits = "" if trace.same_unit else "_across"
    figures = {
        f"similarity_shortfall{limits}": result - own,
        f"disagreement_voxels{limits}": beside.mean_mm / spacing,
        "disagreement_mm": beside.mean_mm,
        "disagreement_p95_mm": beside.p95_mm,
        "claimed_mm": beside.claimed_mm,
        "independent_mm": beside.independent_mm,
    }
    well = "an independent registration finds no better and no different field"
    return [control, assessed(FIELD_CHECKS[1], figures, thresholds, well)]


def independent_field(trace: Trace, thresholds: Thresholds) -> Tensor:
    """Displacement (spatial_dims, *small) that SimpleITK finds between source and image, on the reference grid."""
    region = measure.foreground(measure.on_image_grid(trace), trace.image)
    still, _, image = _comparable(trace, trace.image, region)
    everywhere = torch.ones_like(still[:1], dtype=torch.bool)
    return _registered(_at_reference_size(trace, still, image, everywhere, thresholds), thresholds)


def _comparable(trace: Trace, image: Tensor, region: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Unmoved source, warped source and image; of those in HU the ranks, so that soft tissue counts beside air."""
    still, warped = measure.on_image_grid(trace), trace.warped
    if _hounsfield(trace.source_contrasts):
        still, warped = (measure.equalized(value, region) for value in (still, warped))
    return still, warped, measure.equalized(image, region) if _hounsfield(trace.contrasts) else image


def _hounsfield(contrasts: Sequence[Contrast] | None) -> bool:
    return contrasts is not None and all(contrast.unit == HU for contrast in contrasts)


def residual(trace: Trace, thresholds: Thresholds, region: Tensor) -> Check:
    """Change that neither deformation nor permitted appearance explains."""
    if trace.source.shape[0] != trace.image.shape[0]:
        return skipped("residual", NO_CHANNELS)
    if not bool(region.any()):
        return skipped("residual", "both images are constant")
    summary = trace.ledger().summary
    figures = {"residual_share": measure.residual_share(trace, region), "residual_mean": summary.residual or 0.0}
    where = "outside the mask" if trace.mask is not None else "anywhere (no mask)"
    return assessed("residual", figures, thresholds, f"little is left unexplained {where}")


def intensity(trace: Trace, thresholds: Thresholds, region: Tensor) -> Check:
    """Values beyond the source's or, across units, those of the target's rule; or an image without contrast."""
    if not trace.same_unit and trace.contrasts is not None:
        return _intensity_of_target(trace, trace.contrasts, thresholds, region)
    figures = {
        "outside_range_share": measure.outside_range(trace.image, trace.source),
        "contrast_loss": measure.contrast_loss(trace.image, trace.source),
        "image_low": float(trace.image.min()),
        "image_high": float(trace.image.max()),
        "source_low": float(trace.source.min()),
        "source_high": float(trace.source.max()),
    }
    return assessed("intensity", figures, thresholds, "the image's values lie in the source's range")


def _intensity_of_target(trace: Trace, contrasts: Sequence[Contrast], thresholds: Thresholds, region: Tensor) -> Check:
    """Every channel by the rule of its own contrast; the worst one counts."""
    known = [one for one in dict.fromkeys(contrasts) if one.fixed or one.curve is not None]
    if not known:
        told = f"the units of {unit_label(contrasts)} are not those of the source, and its range is not known"
        return skipped("intensity", told)
    figures: dict[str, float] = {}
    for contrast in known:
        image = trace.image[[one == contrast for one in contrasts]]
        of_one = {"outside_range_share": measure.outside_contrast(image, contrast)}
        everywhere = torch.ones_like(region) if contrast.fixed else region
        if (loss := measure.contrast_loss_of(image, contrast, everywhere)) is not None:
            of_one["contrast_loss"] = loss
        figures |= {name: max(value, figures.get(name, value)) for name, value in of_one.items()}
        suffix = "" if len(known) == 1 else f"_{contrast.name}"
        figures |= {f"image_low{suffix}": float(image.min()), f"image_high{suffix}": float(image.max())}
    return assessed("intensity", figures, thresholds, f"the image's values lie in the range of {unit_label(known)}")


class _Pair(NamedTuple):
    """Inputs of the reference registration: undeformed source, image, claimed field and region on one small grid."""

    source: Tensor
    image: Tensor
    ddf: Tensor
    region: Tensor
    affine: Tensor


def _own_warped(trace: Trace) -> bool:
    if trace.warped.shape != trace.image.shape or not trace.same_unit:
        return False
    outside = torch.ones_like(trace.image) if trace.mask is None else (trace.mask < 0.5).expand_as(trace.image)
    span = float(trace.source.max() - trace.source.min())
    return float(((trace.image - trace.warped).abs() * outside).max()) <= OWN_WARPED * span


def _registered(pair: _Pair, thresholds: Thresholds) -> Tensor:
    spacing = thresholds.reference_spacing
    if pair.image.ndim == 3:
        return independent_registration(pair.source[None], pair.image[None], control_spacing=spacing)[0]
    if 1 not in pair.image.shape[1:]:
        width = 2 * BESIDE + 1
        return independent_registration(
            pair.source[None],
            pair.image[None],
            control_spacing=spacing,
            region=F.max_pool3d(pair.region[None].float(), width, 1, BESIDE) > 0,
            samples=thresholds.reference_samples_3d,
            evaluations=thresholds.reference_evaluations_3d,
        )[0]
    axis = list(pair.image.shape[1:]).index(1)  # a single slice is registered in its plane
    plane = [value.squeeze(axis + 1)[None] for value in (pair.source, pair.image)]
    parts = list(independent_registration(*plane, control_spacing=spacing)[0].unsqueeze(axis + 1))
    parts.insert(axis, torch.zeros_like(parts[0]))
    return torch.stack(parts)


def _at_reference_size(trace: Trace, still: Tensor, image: Tensor, region: Tensor, thresholds: Thresholds) -> _Pair:
    shape = tuple(image.shape[1:])
    longest = thresholds.reference_size_2d if len(shape) == 2 or 1 in shape else thresholds.reference_size_3d
    edges = trace.affine[:3, : len(shape)].norm(dim=0).tolist()
    factors = [
        min(size, max(1, -(-size // longest), round(thresholds.reference_mm / edge)))
        for size, edge in zip(shape, edges)
    ]
    pool: Callable[..., Tensor] = F.avg_pool2d if len(shape) == 2 else F.avg_pool3d

    def shrink(value: Tensor) -> Tensor:
        return value if max(factors) == 1 else pool(value[None], factors)[0]

    scale = torch.tensor(factors, dtype=trace.ddf.dtype).reshape(-1, *[1] * len(shape))
    inside = shrink(region.float()) >= 0.5
    affine = trace.affine.clone()
    affine[:3, : len(shape)] *= torch.tensor(factors, dtype=torch.float64)
    return _Pair(
        shrink(still.mean(0, keepdim=True)),
        shrink(image.mean(0, keepdim=True)),
        shrink(trace.ddf) / scale,
        inside if bool(inside.any()) else torch.ones_like(inside),
        affine,
    )
