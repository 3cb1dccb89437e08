"""The patch discriminator that sees the source beside the image it judges."""

from __future__ import annotations

import torch
from monai.networks.nets import PatchDiscriminator
from torch import Tensor, nn

from medtrace.networks.blocks.padding import pad_to_multiple
from medtrace.networks.blocks.unet import INSTANCE_NORM


class ConditionalPatchDiscriminator(nn.Module):
    """Judge patches of an image given the source (PatchGAN of Isola et al. 2017).

    Grids below 3·2^`num_layers` are padded by their border values.

    Args:
        spatial_dims: 2 or 3.
        condition_channels: channels of the source.
        image_channels: channels of the judged image.
        channels: filters of the first convolution.
        num_layers: convolutions after the first; 3 gives the 70-pixel receptive field of Pix2Pix.
        norm: MONAI's name of the normalisation.
    """

    def __init__(
        self,
        spatial_dims: int,
        condition_channels: int,
        image_channels: int,
        channels: int = 64,
        num_layers: int = 3,
        norm: str | tuple = INSTANCE_NORM,
    ) -> None:
        super().__init__()
        self.minimum = 3 * 2**num_layers  # below it nothing is left to normalise
        self.patches = PatchDiscriminator(
            spatial_dims=spatial_dims,
            in_channels=condition_channels + image_channels,
            channels=channels,
            num_layers_d=num_layers,
            norm=norm,
        )

    def forward(self, condition: Tensor, image: Tensor) -> Tensor:
        """Return raw logits (B, 1, *patches); the least-squares loss takes them as they are."""
        seen, _ = pad_to_multiple(torch.cat([condition, image], dim=1), 1, minimum=self.minimum)
        return self.patches(seen)[-1]
