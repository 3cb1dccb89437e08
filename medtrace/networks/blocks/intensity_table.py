"""A learned function of each voxel's own intensity."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from medtrace.checks import check_positive, check_spatial_dims

KNOTS = 17
RATE = 10.0
"""Factor of a table's learning rate over that of other weights: each of its knots sees few voxels, and must move
further."""


class IntensityTable(nn.Module):
    """A piecewise linear function of a voxel's intensities, summed over channels; 0 until it has learned.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of the output.
        knots: number of knots, equally spaced from -1 to 1; it is linear between them.

    Example:
        >>> import torch
        >>> table = IntensityTable(2, 1, 1, knots=3)
        >>> _ = table.weights.weight.data.copy_(torch.tensor([0.1, 0.2, 0.4]).view(1, 3, 1, 1))
        >>> result = table(torch.tensor([-1.0, -0.5, 0.0, 1.0]).view(1, 1, 1, 4))
        >>> [round(value, 2) for value in result.flatten().tolist()]
        [1.0, 1.5, 2.0, 4.0]
    """

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int, knots: int = KNOTS) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)
        check_positive("in_channels", in_channels)
        check_positive("out_channels", out_channels)
        if knots < 2:
            raise ValueError(f"knots: expected at least 2, the ends of the range, received {knots!r}")
        self.knots = knots
        self.weights = Conv[Conv.CONV, spatial_dims](in_channels * knots, out_channels, kernel_size=1, bias=False)
        nn.init.zeros_(self.weights.weight)

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, in_channels, *spatial) in [-1, 1] to (B, out_channels, *spatial)."""
        place = (image.clamp(-1, 1) + 1) / 2 * (self.knots - 1)
        steps = torch.arange(self.knots, dtype=image.dtype, device=image.device)
        nearness = 1 - (place.unsqueeze(2) - steps.view(1, 1, -1, *[1] * (image.ndim - 2))).abs()
        result: Tensor = self.weights(nearness.clamp_min(0).flatten(1, 2) * RATE)
        return result

    if TYPE_CHECKING:
        __call__ = forward


def curve_of(network: nn.Module) -> IntensityTable | None:
    """The first table within a network, also where it is wrapped; None where it has none."""
    return next((part for part in network.modules() if isinstance(part, IntensityTable)), None)
