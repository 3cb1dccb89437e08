"""A U-Net from image to image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from monai.networks.layers.factories import Conv
from monai.networks.nets import UNet
from torch import Tensor, nn

from medtrace.checks import check_batched, check_positive, check_spatial_dims
from medtrace.networks.blocks.intensity_table import IntensityTable
from medtrace.networks.blocks.padding import pad_to_multiple


class RegressionUNet(nn.Module):
    """MONAI's residual `UNet`, whose output is bounded to [-1, 1] and is on the grid of its input, whatever its size.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of the output.
        channels: features per level; each level but the first halves the grid.
        num_res_units: residual units per level.
        dropout: probability of dropout.
        refine: let the U-Net give `channels[0]` features, from which, together with the input, two convolutions make
            the image at full resolution. Without it, everything passes through as many normalized channels as the
            output has, which learns slowly and blurs.
        curve: add an `IntensityTable` of the input before the output is bounded, so that the U-Net learns what the
            intensity curve of a voxel does not explain.

    Example:
        >>> import torch
        >>> RegressionUNet(2, 1, 1, channels=(4, 8))(torch.zeros(1, 1, 17, 20)).shape
        torch.Size([1, 1, 17, 20])
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int] = (32, 64, 128, 256, 512),
        num_res_units: int = 2,
        dropout: float = 0.0,
        refine: bool = False,
        curve: bool = False,
    ) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)
        check_positive("in_channels", in_channels)
        check_positive("out_channels", out_channels)
        if len(channels) < 2:
            raise ValueError(f"channels: expected two levels or more, received {tuple(channels)}; add a level")
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = 2 ** (len(channels) - 1)
        self.unet = UNet(
            spatial_dims,
            in_channels,
            channels[0] if refine else out_channels,
            tuple(channels),
            strides=(2,) * (len(channels) - 1),
            num_res_units=num_res_units,
            dropout=dropout,
        )
        self.refinement: nn.Module | None = None
        if refine:
            convolution = Conv[Conv.CONV, spatial_dims]
            self.refinement = nn.Sequential(
                convolution(channels[0] + in_channels, channels[0], kernel_size=3, padding=1),
                nn.PReLU(),
                convolution(channels[0], out_channels, kernel_size=3, padding=1),
            )

        self.curve = IntensityTable(spatial_dims, in_channels, out_channels) if curve else None

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, in_channels, *spatial) in [-1, 1] to (B, out_channels, *spatial) in [-1, 1].

        Raises:
            TypeError: if it is not a floating tensor.
            ValueError: if its shape is not the network's.
        """
        check_batched("image", image, channels=self.in_channels)
        padded, crop = pad_to_multiple(image, self.stride)
        result = self.unet(padded)
        if self.refinement is not None:
            result = self.refinement(torch.cat([result, padded], 1))
        if self.curve is not None:
            result = result + self.curve(padded)
        return crop(result.tanh())

    if TYPE_CHECKING:
        __call__ = forward
