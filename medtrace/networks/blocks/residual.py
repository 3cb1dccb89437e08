"""Convolutions with mirrored borders, residual blocks of them, and an encoder and a decoder made of both."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from monai.networks.layers.factories import Conv
from monai.networks.layers.factories import Norm as NormFactory
from torch import Tensor, nn

Norm = Callable[[int, int], nn.Module]
"""Makes the normalization for a number of channels and of spatial axes."""


def instance_norm(channels: int, spatial_dims: int = 2) -> nn.Module:
    """Normalize each channel of each image over its grid, without scale and shift."""
    result: nn.Module = NormFactory[NormFactory.INSTANCE, spatial_dims](channels)
    return result


def layer_norm(channels: int, _spatial_dims: int = 2) -> nn.Module:
    """Normalize each image over channels and grid together, with a scale and shift per channel."""
    return nn.GroupNorm(1, channels)


def kaiming_start(module: nn.Module) -> None:
    """Start every convolution and linear layer of `module` as He et al. (2015) for rectifiers, with biases of 0."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Conv3d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def convolution(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    stride: int = 1,
    norm: Norm | None = None,
    activation: nn.Module | None = None,
    spatial_dims: int = 2,
) -> nn.Sequential:
    """A convolution with mirrored borders, its normalization and its activation.

    The grid keeps its size at stride 1 with an odd kernel and halves at stride 2 with a kernel of 4. Before an
    instance normalization there is no bias, which it would remove.

    Args:
        in_channels: channels of the features it takes.
        out_channels: channels of the features it gives.
        kernel_size: width of the kernel, odd or 4.
        stride: 1 or 2.
        norm: makes the normalization, or None.
        activation: or None.
        spatial_dims: 2 or 3.
    """
    layers: list[nn.Module] = [
        Conv[Conv.CONV, spatial_dims](
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding=(kernel_size - 1) // 2,
            padding_mode="reflect",
            bias=norm is not instance_norm,
        )
    ]
    if norm is not None:
        layers.append(norm(out_channels, spatial_dims))
    if activation is not None:
        layers.append(activation)
    return nn.Sequential(*layers)


class ResidualBlock(nn.Module):
    """Add to the features two 3-wide convolutions of them, each normalized, with a ReLU between (He et al. 2016).

    Args:
        channels: channels of the features.
        norm: makes the normalization.
        spatial_dims: 2 or 3.
    """

    def __init__(self, channels: int, norm: Norm = instance_norm, spatial_dims: int = 2) -> None:
        super().__init__()
        self.first = convolution(channels, channels, 3, norm=norm, activation=nn.ReLU(), spatial_dims=spatial_dims)
        self.second = convolution(channels, channels, 3, norm=norm, spatial_dims=spatial_dims)

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the shape of `features`, (B, channels, *spatial)."""
        result: Tensor = features + self.second(self.first(features))
        return result

    if TYPE_CHECKING:
        __call__ = forward


def residual_blocks(channels: int, count: int, spatial_dims: int = 2) -> nn.Sequential:
    """`count` residual blocks, one after the other; with 0 the identity."""
    return nn.Sequential(*(ResidualBlock(channels, spatial_dims=spatial_dims) for _ in range(count)))


class DownsamplingEncoder(nn.Sequential):
    """A 7-wide convolution, then a strided 4-wide one per halving, which doubles the channels; each normalized.

    Args:
        in_channels: channels of the image.
        channels: channels at the image's own grid.
        downsamplings: number of downsampling steps.
        spatial_dims: 2 or 3.
    """

    def __init__(self, in_channels: int, channels: int, downsamplings: int, spatial_dims: int = 2) -> None:
        options: dict[str, Any] = {"norm": instance_norm, "spatial_dims": spatial_dims}
        layers = [convolution(in_channels, channels, 7, activation=nn.ReLU(), **options)]
        for level in range(downsamplings):
            wide = channels * 2**level
            layers.append(convolution(wide, 2 * wide, 4, stride=2, activation=nn.ReLU(), **options))
        super().__init__(*layers)


class UpsamplingDecoder(nn.Sequential):
    """Repeat every voxel twice along each axis and convolve 5-wide per doubling, then a linear 7-wide convolution.

    Args:
        channels: channels at the image's own grid; the features it takes have `channels`·2^`upsamplings`.
        out_channels: channels of the image.
        upsamplings: number of upsampling steps.
        spatial_dims: 2 or 3.
    """

    def __init__(self, channels: int, out_channels: int, upsamplings: int, spatial_dims: int = 2) -> None:
        layers: list[nn.Module] = []
        for level in reversed(range(upsamplings)):
            narrow = channels * 2**level
            layers.append(nn.Upsample(scale_factor=2, mode="nearest"))
            layers.append(
                convolution(2 * narrow, narrow, 5, norm=layer_norm, activation=nn.ReLU(), spatial_dims=spatial_dims)
            )
        layers.append(convolution(channels, out_channels, 7, spatial_dims=spatial_dims))
        super().__init__(*layers)
