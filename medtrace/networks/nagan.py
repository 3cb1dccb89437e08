"""NAGAN's networks: a generator, a discriminator of style and one of content."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn
from torch.nn import functional as F

from medtrace.checks import check_positive
from medtrace.networks.blocks import pad_to_multiple
from medtrace.networks.cyclegan import ResnetGenerator


class Assessment(NamedTuple):
    """A discriminator's output for an image."""

    features: list[Tensor]
    """(B, C, *coarse) of each convolution, the shallowest first."""
    logits: Tensor
    """(B, 1, *patches), raw."""


class LayeredDiscriminator(nn.Module):
    """Strided 4-wide convolutions, each with a leaky ReLU, and a 3-wide one to a logit per patch.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        channels: features of the first convolution; they double with each further one.
        num_layers: strided convolutions, at least 1.
        normalized: whether each but the first is normalized per instance. If not, means and standard deviations of the
            features, which are the style, are unchanged.
    """

    def __init__(
        self, spatial_dims: int, in_channels: int, channels: int = 64, num_layers: int = 4, normalized: bool = False
    ) -> None:
        super().__init__()
        check_positive("channels", channels)
        check_positive("num_layers", num_layers)
        kind = Conv[Conv.CONV, spatial_dims]
        self.minimum = 2 ** (num_layers + 1)
        self.normalized = normalized
        widths = [in_channels, *(channels * 2**level for level in range(num_layers))]
        self.layers = nn.ModuleList(kind(before, after, 4, stride=2, padding=1) for before, after in pairwise(widths))
        self.head = kind(widths[-1], 1, 3, padding=1)

    def forward(self, image: Tensor) -> Assessment:
        """Assess an image (B, in_channels, *spatial)."""
        inner, _ = pad_to_multiple(image, 1, minimum=self.minimum)
        features = []
        for number, layer in enumerate(self.layers):
            inner = layer(inner)
            if self.normalized and number:
                inner = F.instance_norm(inner)
            inner = F.leaky_relu(inner, 0.2)
            features.append(inner)
        return Assessment(features, self.head(inner))

    if TYPE_CHECKING:
        __call__ = forward


def gram_matrix(features: Tensor) -> Tensor:
    """Mean products of channels over the grid (Gatys et al. 2016).

    Args:
        features: (B, C, *spatial).

    Returns:
        (B, C, C), float32 also under autocast.

    Example:
        >>> gram_matrix(torch.tensor([[[[1.0, 3.0]], [[2.0, 0.0]]]]))
        tensor([[[5., 1.],
                 [1., 2.]]])
    """
    with torch.autocast(features.device.type, enabled=False):
        flat = features.float().flatten(2)
        return flat @ flat.transpose(1, 2) / flat.shape[2]


def without_style(image: Tensor) -> Tensor:
    """An image with mean 0 and spread 1 per channel, so that a change of brightness and contrast is not seen.

    Example:
        >>> image = torch.rand(1, 1, 8, 8)
        >>> bool(torch.allclose(without_style(image), without_style(0.5 * image - 0.2), atol=1e-3))
        True
    """
    return F.instance_norm(image.float())


class NAGAN(nn.Module):
    """A residual generator, a discriminator of style and one of content (Zhang et al. 2020).

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the source.
        out_channels: the same number: the content discriminator sees both.
        channels: features of the generator's first convolution.
        num_blocks: residual blocks of the generator.
        downsamplings: strided convolutions of the generator.
        discriminator_channels: features of a discriminator's first convolution.
        discriminator_layers: strided convolutions of a discriminator.
        style_layers: shallow layers of the style discriminator whose Gram matrices are aligned.
        curve: add a learned intensity curve; see `ResnetGenerator`.

    Raises:
        ValueError: if source and target have unequal channels, or there are fewer layers than are aligned.

    Example:
        >>> network = NAGAN(2, 1, 1, channels=4, num_blocks=1, discriminator_channels=4, discriminator_layers=2)
        >>> network(torch.zeros(1, 1, 16, 16)).shape, network.style(torch.zeros(1, 1, 16, 16)).logits.shape
        (torch.Size([1, 1, 16, 16]), torch.Size([1, 1, 4, 4]))
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
        discriminator_layers: int = 4,
        style_layers: int = 2,
        curve: bool = False,
    ) -> None:
        super().__init__()
        if in_channels != out_channels:
            raise ValueError(
                f"out_channels: expected in_channels={in_channels}, as one discriminator compares the contents of both,"
                f" received {out_channels}; use a method for unequal channels, such as gcgan or cyclegan"
            )
        if not 1 <= style_layers <= discriminator_layers:
            raise ValueError(
                f"style_layers: expected 1 to discriminator_layers={discriminator_layers}, received {style_layers!r}"
            )
        self.style_layers = style_layers
        self.generator = ResnetGenerator(
            spatial_dims, in_channels, out_channels, channels, num_blocks, downsamplings, curve
        )
        self.stride = self.generator.stride
        sizes = (spatial_dims, in_channels, discriminator_channels, discriminator_layers)
        self.style = LayeredDiscriminator(*sizes)
        self.content = LayeredDiscriminator(*sizes, normalized=True)

    def grams(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Gram matrices of the shallow features of `style`."""
        return [gram_matrix(each) for each in features[: self.style_layers]]

    def forward(self, source: Tensor) -> Tensor:
        """Translate (B, in_channels, *spatial) to (B, out_channels, *spatial), both in [-1, 1]."""
        result: Tensor = self.generator(source)
        return result

    if TYPE_CHECKING:
        __call__ = forward
