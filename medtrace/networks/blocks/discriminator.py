"""Patch discriminators: of an image alone, and of an image beside its source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from monai.networks.nets import PatchDiscriminator
from torch import Tensor, nn

from medtrace.networks.blocks.padding import pad_to_multiple
from medtrace.networks.blocks.unet import INSTANCE_NORM


class ImagePatchDiscriminator(nn.Module):
    """Assess patches of an image (PatchGAN of Isola et al. 2017).

    Grids below 3·2^`num_layers` are padded with their border values.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the assessed image.
        channels: filters of the first convolution.
        num_layers: convolutions after the first; 3 gives a 70-pixel receptive field.
        norm: MONAI's name of the normalization.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        channels: int = 64,
        num_layers: int = 3,
        norm: str | tuple[Any, ...] = INSTANCE_NORM,
    ) -> None:
        super().__init__()
        self.minimum = 3 * 2**num_layers  # below it nothing is left to normalize
        self.patches = PatchDiscriminator(
            spatial_dims=spatial_dims, in_channels=in_channels, channels=channels, num_layers_d=num_layers, norm=norm
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return raw logits (B, 1, *patches), as the one entry of a list."""
        seen, _ = pad_to_multiple(image, 1, minimum=self.minimum)
        return [self.patches(seen)[-1]]

    if TYPE_CHECKING:
        __call__ = forward


class ConditionalPatchDiscriminator(nn.Module):
    """Assess patches of an image given its source.

    Args:
        spatial_dims: 2 or 3.
        condition_channels: channels of the source.
        image_channels: channels of the assessed image.
        channels: filters of the first convolution.
        num_layers: convolutions after the first; 3 gives the 70-pixel receptive field of Pix2Pix.
        norm: MONAI's name of the normalization.
    """

    def __init__(
        self,
        spatial_dims: int,
        condition_channels: int,
        image_channels: int,
        channels: int = 64,
        num_layers: int = 3,
        norm: str | tuple[Any, ...] = INSTANCE_NORM,
    ) -> None:
        super().__init__()
        self.joint = ImagePatchDiscriminator(
            spatial_dims, condition_channels + image_channels, channels, num_layers, norm
        )

    def forward(self, condition: Tensor, image: Tensor) -> Tensor:
        """Return raw logits (B, 1, *patches); the least-squares loss takes them as they are."""
        return self.joint(torch.cat([condition, image], dim=1))[0]

    if TYPE_CHECKING:
        __call__ = forward
