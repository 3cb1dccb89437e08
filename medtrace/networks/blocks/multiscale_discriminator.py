"""Patch discriminators of one image at several scales."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import functional as F

from medtrace.checks import check_positive
from medtrace.networks.blocks.padding import pad_to_multiple
from medtrace.networks.blocks.residual import convolution


class MultiscaleDiscriminator(nn.Module):
    """Assess patches of an image and of its averaged downsampling, each by its own network (Wang et al. 2018).

    A network is strided 4-wide convolutions without normalization, each with a leaky ReLU of slope 0.2 and twice
    the channels of the one before, and a 1-wide convolution to one logit per patch (Huang et al. 2018). Grids
    too small for the coarsest network are padded with their border values.

    Args:
        in_channels: channels of the assessed image.
        channels: filters of the first convolution.
        num_layers: strided convolutions after the first.
        scales: how many networks; each sees the grid of the one before halved by averaging.
        spatial_dims: 2 or 3.

    Raises:
        ValueError: if a size is out of its range.
    """

    def __init__(
        self, in_channels: int, channels: int = 64, num_layers: int = 3, scales: int = 3, spatial_dims: int = 2
    ) -> None:
        super().__init__()
        check_positive("channels", channels)
        check_positive("scales", scales)
        if num_layers < 0:
            raise ValueError(f"num_layers: expected 0 or more strided convolutions, received {num_layers!r}")
        self.minimum = 2 ** (num_layers + scales)  # at the coarsest scale one patch is left
        self.scales = nn.ModuleList(_patches(in_channels, channels, num_layers, spatial_dims) for _ in range(scales))
        self.halved = F.avg_pool2d if spatial_dims == 2 else F.avg_pool3d
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.Conv3d)) and layer.bias is not None:
                nn.init.normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return raw logits (B, 1, *patches) of every scale, the finest first."""
        seen, _ = pad_to_multiple(image, 1, minimum=self.minimum)
        logits = []
        for level, assess in enumerate(self.scales):
            if level:
                seen = self.halved(seen, 3, stride=2, padding=1, count_include_pad=False)
            logits.append(assess(seen))
        return logits

    if TYPE_CHECKING:
        __call__ = forward


def _patches(in_channels: int, channels: int, num_layers: int, spatial_dims: int) -> nn.Sequential:
    """The network of one scale."""
    options: dict[str, Any] = {"stride": 2, "spatial_dims": spatial_dims}
    layers = [convolution(in_channels, channels, 4, activation=nn.LeakyReLU(0.2), **options)]
    for level in range(num_layers):
        wide = channels * 2**level
        layers.append(convolution(wide, 2 * wide, 4, activation=nn.LeakyReLU(0.2), **options))
    return nn.Sequential(*layers, convolution(channels * 2**num_layers, 1, 1, spatial_dims=spatial_dims))
