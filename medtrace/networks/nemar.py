"""NeMAR's networks: a translator, a spatial transformer, and a discriminator that sees the source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from medtrace.checks import check_batched, check_same_grid
from medtrace.fields import warp
from medtrace.networks.blocks import ImagePatchDiscriminator
from medtrace.networks.cyclegan import ResnetGenerator
from medtrace.networks.registration_unet import RegistrationUNet


class NeMAROutput(NamedTuple):
    """A pair, translated and registered in both orders."""

    registered_translation: Tensor
    """(B, out_channels, *spatial): the translation of the source, then warped, R∘T."""
    translated_registration: Tensor
    """(B, out_channels, *spatial): the warped source, then translated, T∘R."""
    ddf: Tensor
    """(B, spatial_dims, *spatial) displacement in voxels, pull, onto the target's grid."""


class NeMAR(nn.Module):
    """Translate a source and bring it onto its target, in both orders, by one field of both images (Arar et al. 2020).

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the source.
        out_channels: channels of the target.
        channels: channels of the translator's first convolution, see `ResnetGenerator`.
        num_blocks: residual blocks of the translator.
        downsamplings: strided convolutions of the translator.
        registration_channels: see `RegistrationUNet`, which reads source and target; the one with fewer channels is
            padded with zeros.
        registration_downsampling: how often the grid of the displacement is halved.
        discriminator_channels: filters of the discriminator's first convolution.
        discriminator_layers: its convolutions after the first.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> network = NeMAR(2, 1, 1, channels=4, num_blocks=1, registration_channels=(4, 8), discriminator_channels=4)
        >>> output = network(torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16))
        >>> output.ddf.shape, bool(output.ddf.any())  # zero before the training
        (torch.Size([1, 2, 16, 16]), False)
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        channels: int = 64,
        num_blocks: int = 9,
        downsamplings: int = 2,
        registration_channels: Sequence[int] = (32, 64, 64, 64, 64, 64, 64),
        registration_downsampling: int = 0,
        discriminator_channels: int = 64,
        discriminator_layers: int = 3,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.translator = ResnetGenerator(spatial_dims, in_channels, out_channels, channels, num_blocks, downsamplings)
        self.registration = RegistrationUNet(
            spatial_dims, max(in_channels, out_channels), registration_channels, registration_downsampling
        )
        self.discriminator = ImagePatchDiscriminator(
            spatial_dims, in_channels + out_channels, discriminator_channels, discriminator_layers, norm="INSTANCE"
        )
        self.stride = self.translator.stride

    def register(self, source: Tensor, target: Tensor) -> Tensor:
        """The displacement of pairs, R(source, target).

        Args:
            source: (B, in_channels, *spatial) in [-1, 1].
            target: (B, out_channels, *spatial) on the same grid.
        """
        check_batched("source", source, channels=self.in_channels)
        check_batched("target", target, channels=self.out_channels)
        check_same_grid("source", source, "target", target)
        return self.registration(*(_filled(image, self.registration.in_channels) for image in (source, target)))

    def forward(self, source: Tensor, target: Tensor) -> NeMAROutput:
        """Translate and register pairs in both orders; arguments as of `register`."""
        ddf = self.register(source, target)
        return NeMAROutput(warp(self.translator(source), ddf), self.translator(warp(source, ddf)), ddf)

    def assess(self, source: Tensor, image: Tensor) -> list[Tensor]:
        """Raw logits of images beside the sources that they were made from."""
        return self.discriminator(torch.cat([source, image], dim=1))

    if TYPE_CHECKING:
        __call__ = forward


def _filled(image: Tensor, channels: int) -> Tensor:
    missing = channels - image.shape[1]
    return torch.cat([image, image.new_zeros(len(image), missing, *image.shape[2:])], dim=1) if missing else image
