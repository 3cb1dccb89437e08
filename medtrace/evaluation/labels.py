"""Overlap of a source's labels, warped by its translation's field, with those of the target."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medtrace import metrics

DICE, HD95 = "label_dice", "label_hd95_mm"


def label_agreement(moved: Tensor, target: Tensor, spacing: Sequence[float]) -> dict[str, float]:
    """Mean Dice and mean HD95 of labels over the classes of a case.

    Dice is over the classes that either map shows, so that a lost one counts as 0; HD95 over those that both show,
    since the distance to a missing class is not defined.

    Args:
        moved: (1, *spatial) integers from 0 (background), the source's labels moved by the field.
        target: (1, *spatial), the target's, on the same grid.
        spacing: voxel size in mm along each axis.

    Returns:
        `label_dice` in [0, 1] and `label_hd95_mm`; NaN where there is no class.

    Example:
        >>> moved, target = torch.zeros(2, 1, 8, 8, dtype=torch.int32)
        >>> moved[0, 2, 2], target[0, 2, 5] = 1, 1
        >>> label_agreement(moved, target, (1.0, 2.0))
        {'label_dice': 0.0, 'label_hd95_mm': 6.0}
    """
    shown = torch.cat([moved.flatten(), target.flatten(), moved.new_zeros(1)]).unique()
    first, second = (torch.searchsorted(shown, labels.contiguous())[None] for labels in (moved, target))
    dice = metrics.label_overlap(first, second, len(shown)).dice[0, 1:]
    if not len(dice):
        return {DICE: float("nan"), HD95: float("nan")}
    apart = metrics.hausdorff_distance(first, second, len(shown), spacing=spacing)[0]
    apart = apart[apart.isfinite()]
    return {DICE: float(dice.nanmean()), HD95: float(apart.mean()) if len(apart) else float("nan")}
