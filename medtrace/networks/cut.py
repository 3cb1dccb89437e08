"""CUT's networks: a residual generator whose encoder also gives features of places, heads on them, a discriminator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medtrace.checks import check_positive
from medtrace.networks.blocks import ImagePatchDiscriminator, pad_to_multiple
from medtrace.networks.cyclegan import ResnetGenerator


class PatchHeads(nn.Module):
    """Features at random places of an image, each through two linear layers of its own and scaled to length 1.

    Args:
        widths: channels of the features, one entry per map.
        out_features: width of both layers.

    Example:
        >>> heads = PatchHeads((1, 4), out_features=8)
        >>> maps = [torch.rand(2, 1, 8, 8), torch.rand(2, 4, 4, 4)]
        >>> places = heads.drawn_places(maps, 5)
        >>> [tuple(each.shape) for each in heads(maps, places)]
        [(2, 5, 8), (2, 5, 8)]
    """

    def __init__(self, widths: Sequence[int], out_features: int = 256) -> None:
        super().__init__()
        check_positive("out_features", out_features)
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(width, out_features), nn.ReLU(), nn.Linear(out_features, out_features))
            for width in widths
        )

    @staticmethod
    def drawn_places(maps: Sequence[Tensor], count: int) -> list[Tensor]:
        """`count` different voxels of each map (all of a smaller one), by torch's global generator."""
        return [torch.randperm(feature[0, 0].numel(), device=feature.device)[:count] for feature in maps]

    def forward(self, maps: Sequence[Tensor], places: Sequence[Tensor]) -> list[Tensor]:
        """Return (B, P, out_features) for each map (B, C, *spatial), of its voxels `places`."""
        chosen = [feature.flatten(2)[..., at].transpose(1, 2) for feature, at in zip(maps, places, strict=True)]
        return [F.normalize(head(feature), dim=-1) for head, feature in zip(self.heads, chosen, strict=True)]

    if TYPE_CHECKING:
        __call__ = forward


class CUT(nn.Module):
    """A residual generator, heads on the features of its encoder, and a patch discriminator (Park et al. 2020).

    The features are the image itself and the outputs of each strided convolution, the first and the middle residual
    block: five maps at the published size.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the source.
        out_channels: the same number, since the translation is encoded too.
        channels: features of the generator's first convolution.
        num_blocks: residual blocks of the generator, at least 1.
        downsamplings: strided convolutions of the generator.
        head_features: width of the heads.
        discriminator_channels: features of the discriminator's first convolution.
        discriminator_layers: convolutions of the discriminator after the first.
        curve: add a learned intensity curve; see `ResnetGenerator`.

    Raises:
        ValueError: if source and target have unequal channels, or there is no residual block.

    Example:
        >>> network = CUT(2, 1, 1, channels=4, num_blocks=1, head_features=8, discriminator_channels=4)
        >>> [tuple(each.shape[1:]) for each in network.features(torch.zeros(1, 1, 16, 16))]
        [(1, 16, 16), (8, 8, 8), (16, 4, 4), (16, 4, 4)]
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        channels: int = 64,
        num_blocks: int = 9,
        downsamplings: int = 2,
        head_features: int = 256,
        discriminator_channels: int = 64,
        discriminator_layers: int = 3,
        curve: bool = False,
    ) -> None:
        super().__init__()
        if in_channels != out_channels:
            raise ValueError(
                f"out_channels: expected in_channels={in_channels}, as the generator's encoder reads its own"
                f" translations, received {out_channels}; use a method for unequal channels, such as gcgan or cyclegan"
            )
        check_positive("num_blocks", num_blocks)
        self.generator = ResnetGenerator(
            spatial_dims, in_channels, out_channels, channels, num_blocks, downsamplings, curve
        )
        self.stride = self.generator.stride
        first = downsamplings + 1  # layer of the first residual block
        self.places = tuple(dict.fromkeys([*range(1, first + 1), first + num_blocks // 2]))
        bottom = channels * 2**downsamplings
        widths = [channels * 2**layer if layer < first else bottom for layer in self.places]
        self.heads = PatchHeads((in_channels, *widths), head_features)
        self.discriminator = ImagePatchDiscriminator(
            spatial_dims, out_channels, discriminator_channels, discriminator_layers, norm="INSTANCE"
        )

    def features(self, image: Tensor) -> list[Tensor]:
        """The encoder's features of an image: maps (B, C, *coarse), the image's own grid first."""
        maps = [pad_to_multiple(image, self.stride, minimum=max(4, 2 * self.stride))[0]]
        inner = maps[0]
        for number in range(self.places[-1] + 1):
            inner = self.generator.layers[number](inner)
            if number in self.places:
                maps.append(inner)
        return maps

    def forward(self, source: Tensor) -> Tensor:
        """Translate (B, in_channels, *spatial) to (B, out_channels, *spatial), both in [-1, 1]."""
        result: Tensor = self.generator(source)
        return result

    if TYPE_CHECKING:
        __call__ = forward
