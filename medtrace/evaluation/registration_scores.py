"""Every number that is reported of a registration whose truth is known: MetaRegNet's Table 1, and what it lacks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from monai.metrics import compute_dice
from torch import Tensor

from medtrace import metrics
from medtrace.data.tracebench import LABELS, TISSUES
from medtrace.fields import jacobian_determinant, non_diffeomorphic_fraction
from medtrace.trace import Trace
from medtrace.transforms.naming import detached

NEEDED = ("source", "target", "ddf", "pathology", "near_lesion", "head", "source_labels", "target_labels")


def score_registration(trace: Trace, case: Mapping[str, Any]) -> dict[str, float]:
    """Score one registration of a `metamorphic` case; it can be the `scores` of `score_cases`.

    `ssd_total` and `ssd_healthy` are of `trace.image` and the target, everywhere and outside the lesion (the mask and
    `pathology`); `ssd_warped_total` and `ssd_warped_healthy` of `trace.warped`. They are the mean squared difference
    over the region's voxels, air included, of intensities in [0, 1]. MetaRegNet, Table 1 calls it the average sum of
    squared distance and prints it in 1e-1: .13 there is .013 here. A sum over an image's voxels would be hundreds, and
    the mean between [-1, 1] images is four times this.

    `dice_csf`, `dice_gm`, `dice_wm` and their mean `dice` are of the source's labels, warped by `trace.transfer`, and
    the target's, outside `pathology`. A tissue that the target lacks is NaN and not in the mean.

    `folds` is the number of voxels with a negative Jacobian determinant by central differences (Table 1), which
    underestimate what `non_diffeomorphic_fraction` counts.

    `epe_head_mm`, `epe_healthy_mm` and `epe_near_lesion_mm` are the mean end-point error against the true field in the
    head, outside `pathology`, and of that within 10 mm of it; `zero_head_mm`, `zero_healthy_mm` and
    `zero_near_lesion_mm` are the same for the zero field. An empty region is NaN. `inverse_consistency_mm` is as in
    `score_cases`.

    Args:
        trace: trace of the case's source and target, on their grid, in [-1, 1].
        case: from `TraceBench("metamorphic")`, or any mapping with `NEEDED` and optionally "mask".

    Returns:
        The columns above.

    Raises:
        ValueError: if an entry is missing, or the trace is of other images or on another grid than the case.
    """
    trace = trace.to("cpu")
    values = {name: _tensor(case, name) for name in NEEDED}
    _check(trace, values)
    outside = ~values["pathology"]
    mask = case.get("mask")
    untouched = outside if mask is None else outside & ~(detached(mask).cpu() > 0)
    scores = {
        "ssd_total": _ssd(trace.image, values["target"]),
        "ssd_healthy": _ssd(trace.image, values["target"], untouched),
        "ssd_warped_total": _ssd(trace.warped, values["target"]),
        "ssd_warped_healthy": _ssd(trace.warped, values["target"], untouched),
        **_label_dice(trace.transfer(values["source_labels"]), values["target_labels"], outside),
        "folds": int((jacobian_determinant(trace.ddf[None]) < 0).sum()),
        "non_diffeomorphic_fraction": float(non_diffeomorphic_fraction(trace.ddf[None])),
    }
    regions = {"head": values["head"], "healthy": values["head"] & outside, "near_lesion": values["near_lesion"]}
    for name, region in regions.items():
        scores[f"epe_{name}_mm"] = _end_point_error(trace.ddf, values["ddf"], region, trace.affine)
    for name, region in regions.items():
        scores[f"zero_{name}_mm"] = _end_point_error(torch.zeros_like(trace.ddf), values["ddf"], region, trace.affine)
    consistency = metrics.mean_inverse_consistency(trace.ddf[None], trace.inverse_ddf[None], affine=trace.affine)
    return {**scores, "inverse_consistency_mm": float(consistency)}


def score_pair(trace: Trace, case: Mapping[str, Any]) -> dict[str, float]:
    """Score one registration of real slices, whose true field nobody knows; it can be the `scores` of `score_cases`.

    Args:
        trace: trace of the case's source and target, on their grid, in [-1, 1].
        case: with "target" and optionally "mask" (the pathology), "source_labels" and "target_labels".

    Returns:
        `ssd_total`, `ssd_healthy` (outside the mask) and `folds` as in `score_registration`; with labels `dice`, the
        mean over the labels that the target shows.
    """
    trace = trace.to("cpu")
    target, mask = detached(case["target"]).cpu(), case.get("mask")
    healthy = None if mask is None else ~(detached(mask).cpu() > 0)
    scores = {
        "ssd_total": _ssd(trace.image, target),
        "ssd_healthy": _ssd(trace.image, target, healthy),
        "folds": int((jacobian_determinant(trace.ddf[None]) < 0).sum()),
    }
    if "source_labels" in case and "target_labels" in case:
        truth = detached(case["target_labels"]).cpu()
        numbers = truth.unique()[truth.unique() != 0].reshape(-1, *[1] * (truth.ndim - 1))
        carried = trace.transfer(detached(case["source_labels"]).cpu())
        scores["dice"] = float(compute_dice((carried == numbers)[None], (truth == numbers)[None])[0].nanmean())
    return scores


def _tensor(case: Mapping[str, Any], name: str) -> Tensor:
    if name not in case:
        raise ValueError(
            f"case: expected {', '.join(NEEDED)}, received none called {name!r}; take cases from"
            ' TraceBench("metamorphic")'
        )
    return detached(case[name]).cpu()


def _check(trace: Trace, values: Mapping[str, Tensor]) -> None:
    for name in ("source", "target"):
        own = trace.source if name == "source" else trace.image
        if own.shape != values[name].shape:
            raise ValueError(
                f"trace: expected the case's {name}, of shape {tuple(values[name].shape)}, received"
                f" {tuple(own.shape)}; score every trace with its own case"
            )
    if not torch.equal(trace.source, values["source"].float()):
        raise ValueError("trace: expected the trace of the case's source, received that of another image")


def _ssd(image: Tensor, target: Tensor, region: Tensor | None = None) -> float:
    squared = ((image - target) / 2).double().square()  # halved: from [-1, 1] to [0, 1]
    return float(squared.mean() if region is None else squared[region.expand_as(squared)].mean())


def _label_dice(carried: Tensor, target: Tensor, region: Tensor) -> dict[str, float]:
    numbers = torch.tensor([LABELS[name] for name in TISSUES]).reshape(-1, *[1] * (target.ndim - 1))
    dice = compute_dice(((carried == numbers) & region)[None], ((target == numbers) & region)[None])[0]
    scores = {f"dice_{name}": float(value) for name, value in zip(TISSUES, dice)}
    return {**scores, "dice": float(dice.nanmean())}


def _end_point_error(ddf: Tensor, truth: Tensor, region: Tensor, affine: Tensor) -> float:
    if not region.any():
        return math.nan
    return float(metrics.end_point_error(ddf[None], truth[None], region[None], affine=affine))
