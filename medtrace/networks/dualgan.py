"""DualGAN's networks: two U-shaped generators that undo each other, and a critic of each domain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from medtrace.checks import check_levels, check_network_input, check_spatial_dims
from medtrace.networks.backbone import Code, Domain, TranslationBackbone, other
from medtrace.networks.blocks import INSTANCE_NORM, Decoder, Encoder, ImagePatchDiscriminator, pad_to_multiple
from medtrace.networks.blocks.intensity_table import IntensityTable

CHANNELS = (64, 128, 256, 512, 512, 512, 512, 512)


class UShapedGenerator(nn.Module):
    """Translate through strided convolutions down, and up again with skip connections, as Pix2Pix's U-Net does.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: channels of the translation.
        channels: features of each downsampling level.
        dropout: probability with which the deepest features are dropped while training.
        curve: add an `IntensityTable` of the image before tanh; the published network has none.

    Example:
        >>> UShapedGenerator(2, 1, 2, channels=(4, 8))(torch.zeros(1, 1, 18, 20)).shape
        torch.Size([1, 2, 18, 20])
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int] = CHANNELS,
        dropout: float = 0.5,
        curve: bool = False,
    ) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)
        check_levels(channels, "channels", 0)
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.stride = 2 ** len(channels)
        self.encoder = Encoder(spatial_dims, in_channels, channels, INSTANCE_NORM)
        self.dropout = nn.Dropout(dropout)
        self.decoder = Decoder(spatial_dims, in_channels, out_channels, channels, INSTANCE_NORM)
        self.curve = IntensityTable(spatial_dims, in_channels, out_channels) if curve else None

    def forward(self, image: Tensor) -> Tensor:
        """Translate (B, in_channels, *spatial) in [-1, 1] to (B, out_channels, *spatial) float32 in [-1, 1].

        Raises:
            TypeError, ValueError: if the image does not fit the network.
        """
        check_network_input("image", image, self.spatial_dims, self.in_channels)
        # At the bottom instance normalization needs two voxels.
        padded, crop = pad_to_multiple(image, self.stride, minimum=2 * self.stride)
        *features, deepest = self.encoder(padded)
        result = crop(self.decoder([*features, self.dropout(deepest)])).float()
        if self.curve is not None:
            result = result + self.curve(image.float())
        return torch.tanh(result)

    if TYPE_CHECKING:
        __call__ = forward


class DualGAN(TranslationBackbone):
    """Two U-shaped generators and two patch critics (Yi et al. 2017). A code is the image itself.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the source.
        out_channels: channels of the target.
        channels: features of each downsampling level of a generator.
        dropout: dropout of a generator's deepest features.
        discriminator_channels: features of a critic's first convolution.
        discriminator_layers: convolutions of a critic after the first.
        critic_norm: normalize a critic's features, image by image; a critic that shall see brightness must not.
        curve: add a learned intensity curve of the image to every translation; see `UShapedGenerator`.

    Example:
        >>> network = DualGAN(2, 1, 2, channels=(4, 8), discriminator_channels=4)
        >>> network(torch.zeros(1, 1, 16, 16)).shape
        torch.Size([1, 2, 16, 16])
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int] = CHANNELS,
        dropout: float = 0.5,
        discriminator_channels: int = 64,
        discriminator_layers: int = 3,
        critic_norm: bool = True,
        curve: bool = False,
    ) -> None:
        super().__init__(spatial_dims, in_channels, out_channels, bidirectional=True)
        self.stride = 2 ** len(channels)
        for domain in self.decoded_domains:
            before, after = self.channels_of(other(domain)), self.channels_of(domain)
            self.decoders[domain] = UShapedGenerator(spatial_dims, before, after, channels, dropout, curve)
            self.discriminators[domain] = ImagePatchDiscriminator(
                spatial_dims, after, discriminator_channels, discriminator_layers, INSTANCE_NORM if critic_norm else ""
            )

    def encode(self, image: Tensor, domain: Domain) -> Code:
        """The image is its own code."""
        return Code(image)

    def decode(self, code: Code, domain: Domain) -> Tensor:
        """Generate an image of `domain` from an image."""
        result: Tensor = self.decoders[domain](code.content)
        return result
