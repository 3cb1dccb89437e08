"""Figures of a trace that need no ground truth, for its certificate, one trace at a time."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from medtrace.checks import check_field, check_finite, check_positive
from medtrace.fields import (
    folded_voxels,
    identity_grid,
    jacobian_determinant,
    non_diffeomorphic_fraction,
    non_diffeomorphic_volume,
)
from medtrace.metrics.edges import otsu_threshold
from medtrace.metrics.image import normalized_mutual_information_score
from medtrace.trace import Contrast, Trace
from medtrace.trace.geometry import pull

CHUNK = 1 << 18
"""Points that are moved at once, for memory."""
PLANES = 1 << 18
"""Voxels, at least one plane, whose neighbors are compared at once, for memory."""


class FoldFigures(NamedTuple):
    """The folded part of a displaced grid."""

    volume_voxels: float
    """Folded volume (area in 2D); see `fields.non_diffeomorphic_volume`."""
    fraction: float
    """Fraction of voxels that are not a digital diffeomorphism."""
    least_jacobian: float
    """By central differences, which miss folds of one voxel."""


class ConsistencyFigures(NamedTuple):
    """Round-trip error, in voxels of the start's grid and mm."""

    mean_mm: float
    p95_voxels: float
    max_voxels: float
    points: int


class AgreementFigures(NamedTuple):
    """A claimed displacement beside an independent one."""

    mean_mm: float
    p95_mm: float
    claimed_mm: float
    """Mean length of the claimed displacement."""
    independent_mm: float
    """Mean length of the independent displacement."""


def fold_figures(ddf: Tensor) -> FoldFigures:
    """Folds of a displacement.

    Args:
        ddf: (spatial_dims, *spatial), in voxels.
    """
    check_field("ddf", ddf[None])
    values = ddf.detach()[None]
    least = float(jacobian_determinant(values).min())
    folded = folded_voxels(values)[0, 0]
    if not bool(folded.any()):
        return FoldFigures(0.0, 0.0, least)
    beside = (slice(None), slice(None), *_around(folded))
    volume = float(non_diffeomorphic_volume(values[beside].double())[0])
    return FoldFigures(volume, float(non_diffeomorphic_fraction(values)[0]), least)


def _around(region: Tensor) -> list[slice]:
    """The box that holds a region, not empty, and a voxel around it."""
    ends = torch.stack([region.nonzero().amin(0) - 1, region.nonzero().amax(0) + 2], dim=1)
    return [slice(max(0, int(low)), int(high)) for low, high in ends]


def largest_jump(ddf: Tensor, where: Tensor | None = None) -> float:
    """Largest distance of a voxel's displacement from the median of its neighbors', in voxels.

    For a smooth field it is close to 0; a voxel that was moved alone stands out by as much as it was moved, even where
    it does not fold.

    Args:
        ddf: (spatial_dims, *spatial), in voxels. Neighbors are the two along every axis longer than 1; at a border
            the missing one is extrapolated linearly.
        where: boolean (*spatial), the voxels that count; None for all.
    """
    check_field("ddf", ddf[None])
    values = ddf.detach()
    if not bool(values.any()):
        return 0.0
    planes, count = values.shape[1], max(1, PLANES // max(values[0, 0].numel(), 1))
    largest = 0.0
    for first in range(0, planes, count):
        last = min(first + count, planes)
        own = slice(max(0, first - 2), min(planes, last + 2))  # two, of which a border is extrapolated
        jumps = _jumps(values[:, own])
        if jumps is not None:
            jumps = jumps[first - own.start : last - own.start]
            jumps = jumps if where is None else jumps * where[first:last].to(jumps)
            largest = max(largest, float(jumps.max()))
    return largest


def _jumps(values: Tensor) -> Tensor | None:
    """Distances (*spatial) of displacements from the median of their neighbors'; None where none has two."""
    neighbors = []
    for axis in range(1, values.ndim):
        if values.shape[axis] < 3:
            continue
        ends = [2 * values.narrow(axis, a, 1) - values.narrow(axis, b, 1) for a, b in ((0, 1), (-1, -2))]
        padded = torch.cat([ends[0], values, ends[1]], axis)
        neighbors += [padded.narrow(axis, start, values.shape[axis]) for start in (0, 2)]
    if not neighbors:
        return None
    ordered = torch.stack(neighbors).sort(0).values
    middle = len(neighbors) // 2
    return torch.linalg.vector_norm(values - (ordered[middle - 1] + ordered[middle]) / 2, dim=0)


def round_trip(
    trace: Trace, border_voxels: float = 2.0, to_target_first: bool = True
) -> tuple[ConsistencyFigures | None, ConsistencyFigures | None]:
    """Round-trip error of `locate` followed by `origin` (or the reverse), at every voxel of the start's grid.

    Args:
        trace: any.
        border_voxels: a point is *interior* if it and where it goes are at least this many voxels inside their grids;
            all others that stay on the grids are *border*. Points that leave the other grid are in neither: there a
            field is only extrapolated.
        to_target_first: from source voxels by `locate` and back by `origin`; False from image voxels the other way.

    Returns:
        Figures of the interior and of the border, None where there is no such point.
    """
    if not border_voxels >= 0:
        raise ValueError(f"border_voxels: expected at least 0 voxels, received {border_voxels!r}")
    error, inner, outer, spacing = _trips(trace, border_voxels, to_target_first)

    def figures(region: Tensor) -> ConsistencyFigures | None:
        if not bool(region.any()):
            return None
        inside = error[region]
        ordered = inside.sort().values
        p95 = ordered[int(0.95 * (len(ordered) - 1))]
        return ConsistencyFigures(
            float(inside.mean()), float(p95 / spacing), float(ordered[-1] / spacing), len(ordered)
        )

    return figures(inner), figures(outer)


def missed_voxels(trace: Trace) -> Tensor:
    """Round-trip error of `locate` followed by `origin` at every source voxel, (*spatial), in its voxels."""
    error, _, _, spacing = _trips(trace, 0.0, True)
    return (error / spacing).reshape(trace.source.shape[1:])


def _trips(trace: Trace, border_voxels: float, to_target_first: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Per voxel: the error in mm, whether it is interior, whether border (see `round_trip`); and mm of a voxel."""
    grids = [
        (trace.source.shape[1:], trace.source_affine, trace.locate),
        (trace.image.shape[1:], trace.affine, trace.origin),
    ]
    (shape, affine, there), (other_shape, other_affine, back) = grids if to_target_first else grids[::-1]
    errors, inner, outer = [], [], []
    spacing = affine[:3, : trace.spatial_dims].norm(dim=0).log().mean().exp()
    for voxels in identity_grid(shape, dtype=torch.float64).reshape(trace.spatial_dims, -1).T.split(CHUNK):
        voxels = voxels.to(affine.device)
        points = _to_mm(voxels, affine)
        moved = there(points)
        errors.append(torch.linalg.vector_norm(back(moved) - points, dim=1))
        margin = torch.minimum(
            _margin(voxels, shape), _margin(_to_voxels(moved, other_affine, trace.spatial_dims), other_shape)
        )
        inner.append(margin >= border_voxels)
        outer.append((margin >= 0) & (margin < border_voxels))
    return torch.cat(errors), torch.cat(inner), torch.cat(outer), spacing


def account_error(trace: Trace) -> float:
    """Largest difference of `warped` from the source resampled by `ddf`, as a fraction of the source's range."""
    again = pull(trace.source, trace.ddf, _to_source(trace))
    return float((again - trace.warped).abs().max()) / _span(trace.source)


def on_image_grid(trace: Trace) -> Tensor:
    """The source at the image's voxels, not deformed, (C, *spatial): what the zero field shows."""
    return pull(trace.source, torch.zeros_like(trace.ddf), _to_source(trace))


def foreground(source: Tensor, image: Tensor) -> Tensor:
    """Boolean (1, *spatial): where either image differs from its background, by Otsu's threshold.

    The background is the median of the outermost voxels, so that any unit and sign works.
    """
    masks = []
    for picture in (source, image):
        gray = picture.detach().mean(0, keepdim=True).double()
        apart = (gray - _rim(gray).median()).abs()
        if float(apart.max()) == 0:
            masks.append(torch.zeros_like(apart, dtype=torch.bool))
            continue
        apart = apart / apart.max()
        masks.append(apart > otsu_threshold(apart) / 2)
    return masks[0] | masks[1]


def equalized(image: Tensor, region: Tensor) -> Tensor:
    """The ranks of an image's values among those of a region, in [0, 1].

    A CT spans -1000 to 1500 HU, of which soft tissue covers 100: in bins over that range, it has a single value.

    Args:
        image: (C, *spatial).
        region: boolean (1, *spatial); empty for everywhere.
    """
    chosen = region if bool(region.any()) else torch.ones_like(region)
    ordered = image[chosen.expand_as(image)].sort().values
    ranks = torch.searchsorted(ordered, image.contiguous())
    return (ranks / len(ordered)).to(image)


def similarity(first: Tensor, second: Tensor, region: Tensor, num_bins: int = 32) -> float:
    """Studholme's normalized mutual information, 1 (none) to 2, over a region, each image in its own range."""
    pair = [_unit(value.detach().double().mean(0, keepdim=True), region)[None] for value in (first, second)]
    score = normalized_mutual_information_score(
        pair[0], pair[1], region[None], data_range=(0.0, 1.0), num_bins=num_bins, out_of_range="clamp"
    )
    return float(score[0])


def agreement(ddf: Tensor, independent: Tensor, affine: Tensor, region: Tensor) -> AgreementFigures:
    """A claimed displacement beside an independent one, over a region.

    Args:
        ddf, independent: (spatial_dims, *spatial), in voxels.
        affine: (4, 4) voxel to RAS mm.
        region: boolean (1, *spatial), not empty.
    """
    check_finite("independent", independent)
    inside = region[0]
    if not bool(inside.any()):
        raise ValueError("region: expected at least one voxel, received an empty mask")
    linear = affine[:3, : ddf.shape[0]].double()

    def length(vectors: Tensor) -> Tensor:
        result: Tensor = torch.linalg.vector_norm(vectors[:, inside].double().T @ linear.T, dim=1)
        return result

    apart = length(ddf - independent).sort().values
    return AgreementFigures(
        float(apart.mean()),
        float(apart[int(0.95 * (len(apart) - 1))]),
        float(length(ddf).mean()),
        float(length(independent).mean()),
    )


def residual_share(trace: Trace, region: Tensor) -> float:
    """Energy of the residual outside the mask, as a fraction of the image's variance in the region.

    The residual is `image − warped − appearance`, across units `image − appearance`; where a mask permits a change of
    appearance it is left out, so that the fraction is of change that neither deformation nor a permitted change of
    appearance explains. 0 is none, 1 as much as the image itself varies.

    Args:
        trace: with as many channels in source as in image.
        region: boolean (1, *spatial), not empty.
    """
    residual = trace.ledger().residual
    if residual is None:
        raise ValueError("trace: expected as many channels in source as in image, for a residual; received others")
    forbidden = region if trace.mask is None or not trace.same_unit else region & (trace.mask < 0.5)
    inside = region.expand_as(residual)
    image = trace.image[inside].double()
    variance = float((image - image.mean()).square().sum())
    if variance == 0:
        return 0.0
    return float(residual[forbidden.expand_as(residual)].double().square().sum()) / variance


def outside_range(image: Tensor, source: Tensor, slack: float = 0.05) -> float:
    """Fraction of the image's values more than `slack` of the source's range beyond it."""
    low, high = float(source.min()), float(source.max())
    margin = slack * (high - low)
    return float(((image < low - margin) | (image > high + margin)).double().mean())


def outside_contrast(image: Tensor, contrast: Contrast, slack: float = 0.05) -> float:
    """Fraction of the image's values more than `slack` of the span of a contrast's rule beyond it.

    Args:
        image: in the contrast's units.
        contrast: contrast of fixed limits or a curve of training scans.
    """
    (units,) = contrast.intensity_map().scan
    ends = units if contrast.background is None else (*units, contrast.background)
    low, high = min(ends), max(ends)
    margin = slack * (high - low)
    return float(((image < low - margin) | (image > high + margin)).double().mean())


def contrast_loss_of(image: Tensor, contrast: Contrast, region: Tensor) -> float | None:
    """1 minus the ratio of standard deviations, of the image in a region to the contrast's training scans; None where
    these are not on record."""
    if not contrast.deviation or not bool(region.any()):
        return None
    return 1.0 - float(image[region.expand_as(image)].double().std()) / contrast.deviation


def contrast_loss(image: Tensor, source: Tensor) -> float:
    """1 minus the ratio of standard deviations, image to source: 1 for a constant image, below 0 for more contrast."""
    return 1.0 - float(image.double().std()) / max(float(source.double().std()), 1e-12)


def smooth_displacement(
    shape: tuple[int, ...], amplitude: float, seed: int = 0, wavelength: float = 16.0, margin: float = 4.0
) -> Tensor:
    """A small smooth displacement (spatial_dims, *shape), in voxels, for probing a method; 0 at the grid's border.

    Args:
        shape: two or three axes; along an axis of length 1 nothing moves.
        amplitude: maximum length of a vector.
        seed: seed of the random numbers.
        wavelength: voxels between the random control points.
        margin: voxels over which it falls to 0 at the border.
    """
    check_positive("amplitude", amplitude)
    coarse = [max(3, round(size / wavelength) + 1) if size > 1 else 1 for size in shape]
    generator = torch.Generator().manual_seed(seed)
    mode = {2: "bicubic", 3: "trilinear"}[len(shape)]
    field = F.interpolate(
        torch.randn(1, len(shape), *coarse, generator=generator), size=shape, mode=mode, align_corners=True
    )[0]
    for axis, size in enumerate(shape):
        if size == 1:
            field[axis] = 0
            continue
        place = torch.arange(size)
        edge = (torch.minimum(place, size - 1 - place) / margin).clamp(0, 1)
        field = field * edge.reshape([-1 if k == axis else 1 for k in range(len(shape))])
    length = float(torch.linalg.vector_norm(field, dim=0).max())
    return field * (amplitude / length) if length > 0 else field


def _to_source(trace: Trace) -> Tensor | None:
    return None if trace.same_grid else torch.linalg.solve(trace.source_affine, trace.affine)


def _to_mm(voxels: Tensor, affine: Tensor) -> Tensor:
    return voxels @ affine[:3, : voxels.shape[1]].T + affine[:3, 3]


def _to_voxels(points: Tensor, affine: Tensor, spatial_dims: int) -> Tensor:
    inverse = torch.linalg.inv(affine)
    result: Tensor = (points @ inverse[:3, :3].T + inverse[:3, 3])[:, :spatial_dims]
    return result


def _margin(voxels: Tensor, shape: torch.Size) -> Tensor:
    """Distance in voxels from a point inside the grid to the nearest border; axes of length 1 do not count."""
    last = torch.tensor(shape, dtype=voxels.dtype, device=voxels.device) - 1
    margin = torch.minimum(voxels, last - voxels)
    return margin[:, last > 0].amin(1) if bool((last > 0).any()) else torch.zeros_like(margin[:, 0])


def _span(image: Tensor) -> float:
    return max(float(image.max() - image.min()), 1e-12)


def _unit(image: Tensor, region: Tensor) -> Tensor:
    inside = image[region.expand_as(image)]
    return (image - inside.min()) / max(float(inside.max() - inside.min()), 1e-12)


def _rim(gray: Tensor) -> Tensor:
    """The outermost voxels along axes longer than 2, flat."""
    parts = [
        gray.select(axis, place).flatten() for axis in range(1, gray.ndim) if gray.shape[axis] > 2 for place in (0, -1)
    ]
    return torch.cat(parts) if parts else gray.flatten()
