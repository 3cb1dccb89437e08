"""Common parts of the backbones with encoders and decoders: padding, the image's range, and the discriminators."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medtrace.checks import check_network_input, check_positive, check_spatial_dims
from medtrace.networks.backbone import Code, Domain, TranslationBackbone
from medtrace.networks.blocks import MultiscaleDiscriminator, pad_to_multiple


class CodedBackbone(TranslationBackbone):
    """A backbone whose codes are on a coarser grid, with multi-scale discriminators.

    A subclass adds an encoder per domain, which maps a padded image to (content, style or None), and a decoder per
    decoded domain, and implements `decoded`.

    Args:
        spatial_dims: 2, as published, or 3.
        in_channels: channels of the source.
        out_channels: channels of the target.
        bidirectional: whether the target can be translated to the source too.
        downsamplings: downsampling steps from the image's grid to the content's.
        minimum: minimum extent of a padded image.
        discriminator_channels: filters of each discriminator's first convolution.
        discriminator_layers: strided convolutions of each discriminator after the first.
        discriminator_scales: scales that each discriminator assesses.

    Raises:
        ValueError: if an argument is outside its range.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        bidirectional: bool,
        downsamplings: int,
        minimum: int,
        discriminator_channels: int,
        discriminator_layers: int,
        discriminator_scales: int,
    ) -> None:
        check_spatial_dims(spatial_dims)
        super().__init__(spatial_dims, in_channels, out_channels, bidirectional)
        check_positive("in_channels", in_channels)
        check_positive("out_channels", out_channels)
        check_positive("discriminator_channels", discriminator_channels)
        check_count("discriminator_layers", discriminator_layers)
        check_positive("discriminator_scales", discriminator_scales)
        self.stride = 2**downsamplings
        self.minimum = minimum
        for domain in self.decoded_domains:
            self.discriminators[domain] = MultiscaleDiscriminator(
                self.channels_of(domain),
                discriminator_channels,
                discriminator_layers,
                discriminator_scales,
                spatial_dims,
            )

    def encode(self, image: Tensor, domain: Domain) -> Code:
        """Code an image.

        Args:
            image: (B, C, *spatial) of `domain`, in [-1, 1]; a grid that the strides do not divide is padded with its
                border values, and the code keeps its size for `decode`.
            domain: the domain whose encoder is used.

        Raises:
            TypeError: if `image` is not a floating tensor.
            ValueError: if its rank or channels, or the domain, do not fit the backbone.
        """
        padded = self.padded(image, domain)
        content, style = self.encoders[domain](padded)
        return Code(content, style, tuple(image.shape[2:]))

    def padded(self, image: Tensor, domain: Domain) -> Tensor:
        """An image of `domain`, checked, on a grid that the strides divide."""
        _check_domain(domain, self.encoders, "both domains are encoded")
        check_network_input("image", image, self.spatial_dims, self.channels_of(domain))
        return pad_to_multiple(image, self.stride, minimum=self.minimum)[0]

    def decode(self, code: Code, domain: Domain) -> Tensor:
        """Make an image from a code.

        Args:
            code: of either domain; without a style, the prior's mean is taken; without a shape, the image keeps the
                padded grid.
            domain: of the image to make.

        Returns:
            (B, C, *spatial) in [-1, 1], float32 also under autocast.

        Raises:
            ValueError: if the backbone has no decoder of `domain`.
        """
        _check_domain(domain, self.decoders, "build the backbone with bidirectional=True to decode sources")
        return torch.tanh(code.cropped(self.decoded(code, domain)).float())

    def decoded(self, code: Code, domain: Domain) -> Tensor:
        """The decoder's linear output (B, C, *padded) of a code."""
        raise NotImplementedError


def check_count(name: str, value: int) -> None:
    """Check that a count of layers is 0 or more."""
    if value < 0:
        raise ValueError(f"{name}: expected 0 or more, received {value!r}")


def _check_domain(domain: str, networks: nn.ModuleDict, remedy: str) -> None:
    """Check that `networks` has one of `domain`."""
    if domain not in networks:
        raise ValueError(f"domain: expected {' or '.join(map(repr, networks))}, received {domain!r}; {remedy}")
