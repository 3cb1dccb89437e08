"""StarGAN v2's networks: one generator of all domains, styles from noise or from an image, and a discriminator."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn
from torch.nn import functional as F

from medtrace.checks import check_network_input, check_positive, check_spatial_dims
from medtrace.networks.blocks import adaptive_instance_norm, pad_to_multiple

SLOPE = 0.2
CENTER = 64
"""Draws of noise whose mean style a translation without a reference takes."""


class StyledBlock(nn.Module):
    """A residual block of two 3-wide convolutions, scaled to keep the features' variance.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the features.
        out_channels: channels of the result.
        style_channels: length of the style that normalizes; 0 normalizes without one; None does not normalize.
        resize: "down" halves the grid by averaging, "up" doubles it by repeating, "" keeps it.
    """

    def __init__(
        self, spatial_dims: int, in_channels: int, out_channels: int, style_channels: int | None, resize: str = ""
    ) -> None:
        super().__init__()
        kind = Conv[Conv.CONV, spatial_dims]
        self.first = kind(in_channels, in_channels if resize == "down" else out_channels, 3, padding=1)
        self.second = kind(self.first.out_channels, out_channels, 3, padding=1)
        self.skip = kind(in_channels, out_channels, 1, bias=False) if in_channels != out_channels else nn.Identity()
        self.resize = resize
        self.style_channels = style_channels
        self.average = F.avg_pool2d if spatial_dims == 2 else F.avg_pool3d
        if style_channels:
            self.scales = nn.ModuleList(
                nn.Linear(style_channels, 2 * width) for width in (in_channels, self.first.out_channels)
            )

    def _normalized(self, features: Tensor, number: int, style: Tensor | None) -> Tensor:
        if self.style_channels is None:
            return features
        if style is None or not self.style_channels:
            return F.instance_norm(features)
        scale, shift = self.scales[number](style).chunk(2, dim=1)
        return adaptive_instance_norm(features, 1 + scale, shift)

    def _resized(self, features: Tensor) -> Tensor:
        if self.resize == "down":
            return self.average(features, 2)
        return F.interpolate(features, scale_factor=2, mode="nearest") if self.resize == "up" else features

    def forward(self, features: Tensor, style: Tensor | None = None) -> Tensor:
        """Return (B, out_channels, *resized) of (B, in_channels, *spatial) and a style (B, style_channels)."""
        inner = F.leaky_relu(self._normalized(features, 0, style), SLOPE)
        # The grid is widest where there are fewer features.
        inner = self.first(self._resized(inner)) if self.resize == "up" else self._resized(self.first(inner))
        inner = self.second(F.leaky_relu(self._normalized(inner, 1, style), SLOPE))
        beside = self.skip(self._resized(features))
        result: Tensor = (inner + beside) / 2**0.5
        return result

    if TYPE_CHECKING:
        __call__ = forward


class StyledGenerator(nn.Module):
    """An image of a style from an image: blocks that halve the grid, two without, two with style, blocks that double.

    Args:
        spatial_dims: 2 or 3.
        image_channels: channels of image and translation.
        channels: features on the image's own grid; they double with each downsampling.
        downsamplings: number of downsampling steps.
        style_channels: length of the style.
    """

    def __init__(
        self, spatial_dims: int, image_channels: int, channels: int, downsamplings: int, style_channels: int
    ) -> None:
        super().__init__()
        kind = Conv[Conv.CONV, spatial_dims]
        widths = [channels * 2**level for level in range(downsamplings + 1)]
        wide = widths[-1]
        self.entry = kind(image_channels, channels, 3, padding=1)
        down = [StyledBlock(spatial_dims, a, b, 0, "down") for a, b in pairwise(widths)]
        self.encoder = nn.ModuleList([*down, *(StyledBlock(spatial_dims, wide, wide, 0) for _ in range(2))])
        up = [StyledBlock(spatial_dims, b, a, style_channels, "up") for a, b in reversed(list(pairwise(widths)))]
        self.decoder = nn.ModuleList([*(StyledBlock(spatial_dims, wide, wide, style_channels) for _ in range(2)), *up])
        self.head = kind(channels, image_channels, 1)

    def forward(self, image: Tensor, style: Tensor) -> Tensor:
        """Return a linear image (B, image_channels, *spatial) of (B, image_channels, *spatial) and (B, S)."""
        features = self.entry(image)
        for block in self.encoder:
            features = block(features)
        for block in self.decoder:
            features = block(features, style)
        result: Tensor = self.head(F.leaky_relu(F.instance_norm(features), SLOPE))
        return result

    if TYPE_CHECKING:
        __call__ = forward


class MappingNetwork(nn.Module):
    """A style of each domain from noise: linear layers that all share, and as many of each domain's own.

    Args:
        noise_channels: length of the noise.
        style_channels: length of the style.
        num_domains: how many.
        hidden_channels: width of the layers.
        depth: number of shared layers, and of each domain's own layers.

    Example:
        >>> MappingNetwork(4, 8, num_domains=2, hidden_channels=8)(torch.zeros(3, 4), 1).shape
        torch.Size([3, 8])
    """

    def __init__(
        self,
        noise_channels: int,
        style_channels: int,
        num_domains: int,
        hidden_channels: int = 512,
        depth: int = 4,
    ) -> None:
        super().__init__()

        def layers(first: int, last: int) -> list[nn.Module]:
            widths = [first, *[hidden_channels] * (depth - 1), last]
            return [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]

        self.shared = nn.Sequential(*layers(noise_channels, hidden_channels))
        self.own = nn.ModuleList(
            nn.Sequential(*layers(hidden_channels, style_channels)[:-1]) for _ in range(num_domains)
        )

    def forward(self, noise: Tensor, domain: int) -> Tensor:
        """Return styles (B, style_channels) of `domain` from noise (B, noise_channels)."""
        result: Tensor = self.own[domain](self.shared(noise))
        return result

    if TYPE_CHECKING:
        __call__ = forward


class DomainHeads(nn.Module):
    """Convolutions down to a vector, and a linear layer of each domain on it: style encoder and discriminator.

    Args:
        spatial_dims: 2 or 3.
        image_channels: channels of the image.
        out_features: features of a domain's layer.
        num_domains: how many.
        channels: features on the image's own grid; they double with each downsampling.
        downsamplings: number of downsampling steps.
    """

    def __init__(
        self,
        spatial_dims: int,
        image_channels: int,
        out_features: int,
        num_domains: int,
        channels: int,
        downsamplings: int,
    ) -> None:
        super().__init__()
        widths = [channels * 2**level for level in range(downsamplings + 1)]
        self.minimum = 2**downsamplings
        self.entry = Conv[Conv.CONV, spatial_dims](image_channels, channels, 3, padding=1)
        self.blocks = nn.ModuleList(StyledBlock(spatial_dims, a, b, None, "down") for a, b in pairwise(widths))
        self.heads = nn.ModuleList(nn.Linear(widths[-1], out_features) for _ in range(num_domains))

    def forward(self, image: Tensor, domain: int) -> Tensor:
        """Return (B, out_features) of an image (B, image_channels, *spatial), by the layer of `domain`."""
        features = self.entry(pad_to_multiple(image, self.minimum)[0])
        for block in self.blocks:
            features = block(features)
        result: Tensor = self.heads[domain](F.leaky_relu(features, SLOPE).flatten(2).mean(2))
        return result

    if TYPE_CHECKING:
        __call__ = forward


class StarGANv2(nn.Module):
    """One generator of two or more domains, steered by styles (Choi et al. 2020).

    Called with a source it gives a translation to domain 1 in that domain's central style: the mean over 64 fixed noise
    samples, so that one image has one translation.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the source.
        out_channels: the same number: one generator has all domains.
        num_domains: number of domains; in a training of pairs the source is 0 and the target 1.
        channels: features of all networks on the image's own grid; they double with each downsampling.
        downsamplings: downsampling steps of the generator.
        assessing_downsamplings: downsampling steps of style encoder and discriminator.
        style_channels: length of a style.
        noise_channels: length of the noise of a style.
        hidden_channels: width of the mapping network.

    Raises:
        ValueError: if source and target have unequal channels, or an argument is outside its range.

    Example:
        >>> network = StarGANv2(2, 1, 1, channels=4, downsamplings=1, style_channels=4, hidden_channels=8)
        >>> network(torch.zeros(1, 1, 18, 20)).shape
        torch.Size([1, 1, 18, 20])
    """

    center: Tensor

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        num_domains: int = 2,
        channels: int = 64,
        downsamplings: int = 4,
        assessing_downsamplings: int = 6,
        style_channels: int = 64,
        noise_channels: int = 16,
        hidden_channels: int = 512,
    ) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)
        for name, value in (("channels", channels), ("downsamplings", downsamplings), ("num_domains", num_domains)):
            check_positive(name, value)
        if in_channels != out_channels:
            raise ValueError(
                f"out_channels: expected in_channels={in_channels}, as one generator has all domains, received"
                f" {out_channels}; use a method for unequal channels, such as gcgan or cyclegan"
            )
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.noise_channels = noise_channels
        self.stride = 2**downsamplings
        sizes = (spatial_dims, in_channels)
        self.generator = StyledGenerator(*sizes, channels, downsamplings, style_channels)
        self.mapping = MappingNetwork(noise_channels, style_channels, num_domains, hidden_channels)
        self.style_encoder = DomainHeads(*sizes, style_channels, num_domains, channels, assessing_downsamplings)
        self.discriminator = DomainHeads(*sizes, 1, num_domains, channels, assessing_downsamplings)
        drawn = torch.randn(CENTER, noise_channels, generator=torch.Generator().manual_seed(0))
        self.register_buffer("center", drawn, persistent=False)
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.Conv3d, nn.Linear)):
                nn.init.kaiming_normal_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def translate(self, image: Tensor, style: Tensor) -> Tensor:
        """An image (B, C, *spatial), float32 in [-1, 1], of a style (B, style_channels)."""
        check_network_input("image", image, self.spatial_dims, self.in_channels)
        # Normalization needs two voxels at the bottom.
        padded, crop = pad_to_multiple(image, self.stride, minimum=2 * self.stride)
        return torch.tanh(crop(self.generator(padded, style)).float())

    def drawn_style(self, count: int, domain: int) -> Tensor:
        """Styles (count, style_channels) of a domain, from noise of torch's global generator."""
        return self.mapping(torch.randn(count, self.noise_channels, device=self.center.device), domain)

    def central_style(self, count: int, domain: int) -> Tensor:
        """The mean style of a domain, (count, style_channels)."""
        return self.mapping(self.center, domain).mean(0).expand(count, -1)

    def forward(self, source: Tensor) -> Tensor:
        """Translate (B, C, *spatial) in [-1, 1] to domain 1, in its central style."""
        return self.translate(source, self.central_style(len(source), 1))

    if TYPE_CHECKING:
        __call__ = forward
