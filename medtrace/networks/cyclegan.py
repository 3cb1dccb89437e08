"""CycleGAN's networks: residual generators and patch discriminators, the simplest backbone of RegGAN."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from monai.networks.layers.factories import Conv, Norm
from torch import Tensor, nn

from medtrace.checks import check_network_input, check_positive, check_spatial_dims
from medtrace.networks.backbone import Code, Domain, TranslationBackbone, other
from medtrace.networks.blocks import ImagePatchDiscriminator, pad_to_multiple
from medtrace.networks.blocks.intensity_table import IntensityTable


class ResnetGenerator(nn.Module):
    """Translate an image through residual blocks at a quarter of its resolution (Zhu et al. 2017).

    A 7-wide convolution, `downsamplings` strided ones that double the features, `num_blocks` residual blocks,
    transposed convolutions back, a 7-wide convolution and tanh; instance normalization, reflected borders. Grids
    that the strides do not divide are padded with their border values and the result cropped back.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: channels of the translation.
        channels: features of the first convolution.
        num_blocks: residual blocks; 9 is the published number for 256 x 256.
        downsamplings: strided convolutions.
        curve: add an `IntensityTable` of the image before tanh; the published network has none.

    Example:
        >>> ResnetGenerator(2, 1, 3, channels=4, num_blocks=1)(torch.zeros(1, 1, 18, 20)).shape
        torch.Size([1, 3, 18, 20])
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        channels: int = 64,
        num_blocks: int = 9,
        downsamplings: int = 2,
        curve: bool = False,
    ) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)
        for name, value in (("in_channels", in_channels), ("out_channels", out_channels), ("channels", channels)):
            check_positive(name, value)
        if num_blocks < 0 or downsamplings < 0:
            raise ValueError(
                f"num_blocks, downsamplings: expected 0 or more, received {num_blocks!r} and {downsamplings!r}"
            )
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.stride = 2**downsamplings
        widths = [channels * 2**level for level in range(downsamplings + 1)]
        layers: list[nn.Module] = [_layer(spatial_dims, in_channels, channels, kernel_size=7)]
        for before, after in pairwise(widths):
            layers.append(_layer(spatial_dims, before, after, stride=2))
        layers += [_ResidualBlock(spatial_dims, widths[-1]) for _ in range(num_blocks)]
        for before, after in pairwise(reversed(widths)):
            layers += [
                Conv[Conv.CONVTRANS, spatial_dims](before, after, kernel_size=3, stride=2, padding=1, output_padding=1),
                Norm[Norm.INSTANCE, spatial_dims](after),
                nn.ReLU(),
            ]
        layers.append(_reflecting(spatial_dims, channels, out_channels, kernel_size=7))
        self.layers = nn.Sequential(*layers)
        self.curve = IntensityTable(spatial_dims, in_channels, out_channels) if curve else None

    def forward(self, image: Tensor) -> Tensor:
        """Translate (B, in_channels, *spatial) in [-1, 1] to (B, out_channels, *spatial) float32 in [-1, 1].

        Raises:
            TypeError, ValueError: if the image does not fit the network.
        """
        check_network_input("image", image, self.spatial_dims, self.in_channels)
        # A 7-wide kernel reflects 3 pixels, and normalization needs two of them at the bottom.
        padded, crop = pad_to_multiple(image, self.stride, minimum=max(4, 2 * self.stride))
        result = crop(self.layers(padded)).float()
        if self.curve is not None:
            result = result + self.curve(image.float())
        return torch.tanh(result)

    if TYPE_CHECKING:
        __call__ = forward


class CycleGAN(TranslationBackbone):
    """Two residual generators and two patch discriminators (Zhu et al. 2017); one of each without `bidirectional`.

    A code is the image itself, and a decoder the whole generator. The term "reconstruction" is CycleGAN's identity
    loss; its published weight is half the cycle's, and RegGAN leaves it out.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the source.
        out_channels: channels of the target.
        bidirectional: whether the target is translated to the source too.
        channels: features of a generator's first convolution.
        num_blocks: residual blocks of a generator.
        downsamplings: strided convolutions of a generator.
        discriminator_channels: features of a discriminator's first convolution.
        discriminator_layers: convolutions of a discriminator after the first.
        conditional: let the discriminator see the image that the assessed one was made from, as Pix2Pix does.
        curve: add a learned intensity curve of the image to every translation; see `ResnetGenerator`.

    Example:
        >>> network = CycleGAN(3, 1, 2, channels=4, num_blocks=1, discriminator_channels=4)
        >>> network(torch.zeros(1, 1, 16, 16, 16)).shape
        torch.Size([1, 2, 16, 16, 16])
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        bidirectional: bool = True,
        channels: int = 64,
        num_blocks: int = 9,
        downsamplings: int = 2,
        discriminator_channels: int = 64,
        discriminator_layers: int = 3,
        conditional: bool = False,
        curve: bool = False,
    ) -> None:
        super().__init__(spatial_dims, in_channels, out_channels, bidirectional)
        self.conditional = conditional
        self.stride = 2**downsamplings
        for domain in self.decoded_domains:
            before, after = self.channels_of(other(domain)), self.channels_of(domain)
            self.decoders[domain] = ResnetGenerator(
                spatial_dims, before, after, channels, num_blocks, downsamplings, curve
            )
            self.discriminators[domain] = ImagePatchDiscriminator(
                spatial_dims,
                before + after if conditional else after,
                discriminator_channels,
                discriminator_layers,
                norm="INSTANCE",
            )

    def encode(self, image: Tensor, domain: Domain) -> Code:
        """The image is its own code."""
        return Code(image)

    def decode(self, code: Code, domain: Domain) -> Tensor:
        """Generate an image of `domain` from an image."""
        result: Tensor = self.decoders[domain](code.content)
        return result


class _ResidualBlock(nn.Module):
    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.first = _layer(spatial_dims, channels, channels)
        self.second = _layer(spatial_dims, channels, channels, activation=False)

    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = features + self.second(self.first(features))
        return result


def _layer(
    spatial_dims: int, before: int, after: int, kernel_size: int = 3, stride: int = 1, activation: bool = True
) -> nn.Sequential:
    layers = [
        _reflecting(spatial_dims, before, after, kernel_size, stride),
        Norm[Norm.INSTANCE, spatial_dims](after),
    ]
    return nn.Sequential(*layers, nn.ReLU()) if activation else nn.Sequential(*layers)


def _reflecting(spatial_dims: int, before: int, after: int, kernel_size: int, stride: int = 1) -> nn.Module:
    """A convolution that reflects at the border, where zeros would draw a frame."""
    result: nn.Module = Conv[Conv.CONV, spatial_dims](
        before, after, kernel_size, stride, padding=kernel_size // 2, padding_mode="reflect"
    )
    return result
