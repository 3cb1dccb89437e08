"""A sparse prior of motion: most of an image does not move."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.modules.loss import _Loss

from medtrace.checks import check_field, check_positive


def motion_magnitude(field: Tensor, floor: float = 0.01) -> Tensor:
    """Mean length of a field's vectors, rounded off near zero: mean √(|v|² + ε²) − ε.

    As a group lasso (Yuan and Lin 2006) it pulls short vectors to zero and hardly affects long ones, unlike the squares
    of a smoothness or of |v|². Its unit is the field's: a weight of it in voxels means the same along all axes of an
    isotropic grid.

    Args:
        field: (B, 2, H, W) or (B, 3, H, W, D), velocity or displacement.
        floor: ε, the length below which the pull fades.

    Returns:
        A scalar >= 0, float32 also under autocast; float64 stays.

    Raises:
        TypeError, ValueError: if `field` is not a field or `floor` is not above 0.

    Example:
        >>> field = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
        >>> round(float(motion_magnitude(field)), 2)
        4.99
    """
    check_field("field", field)
    check_positive("floor", floor)
    values = field if field.dtype == torch.float64 else field.float()
    return ((values.square().sum(1) + floor**2).sqrt() - floor).mean()


class MotionMagnitudeLoss(_Loss):
    """`motion_magnitude` as a module.

    Args:
        floor: the length below which the pull fades, in the field's unit.

    Example:
        >>> float(MotionMagnitudeLoss()(torch.zeros(1, 2, 4, 4)))
        0.0
    """

    def __init__(self, floor: float = 0.01) -> None:
        check_positive("floor", floor)
        super().__init__()
        self.floor = floor

    def forward(self, field: Tensor) -> Tensor:
        """Mean length of a field (B, D, *spatial)."""
        return motion_magnitude(field, self.floor)

    if TYPE_CHECKING:
        __call__ = forward
