"""Maps of change between two dates, and how well they show where experts saw change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import ndimage
from scipy.stats import rankdata
from torch import Tensor

from medtrace.evaluation.intensity.features import fit_scale, smoothed, source_features
from medtrace.evaluation.real.follow_ups import RIM_MM, WORKED_MM, DatedPair
from medtrace.evaluation.tracing import trace_by_registration
from medtrace.registration import register_images
from medtrace.registration.alignment import Alignment
from medtrace.registration.deformable import Deformable
from medtrace.trace import Trace

PRESERVING = Deformable(radius=6, update_smoothing_mm=16.0, field_smoothing_mm=4.0)
"""Of the trace: windows of 26 mm and a stiff field, so that a lesion is not pulled away to make the images alike."""
AROUND_MM = 4.0
"""Beyond the brain mask what the registration still sees."""
SMOOTHING_MM = 1.5
"""Of every map, before it is scored: lesions are larger than the noise."""
SLOW_MM = 10.0
"""Standard deviation of the Gaussian that sees the slow part of a map."""
FITTED = 200_000
"""Voxels from which a local scale is estimated, at most."""
THRESHOLDS = np.arange(0.5, 15.01, 0.25)
"""In robust standard deviations of a map in the brain: 1.4826 times the median of its absolute values."""


class Scored(NamedTuple):
    """A map beside the truth, within the brain.

    Attributes:
        auc: area under the curve of sensitivity and specificity of its absolute values.
        above, hit: voxels above every one of `THRESHOLDS`, and those of them where lesions changed.
        changed: voxels where lesions changed.
        voxel_ml: volume of a voxel.
    """

    auc: float
    above: list[int]
    hit: list[int]
    changed: int
    voxel_ml: float


def follow_up_trace(pair: DatedPair, brain: Tensor, alignment: Alignment) -> Trace:
    """The trace from the first to the second date, whose appearance may change in the brain: image minus warped there.

    Args:
        pair: both dates, as scanned or prepared.
        brain: boolean (1, *spatial).
        alignment: type of alignment of the dates.
    """
    reach = grown(brain, AROUND_MM, pair.spacing)
    found = register_images(
        pair.first,
        pair.second,
        pair.first_affine,
        pair.affine,
        alignment=alignment,
        spacing=WORKED_MM,
        mask=(~reach).float(),
        settings=PRESERVING,
        check_starts=False,
    )
    return trace_by_registration(pair.first, pair.second, pair.first_affine, pair.affine, found, brain.float())


def over_local_scale(change: Tensor, warped: Tensor, inside: Tensor, spacing: Sequence[float]) -> Tensor:
    """A map of change without its slow part, over its usual size at voxels of the source's edges and texture.

    What changes slowly over the brain remains from the bias field. Lesions are a small part of the brain, so that the
    usual size is that of noise and misfit. Both are learned from the pair itself, without the truth.

    Args:
        change: (1, *spatial), smoothed.
        warped: (1, *spatial), the source on that grid.
        inside: boolean (1, *spatial), the brain.
        spacing: voxel size in mm.
    """
    low, high = np.percentile(change[inside].numpy(), (5, 95))
    change = change - seen_through_gaussian(change.clamp(float(low), float(high)), inside, spacing, SLOW_MM)
    sigma = [SMOOTHING_MM / edge for edge in spacing]
    within = torch.where(inside, warped, warped[inside].mean())
    features = source_features(within, sigma, 1)
    places = np.flatnonzero(inside[0].numpy().ravel())[:: max(1, int(inside.sum()) // FITTED)]
    chosen = {name: values[0].ravel()[places] for name, values in features.items()}
    sizes = np.abs(change[0].numpy().ravel()[places])
    scale = fit_scale([chosen], [sizes], list(features), (0.0, float(np.median(sizes))))
    return change / torch.from_numpy(scale.at(features)).to(change)


def seen_through_gaussian(
    change: Tensor, inside: Tensor, spacing: Sequence[float], sigma_mm: float = SMOOTHING_MM
) -> Tensor:
    """A map smoothed by some mm within the brain, without what lies outside."""
    sigma = [sigma_mm / edge for edge in spacing]
    weight = smoothed(inside.numpy().astype(np.float32), sigma)
    values = smoothed((change * inside).numpy(), sigma) / np.maximum(weight, 1e-3)
    return torch.from_numpy(values) * inside


def score_map(change: Tensor, truth: Tensor, inside: Tensor, spacing: Sequence[float]) -> Scored:
    """Compare the absolute values of a map with the truth, in the brain.

    Args:
        change: (1, *spatial).
        truth, inside: boolean (1, *spatial).
        spacing: voxel size in mm.

    Example:
        >>> truth = torch.zeros(1, 4, 4, 4, dtype=torch.bool)
        >>> truth[0, 1:3, 1:3, 1:3] = True
        >>> round(score_map(truth.float() + 0.1 * torch.rand(1, 4, 4, 4), truth, truth | True, (1, 1, 1)).auc, 3)
        1.0
    """
    values, changed = change[inside].abs().double().numpy(), truth[inside].numpy()
    count = int(changed.sum())
    ranks = rankdata(values)
    auc = (ranks[changed].sum() - count * (count + 1) / 2) / max(count * (len(values) - count), 1)
    limits = THRESHOLDS * robust_deviation(values)
    all_of, hits = np.sort(values), np.sort(values[changed])
    above = [len(all_of) - int(place) for place in np.searchsorted(all_of, limits, side="right")]
    hit = [len(hits) - int(place) for place in np.searchsorted(hits, limits, side="right")]
    return Scored(float(auc), above, hit, count, float(np.prod(spacing)) / 1000)


def dice(scored: Mapping[str, Any]) -> np.ndarray:
    """Dice with the truth at every one of `THRESHOLDS`."""
    above, hit = np.asarray(scored["above"], float), np.asarray(scored["hit"], float)
    result: np.ndarray = 2 * hit / np.maximum(above + float(scored["changed"]), 1)
    return result


def threshold_without(person: str, scores: Mapping[str, Mapping[str, Any]]) -> int:
    """Number of the threshold with the best mean Dice over the other persons.

    Args:
        person: the test person, whose scores are not used for the choice.
        scores: person → the row's `Scored` as a mapping.
    """
    others = [dice(one) for name, one in scores.items() if name != person]
    if not others:
        raise ValueError(f"scores: expected other persons than {person}, received none; a threshold is chosen on them")
    return int(np.mean(others, axis=0).argmax())


def robust_deviation(values: np.ndarray) -> float:
    """1.4826 times the median absolute value: the standard deviation of a normal distribution about 0."""
    return 1.4826 * float(np.median(np.abs(values)))


def grown(mask: Tensor, by_mm: float, spacing: Sequence[float]) -> Tensor:
    """A mask (1, *spatial) with a rim of some mm more, or less where the number is below 0."""
    inside = mask[0].numpy()
    if by_mm >= 0:
        return torch.from_numpy(ndimage.distance_transform_edt(~inside, sampling=spacing) <= by_mm)[None]
    return torch.from_numpy(ndimage.distance_transform_edt(inside, sampling=spacing) > -by_mm)[None]


def scored_region(brain: Tensor, spacing: Sequence[float]) -> Tensor:
    """The brain without its rim, where maps are scored."""
    return grown(brain, -RIM_MM, spacing)
