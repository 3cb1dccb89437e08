"""Folds of a displacement as a loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn.modules.loss import _Loss

from medtrace.checks import check_choice, check_field
from medtrace.fields import jacobian_determinant, non_diffeomorphic_volume

REDUCTIONS = ("sum", "mean", "none")
MEASURES = ("central", "simplices")


def jacobian_folding(
    ddf: Tensor,
    reduction: Literal["sum", "mean", "none"] | str = "sum",
    measure: Literal["central", "simplices"] | str = "central",
) -> Tensor:
    """½(|J| − J), which is −J where the Jacobian determinant J of p + ddf(p) is negative, else 0 (MetaRegNet, Eq. 4).

    Args:
        ddf: (B, 2, H, W) or (B, 3, H, W, D), in voxels.
        reduction: "sum" over voxels and the mean over the batch, "mean" over voxels and batch, or "none".
        measure: "central" takes J by central differences (`fields.jacobian_determinant`), which are blind to folds
            of a single voxel; "simplices" takes the folded volume of every simplex between voxel centers
            (`fields.non_diffeomorphic_volume`), which sees them all, and has no "none".

    Returns:
        A scalar >= 0, or with "none" the map (B, 1, ...); float32 (float64 for float64), also under autocast.

    Raises:
        TypeError: if `ddf` is not a floating tensor.
        ValueError: if its shape is wrong, a choice is unknown, or "simplices" is combined with "none".

    Deviation: the paper says that the term penalizes "the total number of locations" of negative J, while Eq. 4 as
    printed is the negative volume, whose gradient exists; the equation is computed here. "Total" is read as the
    sum: with the mean, the paper's weight of 1e-3 leaves the term without effect.

    Example:
        >>> mirrored = -2 * torch.arange(4.0)[None, None, :, None].expand(1, 1, 4, 4)
        >>> ddf = torch.cat([mirrored, torch.zeros(1, 1, 4, 4)], dim=1)  # determinant -1 everywhere
        >>> float(jacobian_folding(ddf, reduction="mean"))
        1.0
    """
    check_field("ddf", ddf)
    check_choice("reduction", reduction, REDUCTIONS)
    check_choice("measure", measure, MEASURES)
    if measure == "simplices":
        if reduction == "none":
            raise ValueError('reduction: expected "sum" or "mean" with measure="simplices", received "none"')
        volume = non_diffeomorphic_volume(ddf).mean()
        return volume if reduction == "sum" else volume / ddf[0, 0].numel()
    folded = torch.relu(-jacobian_determinant(ddf))
    if reduction == "none":
        return folded
    return folded.mean() if reduction == "mean" else folded.sum() / ddf.shape[0]


class JacobianFoldingLoss(_Loss):
    """`jacobian_folding` as a module.

    Example:
        >>> ddf = torch.zeros(1, 2, 6, 6)
        >>> ddf[:, 0, 3] = 3.0  # one row is pulled from beyond its neighbors
        >>> float(JacobianFoldingLoss()(torch.zeros(1, 2, 6, 6))), bool(JacobianFoldingLoss()(ddf) > 0)
        (0.0, True)
    """

    def __init__(
        self,
        reduction: Literal["sum", "mean", "none"] | str = "sum",
        measure: Literal["central", "simplices"] | str = "central",
    ) -> None:
        check_choice("reduction", reduction, REDUCTIONS)
        check_choice("measure", measure, MEASURES)
        super().__init__(reduction=reduction)
        self.measure = measure

    def forward(self, ddf: Tensor) -> Tensor:
        """Folding of a displacement (B, D, *spatial) in voxels."""
        return jacobian_folding(ddf, self.reduction, self.measure)

    if TYPE_CHECKING:
        __call__ = forward
