"""Adaptive instance normalization: features whose mean and spread come from elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai.networks.layers.factories import Conv
from torch import Tensor, nn
from torch.nn import functional as F


def adaptive_instance_norm(features: Tensor, scale: Tensor, shift: Tensor, eps: float = 1e-5) -> Tensor:
    """Give every channel of every image the spread `scale` and the mean `shift` (AdaIN, Huang and Belongie 2017).

    scale · (z − μ(z)) / √(σ²(z) + eps) + shift, with the mean and the biased variance over the grid.

    Args:
        features: (B, C, *spatial), at least two voxels.
        scale: (B, C); a negative one mirrors the channel about its mean.
        shift: (B, C).
        eps: keeps a constant channel finite.
    """
    each = (*scale.shape, *([1] * (features.ndim - 2)))
    return F.instance_norm(features, eps=eps) * scale.reshape(each) + shift.reshape(each)


class AdaptiveResidualBlock(nn.Module):
    """Add to the features two 3-wide convolutions of them, each adaptively normalized, with a ReLU between.

    Args:
        channels: channels of the features.
        spatial_dims: 2 or 3.
    """

    SCALES_AND_SHIFTS = 4
    """The block's parameters per channel: scale and shift of its first, then of its second normalization."""

    def __init__(self, channels: int, spatial_dims: int = 2) -> None:
        super().__init__()
        # The normalization would remove a bias.
        kind = Conv[Conv.CONV, spatial_dims]
        self.first = kind(channels, channels, 3, padding=1, padding_mode="reflect", bias=False)
        self.second = kind(channels, channels, 3, padding=1, padding_mode="reflect", bias=False)

    def forward(self, features: Tensor, affine: Tensor) -> Tensor:
        """Return features of the shape of `features`.

        Args:
            features: (B, channels, *spatial).
            affine: (B, 4, channels), the scale and shift of the first normalization, then of the second.
        """
        scale, shift, second_scale, second_shift = affine.unbind(1)
        changed = F.relu(adaptive_instance_norm(self.first(features), scale, shift))
        return features + adaptive_instance_norm(self.second(changed), second_scale, second_shift)

    if TYPE_CHECKING:
        __call__ = forward
