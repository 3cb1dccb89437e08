"""GcGAN's networks: one generator for images and moved images, and a discriminator of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from medtrace.networks.blocks import ImagePatchDiscriminator
from medtrace.networks.cyclegan import ResnetGenerator


class GcGAN(nn.Module):
    """A residual generator G and two patch discriminators (Fu et al. 2019).

    G translates images and images moved by f alike: the paper's second translator shares all its parameters.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the source.
        out_channels: channels of the target.
        channels: features of the generator's first convolution.
        num_blocks: residual blocks of the generator.
        downsamplings: strided convolutions of the generator.
        discriminator_channels: features of a discriminator's first convolution.
        discriminator_layers: convolutions of a discriminator after the first.
        curve: add a learned intensity curve; see `ResnetGenerator`.

    Example:
        >>> import torch
        >>> GcGAN(2, 1, 2, channels=4, num_blocks=1, discriminator_channels=4)(torch.zeros(1, 1, 16, 24)).shape
        torch.Size([1, 2, 16, 24])
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        channels: int = 64,
        num_blocks: int = 9,
        downsamplings: int = 2,
        discriminator_channels: int = 64,
        discriminator_layers: int = 3,
        curve: bool = False,
    ) -> None:
        super().__init__()
        self.generator = ResnetGenerator(
            spatial_dims, in_channels, out_channels, channels, num_blocks, downsamplings, curve
        )
        self.stride = self.generator.stride
        self.discriminators = nn.ModuleDict(
            {
                name: ImagePatchDiscriminator(
                    spatial_dims, out_channels, discriminator_channels, discriminator_layers, norm="INSTANCE"
                )
                for name in ("unmoved", "moved")
            }
        )

    def forward(self, source: Tensor) -> Tensor:
        """Translate (B, in_channels, *spatial) to (B, out_channels, *spatial), both in [-1, 1]."""
        result: Tensor = self.generator(source)
        return result

    if TYPE_CHECKING:
        __call__ = forward
