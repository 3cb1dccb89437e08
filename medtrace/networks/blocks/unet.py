"""A convolutional encoder and the decoders that read its features through skip connections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from monai.networks.blocks import Convolution, UpSample
from torch import Tensor, nn
from torch.nn import functional as F

LEAKY_RELU = ("LEAKYRELU", {"negative_slope": 0.2})
INSTANCE_NORM = ("INSTANCE", {"affine": True})
"""MONAI's name and arguments of instance normalization with scale and shift."""


class Encoder(nn.Module):
    """Halve the grid once per entry of `channels` and keep every level's features.

    A level is a strided 4-wide convolution, a normalization (not on the first level) and a leaky ReLU of
    slope 0.2, as in the encoder of Pix2Pix (Isola et al. 2017).

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        channels: output channels of each downsampling level.
        norm: MONAI's name of the normalization, whose convolutions have no bias; None for none.
    """

    def __init__(
        self, spatial_dims: int, in_channels: int, channels: Sequence[int], norm: str | tuple[Any, ...] | None
    ) -> None:
        super().__init__()
        inputs = (in_channels, *channels[:-1])
        self.levels = nn.ModuleList(
            Convolution(
                spatial_dims,
                before,
                after,
                strides=2,
                kernel_size=4,
                padding=1,
                act=LEAKY_RELU,
                norm=norm if level else None,
                bias=level == 0 or norm is None,
            )
            for level, (before, after) in enumerate(zip(inputs, channels))
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return [image, features at 1/2, 1/4, ...], each (B, C, *spatial)."""
        features = [image]
        for level in self.levels:
            features.append(level(features[-1]))
        return features

    if TYPE_CHECKING:
        __call__ = forward


class Decoder(nn.Module):
    """Climb from the deepest features to the image's grid and end in one linear convolution.

    A level narrows the features by a 1-wide convolution, interpolates them linearly (which leaves no
    checkerboard in a field), joins the encoder's features of that size, and convolves. The last level joins the image
    itself, so that fine detail need not pass the bottleneck.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image that the encoder saw.
        out_channels: channels of the result.
        channels: the encoder's channels.
        norm: MONAI's name of the normalization; None for none.
        downsampling: end on a grid halved this many times and interpolate the result linearly to the image's, which
            makes it smooth and cheap; less than the number of levels.
        zero_init: start the last convolution at zero, so that the result starts at exactly 0.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int],
        norm: str | tuple[Any, ...] | None,
        *,
        downsampling: int = 0,
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        self.downsampling = downsampling
        self.mode = "trilinear" if spatial_dims == 3 else "bilinear"
        skips = (in_channels, *channels[:-1])[downsampling:]
        outputs = (max(channels[0] // 2, 8), *channels)[downsampling:-1]
        inputs = (*outputs[1:], channels[-1])
        self.upsamplings = nn.ModuleList()
        self.merges = nn.ModuleList()
        for below, skip, after in zip(inputs, skips, outputs):
            self.upsamplings.append(
                UpSample(spatial_dims, below, after, scale_factor=2, mode="nontrainable", align_corners=False)
            )
            self.merges.append(
                Convolution(
                    spatial_dims, after + skip, after, kernel_size=3, act=LEAKY_RELU, norm=norm, bias=norm is None
                )
            )
        self.head = Convolution(spatial_dims, outputs[0], out_channels, kernel_size=3, conv_only=True)
        if zero_init:
            nn.init.zeros_(self.head.conv.weight)
            nn.init.zeros_(self.head.conv.bias)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Decode the encoder's `features` (finest first) into (B, out_channels, *spatial)."""
        decoded = features[-1]
        skips = features[self.downsampling :]
        for level in reversed(range(len(self.merges))):
            decoded = self.upsamplings[level](decoded)
            decoded = self.merges[level](torch.cat([decoded, skips[level]], dim=1))
        decoded = self.head(decoded)
        if self.downsampling == 0:
            result: Tensor = decoded
            return result
        return F.interpolate(decoded.float(), scale_factor=2**self.downsampling, mode=self.mode, align_corners=False)

    if TYPE_CHECKING:
        __call__ = forward
