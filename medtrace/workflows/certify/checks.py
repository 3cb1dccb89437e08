"""The checks that a trace alone allows."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from medtrace.fields import warp
from medtrace.metrics import certificate as measure
from medtrace.metrics.independent_registration import independent_registration
from medtrace.trace import Trace
from medtrace.workflows.certify.record import Check, judged, skipped
from medtrace.workflows.certify.thresholds import Thresholds

NO_CHANNELS = "source and image have different channel counts"


def trace_checks(trace: Trace, thresholds: Thresholds, referee: Tensor | None = None) -> list[Check]:
    """Every check that needs nothing but the trace.

    Args:
        trace: on the CPU.
        thresholds: limits and settings.
        referee: the independent displacement, if it is known already (see `independent_field`).
    """
    region = measure.foreground(measure.on_image_grid(trace), trace.image)
    return [
        folding(trace, thresholds),
        smoothness(trace, thresholds),
        inverse_consistency(trace, thresholds),
        account(trace, thresholds),
        *field_against_image(trace, thresholds, region, referee),
        residual(trace, thresholds, region),
        intensity(trace, thresholds),
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
    return judged("folding", figures, thresholds, "neither the field nor its inverse folds")


def smoothness(trace: Trace, thresholds: Thresholds) -> Check:
    """Single voxels that move otherwise than all around them."""
    jumps = {name: measure.largest_jump(getattr(trace, name)) for name in ("ddf", "inverse_ddf")}
    figures = {"largest_jump_voxels": max(jumps.values()), **{f"{name}_jump_voxels": v for name, v in jumps.items()}}
    return judged("smoothness", figures, thresholds, "no voxel moves apart from its neighbours")


def inverse_consistency(trace: Trace, thresholds: Thresholds) -> Check:
    """There and back, from the source and from the image; interior and border apart."""
    figures: dict[str, float] = {}
    for forward in (True, False):
        parts = measure.round_trip(trace, thresholds.border_voxels, to_target_first=forward)
        for place, found in zip(("interior", "border"), parts):
            if found is None:
                continue
            for name, value in found._asdict().items():
                key = f"{place}_{name}"
                figures[key] = figures.get(key, 0) + value if name == "points" else max(figures.get(key, 0.0), value)
    if not figures:
        return skipped("inverse consistency", "every point leaves the other grid")
    return judged("inverse consistency", figures, thresholds, "the field and its inverse undo each other")


def account(trace: Trace, thresholds: Thresholds) -> Check:
    """Whether `warped` is what the field makes of the source."""
    figures = {"account_share": measure.account_error(trace)}
    return judged("account", figures, thresholds, "the warped source is the source moved by the field")


def field_against_image(
    trace: Trace, thresholds: Thresholds, region: Tensor, referee: Tensor | None = None
) -> list[Check]:
    """The claimed field beside the zero field and an independent registration of source and image."""
    names = ("zero-field control", "field against image")
    if not bool(region.any()):
        return [skipped(name, "both images are constant") for name in names]
    still = measure.on_image_grid(trace)
    claimed = measure.similarity(trace.warped, trace.image, region)
    zero = measure.similarity(still, trace.image, region)
    control = judged(
        names[0],
        {"zero_field_advantage": zero - claimed, "similarity_claimed": claimed, "similarity_zero": zero},
        thresholds,
        "the claimed field explains the image at least as well as no field",
    )
    small, affine = _at_referees_size(trace, still, region, thresholds)
    field = independent_field(trace, thresholds) if referee is None else referee
    source, image, ddf, inside = small
    found = measure.similarity(warp(source[None], field[None])[0], image, inside)
    own = measure.similarity(warp(source[None], ddf[None])[0], image, inside)
    beside = measure.agreement(ddf, field, affine, inside)
    spacing = float(affine[:3, : trace.spatial_dims].norm(dim=0).log().mean().exp())
    figures = {
        "similarity_shortfall": found - own,
        "disagreement_voxels": beside.mean_mm / spacing,
        "disagreement_mm": beside.mean_mm,
        "disagreement_p95_mm": beside.p95_mm,
        "claimed_mm": beside.claimed_mm,
        "independent_mm": beside.independent_mm,
    }
    well = "an independent registration of source and image finds no more and nothing else"
    return [control, judged(names[1], figures, thresholds, well)]


def independent_field(trace: Trace, thresholds: Thresholds) -> Tensor:
    """Displacement (spatial_dims, *small), found by SimpleITK between source and image at the referee's size."""
    still = measure.on_image_grid(trace)
    (source, image, _, _), _ = _at_referees_size(trace, still, torch.ones_like(still[:1], dtype=torch.bool), thresholds)
    flat = image.ndim == 4 and 1 in image.shape[1:]
    if not flat:
        return independent_registration(source[None], image[None], control_spacing=thresholds.referee_spacing)[0]
    axis = list(image.shape[1:]).index(1)  # a single slice is registered in its plane
    plane = [value.squeeze(axis + 1)[None] for value in (source, image)]
    found = independent_registration(*plane, control_spacing=thresholds.referee_spacing)[0]
    parts = list(found.unsqueeze(axis + 1))
    parts.insert(axis, torch.zeros_like(parts[0]))
    return torch.stack(parts)


def residual(trace: Trace, thresholds: Thresholds, region: Tensor) -> Check:
    """Change that neither deformation nor permitted appearance explains."""
    if trace.source.shape[0] != trace.image.shape[0]:
        return skipped("residual", NO_CHANNELS)
    if not bool(region.any()):
        return skipped("residual", "both images are constant")
    summary = trace.ledger().summary
    figures = {"residual_share": measure.residual_share(trace, region), "residual_mean": summary.residual or 0.0}
    where = "outside the mask" if trace.mask is not None else "anywhere (no mask)"
    return judged("residual", figures, thresholds, f"little is left unexplained {where}")


def intensity(trace: Trace, thresholds: Thresholds) -> Check:
    """Values beyond the source's, or an image without contrast."""
    figures = {
        "outside_range_share": measure.outside_range(trace.image, trace.source),
        "contrast_loss": measure.contrast_loss(trace.image, trace.source),
        "image_low": float(trace.image.min()),
        "image_high": float(trace.image.max()),
        "source_low": float(trace.source.min()),
        "source_high": float(trace.source.max()),
    }
    return judged("intensity", figures, thresholds, "the image's values lie in the source's range")


def _at_referees_size(
    trace: Trace, still: Tensor, region: Tensor, thresholds: Thresholds
) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Undeformed source, image, field and region on one grid, small enough to be registered; and its affine."""
    shape = tuple(trace.image.shape[1:])
    longest = thresholds.referee_size_2d if len(shape) == 2 or 1 in shape else thresholds.referee_size_3d
    factors = [max(1, -(-size // longest)) for size in shape]
    pool: Callable[..., Tensor] = F.avg_pool2d if len(shape) == 2 else F.avg_pool3d

    def shrink(value: Tensor) -> Tensor:
        return value if max(factors) == 1 else pool(value[None], factors)[0]

    grey = [shrink(value.mean(0, keepdim=True)) for value in (still, trace.image)]
    scale = torch.tensor(factors, dtype=trace.ddf.dtype).reshape(-1, *[1] * len(shape))
    ddf = shrink(trace.ddf) / scale
    inside = shrink(region.float()) >= 0.5
    inside = inside if bool(inside.any()) else torch.ones_like(inside)
    affine = trace.affine.clone()
    affine[:3, : len(shape)] *= torch.tensor(factors, dtype=torch.float64)
    return (grey[0], grey[1], ddf, inside), affine
