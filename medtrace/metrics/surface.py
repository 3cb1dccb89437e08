"""How far the surfaces of segmentations lie apart, one number per case."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from monai.metrics import compute_hausdorff_distance
from torch import Tensor

from medtrace.checks import check_number, check_same_shape
from medtrace.metrics.case_metric import CaseMetric, required
from medtrace.metrics.segmentation import class_shares


def hausdorff_distance(
    pred: Tensor,
    target: Tensor,
    num_classes: int,
    *,
    percentile: float = 95.0,
    spacing: Sequence[float] | None = None,
) -> Tensor:
    """Hausdorff distance of label maps, of every class but the background, by MONAI's `compute_hausdorff_distance`.

    The larger of the two percentiles of the distances from one surface to the other; a surface is made of a class's
    voxels that have a neighbor of another class. 100 is the distance itself, 95 the usual HD95.

    Args:
        pred: (B, 1, H, W[, D]) integer labels from 0 (background) to num_classes − 1.
        target: the same shape.
        num_classes: with the background.
        percentile: above 0, at most 100.
        spacing: voxel size in mm along each axis; None counts voxels.

    Returns:
        (B, num_classes − 1) float64, in mm or voxels. A class that neither map shows is NaN; one that only one of them
        shows is infinite.

    Raises:
        TypeError, ValueError: on wrong types, shapes, labels or percentiles.

    Example:
        >>> pred, target = torch.zeros(2, 1, 1, 8, 8, dtype=torch.long)
        >>> pred[0, 0, 2, 2], target[0, 0, 2, 5] = 1, 1
        >>> hausdorff_distance(pred, target, 2, spacing=(1.0, 2.0))
        tensor([[6.]], dtype=torch.float64)
    """
    check_number("percentile", percentile)
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile: expected a number above 0 and at most 100, received {percentile!r}")
    first, second = (class_shares(name, value, num_classes) for name, value in (("pred", pred), ("target", target)))
    check_same_shape("pred", pred, "target", target)
    if spacing is not None and (len(spacing) != pred.ndim - 2 or min(spacing) <= 0):
        raise ValueError(f"spacing: expected {pred.ndim - 2} numbers above 0, in mm, received {spacing!r}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about absent classes, which are NaN or infinite here, and MONAI's own
        result: Tensor = compute_hausdorff_distance(
            first, second, percentile=percentile, spacing=None if spacing is None else list(spacing)
        ).double()
    there = torch.stack([shares[:, 1:].flatten(2).any(2) for shares in (first, second)])
    result = torch.where(there.all(0), result, torch.inf)
    return torch.where(there.any(0), result, torch.nan)


class LabelHausdorffMetric(CaseMetric):
    """Mean `hausdorff_distance` over the classes that a case shows: `metric(pred, target)`.

    Args:
        num_classes: with the background, which is label 0.
        percentile: see `hausdorff_distance`.
        spacing: voxel size in mm along each axis; None counts voxels.

    Example:
        >>> pred, target = torch.zeros(2, 1, 1, 8, 8, dtype=torch.long)
        >>> pred[0, 0, 2, 2], target[0, 0, 2, 5] = 1, 1
        >>> LabelHausdorffMetric(2)(pred, target)
        tensor([[3.]], dtype=torch.float64)
    """

    def __init__(self, num_classes: int, percentile: float = 95.0, spacing: Sequence[float] | None = None) -> None:
        super().__init__()
        self.num_classes, self.percentile, self.spacing = num_classes, percentile, spacing

    def measure(self, y_pred: Tensor, y: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """(B,) in mm or voxels."""
        values = hausdorff_distance(
            y_pred, required("y", y), self.num_classes, percentile=self.percentile, spacing=self.spacing
        )
        return values.nanmean(1)
